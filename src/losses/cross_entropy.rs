//! Cross-entropy: the mean over the batch of −ln softmax(f)_y.
//!
//! value = mean_i [ logsumexp(f_i) − f_{i, y_i} ]; gradient = (softmax(f) − onehot(y)) / N.
//!
//! - Reference code: PyTorch `torch.nn.functional.cross_entropy` with its defaults.
//! - Deviations: none.

use candle_core::{Result, Tensor};

use crate::ops;

/// The mean cross-entropy of (N, K) logits against (N) u32 labels, a scalar; f32 or f64.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    ops::softmax_cross_entropy(logits, labels, 0.0)
}
