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
    activation::{Curve, with_curve},
    elementwise::BLOCK,
    float::{Spread, sums_of},
    fresh::{Blank, Written, fresh},
    op::{self, Array, Op},
    packed::unpack,
};

/// Which mean and variance normalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// `moments` are those of this very input: the gradient flows through them.
    Batch,
    /// `moments` are constants, such as running averages: in evaluation, and in training with frozen statistics.
    Given,
}

/// Mean and biased variance of each channel of `x` (N, C, H, W): (2, C), without gradient.
///
/// # Errors
/// When there are no values.
pub fn moments(x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 {
        bail!("batch_norm: the moments of an input of shape {:?} are undefined", x.dims());
    }
    op::apply_no_grad(&Moments, [x])
}

/// Normalises `x` (N, C, H, W) with `moments` (2, C), scales by `weight` (C), shifts by `bias` (C), then `activation`.
///
/// # Errors
/// When the shapes do not fit together, or there are no values.
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
    let fit = weight.dims() == [channels] && bias.dims() == [channels] && moments.dims() == [2, channels];
    if !fit || x.elem_count() == 0 {
        bail!(
            "batch_norm: input {:?}, weight {:?}, bias {:?} and moments {:?} do not fit",
            x.dims(),
            weight.dims(),
            bias.dims(),
            moments.dims()
        );
    }
    activation.check()?;
    let op = BatchNorm { moments: moments.detach().contiguous()?, statistics, epsilon, activation };
    op::apply(op, [x, weight, bias])
}

/// Planes of `pixels` elements that one parallel task handles.
fn planes_a_task(pixels: usize) -> usize {
    (BLOCK / pixels).max(1)
}

struct Moments;

impl Op<1> for Moments {
    const NAME: &'static str = "batch_norm's moments";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (_, channels, height, width) = x.shape.dims4()?;
        let pixels = height * width;
        let planes = x.data.par_chunks(pixels).with_min_len(planes_a_task(pixels));
        let planes: Vec<Spread> = planes.map(|plane| Spread::of(plane)).collect();
        let channel = |c| planes.iter().skip(c).step_by(channels).copied().fold(Spread::default(), Spread::and);
        let (mean, variance): (Vec<f64>, Vec<f64>) = (0..channels).map(channel).map(|s| (s.mean, s.variance())).unzip();
        Ok((mean.into_iter().chain(variance).map(T::from_f64).collect(), (2, channels).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        cuda::batch_norm::moments(x)
    }
}

struct BatchNorm {
    /// (2, C)
    moments: Tensor,
    statistics: Statistics,
    epsilon: f64,
    activation: Activation,
}

/// What happens to one channel: y = (x − mean)·factor + bias.
#[derive(Clone, Copy)]
struct Channel<T> {
    mean: T,
    /// γ/√(var + ε)
    factor: T,
    bias: T,
    /// 1/√(var + ε)
    scale: f64,
}

impl BatchNorm {
    fn channels<T: Float>(&self, weight: &[T], bias: &[T]) -> Result<Vec<Channel<T>>> {
        let [mean, variance] = [0, 1].map(|row| self.moments.get(row)?.to_dtype(DType::F64)?.to_vec1::<f64>());
        let moments = mean?.into_iter().zip(variance?);
        let channels = moments.zip(weight.iter().zip(bias)).map(|((mean, variance), (weight, bias))| {
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            Channel { mean: T::from_f64(mean), factor: T::from_f64(scale) * *weight, bias: *bias, scale }
        });
        Ok(channels.collect())
    }
}

impl BatchNorm {
    /// 1 / (N·H·W) where the gradient flows through the moments, else 0.
    fn through_moments(&self, channels: usize, x: &Shape) -> f64 {
        match self.statistics {
            Statistics::Batch => channels as f64 / x.elem_count() as f64,
            Statistics::Given => 0.0,
        }
    }

