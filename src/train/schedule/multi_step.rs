//! `lr`·γ^(milestones reached by the epoch that the step is in): PyTorch's `MultiStepLR`, DDU.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Curve, Place};
use crate::train::recipe::MOST_EPOCHS;

/// Settings of the multi-step schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MultiStep")]
pub struct Settings {
    /// Epochs (counted from 0) at whose start the rate falls; rising.
    #[garde(length(min = 1), inner(range(max = MOST_EPOCHS)))]
    pub milestones: Vec<usize>,
    /// The factor. PyTorch's default: 0.1.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

fn default_gamma() -> f64 {
    0.1
}

impl Curve for Settings {
    fn lr(&self, full: f64, place: Place) -> f64 {
        let epoch = place.step / place.steps_per_epoch.max(1);
        let reached = self.milestones.iter().filter(|milestone| **milestone as u64 <= epoch).count();
        full * self.gamma.powi(reached as i32)
    }

    fn problem(&self) -> Option<(&'static str, &'static str)> {
        (!self.milestones.is_sorted_by(|a, b| a < b)).then_some(("milestones", "must rise"))
    }
}
