//! Samplers: ways over a schedule, from noise to an image or from one place to another, by what a denoiser predicts.
//!
//! A way is a list of places, the first where the images are. Between two places goes DDIM's transfer x′ = a′·x₀ + s′·ε. Euler's method on a
//! flow is the same with the flow's places. Of several predictions a multistep method makes one: a mean of ε, or of a flow's velocity.
//!
//! - Papers: Ho et al., *DDPM*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239> (ancestral steps); Song et al., *DDIM*, ICLR 2021,
//!   <https://arxiv.org/abs/2010.02502>, equation 12; Liu et al., *Pseudo Numerical Methods for Diffusion Models on Manifolds* (PNDM), ICLR
//!   2022, <https://arxiv.org/abs/2202.09778>, where order 2 is proved for `pndm`; Ho & Salimans, *Classifier-Free Diffusion Guidance*,
//!   <https://arxiv.org/abs/2207.12598>.
//! - Reference code: `luping-liu/PNDM` and `luping-liu/DiffOOD`, `runner/method.py`; `huggingface/diffusers`, `scheduling_pndm.py` with
//!   `skip_prk_steps`, for `plms`; `openai/improved-diffusion`, `gaussian_diffusion.py`, for clamping.
//! - Of several predictions means are of ε also where a model predicts v. Where next to nothing is left of an image, as at the last steps of the
//!   cosine schedule, ε says little of it: take `ddim` from there.
//! - Deviation: a Runge–Kutta step between steps at an odd distance takes the middle step rounded down, for time and noise alike.

use candle_core::{Device, Result, Tensor, bail};
use rand::Rng as _;
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Denoiser,
        denoiser::{Place, Predicted, Prediction, Schedule},
    },
    rng,
};

/// How one step is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// DDIM's step, of one prediction; on a flow Euler's.
    #[default]
    Ddim,
    /// DDPM's step: DDIM's mean with η 1, and noise of the larger variance, that of the step's own noise.
    Ancestral,
    /// PNDM's: three Runge–Kutta steps of four predictions each, then a linear multistep of the last four.
    Pndm,
    /// PLMS: the first step of two predictions, then linear multisteps of rising order up to four.
    Plms,
}

impl Kind {
    /// How many predictions so many steps need.
    pub fn evaluations(self, steps: usize) -> usize {
        match self {
            Self::Ddim | Self::Ancestral => steps,
            Self::Pndm => 4 * steps.min(3) + steps.saturating_sub(3),
            Self::Plms => steps + usize::from(steps > 0),
        }
    }
}

/// How steps are made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampler {
    /// Of how many predictions.
    pub kind: Kind,
    /// η of [`Kind::Ddim`]: how much of DDPM's noise is added, from 0, none, to 1.
    pub eta: f64,
    /// Whether predicted images are clamped to -1..1.
    pub clamp: bool,
}

/// A denoiser and how it is asked.
#[derive(Clone, Copy)]
pub struct Guide<'a> {
    /// What predicts.
    pub denoiser: &'a dyn Denoiser,
    /// β: the output is (1 + β)·f(x, y) − β·f(x) of images of known classes y. 0 is f(x, y).
    pub guidance: f64,
    /// How many images it is given at a time, at most.
    pub together: usize,
}

impl Guide<'_> {
    /// What is predicted of (N, C, H, W) images at a place, of these classes.
    ///
    /// # Errors
    /// As [`Denoiser::predict`].
    pub fn predict(&self, noisy: &Tensor, place: Place, classes: Option<&[u32]>) -> Result<Predicted> {
        let count = noisy.dim(0)?;
        let most = self.together.max(1);
        if count <= most {
            return self.denoiser.prediction().read(&self.output(noisy, place, classes)?, noisy, place);
        }
        let parts = (0..count).step_by(most).map(|start| {
            let size = most.min(count - start);
            self.output(&noisy.narrow(0, start, size)?, place, classes.map(|classes| &classes[start..start + size]))
        });
        let output = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
        self.denoiser.prediction().read(&output, noisy, place)
    }

    fn output(&self, noisy: &Tensor, place: Place, classes: Option<&[u32]>) -> Result<Tensor> {
        let told = self.denoiser.output(noisy, place.time, classes)?;
        if self.guidance == 0.0 || classes.is_none() {
            return Ok(told);
        }
        let untold = self.denoiser.output(noisy, place.time, None)?;
        (told * (1.0 + self.guidance))? - (untold * self.guidance)?
    }
}