    #[cfg(any(feature = "cuda", test))]
    fn settings(&self) -> cuda::batch_norm::Settings {
        cuda::batch_norm::Settings { epsilon: self.epsilon, activation: self.activation }
    }
}

impl Op<3> for BatchNorm {
    const NAME: &'static str = "batch_norm";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, _, height, width) = x.shape.dims4()?;
        let (pixels, channels) = (height * width, self.channels(weight.data, bias.data)?);
        let y = fresh(x.data.len(), |y| {
            let planes = y.par_chunks(pixels).zip(x.data.par_chunks(pixels)).enumerate();
            let planes = planes.with_min_len(planes_a_task(pixels)).map(|(plane, (y, x))| {
                let Channel { mean, factor, bias, .. } = channels[plane % channels.len()];
                with_curve!(self.activation, curve => {
                    y.write(x.iter().map(move |x| curve.value((*x - mean) * factor + bias)))
                })
            });
            planes.sum()
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let (storage, layout) = self.moments.storage_and_layout();
        let moments = cuda::View::of(&storage, layout)?;
        Ok((cuda::batch_norm::forward(x, weight, bias, moments, self.settings())?, x.shape().clone()))
    }

    fn gradients(&self, [x, weight, bias]: [&Tensor; 3], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let packed = op::apply_no_grad(&Gradient { norm: self, weight, bias }, [x, y, dy])?;
        unpack(&packed, x.shape(), weight.elem_count())
    }
}

/// (x, y, dY) to dX, dW and db, packed.
///
/// On the CPU, whether the activation lets a gradient pass is computed again from x, so that y need not be read.
struct Gradient<'a> {
    norm: &'a BatchNorm,
    weight: &'a Tensor,
    bias: &'a Tensor,
}

/// What a parallel task has of one image: dx to write, x and dy of some adjacent channels.
type Slab<'a, 'b, T> = (Blank<'a, T>, &'b [T], &'b [T]);

impl Op<3> for Gradient<'_> {
    const NAME: &'static str = "batch_norm's gradient";

    fn cpu<T: Float>(&self, [x, _, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, channels, height, width) = x.shape.dims4()?;
        let pixels = height * width;
        let each = self.norm.channels(&self.weight.to_vec1::<T>()?, &self.bias.to_vec1::<T>()?)?;
        // A task takes some channels of all images, so that its second pass finds them in the cache; as many as fill a
        // page where a plane is small. How many does not change the bits.
        let group = (1024 / pixels).clamp(1, channels.div_ceil(8));
        let (image, slab) = (channels * pixels, group * pixels);
        let packed = fresh(x.data.len() + 2 * channels, |packed| {
            let (dx, parameters) = packed.split_at(x.data.len());
            let mut tasks: Vec<Vec<Slab<'_, '_, T>>> = (0..channels.div_ceil(group)).map(|_| Vec::new()).collect();
            for ((dx, x), dy) in dx.chunks(image).zip(x.data.chunks(image)).zip(dy.data.chunks(image)) {
                let slabs = dx.chunks(slab).zip(x.chunks(slab)).zip(dy.chunks(slab));
                tasks.iter_mut().zip(slabs).for_each(|(task, ((dx, x), dy))| task.push((dx, x, dy)));
            }
            let through_moments = self.norm.through_moments(channels, x.shape);
            let tasks = tasks.into_par_iter().zip(each.par_chunks(group)).map(|(slabs, channels)| {
                with_curve!(self.norm.activation, curve => {
                    gradient_of_channels(curve, through_moments, channels, pixels, slabs)
                })
            });
            let (written, sums): (Vec<Written<'_>>, Vec<Vec<[f64; 2]>>) = tasks.unzip();
            let sums = sums.concat();
            let weight = sums.iter().zip(&each).map(|([_, product], channel)| product * channel.scale);
            let parameters = parameters.write(weight.chain(sums.iter().map(|[total, _]| *total)).map(T::from_f64));
            written.into_iter().chain([parameters]).sum()
        });
        let shape = packed.len().into();
        Ok((packed, shape))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, inputs: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let held = [&self.norm.moments, self.weight].map(Tensor::storage_and_layout);
        let [moments, weight] = held.each_ref().map(|(storage, layout)| cuda::View::of(storage, layout));
        let through_moments = self.norm.through_moments(self.weight.elem_count(), inputs[0].shape());
        cuda::batch_norm::gradient(inputs, weight?, moments?, through_moments, self.norm.settings())
    }
}

/// Writes the dx of some adjacent channels in all images; returns Σ dy and Σ dy·(x − mean) of each channel.
fn gradient_of_channels<'a, T: Float>(
    curve: impl Curve,
    through_moments: f64,
    channels: &[Channel<T>],
    pixels: usize,
    slabs: Vec<Slab<'a, '_, T>>,
) -> (Written<'a>, Vec<[f64; 2]>) {
    let passed = move |channel: Channel<T>, distance: T, dy: T| {
        curve.gradient(curve.value(distance * channel.factor + channel.bias), dy)
    };
    let mut sums = vec![[0.0; 2]; channels.len()];
    for (_, x, dy) in &slabs {
        for ((sums, &channel), (x, dy)) in sums.iter_mut().zip(channels).zip(x.chunks(pixels).zip(dy.chunks(pixels))) {
            let [total, product] = sums_of([x, dy], move |[x, dy]| {
                let distance = x - channel.mean;
                let dy = passed(channel, distance, dy);
                [dy, dy * distance]
            });
            *sums = [sums[0] + total, sums[1] + product];
        }
    }
    let written = slabs.into_iter().flat_map(|(dx, x, dy)| {
        let planes = dx.chunks(pixels).zip(x.chunks(pixels)).zip(dy.chunks(pixels));
        planes.zip(channels.iter().zip(&sums)).map(|(((dx, x), dy), (&channel, [total, product]))| {
            let offset = T::from_f64(total * through_moments);
            let slope = T::from_f64(product * channel.scale * channel.scale * through_moments);
            dx.write(x.iter().zip(dy).map(move |(x, dy)| {
                let distance = *x - channel.mean;
                channel.factor * (passed(channel, distance, *dy) - offset - slope * distance)
            }))
        })
    });
    (written.sum(), sums)
}
