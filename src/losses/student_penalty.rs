//! EfficientAD's penalty: of images of other things, a student's maps are near 0, lest it learn what the teacher knows of them.
//!
//! value = mean of s² over auxiliary outliers, channels and positions, for the first pair's student.
//!
//! - Paper: Batzner, Heckler & König, *EfficientAD*, WACV 2024, equation 1: of images of ImageNet.
//! - Code: `nelson1425/EfficientAD`, `loss_penalty`: one such image with each train image, at random grey.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean square of a student's maps of auxiliary outliers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "StudentPenalty")]
pub struct Settings {
    /// Its factor. The paper's: 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Pairs]
    }

    fn of_outliers(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| student_penalty(step.outliers()?.pairs()?)))
    }
}

/// The loss of pairs of maps (N, C, h, w) of outliers; f32 or f64.
///
/// # Errors
/// If there are none.
pub fn student_penalty(pairs: &[(Tensor, Tensor)]) -> Result<Tensor> {
    match pairs.first() {
        Some((_, student)) => student.sqr()?.mean_all(),
        None => candle_core::bail!("student_penalty: there are no maps of a student"),
    }
}
