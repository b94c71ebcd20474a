//! How scores become numbers, and which tables and figures are made of them.

use std::path::PathBuf;

use garde::Validate;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    detectors::views::{Part, View},
    metrics::{Column, Protocol},
    nn::Tta,
    yaml::limits::{MOST_IMAGES, MOST_TOGETHER},
};

/// MiB that may be allowed, at most: a terabyte.
const MOST_MEMORY: usize = 1 << 20;

/// How scores become numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Images a forward pass; absent: the power of two up to 256 whose feature maps fit `memory`. It changes no result by
    /// more than rounding: sums over a batch of another size may run in another order, which moves the last bits of scores.
    #[garde(range(min = 1, max = MOST_TOGETHER))]
    pub batch_size: Option<usize>,
    /// MiB of feature maps that a forward pass may hold, where `batch_size` is absent; one whose layers are looked at, by Gram or AFDU,
    /// may hold four times as many. Ours: 256, which no two cores need to be at their fastest, and every machine has.
    #[garde(range(min = 1, max = MOST_MEMORY))]
    pub memory: usize,
    /// MiB that the fit of a detector may hold at a time; one that would need more reads the train set in several passes, and
    /// is refused if not even what it keeps fits. Ours: 2048. It changes no result but PatchCore's, whose
    /// sample of patches is no larger than it has room for; captions say so.
    #[garde(range(min = 1, max = MOST_MEMORY))]
    pub fit_memory: usize,
    /// Score random subsets of each OOD set, several times, as energy_ood does.
    #[garde(dive)]
    pub redraw: Option<Redraw>,
    /// Views of each ID test image whose mean logits all accuracies and the confusion matrix are of. Scores are of one view. Ours: one.
    #[garde(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tta: Option<Tta>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { batch_size: None, memory: 256, fit_memory: 2048, redraw: None, tta: None }
    }
}

/// The subset protocol of energy_ood: mean ± population standard deviation over draws of part of each OOD set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redraw {
    /// Subsets drawn: 10 in energy_ood and in the sparsity paper.
    #[garde(range(min = 1, max = 10_000))]
    pub draws: usize,
    /// Size of a subset as a fraction of the ID test set: 1/5 in energy_ood. A smaller OOD set is used whole.
    #[garde(range(min = 1e-6, max = 1000.0))]
    pub id_fraction: f64,
}

impl Table {
    /// Which images the numbers are computed on, by the protocol or as asked for.
    pub fn sampled(&self) -> Sampling {
        if self.protocol == Protocol::EnergyOod { Sampling::Redraw } else { self.sampling }
    }
}

impl Default for Redraw {
    fn default() -> Self {
        Self { draws: 10, id_fraction: 0.2 }
    }
}

/// A table to print and to write as Markdown, CSV, LaTeX and JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The name of its files, `table_<name>.md`; letters, digits, `_` and `-`.
    #[garde(length(min = 1), custom(file_name))]
    pub name: String,
    /// What stands above it.
    #[garde(skip)]
    #[serde(default)]
    pub title: Option<String>,
    /// What a row is.
    #[garde(skip)]
    pub rows: Rows,
    /// The methods shown, in this order; all unless given. With `rows: ood` each is a group of columns.
    #[garde(skip)]
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// The numbers shown.
    #[garde(length(min = 1))]
    pub columns: Vec<Column>,
    /// The mean over the OOD sets, or over each group of them, or each set as columns of its own (for `rows: method` and
    /// `rows: sweep`). With `rows: ood`, groups have rows of their own anyway.
    #[garde(skip)]
    #[serde(default)]
    pub over: Over,
    /// Which class is positive and which threshold is taken.
    #[garde(skip)]
    #[serde(default)]
    pub protocol: Protocol,
    /// Whole OOD sets, or the draws of `evaluation.redraw`.
    #[garde(skip)]
    #[serde(default)]
    pub sampling: Sampling,
    /// Whether 95 % intervals over test images stand beside AUROC and false positive rates of single OOD sets: for small test sets.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_false")]
    pub intervals: bool,
    /// Whether there are rows of trivial statistics of the images: mean grey, contrast, sharpness, the size of files, and the
    /// distance from the mean train image. A number that one of them reaches says little of a method; a note tells where one does.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_false")]
    pub controls: bool,
    /// The paper's numbers to stand beside ours.
    #[garde(dive)]
    #[serde(default)]
    pub expect: Option<Expect>,
}

