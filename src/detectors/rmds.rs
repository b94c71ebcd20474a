//! The relative Mahalanobis distance: how much farther an image is from every class than from the train images as a whole.
//!
//! score = min_c d_c² − d_0² with d_c² = (z − μ_c)ᵀ·Σ⁻¹·(z − μ_c) for the penultimate features z, the mean μ_c of the train images of
//! class c and the covariance Σ of all train images around their own class's mean; d_0² is the same with the mean and the covariance
//! of all train images, whatever their class. With `normalise`, z is divided by its length before all of this: RMDS++.
//!
//! - Paper: Ren et al., *A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection*, 2021,
//!   <https://arxiv.org/abs/2106.09022>. RMDS++: Mueller, Hein, *Mahalanobis++: Improving OOD Detection via Feature Normalization*, ICML
//!   2025, <https://arxiv.org/abs/2505.18032>.
//! - Reference code: OpenOOD `rmds_postprocessor.py`; pytorch-ood `RMD`, whose scores are these divided by N. RMDS++:
//!   `mueller-mp/maha-norm`, `rmdsn_postprocessor.py`, which gives the negative of these scores.
//! - Deviations: none but f64 inside. With `normalise`, features of zeros stay as they are, where the reference has NaN.

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, mahalanobis::Distances};
use crate::Result;

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Rmds")]
pub struct Config {
    /// Whether features are divided by their length. false: Ren et al.'s and OpenOOD v1.5's; true is RMDS++.
    #[garde(skip)]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = false))]
    pub normalise: bool,
}

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
        let classes = Distances::fit(&train.features, labels, self.normalise)?;
        let background = Distances::fit(&train.features, &vec![0; labels.len()], self.normalise)?;
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
