//! GEN: a generalised entropy of the softmax, which a small exponent makes sensitive to small deviations from certainty.
//!
//! score = Σ_{c among the M likeliest} p_cᵞ·(1 − p_c)ᵞ with p = softmax(f).
//!
//! - Paper: Liu et al., *GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection*, CVPR 2023, eq. 3,
//!   <https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html>.
//! - Reference code: `XixiLiu95/GEN`; OpenOOD `gen_postprocessor.py`; pytorch-ood `GEN`, whose mean is this sum divided by M.
//! - Deviations: none but f64 inside. p and 1 − p are kept as logarithms: pytorch-ood clamps them to 1e-7, which makes sure
//!   images tie.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, score_rows};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Gen")]
pub struct Config {
    /// γ: 0.1 in the paper and in OpenOOD, which searches 0.01 to 10.
    #[garde(range(min = 1e-3, max = 100.0))]
    pub gamma: f64,
    /// M, all classes if there are fewer: 100 in the paper (for ImageNet) and in OpenOOD, which searches 10 to 1000.
    #[garde(range(min = 1, max = 1_000_000))]
    pub classes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { gamma: 0.1, classes: 100 }
    }
}

/// The generalised entropy of each row of (N, K) logits.
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn generalised_entropy(logits: &Tensor, gamma: f64, classes: usize) -> Result<Vec<f32>> {
    score_rows(logits, |row| {
        let mut descending = row.to_vec();
        descending.sort_unstable_by(|a, b| b.total_cmp(a));
        let peak = Peak::of(&descending);
        let log_sum = peak.rest.ln_1p();
        let terms = descending.iter().take(classes).enumerate().map(|(rank, logit)| {
            let log_p = logit - peak.max - log_sum;
            let log_others = if rank == 0 { peak.rest.ln() - log_sum } else { (-log_p.exp()).ln_1p() };
            (gamma * (log_p + log_others)).exp()
        });
        terms.sum()
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
        Scores::new(generalised_entropy(&bank.logits, self.gamma, self.classes)?)
    }
}