/// What is only written where it is asked for keeps the hashes of files without it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn file_name(name: &str, _: &()) -> garde::Result {
    if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        Ok(())
    } else {
        Err(garde::Error::new("must be letters, digits, `_` or `-`: it names files"))
    }
}

/// What a row of a table is.
///
/// In a sweep, a method that the sweep does not reach (its network and detector are the same in every cell) stands once;
/// one that it reaches stands once per cell, as `Sparsity (weight=0.01)`. A paper's number for `Sparsity` stands beside
/// the cell with the file's own values; `expect.rows` can name the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// One method.
    Method,
    /// One OOD set, then their mean; methods stand side by side.
    Ood,
    /// One cell of the sweep, for each method shown.
    Sweep,
    /// One category of a folder of them, then their mean; methods stand side by side. All its anomalous images count together.
    Task,
}

impl Rows {
    /// Whether a row is a set that methods are measured on: an OOD set or a category.
    pub fn are_sets(self) -> bool {
        matches!(self, Self::Ood | Self::Task)
    }
}

/// How several OOD sets become columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Their unweighted mean.
    #[default]
    OodMean,
    /// Each by itself.
    Each,
    /// The unweighted mean of each group of them (`group:` of the data sets).
    Group,
}

/// Which images a number is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All of them; ± is over seeds.
    #[default]
    Full,
    /// The draws of `evaluation.redraw`; ± is over draws (one seed) or over seeds of the mean over draws.
    Redraw,
    /// All of them, and those of `data.shifted` count as ID: OpenOOD's FS-OOD (Yang et al. 2023, full-spectrum detection). Accuracy
    /// stays that of the ID test images.
    FullSpectrum,
}

/// A paper's printed numbers, and how their rows and columns are called there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// A CSV in `experiments/`; lines that start with `#` are comments.
    #[garde(skip)]
    pub file: PathBuf,
    /// How the paper is cited in the table: `Chen & Li 2023, table 2`.
    #[garde(skip)]
    pub source: String,
    /// Only lines with these values: `{ id_dataset: CIFAR-10 }`.
    #[garde(skip)]
    #[serde(default, rename = "where")]
    pub filter: IndexMap<String, String>,
    /// The CSV's column that names the row.
    #[garde(skip)]
    pub row: String,
    /// Our row names to the CSV's, where they differ: `{ textures: Texture, mean: Mean }`.
    #[garde(skip)]
    #[serde(default)]
    pub rows: IndexMap<String, String>,
    /// The OOD sets, by our names, that the paper's means are over: needed where a column is a mean over OOD sets. With
    /// other sets than these, no difference is shown.
    #[garde(skip)]
    #[serde(default)]
    pub sets: Vec<String>,
    /// The OOD sets, by our names, that the paper's means of groups are over: `{ near: [cifar100, tiny_imagenet] }`. Needed where a
    /// column or a row is such a mean.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub groups: IndexMap<String, Vec<String>>,
    /// Our columns to the CSV's: `fpr95: fpr95`; `EBD.fpr95: fpr95_base` with `rows: ood`; `svhn.fpr95: fpr95_svhn` with
    /// `over: each`.
    #[garde(skip)]
    pub columns: IndexMap<String, String>,
}

