//! Denoising: the mean squared difference between what a model predicts in noisy images and what is there.
//!
//! value = mean_{i,c,p} (f(x_t, t) − target)²; gradient on f: 2·(f − target) / (N·C·P). The target is the noise, v, or the velocity.
//!
//! - Paper: Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239>, equation 14.
//! - Deviation from DDIM's and DiffOOD's code: it takes the sum over an image's values, and the mean over images alone. Adam makes steps of
//!   the same size of both. Gradients are smaller here by as many times as an image has values, so that a norm of 1 under `clip`, which cuts
//!   all of theirs, cuts few or none.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over images, pixels and channels of the squared difference between what a denoiser predicts and what is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Denoising")]
pub struct Settings {
    /// Its factor. Default: 1.
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
        &[Output::Noise]
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| {
            let [predicted, target] = step.shown.denoised()?;
            denoising(predicted, target)
        }))
    }
}

/// The mean over all elements of (f − target)², a scalar; f32 or f64, both of one shape.
///
/// # Errors
/// If the shapes differ or are empty.
pub fn denoising(predicted: &Tensor, target: &Tensor) -> Result<Tensor> {
    (predicted - target.detach())?.sqr()?.mean_all()
}
