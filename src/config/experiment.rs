//! The keys of an experiment file.
//!
//! Every struct refuses unknown keys, every number has a range, and every default says where it comes from. A key that
//! changes a result is part of a network's identity; a key that does not (checkpoint cadence, figures) is not.

use std::{collections::BTreeMap, path::PathBuf};

use garde::Validate;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    architecture::{Head, Nonlinearity, Shortcut, SpectralNorm},
    methods::MethodEntry,
    named,
    search::{HeldOut, Validation},
};

// Upper ends of ranges, ours: far beyond any experiment, so that what is above is a slip of the keyboard, and small enough
// that no product of two of them wraps and no buffer made for one is absurd.
const MOST_EPOCHS: usize = 100_000;
const MOST_STEPS: usize = 1_000_000_000;
const MOST_IMAGES: usize = 1_000_000_000;
/// Images held as one tensor.
const MOST_TOGETHER: usize = 65_536;
/// MiB: a terabyte.
const MOST_MEMORY: usize = 1 << 20;
/// Networks of an ensemble.
const MOST_MEMBERS: usize = 100;
/// Of a loss term.
const MOST_WEIGHT: f64 = 1e6;
/// Of an energy, up and down.
const MOST_ENERGY: f64 = 1e6;
/// Outliers for each image.
const MOST_OUTLIERS: usize = 16;

/// An experiment: data, networks, the methods that score with them, and the tables and figures to make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// One line, printed by `list` and above the tables.
    #[garde(length(min = 1))]
    pub title: String,
    /// What the experiment shows, what it costs, and what is known about its result.
    #[garde(skip)]
    #[serde(default)]
    pub about: String,
    /// One full repetition (initial weights, batch order, augmentation, draws) per seed.
    #[garde(length(min = 1))]
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// The in-distribution data and the sets to tell from it.
    #[garde(dive)]
    pub data: Data,
    /// Networks by name; one may start `from` another.
    #[garde(length(min = 1), dive)]
    pub networks: BTreeMap<String, Network>,
    /// A method is a network and the detector that reads it.
    #[garde(length(min = 1), dive)]
    pub methods: Vec<MethodEntry>,
    /// How scores become numbers.
    #[garde(dive)]
    #[serde(default)]
    pub evaluation: Evaluation,
    /// A grid: path of a key below `networks`, `methods` or `evaluation`, values to try.
    /// `networks.tuned.loss.sparsity.weight: [0, 0.01]`
    #[garde(skip)]
    #[serde(default)]
    pub sweep: IndexMap<String, Vec<serde_json::Value>>,
    /// The tables to print and write.
    #[garde(dive)]
    #[serde(default)]
    pub tables: Vec<Table>,
    /// The figures to draw.
    #[garde(dive)]
    #[serde(default)]
    pub figures: Vec<Figure>,
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}

/// The data of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// In-distribution: its train split trains the networks, its test split is what OOD data are told from.
    #[garde(dive)]
    pub id: Dataset,
    /// Out-of-distribution sets; their test images are brought to the shape of the ID images.
    #[garde(length(min = 1), dive)]
    pub ood: Vec<Dataset>,
    /// Auxiliary outliers, which networks whose loss has a term of them (`energy_margin`, `outlier_exposure`) learn to tell
    /// from the ID images: its train split, without labels, brought to the shape of the ID images and normalised as they are.
    /// Images that an OOD set is tested on are refused. energy_ood's is 80 Million Tiny Images, which was withdrawn;
    /// outlier-exposure offers `tiny_images_300k` in its place, OpenOOD takes part of Tiny ImageNet.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Dataset>,
    /// Data to choose settings on, of methods with `search`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

impl Data {
    /// The sets that are read for choosing settings, the ID set first unless it is part of `id`, what others are made of last.
    pub fn validation_sets(&self) -> impl Iterator<Item = &Dataset> {
        let id = self.validation.as_ref().and_then(|validation| match &validation.id {
            HeldOut::Set(set) => Some(&**set),
            HeldOut::Images(_) => None,
        });
        let ood = self.validation.iter().flat_map(|validation| validation.ood.iter().chain(&validation.made_of));
        id.into_iter().chain(ood)
    }
}

