//! `lr`·γ^epoch: PyTorch's `ExponentialLR`, FCDD.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Curve, Place};

/// Settings of the exponential schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Exponential")]
pub struct Settings {
    /// The factor after each epoch. FCDD's: 0.985.
    #[garde(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
}

impl Curve for Settings {
    fn lr(&self, full: f64, place: Place) -> f64 {
        let epoch = place.step / place.steps_per_epoch.max(1);
        full * self.gamma.powf(epoch as f64)
    }
}
