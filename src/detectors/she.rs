//! SHE: the simplified Hopfield energy, how little of its class's stored pattern an image's features hold.
//!
//! score = −z·s_ĉ with the features z, the class ĉ = argmax f, and s_c the mean features of the train images of class c that the
//! network classifies correctly.
//!
//! - Paper: Zhang et al., *Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern Hopfield
//!   Energy*, ICLR 2023, eq. 7, <https://openreview.net/forum?id=KkazG4lgKL>.
//! - Reference code: OpenOOD `she_postprocessor.py` (`inner_product`); pytorch-ood `SHE`.
//! - Deviations: a class without a correct train image has no pattern and is left out of the argmax; OpenOOD scores its images NaN,
//!   and pytorch-ood refuses to fit.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, argmax, finite, map_both, map_rows, same};
use crate::{Error, Result};

/// SHE has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "She")]
pub struct Config {}

/// The stored pattern of each class; `None` for one that is left out.
struct Patterns {
    size: usize,
    patterns: Vec<Option<Vec<f64>>>,
}

impl Patterns {
    fn fit(logits: &Tensor, features: &Tensor, labels: &[u32]) -> Result<Self> {
        let classes = map_rows(logits, argmax)?;
        let values = finite(features)?;
        let size = features.dim(1)?;
        same("labels", labels.len(), classes.len())?;
        same("rows of features", values.len() / size, classes.len())?;
        let mut sums = vec![(0.0, vec![0.0; size]); logits.dim(1)?];
        for ((row, class), label) in values.chunks_exact(size).zip(classes).zip(labels) {
            if class == *label as usize {
                let (count, sum) = &mut sums[class];
                *count += 1.0;
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        }
        if sums.iter().all(|(count, _)| *count == 0.0) {
            return Err(Error::Failed("she: no train image is classified correctly".into()));
        }
        let pattern = |(count, mut sum): (f64, Vec<f64>)| {
            sum.iter_mut().for_each(|sum| *sum /= count);
            (count > 0.0).then_some(sum)
        };
        Ok(Self { size, patterns: sums.into_iter().map(pattern).collect() })
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits, Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        Ok(Box::new(Patterns::fit(&train.logits, &train.features, labels)?))
    }
}

impl Scorer for Patterns {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        same("features", bank.features.dim(1)?, self.size)?;
        same("logits", bank.logits.dim(1)?, self.patterns.len())?;
        let scores = map_both(&bank.logits, &bank.features, |logits, features| {
            let stored =
                logits.iter().zip(&self.patterns).filter_map(|(logit, pattern)| Some((logit, pattern.as_ref()?)));
            // The first of several largest logits, as argmax.
            let (_, pattern) = stored.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
            Some(-features.iter().zip(pattern).map(|(x, pattern)| x * pattern).sum::<f64>() as f32)
        })?;
        Scores::new(scores.into_iter().flatten().collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let left_out: Vec<usize> = (0..self.patterns.len()).filter(|class| self.patterns[*class].is_none()).collect();
        Some(serde_json::json!({ "classes_left_out": left_out }))
    }
}
