//! Cross-entropy: the mean over the batch of −ln softmax(f)_y.
//!
//! value = mean_i [ logsumexp(f_i) − f_{i, y_i} ]; gradient = (softmax(f) − onehot(y)) / N.
//!
//! - Reference code: PyTorch `torch.nn.functional.cross_entropy` with its defaults.
//! - Deviations: none. The row's maximum, which is subtracted so that nothing overflows, is a constant to the gradient;
//!   candle's own `log_softmax` differentiates it and adds rounding noise, more where the maximum is shared.

use candle_core::{D, Result, Tensor};

/// The mean cross-entropy of (N, K) logits against (N) u32 labels, a scalar; f32 or f64.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    if images == 0 || classes == 0 {
        candle_core::bail!("the cross-entropy of {images} × {classes} logits is undefined");
    }
    let max = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let own = shifted.gather(&labels.unsqueeze(1)?, D::Minus1)?;
    (log_sum - own)?.mean_all()
}
