//! Denoising error: how far the noise that a diffusion model predicts is from the noise that was added, at a few steps.
//!
//! score = mean over steps t of (e_t − μ_t)/σ_t for e_t = mean over all pixels of (ε̂ − ε)², with μ_t and σ_t those of train images, or of e_t
//! itself. Noise ε is drawn for each image and step.
//!
//! - Papers: Ho et al., *DDPM*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239>, whose loss e_t is; Graham et al., *Denoising diffusion models
//!   for out-of-distribution detection*, CVPR workshops 2023, <https://arxiv.org/abs/2211.07740>, whose z-scores by step these are.
//! - Reference code: none of its own; the loss in `luping-liu/DiffOOD`, `runner/runner.py`, and the z-scores in `marksgraham/ddpm-ood`,
//!   `ood_detection.py`.
//! - Of a model that is told classes, the one for no class is asked. One evaluation a step and repeat: the least that a diffusion model can be
//!   asked, and what dearer scores have to beat.
//! - Deviation: z-scores are of train images, not of a validation set.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Refusal, Scorer, Scores, Smoke,
    denoising::{self, Denoises, Images, Usual, mean_squares, noisy, row_means},
};
use crate::{Result, nn::sampler::Guide, yaml::limits::MOST_IMAGES};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "DenoisingError")]
pub struct Config {
    /// The steps t. Ours: five, over the first half of 1,000, where an image is still to be seen.
    #[garde(length(min = 1, max = 1000), inner(range(max = 100_000)))]
    pub levels: Vec<usize>,
    /// How often noise is drawn for a step. Ours: 1.
    #[garde(range(min = 1, max = 1000))]
    pub repeats: usize,
    /// Whether every step counts by its z-score. ddpm-ood's: true. Without, steps with more error count more, and no train image is read.
    #[garde(skip)]
    pub standardise: bool,
    /// How many train images the z-scores are of, at most, at even distances. ddpm-ood's for a quick run: 1000.
    #[garde(range(min = 2, max = MOST_IMAGES))]
    pub train_images: usize,
    /// Of the noise.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { levels: vec![100, 200, 300, 400, 500], repeats: 1, standardise: true, train_images: 1000, seed: 0 }
    }
}

impl Config {
    /// e_t of (N, C, H, W) images in -1..1 at every step, (N, steps) row after row, with this noise for each step and repeat.
    ///
    /// # Errors
    /// As the denoiser.
    pub(super) fn errors(&self, guide: &Guide<'_>, images: &Tensor, noise: &[Vec<Tensor>]) -> Result<Vec<f64>> {
        let count = images.dim(0)?;
        let mut errors = vec![0.0; count * self.levels.len()];
        for (at, (level, noise)) in self.levels.iter().zip(noise).enumerate() {
            let place = guide.denoiser.schedule().place(*level);
            let all = noise.iter().map(|noise| noisy(images, noise, place)).collect::<Result<Vec<_>>>()?;
            let predicted = guide.predict(&Tensor::cat(&all, 0)?, place, None)?.noise;
            for (repeat, noise) in noise.iter().enumerate() {
                let error = mean_squares(&denoising::part(&predicted, repeat, count)?, noise)?;
                let errors = errors.iter_mut().skip(at).step_by(self.levels.len());
                errors.zip(error).for_each(|(sum, error)| *sum += error / self.repeats as f64);
            }
        }
        Ok(errors)
    }

    fn all(&self, images: &Images<'_>, what: &str) -> Result<Vec<f64>> {
        images.statistics(what, (self.repeats, self.levels.len()), &|batch| {
            let of = |level: &usize| {
                let purpose = format!("denoising_error at {level}");
                (0..self.repeats).map(|repeat| denoising::noise(batch, (self.seed, &purpose, repeat))).collect()
            };
            let noise = self.levels.iter().map(of).collect::<Result<Vec<Vec<Tensor>>>>()?;
            self.errors(&images.guide, batch, &noise)
        })
    }

    fn check(&self, denoises: Denoises) -> Result<(), Refusal> {
        denoises.untold()?;
        self.levels.iter().try_for_each(|level| denoises.check("levels", *level))
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        denoising::NEEDS
    }

    fn learns(&self) -> Learns {
        if self.standardise { Learns::Images } else { Learns::Nothing }
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| about.denoiser.map_or(Ok(()), |denoises| self.check(denoises)).map(|()| None)))
    }

    fn evaluations(&self, _: Denoises) -> Option<usize> {
        Some(self.levels.len() * self.repeats)
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_steps("levels", &mut self.levels);
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let all = |images: &Images<'_>| self.all(images, "fitting denoising_error");
        let learned = || Usual::learned(fit, self.train_images, self.levels.len(), all);
        Ok(Box::new(Fitted { config: self.clone(), usual: self.standardise.then(learned).transpose()? }))
    }
}

/// What errors are usual.
struct Fitted {
    config: Config,
    usual: Option<Usual>,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let images = Images::of(bank.inputs()?)?;
        self.config.check(Denoises::of(images.guide.denoiser)).map_err(|refusal| refusal.error)?;
        let errors = self.config.all(&images, "scoring denoising_error")?;
        let errors = match &self.usual {
            Some(usual) => usual.standardised(&errors),
            None => errors,
        };
        Scores::new(row_means(&errors, self.config.levels.len()))
    }

    fn record(&self) -> Option<serde_json::Value> {
        self.usual.as_ref().map(Usual::record)
    }
}
