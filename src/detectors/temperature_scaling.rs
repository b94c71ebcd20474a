//! Temperature scaling: the maximum softmax probability of calibrated logits.
//!
//! score = ln(1 − max_c softmax(f / T)_c), with the T that minimises the mean of −ln softmax(f / T)_y over labelled images.
//!
//! - Paper: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, section 4.2, <https://arxiv.org/abs/1706.04599>.
//! - Reference code: OpenOOD `temp_scaling_postprocessor.py`; pytorch-ood `TemperatureScaling`. Both stop after 50 steps of
//!   L-BFGS.
//! - Deviations: T is learned from the train images, there from images held out: a network that has learned its train images by
//!   heart is surer of them than of others, and T comes out too small. It is therefore kept in 0.1..10, the temperatures that DDU
//!   searches (`metrics/calibration_metrics.py`); at a bound, the fit's record has it. The minimum is found exactly: in 1 / T the
//!   loss is convex. The logarithm changes no order, and keeps sure images apart.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Learns, Output, Peak, Scorer, Scores, argmax, map_rows, same, score_rows};
use crate::{Error, Result};

/// The least and the greatest temperature.
const RANGE: [f64; 2] = [0.1, 10.0];
/// Halvings of the range of 1 / T, down to the precision of f64.
const HALVINGS: usize = 60;

/// Temperature scaling has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TemperatureScaling")]
pub struct Config {}

/// The T in 0.1..10 with the least negative log-likelihood of `labels` under softmax(f / T), for (N, K) logits f.
///
/// # Errors
/// If there is no image, a label is no class, or a logit is NaN or infinite.
pub fn temperature(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let rows = map_rows(logits, <[f64]>::to_vec)?;
    same("labels", labels.len(), rows.len())?;
    let classes = logits.dim(1)?;
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(Error::Failed(format!("there is a label {label} among the train images, and {classes} logits")));
    }
    // Of the loss in the inverse temperature: the mean logit under the softmax, less the label's. It grows with it.
    let slope = |inverse: f64| {
        let slopes = rows.iter().zip(labels).map(|(row, label)| {
            let max = row[argmax(row)];
            let (mut sum, mut mean) = (0.0, 0.0);
            for logit in row {
                let weight = (inverse * (logit - max)).exp();
                sum += weight;
                mean += weight * (logit - row[*label as usize]);
            }
            mean / sum
        });
        slopes.sum::<f64>()
    };
    let [mut low, mut high] = [1.0 / RANGE[1], 1.0 / RANGE[0]];
    if slope(low) >= 0.0 {
        return Ok(RANGE[1]);
    }
    if slope(high) <= 0.0 {
        return Ok(RANGE[0]);
    }
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        *if slope(middle) < 0.0 { &mut low } else { &mut high } = middle;
    }
    Ok(2.0 / (low + high))
}

/// ln(1 − max softmax(f / T)) of each row f of (N, K) logits, K ≥ 2.
///
/// # Errors
/// If there is nothing to score or a single class, or a logit is NaN or infinite.
pub fn scaled_msp(logits: &Tensor, temperature: f64) -> Result<Vec<f32>> {
    if logits.dim(1)? == 1 {
        return Err(Error::Failed("one class always has the whole softmax: there is nothing to score".into()));
    }
    score_rows(logits, |row| {
        let mut scaled: Vec<f64> = row.iter().map(|logit| logit / temperature).collect();
        let all = Peak::of(&scaled);
        scaled.swap_remove(argmax(&scaled));
        let others = Peak::of(&scaled);
        others.max - all.max + others.rest.ln_1p() - all.rest.ln_1p()
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        Ok(Box::new(Fitted { temperature: temperature(&train.logits, labels)? }))
    }
}

struct Fitted {
    temperature: f64,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(scaled_msp(&bank.logits, self.temperature)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "temperature": self.temperature }))
    }
}
