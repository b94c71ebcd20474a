//! Muon: momentum whose direction is made orthogonal, for filters and matrices.
//!
//! v ← μ·v + g; u = g + μ·v (Nesterov) or v, as rows of outputs; w ← w·√rows / ‖w‖ (`rescale`); w ← w·(1 − lr·wd) − lr·NS(u).
//! NS brings the singular values of u near 1. It begins with X = u / (‖u‖ + 1e-7), and repeats X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ.
//!
//! - Code: `KellerJordan/cifar10-airbench`, `airbench94_muon.py`; described in Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>.
//! - Deviations: the code's steps are in bfloat16, these in the weights' type. Its decay, which airbench does not use, is that of
//!   `KellerJordan/Muon`.

use candle_core::Tensor;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Parameter, Rule, Rules, VELOCITY, nesterov_problem};
use crate::{
    Result,
    ops::optimizer::{self as ops, Direction},
    train::recipe::MOST_LR,
};

/// The quintic's a, b and c: airbench's, for a steep slope at 0.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Beside a norm.
const EPSILON: f64 = 1e-7;

/// Muon, for filters and matrices; biases and the last layer learn in a group with an optimiser of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Muon")]
pub struct Settings {
    /// Learning rate before the schedule. airbench94_muon's: 0.24.
    #[garde(range(min = 0.0, max = MOST_LR))]
    pub lr: f64,
    /// μ. airbench94_muon's: 0.6.
    #[garde(range(min = 0.0, max = 0.9999))]
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// Nesterov's form. airbench94_muon's: true.
    #[garde(skip)]
    #[serde(default = "crate::yaml::named::yes")]
    pub nesterov: bool,
    /// Newton–Schulz steps. airbench94_muon's: 3.
    #[garde(range(min = 1, max = 100))]
    #[serde(default = "default_steps")]
    pub steps: usize,
    /// Brings each parameter to the norm √rows before its step. airbench94_muon's: true.
    #[garde(skip)]
    #[serde(default = "crate::yaml::named::yes")]
    pub rescale: bool,
    /// Decay of the weights, beside the momentum. airbench94_muon's: 0.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub weight_decay: f64,
}

fn default_momentum() -> f64 {
    0.6
}

fn default_steps() -> usize {
    3
}

impl Rule for Settings {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn altered(&self, lr: Option<f64>, weight_decay: Option<f64>) -> Rules {
        let (lr, weight_decay) = (lr.unwrap_or(self.lr), weight_decay.unwrap_or(self.weight_decay));
        Rules::Muon(Self { lr, weight_decay, ..self.clone() })
    }

    fn problem(&self) -> Option<(&'static str, &'static str)> {
        nesterov_problem(self.nesterov, self.momentum)
    }

    fn remembered(&self) -> &'static [&'static str] {
        &[VELOCITY]
    }

    fn least_dims(&self) -> usize {
        2
    }

    fn step(&self, parameter: &mut Parameter, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()> {
        let velocity = parameter.part(VELOCITY)?;
        let direction = Direction { decay: 0.0, ..direction };
        ops::add_momentum(&velocity, gradient, &parameter.var, self.momentum, direction)?;
        let mut way = velocity.clone();
        if self.nesterov {
            let mut clipped = (gradient.detach() * direction.scale)?;
            if direction.bound.is_finite() {
                clipped = clipped.clamp(-direction.bound, direction.bound)?;
            }
            way = (clipped + (velocity * self.momentum)?)?;
        }
        let weight = parameter.var.as_detached_tensor();
        let rows = weight.dim(0)?;
        let update = orthogonal(&way.reshape((rows, ()))?, self.steps)?.reshape(weight.shape())?;
        let mut kept = 1.0 - lr * self.weight_decay;
        let norm = ops::norm([&weight])?;
        if self.rescale && norm > 0.0 {
            kept *= (rows as f64).sqrt() / norm;
        }
        Ok(parameter.var.set(&((weight * kept)? - (update * lr)?)?)?)
    }
}

/// NS of (rows, columns).
fn orthogonal(matrix: &Tensor, steps: usize) -> Result<Tensor> {
    let [a, b, c] = QUINTIC;
    let (rows, columns) = matrix.dims2()?;
    let upright = rows > columns;
    let flat = if upright { matrix.t()?.contiguous()? } else { matrix.clone() };
    let mut x = (&flat / (ops::norm([&flat])? + EPSILON))?;
    for _ in 0..steps {
        let square = x.matmul(&x.t()?)?;
        let both = ((&square * b)? + (square.matmul(&square)? * c)?)?;
        x = ((&x * a)? + both.matmul(&x)?)?;
    }
    Ok(if upright { x.t()?.contiguous()? } else { x })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Any singular value comes near 1: of a diagonal matrix they are seen.
    #[test]
    fn singular_values_come_near_one() {
        let diagonal = Tensor::new(&[[3f64, 0.0, 0.0], [0.0, -0.8, 0.0]], &Device::Cpu).unwrap();
        for matrix in [diagonal.clone(), diagonal.t().unwrap().contiguous().unwrap()] {
            let made = orthogonal(&matrix, 5).unwrap();
            let square = if made.dim(0).unwrap() == 2 { made.clone() } else { made.t().unwrap() };
            let [first, second] = [0, 1].map(|at| square.get(at).unwrap().get(at).unwrap().to_scalar::<f64>().unwrap());
            assert!((0.6..1.4).contains(&first) && (0.6..1.4).contains(&-second), "{first}, {second}");
            assert_eq!(made.dims(), matrix.dims());
        }
        let nothing = Tensor::zeros((2, 2), DType::F64, &Device::Cpu).unwrap();
        assert_eq!(orthogonal(&nothing, 3).unwrap().to_vec2::<f64>().unwrap(), [[0.0; 2]; 2]);
    }
}
