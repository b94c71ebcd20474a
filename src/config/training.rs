//! Training recipes: optimisers, schedules, augmentation, checkpoints.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::Augment,
    yaml::limits::{MOST_IMAGES, MOST_TOGETHER, MOST_WEIGHT},
};

// Upper ends of ranges, as in [`crate::yaml::limits`].
const MOST_EPOCHS: usize = 100_000;
const MOST_STEPS: usize = 1_000_000_000;
/// Outliers for each image.
const MOST_OUTLIERS: usize = 16;

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
    /// Random changes of the train images, as a list or as `{ flip: true, crop_padding: 4 }`.
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
