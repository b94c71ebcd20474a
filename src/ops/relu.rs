//! The activations as operations of their own, with PyTorch's gradients.

use candle_core::{Result, Shape, Tensor};

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Activation, Float,
    activation::{Curve as _, with_curve},
    elementwise::{map, map2},
    op::{self, Array, Op},
};

/// max(x, 0) elementwise; NaN stays NaN. The gradient at 0 is 0, as in PyTorch (candle's is 1).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    activate(x, Activation::Relu)
}

/// x where x > 0, else `slope`·x; NaN stays NaN. `slope` at least 0 (PyTorch's default is 0.01). The gradient at 0 is
/// `slope`, as in PyTorch.
///
/// # Errors
/// When `slope` is negative or not a number: the sign of the result would no longer tell the gradient.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    activate(x, Activation::LeakyRelu(slope))
}

/// min(max(x, 0), 6) elementwise; NaN stays NaN. The gradient at 0 and 6 is 0, as in PyTorch.
pub fn relu6(x: &Tensor) -> Result<Tensor> {
    activate(x, Activation::Relu6)
}

/// `activation` of each element, with PyTorch's gradients.
///
/// # Errors
/// As [`leaky_relu`].
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if activation == Activation::Identity {
        return Ok(x.clone());
    }
    activation.check()?;
    op::apply(Activate(activation), [x])
}

/// The same of numbers, into `y`, whose place is used again.
pub(crate) fn activate_into(x: &[f32], activation: Activation, y: &mut Vec<f32>) {
    y.clear();
    super::wide!(with_curve!(activation, curve => y.extend(x.iter().map(|x| curve.value(*x)))));
}

struct Activate(Activation);

impl Op<1> for Activate {
    const NAME: &'static str = "relu";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let y = with_curve!(self.0, curve => map(x.data, |x| curve.value(x)));
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        Ok((cuda::activation::activation(x, self.0)?, x.shape().clone()))
    }

    fn gradients(&self, _: [&Tensor; 1], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(activation_gradient(self.0, y, dy)?)])
    }
}

/// The gradient of what went into `activation`, from what came out, y, and its gradient.
pub(super) fn activation_gradient(activation: Activation, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(dy.clone()),
        other => op::apply_no_grad(&ActivationGradient(other), [y, dy]),
    }
}

/// (y, dY) to dX.
pub(super) struct ActivationGradient(pub(super) Activation);

impl Op<2> for ActivationGradient {
    const NAME: &'static str = "relu's gradient";

    fn cpu<T: Float>(&self, [y, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let dx = with_curve!(self.0, curve => map2(y.data, dy.data, |y, dy| curve.gradient(y, dy)));
        Ok((dx, y.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [y, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::activation::gradient(y, dy, self.0)?, y.shape().clone()))
    }
}
