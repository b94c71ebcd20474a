//! OpenMax: logits are shared with an unknown class as far as they lie outside what is usual of the likeliest classes.
//!
//! With f̂_c = f_c·(1 − α_c·w_c), score = f̂_0 − ln Σ_c exp f̂_c, where f̂_0 = Σ_c f_c·α_c·w_c: the log-odds of the unknown class. w_c is the
//! Weibull distribution function, at ‖f − μ_c‖₂, of the largest distances from the mean μ_c among the train images of class c
//! that the network classifies correctly; α_c falls in equal steps from 1 for the largest logit, and is 0 beyond the likeliest
//! classes.
//!
//! - Paper: Bendale & Boult, *Towards Open Set Deep Networks*, CVPR 2016, algorithms 1 and 2, <https://arxiv.org/abs/1511.06233>.
//! - Reference code: `abhijitbendale/OSDN` with libMR, whose shift of distances to 10000 is kept; OpenOOD
//!   `openmax_postprocessor.py`; pytorch-ood `OpenMax`, whose score is the probability of these log-odds.
//! - Deviations: distances are Euclidean, as OpenOOD's and pytorch-ood's; the paper adds the cosine distance. The Weibull
//!   distribution is that of the largest likelihood exactly, there what an iteration ends at. A class without two different
//!   distances among its correct images has none; its w is 1, as in pytorch-ood for a class without images.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Learns, Output, Peak, Scorer, Scores, argmax, distance, map_rows, same, score_rows};
use crate::{Error, Result};

/// What libMR moves the least distance of the tail to.
const SHIFT: f64 = 1e4;
/// Halvings of the range of ln shape, down to the precision of f64.
const HALVINGS: usize = 60;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OpenMax")]
pub struct Config {
    /// Distances of each class that the Weibull distribution is fitted to, all if there are fewer: 20 in the paper and in
    /// OpenOOD, 25 in pytorch-ood.
    #[garde(range(min = 2, max = 1_000_000))]
    pub tail: usize,
    /// Likeliest classes whose logits are revised (the paper's α), all if there are fewer: 3 in OpenOOD, 10 in the paper (for
    /// ImageNet) and in pytorch-ood.
    #[garde(range(min = 1, max = 1_000_000))]
    pub classes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { tail: 20, classes: 3 }
    }
}

/// The Weibull distribution of the distances 10000 + d − least.
#[derive(Debug, Clone, PartialEq)]
struct Weibull {
    least: f64,
    shape: f64,
    /// ln(scale / 10000)
    log_scale: f64,
}

impl Weibull {
    /// That of the largest likelihood. `None` if there are no two different distances.
    fn fit(distances: &[f64]) -> Option<Self> {
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let logs: Vec<f64> = distances.iter().map(|distance| ((distance - least) / SHIFT).ln_1p()).collect();
        let most = logs.iter().copied().fold(0.0, f64::max);
        if most <= 0.0 {
            return None;
        }
        let count = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / count;
        // The likelihood's derivative in the shape, up to its sign: it grows from −∞ to the largest logarithm less the mean.
        let slope = |shape: f64| {
            let weights = logs.iter().map(|log| (shape * (log - most)).exp());
            let (sum, weighted) = weights.zip(&logs).fold((0.0, 0.0), |sums, (w, log)| (sums.0 + w, sums.1 + w * log));
            weighted / sum - 1.0 / shape - mean
        };
        // Where the shape is 1 / most, 1 / shape is more than any weighted mean.
        let mut low = -most.ln();
        let mut high = low + 1.0;
        while slope(high.exp()) < 0.0 {
            (low, high) = (high, 2.0 * high - low);
        }
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            *if slope(middle.exp()) < 0.0 { &mut low } else { &mut high } = middle;
        }
        let shape = (0.5 * (low + high)).exp();
        let sum = logs.iter().map(|log| (shape * (log - most)).exp()).sum::<f64>();
        Some(Self { least, shape, log_scale: most + (sum / count).ln() / shape })
    }

    /// The share of distances below this one.
    fn below(&self, distance: f64) -> f64 {
        let log = ((distance - self.least) / SHIFT).max(-1.0).ln_1p();
        -(-(self.shape * (log - self.log_scale)).exp()).exp_m1()
    }
}

/// The usual logits of a class, and how far from them is unusual.
struct Class {
    centre: Vec<f64>,
    tail: Weibull,
}

struct Fitted {
    likeliest: usize,
    classes: Vec<Option<Class>>,
}

impl Fitted {
    fn new(config: &Config, logits: &Tensor, labels: &[u32]) -> Result<Self> {
        let rows = map_rows(logits, <[f64]>::to_vec)?;
        same("labels", labels.len(), rows.len())?;
        let class = |class: usize| {
            let correct =
                rows.iter().zip(labels).filter(|(row, label)| **label as usize == class && argmax(row) == class);
            let rows: Vec<&Vec<f64>> = correct.map(|(row, _)| row).collect();
            let mut centre = vec![0.0; rows.first()?.len()];
            for row in &rows {
                centre.iter_mut().zip(*row).for_each(|(centre, logit)| *centre += logit / rows.len() as f64);
            }
            let mut distances: Vec<f64> = rows.iter().map(|row| distance(row, &centre)).collect();
            distances.sort_unstable_by(|a, b| b.total_cmp(a));
            distances.truncate(config.tail);
            Some(Class { centre, tail: Weibull::fit(&distances)? })
        };
        let classes: Vec<Option<Class>> = (0..logits.dim(1)?).map(class).collect();
        if classes.iter().all(Option::is_none) {
            let message = "openmax: no class has two train images that are classified correctly and lie apart";
            return Err(Error::Failed(message.into()));
        }
        Ok(Self { likeliest: config.classes.min(classes.len()), classes })
    }

    fn log_odds(&self, logits: &[f64]) -> f64 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let mut revised = logits.to_vec();
        let mut unknown = 0.0;
        for (rank, class) in order.into_iter().take(self.likeliest).enumerate() {
            let outside = match &self.classes[class] {
                Some(Class { centre, tail }) => tail.below(distance(logits, centre)),
                None => 1.0,
            };
            let moved = logits[class] * outside * (self.likeliest - rank) as f64 / self.likeliest as f64;
            revised[class] -= moved;
            unknown += moved;
        }
        let peak = Peak::of(&revised);
        unknown - peak.max - peak.rest.ln_1p()
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        Ok(Box::new(Fitted::new(self, &train.logits, labels)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        same("logits", bank.logits.dim(1)?, self.classes.len())?;
        Scores::new(score_rows(&bank.logits, |row| self.log_odds(row))?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        let without: Vec<usize> = (0..self.classes.len()).filter(|class| self.classes[*class].is_none()).collect();
        Some(serde_json::json!({ "classes_without_tail": without }))
    }
}
