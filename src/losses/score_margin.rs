//! Margins of the scores: those of normal positions below one, those of anomalous positions above the normal ones by another.
//!
//! value = mean over normal positions of max(0, S − γ) + mean over anomalous positions of max(0, λ − (S − Sₙ)).
//!
//! - Paper: Tang et al., J. NUDT 2025, equation 5, with γ = 2.5 and λ = 5. It does not say which normal score Sₙ an anomalous position
//!   is compared with: [`Pair`] does.
//! - Positions are counted over the batch. A kind of which there are none adds nothing.

use candle_core::{D, Result, Tensor};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value, hypersphere::mean},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// Margins, at most. Ours: far beyond any paper's.
const MOST: f64 = 1e6;

/// Scores of normal positions below `gamma`, those of anomalous positions above normal ones by `lambda`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ScoreMargin")]
pub struct Settings {
    /// Its factor: β. The paper's: 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// Normal scores are free below it: γ. The paper's: 2.5.
    #[garde(range(min = -MOST, max = MOST))]
    pub gamma: f64,
    /// How far anomalous scores are to be above normal ones: λ. The paper's: 5.
    #[garde(range(min = 0.0, max = MOST))]
    pub lambda: f64,
    /// Which normal score an anomalous one is compared with. Ours, since the paper does not say: `image`.
    #[garde(skip)]
    pub pair: Pair,
}

/// The normal score that an anomalous one is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pair {
    /// The mean of the normal positions of the same image; of the batch, for an image that has none.
    #[default]
    Image,
    /// The mean of the normal positions of the batch.
    Batch,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, gamma: 2.5, lambda: 5.0, pair: Pair::default() }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Scores]
    }

    fn of_masks(&self) -> bool {
        true
    }

    fn tells_anomalies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let Self { gamma, lambda, pair, .. } = *self;
        Ok(Box::new(move |step| {
            let scores = step.all.map()?;
            let (_, rows, columns) = scores.dims3()?;
            score_margin(scores, &step.anomalous([rows, columns], scores)?, [gamma, lambda], pair)
        }))
    }
}

/// The loss of (N, h, w) scores with the margins γ and λ; `anomalous` (N, h, w) is 1 at anomalous positions and 0 at normal ones. f32
/// or f64.
///
/// # Errors
/// If shapes differ.
pub fn score_margin(scores: &Tensor, anomalous: &Tensor, [gamma, lambda]: [f64; 2], pair: Pair) -> Result<Tensor> {
    let normal = anomalous.affine(-1.0, 1.0)?;
    let above = mean(&(scores - gamma)?.relu()?, &normal)?;
    let usual = mean(scores, &normal)?.reshape((1, 1, 1))?;
    let usual = match pair {
        Pair::Batch => usual,
        Pair::Image => {
            let count = normal.sum_keepdim((D::Minus1, D::Minus2))?;
            let own = ((scores * &normal)?.sum_keepdim((D::Minus1, D::Minus2))? / count.maximum(1.0)?)?;
            let has = count.minimum(1.0)?;
            (own + usual.broadcast_mul(&has.affine(-1.0, 1.0)?)?)?
        }
    };
    let below = scores.broadcast_sub(&usual)?.affine(-1.0, lambda)?.relu()?;
    above + mean(&below, anomalous)?
}
