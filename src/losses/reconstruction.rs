//! Reconstruction: the mean squared difference between an image and what the model made of it.
//!
//! value = mean_{i,c,p} (x − x̂)²; gradient on x̂: 2·(x̂ − x) / (N·C·P).
//!
//! - Paper: Bergmann et al., *MVTec AD*, CVPR 2019, section 4.1.2: the L2 autoencoder.
//! - Deviation: images are normalised, as the model sees them, so that channels count by their deviation.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over pixels and channels of the squared difference between normal images and what the model makes of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Reconstruction")]
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
        &[Output::Images]
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| reconstruction(step.shown.images()?, step.images)))
    }
}

/// The mean over all elements of (x̂ − x)², a scalar; f32 or f64, both of one shape.
///
/// # Errors
/// If the shapes differ or are empty.
pub fn reconstruction(made: &Tensor, images: &Tensor) -> Result<Tensor> {
    (made - images.detach())?.sqr()?.mean_all()
}