/// A data set: a known name (`svhn`), or a map that changes or replaces what is known about it.
///
/// `{ name: mine, format: folder, path: ~/pictures }` is a set of your own.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(transform = named::string_or_object)]
pub struct Dataset {
    /// The name in tables and of files, and the key of the built-in description (see `oodkit list`).
    #[garde(length(min = 1))]
    pub name: String,
    /// How the files are laid out; known for built-in names.
    #[garde(skip)]
    #[serde(default)]
    pub format: Option<crate::data::Format>,
    /// Where the files are; `<data root>/<name>` unless given. Relative paths start at the data root.
    #[garde(skip)]
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Per-channel mean of the pixels in 0..1; known for built-in names, required of an ID set.
    #[garde(inner(inner(range(min = 0.0, max = 1.0))))]
    #[serde(default)]
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation of the pixels in 0..1.
    #[garde(inner(inner(range(min = 1e-6, max = 1.0))))]
    #[serde(default)]
    pub std: Option<Vec<f32>>,
    /// Use only the first so many train images; of pictures in folders, the first of every folder in turn. The table then
    /// says "subset".
    #[garde(range(min = 1, max = MOST_IMAGES))]
    #[serde(default)]
    pub train_limit: Option<usize>,
    /// Use only so many test images, chosen as with `train_limit`.
    #[garde(range(min = 1, max = MOST_IMAGES))]
    #[serde(default)]
    pub test_limit: Option<usize>,
    /// What a reader of the table must know of these files: `JPEG-recompressed`.
    #[garde(skip)]
    #[serde(default)]
    pub note: Option<String>,
    /// With `format: image_list`, the file that lists the pictures; `{split}` in it stands for `train` or `test`. Relative paths
    /// start at the data root.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// Of an OOD set: which sets it is averaged with, in tables with means by group. Any word; OpenOOD has `near` and `far`.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A network: how it is built or where it starts, its loss and its training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The architecture; exactly one of `backbone` and `from` is given.
    #[garde(dive)]
    #[serde(default)]
    pub backbone: Option<Backbone>,
    /// The layer after the features, with `backbone`. Default: the backbone's linear layer.
    #[garde(dive)]
    #[serde(default)]
    pub head: Option<Head>,
    /// A bound on the spectral norm of every convolution and linear layer but the head, with `backbone`. Default: none.
    #[garde(dive)]
    #[serde(default)]
    pub spectral_norm: Option<SpectralNorm>,
    /// The non-linearity, with `backbone`. Default: the backbone's.
    #[garde(skip)]
    #[serde(default)]
    pub activation: Option<Nonlinearity>,
    /// The residual blocks' shortcuts, with `backbone`. Default: the backbone's.
    #[garde(skip)]
    #[serde(default)]
    pub shortcut: Option<Shortcut>,
    /// The network of this experiment whose trained weights this one starts from (fine-tuning).
    #[garde(skip)]
    #[serde(default)]
    pub from: Option<String>,
    /// Published weights (`.safetensors`, or a zip-format `.pth`) to start from, with `backbone`.
    #[garde(skip)]
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// The training recipe. Absent: the weights are used as they are (only with `weights`).
    #[garde(dive)]
    #[serde(default)]
    pub train: Option<Train>,
    /// The training objective, a weighted sum of terms.
    #[garde(dive)]
    #[serde(default)]
    pub loss: Loss,
    /// A deep ensemble (Lakshminarayanan et al. 2017, <https://arxiv.org/abs/1612.01474>): so many networks of this recipe,
    /// whose mean softmax is the prediction. 5 in that paper, DDU and AFDU. Member i is the network of seed
    /// `seed + 1000·i`, shared with every experiment that has it. Absent: one network.
    #[garde(range(min = 1, max = MOST_MEMBERS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<usize>,
}

/// Between the seeds of two members. Ours: experiments count their seeds from 0 and have fewer.
const MEMBER_SEEDS: u64 = 1000;

impl Network {
    /// The seeds of the networks that stand for this one in the repetition `seed`: `seed` itself, and of an ensemble one
    /// for each further member, modulo 2⁶⁴.
    pub fn seeds(&self, seed: u64) -> Vec<u64> {
        (0..self.members.unwrap_or(1) as u64).map(|member| seed.wrapping_add(member * MEMBER_SEEDS)).collect()
    }
}

