//! pNML: the regret of a learner that would have had to know an image's class, for a last layer alone.
//!
//! score = ln Σ_c p_c / (p_c + (1 − p_c)·p_c^κ) / ln K with p = softmax(W·u + b) for u = z/‖z‖₂ of the features z, the K classes and
//! κ = uᵀ·P·u / (1 + uᵀ·P·u). P is the pseudo-inverse of Σ_i u_i·u_iᵀ over the train images.
//!
//! - Paper: Bibas, Feder, Hassner, *Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution Detection*, NeurIPS
//!   2021, <https://arxiv.org/abs/2110.09246>.
//! - Reference code: `kobybibas/pnml_ood_detection`, `lit_utils/baseline_lit_utils.py`; pytorch-ood `PNML`. OpenOOD v1.5 does not have
//!   it.
//! - Deviations: the sum less 1 is added up of positive terms, since Σp is 1: a sure image's regret keeps its digits. pytorch-ood
//!   holds p within 1e-12 of 0 and 1. Features of zeros stay as they are, where the authors have NaN.
//! - P leaves out directions of eigenvalues that are rounding; the authors invert a matrix of full rank up to 1e-16.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, argmax, check_memory, finite, log_softmax, normalised,
    same, shaping::last_layer,
};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, project},
    nn::Head,
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// pNML has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pnml")]
pub struct Config {}

/// The regret of a row of logits for a κ in 0..1, as a share of ln K.
///
/// Of each class, p/(p + (1 − p)·p^κ) − p = a·(1 − p)·(1 − p^κ)/(a + 1 − p) with a = p^(1 − κ).
pub fn regret(logits: &[f64], kappa: f64) -> f64 {
    let logs = log_softmax(logits);
    let likely = argmax(logits);
    let others = (0..logs.len()).filter(|class| *class != likely).map(|class| logs[class].exp()).sum::<f64>();
    let excess = logs.iter().enumerate().map(|(class, log)| {
        let rest = if class == likely { others } else { 1.0 - log.exp() };
        let raised = ((1.0 - kappa) * log).exp();
        raised * rest * -(kappa * log).exp_m1() / (raised + rest)
    });
    excess.sum::<f64>().ln_1p() / (logs.len() as f64).ln()
}

/// Refuses so many features that there is no room for.
fn room(features: usize, memory: usize) -> Result<()> {
    // The moments, their eigenvectors, and once more while they are found.
    let bytes = (3 * size_of::<f64>()).saturating_mul(features).saturating_mul(features);
    check_memory("pnml needs", &format!("the moments of {features} features"), [bytes, memory])
        .map_err(|error| error.hint("raise evaluation.fit_memory (--memory)"))
}

struct Fitted {
    /// D.
    size: usize,
    /// The last layer (K, D), row after row, and its bias.
    weight: Vec<f64>,
    bias: Vec<f64>,
    /// v / √λ for each eigenvector of Σ u·uᵀ whose λ is not 0 up to rounding.
    directions: Vec<f64>,
}

impl Fitted {
    fn new(head: &Head, features: &Tensor) -> Result<Self> {
        let values = finite(features)?;
        let size = features.dim(1)?;
        let (weight, bias) = last_layer(head, size)?;
        if bias.len() < 2 {
            return Err(Error::Failed("pnml: one class leaves nothing to regret".into()));
        }
        let mut moments = vec![0.0; size * size];
        for block in values.chunks(BLOCK * size) {
            add_gram(&mut moments, &normalised(block, size), size);
        }
        let eigen = Eigen::new(moments, size)
            .ok_or_else(|| Error::Failed("the features' second moments have no finite eigenvalues".into()))?;
        let directions = eigen.whitening();
        if directions.is_empty() {
            return Err(Error::Failed("pnml: all features of the train images are 0".into()));
        }
        Ok(Self { size, weight, bias, directions })
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            if about.shown.logits()?.dim(1)? < 2 {
                return Err(Error::input("pnml: one class leaves nothing to regret").into());
            }
            Ok(room(about.shown.features()?.dim(1)?, about.memory).map(|()| None)?)
        }))
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        room(features.dims2()?.1, fit.memory)?;
        Ok(Box::new(Fitted::new(fit.head()?, features)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let values = finite(&bank.features)?;
        same("features", bank.features.dim(1)?, self.size)?;
        let rank = self.directions.len() / self.size;
        let mut scores = Vec::with_capacity(values.len() / self.size);
        for block in values.chunks(BLOCK * self.size) {
            let rows = normalised(block, self.size);
            let (logits, along) =
                (project(&rows, &self.weight, self.size), project(&rows, &self.directions, self.size));
            for (logits, along) in logits.chunks_exact(self.bias.len()).zip(along.chunks_exact(rank)) {
                let form = along.iter().map(|x| x * x).sum::<f64>();
                let logits: Vec<f64> = logits.iter().zip(&self.bias).map(|(logit, bias)| logit + bias).collect();
                scores.push(regret(&logits, form / (1.0 + form)) as f32);
            }
        }
        Scores::new(scores)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "features": self.size, "rank": self.directions.len() / self.size }))
    }
}
