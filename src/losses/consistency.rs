//! Consistency of features and scores: normal patches that are near each other by their embedding are near by their score.
//!
//! P are the distances of a patch's embedding to those of the image's patches, itself included, Q those of its score, of normal patches
//! alone;
//! value = mean over images of mean over patches of KL(softmax Q ‖ softmax P).
//!
//! - Paper: Tang et al., J. NUDT 2025, equations 6 and 7, which print the order (Q, P): `order: reversed` is KL(softmax P ‖ softmax Q).
//! - A patch is a square of positions, by the mean of its embeddings and scores; it is normal if no position of it is anomalous. The
//!   paper says neither its size nor how positions are put together.
//! - d = √(δ² + [`LEAST`]), δ² by the Gram matrix and cut at 0, so that equal patches have a gradient.
//! - An image without normal patches adds zero, and counts.

use candle_core::{D, Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    ops::{self, Pool},
    yaml::limits::MOST_WEIGHT,
};

/// Ours: a distance of 10⁻⁴, below what differs.
const LEAST: f64 = 1e-8;
/// What stands for −∞ where a patch is no part of a softmax. Ours: finite, so that rows without any part give no NaN.
const NEVER: f64 = -1e9;

/// Rows and columns of positions in a patch, at most. Ours: the finest grid's.
const MOST_PATCH: usize = 64;

/// Normal patches of an image are as near to each other by score as by embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Consistency")]
pub struct Settings {
    /// Its factor: ξ. The paper's: 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// Rows and columns of positions in a patch. Ours, since the paper does not say: 4, so that a 32×32 grid has 64 patches, whose pairs
    /// take 16 KB an image.
    #[garde(range(min = 1, max = MOST_PATCH))]
    pub patch: usize,
    /// Which divergence. The paper's: `paper`.
    #[garde(skip)]
    pub order: Order,
}

/// Which of the two distributions comes first in the divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// KL(scores ‖ features), as printed.
    #[default]
    Paper,
    /// KL(features ‖ scores).
    Reversed,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, patch: 4, order: Order::default() }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Embedding, Output::Scores]
    }

    fn of_masks(&self) -> bool {
        true
    }

    fn problem_on(&self, [rows, columns]: [usize; 2]) -> Option<(&'static str, String)> {
        let patch = self.patch;
        // A patch beyond its range is refused by that.
        (rows.min(columns) < patch && patch <= MOST_PATCH).then(|| {
            (
                "patch",
                format!(
                    "a grid of {rows}×{columns} has no patch of {patch}×{patch}: choose a smaller one, or larger images"
                ),
            )
        })
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let Self { patch, order, .. } = *self;
        Ok(Box::new(move |step| {
            let (embedding, scores) = (step.all.embedding()?, step.all.map()?);
            let (_, _, rows, columns) = embedding.dims4()?;
            consistency(embedding, scores, &step.anomalous([rows, columns], embedding)?, patch, order)
        }))
    }
}

/// The loss of (N, C, h, w) embeddings and (N, h, w) scores, in patches of `patch` × `patch` positions, without the rows and columns that
/// are left at the lower and the right edge; `anomalous` (N, h, w) is 1 at
/// anomalous positions and 0 at normal ones. f32 or f64. It holds some (N, K, K) numbers for K patches.
///
/// # Errors
/// If shapes differ, or there are fewer rows or columns than `patch`.
pub fn consistency(
    embedding: &Tensor,
    scores: &Tensor,
    anomalous: &Tensor,
    patch: usize,
    order: Order,
) -> Result<Tensor> {
    let (images, channels, rows, columns) = embedding.dims4()?;
    if rows < patch || columns < patch {
        bail!("consistency: a grid of {rows}×{columns} has no patch of {patch}×{patch}");
    }
    let patches = (rows / patch) * (columns / patch);
    let whole = |size: usize| size / patch * patch;
    let pooled = |values: &Tensor| {
        let values = values.narrow(2, 0, whole(rows))?.narrow(3, 0, whole(columns))?.contiguous()?;
        ops::avg_pool2d(&values, Pool::new(patch, patch, 0), true)
    };
    let features = pooled(embedding)?.reshape((images, channels, patches))?.transpose(1, 2)?.contiguous()?;
    let scores = pooled(&scores.unsqueeze(1)?)?.reshape((images, patches, 1))?;
    let normal = pooled(&anomalous.unsqueeze(1)?)?.reshape((images, patches))?.eq(0.0)?.to_dtype(embedding.dtype())?;

    let others = normal.unsqueeze(1)?;
    let by_features = log_softmax(&distances(&features)?, &others)?;
    // Of one number each, the difference itself loses no digits.
    let apart = scores.broadcast_sub(&scores.transpose(1, 2)?)?;
    let by_scores = log_softmax(&(apart.sqr()? + LEAST)?.sqrt()?, &others)?;
    let (first, second) = match order {
        Order::Paper => (by_scores, by_features),
        Order::Reversed => (by_features, by_scores),
    };
    let divergence = (first.exp()?.broadcast_mul(&others)? * (first - second)?)?.sum(D::Minus1)?;
    let count = normal.sum(D::Minus1)?.maximum(1.0)?;
    ((divergence * normal)?.sum(D::Minus1)? / count)?.mean_all()
}

/// (N, K, C) to the (N, K, K) distances of each to each.
fn distances(values: &Tensor) -> Result<Tensor> {
    // About their mean, which changes no distance, fewer digits cancel.
    let values = values.broadcast_sub(&values.detach().mean_keepdim(1)?)?;
    let squares = values.sqr()?.sum_keepdim(D::Minus1)?;
    let products = values.matmul(&values.transpose(1, 2)?)?;
    let sums = squares.broadcast_add(&squares.transpose(1, 2)?)?;
    let apart = Tensor::eye(values.dim(1)?, values.dtype(), values.device())?.affine(-1.0, 1.0)?;
    // A patch is at no distance from itself, whatever the rounding of its Gram matrix says.
    ((sums - (products * 2.0)?)?.relu()?.broadcast_mul(&apart)? + LEAST)?.sqrt()
}

/// The logarithm of a softmax over the entries that `among` (N, 1, K) marks by 1; finite for the others.
fn log_softmax(values: &Tensor, among: &Tensor) -> Result<Tensor> {
    let values = values.broadcast_add(&among.affine(-NEVER, NEVER)?)?;
    let values = values.broadcast_sub(&values.detach().max_keepdim(D::Minus1)?)?;
    values.broadcast_sub(&values.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
