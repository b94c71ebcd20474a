//! Outlier exposure: on auxiliary outliers all classes are to be equally likely.
//!
//! value = mean_j [ logsumexp(g_j) − mean_k g_jk ], the cross-entropy of softmax(g_j) to the uniform distribution, with logits
//! g of outliers; gradient = (softmax(g_j) − 1/K) / M.
//!
//! - Paper: Hendrycks et al., *Deep Anomaly Detection with Outlier Exposure*, ICLR 2019, <https://arxiv.org/abs/1812.04606>:
//!   cross-entropy + 0.5 · this.
//! - Reference code: `hendrycks/outlier-exposure`, `CIFAR/oe_tune.py` and `oe_scratch.py`; energy_ood `CIFAR/train.py`,
//!   `--score OE`.
//! - Deviations: none.

use candle_core::{DType, Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value, cross_entropy},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over outliers of the cross-entropy to the uniform distribution (Hendrycks et al. 2019, section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OutlierExposure")]
pub struct Settings {
    /// λ: 0.5 in the paper for pictures, in outlier-exposure, energy_ood and OpenOOD; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 0.5 }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Softmax]
    }

    fn of_outliers(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| outlier_exposure(step.outliers()?.logits()?)))
    }
}

/// The mean cross-entropy of (M, K) logits of outliers to the uniform distribution, a scalar; f32 or f64.
///
/// # Errors
/// If there is no outlier or no class.
pub fn outlier_exposure(outliers: &Tensor) -> Result<Tensor> {
    // With all of the target spread over the classes no label has a say.
    let labels = Tensor::zeros(outliers.dim(0)?, DType::U32, outliers.device())?;
    cross_entropy(outliers, &labels, 1.0)
}
