//! The entropy of the softmax: a network spreads its belief over classes when it has not seen the like.
//!
//! score = −Σ_c p_c ln p_c with p = softmax(f), in nats, 0..ln K.
//!
//! - Papers: used as the softmax baseline by DDU (Mukhoti et al., CVPR 2023, <https://arxiv.org/abs/2102.11582>) and, for
//!   OOD detection of deep networks, since Lakshminarayanan et al., NeurIPS 2017, <https://arxiv.org/abs/1612.01474>.
//! - Reference code: DDU `metrics/uncertainty_confidence.py` (`entropy`).
//! - Deviations: none but f64 inside. Each term is p_c times logsumexp(f) − f_c ≥ 0, so nothing cancels for sure rows.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, score_rows};
use crate::Result;

/// The softmax entropy has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SoftmaxEntropy")]
pub struct Config {}

/// The entropy in nats of the softmax of each row of (N, K) logits, in 0..ln K.
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn softmax_entropy(logits: &Tensor) -> Result<Vec<f32>> {
    score_rows(logits, entropy)
}

/// The entropy of one image's softmax.
pub(super) fn entropy(logits: &[f64]) -> f64 {
    let peak = Peak::of(logits);
    let log_sum = peak.rest.ln_1p();
    let surprise = |logit: &f64| {
        let below = peak.max - logit;
        (-below).exp() * (below + log_sum)
    };
    logits.iter().map(surprise).sum::<f64>() / (1.0 + peak.rest)
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
        Scores::new(softmax_entropy(&bank.logits)?)
    }
}
