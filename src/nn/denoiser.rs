//! What diffusion models have in common: how much of an image and how much noise there is at each time, and what a model predicts there.
//!
//! A noisy image is x = a·x₀ + s·ε of an image x₀, standard normal noise ε, and a place (a, s) on the schedule. Whatever a model predicts,
//! it gives both x₀ and ε, of which a deterministic step makes x′ = a′·x₀ + s′·ε (DDIM's; of a flow, Euler's).
//!
//! - Papers: Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239> (linear schedule, noise);
//!   Nichol & Dhariwal, *Improved DDPM*, ICML 2021, <https://arxiv.org/abs/2102.09672> (cosine schedule); Salimans & Ho, *Progressive
//!   Distillation*, ICLR 2022, <https://arxiv.org/abs/2202.00512> (v); Liu et al., *Flow Straight and Fast*, ICLR 2023,
//!   <https://arxiv.org/abs/2209.03003> (velocity).

use candle_core::{Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// β of the linear schedule's first and last step, for 1,000 steps.
const LINEAR: [f64; 2] = [1e-4, 0.02];
/// The cosine schedule's s.
const OFFSET: f64 = 0.008;
/// The largest β of the cosine schedule.
const LARGEST: f64 = 0.999;

/// How noise grows over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// DDPM's: β from 0.0001 to 0.02 at 1,000 steps, the same in proportion at others.
    Linear,
    /// Improved DDPM's: ᾱ = cos²((t/T + 0.008)/1.008 · π/2), β at most 0.999.
    Cosine,
    /// Rectified flow's: a = 1 − t, s = t.
    Flow,
}

/// What a model is trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// ε.
    Noise,
    /// v = a·ε − s·x₀.
    V,
    /// ε − x₀, of [`Course::Flow`] alone.
    Velocity,
}

/// Settings of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How noise grows.
    #[garde(skip)]
    pub course: Course,
    /// T, its steps.
    #[garde(range(min = 2, max = 100_000))]
    pub steps: usize,
}

/// Where an image is on a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// a, the factor of the image.
    pub signal: f64,
    /// s, the factor of the noise.
    pub noise: f64,
    /// The time that the model is told, in steps: -1 for an image without noise.
    pub time: f64,
}

/// a and s of every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    places: Vec<Place>,
}

impl Schedule {
    /// Of these settings.
    pub fn new(settings: Settings) -> Self {
        let count = settings.steps as f64;
        let mut kept = 1.0;
        let place = |step: usize| {
            let time = step as f64;
            let decay = match settings.course {
                Course::Flow => {
                    let noise = (time + 1.0) / count;
                    return Place { signal: 1.0 - noise, noise, time };
                }
                Course::Linear => {
                    // Of 1,000 steps in proportion: what a whole schedule adds up to stays.
                    let [first, last] = LINEAR.map(|beta| beta * 1000.0 / count);
                    (first + (last - first) * time / (count - 1.0)).min(LARGEST)
                }
                Course::Cosine => {
                    let of = |time: f64| {
                        ((time / count + OFFSET) / (1.0 + OFFSET) * std::f64::consts::FRAC_PI_2).cos().powi(2)
                    };
                    (1.0 - of(time + 1.0) / of(time)).min(LARGEST)
                }
            };
            kept *= 1.0 - decay;
            Place { signal: kept.sqrt(), noise: (1.0 - kept).sqrt(), time }
        };
        Self { places: (0..settings.steps).map(place).collect() }
    }

    /// T.
    pub fn steps(&self) -> usize {
        self.places.len()
    }

    /// Where an image is at a step from 0 on; one of T or more is the last.
    pub fn place(&self, step: usize) -> Place {
        self.places[step.min(self.places.len() - 1)]
    }

    /// An image without noise.
    pub fn clean() -> Place {
        Place { signal: 1.0, noise: 0.0, time: -1.0 }
    }
}

/// A predicted image and its predicted noise, (N, C, H, W) each.
#[derive(Debug, Clone)]
pub struct Predicted {
    /// x₀.
    pub image: Tensor,
    /// ε.
    pub noise: Tensor,
}

impl Predicted {
    /// x′ = a′·x₀ + s′·ε.
    ///
    /// # Errors
    /// Those of candle.
    pub fn at(&self, place: Place) -> Result<Tensor> {
        (&self.image * place.signal)? + (&self.noise * place.noise)?
    }
}

