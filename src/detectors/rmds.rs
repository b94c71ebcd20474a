//! The relative Mahalanobis distance: how much farther an image is from every class than from the train images as a whole.
//!
//! score = min_c d_c² − d_0² with d_c² = (z − μ_c)ᵀ·Σ⁻¹·(z − μ_c) for the penultimate features z, the mean μ_c of the train images of
//! class c and the covariance Σ of all train images around their own class's mean; d_0² is the same with the mean and the covariance
//! of all train images, whatever their class.
//!
//! - Paper: Ren et al., *A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection*, 2021,
//!   <https://arxiv.org/abs/2106.09022>.
//! - Reference code: OpenOOD `rmds_postprocessor.py`; pytorch-ood `RMD`, whose scores are these divided by N.
//! - Deviations: none but f64 inside.

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, mahalanobis::Distances};
use crate::Result;

/// The relative Mahalanobis distance has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rmds")]
pub struct Config {}

/// Distances to the classes, and to all of them together.
struct Fitted {
    classes: Distances,
    background: Distances,
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        let classes = Distances::fit(&train.features, labels)?;
        let background = Distances::fit(&train.features, &vec![0; labels.len()])?;
        Ok(Box::new(Fitted { classes, background }))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let pairs = self.classes.nearest(&bank.features)?.into_iter().zip(self.background.nearest(&bank.features)?);
        Scores::new(pairs.map(|(class, background)| (class - background) as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let ranks = [self.classes.rank(), self.background.rank()];
        Some(serde_json::json!({ "rank_within_classes": ranks[0], "rank_of_all": ranks[1] }))
    }
}