/// An architecture: a name (`lenet`), or a name with its settings (`wide_resnet: { depth: 40, width: 2 }`).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = named::backbone_names)]
pub enum Backbone {
    /// LeNet-5 in the form that DDU uses: 28×28 or larger, 84 features.
    Lenet(#[garde(skip)] Empty),
    /// Wide ResNet (Zagoruyko & Komodakis 2016) as in energy_ood. `wrn40_2` and `wrn28_10` are short for the usual ones.
    WideResnet(#[garde(dive)] WideResnet),
    /// ResNet (He et al. 2016) as in torchvision, whose weights it takes: for images of 32×32 pixels or more. `resnet18`,
    /// `resnet34`, `resnet50` and `wide_resnet50_2` are short for the usual ones.
    Resnet(#[garde(dive)] Resnet),
    /// ResNet-18 with a 3×3 stem and no first pool, for small images: OpenOOD's network of this name.
    #[serde(rename = "resnet18_32x32")]
    Resnet18Small(#[garde(skip)] Empty),
    /// EfficientNet-Lite0 (Tan & Le 2019) as timm's `tf_efficientnet_lite0`, whose weights it takes.
    EfficientnetLite0(#[garde(skip)] Empty),
    /// VGG-19 with batch normalisation and one linear layer (DDU's form).
    Vgg19Bn(#[garde(dive)] Vgg19),
}

/// No settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Settings of a Wide ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct WideResnet {
    /// Layers, 6n + 4: 16, 22, 28, 40.
    #[garde(range(min = 10, max = 1000), custom(depth_is_6n_plus_4))]
    pub depth: usize,
    /// How many times wider than a plain ResNet.
    #[garde(range(min = 1, max = 64))]
    pub width: usize,
    /// Dropout probability inside each block: 0.3 in energy_ood and in the WRN paper for CIFAR.
    #[garde(range(min = 0.0, max = 0.99))]
    #[serde(default = "default_wrn_dropout")]
    pub dropout: f64,
}

fn default_wrn_dropout() -> f64 {
    0.3
}

fn depth_is_6n_plus_4(depth: &usize, _: &()) -> garde::Result {
    if depth % 6 == 4 { Ok(()) } else { Err(garde::Error::new("must be 6n + 4 (10, 16, 22, 28, 34, 40, …)")) }
}

/// Settings of a ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Resnet {
    /// Layers: 18, 34, 50, 101 or 152.
    #[garde(range(min = 18, max = 152), custom(depth_is_known))]
    pub depth: usize,
    /// How many times wider the 3×3 convolutions of depth 50 and more are: 2 in torchvision's "wide" ones. Default: 1, the
    /// paper's.
    #[garde(range(min = 1, max = 64), custom(only_bottlenecks_are_wide(&self.depth)))]
    #[serde(default = "default_resnet_width")]
    pub width: usize,
}

fn default_resnet_width() -> usize {
    1
}

fn depth_is_known(depth: &usize, _: &()) -> garde::Result {
    if [18, 34, 50, 101, 152].contains(depth) {
        Ok(())
    } else {
        Err(garde::Error::new("must be 18, 34, 50, 101 or 152"))
    }
}

fn only_bottlenecks_are_wide(depth: &usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    let wide = *depth >= 50;
    move |width, ()| {
        if wide || *width == 1 { Ok(()) } else { Err(garde::Error::new("must be 1 below depth 50")) }
    }
}

/// Settings of a VGG-19.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Vgg19 {
    /// Channels of the first stage; the others have 2, 4, 8 and 8 times as many. Default: 64, the paper's. A quarter of it
    /// costs a sixteenth.
    #[garde(range(min = 1, max = 1024))]
    #[serde(default = "default_vgg_width", skip_serializing_if = "is_default_vgg_width")]
    pub width: usize,
}

fn default_vgg_width() -> usize {
    64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_default_vgg_width(width: &usize) -> bool {
    *width == default_vgg_width()
}

impl Default for Vgg19 {
    fn default() -> Self {
        Self { width: default_vgg_width() }
    }
}

/// A training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the train split.
    #[garde(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images a step; the last batch of an epoch may be smaller (PyTorch's default, as in energy_ood).
    #[garde(range(min = 1, max = MOST_TOGETHER))]
    pub batch_size: usize,
    /// Auxiliary outliers in every batch, so many times `batch_size` whatever the last batch of an epoch has, for losses with
    /// a term of them. They pass through the network together with the ID images, so that batch normalisation sees both, and
    /// are changed by `augment` as they are. Default: 2, of energy_ood and outlier-exposure (256 beside 128).
    #[garde(range(min = 1, max = MOST_OUTLIERS))]
    #[serde(default = "default_outlier_ratio", skip_serializing_if = "is_default_outlier_ratio")]
    pub outlier_ratio: usize,
    /// The optimiser.
    #[garde(dive)]
    pub optimizer: Optimizer,
    /// Gradients that are too large are made smaller. Ours: not.
    #[garde(dive)]
    #[serde(default)]
    pub clip: Option<Clip>,
    /// The result is a moving average of the weights over the steps. Ours: the weights themselves.
    #[garde(dive)]
    #[serde(default)]
    pub ema: Option<Ema>,
    /// What convolutions and linear layers calculate in. Ours: f32.
    #[garde(skip)]
    #[serde(default)]
    pub precision: Precision,
    /// The learning rate over time; constant unless given.
    #[garde(dive)]
    #[serde(default)]
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises linearly: of n such steps, the first has 1/n of it and the last all. May
    /// be fractional. Ours: none.
    #[garde(range(min = 0.0, max = MOST_EPOCHS as f64))]
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Random changes of the train images.
    #[garde(dive)]
    #[serde(default)]
    pub augment: Augment,
    /// Train images held out, drawn by seed, to watch accuracy and to choose `keep: best`. Ours: none.
    #[garde(range(max = MOST_IMAGES))]
    #[serde(default)]
    pub validation: usize,
    /// Which weights are the result.
    #[garde(skip)]
    #[serde(default)]
    pub keep: Keep,
    /// Stop after so many steps, whatever the epochs say.
    #[garde(range(min = 1, max = MOST_STEPS))]
    #[serde(default)]
    pub max_steps: Option<usize>,
    /// When to save what is needed to continue. Not part of the network's identity.
    #[garde(dive)]
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

fn default_outlier_ratio() -> usize {
    2
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_default_outlier_ratio(ratio: &usize) -> bool {
    *ratio == default_outlier_ratio()
}

impl Train {
    /// Whether `outlier_ratio` is another than the default.
    pub fn asks_for_outliers(&self) -> bool {
        !is_default_outlier_ratio(&self.outlier_ratio)
    }
}

/// What convolutions and linear layers calculate in while a network learns. Weights, everything else and evaluation are
/// f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Operands rounded to bfloat16, sums in f32, as PyTorch's autocast; on a GPU only.
    Bf16,
}

/// How weights follow gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent in PyTorch's form.
    Sgd(#[garde(dive)] Sgd),
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019) in PyTorch's form.
    Adamw(#[garde(dive)] Adamw),
}

impl Optimizer {
    /// The learning rate before the schedule.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.lr,
            Self::Adamw(adamw) => adamw.lr,
        }
    }

    /// The key of the optimiser.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Adamw(_) => "adamw",
        }
    }
}

