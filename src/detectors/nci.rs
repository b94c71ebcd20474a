//! NCI: when a network's training has collapsed, features of known images point along their class's weights, and are long.
//!
//! score = −w_ĉ·(z − μ) / ‖z − μ‖₂ − α·‖z‖₁ with the features z, the mean μ of the train images', and the weights w_ĉ of the class
//! ĉ = argmax f.
//!
//! - Paper: Liu & Qin, *Detecting Out-of-Distribution Through the Lens of Neural Collapse*, CVPR 2025, eq. 7 and 8,
//!   <https://arxiv.org/abs/2311.01479>.
//! - Reference code: `litianliu/NCI-OOD`; OpenOOD `nci_postprocessor.py`; pytorch-ood `NCI`.
//! - Deviations: features equal to the mean have no direction, and the first term is 0, where the reference has NaN.

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, argmax, finite, map_both, mean_row, numbers, same};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Nci")]
pub struct Config {
    /// α: 1e-4 in OpenOOD, which searches 1e-4 to 0.1; 0 in pytorch-ood.
    #[garde(range(min = 0.0, max = 1e6))]
    pub alpha: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 1e-4 }
    }
}

struct Fitted {
    alpha: f64,
    mean: Vec<f64>,
    /// Row after row (K, D).
    weight: Vec<f64>,
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (head, features) = (fit.head()?, &fit.train()?.features);
        let mean = mean_row(&finite(features)?, features.dim(1)?);
        same("inputs of the last layer", head.weight.dim(1)?, mean.len())?;
        let weight = numbers(&head.weight)?;
        Ok(Box::new(Fitted { alpha: self.alpha, mean, weight }))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let size = self.mean.len();
        same("features", bank.features.dim(1)?, size)?;
        same("logits", bank.logits.dim(1)?, self.weight.len() / size)?;
        let scores = map_both(&bank.logits, &bank.features, |logits, features| {
            let weight = &self.weight[argmax(logits) * size..][..size];
            let (mut product, mut square) = (0.0, 0.0);
            for ((x, mean), weight) in features.iter().zip(&self.mean).zip(weight) {
                product += weight * (x - mean);
                square += (x - mean).powi(2);
            }
            let along = if square > 0.0 { product / square.sqrt() } else { 0.0 };
            (-along - self.alpha * features.iter().map(|x| x.abs()).sum::<f64>()) as f32
        })?;
        Scores::new(scores)
    }
}
