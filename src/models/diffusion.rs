//! A diffusion model: a U-Net that learns to tell images from the noise in them, at every degree of noise.
//!
//! While it learns, an image x₀ becomes x = a·x₀ + s·ε at a time that is drawn, ε standard normal, and what the network makes of x and the
//! time is compared with ε, v or the velocity ([`Prediction`]). Of [`Course::Linear`] and [`Course::Cosine`], half of a batch has steps t
//! that are drawn evenly and the other half T − 1 − t. Of [`Course::Flow`], t is the logistic function of a standard normal number. Used, it
//! shows nothing of an image: it is a [`Denoiser`].
//!
//! - Papers: those of [`denoiser`]; Ho & Salimans, *Classifier-Free Diffusion Guidance*, 2022, <https://arxiv.org/abs/2207.12598>
//!   (classes that are dropped); Esser et al., *Scaling Rectified Flow Transformers*, ICML 2024, <https://arxiv.org/abs/2403.03206>
//!   (logit-normal times).
//! - Code: `luping-liu/DiffOOD`, whose recipe for CIFAR-10 is AdamW without decay, learning rate 0.0002, `clip: { norm: 1 }`,
//!   `ema: { decay: 0.9999 }`, batches of 128 and flips.
//! - Pixels are brought to -1..1, whatever the mean and the deviation of the data are.
//! - Weights of improved DDPM and ADM know no class of none: `drop: 0`. Then every image needs a class, and there is no guidance.
//! - The network is told the time in 1,000ths of the schedule, as published weights of 1,000 steps are, whatever its steps are.
//! - It learns with `loss: { denoising: {} }`.

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use garde::Validate;
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::Normalisation,
    models::{Kind, stages::wrong},
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        denoiser::{self, Course, Denoiser, Prediction, Schedule},
        unet::{self, UNet},
    },
    rng,
    yaml::problems::{Path, Problem},
};

/// The network is told times between 0 and this.
const TOLD: f64 = 1000.0;
/// The share of classes that are dropped, unless given.
const DROP: f64 = 0.1;
/// The least share that lets a network learn to do without a class.
const LEAST_DROP: f64 = 0.01;

/// Settings of a diffusion model. The defaults are DDPM's for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Diffusion")]
pub struct Settings {
    /// The network.
    #[garde(dive)]
    pub unet: unet::Settings,
    /// Rows and columns of pixels that become channels before the network, and pixels again after it: 2 makes a quarter of the positions
    /// with four times the channels. Default: 1, none.
    #[garde(range(min = 1, max = 16))]
    pub unshuffle: usize,
    /// How noise grows. DDPM's: `linear`.
    #[garde(skip)]
    pub schedule: Course,
    /// T, the schedule's steps. DDPM's: 1000.
    #[garde(range(min = 2, max = 100_000))]
    pub steps: usize,
    /// What the network's output is. Default: `noise`, as in DDPM, and `velocity` of `schedule: flow`, which has no other.
    #[garde(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicts: Option<Prediction>,
    /// Whether the network is told the images' classes.
    #[garde(skip)]
    pub classes: bool,
    /// The share of images whose class is not told while it learns, with `classes`, so that it also learns to do without: guidance needs
    /// both, and most detectors ask without a class. From 0.01 on; or 0 of weights that know no such class, as ADM's. Default: 0.1, as in
    /// DiffOOD and in the paper of guidance.
    #[garde(range(min = 0.0, max = 0.99))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unet: unet::Settings::default(),
            unshuffle: 1,
            schedule: Course::Linear,
            steps: 1000,
            predicts: None,
            classes: false,
            drop: None,
        }
    }
}

impl Settings {
    fn prediction(&self) -> Prediction {
        self.predicts.unwrap_or(match self.schedule {
            Course::Flow => Prediction::Velocity,
            Course::Linear | Course::Cosine => Prediction::Noise,
        })
    }

    fn share(&self) -> f64 {
        self.drop.unwrap_or(DROP)
    }

    /// What rows and columns of images must be a multiple of.
    fn multiple(&self) -> usize {
        self.unshuffle.max(1) * self.unet.multiple()
    }

