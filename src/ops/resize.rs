//! Resizing images with a gradient, as PyTorch's `interpolate`.
//!
//! Both kinds are products of two linear maps, one along columns and one along rows, each with at most two inputs for an
//! output; the gradient is the transpose. candle has no gradient for bilinear resizing, and its gradient for nearest
//! neighbours overwrites what other consumers of the input had added.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::BLOCK,
    fresh::fresh,
    op::{self, Array, Op},
    wide::wide,
};

/// How an output pixel is made from input pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The input pixel at ⌊i·size/new size⌋ (exactly; PyTorch computes this in single precision).
    Nearest,
    /// Of the four nearest, weighted by distance.
    Bilinear,
}

/// `x` (N, C, H, W) resized to `size` (H', W'), by any factor up or down; no low-pass filter when down.
///
/// With `align_corners` the centres of the corner pixels stay where they are, otherwise the corners of the image (PyTorch's
/// default); it has no meaning for [`Interpolation::Nearest`].
///
/// # Errors
/// When there are no values in or out, or `align_corners` is asked of nearest neighbours.
pub fn resize(x: &Tensor, size: (usize, usize), interpolation: Interpolation, align_corners: bool) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if x.elem_count() == 0 || size.0 == 0 || size.1 == 0 {
        bail!("resize: an input of shape {:?} cannot become {size:?}", x.dims());
    }
    if align_corners && interpolation == Interpolation::Nearest {
        bail!("resize: align_corners has no meaning for nearest neighbours");
    }
    let axis = |size, new| Axis { size, new, interpolation, align_corners };
    op::apply(Resize { rows: axis(height, size.0), columns: axis(width, size.1) }, [x])
}

/// One axis, from `size` to `new` pixels.
#[derive(Debug, Clone, Copy)]
struct Axis {
    size: usize,
    new: usize,
    interpolation: Interpolation,
    align_corners: bool,
}

/// The inputs of one output: `below` and `above`, which has this `weight`.
struct Taps<T> {
    below: usize,
    above: usize,
    weight: T,
}

impl Axis {
    fn taps<T: Float>(&self) -> Vec<Taps<T>> {
        let (size, new) = (self.size as f64, self.new as f64);
        let taps = (0..self.new).map(|i| {
            let place = match (self.interpolation, self.align_corners) {
                (Interpolation::Nearest, _) => (i as u128 * self.size as u128 / self.new as u128) as f64,
                (Interpolation::Bilinear, true) if self.new > 1 => i as f64 * ((size - 1.0) / (new - 1.0)),
                (Interpolation::Bilinear, true) => 0.0,
                (Interpolation::Bilinear, false) => ((i as f64 + 0.5) * (size / new) - 0.5).max(0.0),
            };
            let below = (place as usize).min(self.size - 1);
            let above = (below + 1).min(self.size - 1);
            Taps { below, above, weight: T::from_f64((place - below as f64).clamp(0.0, 1.0)) }
        });
        taps.collect()
    }
}

/// Along columns first, into a plane of H rows and W' columns, then along rows, where loops run over adjacent pixels.
#[derive(Debug, Clone, Copy)]
struct Resize {
    rows: Axis,
    columns: Axis,
}

impl Resize {
    fn pixels(&self) -> usize {
        self.rows.size * self.columns.size
    }

    fn new_pixels(&self) -> usize {
        self.rows.new * self.columns.new
    }

    fn planes_a_task(&self) -> usize {
        (BLOCK / self.pixels().max(self.new_pixels())).max(1)
    }

    fn between<T: Float>(&self) -> Vec<T> {
        vec![T::zero(); self.rows.size * self.columns.new]
    }

    #[cfg(any(feature = "cuda", test))]
    fn kind(&self) -> cuda::resize::Kind {
        match (self.rows.interpolation, self.rows.align_corners) {
            (Interpolation::Nearest, _) => cuda::resize::Kind::Nearest,
            (Interpolation::Bilinear, false) => cuda::resize::Kind::Bilinear,
            (Interpolation::Bilinear, true) => cuda::resize::Kind::BilinearCorners,
        }
    }
}

