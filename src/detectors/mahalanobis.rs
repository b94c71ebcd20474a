//! The Mahalanobis distance to the nearest class.
//!
//! score = min_c (z − μ_c)ᵀ·Σ⁺·(z − μ_c) for the penultimate features z, with the train images' class means μ_c and the
//! covariance Σ = 1/N·Σ_i (z_i − μ_{y_i})·(z_i − μ_{y_i})ᵀ that all classes share. With `noise` ε, it is that of the image
//! x′ = x − ε·sign(∇_x score(x))/σ, moved towards its nearest class, with the deviations σ that the channels of the normalised image
//! were divided by. With `layers`, score = Σ_l α_l · score_l, where the z of stage l are the means over space of what leaves it, and
//! x′ is each stage's own. With `normalise`, z is divided by its length before all of this: MDS++.
//!
//! - Paper: Lee et al., *A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks*, NeurIPS
//!   2018, eq. 1 and 2 and algorithm 1, <https://arxiv.org/abs/1807.03888>. MDS++: Mueller, Hein, *Mahalanobis++: Improving OOD
//!   Detection via Feature Normalization*, ICML 2025, <https://arxiv.org/abs/2505.18032>.
//! - Reference code: `pokaxpoka/deep_Mahalanobis_detector`, `lib_generation.py`; OpenOOD `mds_postprocessor.py` and
//!   `mds_ensemble_postprocessor.py`, energy_ood `utils/lib_extraction.py` (all with sklearn's `EmpiricalCovariance`, whose precision
//!   is a pseudo-inverse, and all but the second give −½ of these scores); pytorch-ood `Mahalanobis` and `MahalanobisODIN`, whose scores are these
//!   times 1/(2N). MDS++: `mueller-mp/maha-norm`, `mdsn_postprocessor.py`, which gives the negative of these scores, has neither noise
//!   nor more layers, and NaN for features of zeros, which here stay as they are.
//! - The authors' α_l are a logistic regression's on images of the very OOD set that is tested, or on adversarial ones, and OpenOOD's
//!   on its validation sets. Here they are 1, as OpenOOD's configuration has it for its one layer, or given.
//! - The authors try noise of 0, 0.0005, 0.001, 0.0014, 0.002, 0.005 and 0.01, as energy_ood. OpenOOD v1.5 has none with the
//!   penultimate features, and divides by σ = 0.5 with several layers.
//! - The stages are the network's: of a ResNet the authors' (without the stem's), of a WRN its three blocks and the last
//!   activation.

mod distances;

use candle_core::{DType, Device, Tensor, Var};

use super::{
    Bank, Check, Detector, Fit, Inputs, Learns, Output, Scorer, Scores, Smoke, check_memory, finite_from, inputs, same,
    stages::{Stages, names_each_once},
};
pub(super) use distances::away;
pub use distances::{Distances, Moments};

use crate::{
    Error, Result,
    nn::{Pass, Shown, pass::PENULTIMATE},
};

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Mahalanobis")]
pub struct Config {
    /// ε, in units of pixels in 0..1. 0: OpenOOD's, which differentiates nothing.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = 0.0))]
    pub noise: f64,
    /// Which stages' features are read: `penultimate`, `all`, or a list. The first is OpenOOD's and energy_ood's.
    #[garde(custom(names_each_once))]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = PENULTIMATE))]
    pub layers: Stages,
    /// α of each of the layers, in their order; empty: 1 each, ours.
    #[garde(inner(range(min = -1e6, max = 1e6)))]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = []))]
    pub weights: Vec<f64>,
    /// Whether each layer's features are divided by their length. false: Lee et al.'s and OpenOOD v1.5's; true is MDS++, which reads the
    /// penultimate ones.
    #[garde(skip)]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = false))]
    pub normalise: bool,
}