/// `torch.optim.SGD`: g ← g + wd·w; v ← μ·v + g; g ← g + μ·v (Nesterov) or v; w ← w − lr·g.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Learning rate before the schedule.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub lr: f64,
    /// μ. PyTorch's default: 0.
    #[garde(range(min = 0.0, max = 0.9999))]
    #[serde(default)]
    pub momentum: f64,
    /// Nesterov's form. PyTorch's default: false.
    #[garde(skip)]
    #[serde(default)]
    pub nesterov: bool,
    /// Decay of all weights, batch-norm's too, as energy_ood does. PyTorch's default: 0.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default)]
    pub weight_decay: f64,
}

/// `torch.optim.AdamW`: m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; w ← w·(1 − lr·wd) − lr·m̂/(√v̂ + ε).
///
/// With `weight_decay: 0` this is Adam.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adamw {
    /// Learning rate before the schedule.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub lr: f64,
    /// β₁ and β₂. PyTorch's default: 0.9 and 0.999.
    #[garde(inner(range(min = 0.0, max = 0.999_999)))]
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// ε. PyTorch's default: 1e-8.
    #[garde(range(min = 1e-16, max = 1.0))]
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Decay of all weights, batch-norm's too. PyTorch's default: 0.01.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_adamw_decay")]
    pub weight_decay: f64,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_adamw_decay() -> f64 {
    0.01
}

