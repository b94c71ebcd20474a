//! SNGP's last layer: a Gaussian process over the features of the network, by random Fourier features.
//!
//! φ(h) = cos(W·LayerNorm(h) + b), logits = β·φ/s. W and b are drawn once and stay; β and the layer normalisation are learned. With
//! the rows of W normal of deviation 1/ℓ and b uniform in 0..2π, φ(h)·φ(h') tends to D/2 times the Gaussian kernel of length
//! scale ℓ (Rahimi & Recht 2007). The rows are orthogonal in blocks, with norms as they have when they are independent (Yu et
//! al. 2016). Wide features are first brought to fewer dimensions by a fixed random projection.
//!
//! - Paper: Liu et al., NeurIPS 2020, <https://arxiv.org/abs/2006.10108>.
//! - Reference code: `google/uncertainty-baselines` `baselines/cifar/sngp.py`; `google/edward2` `random_feature.py`;
//!   `y0ast/DUE` `due/sngp.py`.
//! - Deviation: the covariance is not gathered here, while the network still learns; the detector
//!   [`sngp`](crate::detectors::sngp) does that afterwards.

use std::f64::consts::TAU;

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Pass,
        backbone::LastLayerOf,
        heads::{Gives, HeadFamily, LastLayer},
        layers::within,
    },
    ops::{self, Activation},
};

/// Settings of SNGP's head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Sngp")]
pub struct Settings {
    /// Random Fourier features: 1024 in `google/uncertainty-baselines`, `baselines/cifar/sngp.py`, and in DUE.
    #[garde(range(min = 1, max = 65_536))]
    pub features: usize,
    /// Dimensions of a fixed random projection before them: 128 in uncertainty-baselines, for the 640 features of WRN-28-10.
    /// Default: no projection.
    #[garde(range(min = 1, max = 65_536))]
    pub reduction: Option<usize>,
    /// Length scale of the Gaussian kernel on features after layer normalisation, at which two images have a distance of up to
    /// 2√D. 20 in uncertainty-baselines (its random weights have deviation 0.05); 1 in DUE.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub length_scale: f64,
    /// What the features are divided by before the output layer; the posterior is that of the undivided ones. Ours: with 1, as in
    /// uncertainty-baselines, or 2, as in DUE, steps at the learning rates of linear heads are too long.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub feature_scale: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { features: 1024, reduction: None, length_scale: 20.0, feature_scale: 4.0 }
    }
}

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::Logits;

    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        let sizes = [own.features, classes];
        Ok(Box::new(Sngp::new(self, sizes, vb)?))
    }
}

/// PyTorch's ε of a layer normalisation.
const EPSILON: f64 = 1e-5;
/// Deviation of the projection's weights, in uncertainty-baselines; the layer normalisation takes the scale off again.
const PROJECTION: f64 = 0.05;

/// The layer. It calculates in f32 whatever the precision of the others: the features are angles.
#[derive(Debug, Clone)]
pub struct Sngp {
    name: String,
    /// (reduction, features)
    projection: Option<Tensor>,
    /// Of the layer normalisation.
    weight: Tensor,
    bias: Tensor,
    /// W (D, reduction or features) and b (D).
    random_weight: Tensor,
    random_phase: Tensor,
    /// β (classes, D)
    beta: Tensor,
    /// s
    feature_scale: f64,
}

impl LastLayer for Sngp {
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        self.forward(&features, pass)
    }
}

impl Sngp {
    /// From `features` to `classes`; β starts as a linear layer of PyTorch's.
    pub fn new(settings: &Settings, [features, classes]: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        let projection = settings.reduction.map(|reduction| {
            let init = Init::Randn { mean: 0.0, stdev: PROJECTION };
            vb.get_with_hints((reduction, features), "random_projection", init)
        });
        let (inputs, count) = (settings.reduction.unwrap_or(features), settings.features);
        let drawn = !vb.contains_tensor("random_weight");
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let random_weight = vb.get_with_hints((count, inputs), "random_weight", normal)?;
        if drawn {
            let rows = random_weight.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            let rows = Tensor::from_vec(orthogonal_in_blocks(rows, inputs), (count, inputs), vb.device())?;
            let rows = (rows / settings.length_scale)?.to_dtype(random_weight.dtype())?;
            Var::from_tensor(&random_weight)?.set(&rows)?;
        }
        Ok(Self {
            name: vb.prefix(),
            projection: projection.transpose()?,
            weight: vb.get_with_hints(inputs, "norm.weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(inputs, "norm.bias", Init::Const(0.0))?,
            random_weight,
            random_phase: vb.get_with_hints(count, "random_phase", Init::Uniform { lo: 0.0, up: TAU })?,
            feature_scale: settings.feature_scale,
            beta: vb.get_with_hints((classes, count), "beta", within(count))?,
        })
    }

    /// (N, features) to logits (N, classes) and φ (N, D).
    pub fn forward(&self, features: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let projected = match &self.projection {
            Some(projection) => features.matmul(&projection.detach().t()?)?,
            None => features.clone(),
        };
        let (weight, bias) = (pass.seen(&self.weight), pass.seen(&self.bias));
        let normalised = ops::group_norm(&projected, &weight, &bias, 1, EPSILON, false)?;
        let phi = ops::linear(&normalised, &self.random_weight.detach(), &self.random_phase.detach())?.cos()?;
        let beta = (pass.seen(&self.beta) / self.feature_scale)?;
        let logits = phi.matmul(&beta.t()?)?;
        pass.note(&self.name, &logits, Activation::Identity)?;
        Ok((logits, phi))
    }
}

/// The Gram-Schmidt process over each `inputs` rows of `inputs` elements in turn, every row keeping its norm.
///
/// Directions of independent normal rows are independent of their norms, so that a row's result has the distribution that it
/// had alone.
fn orthogonal_in_blocks(mut rows: Vec<f64>, inputs: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for block in rows.chunks_mut(inputs * inputs) {
        let mut norms = Vec::with_capacity(inputs);
        for index in 0..block.len() / inputs {
            let (before, row) = block.split_at_mut(index * inputs);
            let row = &mut row[..inputs];
            norms.push(dot(row, row).sqrt());
            for unit in before.chunks_exact(inputs) {
                let along = dot(row, unit);
                row.iter_mut().zip(unit).for_each(|(x, unit)| *x -= along * unit);
            }
            let left = dot(row, row).sqrt();
            row.iter_mut().for_each(|x| *x /= left);
        }
        for (row, norm) in block.chunks_exact_mut(inputs).zip(norms) {
            row.iter_mut().for_each(|x| *x *= norm);
        }
    }
    rows
}
