//! Cross-entropy: the mean over the batch of −ln softmax(f)_y, or with label smoothing s of −Σ_k t_k ln softmax(f)_k,
//! t = (1 − s)·onehot(y) + s/K.
//!
//! value = mean_i [ logsumexp(f_i) − Σ t_k f_{i, k} ]; gradient = (softmax(f) − t) / N.
//!
//! - Paper: Szegedy et al., CVPR 2016, section 7, for label smoothing.
//! - Reference code: PyTorch `torch.nn.functional.cross_entropy`.
//! - Deviations: none.

use candle_core::{Result, Tensor};

use crate::ops;

/// The mean cross-entropy of (N, K) logits against (N) u32 labels, a scalar; f32 or f64. `label_smoothing` in 0..=1.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    ops::softmax_cross_entropy(logits, labels, label_smoothing)
}
