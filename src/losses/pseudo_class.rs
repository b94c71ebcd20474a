//! Which maker changed an image: the cross-entropy of 1 + M classes, where class 0 is a normal image and class m one that the m-th maker of
//! `train.outliers.make` changed.
//!
//! value = mean_i [ logsumexp(f_i) − f_{i, m_i} ] over all images of a batch, normal ones and made ones.
//!
//! - Paper: Li et al., *CutPaste: Self-Supervised Learning for Anomaly Detection and Localization*, CVPR 2021,
//!   <https://arxiv.org/abs/2104.04015>, equation 1: two classes, and of `CutPaste (3-way)` three.
//! - Code: none was published. `Runinho/pytorch-cutpaste` has each image in every batch once of each class; here a class has its share of an
//!   epoch, which `share: 0.6667` of two makers makes a third.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value, cross_entropy},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Which maker changed an image, if any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PseudoClass")]
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
        &[Output::Makers]
    }

    fn of_masks(&self) -> bool {
        true
    }

    fn tells_anomalies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(move |step| {
            let logits = step.all.makers()?;
            match step.marked {
                Some(marked) => pseudo_class(logits, &marked.makers),
                // Held-out images are normal.
                None => pseudo_class(logits, &vec![0; logits.dim(0)?]),
            }
        }))
    }
}

/// The loss of (N, 1 + M) logits; `makers` (N) is 0 for a normal image, else one more than the place of the maker that changed it. f32 or f64.
///
/// # Errors
/// If there are not N makers, or one is above M.
pub fn pseudo_class(logits: &Tensor, makers: &[u32]) -> Result<Tensor> {
    cross_entropy(logits, &Tensor::new(makers, logits.device())?, 0.0)
}
