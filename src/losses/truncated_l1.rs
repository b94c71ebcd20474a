//! The truncated L1 loss: scores of normal positions below −m, those of the same with noise above m.
//!
//! With s the score of a position and s' that of its features with noise, value = mean of max(0, s + m) + mean of max(0, m − s').
//!
//! - Paper: Liu et al., *SimpleNet*, CVPR 2023, equations 6 and 7, <https://arxiv.org/abs/2303.15140>. Its D is −s.
//! - Code: `DonaldRR/SimpleNet`, `simplenet.py`.
//! - Held-out images come without noise. They are judged by the first mean.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Scores of normal positions low, those of the same with noise high.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "TruncatedL1")]
pub struct Settings {
    /// Its factor. The paper's: 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// m. The paper's: 0.5.
    #[garde(range(min = 0.0, max = 1e6))]
    pub margin: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, margin: 0.5 }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Scores, Output::Noised]
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let margin = self.margin;
        Ok(Box::new(move |step| truncated_l1(step.shown.map()?, step.shown.noised.as_ref(), margin)))
    }
}

/// The loss of scores (N, h, w), and of those with noise, if there are any; f32 or f64.
///
/// # Errors
/// If there are no scores.
pub fn truncated_l1(scores: &Tensor, noised: Option<&Tensor>, margin: f64) -> Result<Tensor> {
    let normal = scores.affine(1.0, margin)?.relu()?.mean_all()?;
    match noised {
        Some(noised) => normal + noised.affine(-1.0, margin)?.relu()?.mean_all()?,
        None => Ok(normal),
    }
}
