//! Activations and max-pools that choose as they chose for other values: the piece of a piecewise linear function that another
//! point lies on, continued.
//!
//! A network whose choices are held fixed is smooth, so that differences of its gradients converge to what differentiating
//! twice gives (which holds the choices fixed, too).

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Activation, Float,
    activation::{Curve as _, with_curve},
    elementwise::map2,
    fresh::fresh,
    max_pool2d::{MaxPool2dGradient, wins},
    op::{self, Array, Op},
    pool::{Pool, Windows},
    relu::activation_gradient,
};

/// `activation` of `x` on the piece of it that led to the result `y`, of the same shape: linear in `x`, equal to y where `x` is
/// what y was made of. The gradient is with respect to `x` only.
///
/// # Errors
/// When the shapes differ.
pub fn activate_like(x: &Tensor, y: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.dims() != y.dims() {
        candle_core::bail!("activate_like: {:?} like {:?}", x.dims(), y.dims());
    }
    let y = y.detach();
    let linear = match activation {
        Activation::Identity => return Ok(x.clone()),
        other => op::apply(ActivateLike(other), [&y, x])?,
    };
    match activation {
        Activation::Relu6 => linear + (y.ge(6.0)?.to_dtype(x.dtype())? * 6.0)?,
        _ => Ok(linear),
    }
}

/// (y, x) to f′(y)·x.
struct ActivateLike(Activation);

impl Op<2> for ActivateLike {
    const NAME: &'static str = "activate_like";

    fn cpu<T: Float>(&self, [y, x]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let out = with_curve!(self.0, curve => map2(y.data, x.data, |y, x| curve.gradient(y, x)));
        Ok((out, y.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [y, x]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::gradient(y, x, self.0)?, x.shape().clone()))
    }

    fn gradients(&self, [y, _]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([None, Some(activation_gradient(self.0, y, dy)?)])
    }
}

/// Of each window of `x`, the element at the place where the window's largest is in `like`, of the same shape. The gradient is
/// with respect to `x` only. See [`max_pool2d`](super::max_pool2d()).
///
/// # Errors
/// As `max_pool2d`, and when the shapes differ.
pub fn max_pool2d_like(x: &Tensor, like: &Tensor, pool: Pool) -> Result<Tensor> {
    if x.dims() != like.dims() {
        candle_core::bail!("max_pool2d_like: {:?} like {:?}", x.dims(), like.dims());
    }
    op::apply(MaxPool2dLike(pool.windows(x, MaxPool2dLike::NAME)?), [&like.detach(), x])
}

/// (like, x) to y.
struct MaxPool2dLike(Windows);

impl MaxPool2dLike {
    /// The position in its plane of what window (r, q) chooses: of equals the first, NaN before all.
    fn winner<T: Float>(&self, plane: &[T], r: usize, q: usize) -> usize {
        let Windows { rows, columns } = self.0;
        let pixels = rows.window(r).flat_map(|row| columns.window(q).map(move |column| row * columns.size + column));
        let mut most: Option<(usize, T)> = None;
        for at in pixels {
            if most.is_none_or(|(_, value)| wins(plane[at], value)) {
                most = Some((at, plane[at]));
            }
        }
        // A window has a pixel: padding is at most half of it.
        most.map_or(0, |(at, _)| at)
    }
}

impl Op<2> for MaxPool2dLike {
    const NAME: &'static str = "max_pool2d_like";

    fn cpu<T: Float>(&self, [like, x]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = x.shape.dims4()?;
        let windows = self.0;
        let (pixels, count, width) = (windows.pixels(), windows.count(), windows.columns.count);
        let y = fresh(images * channels * count, |y| {
            let planes = y.par_chunks(count).zip(like.data.par_chunks(pixels)).zip(x.data.par_chunks(pixels));
            let planes = planes.with_min_len(windows.planes_a_task()).map(|((y, like), x)| {
                y.write((0..count).map(|window| x[self.winner(like, window / width, window % width)]))
            });
            planes.sum()
        });
        Ok((y, (images, channels, windows.rows.count, width).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [like, x]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = x.shape().dims4()?;
        let shape = (images, channels, self.0.rows.count, self.0.columns.count).into();
        Ok((cuda::pool::max_like(like, x, &shape, self.0)?, shape))
    }

    fn gradients(&self, [like, _]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([None, Some(op::apply_no_grad(&MaxPool2dGradient(self.0), [like, dy])?)])
    }
}
