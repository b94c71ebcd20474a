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
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Of an energy, up and down. Ours: far beyond any network's.
const MOST_ENERGY: f64 = 1e6;

/// Mean over ID images of max(0, E − m_in)² plus mean over outliers of max(0, m_out − E)², with the energy
/// E = −logsumexp(logits) (Liu et al. 2020, eq. 8 and 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "EnergyMargin")]
pub struct Settings {
    /// λ: 0.1 in the paper and in energy_ood; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What the energies of ID images are to be below: −23 in energy_ood's run.sh for CIFAR-10 (−27 for CIFAR-100; −25 unless
    /// given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_in: f64,
    /// What the energies of outliers are to be above: −5 in energy_ood's run.sh for both CIFARs (−7 unless given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_out: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 0.1, m_in: -23.0, m_out: -5.0 }
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

    fn problem(&self) -> Option<(&'static str, String)> {
        let message = format!("must be below m_out, which is {}: ID images have the lower energies", self.m_out);
        (self.m_in >= self.m_out).then_some(("m_in", message))
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let (m_in, m_out) = (self.m_in, self.m_out);
        Ok(Box::new(move |step| energy_margin(step.shown.logits()?, step.outliers()?.logits()?, m_in, m_out)))
    }
}

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
