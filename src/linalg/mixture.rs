//! A mixture of Gaussians, by expectation maximisation.
//!
//! - Algorithm: Dempster et al., JRSS B 39(1), 1977; the start is k-means, from k-means++ (Arthur & Vassilvitskii, SODA 2007).
//! - Reference code: scikit-learn's `GaussianMixture`, whose start, steps and ends these are: an end where the mean logarithm of the density
//!   moves by less than 0.001, and 10⁻⁶ on the diagonals of the covariances.

use rand::Rng as _;
use rayon::prelude::*;

use super::{Cholesky, dot};
use crate::rng::Rng;

/// On the diagonal of every covariance. scikit-learn's.
const RIDGE: f64 = 1e-6;
/// Steps end where the mean logarithm of the density moves by less. scikit-learn's.
const TOLERANCE: f64 = 1e-3;
/// Steps of k-means at most. Ours: the start need not be exact.
const CLUSTERING: usize = 100;

/// What a Gaussian's covariance may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covariance {
    /// Any.
    Full,
    /// Of values that do not vary together.
    Diagonal,
}

/// A mixture of Gaussians.
#[derive(Debug, Clone)]
pub struct Mixture {
    size: usize,
    parts: Vec<Part>,
    /// Steps that were taken, and whether they came to an end by themselves.
    pub steps: (usize, bool),
}

#[derive(Debug, Clone)]
struct Part {
    log_weight: f64,
    mean: Vec<f64>,
    covariance: Cholesky,
}

impl Mixture {
    /// Of `rows` (N, size), with `count` Gaussians, in `most` steps at most.
    ///
    /// `None` if a covariance is not positive definite to working precision: rows that are not finite, or far larger than 1.
    ///
    /// # Panics
    /// When there are fewer rows than Gaussians, or the rows are not whole.
    pub fn new(
        rows: &[f64],
        size: usize,
        count: usize,
        covariance: Covariance,
        most: usize,
        rng: &mut Rng,
    ) -> Option<Self> {
        assert!(rows.len().is_multiple_of(size) && rows.len() / size >= count, "{count} Gaussians of rows of {size}");
        let labels = clusters(rows, size, count, rng);
        Self::from_labels(rows, size, &labels, count, covariance, most)
    }

    /// The same from a start where every row is of one Gaussian alone.
    pub fn from_labels(
        rows: &[f64],
        size: usize,
        labels: &[usize],
        count: usize,
        covariance: Covariance,
        most: usize,
    ) -> Option<Self> {
        let mut shares = vec![0.0; labels.len() * count];
        labels.iter().enumerate().for_each(|(row, label)| shares[row * count + label] = 1.0);
        let mut mixture = Self { size, parts: parts(rows, size, &shares, count, covariance)?, steps: (0, false) };
        let mut last = f64::NEG_INFINITY;
        while mixture.steps.0 < most && !mixture.steps.1 {
            let densities = mixture.shares(rows, &mut shares);
            let mean = densities.iter().sum::<f64>() / densities.len() as f64;
            mixture.parts = parts(rows, size, &shares, count, covariance)?;
            mixture.steps = (mixture.steps.0 + 1, (mean - last).abs() < TOLERANCE);
            last = mean;
        }
        Some(mixture)
    }

    /// ln p of each of `rows` (N, size).
    pub fn log_densities(&self, rows: &[f64]) -> Vec<f64> {
        self.shares(rows, &mut vec![0.0; rows.len() / self.size * self.parts.len()])
    }

