//! Group normalisation (Wu & He 2018), with SiLU in the same pass if asked.
//!
//! Each image's channels are parted into groups; x̂ = (x − mean) / √(var + ε) with mean and biased variance over a group's
//! M elements, v = γ·x̂ + β per channel, y = v or v·σ(v). With dv the gradient of v, γ·dv = g, and means over the group:
//! dx = (g − mean(g) − x̂·mean(g·x̂)) / √(var + ε).

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::BLOCK,
    float::{Spread, sums_of},
    fresh::{Blank, Written, fresh},
    op::{self, Array, Op},
    packed::unpack,
    silu,
};

/// Normalises `x` (N, C, …) over each of `groups` groups of adjacent channels, scales by `weight` (C), shifts by `bias`
/// (C), then applies SiLU when `silu`.
///
/// # Errors
/// When the shapes do not fit together, `groups` does not divide C, or there are no values.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    epsilon: f64,
    silu: bool,
) -> Result<Tensor> {
    let channels = x.dims().get(1).copied().unwrap_or(0);
    let fit = weight.dims() == [channels] && bias.dims() == [channels] && groups > 0 && channels.is_multiple_of(groups);
    if !fit || x.elem_count() == 0 {
        bail!(
            "group_norm: input {:?}, weight {:?}, bias {:?} and {groups} groups do not fit",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    op::apply(GroupNorm { groups, epsilon, silu }, [x, weight, bias])
}

#[derive(Clone, Copy)]
struct GroupNorm {
    groups: usize,
    epsilon: f64,
    silu: bool,
}

/// The sizes of an input.
#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    /// Channels of a group.
    group: usize,
    /// Elements of a channel of an image.
    pixels: usize,
}

impl Sizes {
    /// Elements of a group of an image, which lie together.
    fn slab(self) -> usize {
        self.group * self.pixels
    }

    /// Slabs that one parallel task handles.
    fn slabs_a_task(self) -> usize {
        (BLOCK / self.slab()).max(1)
    }

    /// The channels of slab number `slab`.
    fn channels_of(self, slab: usize) -> std::ops::Range<usize> {
        let first = slab * self.group % self.channels;
        first..first + self.group
    }
}

impl GroupNorm {
    fn sizes(&self, x: &Shape) -> Sizes {
        let channels = x.dims()[1];
        Sizes { channels, group: channels / self.groups, pixels: x.dims()[2..].iter().product() }
    }

    #[cfg(any(feature = "cuda", test))]
    fn settings(&self) -> cuda::group_norm::Settings {
        cuda::group_norm::Settings { groups: self.groups, epsilon: self.epsilon, silu: self.silu }
    }

    /// Mean and 1/√(var + ε) of one slab.
    #[inline(always)]
    fn moments<T: Float>(&self, slab: &[T]) -> (T, f64) {
        let spread = Spread::of(slab);
        (T::from_f64(spread.mean), 1.0 / (spread.variance() + self.epsilon).sqrt())
    }
}

impl Op<3> for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let sizes = self.sizes(x.shape);
        let y = fresh(x.data.len(), |y| {
            let slabs = y.par_chunks(sizes.slab()).zip(x.data.par_chunks(sizes.slab())).enumerate();
            let slabs = slabs.with_min_len(sizes.slabs_a_task()).map(|(slab, (y, x))| {
                let (mean, scale) = self.moments(x);
                let planes = y.chunks(sizes.pixels).zip(x.chunks(sizes.pixels)).zip(sizes.channels_of(slab));
                let planes = planes.map(|((y, x), c)| {
                    let (factor, bias) = (T::from_f64(scale) * weight.data[c], bias.data[c]);
                    let v = x.iter().map(move |x| (*x - mean) * factor + bias);
                    if self.silu { y.write(v.map(|v| silu::value(v))) } else { y.write(v) }
                });
                planes.sum::<Written<'_>>()
            });
            slabs.sum()
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        Ok((cuda::group_norm::forward(x, weight, bias, self.settings())?, x.shape().clone()))
    }

    fn gradients(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let packed = op::apply_no_grad(&Gradient { norm: *self, weight, bias }, [x, dy])?;
        unpack(&packed, x.shape(), weight.elem_count())
    }
}

/// (x, dY) to dX, dW and db, packed.
struct Gradient<'a> {
    norm: GroupNorm,
    weight: &'a Tensor,
    bias: &'a Tensor,
}

