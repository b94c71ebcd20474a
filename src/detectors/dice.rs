//! DICE: directed sparsification. Weights of the last layer that contribute little to the logits of train images add noise only.
//!
//! score = −logsumexp((M ∘ W) · z + b) for the features z and the last layer W, b. The contribution of a weight is V_cd = W_cd · z̄_d,
//! with the mean z̄ of the train images' features; M_cd is 1 where V_cd is above the `percentile`-th percentile of V, and 0 elsewhere.
//!
//! - Paper: Sun, Li, *DICE: Leveraging Sparsification for Out-of-Distribution Detection*, ECCV 2022,
//!   <https://arxiv.org/abs/2111.09805>.
//! - Reference code: `deeplearning-wisc/dice`; OpenOOD `dice_postprocessor.py`; pytorch-ood `DICE`, to which this is equal.
//! - Deviations: none but f64 inside, and an error where no contribution is above the percentile, whose scores would be one constant.
//! - Features may be negative: contributions keep their sign, and weights whose contribution is most negative are the first to go.

use candle_core::{Device, Tensor};

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores, finite, mean_row,
    shaping::{energies, last_layer, percentile_f64},
};
use crate::{Error, Result, nn::Head};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dice")]
pub struct Config {
    /// The percentage of weights that is left out: 90 in the reference's scripts for CIFAR-10 and CIFAR-100 (70 for
    /// ImageNet), and in OpenOOD.
    #[garde(range(min = 0.0, max = 99.99))]
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { percentile: 90.0 }
    }
}

/// `head` without the weights that contribute little when the features are `mean` (D), and how many it keeps.
///
/// # Errors
/// If the sizes do not fit, a number is NaN or infinite, or no weight is left, as when all contribute the same.
pub fn sparsified(head: &Head, mean: &[f64], percentile: f64) -> Result<(Head, usize)> {
    let (mut weight, _) = last_layer(head, mean.len())?;
    let contributions: Vec<f64> = weight.iter().zip(mean.iter().cycle()).map(|(weight, mean)| weight * mean).collect();
    let threshold = percentile_f64(contributions.clone(), percentile);
    let mut kept = 0;
    for (weight, contribution) in weight.iter_mut().zip(contributions) {
        if contribution > threshold {
            kept += 1;
        } else {
            *weight = 0.0;
        }
    }
    if kept == 0 {
        return Err(Error::Failed(format!(
            "dice: no weight contributes more than percentile {percentile}, {threshold}"
        )));
    }
    let weight = Tensor::from_vec(weight, head.weight.shape(), &Device::Cpu)?;
    Ok((Head { weight, bias: head.bias.clone() }, kept))
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        let mean = mean_row(&finite(features)?, features.dim(1)?);
        let (head, kept) = sparsified(fit.head()?, &mean, self.percentile)?;
        Ok(Box::new(Fitted { head, kept }))
    }
}

/// The last layer that is left.
struct Fitted {
    head: Head,
    kept: usize,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(energies(&bank.features, &self.head, |_| ())?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "weights_kept": self.kept }))
    }
}