impl Prediction {
    /// What a model's output says of noisy images at a place.
    ///
    /// # Errors
    /// Where the image's factor is 0 and the output is noise; those of candle.
    pub fn read(self, output: &Tensor, noisy: &Tensor, place: Place) -> Result<Predicted> {
        let Place { signal, noise, .. } = place;
        match self {
            Self::Noise if signal == 0.0 => bail!("noise alone says nothing of an image"),
            Self::Noise => {
                let image = ((noisy - (output * noise)?)? / signal)?;
                Ok(Predicted { image, noise: output.clone() })
            }
            Self::V => {
                // a² + s² = 1.
                let image = ((noisy * signal)? - (output * noise)?)?;
                Ok(Predicted { image, noise: ((noisy * noise)? + (output * signal)?)? })
            }
            Self::Velocity => {
                let image = (noisy - (output * noise)?)?;
                Ok(Predicted { image, noise: (noisy + (output * signal)?)? })
            }
        }
    }

    /// What a model's output should be: of (N, C, H, W) images and noise at the (N, 1, 1, 1) factors a and s of their places.
    ///
    /// # Errors
    /// Those of candle.
    pub fn target(self, images: &Tensor, noise: &Tensor, factors: [&Tensor; 2]) -> Result<Tensor> {
        let [signal_factor, noise_factor] = factors;
        match self {
            Self::Noise => Ok(noise.clone()),
            Self::V => noise.broadcast_mul(signal_factor)? - images.broadcast_mul(noise_factor)?,
            Self::Velocity => noise - images,
        }
    }
}

/// A model that predicts the noise in noisy images. Images have pixels in -1..1 where they are clean, (N, C, H, W) f32.
pub trait Denoiser: Send + Sync {
    /// How noise grows.
    fn schedule(&self) -> &Schedule;
    /// What its output is.
    fn prediction(&self) -> Prediction;
    /// How many classes it can be told; 0 of a model that is told none.
    fn classes(&self) -> usize;
    /// Whether it cannot go without a class.
    fn needs_class(&self) -> bool {
        false
    }
    /// Its output of noisy images that are all at one time, each of a class, or of no class known. Without a graph.
    ///
    /// # Errors
    /// When the shapes do not fit; of classes, where it is told none; without, where it needs them.
    fn output(&self, noisy: &Tensor, time: f64, classes: Option<&[u32]>) -> Result<Tensor>;
    /// Multiplications, each with an addition, that this takes.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn products(&self, noisy: &Tensor) -> Result<u64>;

    /// What its output says of noisy images at a place.
    ///
    /// # Errors
    /// As [`Denoiser::output`] and [`Prediction::read`].
    fn predict(&self, noisy: &Tensor, place: Place, classes: Option<&[u32]>) -> Result<Predicted> {
        self.prediction().read(&self.output(noisy, place.time, classes)?, noisy, place)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn schedules_are_the_papers() {
        let of = |course, steps| Schedule::new(Settings { course, steps });
        // numpy: np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)).
        let linear = of(Course::Linear, 1000);
        for (step, kept) in [(0, 0.9999), (120, 0.854_832_649_344), (999, 4.035_829_765_e-5)] {
            let place = linear.place(step);
            assert!((place.signal.powi(2) / kept - 1.0).abs() < 1e-6, "{step}: {}", place.signal.powi(2));
            assert!((place.signal.hypot(place.noise) - 1.0).abs() < 1e-12);
        }
        let cosine = of(Course::Cosine, 1000);
        let exact = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        let whole = exact(0.0);
        for step in [0, 499, 990] {
            let kept = cosine.place(step).signal.powi(2);
            assert!((kept / (exact(step as f64 + 1.0) / whole) - 1.0).abs() < 1e-9, "{step}");
        }
        assert!(cosine.place(999).signal > 0.0, "the last step's β is capped");
        assert_eq!(of(Course::Flow, 4).place(0), Place { signal: 0.75, noise: 0.25, time: 0.0 });
        assert_eq!(of(Course::Flow, 4).place(9).signal, 0.0);
    }

    #[test]
    fn what_is_predicted_gives_image_and_noise_back() {
        let device = Device::Cpu;
        let image = Tensor::new(&[[[[0.5_f64, -0.25]]]], &device).unwrap();
        let noise = Tensor::new(&[[[[-1.5_f64, 0.75]]]], &device).unwrap();
        let place = Schedule::new(Settings { course: Course::Linear, steps: 1000 }).place(300);
        let flow = Schedule::new(Settings { course: Course::Flow, steps: 10 }).place(3);
        for (prediction, place) in [(Prediction::Noise, place), (Prediction::V, place), (Prediction::Velocity, flow)] {
            let factor = |value: f64| Tensor::full(value, (1, 1, 1, 1), &device).unwrap();
            let known = Predicted { image: image.clone(), noise: noise.clone() };
            let noisy = known.at(place).unwrap();
            let target = prediction.target(&image, &noise, [&factor(place.signal), &factor(place.noise)]).unwrap();
            let read = prediction.read(&target, &noisy, place).unwrap();
            for (read, known) in [(read.image, &image), (read.noise, &noise)] {
                let far = (read - known).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(far < 1e-12, "{prediction:?}: {far}");
            }
        }
    }
}