impl Config {
    /// Refuses what cannot be fitted to so many images of a network that gives these outputs.
    ///
    /// # Errors
    /// [`Error::Input`] if it lacks a stage, the weights are not one for each layer, or the layers do not fit into the memory.
    pub fn check(&self, shown: &Shown, images: usize, memory: usize) -> Result<()> {
        let stages = self.layers.of(shown)?;
        self.check_weights(&stages.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>())?;
        if self.layers == Stages::Penultimate {
            return Ok(());
        }
        let sizes = stages.iter().map(|(_, features)| features.dims2().map(|(_, size)| size));
        let sizes = sizes.collect::<candle_core::Result<Vec<_>>>()?;
        // All of them, and one layer's again while it is fitted, twice.
        let most = sizes.iter().max().copied().unwrap_or(0);
        let bytes = images * (sizes.iter().sum::<usize>() + 2 * most) * size_of::<f32>();
        check_memory("mahalanobis needs", "its layers", [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory, or name fewer layers"))
    }

    fn check_weights(&self, layers: &[&str]) -> Result<()> {
        if self.weights.is_empty() || self.weights.len() == layers.len() {
            return Ok(());
        }
        let (count, names) = (self.weights.len(), layers.join(", "));
        Err(Error::input(format!("mahalanobis has {count} weights for the layers {names}: give one each")))
    }
}

/// The distances of one or more stages.
struct Layers {
    noise: f64,
    stages: Stages,
    /// Of each stage, its name, α and distances.
    fitted: Vec<(String, f64, Distances)>,
}

impl Layers {
    fn fit(config: &Config, fit: &Fit<'_>) -> Result<Self> {
        let (train, labels) = fit.labelled_train()?;
        let layers = match config.layers {
            Stages::Penultimate => vec![(PENULTIMATE.to_owned(), train.features.clone())],
            _ => collect(config, train.inputs()?, fit.memory)?,
        };
        config.check_weights(&layers.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>())?;
        let weights = if config.weights.is_empty() { vec![1.0; layers.len()] } else { config.weights.clone() };
        let mut fitted = Vec::with_capacity(layers.len());
        for ((name, features), weight) in layers.into_iter().zip(weights) {
            let distances =
                Distances::fit(&features, labels, config.normalise).map_err(|error| in_layer(&name, error))?;
            fitted.push((name, weight, distances));
        }
        Ok(Self { noise: config.noise, stages: config.layers.clone(), fitted })
    }

    /// Σ_l α_l · score_l of each image, which the network is asked for anew.
    fn distances(&self, inputs: &dyn Inputs) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(inputs.images());
        inputs.pass("scoring Mahalanobis", &mut |start, images| {
            let images = if self.noise > 0.0 { Var::from_tensor(images)?.into_inner() } else { images.clone() };
            let plain = self.features(inputs, &images, start)?;
            let first = scores.len();
            scores.resize(first + images.dim(0)?, 0.0);
            for (index, ((name, weight, distances), features)) in self.fitted.iter().zip(&plain).enumerate() {
                let mut add = |features: &Tensor| -> Result<()> {
                    let distances = distances.nearest(&on_cpu(features)?)?;
                    scores[first..].iter_mut().zip(distances).for_each(|(sum, distance)| *sum += weight * distance);
                    Ok(())
                };
                if self.noise == 0.0 {
                    add(features).map_err(|error| in_layer(name, error))?;
                    continue;
                }
                let gradients = distances.gradients(&on_cpu(features)?).map_err(|error| in_layer(name, error))?;
                let gradient = inputs::pull_back(features, unit_rows(gradients, features.dim(1)?), &images)?;
                let moved = inputs::step_down(&images, &gradient, self.noise, &inputs.normalisation().std, start)?;
                add(&self.features(inputs, &moved, start)?[index]).map_err(|error| in_layer(name, error))?;
            }
            Ok(())
        })?;
        Ok(scores)
    }

    /// Each stage's features of a batch whose first image is at position `start`, where one that is NaN or infinite is named.
    fn features(&self, inputs: &dyn Inputs, images: &Tensor, start: usize) -> Result<Vec<Tensor>> {
        let stages = self.stages.of(&inputs.network().show(images, &Pass::eval())?)?;
        for (name, features) in &stages {
            finite_from(&on_cpu(features)?, start).map_err(|error| in_layer(name, error))?;
        }
        same("layers", stages.len(), self.fitted.len())?;
        Ok(stages.into_iter().map(|(_, features)| features).collect())
    }
}

/// The stages' features of all images.
///
/// # Errors
/// As [`Config::check`].
fn collect(config: &Config, inputs: &dyn Inputs, memory: usize) -> Result<Vec<(String, Tensor)>> {
    let mut layers: Vec<(String, Vec<Tensor>)> = Vec::new();
    inputs.pass("fitting Mahalanobis", &mut |_, images| {
        let shown = inputs.network().show(images, &Pass::eval())?;
        let batch = config.layers.of(&shown)?;
        if layers.is_empty() {
            config.check(&shown, inputs.images(), memory)?;
            layers = batch.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        }
        for ((_, all), (_, features)) in layers.iter_mut().zip(batch) {
            all.push(on_cpu(&features)?);
        }
        Ok(())
    })?;
    layers.into_iter().map(|(name, all)| Ok((name, Tensor::cat(&all, 0)?))).collect()
}

fn on_cpu(features: &Tensor) -> Result<Tensor> {
    Ok(features.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
}

/// Each row divided by its largest magnitude, which no sign depends on, lest it leave the range of f32 on its way back.
fn unit_rows(mut rows: Vec<f64>, size: usize) -> Vec<f64> {
    for row in rows.chunks_exact_mut(size) {
        let largest = row.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        if largest > 0.0 {
            row.iter_mut().for_each(|x| *x /= largest);
        }
    }
    rows
}

fn in_layer(name: &str, error: Error) -> Error {
    match error {
        Error::Failed(reason) if name != PENULTIMATE => Error::Failed(format!("layer {name}: {reason}")),
        other => other,
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        match (&self.layers, self.noise > 0.0) {
            (Stages::Penultimate, false) => &[Output::Features],
            (Stages::Penultimate, true) => &[Output::Features, Output::Gradients],
            _ => &[Output::Gradients],
        }
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Layers::fit(self, fit)?))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        if let Stages::Named(names) = &mut self.layers {
            names.iter_mut().for_each(|name| *name = (smoke.layer)(name));
        }
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.shown, about.least(), about.memory).map(|()| None)?)))
    }
}

impl Scorer for Layers {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let scores = match &self.fitted[..] {
            [(_, weight, distances)] if self.noise == 0.0 && self.stages == Stages::Penultimate => {
                distances.nearest(&bank.features)?.into_iter().map(|distance| weight * distance).collect()
            }
            _ => {
                let inputs = bank.inputs()?;
                if self.stages == Stages::Penultimate {
                    same("images", inputs.images(), bank.features.dim(0)?)?;
                }
                self.distances(inputs)?
            }
        };
        Scores::new(scores.into_iter().map(|score| score as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        match &self.fitted[..] {
            [(_, _, only)] if self.stages == Stages::Penultimate => {
                Some(serde_json::json!({ "features": only.size(), "rank": only.rank() }))
            }
            layers => {
                let ranks = layers.iter().map(|(name, _, layer)| (format!("rank_of_{name}"), layer.rank().into()));
                Some(serde_json::Value::Object(ranks.collect()))
            }
        }
    }
}
