//! Denoising in feature space: a small network learns to tell the train images' features from noise, and is wrong where features are unusual.
//!
//! score = mean over levels t and draws ε of ‖ε̂(a_t·z + s_t·ε, t) − ε‖² / D, where z are an image's D features, standardised by the train
//! images', and ε̂ is a perceptron of two hidden layers that learned ε of the train images' z at random t. (a_t, s_t) are DDPM's linear schedule.
//!
//! - Paper: NODI, Zhou et al. 2024, <https://arxiv.org/abs/2401.08689>, denoises features, too. It scores by the noise predicted of the features as
//!   they are; this is `denoising_error` in their place.
//! - Reference code: none that we know of. The perceptron and its training are ours.
//! - An evaluation takes microseconds: what a diffusion model of images has to beat.
//! - Draws are the same for all images, so that a score depends on no other image.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::Rng as _;

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, Smoke, denoising::Usual, finite, same};
use crate::{
    Error, Result,
    nn::{
        Mode, Pass, Precision,
        denoiser::{Course, Place, Schedule, Settings},
        heads,
        layers::Linear,
        params::Params,
        sampler::normal,
        unet::{Style, sinusoid},
    },
    ops::{self, Activation},
    rng,
    train::optim::{Optimizer, Rules, adamw},
};

/// T of the schedule: DDPM's.
const STEPS: usize = 1000;
/// Numbers that tell the time. Ours: as many as a U-Net of 64 channels has.
const TIME: usize = 64;
/// Features that are denoised together.
const BATCH: usize = 4096;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "FeatureDenoising")]
pub struct Config {
    /// The steps that noise is added up to, of 1,000. Those of `denoising_error`.
    #[garde(length(min = 1, max = 100), inner(range(max = STEPS - 1)))]
    pub levels: Vec<usize>,
    /// How often noise is drawn for each level. Ours: 8, which are cheap.
    #[garde(range(min = 1, max = 1000))]
    pub repeats: usize,
    /// Neurons of a hidden layer. Ours: 256.
    #[garde(range(min = 1, max = 16_384))]
    pub width: usize,
    /// Steps of learning. Ours: 2,000, half a minute of one core for 84 features.
    #[garde(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Train images of a step. Ours: 256.
    #[garde(range(min = 1, max = 65_536))]
    pub batch_size: usize,
    /// Adam's learning rate, which falls to 0 along a cosine. Ours: 0.001.
    #[garde(range(min = 1e-8, max = 1.0))]
    pub lr: f64,
    /// Of the first weights, the batches and the noise.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        let levels = vec![100, 200, 300, 400, 500];
        Self { levels, repeats: 8, width: 256, steps: 2000, batch_size: 256, lr: 0.001, seed: 0 }
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn left_out(&self, _: &heads::Head) -> Option<&'static str> {
        Some("trains a network of its own: name it where it is wanted")
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("steps", &mut self.steps, 2);
        smoke.set("width", &mut self.width, 8);
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let train = fit.train()?;
        let (rows, columns) = train.features.dims2()?;
        if rows == 0 {
            return Err(Error::input("there is no train image to learn from"));
        }
        let values = values(&train.features)?;
        let usual = Usual::of(&values, columns);
        let features = Tensor::from_vec(usual.standardised(&values), (rows, columns), &Device::Cpu)?;
        let features = features.to_dtype(DType::F32)?;
        let params = Params::new(self.seed, &Device::Cpu);
        let network = Perceptron::new(columns, self.width, &params.builder())?;
        let rule = adamw::Settings { lr: self.lr, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(&Rules::Adamw(rule), None, params.trainable())?;
        let schedule = schedule();
        let mut step = |at: usize| {
            let mut rng = rng::stream(self.seed, "feature_denoising", &format!("step {at}"));
            let drawn: Vec<u32> = (0..self.batch_size).map(|_| rng.random_range(0..rows) as u32).collect();
            let places: Vec<Place> = (0..self.batch_size).map(|_| schedule.place(rng.random_range(0..STEPS))).collect();
            let features = features.index_select(&Tensor::new(&drawn[..], &Device::Cpu)?, 0)?;
            let noise = normal(&mut rng, [1, self.batch_size, columns], &Device::Cpu)?.squeeze(0)?;
            let factor = |of: fn(&Place) -> f64| {
                let column: Vec<f32> = places.iter().map(|place| of(place) as f32).collect();
                Tensor::from_vec(column, (self.batch_size, 1), &Device::Cpu)
            };
            let signal = features.broadcast_mul(&factor(|place| place.signal)?)?;
            let noisy = (signal + noise.broadcast_mul(&factor(|place| place.noise)?)?)?;
            let times: Vec<f64> = places.iter().map(|place| place.time).collect();
            let mode = Mode::Train { seed: self.seed, step: at as u64, precision: Precision::F32 };
            let loss = (network.noise(&noisy, &times, &Pass::new(mode))? - noise)?.sqr()?.mean_all()?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                let error = Error::Failed(format!("the loss of step {at} is {value}"));
                return Err(error.hint("take a smaller lr"));
            }
            let share = at as f64 / self.steps as f64;
            optimizer.step(&loss.backward()?, self.lr * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()))
        };
        match &train.batches {
            // With a progress bar, until the user asks to stop.
            Some(batches) => {
                batches
                    .work("learning feature_denoising", self.steps, &mut |mut steps| steps.try_for_each(&mut step))?;
            }
            None => (0..self.steps).try_for_each(step)?,
        }
        // Scores are computed in f64: how many images go together then moves no bit of what is rounded to f32.
        let exact = Params::new(self.seed, &Device::Cpu);
        let network = Perceptron::new(columns, self.width, &exact.builder().set_dtype(DType::F64))?;
        let learned = params.all()?.into_iter().map(|(name, values)| Ok((name, values.to_dtype(DType::F64)?)));
        exact.load(&learned.collect::<Result<_>>()?, Path::new("feature_denoising"))?;
        Ok(Box::new(Fitted { config: self.clone(), usual, network }))
    }
}

