//! Energy margins: the energies of ID images are pushed below one margin, those of auxiliary outliers above another.
//!
//! value = mean_i max(0, E(f_i) − m_in)² + mean_j max(0, m_out − E(g_j))² with E(f) = −ln Σ_k exp(f_k), logits f of ID images
//! and g of outliers; gradient on f_i: −2·max(0, E(f_i) − m_in)·softmax(f_i) / N, on g_j: 2·max(0, m_out − E(g_j))·softmax(g_j) / M.
//!
//! - Paper: Liu et al., *Energy-based Out-of-distribution Detection*, NeurIPS 2020, section 3.2,
//!   <https://arxiv.org/abs/2010.03759>: cross-entropy + 0.1 · this, fine-tuning.
//! - Reference code: energy_ood `CIFAR/train.py`, `--score energy`.
//! - Deviations: none. Where an energy is exactly at its margin the gradient is 0, as PyTorch's.

use candle_core::{D, Result, Tensor, bail};

/// The sum of both means, a scalar, for (N, K) logits of ID images and (M, K) logits of outliers; f32 or f64.
///
/// # Errors
/// If either is not a matrix with at least one row and one column.
pub fn energy_margin(logits: &Tensor, outliers: &Tensor, m_in: f64, m_out: f64) -> Result<Tensor> {
    let above = (energies(logits)? - m_in)?.relu()?.sqr()?.mean_all()?;
    let below = (m_out - energies(outliers)?)?.relu()?.sqr()?.mean_all()?;
    above + below
}

/// −ln Σ_k exp(f_k) of each row f.
fn energies(logits: &Tensor) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    if images == 0 || classes == 0 {
        bail!("energy_margin: {images} images of {classes} classes have no energy");
    }
    // A constant that is added and taken away again: without it exp overflows.
    let peaks = logits.detach().max_keepdim(D::Minus1)?;
    let sums = logits.broadcast_sub(&peaks)?.exp()?.sum_keepdim(D::Minus1)?.log()?;
    (sums + peaks)?.squeeze(D::Minus1)?.neg()
}
