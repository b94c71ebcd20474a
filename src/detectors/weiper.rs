//! WeiPer+KLD: an image is known as far as its features, and its logits by last layers with noise in their weights, have the values that
//! those of train images have.
//!
//! score = D(p, q) + λ₁·D(p′, q′) − λ₂·m with D(p, q) = Σ_b (p_b − q_b)·ln(p_b / q_b), the sum of both Kullback-Leibler divergences. q is the
//! histogram of the image's features and q′ that of its r·K perturbed logits, p and p′ those of all train images. A perturbed logit is
//! w̃·z + b_c with w̃ = w_c + δ·‖w_c‖·g/‖g‖ for the features z, the weights w_c and the bias b_c of class c, and a standard normal g, of which
//! there are r for each class. m is the mean over the r last layers of the maximum softmax probability of their K logits.
//!
//! A histogram has B bins of equal width from the smallest to the largest value of the train images. An image's is smoothed: each bin
//! becomes the mean of s bins about it, where the outermost go on beyond the ends. ε is added to every bin, and bins are divided by
//! their sum.
//!
//! - Paper: Granz, Heurich, Landgraf, *WeiPer: OOD Detection using Weight Perturbations of Class Projections*, NeurIPS 2024,
//!   <https://arxiv.org/abs/2405.17164>.
//! - Reference code: `mgranz/weiper`, built on OpenOOD, whose board has its scores. OpenOOD v1.5 and pytorch-ood do not have it.
//! - As there, the train images' histograms are not smoothed, what lies beyond the train images' values is in no bin, and of an even s one bin
//!   more is to the right.
//! - Deviations: histograms and ends are of all train images, where the reference's histograms are means over its batches; the largest value is
//!   in the last bin, from which f32 may drop it there. Perturbations are drawn by name (`rng`), once for each fit.
//! - A fit multiplies the features of all train images by r·K weights twice: with many classes take fewer `repeats`.

use std::ops::Range;

use candle_core::Tensor;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Peak, Scorer, Scores, Smoke, check_memory, finite, in_f64, same,
    shaping::last_layer,
};
use crate::{Error, Result, linalg::project, nn::Head, rng};

/// Perturbed logits that are held at a time.
const BLOCK: usize = 1 << 22;
/// Perturbed last layers in a smoke run.
const FEW: usize = 3;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Weiper")]
pub struct Config {
    /// δ, the length of a perturbation, of that of the weights: 2.1 in the reference's function.
    #[garde(range(min = 0.0, max = 1e3))]
    pub distance: f64,
    /// r, the perturbed last layers: 100 in the reference's function.
    #[garde(range(min = 1, max = 100_000))]
    pub repeats: usize,
    /// B, the bins of a histogram: 100 in the reference's function.
    #[garde(range(min = 2, max = 1_000_000))]
    pub bins: usize,
    /// s of the features' histogram, in bins: 20 in the reference's function.
    #[garde(range(min = 1, max = 1_000_000))]
    pub smoothing: usize,
    /// s of the perturbed logits' histogram, in bins: 20 in the reference's function.
    #[garde(range(min = 1, max = 1_000_000))]
    pub smoothing_perturbed: usize,
    /// ε of the features' histograms: 0.01 in the reference, which has no setting for it.
    #[garde(range(min = 1e-12, max = 1e3))]
    pub epsilon: f64,
    /// ε of the perturbed logits' histograms: 0.025 in the reference, which has no setting for it.
    #[garde(range(min = 1e-12, max = 1e3))]
    pub epsilon_perturbed: f64,
    /// λ₁, the weight of the perturbed logits' divergence: 1 in the reference's function.
    #[garde(range(min = 0.0, max = 1e6))]
    pub lambda_1: f64,
    /// λ₂, the weight of the mean softmax probability: 1 in the reference's function.
    #[garde(range(min = 0.0, max = 1e6))]
    pub lambda_2: f64,
    /// Of the perturbations' draw.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            distance: 2.1,
            repeats: 100,
            bins: 100,
            smoothing: 20,
            smoothing_perturbed: 20,
            epsilon: 0.01,
            epsilon_perturbed: 0.025,
            lambda_1: 1.0,
            lambda_2: 1.0,
            seed: 0,
        }
    }
}

