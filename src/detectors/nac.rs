//! Neuron activation coverage (NAC-UE): an image is known as far as its neurons take part in the network's certainty as they do on
//! train images.
//!
//! The state of neuron i is s_i = 1/(1 + exp(−α·z_i·∂L/∂z_i)) with L = −1/K·Σ_c ln softmax(f)_c, which is KL(u‖softmax f) up to a
//! constant, for the uniform u over K classes. Of a feature map, z_i and ∂L/∂z_i are sums over its pixels. States of the train images
//! fall into bins with counts n_i; score = −1/L·Σ_l 1/N_l·Σ_i min(n_i(s_i) / r, 1) over the L layers and their N_l neurons, in −1..0.
//!
//! - Paper: Liu et al., *Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization*, ICLR 2024,
//!   <https://arxiv.org/abs/2306.02879>, whose bins are of equal width.
//! - Reference code: `BierOne/ood_coverage`, the branch built on OpenOOD, with which the published numbers were made: there, M
//!   thresholds at log_1000(1 + j·(√1000 − 1)/(M/2 − 1)) and mirrored about ½ make M − 2 bins, narrow about ½, where the state of a
//!   neuron is that takes no part. This follows it.
//! - pytorch-ood's `NACUE` is another score: its bins are narrow at 0 and 1, it sums z·∂L/∂z over pixels rather than each factor, and
//!   it adds layers up.
//! - As there, 1000 train images suffice, as many of each class; here they are drawn by name (`rng`), there by numpy's generator.
//! - The reference's settings of ResNet-18, as `{ bins, filled, steepness }`. CIFAR-10: penultimate 50, 50, 100; layer3 500, 100, 1000;
//!   layer2 50, 5, 0.001; layer1 500, 100, 0.001. CIFAR-100: penultimate 50, 50, 50; layer3 1000, 500, 10; layer2 50, 500, 1;
//!   layer1 50, 5, 0.005. The defaults are its first, which its configuration uses alone.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rand::seq::SliceRandom;

use super::{
    Bank, Check, Detector, Fit, Inputs, Learns, Output, Scorer, Scores, Smoke, inputs, log_softmax, map_rows, numbers,
    same, stages::no_stage,
};
use crate::{
    Error, Result,
    nn::{
        Pass, Shown,
        pass::{Leaf, PENULTIMATE},
    },
    rng,
};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Nac")]
pub struct Config {
    /// The stages that are read, `penultimate` or others of the network, with settings for each.
    #[garde(length(min = 1), dive)]
    pub layers: BTreeMap<String, Layer>,
    /// Train images to learn from: 1000 in the reference.
    #[garde(range(min = 1, max = 1_000_000_000))]
    pub images: usize,
}

/// How the states of one layer's neurons are counted.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "NacLayer")]
pub struct Layer {
    /// M, which makes M − 2 bins: even, 50 in the reference.
    #[garde(range(min = 4, max = 100_000), custom(even))]
    pub bins: usize,
    /// r, the images that make a bin full: 50 in the reference.
    #[garde(range(min = 1, max = 1_000_000))]
    pub filled: usize,
    /// α: 100 in the reference.
    #[garde(range(min = 1e-9, max = 1e9))]
    pub steepness: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { layers: BTreeMap::from([(PENULTIMATE.to_owned(), Layer::default())]), images: 1000 }
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self { bins: 50, filled: 50, steepness: 100.0 }
    }
}

impl Config {
    /// Refuses stages that a network with these outputs does not have.
    ///
    /// # Errors
    /// [`Error::Input`] that lists the stages.
    pub fn check(&self, shown: &Shown) -> Result<()> {
        let known = |name: &str| name == PENULTIMATE || shown.stage(name).is_some();
        match self.layers.keys().find(|name| !known(name)) {
            Some(name) => Err(no_stage(name, shown.stage_names())),
            None => Ok(()),
        }
    }
}

fn even(bins: &usize, _: &()) -> garde::Result {
    if bins.is_multiple_of(2) {
        Ok(())
    } else {
        Err(garde::Error::new("must be even: half of them lie on each side of ½"))
    }
}

/// The edges of M − 2 bins of states, from 0 to 1.
fn edges(bins: usize) -> Vec<f64> {
    const BASE: f64 = 1000.0;
    let steps = bins / 2 - 1;
    let lower = (0..steps).map(|step| (1.0 + step as f64 * (BASE.sqrt() - 1.0) / steps as f64).ln() / BASE.ln());
    let lower: Vec<f64> = lower.collect();
    let upper = lower.iter().rev().map(|edge| 1.0 - edge);
    lower.iter().copied().chain([0.5]).chain(upper).collect()
}

/// How often each neuron of a layer was in each bin.
struct Counts {
    settings: Layer,
    edges: Vec<f64>,
    neurons: usize,
    /// Bin after bin of each neuron; none before the first image.
    counts: Vec<u32>,
}

impl Counts {
    fn new(settings: &Layer) -> Self {
        Self { settings: settings.clone(), edges: edges(settings.bins), neurons: 0, counts: Vec::new() }
    }

    /// Where the counts of the states of an image's neurons are, which are given as z·∂L/∂z.
    fn places<'a>(&'a self, row: &'a [f64]) -> impl Iterator<Item = usize> + 'a {
        let bins = self.edges.len() - 1;
        row.iter().enumerate().map(move |(neuron, part)| {
            let state = 1.0 / (1.0 + (-self.settings.steepness * part).exp());
            // The last bin has both its ends.
            let bin = self.edges.partition_point(|edge| *edge <= state).clamp(1, bins) - 1;
            neuron * bins + bin
        })
    }

