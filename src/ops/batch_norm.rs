//! Batch normalisation (Ioffe & Szegedy 2015) over (N, C, H, W), with an optional ReLU in the same pass.
//!
//! x̂ = (x − mean) / √(var + ε); y = γ·x̂ + β, per channel. With batch statistics (M = N·H·W elements a channel) the
//! gradient is dx = γ/√(var + ε) · (dy − mean(dy) − x̂·mean(dy·x̂)); with given statistics only its first term remains.
//! candle's version is some fifteen tensor operations, whose backward takes tens of times as long as PyTorch's.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Float, by_float, elements, sum, sum_of};

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
    x.contiguous()?.apply_op1_no_bwd(&Moments)
}

/// Normalises `x` (N, C, H, W) with `moments` (2, C), scales by `weight` (C), shifts by `bias` (C), then ReLU if asked.
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
    relu: bool,
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
    let moments = moments.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
    let [mean, variance] = <[Vec<f64>; 2]>::try_from(moments).unwrap_or_default();
    let scale = variance.iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect();
    let op = BatchNorm { mean, scale, statistics, relu };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// The planes of channel `c`, image after image.
fn channel<T>(x: &[T], c: usize, channels: usize, pixels: usize) -> impl Iterator<Item = &[T]> {
    x.chunks_exact(pixels).skip(c).step_by(channels)
}

struct Moments;

impl Moments {
    fn run<T: Float>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (images, channels, height, width) = layout.shape().dims4()?;
        let (x, pixels) = (elements::<T>(x, layout)?, height * width);
        let count = (images * pixels) as f64;
        let each = (0..channels).into_par_iter().map(|c| {
            let mean = channel(x, c, channels, pixels).map(sum).sum::<f64>() / count;
            let squares = |plane| sum_of(plane, |value: T| (value.to_f64() - mean) * (value.to_f64() - mean));
            (mean, channel(x, c, channels, pixels).map(squares).sum::<f64>() / count)
        });
        let (mean, variance): (Vec<f64>, Vec<f64>) = each.unzip();
        let both = mean.into_iter().chain(variance).map(T::from_f64).collect();
        Ok((T::to_cpu_storage_owned(both), (2, channels).into()))
    }
}

impl CustomOp1 for Moments {
    fn name(&self) -> &'static str {
        "batch_norm's moments"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.run(x, layout))
    }
}

#[derive(Debug, Clone)]
struct BatchNorm {
    mean: Vec<f64>,
    /// 1/√(var + ε)
    scale: Vec<f64>,
    statistics: Statistics,
    relu: bool,
}

impl BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn run<T: Float>(
        &self,
        (x, xl): (&CpuStorage, &Layout),
        (weight, wl): (&CpuStorage, &Layout),
        (bias, bl): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (_, channels, height, width) = xl.shape().dims4()?;
        let (x, weight, bias) = (elements::<T>(x, xl)?, elements::<T>(weight, wl)?, elements::<T>(bias, bl)?);
        let mut y = vec![T::zero(); x.len()];
        let planes = y.par_chunks_mut(height * width).zip(x.par_chunks(height * width)).enumerate();
        planes.with_min_len(16).for_each(|(plane, (y, x))| {
            let c = plane % channels;
            let (mean, factor) = (T::from_f64(self.mean[c]), T::from_f64(self.scale[c]) * weight[c]);
            for (y, x) in y.iter_mut().zip(x) {
                let value = (*x - mean) * factor + bias[c];
                *y = if self.relu && value < T::zero() { T::zero() } else { value };
            }
        });
        Ok((T::to_cpu_storage_owned(y), xl.shape().clone()))
    }

    /// The gradient that passes the ReLU, if there is one.
    fn passed<T: Float>(&self, dy: T, y: T) -> T {
        if self.relu && y <= T::zero() { T::zero() } else { dy }
    }

    /// Per channel: Σ dy and Σ dy·x̂, the gradients of bias and weight.
    fn sums<T: Float>(&self, x: &[T], y: &[T], dy: &[T], channels: usize, pixels: usize) -> (Vec<f64>, Vec<f64>) {
        let each = (0..channels).into_par_iter().map(|c| {
            let planes = channel(x, c, channels, pixels).zip(channel(y, c, channels, pixels));
            let (mut total, mut product) = (0.0, 0.0);
            for ((x, y), dy) in planes.zip(channel(dy, c, channels, pixels)) {
                let (mut totals, mut products) = ([0.0; 4], [0.0; 4]);
                for ((x, y), dy) in x.chunks(4).zip(y.chunks(4)).zip(dy.chunks(4)) {
                    for (lane, ((x, y), dy)) in x.iter().zip(y).zip(dy).enumerate() {
                        let dy = self.passed(*dy, *y).to_f64();
                        totals[lane] += dy;
                        products[lane] += dy * (x.to_f64() - self.mean[c]);
                    }
                }
                total += totals.iter().sum::<f64>();
                product += products.iter().sum::<f64>();
            }
            (total, product * self.scale[c])
        });
        each.unzip()
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.run((x, xl), (w, wl), (b, bl)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let sums = x.apply_op3_no_bwd(y, &dy, &Sums(self))?;
        let bias_gradient = sums.narrow(0, 0, 1)?.squeeze(0)?;
        let weight_gradient = sums.narrow(0, 1, 1)?.squeeze(0)?;
        let count = (x.elem_count() / weight.elem_count().max(1)) as f64;
        let to_f64 = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
        // dx = factor·(dy − offset − slope·(x − mean)), with offset and slope 0 for given statistics.
        let factor = to_f64(weight)?.iter().zip(&self.scale).map(|(weight, scale)| weight * scale).collect();
        let through_moments = if self.statistics == Statistics::Batch { 1.0 / count } else { 0.0 };
        let offset = to_f64(&bias_gradient)?.iter().map(|sum| sum * through_moments).collect();
        let slope = to_f64(&weight_gradient)?.into_iter().zip(&self.scale);
        let slope = slope.map(|(sum, scale)| sum * scale * through_moments).collect();
        let dx = x.apply_op3_no_bwd(y, &dy, &InputGradient { norm: self, factor, offset, slope })?;
        Ok((Some(dx), Some(weight_gradient), Some(bias_gradient)))
    }
}

