//! A gate: values that a sigmoid lets pass.

use candle_core::{Result, Shape, Tensor, bail};

use super::{
    Float,
    elementwise::{map2, map3},
    op::{self, Array, Op},
    silu::sigmoid,
};

/// x·σ(gate) elementwise, with σ(g) = 1 / (1 + e^(−g)).
///
/// # Errors
/// When the shapes differ.
pub fn gate(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if x.dims() != gate.dims() {
        bail!("gate: {:?} and {:?}", x.dims(), gate.dims());
    }
    if op::is_on_gpu(x) {
        return x * candle_nn::ops::sigmoid(gate)?;
    }
    op::apply(Gate, [x, gate])
}

struct Gate;

impl Op<2> for Gate {
    const NAME: &'static str = "gate";

    fn cpu<T: Float>(&self, [x, gate]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok((map2(x.data, gate.data, |x, gate| x * sigmoid(gate)), x.shape.clone()))
    }

    fn gradients(&self, [x, gate]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([op::gradient(x, &Gate, [dy, gate])?, op::gradient(gate, &GateGradient, [x, gate, dy])?])
    }
}

/// (x, gate, dY) to the gate's gradient.
struct GateGradient;

impl Op<3> for GateGradient {
    const NAME: &'static str = "gate's gradient";

    fn cpu<T: Float>(&self, [x, gate, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let gradient = map3(x.data, gate.data, dy.data, |x, gate, dy| {
            let open = sigmoid(gate);
            dy * x * open * (T::one() - open)
        });
        Ok((gradient, x.shape.clone()))
    }
}
