//! NNGuide: the energy, guided by how much an image resembles train images that the network is sure of.
//!
//! score = −S·G with S = ln Σ_c exp f_c and G the mean of the k largest of S_i·cos(z, z_i) over the train images i, whose energies are
//! −S_i and features z_i.
//!
//! - Paper: Park et al., *Nearest Neighbor Guidance for Out-of-Distribution Detection*, ICCV 2023, eq. 5 to 7,
//!   <https://arxiv.org/abs/2309.14888>.
//! - Reference code: `roomo7time/nnguide`; OpenOOD `nnguide_postprocessor.py`; pytorch-ood `NNGuide`.
//! - Deviations: features of zeros resemble nothing, where OpenOOD has NaN. Neighbours and products are computed
//!   in f64. Of a fraction of the train images each is as far from the next in the set's order; OpenOOD takes the
//!   first ones of a shuffled set.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, Smoke,
    knn::{enough, unit},
    same,
    similarity::{Near, Neighbours, log_sums},
};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "NnGuide")]
pub struct Config {
    /// k: 10 in pytorch-ood with all train images; 100 in OpenOOD with a hundredth of them.
    #[garde(range(min = 1, max = 1_000_000))]
    pub k: usize,
    /// The share of the train images to compare with: all in pytorch-ood, 0.01 in OpenOOD (the paper's for ImageNet).
    #[garde(range(min = 1e-6, max = 1.0))]
    pub fraction: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { k: 10, fraction: 1.0 }
    }
}

impl Config {
    /// Refuses more neighbours than there are in this share of so many train images.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) with both numbers.
    pub fn check(&self, images: usize) -> Result<()> {
        enough(self.k, self.compared(images))
    }

    /// How many of so many train images to compare with.
    fn compared(&self, images: usize) -> usize {
        (images as f64 * self.fraction).ceil() as usize
    }
}

struct Fitted {
    k: usize,
    /// S_i·z_i / ‖z_i‖
    train: Neighbours,
}

impl Fitted {
    fn new(config: &Config, train: &Bank, device: Option<&Device>) -> Result<Self> {
        let (values, sums) = (unit(&train.features)?, log_sums(&train.logits)?);
        let columns = train.features.dim(1)?;
        same("rows of logits", sums.len(), values.len() / columns)?;
        config.check(sums.len())?;
        let count = config.compared(sums.len());
        let images = (0..count).into_par_iter().map(|index| index * sums.len() / count);
        let mut train = vec![0.0; count * columns];
        train.par_chunks_exact_mut(columns).zip(images).for_each(|(row, image)| {
            let unit = &values[image * columns..][..columns];
            row.iter_mut().zip(unit).for_each(|(value, x)| *value = (f64::from(*x) * sums[image]) as f32);
        });
        Ok(Self { k: config.k, train: Neighbours::by_product(train, columns)?.on(device) })
    }

    fn scores(&self, logits: &Tensor, features: &Tensor) -> Result<Vec<f32>> {
        let (values, sums) = (unit(features)?, log_sums(logits)?);
        same("features", features.dim(1)?, self.train.columns())?;
        same("rows of features", features.dim(0)?, sums.len())?;
        let closest = self.train.closest(&values, self.k)?;
        let guidance = |closest: &Vec<Near>| closest.iter().map(|near| near.closeness).sum::<f64>() / self.k as f64;
        Ok(closest.iter().zip(sums).map(|(closest, sum)| (-guidance(closest) * sum) as f32).collect())
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(self, fit.train()?, fit.device)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.most()).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("fraction", &mut self.fraction, 1.0);
        smoke.few_neighbours(&mut self.k);
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.scores(&bank.logits, &bank.features)?)
    }
}
