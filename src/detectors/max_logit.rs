//! The maximum logit: like the maximum softmax probability, but it keeps the size of the evidence.
//!
//! score = −max_c f_c.
//!
//! - Paper: Hendrycks et al., *Scaling Out-of-Distribution Detection for Real-World Settings*, ICML 2022,
//!   <https://arxiv.org/abs/1911.11132>.
//! - Reference code: OpenOOD `postprocessors/maxlogit_postprocessor.py`.
//! - Deviations: none.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Scorer, Scores, score_rows};
use crate::Result;

/// The maximum logit has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MaxLogit")]
pub struct Config {}

/// The negated largest entry of each row of (N, K) logits.
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn max_logit(logits: &Tensor) -> Result<Vec<f32>> {
    score_rows(logits, |row| -row.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(max_logit(&bank.logits)?)
    }
}
