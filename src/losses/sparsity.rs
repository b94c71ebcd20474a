//! Sparsity: the mean over the batch of the L1 norm of the logits or the features.
//!
//! value = mean_i ‖f(x_i)‖₁; gradient = sign(f) / N with sign(0) = 0.
//!
//! - Paper: Chen & Li, *Sparsity-based regularization for out-of-distribution detection*, 2023, eq. 9: CE + λ · this, with λ = 0.01
//!   and f the K logits (section 2.3). The penultimate features are the other reading of its "feature vector".
//! - Reference code: none was published. The subgradient at 0 is PyTorch's (`torch.abs`); candle's `abs` has 1 there,
//!   which would push the exact zeros after a ReLU below zero.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over the batch of the L1 norm of the logits or features (Chen & Li 2023, eq. 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sparsity")]
pub struct Settings {
    /// λ: 0.01 in the paper; 0 is the control, plain fine-tuning.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What is made sparse. The paper's section 2.3 takes the vector after the fully connected layer.
    #[garde(skip)]
    #[serde(default)]
    pub target: SparsityTarget,
}

/// What the sparsity term takes the norm of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SparsityTarget {
    /// The K logits (the paper's f).
    #[default]
    Logits,
    /// The D penultimate features (the other reading of "feature vector").
    Features,
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        match self.target {
            SparsityTarget::Logits => &[Output::Logits],
            SparsityTarget::Features => &[Output::Features],
        }
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let target = self.target;
        Ok(Box::new(move |step| match target {
            SparsityTarget::Logits => sparsity(step.shown.logits()?),
            SparsityTarget::Features => sparsity(step.shown.features()?),
        }))
    }
}

/// The mean over rows of the L1 norm of (N, D) activations, a scalar; f32 or f64.
///
/// # Errors
/// If `activations` is not a matrix with at least one row.
pub fn sparsity(activations: &Tensor) -> Result<Tensor> {
    let (images, _) = activations.dims2()?;
    if images == 0 {
        candle_core::bail!("the sparsity of an empty batch is undefined");
    }
    let sign = activations.detach().sign()?;
    (activations * sign)?.sum_all()? / images as f64
}