    /// Why images of this size do not fit.
    fn cut(&self, size: [usize; 2]) -> Option<Problem> {
        let Self { unshuffle, unet, .. } = self;
        let (multiple, levels) = (self.multiple(), unet.multipliers.len());
        if size.iter().all(|side| side.is_multiple_of(multiple)) {
            return None;
        }
        let halvings = format!("{levels} levels halve rows and columns {} times", levels.saturating_sub(1));
        let after = if *unshuffle > 1 { format!(" after `unshuffle: {unshuffle}`") } else { String::new() };
        let [height, width] = size;
        let larger = height.max(width).next_multiple_of(multiple);
        let message = format!(
            "{halvings}{after}, which needs sides of a multiple of {multiple}, not {height}×{width}: give fewer, or `size: {larger}` with the \
             data"
        );
        Some(Problem { path: Path::default().join("unet").join("multipliers"), message })
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Noise]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        match self.problems(Some([shape.height, shape.width])).into_iter().next() {
            Some(problem) => Err(wrong("diffusion")(problem)),
            None => Ok(Box::new(Diffusion::new(self, shape, &vb)?)),
        }
    }

    fn our_name(&self, theirs: &str) -> Option<String> {
        unet::names::our_name(theirs, &self.unet)
    }

    fn normalisation(&self, channels: usize) -> Option<Normalisation> {
        Some(Normalisation::signed(channels))
    }

    fn is_told_classes(&self) -> bool {
        self.classes
    }

    fn schedule_steps(&self) -> Option<usize> {
        Some(self.steps)
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        let problem =
            |key: &str, message: &str| Problem { path: Path::default().join(key), message: message.to_owned() };
        let unet = self.unet.problems().into_iter().map(|Problem { path, message }| Problem {
            path: path.0.into_iter().fold(Path::default().join("unet"), |path, step| path.join(step)),
            message,
        });
        let mut problems: Vec<Problem> = unet.chain(size.and_then(|size| self.cut(size))).collect();
        match (self.schedule, self.prediction()) {
            (Course::Flow, Prediction::Velocity) => {}
            (Course::Flow, _) => {
                problems.push(problem("predicts", "`schedule: flow` has `velocity` alone: leave this key out"));
            }
            (_, Prediction::Velocity) => problems.push(problem("predicts", "velocity is that of `schedule: flow`")),
            _ => {}
        }
        if self.drop.is_some() && !self.classes {
            problems.push(problem("drop", "goes with `classes: true`: no class is told that could be dropped"));
        }
        if self.drop.is_some_and(|share| share > 0.0 && share < LEAST_DROP) {
            let message = "must be at least 0.01, or 0 of a network that cannot go without a class";
            problems.push(problem("drop", message));
        }
        problems
    }

    fn canonical(self) -> Self {
        let (predicts, drop) = (Some(self.prediction()), self.classes.then(|| self.share()));
        Self { predicts, drop, ..self }
    }

    fn least_side(&self) -> usize {
        self.multiple()
    }

    fn smoke(self) -> Self {
        Self { unet: self.unet.smoke(), ..self }
    }
}

/// The network and what its output means.
#[derive(Debug, Clone)]
struct Diffusion {
    unet: UNet,
    unshuffle: usize,
    course: Course,
    schedule: Schedule,
    prediction: Prediction,
    /// The classes that are told, if any are.
    classes: Option<Told>,
}

/// The classes that a network is told.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// K
    classes: usize,
    /// The share of images whose class is not told; 0 where there is no class of none.
    drop: f64,
}

impl Told {
    /// What stands for an image without a class, K; `None` where every image needs one.
    fn none(self) -> Option<u32> {
        (self.drop > 0.0).then_some(self.classes as u32)
    }
}

/// What is drawn of a batch of images.
struct Drawn {
    /// The factors of an image and of the noise, and the time in steps, of each.
    places: Vec<denoiser::Place>,
    /// (N, C, H, W)
    noise: Tensor,
    /// (N) u32, where classes are told.
    classes: Option<Tensor>,
}