/// A figure, written as SVG and PNG.
///
/// Of a method or network that the sweep reaches, all but `accuracy`, `training`, `sweep` and `set_scores` show the cell with the file's own
/// values, or the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Figure {
    /// ROC curves of some methods, one panel per OOD set (the sparsity paper's figure 2b).
    Roc(#[garde(dive)] MethodsFigure),
    /// Score histograms of ID and OOD images, one panel per method (figure 3).
    Histogram(#[garde(dive)] MethodsFigure),
    /// ID accuracy of some networks as bars (figure 2a).
    Accuracy(#[garde(dive)] NetworksFigure),
    /// Which class a network takes for which: its confusion matrix, with each class's accuracy on the diagonal.
    Confusion(#[garde(dive)] ConfusionFigure),
    /// Numbers of one method along the sweep, by the protocol of the first table.
    Sweep(#[garde(dive)] SweepFigure),
    /// Mean scores of the ID set and of each OOD set along the sweep: how far each of them moves as a setting grows.
    SetScores(#[garde(dive)] SetScoresFigure),
    /// Activations and log anomaly factors over the feature maps of ID and OOD images (the AFDU paper's figures 5 and 6).
    Factors(#[garde(dive)] FactorsFigure),
    /// How one neuron's train activations are distributed: histogram, kernel density, Gaussian, and the anomaly factor (the
    /// AFDU paper's figure 2).
    Neuron(#[garde(dive)] NeuronFigure),
    /// Heat maps of some methods over test images of each kind of anomaly, beside the true contours and what a threshold makes of the
    /// maps: a figure for each category.
    Maps(#[garde(dive)] MapsFigure),
    /// What each maker of pseudo-anomalies makes of a network's first train images, with the contours of the anomalous pixels: a figure
    /// for each category.
    Pseudo(#[garde(dive)] PseudoFigure),
    /// Images that a diffusion model makes of noise: a line for each class that it is told.
    Samples(#[garde(dive)] SamplesFigure),
    /// The loss of some networks while they learned, a panel for each. Of the first seed.
    Training(#[garde(dive)] NetworksFigure),
    /// ROC and PRO curves of some methods over the pixels of all test images, two panels for each category.
    PixelCurves(#[garde(dive)] MethodsFigure),
}

impl Figure {
    /// The method whose fit it shows, and what of it, if it shows one.
    pub fn view(&self) -> Option<(&str, View<'_>)> {
        let (method, layer, part) = match self {
            Self::Factors(figure) => (&figure.method, &figure.layer, Part::Maps { images: figure.images }),
            Self::Neuron(figure) => (&figure.method, &figure.layer, Part::Neuron(figure.neuron)),
            _ => return None,
        };
        Some((method, View { layer: layer.as_deref(), part }))
    }
}

/// A figure that compares methods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodsFigure {
    /// Methods, in this order.
    #[garde(length(min = 1))]
    pub methods: Vec<String>,
}

/// Heat maps over images. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapsFigure {
    /// Methods whose detectors give maps, in this order: up to 4, or up to 8 without predictions.
    #[garde(length(min = 1, max = 8), custom(fit_in_the_width(self.predictions)))]
    pub methods: Vec<String>,
    /// Anomalous images of each category: the first of each kind in turn. A normal one stands above them. Ours: 4.
    #[garde(range(min = 1, max = 32))]
    #[serde(default = "default_factor_images")]
    pub images: usize,
    /// Whether what a threshold makes of each map stands beside it. Without it many methods fit side by side. Ours: yes.
    #[garde(skip)]
    #[serde(default = "crate::yaml::named::yes", skip_serializing_if = "is_true")]
    pub predictions: bool,
}

/// A sheet of pseudo-anomalies. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PseudoFigure {
    /// The network whose recipe makes them. Default: the first whose does.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Train images: the first ones. Ours: 4.
    #[garde(range(min = 1, max = 16))]
    #[serde(default = "default_factor_images")]
    pub images: usize,
}

/// Images that a diffusion model makes of noise by DDIM, of a flow by Euler's method, with clamping. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplesFigure {
    /// The diffusion model.
    #[garde(skip)]
    pub network: String,
    /// Images of a line. Ours: 8.
    #[garde(range(min = 1, max = MOST_SAMPLES))]
    #[serde(default = "default_samples")]
    pub images: usize,
    /// The sampler's steps, of even length on the schedule. Default: 50, or all of a shorter schedule. The DDIM paper's table 1 has an FID of
    /// 4.67 for 50 on CIFAR-10, of 4.04 for 1,000.
    #[garde(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// β, how much further than to the class the noise points, of a model that is told classes. Ours: 0, what the model learned.
    #[garde(range(min = 0.0, max = 1000.0))]
    #[serde(default)]
    pub guidance: f64,
    /// Of the noise.
    #[garde(skip)]
    #[serde(default)]
    pub seed: u64,
    /// While the network learns, the same images are written into its folder after every so many epochs, as `samples-epoch-005.png`. They
    /// change nothing of the network. Ours: never.
    #[garde(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_epochs: Option<usize>,
}

/// Images of a line, at most.
pub const MOST_SAMPLES: usize = 16;
/// The sampler's steps unless given.
const SAMPLER_STEPS: usize = 50;

impl SamplesFigure {
    /// Steps over a schedule of so many.
    pub fn steps_of(&self, schedule: usize) -> usize {
        self.steps.unwrap_or(SAMPLER_STEPS).min(schedule)
    }
}

fn default_samples() -> usize {
    8
}

/// A figure that compares networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworksFigure {
    /// Networks, in this order.
    #[garde(length(min = 1))]
    pub networks: Vec<String>,
}

/// A figure of one network: the share of each class's ID test images that were taken for each class, over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfusionFigure {
    /// The network. Results count confusions of up to 100 classes.
    #[garde(skip)]
    pub network: String,
}

/// A figure along the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepFigure {
    /// The method.
    #[garde(skip)]
    pub method: String,
    /// The numbers, a line each.
    #[garde(length(min = 1))]
    pub columns: Vec<Column>,
    /// Whether to show differences to the first value, seed by seed, in place of the numbers: seeds share batches and first weights
    /// between values, so differences may spread less than numbers.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_false")]
    pub differences: bool,
}

/// Scores along the sweep. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetScoresFigure {
    /// The method.
    #[garde(skip)]
    pub method: String,
}

/// Heat maps of a convolution's activations and log anomaly factors, means over its channels, of the first images of the ID
/// set and of each OOD set. One scale of colours holds for all of them. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactorsFigure {
    /// A method whose detector is `afdu` with `granularity: pixel`.
    #[garde(skip)]
    pub method: String,
    /// A convolution that the detector reads; the first unless given.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Images of each set. Ours: 4, which stand in one line.
    #[garde(range(min = 1, max = 32))]
    #[serde(default = "default_factor_images")]
    pub images: usize,
}

fn default_factor_images() -> usize {
    4
}

/// With predictions each method takes two columns.
fn fit_in_the_width(predictions: bool) -> impl FnOnce(&Vec<String>, &()) -> garde::Result {
    move |methods, ()| match predictions && methods.len() > 4 {
        true => Err(garde::Error::new("more than 4 methods fit only with predictions: false")),
        false => Ok(()),
    }
}

fn is_true(flag: &bool) -> bool {
    *flag
}

/// One neuron's normal range, and where the first images of each set lie in it. Of the first seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NeuronFigure {
    /// A method whose detector is `afdu`.
    #[garde(skip)]
    pub method: String,
    /// A layer that the detector reads; the first unless given.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// From 0; of a feature map, channel by channel and row by row. Unless given: of the neurons in the middle of a channel's
    /// map (of all, where there are no maps), the one that varies most over 1,000 evenly spaced train images.
    #[garde(range(max = MOST_IMAGES))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neuron: Option<usize>,
}
