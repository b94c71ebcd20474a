//! Adam with decoupled weight decay (Loshchilov & Hutter 2019), in PyTorch's form: `torch.optim.AdamW`.

use candle_core::Tensor;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Parameter, Rule, Rules};
use crate::{
    Result,
    ops::optimizer::{self as ops, Direction},
    train::recipe::MOST_LR,
};

/// `torch.optim.AdamW`: m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; w ← w·(1 − lr·wd) − lr·m̂/(√v̂ + ε).
///
/// With `weight_decay: 0` this is Adam.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Adamw")]
pub struct Settings {
    /// Learning rate before the schedule.
    #[garde(range(min = 0.0, max = MOST_LR))]
    pub lr: f64,
    /// β₁ and β₂. PyTorch's default: 0.9 and 0.999.
    #[garde(inner(range(min = 0.0, max = 0.999_999)))]
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// ε. PyTorch's default: 1e-8.
    #[garde(range(min = 1e-16, max = 1.0))]
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Decay of all weights, batch-norm's too. PyTorch's default: 0.01.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_adamw_decay")]
    pub weight_decay: f64,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_adamw_decay() -> f64 {
    0.01
}

/// m
const MEAN: &str = "mean";
/// v
const SQUARE: &str = "square";

impl Rule for Settings {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn altered(&self, lr: Option<f64>, weight_decay: Option<f64>) -> Rules {
        let (lr, weight_decay) = (lr.unwrap_or(self.lr), weight_decay.unwrap_or(self.weight_decay));
        Rules::Adamw(Self { lr, weight_decay, ..self.clone() })
    }

    fn remembered(&self) -> &'static [&'static str] {
        &[MEAN, SQUARE]
    }

    fn step(&self, parameter: &mut Parameter, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()> {
        let (mean, square) = (parameter.part(MEAN)?, parameter.part(SQUARE)?);
        ops::adam_moments(&mean, &square, gradient, self.betas, direction)?;
        let corrections = self.betas.map(|beta| 1.0 - beta.powf(parameter.steps as f64));
        let step = ops::Adam { lr, decay: self.weight_decay, corrections, epsilon: self.epsilon };
        Ok(ops::adam(&parameter.var, &mean, &square, step)?)
    }
}
