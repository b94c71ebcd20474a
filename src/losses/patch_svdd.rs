//! Patches that lie nearly at one place have embeddings that are near.
//!
//! value = Σ over patch sizes of mean_i ‖a_i − b_i‖₂, for the embeddings a and b of a pair. By itself it is least where all embeddings are alike:
//! `patch_position` keeps them apart.
//!
//! - Paper: Yi & Yoon, *Patch SVDD*, ACCV 2020, <https://arxiv.org/abs/2006.16067>, equation 3.
//! - Code: `nuclearboy95/Anomaly-Detection-PatchSVDD-PyTorch`, `SVDD_Dataset.infer`.
//! - Deviation: 1e-24 is added to the square of a length, so that a pair of equal embeddings has a gradient, of 0.

use candle_core::{Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::{Output, windows::PatchPairs},
    yaml::limits::MOST_WEIGHT,
};

/// Added to the square of a length.
const LEAST: f64 = 1e-24;

/// Embeddings of patches at nearly one place are near.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PatchSvddLoss")]
pub struct Settings {
    /// λ, its factor. The code's default: 1; the example of its README has 0.001.
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
        &[Output::Patches]
    }

    fn only_while_learning(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| patch_svdd(step.shown.patches()?)))
    }
}

/// The loss of pairs of each size; f32 or f64.
///
/// # Errors
/// If there is no size, or shapes differ.
pub fn patch_svdd(sizes: &[PatchPairs]) -> Result<Tensor> {
    of_sizes(sizes, |pairs| {
        let [first, second] = &pairs.near;
        ((first - second)?.sqr()?.sum(1)? + LEAST)?.sqrt()?.mean_all()
    })
}

/// The sum over sizes.
pub(super) fn of_sizes(sizes: &[PatchPairs], of: impl Fn(&PatchPairs) -> Result<Tensor>) -> Result<Tensor> {
    let Some((first, others)) = sizes.split_first() else { bail!("there are no pairs of patches") };
    others.iter().try_fold(of(first)?, |sum, pairs| sum + of(pairs)?)
}