/// The steps of a way, from where images are to where they go. -1 is the image without noise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    steps: Vec<i64>,
    /// How many steps less than there are the denoiser is told.
    early: i64,
}

impl Way {
    /// From a step down by `stride`, to step 0 or, if it is to be `clean`, to the image without noise.
    pub fn down(from: usize, stride: usize, clean: bool) -> Self {
        let end = if clean { -1 } else { 0 };
        let mut steps: Vec<i64> =
            (0..=from as i64).rev().step_by(stride.max(1)).take_while(|step| *step > end).collect();
        steps.push(end);
        Self { steps, early: 0 }
    }

    /// All of a schedule of `total` steps, from the last to the image without noise, in `steps` of even length. Diffusers calls it
    /// `trailing`.
    pub fn whole(total: usize, steps: usize) -> Self {
        let steps = steps.clamp(1, total.max(1));
        let places = (0..=steps).rev().map(|step| (step * total / steps) as i64 - 1);
        Self { steps: places.collect(), early: 0 }
    }

    /// From the first step up by `stride`, over so many steps.
    pub fn up(stride: usize, count: usize) -> Self {
        Self { steps: (0..count as i64).map(|step| step * stride as i64).collect(), early: 0 }
    }

    /// The same, where the denoiser is told one step less than there is.
    #[must_use]
    pub fn told_early(self) -> Self {
        Self { early: 1, ..self }
    }

    /// How many steps lie between its places.
    pub fn len(&self) -> usize {
        self.steps.len() - 1
    }

    /// Whether it goes nowhere.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its places on a schedule, and the one in the middle of each step.
    pub fn places(&self, schedule: &Schedule) -> (Vec<Place>, Vec<Place>) {
        let place = |step: i64| {
            let place = usize::try_from(step).map_or_else(|_| Schedule::clean(), |step| schedule.place(step));
            Place { time: (step - self.early) as f64, ..place }
        };
        let middles = self.steps.windows(2).map(|pair| place((pair[0] + pair[1]).div_euclid(2)));
        (self.steps.iter().map(|step| place(*step)).collect(), middles.collect())
    }
}

/// Images on their way.
pub struct Chain {
    sampler: Sampler,
    prediction: Prediction,
    places: Vec<Place>,
    middles: Vec<Place>,
    classes: Option<Vec<u32>>,
    /// Where the images stand.
    at: usize,
    images: Tensor,
    /// What is to be predicted next: other images than these inside of a step of several predictions.
    asked: Tensor,
    /// The directions inside of a step.
    inside: Vec<Tensor>,
    /// Those at the places before, the last last.
    past: Vec<Tensor>,
}

impl Chain {
    /// (N, C, H, W) images at a way's first place, with their classes if they are known.
    pub fn new(
        sampler: Sampler,
        denoiser: &dyn Denoiser,
        way: &Way,
        images: &Tensor,
        classes: Option<Vec<u32>>,
    ) -> Self {
        let (places, middles) = way.places(denoiser.schedule());
        let prediction = match denoiser.prediction() {
            Prediction::Velocity => Prediction::Velocity,
            Prediction::Noise | Prediction::V => Prediction::Noise,
        };
        let (images, asked) = (images.clone(), images.clone());
        let (inside, past) = (Vec::new(), Vec::new());
        Self { sampler, prediction, places, middles, classes, at: 0, images, asked, inside, past }
    }

    /// The images where they stand: at the end of the way once it is done.
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// Where the next prediction is to be; `None` at the end.
    fn wants(&self) -> Option<Place> {
        let next = *self.places.get(self.at + 1)?;
        let (here, middle) = (self.places[self.at], self.middles[self.at]);
        Some(match (self.sampler.kind, self.inside.len()) {
            (_, 0) => here,
            (Kind::Pndm, 1 | 2) => middle,
            _ => next,
        })
    }