    fn count(&mut self, row: &[f64]) {
        if self.counts.is_empty() {
            self.neurons = row.len();
            self.counts = vec![0; row.len() * (self.edges.len() - 1)];
        }
        let places: Vec<usize> = self.places(row).collect();
        places.into_iter().for_each(|place| self.counts[place] += 1);
    }

    /// The mean over neurons of how full the bins of their states are, in 0..1.
    fn coverage(&self, row: &[f64]) -> f64 {
        let full = |place| (f64::from(self.counts[place]) / self.settings.filled as f64).min(1.0);
        self.places(row).map(full).sum::<f64>() / row.len() as f64
    }
}

/// z·∂L/∂z, each factor summed over pixels, of every stage in `names`, every image and every neuron, on (N, C, H, W) images which
/// begin at position `start` of their set.
///
/// # Errors
/// [`Error::Input`] if the network has no stage of a name; [`Error::Failed`] naming the first image with a number that is none.
pub fn parts(inputs: &dyn Inputs, names: &[String], images: &Tensor, start: usize) -> Result<Vec<Vec<Vec<f64>>>> {
    let network = inputs.network();
    let pass = Pass::eval().differentiating(names);
    let shown = network.show(images, &pass)?;
    // ∂L/∂f_c = softmax(f)_c − 1/K
    let slopes = map_rows(&shown.logits()?.detach(), |row| {
        let uniform = 1.0 / row.len() as f64;
        log_softmax(row).into_iter().map(|log| log.exp() - uniform).collect::<Vec<_>>()
    })?;
    let gradients = inputs::gradients(shown.logits()?, slopes.concat())?;
    let part = |name: &String| {
        let missing = || no_stage(name, shown.stage_names());
        let Leaf { values, variable, .. } = shown.leaves.iter().find(|leaf| leaf.name == *name).ok_or_else(missing)?;
        let unused = || Error::Failed(format!("the logits do not depend on the stage \"{name}\""));
        let gradient = numbers(gradients.get(variable).ok_or_else(unused)?)?;
        let (neurons, values) = (values.dim(1)?, numbers(values)?);
        let pixels = values.len() / (images.dim(0)? * neurons).max(1);
        let planes = values.chunks_exact(pixels).zip(gradient.chunks_exact(pixels));
        let all: Vec<f64> = planes.map(|(z, g)| z.iter().sum::<f64>() * g.iter().sum::<f64>()).collect();
        match all.iter().position(|part| !part.is_finite()) {
            Some(at) => {
                let message =
                    format!("the stage \"{name}\" or its gradient is not finite on image {}", start + at / neurons);
                Err(Error::Failed(message))
            }
            None => Ok(all.chunks_exact(neurons).map(<[f64]>::to_vec).collect()),
        }
    };
    names.iter().map(part).collect()
}

/// Positions of at most `images` / K train images of each of the K classes that occur, as many of each, in rising order.
fn balanced(labels: &[u32], images: usize) -> Vec<usize> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(image, label)| classes.entry(*label).or_default().push(image));
    let fewest = classes.values().map(Vec::len).min().unwrap_or(0);
    let each = (images / classes.len().max(1)).clamp(1, fewest.max(1));
    let mut chosen = Vec::with_capacity(each * classes.len());
    for (class, mut members) in classes {
        members.shuffle(&mut rng::stream(0, "NAC's train images", &class.to_string()));
        chosen.extend(members.into_iter().take(each));
    }
    chosen.sort_unstable();
    chosen
}

/// The counts of all layers, and of how many images.
struct Nac {
    names: Vec<String>,
    layers: Vec<Counts>,
    images: usize,
}

impl Nac {
    fn fit(config: &Config, train: &dyn Inputs) -> Result<Self> {
        let names: Vec<String> = config.layers.keys().cloned().collect();
        let mut layers: Vec<Counts> = config.layers.values().map(Counts::new).collect();
        train.pass("fitting NAC", &mut |start, images| {
            for (layer, rows) in layers.iter_mut().zip(parts(train, &names, images, start)?) {
                rows.iter().for_each(|row| layer.count(row));
            }
            Ok(())
        })?;
        Ok(Self { names, layers, images: train.images() })
    }

    /// The mean coverage over layers of each image, in 0..1.
    fn coverages(&self, inputs: &dyn Inputs) -> Result<Vec<f64>> {
        let mut coverages = Vec::with_capacity(inputs.images());
        inputs.pass("scoring NAC", &mut |start, images| {
            let parts = parts(inputs, &self.names, images, start)?;
            for image in 0..images.dim(0)? {
                let mut sum = 0.0;
                for (layer, rows) in self.layers.iter().zip(&parts) {
                    same("neurons", rows[image].len(), layer.neurons)?;
                    sum += layer.coverage(&rows[image]);
                }
                coverages.push(sum / self.layers.len() as f64);
            }
            Ok(())
        })?;
        Ok(coverages)
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits, Output::Gradients]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        let inputs = train.inputs()?;
        same("labels", labels.len(), inputs.images())?;
        Ok(Box::new(Nac::fit(self, &*inputs.subset(&balanced(labels, self.images))?)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.shown).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        let layers = std::mem::take(&mut self.layers).into_iter();
        self.layers = layers.map(|(name, layer)| ((smoke.layer)(&name), layer)).collect();
    }
}

impl Scorer for Nac {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        // What is wrong with an image is told by its place in the set.
        let images = map_rows(&bank.logits, |_| ())?.len();
        let inputs = bank.inputs()?;
        same("images", inputs.images(), images)?;
        Scores::new(self.coverages(inputs)?.into_iter().map(|coverage| -coverage as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "images": self.images }))
    }
}
