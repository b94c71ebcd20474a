//! The head of DUQ: a centroid for each class, and kernels that tell how far from it an image's features are.
//!
//! K_c = exp( −mean_d (W_c f − e_c)_d² / (2 s²) ) with centroids e_c = m_c / N_c, which follow the features of their class as a
//! moving average. The logits are ln K_c, which orders images far from all centroids, where K_c is 0 in f32.
//!
//! - Paper: van Amersfoort et al., *Uncertainty Estimation Using a Single Deep Deterministic Neural Network*, ICML 2020,
//!   <https://arxiv.org/abs/2003.02037>, eq. 1 and 4.
//! - Reference code: `y0ast/deterministic-uncertainty-quantification`, `utils/resnet_duq.py` and `utils/cnn_duq.py`, whose
//!   parameter names these are.
//! - Deviations: none. Where the two files differ, in how things start, it is as in the first one.

use candle_core::{Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Pass,
        backbone::LastLayerOf,
        heads::{Gives, HeadFamily, LastLayer},
    },
    ops::{self, Activation, one_hot},
};

/// Settings of DUQ's head: K_c = exp(−mean_d (W_c f − e_c)² / 2s²).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Duq")]
pub struct Settings {
    /// s: 0.1 in the paper's CIFAR-10 experiments; for its Fashion-MNIST network it was chosen from 0.05 to 1 by accuracy.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub length_scale: f64,
    /// How much of the centroids' moving average a step keeps: 0.999 in the paper.
    #[garde(range(min = 0.0, max = 0.999_999))]
    pub momentum: f64,
    /// Size of a centroid. As many as there are features, as the reference code has it, unless given.
    #[garde(range(min = 1, max = MOST_CENTROID))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centroid: Option<usize>,
}

/// Ours: more than any network has features.
const MOST_CENTROID: usize = 65_536;

impl Default for Settings {
    fn default() -> Self {
        Self { length_scale: 0.1, momentum: 0.999, centroid: None }
    }
}

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::Kernels;

    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        let sizes = [own.features, classes];
        Ok(Box::new(Duq::new(self, sizes, vb)?))
    }
}

/// `W` (D, C, F) for D the centroids' size, C classes and F features; buffers `m` (D, C) and `N` (C).
#[derive(Debug, Clone)]
pub struct Duq {
    name: String,
    weight: Tensor,
    sums: Var,
    counts: Var,
    length_scale: f64,
    momentum: f64,
}

/// N at first.
const FIRST_COUNT: f64 = 13.0;
/// Deviation of the centroids at first.
const FIRST_CENTROIDS: f64 = 0.05;

impl LastLayer for Duq {
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        Ok((self.forward(&features, pass)?, features))
    }

    fn after_step(&self, labels: &Tensor, features: &dyn Fn() -> Result<Tensor>) -> Result<()> {
        self.update(&features()?, labels)
    }
}

impl Duq {
    /// From `features` to `classes`.
    pub fn new(settings: &Settings, [features, classes]: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        let size = settings.centroid.unwrap_or(features);
        // PyTorch's `kaiming_normal_` counts C·F inputs of a tensor (D, C, F).
        let weight = Init::Randn { mean: 0.0, stdev: (2.0 / (classes * features) as f64).sqrt() };
        let centroids = Init::Randn { mean: 0.0, stdev: FIRST_CENTROIDS * FIRST_COUNT };
        Ok(Self {
            name: vb.prefix(),
            weight: vb.get_with_hints((size, classes, features), "W", weight)?,
            sums: Var::from_tensor(&vb.get_with_hints((size, classes), "m", centroids)?)?,
            counts: Var::from_tensor(&vb.get_with_hints(classes, "N", Init::Const(FIRST_COUNT))?)?,
            length_scale: settings.length_scale,
            momentum: settings.momentum,
        })
    }

    /// (N, F) features to logits (N, C): ln K.
    pub fn forward(&self, features: &Tensor, pass: &Pass) -> Result<Tensor> {
        let centroids = self.sums.as_detached_tensor().broadcast_div(&self.counts.as_detached_tensor())?;
        let distances = ops::squared_distances(&self.embed(features, pass)?, &centroids)?;
        let logits = (distances * (-0.5 / (self.length_scale * self.length_scale)))?;
        pass.note(&self.name, &logits, Activation::Identity)?;
        Ok(logits)
    }

    /// Moves the centroids towards the (N, F) features of images of these (N) u32 classes.
    pub fn update(&self, features: &Tensor, labels: &Tensor) -> Result<()> {
        let members = one_hot(labels, self.counts.dim(0)?)?.to_dtype(features.dtype())?;
        // The sum of W_c f over the images of class c is W_c applied to the sum of f.
        let features = members.t()?.matmul(&features.detach())?;
        let by_class = self.weight.detach().transpose(0, 1)?.contiguous()?;
        let sums = by_class.matmul(&features.unsqueeze(2)?)?.squeeze(2)?.t()?;
        for (average, new) in [(&self.sums, sums), (&self.counts, members.sum(0)?)] {
            average.set(&((average.as_detached_tensor() * self.momentum)? + (new * (1.0 - self.momentum))?)?)?;
        }
        Ok(())
    }

    /// W_c f, (N, D, C).
    fn embed(&self, features: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (size, classes, inputs) = self.weight.dims3()?;
        let weight = pass.seen(&self.weight).reshape((size * classes, inputs))?;
        let bias = Tensor::zeros(size * classes, weight.dtype(), weight.device())?;
        ops::linear(features, &weight, &bias)?.reshape((features.dim(0)?, size, classes))
    }
}
