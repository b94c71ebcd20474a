//! Batch normalisation (Ioffe & Szegedy 2015) over (N, C, H, W), with an activation in the same pass.
//!
//! x̂ = (x − mean) / √(var + ε); y = γ·x̂ + β, per channel. With batch statistics (M = N·H·W elements a channel) the
//! gradient is dx = γ/√(var + ε) · (dy − mean(dy) − x̂·mean(dy·x̂)); with given statistics only its first term remains.
//! candle's version is some fifteen tensor operations, whose backward takes tens of times as long as PyTorch's.

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Activation, Float,
    op::{self, Array, Op},
    sum, sum_of,
};

/// Which mean and variance normalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// `moments` are those of this very input: the gradient flows through them.
    Batch,
    /// `moments` are constants, such as running averages.
    Given,
}

/// Mean and biased variance of each channel of `x` (N, C, H, W): (2, C), without gradient.
pub fn moments(x: &Tensor) -> Result<Tensor> {
    op::apply_no_grad(&Moments, [x])
}

/// Normalises `x` (N, C, H, W) with `moments` (2, C), scales by `weight` (C), shifts by `bias` (C), then `activation`.
///
/// # Errors
/// When the shapes do not fit together.
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: &Tensor,
    statistics: Statistics,
    epsilon: f64,
    activation: Activation,
) -> Result<Tensor> {
    let channels = x.dims4()?.1;
    if weight.dims() != [channels] || bias.dims() != [channels] || moments.dims() != [2, channels] {
        bail!(
            "batch_norm: input {:?}, weight {:?}, bias {:?} and moments {:?} do not fit",
            x.dims(),
            weight.dims(),
            bias.dims(),
            moments.dims()
        );
    }
    let moments = moments.detach().contiguous()?;
    op::apply(BatchNorm { moments, epsilon, statistics, activation }, [x, weight, bias])
}

/// The planes of channel `c`, image after image.
fn channel<T>(x: &[T], c: usize, channels: usize, pixels: usize) -> impl Iterator<Item = &[T]> {
    x.chunks_exact(pixels).skip(c).step_by(channels)
}

struct Moments;

impl Op<1> for Moments {
    const NAME: &'static str = "batch_norm's moments";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, height, width) = x.shape.dims4()?;
        let pixels = height * width;
        let count = (images * pixels) as f64;
        let each = (0..channels).into_par_iter().map(|c| {
            let mean = channel(x.data, c, channels, pixels).map(sum).sum::<f64>() / count;
            let squares = |plane| sum_of(plane, |value: T| (value.to_f64() - mean) * (value.to_f64() - mean));
            (mean, channel(x.data, c, channels, pixels).map(squares).sum::<f64>() / count)
        });
        let (mean, variance): (Vec<f64>, Vec<f64>) = each.unzip();
        Ok((mean.into_iter().chain(variance).map(T::from_f64).collect(), (2, channels).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        cuda::batch_norm::moments(x)
    }
}

#[derive(Debug, Clone)]
struct BatchNorm {
    /// (2, C)
    moments: Tensor,
    epsilon: f64,
    statistics: Statistics,
    activation: Activation,
}

impl BatchNorm {
    /// Mean and 1/√(var + ε) of each channel.
    fn mean_and_scale(&self) -> Result<[Vec<f64>; 2]> {
        let [mean, variance] = rows(&self.moments)?;
        Ok([mean, variance.iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt()).collect()])
    }

    #[cfg(any(feature = "cuda", test))]
    fn settings(&self) -> cuda::batch_norm::Settings {
        cuda::batch_norm::Settings { epsilon: self.epsilon, activation: self.activation }
    }
}

/// The two rows of a (2, C) tensor.
fn rows(tensor: &Tensor) -> Result<[Vec<f64>; 2]> {
    Ok(<[Vec<f64>; 2]>::try_from(tensor.to_dtype(DType::F64)?.to_vec2()?).unwrap_or_default())
}

impl Op<3> for BatchNorm {
    const NAME: &'static str = "batch_norm";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, channels, height, width) = x.shape.dims4()?;
        let [means, scales] = self.mean_and_scale()?;
        let mut y = vec![T::zero(); x.data.len()];
        let planes = y.par_chunks_mut(height * width).zip(x.data.par_chunks(height * width)).enumerate();
        planes.with_min_len(16).for_each(|(plane, (y, x))| {
            let c = plane % channels;
            let (mean, factor) = (T::from_f64(means[c]), T::from_f64(scales[c]) * weight.data[c]);
            self.activation.specialised(|activation| {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = activation.value((*x - mean) * factor + bias.data[c]);
                }
            });
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let (storage, layout) = self.moments.storage_and_layout();
        let moments = cuda::View::of(&storage, layout)?;
        Ok((cuda::batch_norm::forward(x, weight, bias, moments, self.settings())?, x.shape().clone()))
    }

