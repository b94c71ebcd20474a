//! Sparsity: the mean over the batch of the L1 norm of the logits or the features.
//!
//! value = mean_i ‖f(x_i)‖₁; gradient = sign(f) / N with sign(0) = 0.
//!
//! - Paper: Chen & Li, *Sparsity-based regularization for out-of-distribution detection*, 2023, eq. 9: CE + λ · this, with λ = 0.01
//!   and f the K logits (section 2.3). The penultimate features are the other reading of its "feature vector".
//! - Reference code: none was published. The subgradient at 0 is PyTorch's (`torch.abs`); candle's `abs` has 1 there,
//!   which would push the exact zeros after a ReLU below zero.

use candle_core::{Result, Tensor};

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
