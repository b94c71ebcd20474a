//! SiLU, also called swish (Elfwing et al. 2017): x·σ(x) with σ(x) = 1 / (1 + e^(−x)).

use candle_core::{Result, Shape, Tensor};

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::{map, map2},
    op::{self, Array, Op},
};

/// x·σ(x) elementwise.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    op::apply(Silu, [x])
}

#[inline(always)]
pub(super) fn sigmoid<T: Float>(x: T) -> T {
    T::one() / (T::one() + (T::zero() - x).exp())
}

/// x·σ(x).
#[inline(always)]
pub(super) fn value<T: Float>(x: T) -> T {
    x * sigmoid(x)
}

/// The derivative: σ(x)·(1 + x·(1 − σ(x))).
#[inline(always)]
pub(super) fn slope<T: Float>(x: T) -> T {
    let sigmoid = sigmoid(x);
    sigmoid * (T::one() + x * (T::one() - sigmoid))
}

struct Silu;

impl Op<1> for Silu {
    const NAME: &'static str = "silu";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        Ok((map(x.data, value), x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        Ok((cuda::activation::unary("silu", x)?, x.shape().clone()))
    }

    fn gradients(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&SiluGradient, [x, dy])?)])
    }
}

/// (x, dY) to dX.
struct SiluGradient;

impl Op<2> for SiluGradient {
    const NAME: &'static str = "silu's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok((map2(x.data, dy.data, |x, dy| dy * slope(x)), x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::unary_gradient("silu_gradient", x, dy)?, x.shape().clone()))
    }
}
