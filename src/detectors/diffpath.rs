//! DiffPath: what the predicted noise is like on the way from an image to noise, and how it changes, against the train images' ways.
//!
//! score = −ln p(z) for the z-scores z of six sums over all pixels and steps: Σε, Σε², Σε³, and with ∂ε, the difference of ε at two steps one after
//! the other times the number of steps, Σ∂ε, Σ(∂ε)², Σ(∂ε)³. p is a mixture of Gaussians of the train images' z.
//!
//! - Paper: Heng et al., *Out-of-Distribution Detection with a Single Unconditional Diffusion Model* (DiffPath), NeurIPS 2024,
//!   <https://arxiv.org/abs/2405.11881>: DiffPath-6D.
//! - Reference code: `clear-nus/diffpath`, `save_train_statistics.py` and `eval_6d.py`: DDIM inversion in 10 steps, the image taken for one at the
//!   first step; predicted images are clamped, and ε is what then makes the noisy image.
//! - Deviation: the code chooses 50 or 100 Gaussians and one of four kinds of covariance by cross-validation on train statistics. They are
//!   settings here, and no image but those of the train set is needed for either.
//! - Deviation: with `steps` the last prediction is at the last step of the way, after which the code makes one more, unused image.
//! - Of a model that is told classes, the one for no class is asked.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Refusal, Scorer, Scores, Smoke, check_memory,
    denoising::{self, Denoises, Images, Usual, some},
    numbers,
};
use crate::{
    Error, Result,
    linalg::{self, Mixture},
    nn::sampler::{Guide, Sampler, Way},
    rng,
    yaml::limits::MOST_IMAGES,
};

/// Sums of an image.
const SUMS: usize = 6;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Diffpath")]
pub struct Config {
    /// How many predictions the way from the image to noise has. DiffPath's: 10.
    #[garde(range(min = 2, max = 100_000))]
    pub steps: usize,
    /// How many Gaussians. DiffPath's code tries 50 and 100: 50.
    #[garde(range(min = 1, max = 10_000))]
    pub components: usize,
    /// Their covariances. DiffPath's code tries four kinds: full, the first.
    #[garde(skip)]
    pub covariance: Covariance,
    /// Whether predicted images are clamped to those that there are. DiffPath's: true.
    #[garde(skip)]
    pub clamp: bool,
    /// How many train images the mixture is of, at most, at even distances. DiffPath's: none, all.
    #[garde(range(min = 2, max = MOST_IMAGES))]
    pub train_images: Option<usize>,
    /// Steps of the mixture's fit at most. DiffPath's: 200.
    #[garde(range(min = 1, max = 100_000))]
    pub iterations: usize,
    /// Of the mixture's start.
    #[garde(skip)]
    pub seed: u64,
}

/// What a Gaussian's covariance may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Covariance {
    /// Any.
    Full,
    /// Of sums that do not vary together.
    Diagonal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            steps: 10,
            components: 50,
            covariance: Covariance::Full,
            clamp: true,
            train_images: None,
            iterations: 200,
            seed: 0,
        }
    }
}

impl Config {
    /// The six sums of (N, C, H, W) images in -1..1, (N, 6) row after row.
    ///
    /// # Errors
    /// As the denoiser.
    pub(super) fn sums(&self, guide: &Guide<'_>, images: &Tensor) -> Result<Vec<f64>> {
        let schedule = guide.denoiser.schedule();
        let (places, _) = Way::up(schedule.steps() / self.steps, self.steps).places(schedule);
        let sampler = Sampler { clamp: self.clamp, ..Sampler::default() };
        let size = images.elem_count() / images.dim(0)?;
        let mut sums = vec![0.0; images.dim(0)? * SUMS];
        let mut add = |first: usize, values: &[f64]| {
            for (sums, values) in sums.chunks_exact_mut(SUMS).zip(values.chunks_exact(size)) {
                for value in values {
                    sums[first] += value;
                    sums[first + 1] += value.powi(2);
                    sums[first + 2] += value.powi(3);
                }
            }
        };
        let mut x = images.clone();
        let mut last: Option<Vec<f64>> = None;
        for (at, place) in places.iter().enumerate() {
            let predicted = sampler.clamped(guide.predict(&x, *place, None)?, &x, *place)?;
            let noise = numbers(&predicted.noise)?;
            add(0, &noise);
            if let Some(last) = &last {
                let change = noise.iter().zip(last).map(|(now, last)| (now - last) * self.steps as f64);
                add(3, &change.collect::<Vec<_>>());
            }
            last = Some(noise);
            if let Some(next) = places.get(at + 1) {
                x = predicted.at(*next)?;
            }
        }
        Ok(sums)
    }