/// (x, y, dY) to (2, C): the gradients of bias and weight.
struct Sums<'a>(&'a BatchNorm);

impl Sums<'_> {
    fn run<T: Float>(
        &self,
        (x, xl): (&CpuStorage, &Layout),
        (y, yl): (&CpuStorage, &Layout),
        (dy, dyl): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (_, channels, height, width) = xl.shape().dims4()?;
        let (x, y, dy) = (elements::<T>(x, xl)?, elements::<T>(y, yl)?, elements::<T>(dy, dyl)?);
        let (totals, products) = self.0.sums(x, y, dy, channels, height * width);
        let both = totals.into_iter().chain(products).map(T::from_f64).collect();
        Ok((T::to_cpu_storage_owned(both), (2, channels).into()))
    }
}

impl CustomOp3 for Sums<'_> {
    fn name(&self) -> &'static str {
        "batch_norm's weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        y: &CpuStorage,
        yl: &Layout,
        dy: &CpuStorage,
        dyl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.run((x, xl), (y, yl), (dy, dyl)))
    }
}

/// (x, y, dY) to dX.
struct InputGradient<'a> {
    norm: &'a BatchNorm,
    factor: Vec<f64>,
    offset: Vec<f64>,
    slope: Vec<f64>,
}

impl InputGradient<'_> {
    fn run<T: Float>(
        &self,
        (x, xl): (&CpuStorage, &Layout),
        (y, yl): (&CpuStorage, &Layout),
        (dy, dyl): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (_, channels, height, width) = xl.shape().dims4()?;
        let pixels = height * width;
        let (x, y, dy) = (elements::<T>(x, xl)?, elements::<T>(y, yl)?, elements::<T>(dy, dyl)?);
        let mut dx = vec![T::zero(); x.len()];
        let planes = dx.par_chunks_mut(pixels).zip(x.par_chunks(pixels)).zip(y.par_chunks(pixels));
        planes.zip(dy.par_chunks(pixels)).enumerate().with_min_len(16).for_each(|(plane, (((dx, x), y), dy))| {
            let c = plane % channels;
            let [mean, factor, offset, slope] =
                [self.norm.mean[c], self.factor[c], self.offset[c], self.slope[c]].map(T::from_f64);
            for (((dx, x), y), dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                *dx = factor * (self.norm.passed(*dy, *y) - offset - slope * (*x - mean));
            }
        });
        Ok((T::to_cpu_storage_owned(dx), xl.shape().clone()))
    }
}

impl CustomOp3 for InputGradient<'_> {
    fn name(&self) -> &'static str {
        "batch_norm's input gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        y: &CpuStorage,
        yl: &Layout,
        dy: &CpuStorage,
        dyl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.run((x, xl), (y, yl), (dy, dyl)))
    }
}
