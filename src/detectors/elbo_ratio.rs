//! ELBO ratio: how much dearer an image is to a diffusion model where noise hides its content than where it hides its detail.
//!
//! score = (D_high − μ_high)/σ_high − (D_low − μ_low)/σ_low, for the mean D_band over a band's steps t of t·L_t, where L_t = ½·(SNR_{t−1} − SNR_t)·mean over
//! all pixels of (x − x̂_t)² is the term of −ELBO a pixel at step t, with SNR = a²/s², and μ and σ are those of train images. Steps are at even distances
//! of ln t, of which t·L_t is the density, so that D·ln(end/start) is a band's part of −ELBO.
//!
//! - Paper: Goodier & Campbell, *Likelihood-based Out-of-Distribution Detection with Denoising Diffusion Probabilistic Models*, BMVC 2023,
//!   <https://arxiv.org/abs/2310.17432>: a likelihood ratio of ELBO terms of one model at several levels of noise, which corrects for how complex
//!   an image is. L_t is that of Kingma et al., *Variational Diffusion Models*, NeurIPS 2021, <https://arxiv.org/abs/2107.00630>, section 4.
//! - Reference code: none is known to us. Of the paper only its abstract was there to read: bands, steps and z-scores are our reading.
//! - Of a model that is told classes, the one for no class is asked.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Refusal, Scorer, Scores, Smoke,
    denoising::{self, Denoises, Images, Usual, mean_squares, noisy},
};
use crate::{
    Error, Result,
    nn::{denoiser::Schedule, sampler::Guide},
    yaml::limits::MOST_IMAGES,
};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ElboRatio")]
pub struct Config {
    /// The band of little noise: its first and last step as shares of the schedule. Ours: a decade of steps, where detail is hidden.
    #[garde(inner(range(min = 0.0, max = 1.0)))]
    pub low: [f64; 2],
    /// The band of much noise. Ours: the next decade, where content is hidden.
    #[garde(inner(range(min = 0.0, max = 1.0)))]
    pub high: [f64; 2],
    /// How many steps of each band are looked at. Ours: 5.
    #[garde(range(min = 1, max = 1000))]
    pub samples: usize,
    /// Whether each band counts by its z-score. Ours: true. Without, the bands' own densities are subtracted, and no train image is read.
    #[garde(skip)]
    pub standardise: bool,
    /// How many train images the z-scores are of, at most, at even distances. Ours, as ddpm_ood's: 1000.
    #[garde(range(min = 2, max = MOST_IMAGES))]
    pub train_images: usize,
    /// Of the noise.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { low: [0.01, 0.1], high: [0.1, 1.0], samples: 5, standardise: true, train_images: 1000, seed: 0 }
    }
}

impl Config {
    /// The steps of each band, one after another: as many of the one as of the other, from 1 to the last.
    fn steps(&self, schedule: usize) -> Vec<usize> {
        let of = |[start, end]: [f64; 2]| {
            let last = schedule - 1;
            let [start, end] = [start, end].map(|share| (share * schedule as f64).max(1.0));
            (0..self.samples).map(move |at| {
                let share = (at as f64 + 0.5) / self.samples as f64;
                ((start * (end / start).powf(share)).round() as usize).clamp(1, last)
            })
        };
        of(self.low).chain(of(self.high)).collect()
    }

    /// t·L_t of a step by the mean square that it is to be multiplied by.
    fn weight(schedule: &Schedule, step: usize) -> f64 {
        let ratio = |step: usize| {
            let place = schedule.place(step);
            (place.signal / place.noise).powi(2)
        };
        0.5 * step as f64 * (ratio(step - 1) - ratio(step))
    }

    /// D of both bands of (N, C, H, W) images in -1..1, (N, 2) row after row, with this noise for each step.
    ///
    /// # Errors
    /// As the denoiser.
    pub(super) fn densities(&self, guide: &Guide<'_>, images: &Tensor, noise: &[Tensor]) -> Result<Vec<f64>> {
        let schedule = guide.denoiser.schedule();
        let mut densities = vec![0.0; images.dim(0)? * 2];
        for (at, (step, noise)) in self.steps(schedule.steps()).into_iter().zip(noise).enumerate() {
            let place = schedule.place(step);
            let predicted = guide.predict(&noisy(images, noise, place)?, place, None)?;
            let weight = Self::weight(schedule, step) / self.samples as f64;
            let squares = mean_squares(&predicted.image, images)?;
            let band = densities.iter_mut().skip(at / self.samples).step_by(2);
            band.zip(squares).for_each(|(density, square)| *density += weight * square);
        }
        Ok(densities)
    }

    fn all(&self, images: &Images<'_>, what: &str) -> Result<Vec<f64>> {
        images.statistics(what, (1, 2), &|batch| {
            let noise = (0..2 * self.samples).map(|at| denoising::noise(batch, (self.seed, "elbo_ratio", at)));
            self.densities(&images.guide, batch, &noise.collect::<Result<Vec<_>>>()?)
        })
    }

    fn check(&self, denoises: Denoises) -> Result<(), Refusal> {
        denoises.untold()?;
        for (key, [start, end]) in [("low", self.low), ("high", self.high)] {
            if start >= end || end * denoises.steps as f64 <= 1.0 {
                let message =
                    format!("from {start} to {end} of a schedule of {} steps there is no step", denoises.steps);
                return Err(Refusal { key: Some(key), error: Error::input(message) });
            }
        }
        Ok(())
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
        Some(2 * self.samples)
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("samples", &mut self.samples, 1);
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let all = |images: &Images<'_>| self.all(images, "fitting elbo_ratio");
        let learned = || Usual::learned(fit, self.train_images, 2, all);
        Ok(Box::new(Fitted { config: self.clone(), usual: self.standardise.then(learned).transpose()? }))
    }
}

/// What densities are usual.
struct Fitted {
    config: Config,
    usual: Option<Usual>,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let images = Images::of(bank.inputs()?)?;
        self.config.check(Denoises::of(images.guide.denoiser)).map_err(|refusal| refusal.error)?;
        let densities = self.config.all(&images, "scoring elbo_ratio")?;
        let densities = match &self.usual {
            Some(usual) => usual.standardised(&densities),
            None => densities,
        };
        Scores::new(densities.chunks_exact(2).map(|bands| (bands[1] - bands[0]) as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        self.usual.as_ref().map(Usual::record)
    }
}