impl Diffusion {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let Settings { unshuffle, schedule: course, steps, .. } = *settings;
        let classes = settings.classes.then(|| Told { classes: shape.classes, drop: settings.share() });
        let rows = classes.map(|told| told.classes + usize::from(told.none().is_some()));
        let maps = shape.channels * unshuffle * unshuffle;
        Ok(Self {
            unet: UNet::new(&settings.unet, maps, rows, vb)?,
            unshuffle,
            course,
            schedule: Schedule::new(denoiser::Settings { course, steps }),
            prediction: settings.prediction(),
            classes,
        })
    }

    /// The network's output of noisy images, each at a time in steps.
    fn pass(&self, noisy: &Tensor, times: &[f64], classes: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        let told: Vec<f64> = times.iter().map(|time| time * TOLD / self.schedule.steps() as f64).collect();
        let maps = unet::unshuffle(noisy, self.unshuffle)?;
        unet::shuffle(&self.unet.forward(&maps, &told, classes, pass)?, self.unshuffle)
    }

    /// Where a flow is at t of 0..1.
    fn along(&self, t: f64) -> denoiser::Place {
        denoiser::Place { signal: 1.0 - t, noise: t, time: t * self.schedule.steps() as f64 - 1.0 }
    }

    /// A time that is drawn for one image.
    fn place(&self, stream: &mut rng::Rng) -> denoiser::Place {
        match self.course {
            Course::Flow => {
                let normal: f64 = StandardNormal.sample(stream);
                self.along(1.0 / (1.0 + (-normal).exp()))
            }
            Course::Linear | Course::Cosine => self.schedule.place(stream.random_range(0..self.schedule.steps())),
        }
    }

    /// Times, noise and the classes that are told, of a step.
    fn of_step(&self, images: &Tensor, classes: Option<&Tensor>, (seed, step): (u64, u64)) -> Result<Drawn> {
        let (count, steps, step) = (images.dim(0)?, self.schedule.steps(), step.to_string());
        let stream = |what| rng::stream(seed, what, &step);
        let mut times = stream("diffusion's times");
        let places = match self.course {
            Course::Flow => (0..count).map(|_| self.place(&mut times)).collect(),
            // Each step beside the one as far from the other end, as in DDIM's code.
            Course::Linear | Course::Cosine => {
                let half: Vec<usize> = (0..count.div_ceil(2)).map(|_| times.random_range(0..steps)).collect();
                let other = half.iter().map(|time| steps - 1 - time);
                half.iter().copied().chain(other).take(count).map(|time| self.schedule.place(time)).collect()
            }
        };
        let noise = like(normal(stream("diffusion's noise"), images.elem_count()).collect(), images)?;
        let classes = match (self.classes, classes) {
            (None, _) => None,
            (Some(_), None) => bail!("this diffusion model is told classes, and the batch has none"),
            (Some(told), Some(classes)) => {
                let Some(none) = told.none() else {
                    return Ok(Drawn { places, noise, classes: Some(classes.clone()) });
                };
                let mut dropped = stream("diffusion's dropped classes");
                let classes = classes.to_vec1::<u32>()?.into_iter();
                let classes = classes.map(|class| if dropped.random::<f64>() < told.drop { none } else { class });
                Some(Tensor::from_iter(classes, images.device())?)
            }
        };
        Ok(Drawn { places, noise, classes })
    }

    /// Times and noise of images that are held out: of each by its place, so that they are the same after every epoch and in any batch.
    fn of_places(&self, images: &Tensor, classes: Option<&Tensor>, first: usize) -> Result<Drawn> {
        let count = images.dim(0)?;
        let values = images.elem_count() / count.max(1);
        let (mut places, mut noise) = (Vec::with_capacity(count), Vec::with_capacity(images.elem_count()));
        for at in first..first + count {
            let mut stream = rng::stream(0, "diffusion's held-out images", &at.to_string());
            places.push(self.place(&mut stream));
            noise.extend(normal(stream, values));
        }
        let classes = match (self.classes, classes) {
            (None, _) => None,
            (Some(_), Some(classes)) => Some(classes.clone()),
            // Where shapes alone matter, too: any class will do.
            (Some(told), None) => Some(Tensor::full(told.none().unwrap_or(0), count, images.device())?),
        };
        Ok(Drawn { places, noise: like(noise, images)?, classes })
    }
}

/// Standard normal numbers of a stream.
fn normal(stream: rng::Rng, count: usize) -> impl Iterator<Item = f64> {
    StandardNormal.sample_iter(stream).take(count)
}

/// Numbers as a tensor like another.
fn like(values: Vec<f64>, other: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, other.shape(), &Device::Cpu)?.to_dtype(other.dtype())?.to_device(other.device())
}

