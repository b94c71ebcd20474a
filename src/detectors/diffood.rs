//! DiffOOD: how sharply a network's answer changes as a diffusion model denoises the image from ever more noise.
//!
//! score = mean over repeats, and over levels i, of ‖u(f(x_0)) − u(f(x_i))‖₁ with `change: global`, or of ‖u(f(x_{i−1})) − u(f(x_i))‖₁ with `local`.
//! x_i is the image with noise of level i, denoised by DDIM with guidance to the class that the network takes the image for; x_0 is the image with
//! noise of the schedule's first step, and u(v) = v/‖v‖₂. A repeat has the same noise at all levels. Made images are clamped.
//!
//! - Paper: Liu et al., *Diffusion Denoising Process for Perceptron Bias in Out-of-distribution Detection*, <https://arxiv.org/abs/2211.11255>.
//! - Reference code: `luping-liu/DiffOOD`, `runner/ood_detect.py` and `detect/ood_detect.py`; defaults are those of its README's command, with
//!   DDIM in 50 steps of 1,000.
//! - `clean: true` compares with the image itself, as the paper's Algorithm 4 does; chains then end without noise.
//! - `time: official` tells the denoiser one step less than there is, as the code does: an image with ᾱ of step 120 is taken for one of step 119.
//! - Deviation: the code grades every level by itself, and gives no rule which to take. The mean over levels is ours; `levels: [360]` is one of
//!   the code's columns.
//! - One image takes (6 + 12 + 18) · 2 · 4 = 288 evaluations of the denoiser by default, half of them for the class that is not told.
//! - `noise: knn_inverted` is the paper's Algorithm 2, whose use the code has commented out: a repeat's noise is what DDIM makes, on the way up and
//!   without a class, of one of the train images nearest to the image, by the cosine of the network's features.
//! - `by` puts an image that is changed otherwise in the place of the denoised one, at the same distance in pixels from x_0: with plain
//!   noise, a blur, or a mixture with a train image. It is ours, to see whether it is denoising that separates.
//! - `reconstruction_change` is the same with one maker, such as an autoencoder, in the place of all levels.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Refusal, Scorer, Scores, Second, Smoke, argmax,
    denoising::{
        self, Denoises, Images,
        equal_change::{self, By},
        neighbours::Near,
        noisy,
    },
    inputs::renormalised,
    map_rows,
    reconstruction_change::{self, Norm, Of},
    same,
};
use crate::{
    Error, Result,
    data::Normalisation,
    nn::{
        Model, Pass,
        denoiser::Schedule,
        sampler::{Chain, Guide, Kind, Sampler, Way, together},
    },
    yaml::{limits::MOST_IMAGES, named::is_default},
};

/// Guidance of a denoiser that is told classes. DiffOOD's.
const GUIDANCE: f64 = 2.0;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Diffood")]
pub struct Config {
    /// The network of this experiment that is a diffusion model. It has to be given.
    #[garde(inner(length(min = 1)))]
    pub denoiser: Option<String>,
    /// The steps that noise is added up to, rising. DiffOOD's: 120, 240 and 360 of 1,000.
    #[garde(length(min = 1, max = 100), inner(range(max = 100_000)))]
    pub levels: Vec<usize>,
    /// Steps of the schedule that one step of the sampler takes. DiffOOD's, 50 steps of 1,000: 20.
    #[garde(range(min = 1, max = 100_000))]
    pub stride: usize,
    /// How steps are made. DiffOOD's README: ddim; its program's default is pndm, for 504 evaluations in the place of 288.
    #[garde(skip)]
    pub sampler: Kind,
    /// β, how much further than to the class the noise points. DiffOOD's: 2, where the denoiser is told classes and can go without, else 0, the
    /// only choice there.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub guidance: Option<f64>,
    /// How often noise is drawn. DiffOOD's: 4.
    #[garde(range(min = 1, max = 1000))]
    pub repeats: usize,
    /// What of the network is compared. DiffOOD's default: logits.
    #[garde(skip)]
    pub target: Target,
    /// What a level is compared with. DiffOOD's first column: global.
    #[garde(skip)]
    pub change: Change,
    /// Which time the denoiser is told. DiffOOD's: official.
    #[garde(skip)]
    pub time: Time,
    /// Whether level 0 is the image itself. DiffOOD's code: false.
    #[garde(skip)]
    pub clean: bool,
    /// What changes the image: all else is a control that goes as far as denoising does. DiffOOD's: denoising.
    #[garde(skip)]
    // What is only written where it is asked for keeps the hashes of files without it.
    #[serde(skip_serializing_if = "is_default")]
    pub by: By,
    /// Which noise is added. DiffOOD's: gaussian.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub noise: Noise,
    /// With `noise: knn_inverted`, among how many train images neighbours are found, at even distances. Ours: 1,000, which are kept.
    #[garde(range(min = 1, max = MOST_IMAGES))]
    #[serde(skip_serializing_if = "are_usual")]
    pub train_images: usize,
    /// Of the noise.
    #[garde(skip)]
    pub seed: u64,
}

