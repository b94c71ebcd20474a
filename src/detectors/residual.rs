//! The residual: how far features lie off the directions in which the train images' vary most.
//!
//! score = ‖P·(z − u)‖₂ for the penultimate features z. The origin u = −W⁺·b is where all logits W·z + b vanish as far as they
//! can; P projects on all eigenvectors of Σ_i (z_i − u)·(z_i − u)ᵀ of the train images but those of the largest eigenvalues.
//!
//! - Paper: Wang et al., *ViM: Out-Of-Distribution with Virtual-logit Matching*, CVPR 2022, section 4.1,
//!   <https://arxiv.org/abs/2203.10807>.
//! - Reference code: `haoqiwang/vim`; OpenOOD `residual_postprocessor.py`, which learns from the validation images; its 512 of
//!   512 dimensions leave nothing, and all its scores are 0.
//! - Deviations: learns from the train images, as ViM. As many dimensions as there are features are refused.

use candle_core::Tensor;

use super::{Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, Smoke, centred, finite, numbers, same};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, dot, project},
    nn::Head,
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Residual")]
pub struct Config {
    /// Directions that do not count; fewer than there are features. Half of the features unless given: 256 of 512 in OpenOOD's
    /// ViM; the paper has 512 of 768 and 1000 of 2048.
    #[garde(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
}

impl Config {
    /// Refuses directions that leave nothing of so many features.
    ///
    /// # Errors
    /// [`Error::Input`] with both numbers.
    pub fn check(&self, features: usize) -> Result<()> {
        without(self.dimension, features).map(drop)
    }
}

/// How many of the features' directions do not count.
///
/// # Errors
/// [`Error::Input`] if none is left.
pub(super) fn without(dimension: Option<usize>, features: usize) -> Result<usize> {
    let dimension = dimension.unwrap_or(features / 2);
    match dimension < features && features >= 2 {
        true => Ok(dimension),
        false => Err(Error::input(format!("{dimension} of {features} features' directions leave no residual"))),
    }
}

/// The directions that count, and from where.
#[derive(Debug, Clone)]
pub struct Residual {
    size: usize,
    origin: Vec<f64>,
    directions: Vec<f64>,
}

impl Residual {
    /// Of the train images' (N, D) features; `dimension` as [`Config::dimension`].
    ///
    /// # Errors
    /// If there are none, one is NaN or infinite, the head has other sizes, or `dimension` is not in 1..D.
    pub fn fit(head: &Head, features: &Tensor, dimension: Option<usize>) -> Result<Self> {
        let values = finite(features)?;
        let size = features.dim(1)?;
        let dimension = without(dimension, size)?;
        let origin = origin(head, size)?;
        let mut moments = vec![0.0; size * size];
        for block in values.chunks(BLOCK * size) {
            add_gram(&mut moments, &centred(block.chunks_exact(size), &origin), size);
        }
        let eigen = Eigen::new(moments, size)
            .ok_or_else(|| Error::Failed("the features' second moments have no finite eigenvalues".into()))?;
        Ok(Self { size, origin, directions: eigen.vectors[dimension * size..].to_vec() })
    }

    /// ‖P·(z − u)‖ and ‖z − u‖ of each row z of (N, D) features.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn norms(&self, features: &Tensor) -> Result<Vec<(f64, f64)>> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        let norm = |row: &[f64]| dot(row, row).sqrt();
        let mut norms = Vec::with_capacity(values.len() / self.size);
        for block in values.chunks(BLOCK * self.size) {
            let rows = centred(block.chunks_exact(self.size), &self.origin);
            let residuals = project(&rows, &self.directions, self.size);
            let residuals = residuals.chunks_exact(self.directions.len() / self.size).map(norm);
            norms.extend(residuals.zip(rows.chunks_exact(self.size).map(norm)));
        }
        Ok(norms)
    }
}

/// −W⁺·b = −Wᵀ·(W·Wᵀ)⁺·b
fn origin(head: &Head, size: usize) -> Result<Vec<f64>> {
    let (classes, inputs) = head.weight.dims2()?;
    same("inputs of the last layer", inputs, size)?;
    let (weight, bias) = (numbers(&head.weight)?, numbers(&head.bias)?);
    let eigen = Eigen::new(project(&weight, &weight, size), classes)
        .ok_or_else(|| Error::Failed("the last layer's weights are not finite".into()))?;
    let mut coefficients = vec![0.0; classes];
    for (vector, value) in eigen.vectors.chunks_exact(classes).zip(&eigen.values).take(eigen.rank()) {
        let along = vector.iter().zip(&bias).map(|(v, b)| v * b).sum::<f64>() / value;
        coefficients.iter_mut().zip(vector).for_each(|(coefficient, v)| *coefficient += along * v);
    }
    let mut origin = vec![0.0; size];
    for (row, coefficient) in weight.chunks_exact(size).zip(&coefficients) {
        origin.iter_mut().zip(row).for_each(|(origin, weight)| *origin -= coefficient * weight);
    }
    match origin.iter().all(|x| x.is_finite()) {
        true => Ok(origin),
        false => Err(Error::Failed("the last layer's biases are not finite".into())),
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Residual::fit(fit.head()?, &fit.train()?.features, self.dimension)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.shown.features()?.dim(1)?).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_directions(&mut self.dimension);
    }
}

impl Scorer for Residual {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.norms(&bank.features)?.into_iter().map(|(residual, _)| residual as f32).collect())
    }
}