impl Model for Diffusion {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let drawn = match (pass.mode(), pass.judged()) {
            (Mode::Train { seed, step, .. }, _) => self.of_step(images, pass.classes(), (seed, step))?,
            (Mode::Eval, Some(first)) => self.of_places(images, pass.classes(), first)?,
            (Mode::Eval, None) => return Ok(Shown::default()),
        };
        let Drawn { places, noise, classes } = drawn;
        let factors = |of: fn(&denoiser::Place) -> f64| {
            let values = Tensor::from_iter(places.iter().map(of), &Device::Cpu)?;
            values.reshape(((), 1, 1, 1))?.to_dtype(images.dtype())?.to_device(images.device())
        };
        let [signal, share] = [factors(|place| place.signal)?, factors(|place| place.noise)?];
        let noisy = (images.broadcast_mul(&signal)? + noise.broadcast_mul(&share)?)?;
        let times: Vec<f64> = places.iter().map(|place| place.time).collect();
        let target = self.prediction.target(images, &noise, [&signal, &share])?;
        let predicted = self.pass(&noisy, &times, classes.as_ref(), pass)?;
        Ok(Shown { denoised: Some([predicted, target]), ..Shown::default() })
    }

    fn denoiser(&self) -> Option<&dyn Denoiser> {
        Some(self)
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}

impl Denoiser for Diffusion {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn classes(&self) -> usize {
        self.classes.map_or(0, |told| told.classes)
    }

    fn needs_class(&self) -> bool {
        self.classes.is_some_and(|told| told.none().is_none())
    }

    fn products(&self, noisy: &Tensor) -> Result<u64> {
        let (pass, count) = (Pass::eval(), noisy.dim(0)?);
        // Any class costs the same.
        let told =
            self.classes.map(|told| Tensor::full(told.none().unwrap_or(0), count, noisy.device())).transpose()?;
        self.pass(&noisy.detach(), &vec![0.0; count], told.as_ref(), &pass)?;
        Ok(pass.products())
    }

    fn output(&self, noisy: &Tensor, time: f64, classes: Option<&[u32]>) -> Result<Tensor> {
        let count = noisy.dim(0)?;
        let told = match (self.classes, classes) {
            (None, None) => None,
            (None, Some(_)) => bail!("this diffusion model is told no classes"),
            (Some(_), Some(classes)) if classes.len() != count => {
                bail!("{} classes of {count} images", classes.len())
            }
            (Some(_), Some(classes)) => Some(Tensor::new(classes, noisy.device())?),
            (Some(told), None) => match told.none() {
                Some(none) => Some(Tensor::full(none, count, noisy.device())?),
                None => bail!("this diffusion model cannot go without a class"),
            },
        };
        self.pass(&noisy.detach(), &vec![time; count], told.as_ref(), &Pass::eval())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::nn::params::Params;

    fn built(yaml: &str) -> Diffusion {
        let settings: Settings = serde_saphyr::from_str(yaml).unwrap();
        let shape = Shape { channels: 1, height: 4, width: 4, classes: 3 };
        Diffusion::new(&settings, shape, &Params::new(0, &Device::Cpu).builder()).unwrap()
    }

    fn images(count: usize) -> Tensor {
        Tensor::zeros((count, 1, 4, 4), DType::F32, &Device::Cpu).unwrap()
    }

    const UNET: &str = "unet: { channels: 4, multipliers: [1], blocks: 1, attention: [] }";

    #[test]
    fn each_step_is_beside_the_one_as_far_from_the_other_end() {
        let model = built(&format!("{{ {UNET}, steps: 50 }}"));
        let drawn = |count: usize, step| model.of_step(&images(count), None, (0, step)).unwrap().places;
        let mut seen = [false; 50];
        for step in 0..20 {
            let places = drawn(15, step);
            for (place, other) in places[..8].iter().zip(&places[8..]) {
                assert_eq!(place.time + other.time, 49.0);
            }
            places.iter().for_each(|place| seen[place.time as usize] = true);
        }
        assert!(seen.iter().filter(|seen| **seen).count() > 45, "{seen:?}");
    }

    /// The logistic function of a normal number: the median is a half, and a seventh is above that of 1, which is 0.731.
    #[test]
    fn times_of_a_flow_are_logit_normal() {
        let model = built(&format!("{{ {UNET}, schedule: flow, steps: 1000 }}"));
        let places = model.of_step(&images(4000), None, (0, 0)).unwrap().places;
        let share = |above: f64| places.iter().filter(|place| place.noise > above).count() as f64 / 4000.0;
        assert!((share(0.5) - 0.5).abs() < 0.03 && (share(0.731_06) - 0.158_7).abs() < 0.02, "{}", share(0.5));
        for place in &places {
            assert!((place.signal + place.noise - 1.0).abs() < 1e-12);
            assert!((place.time - (place.noise * 1000.0 - 1.0)).abs() < 1e-9);
        }
        // The schedule's own places are on it.
        assert_eq!(model.along(0.25).time, model.schedule.place(249).time);
    }
}
