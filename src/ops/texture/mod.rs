//! Statistics of a texture: the operations of Zhu et al., *Learning Statistical Texture for Semantic Segmentation* (STLNet), CVPR 2021.
//!
//! Each pixel's similarity to a mean is quantised into levels between the least and the largest similarity of its map or cell. A pixel
//! is counted at one or two adjacent levels only. So no table of pixels by levels is made: what a pixel hits is computed anew, forward and
//! backward, from its similarity. On a GPU the same is composed of candle's operations ([`plain`]), with that table.

mod cooccurrence;
mod cosine;
mod count;
mod pairs;
mod plain;
mod redistribute;
#[cfg(test)]
mod tests;

use candle_core::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cooccurrence::cooccurrence;
pub use cosine::cosine_similarity;
pub use count::quantise_and_count;
pub use pairs::pair_features;
pub use redistribute::redistribute;

use super::Float;

/// Which levels a similarity is counted at. N levels divide the range of the similarities, `least` to `largest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Assign {
    /// Equation 1 of Tang et al. 2025: level n of 1..N is least + n/N of the range, and a similarity is counted at the nearest one. The
    /// equation's half-width, 0.5/N, is read as a share of the range. As printed, it would find no level, or several, wherever the range
    /// is not 1. What lies below the first level by more than half a width is counted there, so that no pixel is lost.
    Paper,
    /// STLNet's published code: level n of 0..N−1 is the centre of the nth bin, and a similarity is counted at every level that is less
    /// than a whole bin away: two, except near the ends.
    Official,
}

/// How similarities become levels. A similarity m is counted at a level L with the weight 1 − |L − m|.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiser {
    /// N, at least 1.
    pub levels: usize,
    /// Which of them a similarity is counted at.
    pub assign: Assign,
}

/// The least range that is quantised: a map of a smaller one is constant, up to the rounding of f32, and hits no level. Ours: 1e-6, some
/// eight units in the last place of a cosine near 1. STLNet's code divides 0 by 0 there.
const LEAST_RANGE: f64 = 1e-6;

/// The least length of a vector that has a direction, as PyTorch's `normalize`. A shorter one has the similarity 0 to all, or nearly, and
/// no gradient.
const LEAST_NORM: f64 = 1e-12;

impl Quantiser {
    fn check(self, name: &str) -> Result<()> {
        if self.levels == 0 {
            bail!("{name}: there must be at least one level");
        }
        Ok(())
    }

    /// Where each level stands in the range: 0 is the least similarity, 1 the largest.
    fn places(self) -> impl Iterator<Item = f64> {
        let levels = self.levels as f64;
        (0..self.levels).map(move |n| match self.assign {
            Assign::Paper => (n + 1) as f64 / levels,
            Assign::Official => (2 * n + 1) as f64 / (2.0 * levels),
        })
    }
}

/// What the similarities of one map or cell hit.
///
/// Level n of 0..N−1 stands at n + 1 in rows of N + 2 elements, so that every similarity has two adjacent places; a weight of 0 is no hit.
struct Hits<T> {
    quantiser: Quantiser,
    least: f64,
    range: f64,
    /// The first places of the least and the largest similarity.
    ends: [usize; 2],
    /// The lower of the two places of each similarity.
    below: Vec<u32>,
    weights: [Vec<T>; 2],
    /// The derivative of each weight by the similarity, and by minus the level: 1, −1 or 0.
    slopes: [Vec<T>; 2],
}

impl<T: Float> Hits<T> {
    fn new(quantiser: Quantiser, similarities: impl Iterator<Item = T> + Clone) -> Self {
        let mut ends = [(0, f64::INFINITY), (0, f64::NEG_INFINITY)];
        for (i, value) in similarities.clone().map(T::to_f64).enumerate() {
            // A NaN becomes both ends, so that it shows in the result.
            if value < ends[0].1 || value.is_nan() {
                ends[0] = (i, value);
            }
            if value > ends[1].1 || value.is_nan() {
                ends[1] = (i, value);
            }
        }
        let [(least_at, least), (largest_at, largest)] = ends;
        let range = largest - least;
        let count = similarities.size_hint().0;
        let mut hits = Self {
            quantiser,
            least,
            range,
            ends: [least_at, largest_at],
            below: Vec::with_capacity(count),
            weights: [Vec::with_capacity(count), Vec::with_capacity(count)],
            slopes: [Vec::with_capacity(count), Vec::with_capacity(count)],
        };
        let places: Vec<f64> = quantiser.places().collect();
        let bins = quantiser.levels as f64;
        for value in similarities.map(T::to_f64) {
            let bin = (value - least) * (bins / range);
            let (below, hit) = match quantiser.assign {
                _ if range <= LEAST_RANGE => (0, [false; 2]),
                // The nearest of 1..N: −½ ≤ n − bin < ½.
                Assign::Paper => ((bin - 0.5).ceil().max(1.0).min(bins) as usize, [true, false]),
                Assign::Official => {
                    let (centre, last) = (bin - 0.5, bins - 1.0);
                    let lower = centre.floor().max(-1.0).min(last);
                    ((lower + 1.0) as usize, [lower >= 0.0, lower < last && centre != lower])
                }
            };
            hits.below.push(below as u32);
            for side in 0..2 {
                let distance = match hit[side] {
                    true => places[below + side - 1] * range + least - value,
                    false => 0.0,
                };
                let (weight, slope) = match hit[side] {
                    true if distance == 0.0 => (1.0, 0.0),
                    true => (1.0 - distance.abs(), distance.signum()),
                    false => (0.0, 0.0),
                };
                hits.weights[side].push(T::from_f64(weight));
                hits.slopes[side].push(T::from_f64(slope));
            }
        }
        hits
    }

    /// Elements of a row with a place at either end.
    fn row(&self) -> usize {
        self.quantiser.levels + 2
    }

    /// The levels themselves.
    fn levels(&self) -> impl Iterator<Item = f64> {
        let (least, range) = (self.least, self.range);
        self.quantiser.places().map(move |place| place * range + least)
    }

    /// The two weights of one similarity, f64.
    fn pair(&self, i: usize) -> [f64; 2] {
        [self.weights[0][i].to_f64(), self.weights[1][i].to_f64()]
    }

    /// The gradient of the similarities, from those of their weights and, in a row with a place at either end, of the levels.
    fn gradient(&self, weights: [&[T]; 2], mut levels: Vec<f64>) -> Vec<T> {
        let mut similarities: Vec<T> = Vec::with_capacity(self.below.len());
        for (i, &below) in self.below.iter().enumerate() {
            let sides = [0, 1].map(|side: usize| weights[side][i] * self.slopes[side][i]);
            for (level, side) in levels[below as usize..].iter_mut().zip(sides) {
                *level -= side.to_f64();
            }
            similarities.push(sides[0] + sides[1]);
        }
        let mut ends = [0.0; 2];
        for (place, level) in self.quantiser.places().zip(&levels[1..]) {
            ends[0] += (1.0 - place) * level;
            ends[1] += place * level;
        }
        for (at, end) in self.ends.into_iter().zip(ends) {
            similarities[at] += T::from_f64(end);
        }
        similarities
    }
}

/// The gradient of counts that were divided by their sum, `total`, from that of the shares.
fn of_counts(shares: &[f64], gradient: &[f64], total: f64) -> Vec<f64> {
    if total <= 0.0 {
        return vec![0.0; shares.len()];
    }
    let mean: f64 = shares.iter().zip(gradient).map(|(share, gradient)| share * gradient).sum();
    gradient.iter().map(|gradient| (gradient - mean) / total).collect()
}
