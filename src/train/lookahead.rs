//! Lookahead: slow weights that follow the fast ones, which go on from them.
//!
//! After every k-th of T steps, with a = `decay`·(t/T)^`power` at step t from 1: e ← a·e + (1 − a)·w, then w ← e, over weights and running
//! statistics alike. Early on a is near 0, and the fast weights go their way. After the last step w ← e: what fewer than k last steps learned
//! is left out, as in airbench.
//!
//! - Paper: Zhang, Lucas, Hinton, Ba, *Lookahead Optimizer: k steps forward, 1 step back*, NeurIPS 2019, <https://arxiv.org/abs/1907.08610>.
//! - Code: `KellerJordan/cifar10-airbench`, `LookaheadState` of `airbench94.py`, whose a rises over time; the paper's is constant
//!   (`power: 0`), and its running statistics are the fast ones.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Result, train::optim::copies_of};

/// Steps between two updates, at most; ours, far beyond any use.
const MOST_STEPS: usize = 100_000;

/// Lookahead: slow weights that follow the fast ones, which go on from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Lookahead")]
pub struct Settings {
    /// k, steps of the fast weights between two of the slow ones. airbench's and the paper's: 5.
    #[garde(range(min = 1, max = MOST_STEPS))]
    pub every: usize,
    /// How much of the slow weights stays at the end of training. airbench's: 0.95⁵ = 0.7738.
    #[garde(range(min = 0.0, max = 1.0))]
    pub decay: f64,
    /// How late that share rises: it is `decay`·(t/T)^`power`. airbench's: 3. 0 is a constant share.
    #[garde(range(min = 0.0, max = 100.0))]
    pub power: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { every: 5, decay: 0.95f64.powi(5), power: 3.0 }
    }
}

impl Settings {
    /// Why so many steps are too few.
    pub fn problem(&self, steps: u64) -> Option<String> {
        let every = self.every as u64;
        // They would stay the first weights, which are left at the end.
        (every > steps).then(|| format!("slow weights never move: {every} is more than all {steps} steps"))
    }
}

/// The slow weights.
#[derive(Debug)]
pub struct Lookahead {
    settings: Settings,
    parameters: Vec<(String, Var)>,
    slow: BTreeMap<String, Tensor>,
}

impl Lookahead {
    /// Of `parameters`, weights and running statistics, as they are before the first step.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(settings: &Settings, parameters: Vec<(String, Var)>) -> Result<Self> {
        let copies = parameters.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)));
        let slow = copies.collect::<Result<_>>()?;
        Ok(Self { settings: settings.clone(), parameters, slow })
    }

    /// Called after each step: `done` are done, of `total`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn update(&mut self, done: u64, total: u64) -> Result<()> {
        let due = done.is_multiple_of(self.settings.every as u64);
        if !due && done < total {
            return Ok(());
        }
        let kept = self.settings.decay * (done as f64 / total.max(1) as f64).powf(self.settings.power);
        for (name, var) in &self.parameters {
            let Some(slow) = self.slow.get_mut(name) else { continue };
            if due {
                *slow = lerp(slow, &var.as_detached_tensor(), 1.0 - kept)?;
            }
            var.set(slow)?;
        }
        Ok(())
    }

    /// The slow weights by name. Held-out images are judged by them.
    pub fn values(&self) -> &BTreeMap<String, Tensor> {
        &self.slow
    }

    /// Continues from a copy of [`Lookahead::values`].
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when they are not those of these parameters. Nothing is changed then.
    pub fn load(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        self.slow = copies_of(&self.parameters, values, "the slow weights of lookahead")?;
        Ok(())
    }
}

/// From `start` so far towards `end`, as `torch.lerp`: what is equal stays to the bit.
fn lerp(start: &Tensor, end: &Tensor, weight: f64) -> Result<Tensor> {
    let way = (end - start)?;
    Ok(match weight < 0.5 {
        true => (start + (way * weight)?)?,
        false => (end - (way * (1.0 - weight))?)?,
    })
}
