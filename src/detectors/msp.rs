//! The maximum softmax probability: a network is less sure of what it has not seen.
//!
//! score = 1 − max_c softmax(f)_c, in 0..1.
//!
//! - Paper: Hendrycks & Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
//!   Networks*, ICLR 2017, <https://arxiv.org/abs/1610.02136>.
//! - Reference code: OpenOOD `postprocessors/base_postprocessor.py`; energy_ood `CIFAR/test.py` (`-np.max(smax)`).
//! - Deviations: one is added, which changes no order, and the score is summed from the *other* classes'
//!   probabilities in f64. Confidences that the reference rounds to exactly 1 in f32, and so ties, keep their order as long as the
//!   score is no less than the smallest f32, 1.4e-45: up to a margin of the largest logit over the others of about 103 + ln (K − 1),
//!   105 with ten classes. Beyond it the score is 0.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, score_rows};
use crate::Result;

/// The maximum softmax probability has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Msp")]
pub struct Config {}

/// One minus the maximum softmax probability of each row of (N, K) logits, in 0..1.
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn msp(logits: &Tensor) -> Result<Vec<f32>> {
    score_rows(logits, |row| {
        let rest = Peak::of(row).rest;
        rest / (1.0 + rest)
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(msp(&bank.logits)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::msp;

    #[test]
    fn sure_images_keep_their_order_up_to_a_margin_of_105() {
        let scores = |margins: &[f32]| {
            let rows: Vec<f32> = margins.iter().flat_map(|margin| [&[*margin][..], &[0.0; 9]].concat()).collect();
            msp(&Tensor::from_vec(rows, (margins.len(), 10), &Device::Cpu).unwrap()).unwrap()
        };
        let found = scores(&[20.0, 60.0, 100.0, 104.0, 105.0, 107.0, 150.0]);
        assert!(found[..5].is_sorted_by(|surer_than, surer| surer_than > surer) && found[4] > 0.0, "{found:?}");
        assert_eq!(found[5..], [0.0, 0.0]);
    }
}
