//! Half a cosine from `lr` to `final_lr`: final + (lr − final)·½(1 + cos(π·step/total)), as energy_ood and OpenOOD. The first step
//! has `lr`, the last one still a little more than `final_lr`.

use std::f64::consts::PI;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Curve, Place};

/// Settings of the cosine schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cosine")]
pub struct Settings {
    /// The learning rate that the last step approaches: 1e-6 in energy_ood and OpenOOD.
    #[garde(range(min = 0.0, max = 1000.0))]
    #[serde(default = "default_final_lr")]
    pub final_lr: f64,
}

fn default_final_lr() -> f64 {
    1e-6
}

impl Curve for Settings {
    fn lr(&self, full: f64, place: Place) -> f64 {
        let progress = place.step.min(place.total_steps) as f64 / place.total_steps.max(1) as f64;
        self.final_lr + (full - self.final_lr) * 0.5 * (1.0 + (progress * PI).cos())
    }
}