/// The weighted mean of an output's two inputs.
#[inline(always)]
fn mix<T: Float>(below: T, above: T, weight: T) -> T {
    below * (T::one() - weight) + above * weight
}

impl Op<1> for Resize {
    const NAME: &'static str = "resize";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = x.shape.dims4()?;
        let (rows, columns) = (self.rows.taps::<T>(), self.columns.taps::<T>());
        let (width, new_width) = (self.columns.size, self.columns.new);
        let is_nearest = self.rows.interpolation == Interpolation::Nearest;
        let resize = |x: &[T], between: &mut [T], y: &mut [T]| {
            for (row, x) in between.chunks_mut(new_width).zip(x.chunks(width)) {
                let columns = row.iter_mut().zip(&columns);
                match is_nearest {
                    true => columns.for_each(|(y, taps)| *y = x[taps.below]),
                    false => columns.for_each(|(y, taps)| *y = mix(x[taps.below], x[taps.above], taps.weight)),
                }
            }
            for (y, taps) in y.chunks_mut(new_width).zip(&rows) {
                let [below, above] = [taps.below, taps.above].map(|row| &between[row * new_width..][..new_width]);
                match is_nearest {
                    true => y.copy_from_slice(below),
                    false => y.iter_mut().zip(below.iter().zip(above)).for_each(|(y, (below, above))| {
                        *y = mix(*below, *above, taps.weight);
                    }),
                }
            }
        };
        let y = fresh(images * channels * self.new_pixels(), |y| {
            let planes = y.par_chunks(self.new_pixels()).zip(x.data.par_chunks(self.pixels()));
            let planes = planes.with_min_len(self.planes_a_task());
            let between = || self.between();
            planes.map_init(between, |between, (y, x)| wide!(y.fill(T::zero(), |y| resize(x, between, y)))).sum()
        });
        Ok((y, (images, channels, self.rows.new, new_width).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = x.shape().dims4()?;
        let shape = (images, channels, self.rows.new, self.columns.new).into();
        Ok((cuda::resize::forward(x, &shape, self.kind())?, shape))
    }

    fn gradients(&self, _: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&ResizeGradient(*self), [dy])?)])
    }
}

/// dY to dX.
struct ResizeGradient(Resize);

impl Op<1> for ResizeGradient {
    const NAME: &'static str = "resize's gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = dy.shape.dims4()?;
        let sizes = self.0;
        let (rows, columns) = (sizes.rows.taps::<T>(), sizes.columns.taps::<T>());
        let (width, new_width) = (sizes.columns.size, sizes.columns.new);
        let is_nearest = sizes.rows.interpolation == Interpolation::Nearest;
        let distribute = |dy: &[T], between: &mut [T], dx: &mut [T]| {
            between.fill(T::zero());
            for (dy, taps) in dy.chunks(new_width).zip(&rows) {
                let shares = [(taps.below, T::one() - taps.weight), (taps.above, taps.weight)];
                for (row, share) in &shares[..if is_nearest { 1 } else { 2 }] {
                    let between = &mut between[row * new_width..][..new_width];
                    between.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += *dy * *share);
                }
            }
            for (row, dx) in between.chunks(new_width).zip(dx.chunks_mut(width)) {
                for (dy, taps) in row.iter().zip(&columns) {
                    dx[taps.below] += *dy * (T::one() - taps.weight);
                    if !is_nearest {
                        dx[taps.above] += *dy * taps.weight;
                    }
                }
            }
        };
        let dx = fresh(images * channels * sizes.pixels(), |dx| {
            let planes = dx.par_chunks(sizes.pixels()).zip(dy.data.par_chunks(sizes.new_pixels()));
            let planes = planes.with_min_len(sizes.planes_a_task());
            let between = || sizes.between();
            planes
                .map_init(between, |between, (dx, dy)| wide!(dx.fill(T::zero(), |dx| distribute(dy, between, dx))))
                .sum()
        });
        Ok((dx, (images, channels, sizes.rows.size, width).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = dy.shape().dims4()?;
        let shape = (images, channels, self.0.rows.size, self.0.columns.size).into();
        Ok((cuda::resize::gradient(dy, &shape, self.0.kind())?, shape))
    }
}
