//! Mutual information between the class and the member of a deep ensemble: members that learned the same task disagree
//! where they know nothing.
//!
//! score = H[p̄] − mean_m H[p_m] with p_m = softmax of member m and p̄ their mean, in nats, 0..ln min(M, K).
//!
//! - Papers: Lakshminarayanan et al., NeurIPS 2017, <https://arxiv.org/abs/1612.01474> (the ensemble, and this sum as its
//!   members' disagreement); Depeweg et al., ICML 2018, <https://arxiv.org/abs/1710.07283> (the decomposition).
//! - Reference code: DDU `metrics/uncertainty_confidence.py` and `utils/ensemble_utils.py` (`ensemble_forward_pass`).
//! - Deviations: f64 inside, and no ε inside logarithms (1e-12 in DDU). The difference of the two entropies is computed as
//!   mean_m KL(p_m ‖ p̄), as a sum of terms that are each at least 0: it never cancels, nor falls below 0.

use candle_core::{Device, Tensor};

use super::{Bank, Detector, Fit, Output, Peak, Scorer, Scores, map_rows, score_rows};
use crate::{Error, Result};

/// The mutual information has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MutualInformation")]
pub struct Config {}

/// The mutual information in nats of each image from (N, M, K) logits of M members, in 0..ln min(M, K).
///
/// # Errors
/// If there is nothing to score, or a logit is NaN or infinite.
pub fn mutual_information(members: &Tensor) -> Result<Vec<f32>> {
    let (_, _, classes) = members.dims3()?;
    score_rows(&members.flatten_from(1)?, |row| disagreement(&log_softmaxes(row, classes)))
}

/// ln of the mean over members of softmax, (N, K) f32, from (N, M, K) logits: the logits of a deep ensemble.
///
/// # Errors
/// As [`mutual_information`].
pub fn log_mean_softmax(members: &Tensor) -> Result<Tensor> {
    let (images, _, classes) = members.dims3()?;
    let means = map_rows(&members.flatten_from(1)?, |row| {
        log_means(&log_softmaxes(row, classes)).into_iter().map(|log_mean| log_mean as f32).collect::<Vec<f32>>()
    })?;
    Ok(Tensor::from_vec(means.concat(), (images, classes), &Device::Cpu)?)
}

/// ln softmax of each member, from their logits one after another.
fn log_softmaxes(row: &[f64], classes: usize) -> Vec<Vec<f64>> {
    let log_softmax = |logits: &[f64]| {
        let peak = Peak::of(logits);
        let log_sum = peak.rest.ln_1p();
        logits.iter().map(|logit| (logit - peak.max) - log_sum).collect()
    };
    row.chunks_exact(classes).map(log_softmax).collect()
}

/// ln mean_m p_m, for each class.
fn log_means(log_p: &[Vec<f64>]) -> Vec<f64> {
    let log_mean = |class: usize| {
        let largest = log_p.iter().map(|member| member[class]).fold(f64::NEG_INFINITY, f64::max);
        let mean = log_p.iter().map(|member| (member[class] - largest).exp()).sum::<f64>() / log_p.len() as f64;
        largest + mean.ln()
    };
    (0..log_p.first().map_or(0, Vec::len)).map(log_mean).collect()
}

/// mean_m Σ_c p̄_c·φ(p_mc / p̄_c) with φ(r) = r ln r − r + 1 ≥ 0. It is the mean of the divergences, since Σ_m (p_mc − p̄_c) is
/// 0 for each class.
fn disagreement(log_p: &[Vec<f64>]) -> f64 {
    let log_mean = log_means(log_p);
    let divergence = |member: &Vec<f64>| {
        let terms = member.iter().zip(&log_mean).map(|(p, mean)| mean.exp() * phi(p - mean));
        terms.sum::<f64>()
    };
    log_p.iter().map(divergence).sum::<f64>() / log_p.len() as f64
}

/// φ(eᵈ) = d·eᵈ − (eᵈ − 1).
fn phi(d: f64) -> f64 {
    if d.abs() < 0.01 {
        // Its series Σ_{k≥2} dᵏ·(k − 1)/k!; the first term left out is below 1e-14 of the sum.
        let terms = [1.0 / 2.0, 1.0 / 3.0, 1.0 / 8.0, 1.0 / 30.0, 1.0 / 144.0, 1.0 / 840.0];
        return d * d * terms.iter().rev().fold(0.0, |sum, term| sum * d + term);
    }
    d * d.exp() - d.exp_m1()
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Members]
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let members = bank.members.as_ref();
        let members =
            members.ok_or_else(|| Error::Failed("mutual_information needs the members of an ensemble".into()))?;
        Scores::new(mutual_information(members)?)
    }
}
