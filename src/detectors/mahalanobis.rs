//! The Mahalanobis distance to the nearest class.
//!
//! score = min_c (z − μ_c)ᵀ·Σ⁺·(z − μ_c) for the penultimate features z, with the train images' class means μ_c and the
//! covariance Σ = 1/N·Σ_i (z_i − μ_{y_i})·(z_i − μ_{y_i})ᵀ that all classes share.
//!
//! - Paper: Lee et al., *A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks*, NeurIPS
//!   2018, eq. 1 and 2, <https://arxiv.org/abs/1807.03888>.
//! - Reference code: OpenOOD `mds_postprocessor.py`, energy_ood `utils/lib_extraction.py` (both with sklearn's
//!   `EmpiricalCovariance`, whose precision is a pseudo-inverse); pytorch-ood `Mahalanobis`, whose scores are these times 1/(2N).
//! - Deviations: no input noise and no other layers, as in OpenOOD v1.5.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Bank, Detector, Fit, Need, Scorer, Scores, centred, finite, same};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, project},
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// The Mahalanobis distance has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Mahalanobis")]
pub struct Config {}

/// Class means and what makes the shared covariance the identity.
#[derive(Debug, Clone)]
pub struct Distances {
    size: usize,
    /// The mean of the class means: features are taken relative to it.
    origin: Vec<f64>,
    /// v / √λ for each eigenvector of the covariance whose λ is not 0 up to rounding.
    directions: Vec<f64>,
    /// The class means along the directions.
    means: Vec<Vec<f64>>,
}

impl Distances {
    /// Of (N, D) features and the classes of the N images.
    ///
    /// # Errors
    /// If there are none, one is NaN or infinite, or nothing varies within a class.
    pub fn fit(features: &Tensor, labels: &[u32]) -> Result<Self> {
        let values = finite(features)?;
        let (images, size) = features.dims2()?;
        same("labels", labels.len(), images)?;
        let mut sums: BTreeMap<u32, (usize, Vec<f64>)> = BTreeMap::new();
        for (row, label) in values.chunks_exact(size).zip(labels) {
            let (count, sum) = sums.entry(*label).or_insert_with(|| (0, vec![0.0; size]));
            *count += 1;
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (count, sum) in sums.values_mut() {
            sum.iter_mut().for_each(|sum| *sum /= *count as f64);
        }
        let mut covariance = vec![0.0; size * size];
        for (block, labels) in values.chunks(BLOCK * size).zip(labels.chunks(BLOCK)) {
            let rows = block.chunks_exact(size).zip(labels);
            let centred =
                rows.flat_map(|(row, label)| row.iter().zip(&sums[label].1).map(|(x, mean)| f64::from(*x) - mean));
            add_gram(&mut covariance, &centred.collect::<Vec<_>>(), size);
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
        Ok(Self { size, origin, directions, means })
    }

    /// The squared distance of each row of (N, D) features to the nearest class mean.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn nearest(&self, features: &Tensor) -> Result<Vec<f64>> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        let mut distances = Vec::with_capacity(values.len() / self.size);
        for block in values.chunks(BLOCK * self.size) {
            let rows = centred(block.chunks_exact(self.size), &self.origin);
            let whitened = project(&rows, &self.directions, self.size);
            distances.extend(whitened.chunks_exact(self.rank()).map(|row| {
                let square = |mean: &Vec<f64>| row.iter().zip(mean).map(|(x, mean)| (x - mean).powi(2)).sum::<f64>();
                self.means.iter().map(square).fold(f64::INFINITY, f64::min)
            }));
        }
        Ok(distances)
    }

    /// The rank of the covariance.
    pub fn rank(&self) -> usize {
        self.directions.len() / self.size
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Features, Need::Train, Need::TrainLabels]
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        Ok(Box::new(Distances::fit(&train.features, labels)?))
    }
}

impl Scorer for Distances {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.nearest(&bank.features)?.into_iter().map(|distance| distance as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "features": self.size, "rank": self.rank() }))
    }
}
