//! LogitNorm: cross-entropy of logits of one length, so that the network cannot lower its loss by being louder.
//!
//! value = cross-entropy(f / (τ·(‖f‖₂ + 10⁻⁷))).
//!
//! - Paper: Wei et al., *Mitigating Neural Network Overconfidence with Logit Normalization*, ICML 2022,
//!   <https://arxiv.org/abs/2205.09310>, eq. 5. Scores read the logits as the network gives them.
//! - Reference code: `hongxin001/logitnorm_ood`, `common/loss_function.py`.
//! - Deviations: the gradient at f = 0 is 0, as PyTorch's; candle's square root has none there.

use candle_core::{D, Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value, cross_entropy},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over the batch of −log softmax of the true class, of logits scaled to one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LogitNorm")]
pub struct Settings {
    /// Factor of the term. Some term must have one above 0.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// τ: the length is 1/τ. 0.04 in the paper for CIFAR-10, and in OpenOOD.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.04 }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Softmax]
    }

    fn classifies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let temperature = self.temperature;
        Ok(Box::new(move |step| logit_norm(step.shown.logits()?, step.labels()?, temperature)))
    }
}

/// The mean cross-entropy of (N, K) logits, each row scaled to the length 1/`temperature`, against (N) u32 labels: a scalar, f32
/// or f64.
///
/// # Errors
/// As [`cross_entropy`].
pub fn logit_norm(logits: &Tensor, labels: &Tensor, temperature: f64) -> Result<Tensor> {
    // Far below the square of any logit that is not 0.
    let least = f64::from(f32::MIN_POSITIVE);
    let norms = ((logits.sqr()?.sum_keepdim(D::Minus1)? + least)?.sqrt()? + 1e-7)?;
    cross_entropy(&(logits.broadcast_div(&norms)? / temperature)?, labels, 0.0)
}
