//! k nearest neighbours: unlike anything learned from is what lies far from the train images' features.
//!
//! score = ‖z − z₍ₖ₎‖₂ with z = f / ‖f‖₂ and z₍ₖ₎ the k-th nearest of the train images' z; 0..2.
//!
//! - Paper: Sun et al., *Out-of-Distribution Detection with Deep Nearest Neighbors*, ICML 2022,
//!   <https://arxiv.org/abs/2204.06507>.
//! - Reference code: `deeplearning-wisc/knn-ood`; OpenOOD `knn_postprocessor.py`, which returns the squared distance (the
//!   same ranking), and pytorch-ood `KNN`, which returns this one.
//! - Deviations: a feature vector of zeros stays as it is, at distance 1 of every other, where the reference has NaN. Distances
//!   are summed in f64, of unit vectors that are rounded to f32 as in the references: a distance is off by 6e-8 or so, which is the
//!   last digit of most, but shows in small ones. Features of mean 1000 and deviation 1 have distances of 1e-3, and these are off by
//!   1.5e-5 of themselves.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, Smoke, finite, same,
    similarity::{Near, Neighbours},
};
use crate::{Error, Result};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Knn")]
pub struct Config {
    /// Which neighbour's distance: 50 in the paper for CIFAR-10 (200 for CIFAR-100, 1000 for ImageNet), and OpenOOD's
    /// default.
    #[garde(range(min = 1, max = 1_000_000))]
    pub k: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { k: 50 }
    }
}

impl Config {
    /// Refuses a neighbour that so many train images do not have.
    ///
    /// # Errors
    /// [`Error::Input`] with both numbers.
    pub fn check(&self, images: usize) -> Result<()> {
        enough(self.k, images)
    }
}

/// Refuses to look for more neighbours than there are, or for none.
pub(super) fn enough(k: usize, images: usize) -> Result<()> {
    match (1..=images).contains(&k) {
        true => Ok(()),
        false => {
            let message = format!("k is {k}, and there are {images} train images to be neighbours");
            Err(Error::input(message).hint(format!("k is 1 to {images} here")))
        }
    }
}

/// The distance of each row of (N, D) `features` to the `k`-th nearest row of (M, D) `train`, both scaled to length 1.
///
/// # Errors
/// If there are fewer than `k` train rows, nothing to score, other sizes, or NaN or infinity among the features.
pub fn knn(train: &Tensor, features: &Tensor, k: usize) -> Result<Vec<f32>> {
    Fitted::new(train, k, None)?.distances(features)
}

/// The rows of (N, D) features, each scaled to length 1.
pub(super) fn unit(features: &Tensor) -> Result<Vec<f32>> {
    let (_, columns) = features.dims2()?;
    let mut values = finite(features)?;
    values.par_chunks_exact_mut(columns).for_each(|row| {
        let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
    });
    Ok(values)
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(&fit.train()?.features, self.k, fit.device)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.most()).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.few_neighbours(&mut self.k);
    }
}

/// The train images' features, and which neighbour to look for.
struct Fitted {
    k: usize,
    train: Neighbours,
}

impl Fitted {
    fn new(train: &Tensor, k: usize, device: Option<&Device>) -> Result<Self> {
        let (rows, columns) = train.dims2()?;
        enough(k, rows)?;
        Ok(Self { k, train: Neighbours::by_distance(unit(train)?, columns)?.on(device) })
    }

    fn distances(&self, features: &Tensor) -> Result<Vec<f32>> {
        same("features", features.dim(1)?, self.train.columns())?;
        let features = unit(features)?;
        let closest = self.train.closest(&features, self.k)?;
        let distance = |(closest, feature): (&Vec<Near>, &[f32])| {
            let neighbour = self.train.row(closest[self.k - 1].row);
            let squares = feature.iter().zip(neighbour).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
            squares.sum::<f64>().sqrt() as f32
        };
        Ok(closest.par_iter().zip(features.par_chunks_exact(self.train.columns())).map(distance).collect())
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.distances(&bank.features)?)
    }
}
