//! Stochastic gradient descent with momentum, in PyTorch's form: `torch.optim.SGD` with dampening 0.

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

/// `torch.optim.SGD`: g ← g + wd·w; v ← μ·v + g; g ← g + μ·v (Nesterov) or v; w ← w − lr·g.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sgd")]
pub struct Settings {
    /// Learning rate before the schedule.
    #[garde(range(min = 0.0, max = MOST_LR))]
    pub lr: f64,
    /// μ. PyTorch's default: 0.
    #[garde(range(min = 0.0, max = 0.9999))]
    #[serde(default)]
    pub momentum: f64,
    /// Nesterov's form. PyTorch's default: false.
    #[garde(skip)]
    #[serde(default)]
    pub nesterov: bool,
    /// Decay of all weights, batch-norm's too, as energy_ood does. PyTorch's default: 0.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub weight_decay: f64,
}

impl Rule for Settings {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn altered(&self, lr: Option<f64>, weight_decay: Option<f64>) -> Rules {
        let (lr, weight_decay) = (lr.unwrap_or(self.lr), weight_decay.unwrap_or(self.weight_decay));
        Rules::Sgd(Self { lr, weight_decay, ..self.clone() })
    }

    fn problem(&self) -> Option<(&'static str, &'static str)> {
        nesterov_problem(self.nesterov, self.momentum)
    }

    fn remembered(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &[VELOCITY] }
    }

    fn step(&self, parameter: &mut Parameter, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()> {
        let direction = Direction { decay: self.weight_decay, ..direction };
        if self.momentum == 0.0 {
            return Ok(ops::descend(&parameter.var, gradient, lr, direction)?);
        }
        let velocity = parameter.part(VELOCITY)?;
        ops::add_momentum(&velocity, gradient, &parameter.var, self.momentum, direction)?;
        let nesterov = self.nesterov.then_some(self.momentum);
        Ok(ops::descend_with_momentum(&parameter.var, gradient, &velocity, lr, nesterov, direction)?)
    }
}