/// What is done to large gradients, before the optimiser adds weight decay to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Clip {
    /// All are scaled down together so that their common norm is at most this: `torch.nn.utils.clip_grad_norm_`.
    Norm(#[garde(range(min = 1e-9, max = MOST_WEIGHT))] f64),
    /// Each element is cut to at most this, up and down: `torch.nn.utils.clip_grad_value_`.
    Value(#[garde(range(min = 1e-9, max = MOST_WEIGHT))] f64),
}

/// The exponential moving average of the weights: e ← decay·e + (1 − decay)·w after every step; the first sets e = w.
///
/// Validation and the result use e, with the batch statistics of the last step, as `torch.optim.swa_utils.AveragedModel`
/// does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// PyTorch's default: 0.999.
    #[garde(range(min = 0.0, max = 0.999_999))]
    #[serde(default = "default_ema_decay")]
    pub decay: f64,
}

fn default_ema_decay() -> f64 {
    0.999
}

/// The learning rate as a factor of the optimiser's `lr`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The same throughout.
    #[default]
    Constant,
    /// Half a cosine from `lr` to `final_lr`, moving every step (energy_ood, OpenOOD).
    Cosine(#[garde(dive)] Cosine),
    /// Multiplied by `gamma` at each milestone (DDU).
    MultiStep(#[garde(dive)] MultiStep),
}

/// Settings of the cosine schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cosine {
    /// The learning rate that the last step approaches: 1e-6 in energy_ood and OpenOOD.
    #[garde(range(min = 0.0, max = 1000.0))]
    #[serde(default = "default_final_lr")]
    pub final_lr: f64,
}

fn default_final_lr() -> f64 {
    1e-6
}

/// Settings of the multi-step schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultiStep {
    /// Epochs (counted from 0) at whose start the rate falls; rising.
    #[garde(length(min = 1), inner(range(max = MOST_EPOCHS)))]
    pub milestones: Vec<usize>,
    /// The factor. PyTorch's default: 0.1.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

fn default_gamma() -> f64 {
    0.1
}

/// Random changes of train images. Ours: none unless asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Mirror left-right with probability one half.
    #[garde(skip)]
    #[serde(default)]
    pub flip: bool,
    /// Pad by so many black pixels and cut a random window of the original size; 4 for CIFAR in every recipe.
    #[garde(range(max = 64))]
    #[serde(default)]
    pub crop_padding: usize,
}

/// Which weights a training run leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of the last step.
    #[default]
    Last,
    /// Those of the epoch with the best accuracy on the held-out `validation` images; ties go to the later epoch.
    Best,
}

/// When to save a checkpoint. Ours: every two minutes and at the end of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Every so many steps.
    #[garde(range(min = 1, max = MOST_STEPS))]
    pub every_steps: Option<usize>,
    /// Every so many minutes of training; a week at most.
    #[garde(range(min = 0.0, max = 10_080.0))]
    pub every_minutes: f64,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every_steps: None, every_minutes: 2.0 }
    }
}

/// The training objective: the sum of its terms, each times its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Classification.
    #[garde(dive)]
    #[serde(default)]
    pub cross_entropy: Option<CrossEntropy>,
    /// The sparsity paper's L1 term.
    #[garde(dive)]
    #[serde(default)]
    pub sparsity: Option<Sparsity>,
    /// Classification by the directions of the logits alone (LogitNorm), in the place of `cross_entropy`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_norm: Option<LogitNorm>,
    /// Classification by a DUQ head, in the place of `cross_entropy`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_cross_entropy: Option<BinaryCrossEntropy>,
    /// DUQ's: the sum of an image's kernels changes with the image at slope 1.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_penalty: Option<GradientPenalty>,
    /// Energies of ID images below one margin and of auxiliary outliers above another; needs `data.outliers`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_margin: Option<EnergyMargin>,
    /// Outlier exposure: on auxiliary outliers, all classes equally likely; needs `data.outliers`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_exposure: Option<OutlierExposure>,
}

impl Loss {
    /// The weights of the terms that are there.
    pub fn weights(&self) -> impl Iterator<Item = f64> {
        let weights = [
            self.cross_entropy.as_ref().map(|term| term.weight),
            self.sparsity.as_ref().map(|term| term.weight),
            self.logit_norm.as_ref().map(|term| term.weight),
            self.binary_cross_entropy.as_ref().map(|term| term.weight),
            self.gradient_penalty.as_ref().map(|term| term.weight),
            self.energy_margin.as_ref().map(|term| term.weight),
            self.outlier_exposure.as_ref().map(|term| term.weight),
        ];
        weights.into_iter().flatten()
    }

