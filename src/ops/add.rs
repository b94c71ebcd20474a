//! The sum of a residual connection and its branch.

use candle_core::{Result, Shape, Tensor, bail};

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Activation, Float,
    activation::{Curve as _, with_curve},
    elementwise::map2,
    op::{self, Array, Op},
    relu::activation_gradient,
};

/// `activation`(x + y) of two tensors of one shape, in one pass.
///
/// # Errors
/// When the shapes differ, or a leaky ReLU's slope is negative.
pub fn add(x: &Tensor, y: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("add: shapes {:?} and {:?} differ", x.dims(), y.dims());
    }
    activation.check()?;
    op::apply(Add(activation), [x, y])
}

struct Add(Activation);

impl Op<2> for Add {
    const NAME: &'static str = "add";

    fn cpu<T: Float>(&self, [x, y]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let sum = with_curve!(self.0, curve => map2(x.data, y.data, |x, y| curve.value(x + y)));
        Ok((sum, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, y]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::add(x, y, self.0)?, x.shape().clone()))
    }

    fn gradients(&self, _: [&Tensor; 2], sum: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let gradient = activation_gradient(self.0, sum, gradient)?;
        Ok([Some(gradient.clone()), Some(gradient)])
    }
}
