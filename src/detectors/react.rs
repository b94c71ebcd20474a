//! ReAct: rectified activations. Images of unknown kinds drive a few features far above what train images do; these are clipped.
//!
//! score = −logsumexp(W · min(z, c) + b) for the features z and the last layer W, b; c is a percentile of all features of all train
//! images.
//!
//! - Paper: Sun, Guo, Li, *ReAct: Out-of-distribution Detection With Rectified Activations*, NeurIPS 2021,
//!   <https://arxiv.org/abs/2111.12797>.
//! - Reference code: `deeplearning-wisc/react`; OpenOOD `react_postprocessor.py`; pytorch-ood `ReAct`, to which this is equal
//!   given the same c.
//! - Deviation: c is taken of the train images, as in the paper's section 3, and not of OpenOOD's separate validation images.
//! - Features may be negative: those below c stay as they are.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores,
    shaping::{energies, percentile},
};
use crate::{Result, nn::Head};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "React")]
pub struct Config {
    /// The percentage of the train images' features that stay as they are: 90 in the paper and in OpenOOD, which searches 85 to
    /// 99.
    #[garde(range(min = 0.0, max = 100.0))]
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { percentile: 90.0 }
    }
}

/// The energy of each row of (N, D) `features` after what is above `threshold` is set to it.
///
/// # Errors
/// As [`energies`].
pub fn react(features: &Tensor, head: &Head, threshold: f64) -> Result<Vec<f32>> {
    energies(features, head, |row| row.iter_mut().for_each(|z| *z = z.min(threshold)))
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let threshold = percentile(&fit.train()?.features, self.percentile)?;
        Ok(Box::new(Fitted { head: fit.head()?.clone(), threshold }))
    }
}

/// The last layer, and where features are clipped.
struct Fitted {
    head: Head,
    threshold: f64,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(react(&bank.features, &self.head, self.threshold)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "threshold": self.threshold }))
    }
}
