//! Virtual-logit matching: the residual of the features as the logit of one more class.
//!
//! score = α·‖P·(z − u)‖₂ − ln Σ_c exp f_c for penultimate features z and logits f = W·z + b. The origin u = −W⁺·b is where all
//! logits vanish as far as they can; P projects on all eigenvectors of Σ_i (z_i − u)·(z_i − u)ᵀ of the train images but those of the
//! largest eigenvalues, as in [`residual`](super::residual); α makes the mean of α·‖P·(z − u)‖₂ over the train images equal to their
//! mean largest logit.
//!
//! - Paper: Wang et al., *ViM: Out-Of-Distribution with Virtual-logit Matching*, CVPR 2022, eq. 8 and appendix,
//!   <https://arxiv.org/abs/2203.10807>.
//! - Reference code: `haoqiwang/vim`; OpenOOD `vim_postprocessor.py`; pytorch-ood `ViM`.
//! - Deviations: logits are those of the network, there features times weights. Features that do not leave the subspace but for
//!   rounding are refused, where α would be noise, and so are as many dimensions as there are features: OpenOOD searches 1000 of
//!   512, whose α is NaN.

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Peak, Scorer, Scores, Smoke, map_rows,
    residual::{Residual, without},
    same,
    similarity::log_sums,
};
use crate::{Error, Result};

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Vim")]
pub struct Config {
    /// Directions that do not count; fewer than there are features. Half of the features unless given: 256 of 512 in OpenOOD;
    /// the paper has 512 of 768 and 1000 of 2048.
    #[garde(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
}

impl Config {
    /// Refuses directions that leave nothing of so many features.
    ///
    /// # Errors
    /// [`Error::Input`] with both numbers.
    pub fn check(&self, features: usize) -> Result<()> {
        without(self.dimension, features).map(drop)
    }
}

struct Fitted {
    residual: Residual,
    alpha: f64,
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let train = fit.train()?;
        let residual = Residual::fit(fit.head()?, &train.features, self.dimension)?;
        let largest = map_rows(&train.logits, |row| Peak::of(row).max)?.into_iter().sum::<f64>();
        let norms = residual.norms(&train.features)?;
        same("rows of logits", train.logits.dim(0)?, norms.len())?;
        let (off, whole) = norms.iter().fold((0.0, 0.0), |sums, norms| (sums.0 + norms.0, sums.1 + norms.1));
        if off <= f64::from(f32::EPSILON) * whole {
            let message = "the train images' features do not leave the subspace that vim compares with: give it a smaller dimension";
            return Err(Error::Failed(message.into()));
        }
        Ok(Box::new(Fitted { residual, alpha: largest / off }))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.shown.features()?.dim(1)?).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_directions(&mut self.dimension);
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let log_sums = log_sums(&bank.logits)?;
        let norms = self.residual.norms(&bank.features)?;
        same("rows of logits", log_sums.len(), norms.len())?;
        let scores = norms.into_iter().zip(log_sums).map(|((off, _), log_sum)| (self.alpha * off - log_sum) as f32);
        Scores::new(scores.collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "alpha": self.alpha }))
    }
}
