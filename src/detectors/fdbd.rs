//! fDBD: features of known images lie far from the decision boundaries, relative to their distance from the mean.
//!
//! score = −1/(K − 1)·Σ_{c ≠ ĉ} (f_ĉ − f_c) / ‖w_ĉ − w_c‖₂ / ‖z − μ‖₂ with the features z, the mean μ of the train images', the logits
//! f = W·z + b and ĉ = argmax f: each term is the distance to the boundary with a class.
//!
//! - Paper: Liu & Qin, *Fast Decision Boundary based Out-of-Distribution Detector*, ICML 2024, eq. 4 and 8,
//!   <https://arxiv.org/abs/2312.11536>.
//! - Reference code: `litianliu/fDBD-OOD`; OpenOOD `fdbd_postprocessor.py`, which sums over the classes: K − 1 times this score;
//!   pytorch-ood `fDBD`.
//! - Deviations: classes with the same weights are refused, where the reference has NaN. The regulariser is at least 1e-8, as in
//!   pytorch-ood.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores, argmax, distance, finite, map_both, mean_row, numbers, same,
};
use crate::{Error, Result, nn::Head};

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Fdbd")]
pub struct Config {
    /// What the distance is relative to.
    #[garde(skip)]
    pub relative_to: RelativeTo,
}

/// What the distances to decision boundaries are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FdbdRelativeTo")]
pub enum RelativeTo {
    /// ‖z − μ‖₂: the paper's, and pytorch-ood's only one.
    #[default]
    Mean,
    /// ‖z‖₂: OpenOOD searches both.
    Origin,
}

struct Fitted {
    /// What features are measured from.
    origin: Vec<f64>,
    /// ‖w_a − w_b‖₂ (K, K)
    gaps: Vec<Vec<f64>>,
}

/// ‖w_a − w_b‖₂ for all pairs of rows.
pub(super) fn gaps(weight: &Tensor) -> Result<Vec<Vec<f64>>> {
    let (classes, size) = weight.dims2()?;
    if classes < 2 {
        return Err(Error::Failed("one class has no decision boundary".into()));
    }
    let weight = numbers(weight)?;
    let rows: Vec<&[f64]> = weight.chunks_exact(size).collect();
    let gaps: Vec<Vec<f64>> = rows.iter().map(|a| rows.iter().map(|b| distance(a, b)).collect()).collect();
    for (a, row) in gaps.iter().enumerate() {
        if let Some(b) = (a + 1..classes).find(|b| row[*b] <= 0.0 || !row[*b].is_finite()) {
            let what = if row[b].is_finite() { "the same weights" } else { "weights that are not finite" };
            return Err(Error::Failed(format!("there is no boundary between classes {a} and {b}, of {what}")));
        }
    }
    Ok(gaps)
}

impl Fitted {
    fn new(config: &Config, head: &Head, features: &Tensor) -> Result<Self> {
        let mut origin = mean_row(&finite(features)?, features.dim(1)?);
        same("inputs of the last layer", head.weight.dim(1)?, origin.len())?;
        if config.relative_to == RelativeTo::Origin {
            origin.fill(0.0);
        }
        Ok(Self { origin, gaps: gaps(&head.weight)? })
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(self, fit.head()?, &fit.train()?.features)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        same("features", bank.features.dim(1)?, self.origin.len())?;
        same("logits", bank.logits.dim(1)?, self.gaps.len())?;
        let scores = map_both(&bank.logits, &bank.features, |logits, features| {
            let class = argmax(logits);
            let others = (0..logits.len()).filter(|other| *other != class);
            let distances = others.map(|other| (logits[class] - logits[other]) / self.gaps[class][other]);
            let mean = distances.sum::<f64>() / (logits.len() - 1) as f64;
            (-mean / distance(features, &self.origin).max(1e-8)) as f32
        })?;
        Scores::new(scores)
    }
}
