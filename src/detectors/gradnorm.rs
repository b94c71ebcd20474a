//! GradNorm: the gradient that would make the softmax uniform is large where the network is sure of familiar features.
//!
//! score = −‖∂L/∂W‖₁ for the weights W of the last layer and L = −1/K·Σ_c ln softmax(f / T)_c, which is the divergence of the softmax
//! from the uniform distribution up to a constant. With f = W·z + b it is an outer product, whose norm is
//! ‖z‖₁·Σ_c |softmax(f / T)_c − 1/K| / T.
//!
//! - Paper: Huang et al., *On the Importance of Gradients for Detecting Distributional Shifts in the Wild*, NeurIPS 2021, eq. 5
//!   and section 5, <https://arxiv.org/abs/2110.00218>.
//! - Reference code: `deeplearning-wisc/gradnorm_ood`; OpenOOD `gradnorm_postprocessor.py`; pytorch-ood `GradNorm`. The first two
//!   sum over the classes: K times this score, with a K of 1000 whatever the network has.
//! - Deviations: none but the closed form, in f64.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, map_both};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "GradNorm")]
pub struct Config {
    /// T > 0: 1 in the paper, whose section 5 finds others no better.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub temperature: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { temperature: 1.0 }
    }
}

/// ‖∂L/∂W‖₁ of each row of (N, K) logits and (N, D) features; `temperature` T > 0.
///
/// # Errors
/// If there is nothing to score, the counts of images differ, or a number is NaN or infinite.
pub fn gradient_norms(logits: &Tensor, features: &Tensor, temperature: f64) -> Result<Vec<f64>> {
    map_both(logits, features, |logits, features| {
        let scaled: Vec<f64> = logits.iter().map(|logit| logit / temperature).collect();
        let peak = Peak::of(&scaled);
        let uniform = 1.0 / scaled.len() as f64;
        let by_logits = scaled.iter().map(|logit| ((logit - peak.max).exp() / (1.0 + peak.rest) - uniform).abs());
        features.iter().map(|x| x.abs()).sum::<f64>() * by_logits.sum::<f64>() / temperature
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let norms = gradient_norms(&bank.logits, &bank.features, self.temperature)?;
        Scores::new(norms.into_iter().map(|norm| -norm as f32).collect())
    }
}
