//! NECO: when a network's training has collapsed, features of known images lie along few directions, and others hardly do.
//!
//! score = −m · ‖P·z‖₂ / ‖z‖₂ for the penultimate features z, each less its mean and divided by its deviation over the train images,
//! and the largest logit m. P projects on the eigenvectors of the largest eigenvalues of Σ_i z_i·z_iᵀ of the train images.
//!
//! - Paper: Ben Ammar et al., *NECO: NEural Collapse Based Out-of-distribution detection*, ICLR 2024, eq. 6,
//!   <https://arxiv.org/abs/2310.06823>.
//! - Reference code: <https://gitlab.com/drti/neco> (sklearn's `StandardScaler` and `PCA`), which leaves m out for ResNets; pytorch-ood
//!   and OpenOOD v1.5 do not have it.
//! - Deviations: features are always standardised; for DeiT and Swin the reference divides by the norm of features that are not. Directions
//!   in which the train images' features do not vary are not among those of P, however many are asked for: the reference's are arbitrary.
//!   Features equal to the mean have the score 0, where the reference has NaN.

use candle_core::Tensor;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Peak, Scorer, Scores, Smoke, finite, map_rows, mean_row, same,
};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, dot, project},
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;
/// Directions that count, unless they are more than half of the features.
const DIRECTIONS: usize = 100;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Neco")]
pub struct Config {
    /// Directions that count; no more than there are features. 100, or half of the features if that is less, unless given: ours. The
    /// reference has no default, and calls it the simplex's approximate dimension in the case that is tested.
    #[garde(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension: Option<usize>,
    /// Whether the share is multiplied by the largest logit. The reference does so unless the network is a ResNet.
    #[garde(skip)]
    pub max_logit: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { dimension: None, max_logit: true }
    }
}

impl Config {
    /// How many of the features' directions count.
    ///
    /// # Errors
    /// [`Error::Input`] if there are not so many, or if all count and nothing else does.
    pub fn directions(&self, features: usize) -> Result<usize> {
        let dimension = self.dimension.unwrap_or(DIRECTIONS.min(features / 2));
        if !(1..=features).contains(&dimension) {
            return Err(Error::input(format!("dimension is {dimension}, and there are {features} features")));
        }
        if dimension == features && !self.max_logit {
            let message = format!("dimension is {dimension}, all features: without max_logit every score is -1");
            return Err(Error::input(message).hint("give it a smaller dimension"));
        }
        Ok(dimension)
    }
}

/// The directions in which standardised features vary most.
#[derive(Debug, Clone)]
pub struct Subspace {
    mean: Vec<f64>,
    /// 1 for a feature that does not vary, as in sklearn.
    deviation: Vec<f64>,
    /// Row after row, no more than the rank.
    directions: Vec<f64>,
}

impl Subspace {
    /// Of the train images' (N, D) features; at most `dimension` directions.
    ///
    /// # Errors
    /// If there are none, one is NaN or infinite, or none varies.
    pub fn fit(features: &Tensor, dimension: usize) -> Result<Self> {
        let values = finite(features)?;
        let size = features.dim(1)?;
        let mean = mean_row(&values, size);
        let mut squares = vec![0.0; size];
        for row in values.chunks_exact(size) {
            let away = row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean);
            squares.iter_mut().zip(away).for_each(|(sum, away)| *sum += away * away);
        }
        let images = (values.len() / size) as f64;
        let deviation = |square: f64| if square > 0.0 { (square / images).sqrt() } else { 1.0 };
        let deviation = squares.into_iter().map(deviation).collect();
        let mut fitted = Self { mean, deviation, directions: Vec::new() };
        let mut moments = vec![0.0; size * size];
        for block in values.chunks(BLOCK * size) {
            add_gram(&mut moments, &fitted.standardised(block), size);
        }
        let eigen = Eigen::new(moments, size)
            .ok_or_else(|| Error::Failed("the features' second moments have no finite eigenvalues".into()))?;
        let count = dimension.min(eigen.rank());
        if count == 0 {
            return Err(Error::Failed("no feature varies among the train images".into()));
        }
        fitted.directions = eigen.vectors[..count * size].to_vec();
        Ok(fitted)
    }

    /// ‖P·z‖ / ‖z‖ in 0..1 of each row z of (N, D) features once they are standardised; 0 of features equal to the mean.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn shares(&self, features: &Tensor) -> Result<Vec<f64>> {
        let values = finite(features)?;
        let size = self.mean.len();
        same("features", features.dim(1)?, size)?;
        let norm = |row: &[f64]| dot(row, row).sqrt();
        let share = |(along, whole): (f64, f64)| if whole > 0.0 { along / whole } else { 0.0 };
        let mut shares = Vec::with_capacity(values.len() / size);
        for block in values.chunks(BLOCK * size) {
            let rows = self.standardised(block);
            let along = project(&rows, &self.directions, size);
            let along = along.chunks_exact(self.count()).map(norm);
            shares.extend(along.zip(rows.chunks_exact(size).map(norm)).map(share));
        }
        Ok(shares)
    }

    /// How many directions count.
    fn count(&self) -> usize {
        self.directions.len() / self.mean.len()
    }

    fn standardised(&self, rows: &[f32]) -> Vec<f64> {
        let mut values = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(self.mean.len()) {
            let row = row.iter().zip(self.mean.iter().zip(&self.deviation));
            values.extend(row.map(|(x, (mean, deviation))| (f64::from(*x) - mean) / deviation));
        }
        values
    }
}

struct Fitted {
    subspace: Subspace,
    max_logit: bool,
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        if self.max_logit { &[Output::RawLogits, Output::Features] } else { &[Output::Features] }
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        let subspace = Subspace::fit(features, self.directions(features.dim(1)?)?)?;
        Ok(Box::new(Fitted { subspace, max_logit: self.max_logit }))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.directions(about.shown.features()?.dim(1)?).map(|_| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_directions(&mut self.dimension);
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let mut scores = self.subspace.shares(&bank.features)?;
        if self.max_logit {
            let largest = map_rows(&bank.logits, |row| Peak::of(row).max)?;
            same("rows of logits", largest.len(), scores.len())?;
            scores.iter_mut().zip(largest).for_each(|(share, largest)| *share *= largest);
        }
        Scores::new(scores.into_iter().map(|score| -score as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "features": self.subspace.mean.len(), "dimension": self.subspace.count() }))
    }
}
