//! SCALE: features are scaled up by how little of their sum lies in the largest of them. Nothing is pruned.
//!
//! score = −logsumexp(r · W·z + b) with r = exp(Σz / Σ of the k largest z) for the features z and the last layer W, b, where
//! k = n − round(n·p/100) of n features.
//!
//! - Paper: Xu, Chen, Franchi, Yao, *Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement*, ICLR 2024,
//!   <https://arxiv.org/abs/2310.00227>.
//! - Reference code: `kai422/SCALE`; OpenOOD `scale_net.py`; pytorch-ood `SCALE`, to which this is equal on features that are not
//!   negative. (OpenOOD's own pipelines other than its evaluator forget the wrapper net and score plain energy.)
//! - Deviations: k is at least 1.
//! - Features may be negative: the two sums are over positive features only, so that the exponent is 1 or more and never a division
//!   by zero; it is 1 where none is positive, and at most 80. Negative features are scaled like the others.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Output, Scorer, Scores,
    shaping::{energies, largest, sharpening},
};
use crate::{Result, nn::Head};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Scale")]
pub struct Config {
    /// The percentage p of an image's features that the second sum leaves out: 85 in OpenOOD, which searches 65 to 95.
    #[garde(range(min = 0.0, max = 99.99))]
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { percentile: 85.0 }
    }
}

/// The energy of each row of (N, D) `features`, scaled by how much of the row's sum is left when `percentile` percent are left out.
///
/// # Errors
/// As [`energies`].
pub fn scale(features: &Tensor, head: &Head, percentile: f64) -> Result<Vec<f32>> {
    energies(features, head, |row| {
        let factor = sharpening(row, &largest(row, percentile));
        row.iter_mut().for_each(|z| *z *= factor);
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted { percentile: self.percentile, head: fit.head()?.clone() }))
    }
}

/// The last layer, and how many features count as large.
struct Fitted {
    percentile: f64,
    head: Head,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(scale(&bank.features, &self.head, self.percentile)?)
    }
}