fn schedule() -> Schedule {
    Schedule::new(Settings { course: Course::Linear, steps: STEPS })
}

/// ε̂: two hidden layers, told how noisy features are.
struct Perceptron {
    layers: [Linear; 3],
}

impl Perceptron {
    fn new(features: usize, width: usize, vb: &VarBuilder) -> Result<Self> {
        let layer = |name: &str, inputs, outputs| Linear::new(inputs, outputs, &vb.pp(name));
        let layers =
            [layer("first", features + TIME, width)?, layer("second", width, width)?, layer("last", width, features)?];
        Ok(Self { layers })
    }

    /// The noise in (N, D) features at (N) times.
    fn noise(&self, noisy: &Tensor, times: &[f64], pass: &Pass) -> Result<Tensor> {
        let [first, second, last] = &self.layers;
        let told = Tensor::cat(&[noisy, &sinusoid(times, TIME, Style::Ddpm, noisy)?], 1)?;
        let hidden = ops::silu(&first.forward(&told, Activation::Identity, pass)?)?;
        let hidden = ops::silu(&second.forward(&hidden, Activation::Identity, pass)?)?;
        Ok(last.forward(&hidden, Activation::Identity, pass)?)
    }
}

struct Fitted {
    config: Config,
    usual: Usual,
    network: Perceptron,
}

