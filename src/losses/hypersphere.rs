//! Hypersphere classification of every position: normal ones near the origin, anomalous ones away from it.
//!
//! A = √(‖ψ‖² + 1) − 1 for the embedding ψ of a position;
//! value = ½ · mean over normal positions of A + ½ · mean over anomalous positions of −ln(1 − exp(−A)).
//!
//! - Paper: Tang et al., *Image anomaly detection algorithm using multi-level feature fusion network*, J. NUDT 2025, equation 4, after
//!   Liznerski et al., *Explainable Deep One-Class Classification* (FCDD), ICLR 2021, <https://arxiv.org/abs/2007.01760>.
//! - A = ‖ψ‖² / (√(‖ψ‖² + 1) + 1) and 1 − exp(−A) = tanh(A/2)·(1 + exp(−A)), which lose no digits where A is small.
//! - Deviation: [`LEAST`] is added to A of anomalous positions: the logarithm and its gradient stay finite at the origin.
//! - Positions are counted over the batch. A kind of which there are none adds nothing.

use candle_core::{Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Ours: small against the distances of both kinds, and far from where f32 ends.
const LEAST: f64 = 1e-6;

/// Normal positions near the origin, anomalous ones away from it; both kinds count alike, however many there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Hypersphere")]
pub struct Settings {
    /// Its factor: α. The paper's: 1.
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
        &[Output::Embedding]
    }

    fn of_masks(&self) -> bool {
        true
    }

    fn tells_anomalies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        Ok(Box::new(|step| {
            let embedding = step.all.embedding()?;
            let (_, _, rows, columns) = embedding.dims4()?;
            hypersphere(embedding, &step.anomalous([rows, columns], embedding)?)
        }))
    }
}

/// A of every position: (N, C, h, w) to (N, h, w). Zero at the origin.
///
/// # Errors
/// If there are not four axes.
pub fn distance(embedding: &Tensor) -> Result<Tensor> {
    let squares = embedding.sqr()?.sum(1)?;
    &squares / ((&squares + 1.0)?.sqrt()? + 1.0)?
}

/// The loss of (N, C, h, w) embeddings; `anomalous` (N, h, w) is 1 at anomalous positions and 0 at normal ones. f32 or f64.
///
/// # Errors
/// If shapes differ.
pub fn hypersphere(embedding: &Tensor, anomalous: &Tensor) -> Result<Tensor> {
    let distance = distance(embedding)?;
    let normal = anomalous.affine(-1.0, 1.0)?;
    mean(&distance, &normal)? * 0.5 - (mean(&likelihood(&distance)?, anomalous)? * 0.5)?
}

/// ln(1 − exp(−A)) of distances A, finite at the origin.
pub(super) fn likelihood(distance: &Tensor) -> Result<Tensor> {
    let away = (distance + LEAST)?;
    let half = (&away * 0.5)?.tanh()?;
    half.log()? + (away.neg()?.exp()? + 1.0)?.log()?
}

/// The mean of the values that are marked by 1; zero without any.
pub(super) fn mean(values: &Tensor, marked: &Tensor) -> Result<Tensor> {
    (values * marked)?.sum_all()? / marked.sum_all()?.maximum(1.0)?
}
