//! `lr` throughout.

use super::{Curve, Place};

/// The constant schedule, which has no settings.
pub struct Constant;

impl Curve for Constant {
    fn lr(&self, full: f64, _: Place) -> f64 {
        full
    }
}