/// Steps from a neighbour to noise, at most. DiffOOD's.
const MOST_STEPS_UP: usize = 50;
/// The same, at least. Ours: the last step ends within a tenth of the schedule from its end.
const LEAST_STEPS_UP: usize = 10;

/// Train images that neighbours are found among.
const TRAIN_IMAGES: usize = 1000;

/// Train images of which `by: interpolation` takes one. Ours: enough that no single one matters, and soon read.
const OTHERS: usize = 256;

/// The same of a number whose default is not 0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn are_usual(images: &usize) -> bool {
    *images == TRAIN_IMAGES
}

/// Which noise is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Drawn.
    #[default]
    Gaussian,
    /// What the train images nearest to the image are made into on the way up, one for each repeat.
    KnnInverted,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The network's logits.
    Logits,
    /// Its features.
    Features,
    /// The images, as the network takes them.
    Images,
}

/// What a level is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Level 0.
    Global,
    /// The level before.
    Local,
}

/// Which time the denoiser is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// One step less than there is, as in DiffOOD's code.
    Official,
    /// The step that there is.
    Exact,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            denoiser: None,
            levels: vec![120, 240, 360],
            stride: 20,
            sampler: Kind::Ddim,
            guidance: None,
            repeats: 4,
            target: Target::Logits,
            change: Change::Global,
            time: Time::Official,
            clean: false,
            by: By::default(),
            noise: Noise::default(),
            train_images: TRAIN_IMAGES,
            seed: 0,
        }
    }
}

/// A network, what its images are normalised by, and how many go at a time.
pub(super) struct Answers<'a> {
    pub(super) network: &'a dyn Model,
    pub(super) normalisation: &'a Normalisation,
    pub(super) together: usize,
}

impl Config {
    /// β for a denoiser.
    fn guidance(&self, denoises: Denoises) -> f64 {
        let both = denoises.classes > 0 && !denoises.needs_class;
        self.guidance.unwrap_or(if both { GUIDANCE } else { 0.0 })
    }

    fn way(&self, level: usize) -> Way {
        let way = Way::down(level, self.stride, self.clean);
        if self.time == Time::Official { way.told_early() } else { way }
    }

    /// The stride from an image to noise.
    fn stride_up(&self, steps: usize) -> usize {
        self.stride.max(steps / MOST_STEPS_UP).max(1)
    }

    /// From an image to noise.
    pub(super) fn way_up(&self, schedule: &Schedule) -> Way {
        let stride = self.stride_up(schedule.steps());
        let way = Way::up(stride, schedule.steps().div_ceil(stride));
        if self.time == Time::Official { way.told_early() } else { way }
    }