impl Op<2> for Gradient<'_> {
    const NAME: &'static str = "group_norm's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let (norm, sizes) = (self.norm, self.norm.sizes(x.shape));
        let parameters: Vec<(T, T)> = self.weight.to_vec1()?.into_iter().zip(self.bias.to_vec1()?).collect();
        let packed = fresh(x.data.len() + 2 * sizes.channels, |packed| {
            let (dx, rest) = packed.split_at(x.data.len());
            let slabs = dx.par_chunks(sizes.slab()).zip(x.data.par_chunks(sizes.slab()));
            let slabs = slabs.zip(dy.data.par_chunks(sizes.slab())).enumerate().with_min_len(sizes.slabs_a_task());
            let slabs = slabs.map(|(slab, ((dx, x), dy))| {
                let parameters = &parameters[sizes.channels_of(slab)];
                match norm.silu {
                    true => gradient_of_slab(norm, sizes, parameters, dx, [x, dy], |v, dy| dy * silu::slope(v)),
                    false => gradient_of_slab(norm, sizes, parameters, dx, [x, dy], |_, dy| dy),
                }
            });
            let (written, sums): (Vec<Written<'_>>, Vec<Vec<[f64; 2]>>) = slabs.unzip();
            // Slabs are in order, so their sums are those of image after image, channel after channel.
            let sums = sums.concat();
            let total =
                |c: usize, i: usize| sums.iter().skip(c).step_by(sizes.channels).map(|sums| sums[i]).sum::<f64>();
            let totals = (0..2 * sizes.channels).map(|at| T::from_f64(total(at % sizes.channels, at / sizes.channels)));
            written.into_iter().chain([rest.write(totals)]).sum()
        });
        let shape = packed.len().into();
        Ok((packed, shape))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        let held = [self.weight, self.bias].map(Tensor::storage_and_layout);
        let [weight, bias] = held.each_ref().map(|(storage, layout)| cuda::View::of(storage, layout));
        cuda::group_norm::gradient([x, dy], weight?, bias?, self.norm.settings())
    }
}

/// Writes the dx of one slab; returns Σ dv·x̂ and Σ dv of each channel. `passed`: dv of v and dy.
fn gradient_of_slab<'a, T: Float>(
    norm: GroupNorm,
    sizes: Sizes,
    parameters: &[(T, T)],
    dx: Blank<'a, T>,
    [x, dy]: [&[T]; 2],
    passed: impl Fn(T, T) -> T + Copy,
) -> (Written<'a>, Vec<[f64; 2]>) {
    let (mean, scale) = norm.moments(x);
    let planes = || x.chunks(sizes.pixels).zip(dy.chunks(sizes.pixels)).zip(parameters);
    let sums = planes().map(|((x, dy), &(weight, bias))| {
        let factor = T::from_f64(scale) * weight;
        let [product, total] = sums_of([x, dy], move |[x, dy]| {
            let distance = x - mean;
            let dv = passed(distance * factor + bias, dy);
            [dv * distance, dv]
        });
        [product * scale, total]
    });
    let sums: Vec<[f64; 2]> = sums.collect();
    let [product, total] = [0, 1].map(|i| {
        let weighted = sums.iter().zip(parameters).map(|(sums, (weight, _))| sums[i] * weight.to_f64());
        weighted.sum::<f64>() / sizes.slab() as f64
    });
    // dx = factor·dv − offset − slope·(x − mean)
    let (offset, slope) = (T::from_f64(total * scale), T::from_f64(product * scale * scale));
    let written = dx.chunks(sizes.pixels).zip(planes()).map(|(dx, ((x, dy), &(weight, bias)))| {
        let factor = T::from_f64(scale) * weight;
        dx.write(x.iter().zip(dy).map(move |(x, dy)| {
            let distance = *x - mean;
            factor * passed(distance * factor + bias, *dy) - offset - slope * distance
        }))
    });
    (written.sum(), sums)
}