    /// The same, and each row's shares (N, K) in the Gaussians.
    fn shares(&self, rows: &[f64], shares: &mut [f64]) -> Vec<f64> {
        let (size, count) = (self.size, self.parts.len());
        let constant = size as f64 * std::f64::consts::TAU.ln();
        for (part, Part { log_weight, mean, covariance }) in self.parts.iter().enumerate() {
            let centred: Vec<f64> =
                rows.chunks_exact(size).flat_map(|row| row.iter().zip(mean).map(|(x, mean)| x - mean)).collect();
            let constant = log_weight - 0.5 * (constant + covariance.log_determinant());
            let forms = covariance.inverse_forms(centred);
            shares.iter_mut().skip(part).step_by(count).zip(forms).for_each(|(share, form)| {
                *share = constant - 0.5 * form;
            });
        }
        let of_row = |shares: &mut [f64]| {
            let most = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let density = most + shares.iter().map(|share| (share - most).exp()).sum::<f64>().ln();
            shares.iter_mut().for_each(|share| *share = (*share - density).exp());
            density
        };
        shares.par_chunks_exact_mut(count).map(of_row).collect()
    }
}

/// The Gaussians of rows with these shares.
fn parts(rows: &[f64], size: usize, shares: &[f64], count: usize, covariance: Covariance) -> Option<Vec<Part>> {
    let all = rows.len() / size;
    let of = |part: usize| {
        let shares = || shares.iter().skip(part).step_by(count);
        // scikit-learn's floor for a Gaussian without a row.
        let weight = shares().sum::<f64>() + 10.0 * f64::EPSILON;
        let mut mean = vec![0.0; size];
        for (row, share) in rows.chunks_exact(size).zip(shares()) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += share * x);
        }
        mean.iter_mut().for_each(|mean| *mean /= weight);
        let mut spread = vec![0.0; size * size];
        let mut away = vec![0.0; size];
        for (row, share) in rows.chunks_exact(size).zip(shares()) {
            away.iter_mut().zip(row.iter().zip(&mean)).for_each(|(away, (x, mean))| *away = x - mean);
            for (at, spread) in spread.chunks_exact_mut(size).enumerate() {
                match covariance {
                    Covariance::Full => {
                        spread.iter_mut().zip(&away).for_each(|(spread, other)| *spread += share * away[at] * other);
                    }
                    Covariance::Diagonal => spread[at] += share * away[at].powi(2),
                }
            }
        }
        spread.iter_mut().for_each(|spread| *spread /= weight);
        spread.iter_mut().step_by(size + 1).for_each(|spread| *spread += RIDGE);
        let covariance = Cholesky::new(spread, size)?;
        Some(Part { log_weight: (weight / all as f64).ln(), mean, covariance })
    };
    (0..count).into_par_iter().map(of).collect()
}

