//! The weighted density of a value's neighbourhood, and the anomaly factor.
//!
//! Of a value p, the k nearest centres N_k(p), their densities f(q), and d_k(q), the distance from q to its k-th nearest other
//! centre:
//!
//! w_q = exp(−(d_k(q) / min_{q ∈ N_k(p)} d_k(q) − 1)² / 2σ²),  WDE(p) = Σ w_q f(q) / Σ w_q,  WAF(p) = WDE(p) / f(p).
//!
//! The k nearest of sorted centres are k consecutive ones, and they change where p is as far from the one that leaves as from
//! the one that enters: WDE is a step function with at most C − k + 1 values, known once the centres are.
//!
//! - Papers: AFDU, eq. 6 to 10; the weights are those of RKOF, Gao et al., PAKDD 2011.
//! - Reference code: DDoutlier `RKOF` for the weights.
//! - Deviation: the paper's eq. 10 takes the minimum over N_k(q); its text says N_k(p), and so does RKOF.

use super::density::Density;

/// ln WDE as a step function of the position.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbourhood {
    /// Positions, in increasing order, from which on the next value holds.
    pub breaks: Vec<f64>,
    /// One more than `breaks`; like [`Density::log_sums`] without −ln(h√2π).
    pub log_densities: Vec<f64>,
}

impl Neighbourhood {
    /// Of `k` ≥ 1 neighbours, as many as there are centres if there are fewer; `sigma` > 0.
    pub fn new(density: &Density, k: usize, sigma: f64) -> Self {
        let centres = density.centres();
        let size = k.min(centres.len());
        let distances = k_distances(centres, k);
        let mut log_densities = centres.to_vec();
        density.log_sums(&mut log_densities);
        let windows = centres.len() - size + 1;
        let mean = |first: usize| {
            let (distances, densities) = (&distances[first..first + size], &log_densities[first..first + size]);
            let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = densities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut total, mut sum) = (0.0, 0.0);
            for (distance, density) in distances.iter().zip(densities) {
                // Centres coincide where values differ by less than sums of them can tell.
                let ratio = if distance > &nearest { distance / nearest } else { 1.0 };
                let weight = (-0.5 * ((ratio - 1.0) / sigma).powi(2)).exp();
                total += weight;
                sum += weight * (density - largest).exp();
            }
            largest + (sum / total).ln()
        };
        Self {
            breaks: (0..windows - 1).map(|first| f64::midpoint(centres[first], centres[first + size])).collect(),
            log_densities: (0..windows).map(mean).collect(),
        }
    }

    /// ln WDE at a position.
    pub fn log_density(&self, position: f64) -> f64 {
        self.log_densities[self.breaks.partition_point(|at| *at <= position)]
    }
}

/// Each centre's distance to its k-th nearest other, or to its farthest if there are no k others; 1 for a centre alone.
fn k_distances(centres: &[f64], k: usize) -> Vec<f64> {
    let others = k.min(centres.len() - 1);
    if others == 0 {
        return vec![1.0];
    }
    (0..centres.len())
        .map(|index| {
            let firsts = index.saturating_sub(others)..=index.min(centres.len() - 1 - others);
            let farthest =
                |first: usize| (centres[index] - centres[first]).max(centres[first + others] - centres[index]);
            firsts.map(farthest).fold(f64::INFINITY, f64::min)
        })
        .collect()
}
