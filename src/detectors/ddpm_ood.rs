//! DDPM-OOD: how far images are from themselves when a diffusion model makes them again from ever more noise.
//!
//! score = mean over start steps t of (r_t − μ_t)/σ_t for r_t = mean over all pixels of (x − x̂_t)², where x̂_t is x with noise of step t, taken back by
//! PLMS and clamped, and μ_t and σ_t are those of train images. Pixels are in 0..1.
//!
//! - Paper: Graham et al., *Denoising diffusion models for out-of-distribution detection*, CVPR workshops 2023,
//!   <https://arxiv.org/abs/2211.07740>.
//! - Reference code: `marksgraham/ddpm-ood`, `src/trainers/reconstruct.py` and `ood_detection.py`: 100 steps of PLMS, every `skip`-th a start.
//! - Deviation: squares of differences alone. The code adds LPIPS, which needs a published network of its own.
//! - Deviation: every chain starts anew, with a first step of two evaluations. The code keeps the scheduler's memory over starts.
//! - Deviation: z-scores are of train images, not of a validation set. Of a model that is told classes, the one for no class is asked.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Refusal, Scorer, Scores, Smoke,
    denoising::{self, Denoises, Images, Usual, mean_squares, noisy, row_means, some},
};
use crate::{
    Error, Result,
    nn::sampler::{Chain, Guide, Kind, Sampler, Way, together},
    yaml::limits::MOST_IMAGES,
};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "DdpmOod")]
pub struct Config {
    /// How many steps of the sampler a whole schedule has. ddpm-ood's: 100.
    #[garde(range(min = 1, max = 100_000))]
    pub steps: usize,
    /// Every so many-th of these steps is a start. ddpm-ood's README: 4, which is 25 starts and 1,275 evaluations an image; 16 is 7 starts and 357.
    #[garde(range(min = 1, max = 100_000))]
    pub skip: usize,
    /// How steps are made. ddpm-ood's: plms.
    #[garde(skip)]
    pub sampler: Kind,
    /// How many train images the z-scores are of, at most, at even distances. ddpm-ood's for a quick run: 1000.
    #[garde(range(min = 2, max = MOST_IMAGES))]
    pub train_images: usize,
    /// Of the noise.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { steps: 100, skip: 4, sampler: Kind::Plms, train_images: 1000, seed: 0 }
    }
}

impl Config {
    /// The ways back from each start of a schedule of so many steps.
    fn ways(&self, schedule: usize) -> Vec<Way> {
        let stride = (schedule / self.steps).max(1);
        let starts = (0..self.steps).skip(1).step_by(self.skip).map(|step| step * stride);
        starts.filter(|start| *start < schedule).map(|start| Way::down(start, stride, true)).collect()
    }

    /// r_t of (N, C, H, W) images in -1..1 from every start, (N, starts) row after row, with this noise for each start.
    ///
    /// # Errors
    /// As the denoiser.
    pub(super) fn distances(&self, guide: &Guide<'_>, images: &Tensor, noise: &[Tensor]) -> Result<Vec<f64>> {
        let schedule = guide.denoiser.schedule();
        let sampler = Sampler { kind: self.sampler, ..Sampler::default() };
        let chain = |(way, noise): (&Way, &Tensor)| {
            let images = noisy(images, noise, way.places(schedule).0[0])?;
            Ok(Chain::new(sampler, guide.denoiser, way, &images, None))
        };
        let ways = self.ways(schedule.steps());
        let mut chains = ways.iter().zip(noise).map(chain).collect::<Result<Vec<_>>>()?;
        together(guide, &mut chains)?;
        let starts = chains.len();
        let mut distances = vec![0.0; images.dim(0)? * starts];
        for (at, chain) in chains.iter().enumerate() {
            // Of pixels in 0..1: a quarter of those in -1..1.
            let squares = mean_squares(&chain.images().clamp(-1.0, 1.0)?, images)?;
            let distances = distances.iter_mut().skip(at).step_by(starts);
            distances.zip(squares).for_each(|(distance, square)| *distance = square / 4.0);
        }
        Ok(distances)
    }

    fn all(&self, images: &Images<'_>, what: &str) -> Result<Vec<f64>> {
        let starts = self.ways(images.guide.denoiser.schedule().steps()).len();
        images.statistics(what, (starts, starts), &|batch| {
            let noise = (0..starts).map(|start| denoising::noise(batch, (self.seed, "ddpm_ood", start)));
            self.distances(&images.guide, batch, &noise.collect::<Result<Vec<_>>>()?)
        })
    }

    fn check(&self, denoises: Denoises) -> Result<(), Refusal> {
        denoises.untold()?;
        let refused = |key, error| Err(Refusal { key: Some(key), error });
        if self.steps > denoises.steps {
            let message = format!("{} steps do not fit a schedule of {}", self.steps, denoises.steps);
            return refused("steps", Error::input(message).hint("take fewer"));
        }
        if self.sampler == Kind::Ancestral {
            let message = "ancestral steps add noise, and chains without it are compared";
            return refused("sampler", Error::input(message).hint("take plms, pndm or ddim"));
        }
        if self.ways(denoises.steps).is_empty() {
            return refused("steps", Error::input("there is no start: the first step of the schedule is none"));
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
        Some(Box::new(|about| about.denoiser.map_or(Ok(()), |denoises| self.check(denoises)).map(|()| None)))
    }

    fn evaluations(&self, denoises: Denoises) -> Option<usize> {
        Some(self.ways(denoises.steps).iter().map(|way| self.sampler.evaluations(way.len())).sum())
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("steps", &mut self.steps, 4);
        smoke.set("skip", &mut self.skip, 2);
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let train = some(fit.train()?, Some(self.train_images))?;
        let images = Images::of(train.inputs()?)?;
        let denoises = Denoises::of(images.guide.denoiser);
        self.check(denoises).map_err(|refusal| refusal.error)?;
        let usual = Usual::of(&self.all(&images, "fitting ddpm_ood")?, self.ways(denoises.steps).len());
        Ok(Box::new(Fitted { config: self.clone(), usual }))
    }
}

/// What distances are usual.
struct Fitted {
    config: Config,
    usual: Usual,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let distances = self.config.all(&Images::of(bank.inputs()?)?, "scoring ddpm_ood")?;
        Scores::new(row_means(&self.usual.standardised(&distances), self.usual.mean.len()))
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(self.usual.record())
    }
}
