//! Spectral-normalised neural Gaussian process: logits shrink where the last layer's posterior is wide.
//!
//! With the features φ of the train images and the prior ridge·I, the precision of the output weights is P = ridge·I + Σ φφᵀ,
//! and an image's variance v = ridge·φᵀP⁻¹φ. Its logits become f / √(1 + factor·v) (the mean-field approximation of the
//! softmax's mean), and the score is their uncertainty.
//!
//! - Paper: Liu et al., NeurIPS 2020, <https://arxiv.org/abs/2006.10108>; the network has `head: sngp` and
//!   `spectral_norm: { coefficient: 6 }`. AFDU's comparison scores it by predictive entropy.
//! - Reference code: `google/uncertainty-baselines`, `baselines/cifar/sngp.py`; `google/edward2`, `random_feature.py` (Gaussian
//!   likelihood, where φφᵀ has weight 1) and `utils.py` (`mean_field_logits`); `y0ast/DUE`, `due/sngp.py`.
//! - Deviation: P is summed in f64 in a pass of its own over the train images, with the final weights and without augmentation,
//!   dropout and batch statistics. There it is summed while the last epoch still moves the weights, of which it is an
//!   approximation: φ of the first steps is not the φ that scores.
//!
//! On a network with another head φ are its penultimate features, and this is the Laplace approximation of its last layer under
//! the same likelihood.

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Learns, Output, Peak, Scorer, Scores, finite, in_f64, map_rows};
use crate::{
    Error, Result,
    detectors::softmax_entropy::entropy,
    linalg::{Cholesky, add_gram},
    nn::heads,
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// Settings of SNGP's score.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SngpScore")]
pub struct Config {
    /// The precision of the prior. 1 in uncertainty-baselines and DUE.
    #[garde(range(min = 1e-9, max = 1e9))]
    pub ridge: f64,
    /// What the variance counts in the logits' scale: 25 in uncertainty-baselines for CIFAR-10 (12.5 for CIFAR-100), chosen
    /// there; 0 leaves the logits alone. The probit approximation of a sigmoid would have π/8.
    #[garde(range(min = 0.0, max = 1e9))]
    pub mean_field: f64,
    /// What is made of the logits. The entropy in AFDU's comparison.
    #[garde(skip)]
    pub uncertainty: Uncertainty,
}

impl Default for Config {
    fn default() -> Self {
        Self { ridge: 1.0, mean_field: 25.0, uncertainty: Uncertainty::Entropy }
    }
}

/// The uncertainty of logits f of K classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Uncertainty {
    /// Of the softmax, in nats.
    Entropy,
    /// K / (K + Σ exp f): how little evidence there is for any class (SNGP's and DUE's).
    DempsterShafer,
}

/// The posterior of the output weights, and how logits are scored.
#[derive(Debug, Clone)]
pub struct Posterior {
    config: Config,
    size: usize,
    precision: Cholesky,
}

impl Posterior {
    /// Of the train images' φ (N, D).
    ///
    /// # Errors
    /// If there are none, or one is NaN or infinite.
    pub fn fit(config: &Config, features: &Tensor) -> Result<Self> {
        let (_, size) = features.dims2()?;
        let mut precision = vec![0.0; size * size];
        precision.iter_mut().step_by(size + 1).for_each(|diagonal| *diagonal = config.ridge);
        for block in finite(features)?.chunks(BLOCK * size) {
            add_gram(&mut precision, &in_f64(block), size);
        }
        let precision = Cholesky::new(precision, size).ok_or_else(|| {
            Error::Failed(format!("sngp: the precision of {size} features is singular with ridge {}", config.ridge))
        })?;
        Ok(Self { config: config.clone(), size, precision })
    }

    /// ridge·φᵀP⁻¹φ of each row φ of (N, D) features: 0 up to ‖φ‖².
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn variances(&self, features: &Tensor) -> Result<Vec<f64>> {
        let (_, size) = features.dims2()?;
        if size != self.size {
            return Err(Error::Failed(format!("sngp: {size} features, and {} in the train set", self.size)));
        }
        let values = finite(features)?;
        let variances = values.chunks(BLOCK * size).flat_map(|block| self.precision.inverse_forms(in_f64(block)));
        Ok(variances.map(|form| self.config.ridge * form).collect())
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Posterior::fit(self, &fit.train()?.features)?))
    }

    fn left_out(&self, head: &heads::Head) -> Option<&'static str> {
        let why = "is meant for `head: sngp`: name it to have it as the Laplace approximation of another last layer";
        (!matches!(head, heads::Head::Sngp(_))).then_some(why)
    }
}

impl Scorer for Posterior {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let logits = map_rows(&bank.logits, <[f64]>::to_vec)?;
        let variances = self.variances(&bank.features)?;
        let scores = logits.into_iter().zip(variances).map(|(mut logits, variance)| {
            let scale = (1.0 + self.config.mean_field * variance).sqrt();
            logits.iter_mut().for_each(|logit| *logit /= scale);
            match self.config.uncertainty {
                Uncertainty::Entropy => entropy(&logits) as f32,
                Uncertainty::DempsterShafer => dempster_shafer(&logits) as f32,
            }
        });
        Scores::new(scores.collect())
    }
}

/// K / (K + Σ exp f)
fn dempster_shafer(logits: &[f64]) -> f64 {
    let excess = Peak::of(logits).log_sum() - (logits.len() as f64).ln();
    1.0 / (1.0 + excess.exp())
}