    /// Scores of (N, C, H, W) images in -1..1 that the network takes for these classes, with this noise for each repeat. `towards` are the
    /// images of all repeats, (R·N, C, H, W), that the image is moved towards.
    ///
    /// # Errors
    /// Those of the networks; if an answer is NaN or infinite.
    pub(super) fn scores(
        &self,
        guide: &Guide<'_>,
        answers: &Answers<'_>,
        images: &Tensor,
        classes: &[u32],
        noise: &[Tensor],
        towards: Option<&Tensor>,
    ) -> Result<Vec<f32>> {
        let guide = Guide { guidance: self.guidance(Denoises::of(guide.denoiser)), ..*guide };
        let schedule = guide.denoiser.schedule();
        let classes = (guide.denoiser.classes() > 0).then(|| classes.repeat(noise.len()));
        let at = |place| -> Result<Tensor> {
            let all = noise.iter().map(|noise| noisy(images, noise, place)).collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&all, 0)?)
        };
        let sampler = Sampler { kind: self.sampler, ..Sampler::default() };
        let chain = |level: &usize| {
            let images = at(schedule.place(*level))?;
            Ok(Chain::new(sampler, guide.denoiser, &self.way(*level), &images, classes.clone()))
        };
        let mut chains = self.levels.iter().map(chain).collect::<Result<Vec<_>>>()?;
        together(&guide, &mut chains)?;
        let first = if self.clean { at(Schedule::clean())? } else { at(schedule.place(0))? };
        let compared = reconstruction_change::Config {
            maker: None,
            of: if self.target == Target::Logits { Of::Logits } else { Of::Features },
            norm: Norm::L1,
            unit: true,
        };
        let before = self.answer(answers, &first)?;
        let mut last = before.clone();
        let mut sums = vec![0.0; images.dim(0)?];
        for chain in &chains {
            let after = match self.by {
                By::Denoising => self.answer(answers, chain.images())?,
                _ => self.answer(answers, &equal_change::as_far(&first, chain.images(), towards)?)?,
            };
            let reference = if self.change == Change::Global { &before } else { &last };
            let changes = compared.changes(reference, &after, 0)?;
            for changes in changes.chunks_exact(sums.len()) {
                sums.iter_mut().zip(changes).for_each(|(sum, change)| *sum += f64::from(*change));
            }
            last = after;
        }
        let parts = (self.levels.len() * noise.len()) as f64;
        Ok(sums.into_iter().map(|sum| (sum / parts) as f32).collect())
    }

    /// What of (N, C, H, W) images in -1..1 is compared, (N, D).
    fn answer(&self, answers: &Answers<'_>, images: &Tensor) -> Result<Tensor> {
        let (count, channels, ..) = images.dims4()?;
        let images = renormalised(images, &Normalisation::signed(channels), answers.normalisation)?;
        if self.target == Target::Images {
            return Ok(images.flatten_from(1)?);
        }
        let most = answers.together.max(1);
        let parts = (0..count).step_by(most).map(|start| -> Result<Tensor> {
            let shown = answers.network.show(&images.narrow(0, start, most.min(count - start))?, &Pass::eval())?;
            let answer = if self.target == Target::Logits { shown.logits()? } else { shown.features()? };
            Ok(answer.detach())
        });
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// What (N, C, H, W) images are moved towards in each repeat; `others` are train images.
    fn towards(&self, images: &Tensor, others: Option<&Tensor>) -> Result<Option<Tensor>> {
        let name = |repeat| (self.seed, "diffood control", repeat);
        let each = |of: &dyn Fn(usize) -> Result<Tensor>| -> Result<Option<Tensor>> {
            Ok(Some(Tensor::cat(&(0..self.repeats).map(of).collect::<Result<Vec<_>>>()?, 0)?))
        };
        match (self.by, others) {
            (By::Noise, _) => {
                each(&|repeat| Ok((images + (denoising::noise(images, name(repeat))? * equal_change::FARTHEST)?)?))
            }
            (By::Interpolation, Some(others)) => {
                each(&|repeat| Ok(others.index_select(&denoising::drawn(images, name(repeat), others.dim(0)?)?, 0)?))
            }
            _ => Ok(None),
        }
    }

    fn check(&self, denoises: Denoises, classes: Option<usize>) -> Result<(), Refusal> {
        let refused = |key, error| Err(Refusal { key: Some(key), error });
        for (at, level) in self.levels.iter().enumerate() {
            denoises.check("levels", *level)?;
            if *level < self.stride {
                let message = format!("a stride of {} skips the level {level} whole", self.stride);
                return refused("stride", Error::input(message).hint("take a stride of no more than the first level"));
            }
            if at > 0 && *level <= self.levels[at - 1] {
                let message = format!("levels rise, and {level} follows {}", self.levels[at - 1]);
                return refused("levels", Error::input(message));
            }
        }
        if self.noise == Noise::Gaussian && self.train_images != TRAIN_IMAGES {
            let message = "train_images goes with noise: knn_inverted, and the noise is gaussian";
            return refused("train_images", Error::input(message).hint("leave it out, or give the noise"));
        }
        if self.noise == Noise::KnnInverted {
            if self.stride * LEAST_STEPS_UP > denoises.steps {
                let message = format!("a stride of {} leaves much of a neighbour in its noise", self.stride);
                let most = denoises.steps / LEAST_STEPS_UP;
                return refused("stride", Error::input(message).hint(format!("take {most} at most")));
            }
            if denoises.needs_class {
                let message = "the denoiser cannot go without a class (`drop: 0`), and neighbours are told none";
                return refused("noise", Error::input(message).hint("take gaussian"));
            }
            if self.repeats > self.train_images {
                let message =
                    format!("a neighbour for each of {} repeats, of {} images", self.repeats, self.train_images);
                return refused("train_images", Error::input(message).hint("take more images, or fewer repeats"));
            }
        }
        if self.sampler == Kind::Ancestral {
            let message = "ancestral steps add noise, and levels with the same noise are compared";
            return refused("sampler", Error::input(message).hint("take ddim, pndm or plms"));
        }
        if denoises.classes == 0 && self.guidance.is_some_and(|guidance| guidance > 0.0) {
            let message = "the denoiser is told no classes, and guidance is towards one";
            return refused("guidance", Error::input(message).hint("leave it out, or train the denoiser with classes"));
        }
        if denoises.needs_class && self.guidance.is_some_and(|guidance| guidance > 0.0) {
            let message = "the denoiser cannot go without a class (`drop: 0`), and guidance is away from that";
            return refused("guidance", Error::input(message).hint("leave it out"));
        }
        match classes {
            Some(classes) if denoises.classes > 0 && denoises.classes != classes => {
                let message = format!(
                    "it is told {} classes, and the network whose answers are compared knows {classes}",
                    denoises.classes
                );
                refused("denoiser", Error::input(message))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Refuses fewer train images than repeats.
    fn check_neighbours(&self, images: usize) -> Result<()> {
        if images >= self.repeats {
            return Ok(());
        }
        let message = format!(
            "repeats is {}, each with a neighbour of its own, and there are {images} train images",
            self.repeats
        );
        Err(Error::input(message).hint("take fewer"))
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        // The class that an image is taken for is the largest logit's, whatever is compared.
        match (self.target, self.noise) {
            (Target::Features, _) | (_, Noise::KnnInverted) => {
                &[Output::RawLogits, Output::Features, Output::Gradients]
            }
            (Target::Logits | Target::Images, Noise::Gaussian) => &[Output::RawLogits, Output::Gradients],
        }
    }

    fn second(&self) -> Option<Second<'_>> {
        Some(Second { key: "denoiser", network: self.denoiser.as_deref(), needs: denoising::NEEDS })
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let classes = about.shown.logits.as_ref().map(|logits| logits.dim(1)).transpose()?;
            about.denoiser.map_or(Ok(()), |denoises| self.check(denoises, classes))?;
            if self.noise == Noise::KnnInverted {
                self.check_neighbours(about.most()).map_err(|error| Refusal { key: Some("repeats"), error })?;
            }
            Ok(None)
        }))
    }

    fn evaluations(&self, denoises: Denoises) -> Option<usize> {
        let steps: usize = self.levels.iter().map(|level| self.sampler.evaluations(self.way(*level).len())).sum();
        let each = if self.guidance(denoises) > 0.0 { 2 } else { 1 };
        let up = match self.noise {
            Noise::Gaussian => 0,
            // At most: what is a neighbour of two images is made into noise once.
            Noise::KnnInverted => denoises.steps.div_ceil(self.stride_up(denoises.steps)).saturating_sub(1),
        };
        Some((steps * each + up) * self.repeats)
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_steps("levels", &mut self.levels);
        smoke.set("stride", &mut self.stride, 1);
        smoke.set("repeats", &mut self.repeats, 1);
    }

    fn learns(&self) -> Learns {
        let learns = self.by == By::Interpolation || self.noise == Noise::KnnInverted;
        if learns { Learns::Images } else { Learns::Nothing }
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let others = match self.by {
            By::Denoising | By::Noise | By::Blur => None,
            By::Interpolation => {
                let train = denoising::some(fit.train()?, Some(OTHERS))?;
                Some(denoising::read(train.inputs()?, "reading images to mix with", &|_| Ok(()))?)
            }
        };
        let near = match self.noise {
            Noise::Gaussian => None,
            Noise::KnnInverted => {
                self.check_neighbours(fit.train()?.inputs()?.images())?;
                Some(Near::of(fit, self.train_images)?)
            }
        };
        Ok(Box::new(Fitted { config: self.clone(), others, near }))
    }
}

