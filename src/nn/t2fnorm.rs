//! T2FNorm's last layer: linear in features of one length while it learns, and in the features as they are afterwards.
//!
//! logits = W·z/(τ·‖z‖₂) + b while it learns; W·z/τ + b in validation and for detectors. So a network cannot lower its loss by longer features,
//! and their length is left to tell images apart.
//!
//! - Paper: Regmi et al., *T2FNorm: Train-time Feature Normalization for OOD Detection in Image Classification*, CVPR Workshops 2024,
//!   <https://arxiv.org/abs/2305.17797>.
//! - Reference code: OpenOOD `openood/networks/t2fnorm_net.py`, `configs/pipelines/train/train_t2fnorm.yml`.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Head, Mode, Pass,
        backbone::LastLayerOf,
        heads::{Gives, HeadFamily, LastLayer},
        layers::Linear,
        linear::of_backbone,
    },
    ops::Activation,
};

/// Settings of T2FNorm's head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "T2fnorm")]
pub struct Settings {
    /// τ: features have the length 1/τ while the network learns. 0.1 in OpenOOD.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { temperature: 0.1 }
    }
}

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::LinearLogits;

    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        Ok(Box::new(T2fnorm { linear: of_backbone(own, classes, vb)?, temperature: self.temperature }))
    }
}

#[derive(Debug)]
struct T2fnorm {
    linear: Linear,
    temperature: f64,
}

/// PyTorch's `normalize` divides by no less.
const SHORTEST: f64 = 1e-12;

impl LastLayer for T2fnorm {
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let scaled = match pass.mode() {
            Mode::Eval => features.clone(),
            Mode::Train { .. } => {
                // Far below the square of any length that is not 0, where candle's square root has no gradient.
                let squares = (features.sqr()?.sum_keepdim(D::Minus1)? + f64::from(f32::MIN_POSITIVE))?;
                features.broadcast_div(&squares.sqrt()?.maximum(SHORTEST)?)?
            }
        };
        Ok((self.linear.forward(&(scaled / self.temperature)?, Activation::Identity, pass)?, features))
    }

    fn linear(&self) -> Option<Head> {
        let Head { weight, bias } = self.linear.head();
        Some(Head { weight: (weight / self.temperature).ok()?, bias })
    }
}