    /// Goes on with what was predicted of `asked`; `draw` gives standard normal noise for a step.
    fn take(&mut self, predicted: Predicted, draw: &mut Draw<'_>) -> Result<()> {
        let (here, middle, next) = (self.places[self.at], self.middles[self.at], self.places[self.at + 1]);
        let predicted = match self.wants() {
            Some(place) => self.sampler.clamped(predicted, &self.asked, place)?,
            None => predicted,
        };
        if matches!(self.sampler.kind, Kind::Ddim | Kind::Ancestral) {
            let images = self.sampler.step(&predicted, here, next, &mut || draw(self.at))?;
            self.arrive(images);
            return Ok(());
        }
        let direction = match self.prediction {
            Prediction::Velocity => (&predicted.noise - &predicted.image)?,
            _ => predicted.noise,
        };
        let first = self.past.is_empty();
        let runge_kutta = self.sampler.kind == Kind::Pndm && self.past.len() < 3;
        self.inside.push(direction);
        let inside = &self.inside[..];
        let (weights, to): (&[f64], _) = match (inside.len(), runge_kutta) {
            (1, true) => (&[1.0], middle),
            (2, true) => (&[0.0, 1.0], middle),
            (3, true) => (&[0.0, 0.0, 1.0], next),
            (_, true) => (&[1.0 / 6.0, 2.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0], next),
            (1, false) if first => (&[1.0], next),
            (_, false) if first => (&[0.5, 0.5], next),
            _ => (&[], next),
        };
        let whole = inside.len() == 4 || !runge_kutta && (!first || inside.len() == 2);
        let mean = match (weights, &self.past[..]) {
            ([], [.., three, two, one]) => {
                mix(&[three, two, one, &inside[0]], &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0])
            }
            ([], [two, one]) => mix(&[two, one, &inside[0]], &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0]),
            ([], past) => mix(&[&past[0], &inside[0]], &[-0.5, 1.5]),
            (weights, _) => mix(&inside.iter().collect::<Vec<_>>(), weights),
        }?;
        let moved = self.prediction.read(&mean, &self.images, here)?.at(to)?;
        if whole {
            let keep = self.past.len().saturating_sub(2);
            self.past.drain(..keep);
            self.past.push(self.inside.swap_remove(0));
            self.arrive(moved);
        } else {
            self.asked = moved;
        }
        Ok(())
    }

    /// Goes to the end of the way. `before` every prediction is told how many steps are done, and may end it all.
    fn finish<E: From<candle_core::Error>>(
        &mut self,
        guide: &Guide<'_>,
        draw: &mut Draw<'_>,
        before: &mut dyn FnMut(usize) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        while let Some(place) = self.wants() {
            before(self.at)?;
            let predicted = guide.predict(&self.asked, place, self.classes.as_deref())?;
            self.take(predicted, draw)?;
        }
        Ok(())
    }

    fn arrive(&mut self, images: Tensor) {
        self.inside.clear();
        self.asked = images.clone();
        self.images = images;
        self.at += 1;
    }
}

/// Standard normal noise for a chain's step, of the shape of its images.
pub type Draw<'a> = dyn FnMut(usize) -> Result<Tensor> + 'a;

impl Sampler {
    /// With the predicted image in -1..1 if it is to be clamped, and the noise that then makes the noisy images what they are.
    ///
    /// # Errors
    /// Those of candle.
    pub fn clamped(self, predicted: Predicted, noisy: &Tensor, place: Place) -> Result<Predicted> {
        if !self.clamp || place.noise == 0.0 {
            return Ok(predicted);
        }
        let image = predicted.image.clamp(-1.0, 1.0)?;
        let noise = ((noisy - (&image * place.signal)?)? / place.noise)?;
        Ok(Predicted { image, noise })
    }

    /// DDIM's step, with noise if there is to be some.
    fn step(
        self,
        predicted: &Predicted,
        from: Place,
        to: Place,
        draw: &mut dyn FnMut() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let eta = if self.kind == Kind::Ancestral { 1.0 } else { self.eta };
        if eta == 0.0 || to.noise == 0.0 {
            return predicted.at(to);
        }
        // The variance of `from` given `to`: of diffusion models 1 − ᾱ/ᾱ′.
        let between = from.noise.powi(2) - (from.signal / to.signal * to.noise).powi(2);
        let posterior = (to.noise / from.noise).powi(2) * between;
        let added = eta.powi(2) * posterior;
        let mean = predicted.at(Place { noise: (to.noise.powi(2) - added).max(0.0).sqrt(), ..to })?;
        let variance = if self.kind == Kind::Ancestral { between } else { added };
        mean + (draw()? * variance.max(0.0).sqrt())?
    }

