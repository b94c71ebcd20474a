//! Where one patch lies, seen from another: the cross-entropy of eight directions.
//!
//! value = Σ over patch sizes of mean_i [ logsumexp(f_i) − f_{i, d_i} ], for the logits f of a pair and its direction d.
//!
//! - Paper: Yi & Yoon, *Patch SVDD*, ACCV 2020, <https://arxiv.org/abs/2006.16067>, equation 4, after Doersch et al., *Unsupervised Visual
//!   Representation Learning by Context Prediction*, ICCV 2015.
//! - Code: `nuclearboy95/Anomaly-Detection-PatchSVDD-PyTorch`, `PositionClassifier.infer`.
//! - Deviations: none.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value, cross_entropy, patch_svdd::of_sizes},
    nn::{Output, windows::PatchPairs},
    yaml::limits::MOST_WEIGHT,
};

/// In which of eight directions a patch lies from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PatchPosition")]
pub struct Settings {
    /// Its factor. The code's: 1.
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
        Ok(Box::new(|step| patch_position(step.shown.patches()?)))
    }
}

/// The loss of pairs of each size; f32 or f64.
///
/// # Errors
/// If there is no size, or shapes do not fit.
pub fn patch_position(sizes: &[PatchPairs]) -> Result<Tensor> {
    of_sizes(sizes, |pairs| cross_entropy(&pairs.logits, &pairs.directions, 0.0))
}
