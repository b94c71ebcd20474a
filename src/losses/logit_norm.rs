//! LogitNorm: cross-entropy of logits of one length, so that the network cannot lower its loss by being louder.
//!
//! value = cross-entropy(f / (τ·(‖f‖₂ + 10⁻⁷))).
//!
//! - Paper: Wei et al., *Mitigating Neural Network Overconfidence with Logit Normalization*, ICML 2022,
//!   <https://arxiv.org/abs/2205.09310>, eq. 5. Scores read the logits as the network gives them.
//! - Reference code: `hongxin001/logitnorm_ood`, `common/loss_function.py`.
//! - Deviations: the gradient at f = 0 is 0, as PyTorch's; candle's square root has none there.

use candle_core::{D, Result, Tensor};

use super::cross_entropy;

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
