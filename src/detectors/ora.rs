//! ORA: seen from the train images' centre, features of known images lie at wide angles to decision boundaries.
//!
//! score = −1/π·max_c ∠(z − μ, z_c − μ) for the features z, and z_c their projection on the boundary between the likeliest class ĉ and
//! c: z_c = z − (f_ĉ − f_c) / ‖w_ĉ − w_c‖₂²·(w_ĉ − w_c) with the logits f = W·z + b. μ is the mean of the class means of the train
//! images' features.
//!
//! - Paper: Demirel, Fumero, Locatello, *Out-of-Distribution Detection with Relative Angles*, NeurIPS 2025,
//!   <https://arxiv.org/abs/2410.04525>.
//! - Reference code: `berkerdemirel/ORA-OOD-Detection-with-Relative-Angles`, `util/ood_methods.py`, whose score is the negative of
//!   this one. OpenOOD v1.5 has it in a pull request, with the train images' class means, as here; the authors' CIFAR-10 script takes
//!   those of ID test images. pytorch-ood 0.4.0 does not have it.
//! - Deviations: classes with the same weights are refused, as in [`fdbd`](super::fdbd); the reference counts an angle of 0. Features equal
//!   to μ have the score 0, as there. Angles are of their sines and cosines, so that small ones keep their digits.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores, argmax, centred, class_means, fdbd::gaps, finite, map_rows,
    numbers, same,
};
use crate::{
    Result,
    linalg::{dot, project},
    nn::Head,
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// ORA has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ora")]
pub struct Config {}

struct Fitted {
    /// μ
    centre: Vec<f64>,
    /// Row after row (K, D).
    weight: Vec<f64>,
    /// ‖w_a − w_b‖₂ (K, K)
    gaps: Vec<Vec<f64>>,
}

/// The mean of the class means of (N, D) features, of the classes that have images.
fn mean_of_means(features: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
    let values = finite(features)?;
    let (images, size) = features.dims2()?;
    same("labels", labels.len(), images)?;
    let classes = class_means(&values, size, labels, false);
    let mut mean = vec![0.0; size];
    for (_, of_class) in classes.values() {
        mean.iter_mut().zip(of_class).for_each(|(mean, x)| *mean += x / classes.len() as f64);
    }
    Ok(mean)
}

impl Fitted {
    fn new(head: &Head, features: &Tensor, labels: &[u32]) -> Result<Self> {
        let centre = mean_of_means(features, labels)?;
        same("inputs of the last layer", head.weight.dim(1)?, centre.len())?;
        Ok(Self { centre, gaps: gaps(&head.weight)?, weight: numbers(&head.weight)? })
    }

    /// The largest angle of an image to a boundary, as a share of π: of its logits, of a = z − μ, and of W·a.
    ///
    /// With s = (f_ĉ − f_c) / ‖d‖² for d = w_ĉ − w_c, z_c − μ = a − s·d: along a it is ‖a‖ − s·d·a/‖a‖, and across a the rest of s·d.
    fn widest(&self, logits: &[f64], away: &[f64], along: &[f64]) -> f64 {
        let class = argmax(logits);
        let square = dot(away, away);
        let angle = |other: usize| {
            let step = (logits[class] - logits[other]) / self.gaps[class][other].powi(2);
            let length = step * self.gaps[class][other];
            // Both times ‖a‖.
            let shared = step * (along[class] - along[other]);
            let across = (length * length * square - shared * shared).max(0.0).sqrt();
            across.atan2(square - shared)
        };
        let angles = (0..logits.len()).filter(|other| *other != class).map(angle);
        if square > 0.0 { angles.fold(0.0, f64::max) / std::f64::consts::PI } else { 0.0 }
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        Ok(Box::new(Fitted::new(fit.head()?, &train.features, labels)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let (size, classes) = (self.centre.len(), self.gaps.len());
        same("features", bank.features.dim(1)?, size)?;
        same("logits", bank.logits.dim(1)?, classes)?;
        let logits = map_rows(&bank.logits, <[f64]>::to_vec)?;
        let values = finite(&bank.features)?;
        same("rows of features", values.len() / size, logits.len())?;
        let mut scores = Vec::with_capacity(logits.len());
        for (block, logits) in values.chunks(BLOCK * size).zip(logits.chunks(BLOCK)) {
            let away = centred(block.chunks_exact(size), &self.centre);
            let along = project(&away, &self.weight, size);
            let rows = away.chunks_exact(size).zip(along.chunks_exact(classes));
            scores.extend(rows.zip(logits).map(|((away, along), logits)| -self.widest(logits, away, along) as f32));
        }
        Scores::new(scores)
    }
}