    /// Takes images over a way. `draw` is asked for noise where there is to be some.
    ///
    /// # Errors
    /// As [`Denoiser::predict`] and those of `draw`.
    pub fn follow(
        self,
        guide: &Guide<'_>,
        way: &Way,
        images: &Tensor,
        classes: Option<&[u32]>,
        draw: &mut Draw<'_>,
    ) -> Result<Tensor> {
        let mut chain = Chain::new(self, guide.denoiser, way, images, classes.map(<[u32]>::to_vec));
        chain.finish(guide, draw, &mut |_| Ok::<_, candle_core::Error>(()))?;
        Ok(chain.images)
    }

    /// (N, C, H, W) images made of noise in so many steps, of these classes. Every image has a stream of its own, named by its number; the
    /// first's is `first`. `before` every prediction is told how many steps are done, and may end it all.
    ///
    /// # Errors
    /// As [`Sampler::follow`], and those of `before`.
    pub fn generate<E: From<candle_core::Error>>(
        self,
        guide: &Guide<'_>,
        steps: usize,
        (first, shape): (usize, [usize; 4]),
        classes: Option<&[u32]>,
        (seed, device): (u64, &Device),
        before: &mut dyn FnMut(usize) -> std::result::Result<(), E>,
    ) -> std::result::Result<Tensor, E> {
        let [count, rest @ ..] = shape;
        let mut streams: Vec<rng::Rng> =
            (first..first + count).map(|image| rng::stream(seed, "sample", &format!("image {image}"))).collect();
        let mut draw = |_| {
            let rows = streams.iter_mut().map(|stream| normal(stream, rest, device));
            Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)
        };
        let schedule = guide.denoiser.schedule();
        let start = (draw(0)? * schedule.place(schedule.steps() - 1).noise)?;
        let way = Way::whole(schedule.steps(), steps);
        let mut chain = Chain::new(self, guide.denoiser, &way, &start, classes.map(<[u32]>::to_vec));
        chain.finish(guide, &mut draw, before)?;
        Ok(chain.images)
    }
}

/// Takes chains without noise to their ends. Those that are at one place at a time are predicted as one batch, the noisiest first.
///
/// # Errors
/// As [`Denoiser::predict`]; of chains that add noise, or of which some know their classes and others do not.
pub fn together(guide: &Guide<'_>, chains: &mut [Chain]) -> Result<()> {
    while let Some(place) = chains.iter().filter_map(Chain::wants).max_by(|one, other| one.time.total_cmp(&other.time))
    {
        let mut here: Vec<&mut Chain> = chains.iter_mut().filter(|chain| chain.wants() == Some(place)).collect();
        let asked: Vec<&Tensor> = here.iter().map(|chain| &chain.asked).collect();
        let classes = match here.iter().filter(|chain| chain.classes.is_some()).count() {
            0 => None,
            known if known == here.len() => Some(here.iter().flat_map(|chain| chain.classes.iter().flatten().copied())),
            _ => bail!("some chains know their classes, and others do not"),
        };
        let classes: Option<Vec<u32>> = classes.map(Iterator::collect);
        let Predicted { image, noise } = guide.predict(&Tensor::cat(&asked, 0)?, place, classes.as_deref())?;
        let mut start = 0;
        for chain in &mut here {
            let count = chain.asked.dim(0)?;
            let [image, noise] = [&image, &noise].map(|all| all.narrow(0, start, count));
            let mut none = |_| bail!("chains that add noise do not go together");
            chain.take(Predicted { image: image?, noise: noise? }, &mut none)?;
            start += count;
        }
    }
    Ok(())
}

/// Σ wᵢ·xᵢ
fn mix(tensors: &[&Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (tensor, weight) in tensors.iter().zip(weights).filter(|(_, weight)| **weight != 0.0) {
        let part = (*tensor * *weight)?;
        sum = Some(match sum {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    sum.ok_or_else(|| candle_core::Error::Msg("a mean of nothing".to_owned()))
}

/// Standard normal numbers, f32.
///
/// # Errors
/// Those of candle.
pub fn normal(stream: &mut rng::Rng, shape: [usize; 3], device: &Device) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = stream.sample_iter::<f32, _>(StandardNormal).take(count).collect();
    Tensor::from_vec(values, &shape[..], device)
}

#[cfg(test)]
pub(crate) mod tests;