    fn all(&self, images: &Images<'_>, what: &str) -> Result<Vec<f64>> {
        images.statistics(what, (1, SUMS), &|batch| self.sums(&images.guide, batch))
    }

    /// Refuses too few train images, and too many Gaussians for the memory.
    fn check_images(&self, images: usize, memory: usize) -> Result<()> {
        let images = self.train_images.map_or(images, |most| most.min(images));
        if self.components > images {
            let message = format!("components is {}, and there are {images} train images", self.components);
            return Err(Error::input(message).hint("take fewer"));
        }
        if images == usize::MAX {
            return Ok(());
        }
        check_memory("diffpath needs", "the shares of its Gaussians", [self.bytes(images), memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take fewer train_images"))
    }

    fn bytes(&self, images: usize) -> usize {
        // The rows twice, their logarithms' shares, and one Gaussian's forms.
        images * (self.components + 3 * SUMS + 1) * size_of::<f64>()
    }

    fn check(&self, denoises: Denoises) -> Result<(), Refusal> {
        denoises.untold()?;
        if self.steps > denoises.steps {
            let message = format!("{} steps do not fit a schedule of {}", self.steps, denoises.steps);
            return Err(Refusal { key: Some("steps"), error: Error::input(message).hint("take fewer") });
        }
        Ok(())
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        denoising::NEEDS
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            about.denoiser.map_or(Ok(()), |denoises| self.check(denoises))?;
            self.check_images(about.most(), about.memory)?;
            let images = about.train.map(|images| self.train_images.map_or(images, |most| most.min(images)));
            Ok(images.map(|images| self.bytes(images)))
        }))
    }

    fn evaluations(&self, _: Denoises) -> Option<usize> {
        Some(self.steps)
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("steps", &mut self.steps, 2);
        smoke.set("components", &mut self.components, 2);
        self.train_images = None;
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let train = some(fit.train()?, self.train_images)?;
        let images = Images::of(train.inputs()?)?;
        self.check(Denoises::of(images.guide.denoiser)).map_err(|refusal| refusal.error)?;
        self.check_images(images.count(), fit.memory)?;
        let sums = self.all(&images, "fitting diffpath")?;
        let usual = Usual::of(&sums, SUMS);
        let covariance = match self.covariance {
            Covariance::Full => linalg::Covariance::Full,
            Covariance::Diagonal => linalg::Covariance::Diagonal,
        };
        let mut start = rng::stream(self.seed, "diffpath", "mixture");
        let rows = usual.standardised(&sums);
        let mixture = Mixture::new(&rows, SUMS, self.components, covariance, self.iterations, &mut start)
            .ok_or_else(|| Error::Failed("diffpath: a Gaussian of the train statistics has no density".into()))?;
        Ok(Box::new(Fitted { config: self.clone(), usual, mixture }))
    }
}

/// The train images' ways.
struct Fitted {
    config: Config,
    usual: Usual,
    mixture: Mixture,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let sums = self.config.all(&Images::of(bank.inputs()?)?, "scoring diffpath")?;
        let densities = self.mixture.log_densities(&self.usual.standardised(&sums));
        Scores::new(densities.into_iter().map(|density| -density as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let (steps, converged) = self.mixture.steps;
        let mut record = self.usual.record();
        record["mixture_steps"] = steps.into();
        record["mixture_converged"] = converged.into();
        Some(record)
    }
}
