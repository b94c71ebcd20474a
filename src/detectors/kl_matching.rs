//! KL matching: the softmax of an image of a known class looks like the usual softmax of that class.
//!
//! score = min_k KL(p ‖ d_k) with p = softmax(f) and d_k the mean softmax of the train images that the network takes for k.
//!
//! - Paper: Hendrycks et al., *Scaling Out-of-Distribution Detection for Real-World Settings*, ICML 2022, section 4,
//!   <https://arxiv.org/abs/1911.11132>.
//! - Reference code: OpenOOD `kl_matching_postprocessor.py`; pytorch-ood `KLMatching`.
//! - Deviations: d_k is of the train images, there of images held out. Means are kept as logarithms, so that no divergence is
//!   infinite. A class that no train image is taken for is left out, as in pytorch-ood; OpenOOD gives it certainty.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, argmax, log_softmax, map_rows, same};
use crate::Result;

/// KL matching has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KlMatching")]
pub struct Config {}

/// The usual softmax of each class.
#[derive(Debug, Clone)]
pub struct Templates {
    /// ln d_k; empty for a class that no image is taken for.
    log_means: Vec<Vec<f64>>,
}

impl Templates {
    /// Of the train images' (N, K) logits.
    ///
    /// # Errors
    /// If there are none, or one is NaN or infinite.
    pub fn fit(logits: &Tensor) -> Result<Self> {
        let rows = map_rows(logits, |row| (argmax(row), log_softmax(row)))?;
        let mut log_means = vec![Vec::new(); logits.dim(1)?];
        let mut counts = vec![0u32; log_means.len()];
        for (class, row) in rows {
            counts[class] += 1;
            let sums: &mut Vec<f64> = &mut log_means[class];
            if sums.is_empty() {
                *sums = row;
            } else {
                sums.iter_mut().zip(row).for_each(|(sum, log_p)| {
                    *sum = sum.max(log_p) + (-(*sum - log_p).abs()).exp().ln_1p();
                });
            }
        }
        for (sums, count) in log_means.iter_mut().zip(counts) {
            sums.iter_mut().for_each(|sum| *sum -= f64::from(count).ln());
        }
        Ok(Self { log_means })
    }

    /// min_k KL(p ‖ d_k), in nats, of each row of (N, K) logits.
    ///
    /// # Errors
    /// If they have another K, or one is NaN or infinite.
    pub fn divergences(&self, logits: &Tensor) -> Result<Vec<f64>> {
        let rows = map_rows(logits, log_softmax)?;
        same("logits", logits.dim(1)?, self.log_means.len())?;
        let least = |row: &Vec<f64>| {
            let p: Vec<f64> = row.iter().map(|log_p| log_p.exp()).collect();
            let divergence = |means: &Vec<f64>| {
                let terms = p.iter().zip(row.iter().zip(means)).map(|(p, (log_p, mean))| p * (log_p - mean));
                terms.sum::<f64>()
            };
            let usual = self.log_means.iter().filter(|means| !means.is_empty());
            usual.map(divergence).fold(f64::INFINITY, f64::min)
        };
        Ok(rows.par_iter().map(least).collect())
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Templates::fit(&fit.train()?.logits)?))
    }
}

impl Scorer for Templates {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.divergences(&bank.logits)?.into_iter().map(|divergence| divergence as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let left_out: Vec<usize> =
            (0..self.log_means.len()).filter(|class| self.log_means[*class].is_empty()).collect();
        Some(serde_json::json!({ "classes_left_out": left_out }))
    }
}
