//! A triangle: linearly from `start`·`lr` up to `lr`, then linearly down to `end`·`lr`. One cycle, as airbench trains.
//!
//! The peak is at step ⌊`peak_at`·total⌋; `end` would be reached at the step after the last one. As numpy's `interp` of the steps.
//!
//! - Code: `KellerJordan/cifar10-airbench`, `airbench94.py`: from 0.2 to 1 over 23 % of the steps, then to 0.07.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Curve, Place};

/// Settings of the triangle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Triangle")]
pub struct Settings {
    /// The first step's share of `lr`. airbench94's: 0.2.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_start")]
    pub start: f64,
    /// The share of all steps after which the rate is `lr`; 0 begins there. airbench94's: 0.23.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_peak_at")]
    pub peak_at: f64,
    /// The share of `lr` at the end. airbench94's: 0.07.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_end")]
    pub end: f64,
}

fn default_start() -> f64 {
    0.2
}

fn default_peak_at() -> f64 {
    0.23
}

fn default_end() -> f64 {
    0.07
}

impl Curve for Settings {
    fn lr(&self, full: f64, place: Place) -> f64 {
        let (step, total) = (place.step.min(place.total_steps) as f64, place.total_steps as f64);
        let peak = (self.peak_at * total).floor();
        let factor = match () {
            () if step < peak => self.start + (1.0 - self.start) * step / peak,
            () if step == peak => 1.0,
            () => 1.0 + (self.end - 1.0) * (step - peak) / (total - peak),
        };
        full * factor
    }
}