    fn gradients(&self, [x, weight, _]: [&Tensor; 3], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let sums = op::apply_no_grad(&Sums(self), [x, y, dy])?;
        let bias_gradient = sums.narrow(0, 0, 1)?.squeeze(0)?;
        let weight_gradient = sums.narrow(0, 1, 1)?.squeeze(0)?;
        let dx = op::apply_no_grad(&InputGradient { norm: self, weight, sums: &sums }, [x, y, dy])?;
        Ok([Some(dx), Some(weight_gradient), Some(bias_gradient)])
    }
}

/// (x, y, dY) to (2, C): Σ dy and Σ dy·x̂, the gradients of bias and weight.
struct Sums<'a>(&'a BatchNorm);

impl Op<3> for Sums<'_> {
    const NAME: &'static str = "batch_norm's weight gradient";

    fn cpu<T: Float>(&self, [x, y, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, channels, height, width) = x.shape.dims4()?;
        let pixels = height * width;
        let [mean, scale] = self.0.mean_and_scale()?;
        let each = (0..channels).into_par_iter().map(|c| {
            let planes = channel(x.data, c, channels, pixels).zip(channel(y.data, c, channels, pixels));
            let (mut total, mut product) = (0.0, 0.0);
            for ((x, y), dy) in planes.zip(channel(dy.data, c, channels, pixels)) {
                let (mut totals, mut products) = ([0.0; 4], [0.0; 4]);
                for ((x, y), dy) in x.chunks(4).zip(y.chunks(4)).zip(dy.chunks(4)) {
                    for (lane, ((x, y), dy)) in x.iter().zip(y).zip(dy).enumerate() {
                        let dy = self.0.activation.gradient(*y, *dy).to_f64();
                        totals[lane] += dy;
                        products[lane] += dy * (x.to_f64() - mean[c]);
                    }
                }
                total += totals.iter().sum::<f64>();
                product += products.iter().sum::<f64>();
            }
            (total, product * scale[c])
        });
        let (totals, products): (Vec<f64>, Vec<f64>) = each.unzip();
        Ok((totals.into_iter().chain(products).map(T::from_f64).collect(), (2, channels).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, y, dy]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let (storage, layout) = self.0.moments.storage_and_layout();
        cuda::batch_norm::gradient_sums(x, y, dy, cuda::View::of(&storage, layout)?, self.0.settings())
    }
}

/// (x, y, dY) to dX.
struct InputGradient<'a> {
    norm: &'a BatchNorm,
    weight: &'a Tensor,
    /// Those of [`Sums`].
    sums: &'a Tensor,
}

impl InputGradient<'_> {
    /// 1 / (N·H·W) where the gradient flows through the moments, else 0.
    fn share(&self, shape: &Shape) -> f64 {
        match self.norm.statistics {
            Statistics::Batch => self.weight.elem_count() as f64 / shape.elem_count() as f64,
            Statistics::Given => 0.0,
        }
    }
}

impl Op<3> for InputGradient<'_> {
    const NAME: &'static str = "batch_norm's input gradient";

    fn cpu<T: Float>(&self, [x, y, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, channels, height, width) = x.shape.dims4()?;
        let pixels = height * width;
        let ([means, scales], [sums, products], share) =
            (self.norm.mean_and_scale()?, rows(self.sums)?, self.share(x.shape));
        let weights = self.weight.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let mut dx = vec![T::zero(); x.data.len()];
        let inputs = x.data.par_chunks(pixels).zip(y.data.par_chunks(pixels)).zip(dy.data.par_chunks(pixels));
        let planes = dx.par_chunks_mut(pixels).zip(inputs).enumerate();
        planes.with_min_len(16).for_each(|(plane, (dx, ((x, y), dy)))| {
            let c = plane % channels;
            let constants = [means[c], weights[c] * scales[c], sums[c] * share, products[c] * share * scales[c]];
            let [mean, factor, offset, slope] = constants.map(T::from_f64);
            self.norm.activation.specialised(|activation| {
                for (((dx, x), y), dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                    *dx = factor * (activation.gradient(*y, *dy) - offset - slope * (*x - mean));
                }
            });
        });
        Ok((dx, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, inputs: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let [(moments, ml), (weight, wl), (sums, sl)] =
            [&self.norm.moments, self.weight, self.sums].map(Tensor::storage_and_layout);
        let (moments, weight, sums) =
            (cuda::View::of(&moments, ml)?, cuda::View::of(&weight, wl)?, cuda::View::of(&sums, sl)?);
        let (share, shape) = (self.share(inputs[0].shape()), inputs[0].shape().clone());
        let settings = self.norm.settings();
        Ok((cuda::batch_norm::input_gradient(inputs, weight, moments, sums, share, settings)?, shape))
    }
}