/// The detector, with the train images that images are mixed with.
struct Fitted {
    config: Config,
    /// (M, C, H, W) in -1..1.
    others: Option<Tensor>,
    /// What noise is made of, unless it is drawn.
    near: Option<Near>,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let Self { config, others, near } = self;
        let (inputs, denoiser) = (bank.inputs()?, Images::of(bank.second()?)?);
        for images in [inputs.images(), denoiser.count()] {
            same("images", images, bank.logits.dim(0)?)?;
        }
        config
            .check(Denoises::of(denoiser.guide.denoiser), Some(bank.logits.dim(1)?))
            .map_err(|refusal| refusal.error)?;
        let classes = map_rows(&bank.logits, |row| argmax(row) as u32)?;
        let answers =
            Answers { network: inputs.network(), normalisation: inputs.normalisation(), together: inputs.at_a_time() };
        let mut scores = Vec::with_capacity(classes.len());
        let (way_up, mut made) = (config.way_up(denoiser.guide.denoiser.schedule()), BTreeMap::new());
        denoiser.pass("scoring diffood", config.levels.len() * config.repeats, &mut |start, images| {
            let drawn = |repeat| denoising::noise(images, (config.seed, "diffood", repeat));
            let noise = match near {
                None => (0..config.repeats).map(drawn).collect::<Result<Vec<_>>>()?,
                Some(near) => {
                    let features = bank.features.narrow(0, start, images.dim(0)?)?;
                    near.noise(&denoiser.guide, &way_up, &features, config.repeats, &mut made)?
                }
            };
            let classes = &classes[start..start + images.dim(0)?];
            let towards = config.towards(images, others.as_ref())?;
            scores.extend(config.scores(&denoiser.guide, &answers, images, classes, &noise, towards.as_ref())?);
            Ok(())
        })?;
        Scores::new(scores)
    }

    fn record(&self) -> Option<serde_json::Value> {
        self.near.as_ref().map(|near| serde_json::json!({ "neighbours_among": near.count() }))
    }
}
