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

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::{
    Bank, Check, Detector, Fit, Inputs, Learns, Output, Scorer, Scores, Smoke, check_memory, finite, finite_from,
    in_f64, inputs, normalised, same,
    stages::{Stages, names_each_once},
};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, dot, project},
    nn::{Pass, Shown, pass::PENULTIMATE},
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

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

/// Class means and what makes the shared covariance the identity.
#[derive(Debug, Clone)]
pub struct Distances {
    size: usize,
    /// Whether features are divided by their length.
    normalise: bool,
    /// The mean of the class means: features are taken relative to it.
    origin: Vec<f64>,
    /// v / √λ for each eigenvector of the covariance whose λ is not 0 up to rounding.
    directions: Vec<f64>,
    /// The class means along the directions.
    means: Vec<Vec<f64>>,
}

impl Distances {
    /// Of (N, D) features, divided by their length if they are to be, and the classes of the N images.
    ///
    /// # Errors
    /// If there are none, one is NaN or infinite, or nothing varies within a class.
    pub fn fit(features: &Tensor, labels: &[u32], normalise: bool) -> Result<Self> {
        let values = finite(features)?;
        let (images, size) = features.dims2()?;
        same("labels", labels.len(), images)?;
        let mut sums: BTreeMap<u32, (usize, Vec<f64>)> = BTreeMap::new();
        for (block, labels) in values.chunks(BLOCK * size).zip(labels.chunks(BLOCK)) {
            for (row, label) in rows(block, size, normalise).chunks_exact(size).zip(labels) {
                let (count, sum) = sums.entry(*label).or_insert_with(|| (0, vec![0.0; size]));
                *count += 1;
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        for (count, sum) in sums.values_mut() {
            sum.iter_mut().for_each(|sum| *sum /= *count as f64);
        }
        let mut covariance = vec![0.0; size * size];
        for (block, labels) in values.chunks(BLOCK * size).zip(labels.chunks(BLOCK)) {
            let mut rows = rows(block, size, normalise);
            for (row, label) in rows.chunks_exact_mut(size).zip(labels) {
                row.iter_mut().zip(&sums[label].1).for_each(|(x, mean)| *x -= mean);
            }
            add_gram(&mut covariance, &rows, size);
        }
        covariance.iter_mut().for_each(|sum| *sum /= images as f64);
        let eigen = Eigen::new(covariance, size)
            .ok_or_else(|| Error::Failed("the features' covariance has no finite eigenvalues".into()))?;
        let rank = eigen.rank();
        if rank == 0 {
            return Err(Error::Failed("no feature varies among the train images of a class".into()));
        }
        let vectors = eigen.vectors.chunks_exact(size).zip(&eigen.values).take(rank);
        let directions: Vec<f64> =
            vectors.flat_map(|(vector, value)| vector.iter().map(|x| x / value.sqrt())).collect();
        let mut origin = vec![0.0; size];
        for (_, mean) in sums.values() {
            origin.iter_mut().zip(mean).for_each(|(origin, mean)| *origin += mean / sums.len() as f64);
        }
        let offsets = sums.values().flat_map(|(_, mean)| mean.iter().zip(&origin).map(|(mean, origin)| mean - origin));
        let means = project(&offsets.collect::<Vec<_>>(), &directions, size);
        let means = means.chunks_exact(rank).map(<[f64]>::to_vec).collect();
        Ok(Self { size, normalise, origin, directions, means })
    }

    /// The squared distance of each row of (N, D) features to the nearest class mean.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn nearest(&self, features: &Tensor) -> Result<Vec<f64>> {
        let mut distances = Vec::with_capacity(features.dim(0)?);
        self.whiten(features, |row| distances.push(self.class(row).1))?;
        Ok(distances)
    }

    /// The gradient of each row's squared distance with respect to the row: N·D numbers, row after row.
    ///
    /// # Errors
    /// As [`Distances::nearest`].
    pub fn gradients(&self, features: &Tensor) -> Result<Vec<f64>> {
        let mut gradients: Vec<f64> = Vec::with_capacity(features.elem_count());
        self.whiten(features, |row| {
            let start = gradients.len();
            gradients.resize(start + self.size, 0.0);
            let directions = self.directions.chunks_exact(self.size);
            for ((x, mean), direction) in row.iter().zip(self.class(row).0).zip(directions) {
                let gradient = gradients[start..].iter_mut().zip(direction);
                gradient.for_each(|(sum, along)| *sum += 2.0 * (x - mean) * along);
            }
        })?;
        if self.normalise {
            let rows = in_f64(&finite(features)?);
            gradients.chunks_exact_mut(self.size).zip(rows.chunks_exact(self.size)).for_each(through_length);
        }
        Ok(gradients)
    }

    /// The nearest class's mean and the squared distance to it, of a row along the directions.
    fn class(&self, row: &[f64]) -> (&[f64], f64) {
        let square = |mean: &Vec<f64>| row.iter().zip(mean).map(|(x, mean)| (x - mean).powi(2)).sum::<f64>();
        let nearer = |a: (_, f64), b: (_, f64)| if b.1 < a.1 { b } else { a };
        self.means.iter().map(|mean| (&mean[..], square(mean))).fold((&[][..], f64::INFINITY), nearer)
    }

    /// Calls `each` with every row of (N, D) features along the directions.
    fn whiten(&self, features: &Tensor, mut each: impl FnMut(&[f64])) -> Result<()> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        for block in values.chunks(BLOCK * self.size) {
            let mut rows = rows(block, self.size, self.normalise);
            for row in rows.chunks_exact_mut(self.size) {
                row.iter_mut().zip(&self.origin).for_each(|(x, origin)| *x -= origin);
            }
            let whitened = project(&rows, &self.directions, self.size);
            whitened.chunks_exact(self.rank()).for_each(&mut each);
        }
        Ok(())
    }

    /// The rank of the covariance.
    pub fn rank(&self) -> usize {
        self.directions.len() / self.size
    }
}

/// A block's rows in f64, divided by their length if they are to be.
fn rows(block: &[f32], size: usize, normalise: bool) -> Vec<f64> {
    if normalise { normalised(block, size) } else { in_f64(block) }
}

/// Turns the gradient g with respect to u = z/‖z‖ into that with respect to z: (g − (g·u)·u)/‖z‖. Zeros z are their own u.
fn through_length((gradient, z): (&mut [f64], &[f64])) {
    let square = dot(z, z);
    if square > 0.0 {
        let along = dot(gradient, z) / square;
        gradient.iter_mut().zip(z).for_each(|(g, x)| *g = (*g - along * x) / square.sqrt());
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
                Some(serde_json::json!({ "features": only.size, "rank": only.rank() }))
            }
            layers => {
                let ranks = layers.iter().map(|(name, _, layer)| (format!("rank_of_{name}"), layer.rank().into()));
                Some(serde_json::Value::Object(ranks.collect()))
            }
        }
    }
}
