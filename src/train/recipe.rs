//! A training recipe: what `train:` may say.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::{augment::Augment, enlarged::Outliers},
    nn::Precision,
    train::{groups::Group, lookahead, optim::Rules, reptile, schedule::Schedule},
    yaml::{
        limits::{MOST_IMAGES, MOST_TOGETHER, MOST_WEIGHT},
        named::is_default,
    },
};

// Upper ends of ranges, as in [`crate::yaml::limits`].
pub(super) const MOST_EPOCHS: usize = 100_000;
const MOST_STEPS: usize = 1_000_000_000;
/// A learning rate.
pub(super) const MOST_LR: f64 = 1000.0;
/// Why there may be no `trunk_lr`.
pub const LR_OF_ZERO: &str = "follows optimizer.lr in proportion, and that is 0";
/// Groups of parameters; ours.
const MOST_GROUPS: usize = 64;
/// Outliers for each image.
const MOST_OUTLIERS: usize = 16;

/// A training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the train split.
    #[garde(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images a step, made outliers among them; the last batch of an epoch may be smaller (PyTorch's default, as in energy_ood).
    #[garde(range(min = 1, max = MOST_TOGETHER))]
    pub batch_size: usize,
    /// Passes over the images that are left of an epoch after its last whole batch; others every time. PyTorch's default: false.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub drop_last: bool,
    /// Auxiliary outliers in every batch, so many times `batch_size` whatever the last batch of an epoch has, for losses with
    /// a term of them. They pass through the network together with the ID images, so that batch normalisation sees both, and
    /// are changed by `augment` as they are. Default: 2, of energy_ood and outlier-exposure (256 beside 128).
    #[garde(range(min = 1, max = MOST_OUTLIERS))]
    #[serde(default = "default_outlier_ratio", skip_serializing_if = "is_default_outlier_ratio")]
    pub outlier_ratio: usize,
    /// Outliers that are made of the train images (pseudo-anomalies), for losses with a term of their masks.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// The optimiser.
    #[garde(dive)]
    pub optimizer: Rules,
    /// The learning rate of the trunk before the schedule, which it follows in proportion: of all parameters but those that the model has of
    /// its own beside its backbone (`fusion`). Default: the optimiser's `lr`, as of a parameter group in PyTorch.
    #[garde(range(min = 0.0, max = MOST_LR))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_lr: Option<f64>,
    /// Parameters by name with settings of their own, as parameter groups in PyTorch: each belongs to the first that fits. Ours: none.
    #[garde(dive, length(max = MOST_GROUPS))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Gradients that are too large are made smaller. Ours: not.
    #[garde(dive)]
    #[serde(default)]
    pub clip: Option<Clip>,
    /// The result is a moving average of the weights over the steps. Ours: the weights themselves.
    #[garde(dive)]
    #[serde(default)]
    pub ema: Option<Ema>,
    /// Slow weights follow the fast ones, which go on from them every few steps. Ours: not.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookahead: Option<lookahead::Settings>,
    /// Every class is a task of its own, in rounds: what is learned are first weights that adapt to a task in few steps. Ours: not.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reptile: Option<reptile::Settings>,
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
    /// The trunk's learning rate over the optimiser's, if it has one of its own.
    pub fn trunk_rate(&self) -> Option<f64> {
        self.trunk_lr.map(|lr| lr / self.optimizer.lr())
    }

    /// Whether `outlier_ratio` is another than the default.
    pub fn asks_for_outliers(&self) -> bool {
        !is_default_outlier_ratio(&self.outlier_ratio)
    }
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
