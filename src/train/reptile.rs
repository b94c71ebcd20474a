//! Reptile: first weights that a few steps adapt to any class, and by hope to a new one.
//!
//! A round has one class, drawn at random: from the start φ, `inner_steps` steps of the optimiser on batches of that class alone lead to W,
//! and φ ← φ + rate·(W − φ). The next round goes on from there, its optimiser without a memory.
//!
//! - Paper: Nichol, Achiam, Schulman, *On First-Order Meta-Learning Algorithms*, 2018, <https://arxiv.org/abs/1803.02999>.
//! - Code: `openai/supervised-reptile`.
//! - Deviations: the code's rounds are of several classes to tell apart, its Adam remembers earlier rounds, and its rate falls to 0. Here a round
//!   has one class, for models that tell none, and the rate stays. Running statistics follow every step, as in the code.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Result, ops::optimizer::average, train::optim::copies_of};

/// Steps of a round, at most; ours, far beyond any use.
const MOST_STEPS: usize = 100_000;

/// Reptile: batches of one class for a few steps, towards which the weights then move in part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Reptile")]
pub struct Settings {
    /// Steps on one class, after which another is drawn. Default: 5, of the code's commands for Omniglot.
    #[garde(range(min = 1, max = MOST_STEPS))]
    pub inner_steps: usize,
    /// How far the weights move from where a round began towards where it ended; 1 is all the way. Ours: 0.5, where the code's falls from 1 to 0
    /// for Omniglot.
    #[garde(range(min = 1e-6, max = 1.0))]
    pub rate: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { inner_steps: 5, rate: 0.5 }
    }
}

/// Where a round began.
#[derive(Debug)]
pub struct Start {
    rate: f64,
    parameters: Vec<(String, Var)>,
    values: BTreeMap<String, Tensor>,
}

impl Start {
    /// Of `parameters`; no round has begun.
    pub fn new(settings: &Settings, parameters: Vec<(String, Var)>) -> Self {
        Self { rate: settings.rate, parameters, values: BTreeMap::new() }
    }

    /// A round begins here.
    ///
    /// # Errors
    /// Those of candle.
    pub fn begin(&mut self) -> Result<()> {
        let copies = self.parameters.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)));
        self.values = copies.collect::<Result<_>>()?;
        Ok(())
    }

    /// The round ends: the parameters become start + rate·(parameters − start).
    ///
    /// # Errors
    /// Those of candle.
    pub fn end(&mut self) -> Result<()> {
        for (name, var) in &self.parameters {
            if let Some(start) = self.values.remove(name) {
                average(&start, var, 1.0 - self.rate)?;
                var.set(&start)?;
            }
        }
        Ok(())
    }

    /// The weights at the beginning of the round under way, by name; none between rounds.
    pub fn values(&self) -> &BTreeMap<String, Tensor> {
        &self.values
    }

    /// Continues a round from a copy of [`Start::values`].
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when they are not those of these parameters. Nothing is changed then.
    pub fn load(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        self.values = copies_of(&self.parameters, values, "the weights that a round began with")?;
        Ok(())
    }
}