impl Config {
    /// Refuses last layers that there is no room for.
    ///
    /// # Errors
    /// [`Error::Input`] with what it needs.
    pub fn check(&self, classes: usize, features: usize, memory: usize) -> Result<()> {
        // The directions, and the layers that they lead to.
        let bytes = self.repeats.saturating_mul(classes).saturating_mul(features).saturating_mul(2 * size_of::<f64>());
        check_memory("weiper needs", &format!("{} perturbed last layers", self.repeats), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take fewer repeats"))
    }

    /// `repeats` · K · D standard normal numbers: one direction for each class of each last layer.
    fn directions(&self, classes: usize, features: usize) -> Vec<f64> {
        let of_layer = |layer: usize| {
            let stream = rng::stream(self.seed, "WeiPer's perturbations", &format!("{classes} by {features}: {layer}"));
            StandardNormal.sample_iter(stream).take(classes * features)
        };
        (0..self.repeats).flat_map(of_layer).collect()
    }
}

/// The histogram of the train images' values.
struct Histogram {
    least: f64,
    most: f64,
    /// ln p, and p itself.
    known: Vec<[f64; 2]>,
    smoothing: usize,
    epsilon: f64,
}

impl Histogram {
    /// The divergence from it of the histogram of an image's `values`.
    fn divergence(&self, values: &[f64]) -> f64 {
        let counts = counts(values, [self.least, self.most], self.known.len());
        let shares: Vec<f64> = counts.into_iter().map(|count| count as f64 / values.len() as f64).collect();
        let found = normalised(smoothed(&shares, self.smoothing), self.epsilon);
        self.known.iter().zip(found).map(|([ln, known], found)| (known - found) * (ln - found.ln())).sum()
    }
}

/// How many values are in each of `bins` bins between the ends.
fn counts(values: &[f64], [least, most]: [f64; 2], bins: usize) -> Vec<u64> {
    let mut counts = vec![0; bins];
    for value in values.iter().filter(|value| (least..=most).contains(*value)) {
        // The last bin has both its ends.
        counts[(((value - least) * bins as f64 / (most - least)) as usize).min(bins - 1)] += 1;
    }
    counts
}

/// The means of `width` neighbours, the first and the last of which go on beyond the ends.
fn smoothed(shares: &[f64], width: usize) -> Vec<f64> {
    let (before, last) = ((width - 1) / 2, shares.len() - 1);
    let mut sums = vec![0.0];
    shares.iter().for_each(|share| sums.push(sums[sums.len() - 1] + share));
    let mean = |at: usize| {
        let (start, end) = (at.saturating_sub(before), (at + width - 1 - before).min(last));
        let [left, right] = [before.saturating_sub(at), (at + width - 1 - before).saturating_sub(last)];
        let inside = sums[end + 1] - sums[start];
        (inside + left as f64 * shares[0] + right as f64 * shares[last]) / width as f64
    };
    (0..shares.len()).map(mean).collect()
}

/// With `epsilon` more in every bin, and divided by the sum.
fn normalised(mut shares: Vec<f64>, epsilon: f64) -> Vec<f64> {
    shares.iter_mut().for_each(|share| *share += epsilon);
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

/// The perturbed last layers, and the train images' histograms.
pub struct Fitted {
    config: Config,
    /// (r·K, D), row after row.
    weight: Vec<f64>,
    /// (K)
    bias: Vec<f64>,
    /// D.
    size: usize,
    features: Histogram,
    logits: Histogram,
}

impl Fitted {
    /// Of the train images' (N, D) `features`. `directions`: r·K·D numbers, the rows of which are taken at length 1.
    ///
    /// # Errors
    /// If there is nothing to learn from, `head` takes another D, there are other directions, a number is NaN or infinite, or no feature
    /// or logit varies.
    pub fn new(config: &Config, head: &Head, features: &Tensor, directions: &[f64]) -> Result<Self> {
        let values = finite(features)?;
        let size = features.dim(1)?;
        let (weight, bias) = last_layer(head, size)?;
        same("directions", directions.len(), config.repeats * weight.len())?;
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let rows = directions.chunks_exact(size).zip(weight.chunks_exact(size).cycle());
        let weight = rows.flat_map(|(direction, row)| {
            let length = config.distance * norm(row) / norm(direction).max(f64::MIN_POSITIVE);
            row.iter().zip(direction).map(move |(w, g)| w + length * g)
        });
        let none = || Histogram { least: 0.0, most: 0.0, known: Vec::new(), smoothing: 1, epsilon: 1.0 };
        let weight = weight.collect();
        let mut fitted = Self { config: config.clone(), weight, bias, size, features: none(), logits: none() };
        let mut ends = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
        fitted.pass(&values, |features, logits| {
            for ([least, most], values) in ends.iter_mut().zip([features, logits]) {
                let within = |[least, most]: [f64; 2], value: &f64| [least.min(*value), most.max(*value)];
                [*least, *most] = values.iter().fold([*least, *most], within);
            }
        });
        for (what, [least, most]) in ["feature", "logit"].into_iter().zip(ends) {
            if !(most > least && (most - least).is_finite()) {
                return Err(Error::Failed(format!("no {what} varies among the train images")));
            }
        }
        let mut sums = [(); 2].map(|()| vec![0u64; config.bins]);
        fitted.pass(&values, |features, logits| {
            for ((sums, ends), values) in sums.iter_mut().zip(ends).zip([features, logits]) {
                sums.iter_mut().zip(counts(values, ends, config.bins)).for_each(|(sum, count)| *sum += count);
            }
        });
        let histogram = |[least, most]: [f64; 2], counts: &[u64], smoothing, epsilon| {
            let all: u64 = counts.iter().sum();
            let shares = counts.iter().map(|count| *count as f64 / all as f64).collect();
            let known = normalised(shares, epsilon).into_iter().map(|share| [share.ln(), share]).collect();
            Histogram { least, most, known, smoothing, epsilon }
        };
        fitted.features = histogram(ends[0], &sums[0], config.smoothing, config.epsilon);
        fitted.logits = histogram(ends[1], &sums[1], config.smoothing_perturbed, config.epsilon_perturbed);
        Ok(fitted)
    }

    /// Calls `each` with the features and the perturbed logits of some images after others.
    fn pass(&self, values: &[f32], mut each: impl FnMut(&[f64], &[f64])) {
        for rows in self.blocks(values.len() / self.size) {
            let features = in_f64(&values[rows.start * self.size..rows.end * self.size]);
            each(&features, &self.perturbed(&features));
        }
    }

    /// So many images at a time that their perturbed logits have room.
    fn blocks(&self, images: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let together = (BLOCK / (self.weight.len() / self.size)).max(1);
        (0..images).step_by(together).map(move |start| start..(start + together).min(images))
    }

    /// The r·K perturbed logits of each row of features.
    fn perturbed(&self, features: &[f64]) -> Vec<f64> {
        let mut logits = project(features, &self.weight, self.size);
        logits.iter_mut().zip(self.bias.iter().cycle()).for_each(|(logit, bias)| *logit += bias);
        logits
    }

    /// The score of each row of (N, D) features.
    ///
    /// # Errors
    /// If there is nothing to score, D is another, or a feature is NaN or infinite.
    pub fn scores(&self, features: &Tensor) -> Result<Vec<f32>> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        let outputs = self.weight.len() / self.size;
        let mut scores = Vec::with_capacity(values.len() / self.size);
        self.pass(&values, |features, logits| {
            let pairs = features.par_chunks_exact(self.size).zip(logits.par_chunks_exact(outputs));
            scores.par_extend(pairs.map(|(features, logits)| self.score_of(features, logits) as f32));
        });
        Ok(scores)
    }

    fn score_of(&self, features: &[f64], logits: &[f64]) -> f64 {
        let Config { lambda_1, lambda_2, repeats, .. } = self.config;
        let largest = logits.chunks_exact(self.bias.len()).map(|logits| 1.0 / (1.0 + Peak::of(logits).rest));
        let msp = largest.sum::<f64>() / repeats as f64;
        self.features.divergence(features) + lambda_1 * self.logits.divergence(logits) - lambda_2 * msp
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, head) = (fit.train()?, fit.head()?);
        let (classes, features) = head.weight.dims2()?;
        self.check(classes, features, fit.memory)?;
        Ok(Box::new(Fitted::new(self, head, &train.features, &self.directions(classes, features))?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let (logits, features) = (about.shown.logits()?, about.shown.features()?);
            Ok(self.check(logits.dim(1)?, features.dim(1)?, about.memory).map(|()| None)?)
        }))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("repeats", &mut self.repeats, FEW);
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.scores(&bank.features)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        let ends = |histogram: &Histogram| [histogram.least, histogram.most];
        Some(serde_json::json!({ "features": ends(&self.features), "perturbed_logits": ends(&self.logits) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_go_on_beyond_the_ends() {
        assert_eq!(smoothed(&[1.0, 2.0, 6.0], 1), [1.0, 2.0, 6.0]);
        // Of four, one before and two after.
        assert_eq!(smoothed(&[1.0, 2.0, 6.0], 4), [10.0 / 4.0, 15.0 / 4.0, 20.0 / 4.0]);
        // Wider than all there is: 4, itself and 5 after.
        assert_eq!(smoothed(&[0.0, 1.0], 10), [0.5, 0.6]);
    }

    #[test]
    fn both_ends_are_in_a_bin_and_nothing_beyond_is() {
        assert_eq!(counts(&[-0.1, 0.0, 0.9, 1.0, 1.9, 2.0, 2.1], [0.0, 2.0], 2), [2, 3]);
    }
}
