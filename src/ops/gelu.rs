//! GELU (Hendrycks & Gimpel 2016) in its exact form: x·Φ(x) with Φ the standard normal distribution.

use candle_core::{Result, Shape, Tensor};

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::{map, map2},
    op::{self, Array, Op},
};

/// x·Φ(x) elementwise, as PyTorch's `gelu` with `approximate="none"`. The derivative is Φ(x) + x·φ(x).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    op::apply(Gelu, [x])
}

struct Gelu;

impl Op<1> for Gelu {
    const NAME: &'static str = "gelu";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        Ok((map(x.data, |x| x * x.normal().0), x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        Ok((cuda::activation::unary("gelu", x)?, x.shape().clone()))
    }

    fn gradients(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&GeluGradient, [x, dy])?)])
    }
}

/// (x, dY) to dX.
struct GeluGradient;

impl Op<2> for GeluGradient {
    const NAME: &'static str = "gelu's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let gradient = |x: T, dy: T| {
            let (distribution, density) = x.normal();
            dy * (distribution + x * density)
        };
        Ok((map2(x.data, dy.data, gradient), x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::unary_gradient("gelu_gradient", x, dy)?, x.shape().clone()))
    }
}
