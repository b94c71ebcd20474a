//! The weighted Gaussian kernel density of a neuron's clusters, in log space.
//!
//! Positions are measured in bandwidths from the middle of the centres, in which the kernels' common factor 1/(h√2π) is left
//! out: a density is Σ w_i exp(−(u − z_i)²/2) with Σ w_i = 1. Each sum is taken relative to the nearest centre's kernel, so that
//! nothing underflows however far u is, and only over the centres within reach.

use crate::ops::wide;

/// Terms smaller than e^-REACH of the nearest centre's kernel are left out. With weights of at least 10^-7 they are below the
/// last digit of an f32.
pub(super) const REACH: f64 = 34.0;

/// Centres added up side by side.
const LANES: usize = 32;

/// As many of the last ones, so that few centres cost little.
const LAST_LANES: usize = 8;

/// A weighted Gaussian kernel density estimate over sorted centres.
#[derive(Debug, Clone)]
pub struct Density {
    /// The position that is 0.
    pub origin: f64,
    /// h > 0.
    pub bandwidth: f64,
    /// Centres without those that fill the last lanes.
    count: usize,
    /// In bandwidths from the origin, increasing; filled up with the last to a multiple of [`LAST_LANES`].
    centres: Vec<f64>,
    /// Shares of the values; 0 where filled up.
    weights: Vec<f32>,
}

impl Density {
    /// Of at least one centre, in increasing order, with positive weights; `bandwidth` > 0.
    pub fn new(centres: &[f64], weights: &[f64], bandwidth: f64) -> Self {
        let origin = f64::midpoint(centres[0], centres[centres.len() - 1]);
        let total: f64 = weights.iter().sum();
        let positions = centres.iter().map(|centre| (centre - origin) / bandwidth).collect();
        Self::from_parts(origin, bandwidth, positions, weights.iter().map(|weight| (weight / total) as f32).collect())
    }

    /// Of [`Density::centres`] and [`Density::weights`].
    pub fn from_parts(origin: f64, bandwidth: f64, mut centres: Vec<f64>, mut weights: Vec<f32>) -> Self {
        let count = centres.len();
        centres.resize(count.next_multiple_of(LAST_LANES), centres[count - 1]);
        weights.resize(centres.len(), 0.0);
        Self { origin, bandwidth, count, centres, weights }
    }

    /// The centres, in bandwidths from the origin, in increasing order.
    pub fn centres(&self) -> &[f64] {
        &self.centres[..self.count]
    }

    /// Their shares of the values.
    pub fn weights(&self) -> &[f32] {
        &self.weights[..self.count]
    }

    /// The centre up to which there is this share of the values.
    pub fn quantile(&self, share: f64) -> usize {
        let mut sum = 0.0;
        let reached = self.weights().iter().position(|weight| {
            sum += f64::from(*weight);
            sum >= share
        });
        reached.unwrap_or(self.count - 1)
    }

    /// A value's position: bandwidths from the origin.
    pub fn position(&self, value: f64) -> f64 {
        (value - self.origin) / self.bandwidth
    }

    /// ln Σ w_i exp(−(u − z_i)²/2) of each finite position, which it replaces; the log density but for −ln(h√2π).
    pub fn log_sums(&self, positions: &mut [f64]) {
        wide!({
            for position in positions {
                *position = self.log_sum(*position);
            }
        });
    }

    #[inline(always)]
    fn log_sum(&self, u: f64) -> f64 {
        let centres = self.centres();
        let right = centres.partition_point(|centre| *centre < u).min(self.count - 1);
        let left = right.saturating_sub(1);
        let nearest = if u - centres[left] < centres[right] - u { centres[left] } else { centres[right] };
        let distance = u - nearest;
        let reach = (distance * distance + 2.0 * REACH).sqrt();
        let first = centres[..right].partition_point(|centre| *centre < u - reach) / LANES * LANES;
        let end = (right + centres[right..].partition_point(|centre| *centre <= u + reach)).next_multiple_of(LANES);
        let end = end.min(self.centres.len());
        let mut sums = [0.0_f32; LANES];
        let (centres, last_centres) = self.centres[first..end].as_chunks::<LANES>();
        let (weights, last_weights) = self.weights[first..end].as_chunks::<LANES>();
        for (centres, weights) in centres.iter().zip(weights) {
            add(&mut sums, centres, weights, u, nearest);
        }
        let last = last_centres.as_chunks::<LAST_LANES>().0.iter().zip(last_weights.as_chunks::<LAST_LANES>().0);
        for (sums, (centres, weights)) in sums.as_chunks_mut::<LAST_LANES>().0.iter_mut().zip(last) {
            add(sums, centres, weights, u, nearest);
        }
        let sum: f64 = sums.iter().copied().map(f64::from).sum();
        sum.ln() - 0.5 * distance * distance
    }
}

/// Adds w_i exp((u − nearest)²/2 − (u − z_i)²/2) to each lane's sum.
#[inline(always)]
fn add<const N: usize>(sums: &mut [f32; N], centres: &[f64; N], weights: &[f32; N], u: f64, nearest: f64) {
    // Each step a loop of its own: only so does the compiler use vectors for f64 and f32 alike.
    let mut terms = [0.0_f32; N];
    for (term, centre) in terms.iter_mut().zip(centres) {
        // The difference of the squares, which are large far out, from factors that are not.
        *term = ((centre - nearest) * (2.0 * u - centre - nearest) * 0.5) as f32;
    }
    for term in &mut terms {
        *term = exp(*term);
    }
    for ((sum, term), weight) in sums.iter_mut().zip(&terms).zip(weights) {
        *sum += weight * term;
    }
}

/// e^x within 2·10⁻⁷ of it, for loops that are to use vectors. x is cut to −87..88, so that the result is a normal number; NaN
/// stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Added, it leaves an integer in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first of few digits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN_2[0] - n * LN_2[1];
    // Taylor: |r| ≤ ln 2 / 2.
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + factor;
    }
    let power = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(power)
}
