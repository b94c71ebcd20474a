//! DUQ's uncertainty: how far an image's features are from the nearest class's centroid.
//!
//! score = min_c mean_d (W_c f − e_c)_d² / (2 s²) = −max_c ln K_c, at least 0.
//!
//! - Paper: van Amersfoort et al., *Uncertainty Estimation Using a Single Deep Deterministic Neural Network*, ICML 2020,
//!   <https://arxiv.org/abs/2003.02037>: −max_c K_c.
//! - Reference code: `y0ast/deterministic-uncertainty-quantification`, `utils/evaluate_ood.py`.
//! - Deviations: the logarithm, which orders images in the same way, also where K underflows to 0 for all classes.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Need, Scorer, Scores, max_logit::max_logit};
use crate::Result;

/// DUQ's uncertainty has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DuqDetector")]
pub struct Config {}

/// −max_c ln K_c of each row of (N, C) logarithms of kernels.
///
/// # Errors
/// If there is nothing to score, or a logarithm is NaN or infinite.
pub fn duq(log_kernels: &Tensor) -> Result<Vec<f32>> {
    max_logit(log_kernels)
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Kernels]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(duq(&bank.logits)?)
    }
}
