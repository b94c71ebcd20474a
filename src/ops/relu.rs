//! Rectified linear unit with PyTorch's gradient.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::{Activation, cuda};
use super::{BLOCK, Float, op};
use op::{Array, Op};

/// max(x, 0) elementwise; NaN stays NaN. The gradient at 0 is 0, as in PyTorch (candle's is 1).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    op::apply(Relu, [x])
}

struct Relu;

impl Op<1> for Relu {
    const NAME: &'static str = "relu";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let mut y = vec![T::zero(); x.data.len()];
        y.par_chunks_mut(BLOCK).zip(x.data.par_chunks(BLOCK)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x < T::zero() { T::zero() } else { *x };
            }
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        Ok((cuda::activation::activation(x, Activation::Relu)?, x.shape().clone()))
    }

    fn gradients(&self, _: [&Tensor; 1], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&ReluGradient, [y, dy])?)])
    }
}

/// (y, dY) to dX.
struct ReluGradient;

impl Op<2> for ReluGradient {
    const NAME: &'static str = "relu's gradient";

    fn cpu<T: Float>(&self, [y, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let mut dx = vec![T::zero(); y.data.len()];
        let blocks = dx.par_chunks_mut(BLOCK).zip(y.data.par_chunks(BLOCK)).zip(dy.data.par_chunks(BLOCK));
        blocks.for_each(|((dx, y), dy)| {
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = if *y <= T::zero() { T::zero() } else { *dy };
            }
        });
        Ok((dx, y.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [y, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::gradient(y, dy, Activation::Relu)?, y.shape().clone()))
    }
}