    /// The terms that are there and need auxiliary outliers. One of weight 0 still has them in the batch, where batch
    /// normalisation sees them: the control.
    pub fn of_outliers(&self) -> impl Iterator<Item = &'static str> {
        let terms = [
            self.energy_margin.as_ref().map(|_| "energy_margin"),
            self.outlier_exposure.as_ref().map(|_| "outlier_exposure"),
        ];
        terms.into_iter().flatten()
    }
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            cross_entropy: Some(CrossEntropy::default()),
            sparsity: None,
            logit_norm: None,
            binary_cross_entropy: None,
            gradient_penalty: None,
            energy_margin: None,
            outlier_exposure: None,
        }
    }
}

/// Mean over the batch of −log softmax of the true class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
    /// Factor of the term. Some term must have one above 0.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The share of the target that is spread evenly over the classes. 0 is PyTorch's default; 0.1 is usual where there is one.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, label_smoothing: 0.0 }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// Mean over the batch of −log softmax of the true class, of logits scaled to one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogitNorm {
    /// Factor of the term. Some term must have one above 0.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// τ: the length is 1/τ. 0.04 in the paper for CIFAR-10, and in OpenOOD.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub temperature: f64,
}

impl Default for LogitNorm {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.04 }
    }
}

/// Mean over images and classes of the binary cross-entropy of the kernels (van Amersfoort et al. 2020, eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BinaryCrossEntropy {
    /// Factor of the term.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for BinaryCrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

/// Mean over the batch of (‖∇ₓ Σ_c K_c‖₂ − 1)² (van Amersfoort et al. 2020, eq. 5). A step takes some four times as long with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GradientPenalty {
    /// λ: 0.5 in the reference's instructions for CIFAR-10; it was chosen from 0 to 1 by the AUROC on NotMNIST for Fashion-MNIST.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

/// Mean over ID images of max(0, E − m_in)² plus mean over outliers of max(0, m_out − E)², with the energy
/// E = −logsumexp(logits) (Liu et al. 2020, eq. 8 and 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnergyMargin {
    /// λ: 0.1 in the paper and in energy_ood; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What the energies of ID images are to be below: −23 in energy_ood's run.sh for CIFAR-10 (−27 for CIFAR-100; −25 unless
    /// given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_in: f64,
    /// What the energies of outliers are to be above: −5 in energy_ood's run.sh for both CIFARs (−7 unless given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_out: f64,
}

impl Default for EnergyMargin {
    fn default() -> Self {
        Self { weight: 0.1, m_in: -23.0, m_out: -5.0 }
    }
}

/// Mean over outliers of the cross-entropy to the uniform distribution (Hendrycks et al. 2019, section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierExposure {
    /// λ: 0.5 in the paper for pictures, in outlier-exposure, energy_ood and OpenOOD; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for OutlierExposure {
    fn default() -> Self {
        Self { weight: 0.5 }
    }
}

/// Mean over the batch of the L1 norm of the logits or features (Chen & Li 2023, eq. 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// λ: 0.01 in the paper; 0 is the control, plain fine-tuning.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What is made sparse. The paper's section 2.3 takes the vector after the fully connected layer.
    #[garde(skip)]
    #[serde(default)]
    pub target: SparsityTarget,
}

/// What the sparsity term takes the norm of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SparsityTarget {
    /// The K logits (the paper's f).
    #[default]
    Logits,
    /// The D penultimate features (the other reading of "feature vector").
    Features,
}

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
    /// is refused if not even what it keeps fits. Ours: 2048. It changes no result.
    #[garde(range(min = 1, max = MOST_MEMORY))]
    pub fit_memory: usize,
    /// Score random subsets of each OOD set, several times, as energy_ood does.
    #[garde(dive)]
    pub redraw: Option<Redraw>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { batch_size: None, memory: 256, fit_memory: 2048, redraw: None }
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

impl Experiment {
    /// The draws to make: those asked for, or energy_ood's where a table is by that protocol.
    pub fn redraw(&self) -> Option<Redraw> {
        let needed = self.tables.iter().any(|table| table.sampled() == Sampling::Redraw);
        self.evaluation.redraw.clone().or_else(|| needed.then(Redraw::default))
    }

