//! DUQ's uncertainty: how far an image's features are from the nearest class's centroid.
//!
//! score = min_c mean_d (W_c f − e_c)_d² / (2 s²) = −max_c ln K_c, at least 0.
//!
//! - Paper: van Amersfoort et al., *Uncertainty Estimation Using a Single Deep Deterministic Neural Network*, ICML 2020,
//!   <https://arxiv.org/abs/2003.02037>: −max_c K_c.
//! - Reference code: `y0ast/deterministic-uncertainty-quantification`, `utils/evaluate_ood.py`.
//! - Deviations: the logarithm, which orders images in the same way, also where K underflows to 0 for all classes.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Scorer, Scores, max_logit::max_logit};
use crate::{Error, Result};

/// What rounding may make of the logarithm of a kernel that is 1.
const ROUNDING: f32 = 1e-6;

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
/// If there is nothing to score, or a logarithm is NaN or infinite; [`Error::Input`] if one is above 0 by more than rounding.
pub fn duq(log_kernels: &Tensor) -> Result<Vec<f32>> {
    let scores = max_logit(log_kernels)?;
    match scores.iter().position(|score| *score < -ROUNDING) {
        Some(image) => {
            let message =
                format!("duq reads ln K of a DUQ head's kernels, at most 0, and image {image} has {}", -scores[image]);
            Err(Error::input(message).hint("max_logit and energy read the logits of other networks"))
        }
        None => Ok(scores),
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Kernels]
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
