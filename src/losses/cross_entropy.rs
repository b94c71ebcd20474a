//! Cross-entropy: the mean over the batch of −ln softmax(f)_y, or with label smoothing s of −Σ_k t_k ln softmax(f)_k,
//! t = (1 − s)·onehot(y) + s/K.
//!
//! value = mean_i [ logsumexp(f_i) − Σ t_k f_{i, k} ]; gradient = (softmax(f) − t) / N.
//!
//! With a weight w for each class it is the weighted mean: Σ_i Σ_k w_k t_k (−ln softmax(f_i)_k) / Σ_i w_{y_i}.
//!
//! - Paper: Szegedy et al., CVPR 2016, section 7, for label smoothing.
//! - Reference code: PyTorch `torch.nn.functional.cross_entropy`.
//! - Deviations: none.

use candle_core::{D, Result, Tensor, bail};

use super::one_hot;
use crate::ops;

/// The mean cross-entropy of (N, K) logits against (N) u32 labels, a scalar; f32 or f64. `label_smoothing` in 0..=1.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    ops::softmax_cross_entropy(logits, labels, label_smoothing)
}

/// The weighted mean of the same, with the `weights` (K) of the classes, of the logits' type.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn weighted_cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    label_smoothing: f64,
    weights: &Tensor,
) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    if labels.dims() != [images] || weights.dims() != [classes] {
        bail!("cross-entropy: {:?} logits, {:?} labels, {:?} weights", logits.dims(), labels.dims(), weights.dims());
    }
    let own = one_hot(labels, classes)?.to_dtype(logits.dtype())?.broadcast_mul(weights)?;
    let every = (weights * (label_smoothing / classes as f64))?;
    let targets = (&own * (1.0 - label_smoothing))?.broadcast_add(&every)?;
    // Less the largest, which is a constant.
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_softmax = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    // A batch of images that count nothing has a loss of 0, not of 0/0.
    let total = own.sum_all()?.maximum(f64::from(f32::MIN_POSITIVE))?;
    (targets * log_softmax)?.sum_all()?.neg()?.div(&total)
}
