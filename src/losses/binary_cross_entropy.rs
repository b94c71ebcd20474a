//! Binary cross-entropy of a DUQ network's kernels: each class is told from the others by itself.
//!
//! value = −mean_{i,c} [ y_ic ln K_ic + (1 − y_ic) ln(1 − K_ic) ] with one-hot y, from l = ln K ≤ 0.
//!
//! - Paper: van Amersfoort et al., *Uncertainty Estimation Using a Single Deep Deterministic Neural Network*, ICML 2020,
//!   <https://arxiv.org/abs/2003.02037>, eq. 2.
//! - Reference code: `y0ast/deterministic-uncertainty-quantification`: `torch.nn.functional.binary_cross_entropy`, a mean over
//!   images and classes.
//! - Deviations: ln K is taken as it is, where PyTorch takes the logarithm of a K that may have underflown and bounds it at
//!   −100; so an image far from its class's centroid keeps its gradient. 1 − K is at least 1e-12, as in PyTorch's gradient.

use candle_core::{DType, Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    ops::one_hot,
    yaml::limits::MOST_WEIGHT,
};

/// Mean over images and classes of the binary cross-entropy of the kernels (van Amersfoort et al. 2020, eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "BinaryCrossEntropy")]
pub struct Settings {
    /// Factor of the term.
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
        &[Output::Kernels]
    }

    fn classifies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| binary_cross_entropy(step.shown.logits()?, step.labels()?)))
    }
}

/// The mean binary cross-entropy of kernels K = exp(`log_kernels`), (N, C), against the one-hot form of (N) u32 labels, a
/// scalar; f32 or f64.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below C.
pub fn binary_cross_entropy(log_kernels: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let targets = one_hot(labels, log_kernels.dim(1)?)?.to_dtype(DType::F64)?;
    if targets.dims() != log_kernels.dims() {
        bail!("binary_cross_entropy: kernels {:?} for {:?} labels", log_kernels.dims(), labels.dims());
    }
    // f64, because 1 − K of a near centroid has no digits in f32.
    let log_k = log_kernels.to_dtype(DType::F64)?;
    let log_rest = (1.0 - log_k.exp()?)?.maximum(1e-12)?.log()?;
    let likelihood = ((&targets * log_k)? + ((1.0 - &targets)? * log_rest)?)?;
    likelihood.mean_all()?.neg()?.to_dtype(log_kernels.dtype())
}
