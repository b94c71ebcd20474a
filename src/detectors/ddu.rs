//! Deep deterministic uncertainty: the density of an image's features under one Gaussian for each class.
//!
//! score = −ln Σ_c N(z; μ_c, Σ_c) for the features z, with the mean and covariance (divided by n − 1) of each class's train
//! images: how little the image resembles any class, whatever the network decides.
//!
//! - Paper: Mukhoti et al., *Deep Deterministic Uncertainty*, CVPR 2023, <https://arxiv.org/abs/2102.11582>. Its networks have
//!   `spectral_norm: { coefficient: 3 }`, `activation: leaky_relu` and `shortcut: average_pool`.
//! - Reference code: `omegafragger/DDU`, `utils/gmm_utils.py`; as there, without class priors.
//! - Deviations: the jitter that a singular covariance needs is a share of the features' mean variance, so that the scale of the
//!   features does not matter, and the least of 0, 1e-12, 1e-11, …, 0.1 that serves every class; there it is the least of 0,
//!   1e-308, …, 0.1 itself, whose search ends early since PyTorch words the error otherwise (issues 4 and 8). A pivot that is lost
//!   in rounding counts as singular. A class with a single train image has no covariance and is left out.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, centred, check_memory, finite};
use crate::{
    Error, Result,
    linalg::{Cholesky, add_gram},
};

/// Jitters to try, in shares of the mean variance.
const JITTERS: [f64; 13] = [0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// DDU has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ddu")]
pub struct Config {}

impl Config {
    /// Refuses a fit to features of this size in less memory than it takes: each class's covariance, and its factor.
    ///
    /// # Errors
    /// [`Error::Input`] with both numbers.
    pub fn check_memory(&self, size: usize, classes: usize, memory: usize) -> Result<()> {
        let bytes = 2 * size_of::<f64>() * classes * size * size;
        check_memory("ddu needs", &format!("the covariances of {classes} classes"), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or leave it out"))
    }
}

/// One Gaussian for each class.
#[derive(Debug, Clone)]
pub struct Gaussians {
    size: usize,
    classes: Vec<Gaussian>,
    /// What was added to every variance.
    pub jitter: f64,
    /// Classes that are left out, since they have a single image.
    pub left_out: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Gaussian {
    mean: Vec<f64>,
    covariance: Cholesky,
    /// −½·(D·ln 2π + ln det Σ)
    log_peak: f64,
}

impl Gaussians {
    /// Of (N, D) features and the classes of the N images.
    ///
    /// # Errors
    /// If a feature is NaN or infinite, no class has two images, or no jitter makes the covariances positive definite, as when
    /// the features are constant.
    pub fn fit(features: &Tensor, labels: &[u32]) -> Result<Self> {
        let (images, size) = features.dims2()?;
        if images != labels.len() || size == 0 {
            return Err(Error::Failed(format!("ddu: features {images} × {size} for {} labels", labels.len())));
        }
        let values = finite(features)?;
        let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (image, label) in labels.iter().enumerate() {
            members.entry(*label).or_default().push(image);
        }
        let left_out = members.iter().filter(|(_, members)| members.len() < 2).map(|(class, _)| *class).collect();
        members.retain(|_, members| members.len() >= 2);
        if members.is_empty() {
            return Err(Error::Failed("ddu: no class has two train images, so there is no covariance".into()));
        }
        let moments: Vec<_> = members.values().map(|members| moments(&values, members, size)).collect();
        let variances = moments.iter().map(|(_, covariance)| covariance.iter().step_by(size + 1).sum::<f64>());
        let scale = variances.sum::<f64>() / (size * moments.len()) as f64;
        for share in JITTERS {
            let jitter = share * scale;
            let classes = moments.par_iter().map(|(mean, covariance)| Gaussian::new(mean, covariance, jitter));
            if let Some(classes) = classes.collect() {
                return Ok(Self { size, classes, jitter, left_out });
            }
        }
        Err(Error::Failed(format!(
            "ddu: the covariances of the features stay singular with a tenth of their mean variance {scale:e} added"
        )))
    }

    /// ln Σ_c N(z; μ_c, Σ_c) of each row z of (N, D) features.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn log_densities(&self, features: &Tensor) -> Result<Vec<f64>> {
        let (images, size) = features.dims2()?;
        if size != self.size {
            return Err(Error::Failed(format!("ddu: {size} features, and {} in the train set", self.size)));
        }
        let values = finite(features)?;
        let mut densities = Vec::with_capacity(images);
        for block in values.chunks(BLOCK * size) {
            let by_class: Vec<Vec<f64>> = self.classes.iter().map(|class| class.log_densities(block)).collect();
            densities.extend((0..block.len() / size).map(|image| {
                let peak = by_class.iter().map(|class| class[image]).fold(f64::NEG_INFINITY, f64::max);
                peak + by_class.iter().map(|class| (class[image] - peak).exp()).sum::<f64>().ln()
            }));
        }
        Ok(densities)
    }
}

impl Gaussian {
    /// `None` when the covariance with `jitter` is not positive definite.
    fn new(mean: &[f64], covariance: &[f64], jitter: f64) -> Option<Self> {
        let size = mean.len();
        let mut covariance = covariance.to_vec();
        covariance.iter_mut().step_by(size + 1).for_each(|variance| *variance += jitter);
        let covariance = Cholesky::new(covariance, size)?;
        let log_peak = -0.5 * (size as f64 * std::f64::consts::TAU.ln() + covariance.log_determinant());
        Some(Self { mean: mean.to_vec(), covariance, log_peak })
    }

    fn log_densities(&self, features: &[f32]) -> Vec<f64> {
        let mut forms = self.covariance.inverse_forms(centred(features.chunks_exact(self.mean.len()), &self.mean));
        forms.iter_mut().for_each(|form| *form = self.log_peak - 0.5 * *form);
        forms
    }
}

/// Mean and covariance of the rows `members` of `values`.
fn moments(values: &[f32], members: &[usize], size: usize) -> (Vec<f64>, Vec<f64>) {
    let row = |image: &usize| &values[image * size..][..size];
    let mut mean = vec![0.0; size];
    for image in members {
        mean.iter_mut().zip(row(image)).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    mean.iter_mut().for_each(|sum| *sum /= members.len() as f64);
    let mut covariance = vec![0.0; size * size];
    for block in members.chunks(BLOCK) {
        add_gram(&mut covariance, &centred(block.iter().map(row), &mean), size);
    }
    let degrees = (members.len() - 1) as f64;
    covariance.iter_mut().for_each(|sum| *sum /= degrees);
    (mean, covariance)
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let (size, classes) = (about.shown.features()?.dim(1)?, about.shown.logits()?.dim(1)?);
            Ok(self.check_memory(size, classes, about.memory).map(|()| None)?)
        }))
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        let classes = labels.iter().collect::<BTreeSet<_>>().len();
        self.check_memory(train.features.dim(1)?, classes, fit.memory)?;
        Ok(Box::new(Gaussians::fit(&train.features, labels)?))
    }
}

impl Scorer for Gaussians {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let densities = self.log_densities(&bank.features)?;
        match densities.iter().position(|density| !(-*density as f32).is_finite()) {
            Some(image) => Err(Error::Failed(format!(
                "ddu: the log density of image {image} is {:e}, beyond what a score can be: the covariances of the train features \
                 are nearly singular (with {:e} added to every variance), and the image is far off where they are",
                densities[image], self.jitter
            ))),
            None => Scores::new(densities.into_iter().map(|density| -density as f32).collect()),
        }
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "jitter": self.jitter, "classes_left_out": self.left_out }))
    }
}
