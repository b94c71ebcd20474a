//! LTS: logits are scaled up by how little of the features' sum lies in the largest of them.
//!
//! score = −logsumexp(r²·f) with r = Σz⁺ / Σ of the k largest z⁺ for the logits f and the features z, where z⁺ = max(z, 0) and
//! k = n − round(n·p/100) of n features.
//!
//! - Paper: Djurisic, Liu, Nikolic, *Logit Scaling for Out-of-Distribution Detection*, Machine Vision and Applications 2025,
//!   <https://arxiv.org/abs/2409.01175>.
//! - Reference code: `andrijazz/lts`, `lts.py`; pytorch-ood `LTS`, to which this is equal. OpenOOD v1.5 does not have it.
//! - Deviations: k is at least 1, as in pytorch-ood. r is 1 where no feature is positive, where both have NaN.
//! - The paper's sums are of features that are not negative; both codes leave negative ones out.

use super::{
    Bank, Detector, Fit, Output, Peak, Scorer, Scores, map_both,
    shaping::{largest, spread},
};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Lts")]
pub struct Config {
    /// The percentage p of an image's features that the second sum leaves out: 95 in pytorch-ood; the authors' function has 65 unless
    /// told otherwise.
    #[garde(range(min = 0.0, max = 99.99))]
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { percentile: 95.0 }
    }
}

/// −logsumexp(r²·f) of one image's logits f and features.
pub fn lts(logits: &[f64], features: &[f64], percentile: f64) -> f64 {
    let factor = spread(features, &largest(features, percentile)).powi(2);
    let scaled: Vec<f64> = logits.iter().map(|logit| factor * logit).collect();
    -Peak::of(&scaled).log_sum()
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
        let of_image = |logits: &[f64], features: &[f64]| lts(logits, features, self.percentile) as f32;
        Scores::new(map_both(&bank.logits, &bank.features, of_image)?)
    }
}
