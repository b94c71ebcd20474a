//! Compactness: the numbers that describe a patch tell different things.
//!
//! value = Σ over i ≠ j of c(i, j)², for the correlation c of channels i and j over all images and positions; the sum of it over several sizes
//! of patches.
//!
//! - Paper: Bergmann et al., *Uninformed Students*, CVPR 2020, equation 4, after Vassileios Balntas et al., L2-Net: a teacher's descriptions
//!   have little redundancy. The paper sums the correlations themselves; squares are what keeps them from cancelling.
//! - Code: none was published; `denguir/student-teacher-anomaly-detection`, `teacher_training.py`, has the squares.
//! - A channel that does not vary is correlated with none.

use candle_core::{Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    ops,
    yaml::limits::MOST_WEIGHT,
};

/// Added to a variance: a channel that does not vary has a slope, but no direction.
const LEAST: f64 = 1e-12;

/// Sum of the squared correlations of an embedding's channels with each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Compactness")]
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
        &[Output::Embedding]
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| {
            let mut values = step.shown.embeddings()?.map(compactness);
            let first = values.next().unwrap_or_else(|| bail!("compactness: there is no embedding"))?;
            values.try_fold(first, |sum, value| sum + value?)
        }))
    }
}

/// The loss of (N, C, h, w) embeddings; f32 or f64.
///
/// # Errors
/// If there are no values.
pub fn compactness(embedding: &Tensor) -> Result<Tensor> {
    let (images, channels, rows, columns) = embedding.dims4()?;
    let count = (images * rows * columns) as f64;
    let mean = embedding.mean_keepdim((0, 2, 3))?;
    let covariance = (ops::channel_products(&embedding.broadcast_sub(&mean)?)? / count)?;
    let eye = Tensor::eye(channels, covariance.dtype(), covariance.device())?;
    let variance = (&covariance * &eye)?.sum(1)?;
    let scale = (variance + LEAST)?.sqrt()?.recip()?;
    let correlation = covariance.broadcast_mul(&scale.unsqueeze(0)?)?.broadcast_mul(&scale.unsqueeze(1)?)?;
    (correlation.sqr()? * eye.affine(-1.0, 1.0)?)?.sum_all()
}