    /// The groups of the OOD sets and their members, in the order of the sets.
    pub fn groups(&self) -> IndexMap<&str, Vec<&str>> {
        let mut groups: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for set in &self.data.ood {
            if let Some(group) = &set.group {
                groups.entry(group).or_default().push(&set.name);
            }
        }
        groups
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
    /// The paper's numbers to stand beside ours.
    #[garde(dive)]
    #[serde(default)]
    pub expect: Option<Expect>,
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
}

/// A number in a table. All but `accuracy` and the gaps follow the table's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Share of ID test images classified rightly.
    Accuracy,
    /// False positive rate at 95 % true positive rate.
    Fpr95,
    /// Area under the ROC curve.
    Auroc,
    /// Area under the precision-recall curve of the protocol's positive class, as the protocol integrates it.
    Aupr,
    /// Area under the precision-recall curve with ID positive, integrated by the protocol's rule.
    AuprIn,
    /// Area under the precision-recall curve with OOD positive, integrated by the protocol's rule.
    AuprOut,
    /// The mean OOD score minus the mean ID score, in the score's own unit.
    Gap,
    /// The same in standard deviations of the ID scores.
    GapSd,
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

/// The two conventions of the field (see `metrics::ranking`), and the complete protocols that are built on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// ID positive, threshold whose recall is closest to 95 %, step-wise average precision (energy_ood, the sparsity paper).
    #[default]
    IdPositiveClosest,
    /// OOD positive, first threshold with recall ≥ 95 %, trapezoid under the PR curve (OpenOOD).
    OodPositiveFirst,
    /// All of energy_ood's protocol, which the sparsity paper follows: `id_positive_closest` on ten random subsets of each OOD set
    /// with a fifth as many images as the ID set.
    EnergyOod,
    /// All of OpenOOD v1.5's: `ood_positive_first` on complete OOD sets, averaged by their groups (`near` and `far` there). Its
    /// splits are lists: `format: image_list`.
    #[serde(rename = "openood_v1_5")]
    OpenoodV15,
}

impl Protocol {
    /// What a complete protocol takes as positive, and where it cuts: one of the first two.
    #[must_use]
    pub fn convention(self) -> Self {
        match self {
            Self::IdPositiveClosest | Self::EnergyOod => Self::IdPositiveClosest,
            Self::OodPositiveFirst | Self::OpenoodV15 => Self::OodPositiveFirst,
        }
    }
}

/// Which OOD images a number is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All of them; ± is over seeds.
    #[default]
    Full,
    /// The draws of `evaluation.redraw`; ± is over draws (one seed) or over seeds of the mean over draws.
    Redraw,
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
/// Of a method that the sweep reaches, all but `accuracy` and `sweep` show the cell with the file's own values, or the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Figure {
    /// ROC curves of some methods, one panel per OOD set (the sparsity paper's figure 2b).
    Roc(#[garde(dive)] MethodsFigure),
    /// Score histograms of ID and OOD images, one panel per method (figure 3).
    Histogram(#[garde(dive)] MethodsFigure),
    /// ID accuracy of some networks as bars (figure 2a).
    Accuracy(#[garde(dive)] NetworksFigure),
    /// Numbers of one method along the sweep, by the protocol of the first table.
    Sweep(#[garde(dive)] SweepFigure),
    /// Activations and log anomaly factors over the feature maps of ID and OOD images (the AFDU paper's figures 5 and 6).
    Factors(#[garde(dive)] FactorsFigure),
    /// How one neuron's train activations are distributed: histogram, kernel density, Gaussian, and the anomaly factor (the
    /// AFDU paper's figure 2).
    Neuron(#[garde(dive)] NeuronFigure),
}

impl Figure {
    /// The method whose neurons it shows, if it shows neurons.
    pub fn neurons_of(&self) -> Option<&str> {
        match self {
            Self::Factors(figure) => Some(&figure.method),
            Self::Neuron(figure) => Some(&figure.method),
            Self::Roc(_) | Self::Histogram(_) | Self::Accuracy(_) | Self::Sweep(_) => None,
        }
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

/// A figure that compares networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworksFigure {
    /// Networks, in this order.
    #[garde(length(min = 1))]
    pub networks: Vec<String>,
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