impl Fitted {
    /// The sum over all draws of the mean squared error, of standardised (N, D) features.
    fn errors(&self, features: &Tensor) -> Result<Vec<f64>> {
        let (rows, columns) = features.dims2()?;
        let schedule = schedule();
        let mut sums = vec![0.0; rows];
        for level in &self.config.levels {
            for repeat in 0..self.config.repeats {
                let noise = draw(self.config.seed, *level, repeat, columns)?.to_dtype(DType::F64)?;
                let place = schedule.place(*level);
                let noisy = (features * place.signal)?.broadcast_add(&(&noise * place.noise)?)?;
                let predicted = self.network.noise(&noisy, &vec![place.time; rows], &Pass::eval())?;
                let errors = predicted.broadcast_sub(&noise)?.sqr()?.mean(1)?.to_vec1::<f64>()?;
                sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
            }
        }
        Ok(sums)
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let (rows, columns) = bank.features.dims2()?;
        same("features", columns, self.usual.mean.len())?;
        let features = self.usual.standardised(&values(&bank.features)?);
        let features = Tensor::from_vec(features, (rows, columns), &Device::Cpu)?;
        let draws = (self.config.levels.len() * self.config.repeats) as f64;
        let mut scores = Vec::with_capacity(rows);
        for start in (0..rows).step_by(BATCH) {
            let errors = self.errors(&features.narrow(0, start, BATCH.min(rows - start))?)?;
            scores.extend(errors.into_iter().map(|error| (error / draws) as f32));
        }
        Scores::new(scores)
    }
}

/// The noise of a level and a repeat, (1, D), for all images.
fn draw(seed: u64, level: usize, repeat: usize, columns: usize) -> Result<Tensor> {
    let mut rng = rng::stream(seed, "feature_denoising", &format!("{level} {repeat}"));
    Ok(normal(&mut rng, [1, 1, columns], &Device::Cpu)?.squeeze(0)?)
}

/// The numbers of features, none of which is NaN or infinite.
fn values(features: &Tensor) -> Result<Vec<f64>> {
    Ok(finite(features)?.into_iter().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of standard normal features the best there is predicts s·x, wrong by a² on average; farther out it is wrong by more.
    #[test]
    fn as_wrong_as_the_best_there_is() {
        let mut rng = rng::stream(7, "test", "features");
        let features = normal(&mut rng, [1, 4000, 3], &Device::Cpu).unwrap().squeeze(0).unwrap();
        let [train, test] = [0, 2000].map(|start| features.narrow(0, start, 2000).unwrap());
        // Neither the place nor the unit of a feature matters.
        let moved = |features: &Tensor, factor: f64| features.affine(5.0 * factor, 40.0).unwrap();
        let bank = |features: Tensor| Bank::new(Tensor::zeros((2000, 2), DType::F32, &Device::Cpu).unwrap(), features);
        let config =
            Config { levels: vec![100, 400], repeats: 40, width: 32, steps: 1500, lr: 0.01, ..Config::default() };
        let train = bank(moved(&train, 1.0));
        let scorer = config.fit(&Fit { train: Some(&train), ..Fit::default() }).unwrap();
        let mean = |factor: f64| {
            let scores = scorer.score(&bank(moved(&test, factor))).unwrap();
            scores.as_slice().iter().map(|score| f64::from(*score)).sum::<f64>() / 2000.0
        };
        // E‖s·(a·k·z + s·ε) − ε‖² / D over z, with s² = 1 − a², of the draws that there are.
        let error = |level: usize, repeat: usize, factor: f64| {
            let place = schedule().place(level);
            let noise = draw(config.seed, level, repeat, 3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let square = noise.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 3.0;
            let (a, s) = (place.signal.powi(2), place.noise.powi(2));
            a * s * factor.powi(2) + a * a * square
        };
        let best = |factor: f64| {
            let all = config.levels.iter().flat_map(|level| (0..config.repeats).map(move |repeat| (*level, repeat)));
            all.map(|(level, repeat)| error(level, repeat, factor)).sum::<f64>() / 80.0
        };
        assert!((mean(1.0) / best(1.0) - 1.0).abs() < 0.08, "{} for {}", mean(1.0), best(1.0));
        assert!(mean(3.0) > 1.5 * best(1.0), "{} for {}", mean(3.0), best(3.0));
        let again = config.fit(&Fit { train: Some(&train), ..Fit::default() }).unwrap();
        let scores = |scorer: &dyn Scorer| scorer.score(&bank(moved(&test, 2.0))).unwrap();
        assert_eq!(scores(&*again), scores(&*scorer), "the same again");
    }
}