/// Which of `count` clusters each row is in, by k-means.
fn clusters(rows: &[f64], size: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    let square = |a: &[f64], b: &[f64]| {
        let away: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        dot(&away, &away)
    };
    let row = |at: usize| &rows[at * size..][..size];
    let all = rows.len() / size;
    let mut centres = row(rng.random_range(0..all)).to_vec();
    let mut nearest: Vec<f64> = (0..all).map(|at| square(row(at), &centres)).collect();
    while centres.len() < count * size {
        // One as likely as its square distance from the nearest.
        let mut left = rng.random::<f64>() * nearest.iter().sum::<f64>();
        let chosen = nearest.iter().position(|square| {
            left -= square;
            left < 0.0
        });
        let chosen = row(chosen.unwrap_or(all - 1)).to_vec();
        nearest.iter_mut().enumerate().for_each(|(at, nearest)| *nearest = nearest.min(square(row(at), &chosen)));
        centres.extend(chosen);
    }
    let label = |at: usize, centres: &[f64]| {
        let far = |part: &usize| square(row(at), &centres[part * size..][..size]);
        (0..count).min_by(|one, other| far(one).total_cmp(&far(other))).unwrap_or(0)
    };
    let mut labels: Vec<usize> = Vec::new();
    for _ in 0..CLUSTERING {
        let new: Vec<usize> = (0..all).into_par_iter().map(|at| label(at, &centres)).collect();
        if new == labels {
            break;
        }
        labels = new;
        let (mut sums, mut counts) = (vec![0.0; count * size], vec![0.0; count]);
        for (at, label) in labels.iter().enumerate() {
            counts[*label] += 1.0;
            sums[label * size..][..size].iter_mut().zip(row(at)).for_each(|(sum, x)| *sum += x);
        }
        // A cluster without a row stays where it is.
        for (part, centre) in centres.chunks_exact_mut(size).enumerate().filter(|(part, _)| counts[*part] > 0.0) {
            centre.iter_mut().zip(&sums[part * size..]).for_each(|(centre, sum)| *centre = sum / counts[part]);
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::pattern::{uniform, values};

    /// Densities of other rows, from the same start, as scikit-learn has them.
    #[test]
    fn equal_to_scikit_learn() {
        #[derive(serde::Deserialize)]
        struct Golden {
            cases: Vec<Case>,
        }
        #[derive(serde::Deserialize)]
        struct Case {
            covariance: String,
            most: usize,
            steps: usize,
            converged: bool,
            expected: Vec<f64>,
        }
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/mixture.json")).unwrap();
        let rows: Vec<f64> = values(&uniform("mixture", &[60, 3])).iter().map(|x| x.powi(3) * 2.0).collect();
        let other = values(&uniform("other", &[9, 3]));
        let labels: Vec<usize> = (0..60).map(|at| at % 4).collect();
        for Case { covariance, most, steps, converged, expected } in golden.cases {
            let kind = if covariance == "full" { Covariance::Full } else { Covariance::Diagonal };
            let mixture = Mixture::from_labels(&rows, 3, &labels, 4, kind, most).unwrap();
            assert_eq!(mixture.steps, (steps, converged), "{covariance}");
            for (found, expected) in mixture.log_densities(&other).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-8 * expected.abs().max(1.0), "{covariance}: {found}, {expected}");
            }
        }
    }

    /// Three clusters that lie apart are found, and the densities are those of the true mixture, nearly.
    #[test]
    fn clusters_that_lie_apart_are_found() {
        let mut rng = crate::rng::stream(0, "mixture test", "");
        let means = [[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]];
        let mut rows = Vec::new();
        for at in 0..3000 {
            let [x, y]: [f64; 2] = [StandardNormal.sample(&mut rng), StandardNormal.sample(&mut rng)];
            rows.extend([means[at % 3][0] + x, means[at % 3][1] + 0.5 * y]);
        }
        for kind in [Covariance::Full, Covariance::Diagonal] {
            let of = |seed| Mixture::new(&rows, 2, 3, kind, 200, &mut crate::rng::stream(seed, "start", "")).unwrap();
            let points = [0.0, 0.0, 6.0, 0.0, 0.0, 9.5, 3.0, 4.0];
            let found = of(1).log_densities(&points);
            let exact = points.chunks_exact(2).map(|point| {
                let part = |mean: &[f64; 2]| {
                    let form = (point[0] - mean[0]).powi(2) + 4.0 * (point[1] - mean[1]).powi(2);
                    (-0.5 * form).exp() / (std::f64::consts::TAU * 0.5) / 3.0
                };
                means.iter().map(part).sum::<f64>().ln()
            });
            for (at, (found, exact)) in found.iter().zip(exact).enumerate() {
                let far = if at < 3 { 0.15 } else { 4.0 };
                assert!((found - exact).abs() < far, "{kind:?}: {found}, not {exact}");
            }
            // The same start is the same mixture.
            assert_eq!(of(1).log_densities(&points), found);
        }
    }

    #[test]
    fn rows_that_are_alike_are_a_mixture_too() {
        let rows = [1.0, 2.0].repeat(8);
        let mixture = Mixture::new(&rows, 2, 3, Covariance::Full, 10, &mut crate::rng::stream(0, "alike", "")).unwrap();
        assert!(mixture.log_densities(&rows).iter().all(|density| density.is_finite()));
    }
}
