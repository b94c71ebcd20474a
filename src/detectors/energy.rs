//! The free energy: the log of the unnormalised density that a classifier's logits define, up to a constant.
//!
//! score = E(x; f) = −T · ln Σ_c exp(f_c / T).
//!
//! - Paper: Liu et al., *Energy-based Out-of-distribution Detection*, NeurIPS 2020, eq. 4,
//!   <https://arxiv.org/abs/2010.03759>.
//! - Reference code: energy_ood `CIFAR/test.py` (`-T * torch.logsumexp(output / T, dim=1)`); OpenOOD
//!   `postprocessors/ebo_postprocessor.py`.
//! - Deviations: none but f64 inside.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, score_rows};
use crate::Result;

/// Settings of the energy score.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Energy")]
pub struct Config {
    /// T > 0. 1 in the paper (its section 3.3 finds larger ones worse), in energy_ood and in OpenOOD.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub temperature: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { temperature: 1.0 }
    }
}

/// −T · logsumexp(f / T) of each row f of (N, K) logits; `temperature` T > 0.
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn energy(logits: &Tensor, temperature: f64) -> Result<Vec<f32>> {
    score_rows(logits, |row| {
        let scaled: Vec<f64> = row.iter().map(|logit| logit / temperature).collect();
        -temperature * Peak::of(&scaled).log_sum()
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(energy(&bank.logits, self.temperature)?)
    }
}
