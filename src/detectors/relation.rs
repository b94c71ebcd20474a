//! Relation: an image of a known class is related to many train images, by its features and by what the network takes it for.
//!
//! score = −Σ_i r_iᵖ over the train images i with r_i > threshold, where r_i = max(cos(z, z_i), 0)·softmax(f)·softmax(f_i).
//!
//! - Paper: Kim et al., *Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data*, NeurIPS 2023,
//!   <https://arxiv.org/abs/2301.12321>.
//! - Reference code: `snu-mllab/Neural-Relation-Graph`; OpenOOD `relation_postprocessor.py`.
//! - Deviations: features of zeros are related to nothing, as there but for a 1e-10. Relations are computed in f32 and summed in f64.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Bank, Detector, Fit, Need, Scorer, Scores, knn::unit, log_softmax, map_rows, same, similarity::Products};
use crate::Result;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Relation")]
pub struct Config {
    /// p: 1 in OpenOOD, which searches 1, 2, 4, 6 and 8.
    #[garde(range(min = 1, max = 64))]
    pub power: i32,
    /// Relations up to this do not count: 0.03 in the reference code and in OpenOOD.
    #[garde(range(min = 0.0, max = 1.0))]
    pub threshold: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { power: 1, threshold: 0.03 }
    }
}

struct Fitted {
    config: Config,
    /// Train images, features, classes.
    sizes: [usize; 3],
    features: Products,
    probabilities: Products,
}

fn probabilities(logits: &Tensor) -> Result<Vec<f32>> {
    let rows =
        map_rows(logits, |row| log_softmax(row).into_iter().map(|log_p| log_p.exp() as f32).collect::<Vec<_>>())?;
    Ok(rows.concat())
}

impl Fitted {
    fn new(config: &Config, train: &Bank) -> Result<Self> {
        let (features, probabilities) = (unit(&train.features)?, probabilities(&train.logits)?);
        let sizes = [train.logits.dim(0)?, train.features.dim(1)?, train.logits.dim(1)?];
        same("rows of features", train.features.dim(0)?, sizes[0])?;
        let features = Products::new(&features, sizes[1])?;
        let probabilities = Products::new(&probabilities, sizes[2])?;
        Ok(Self { config: config.clone(), sizes, features, probabilities })
    }

    fn scores(&self, logits: &Tensor, features: &Tensor) -> Result<Vec<f32>> {
        let [images, columns, classes] = self.sizes;
        same("features", features.dim(1)?, columns)?;
        same("logits", logits.dim(1)?, classes)?;
        let (features, probabilities) = (unit(features)?, probabilities(logits)?);
        same("rows of features", features.len() / columns, probabilities.len() / classes)?;
        let mut scores = Vec::with_capacity(features.len() / columns);
        let together = self.features.together();
        for (features, probabilities) in
            features.chunks(together * columns).zip(probabilities.chunks(together * classes))
        {
            let (cosines, agreements) = (self.features.of(features)?, self.probabilities.of(probabilities)?);
            let rows = cosines.par_chunks_exact(images).zip(agreements.par_chunks_exact(images));
            scores.par_extend(rows.map(|(cosines, agreements)| {
                let related = cosines.iter().zip(agreements).map(|(a, b)| f64::from(a.max(0.0)) * f64::from(*b));
                let counted = related.filter(|relation| *relation > self.config.threshold);
                -counted.map(|relation| relation.powi(self.config.power)).sum::<f64>() as f32
            }));
        }
        Ok(scores)
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Logits, Need::Features, Need::Train]
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(self, fit.train()?)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.scores(&bank.logits, &bank.features)?)
    }
}
