//! VRA: variational rectified activation. Features that are unusually large are clipped, and so are unusually small ones.
//!
//! score = −logsumexp(W · r(z) + b) for the features z and the last layer W, b, where r(z) is z between the percentiles α and β of
//! all features of all train images, β above β, and α (`below: clip`) or 0 (`below: zero`) below α.
//!
//! - Paper: Xu, Lian, Liu, Tao, *VRA: Variational Rectified Activation for Out-of-distribution Detection*, NeurIPS 2023,
//!   <https://arxiv.org/abs/2302.11716>; its VRA-P sets what is below α to 0.
//! - Reference code: OpenOOD `vra_postprocessor.py`, which clips to α instead, and is the default here. pytorch-ood's `VRA` has an α
//!   and a β for each feature.
//! - Deviation: α and β are taken of the train images, not of OpenOOD's separate validation images.
//! - Features may be negative, and so may α be: then `below: zero` raises what is below α.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Need, Scorer, Scores,
    shaping::{energies, percentile},
};
use crate::{Result, nn::Head};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Vra")]
pub struct Config {
    /// The percentile α, at most `high`: 10 in OpenOOD, which searches 1 to 15.
    #[garde(range(min = 0.0, max = 100.0), custom(at_most(&self.high)))]
    pub low: f64,
    /// The percentile β: 90 in OpenOOD, which searches 85 to 99.
    #[garde(range(min = 0.0, max = 100.0))]
    pub high: f64,
    /// What becomes of features below α: `clip` in OpenOOD, `zero` in the paper.
    #[garde(skip)]
    pub below: Below,
}

impl Default for Config {
    fn default() -> Self {
        Self { low: 10.0, high: 90.0, below: Below::Clip }
    }
}

fn at_most(high: &f64) -> impl FnOnce(&f64, &()) -> garde::Result {
    let high = *high;
    move |low, ()| match *low <= high {
        true => Ok(()),
        false => Err(garde::Error::new(format!("greater than `high`, {high}"))),
    }
}

/// What becomes of small features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Below {
    /// α.
    Clip,
    /// 0.
    Zero,
}

/// The energy of each row of (N, D) `features` after what is above `high` is set to it, and what is below `low` to it or 0;
/// `low` ≤ `high`.
///
/// # Errors
/// As [`energies`].
pub fn vra(features: &Tensor, head: &Head, [low, high]: [f64; 2], below: Below) -> Result<Vec<f32>> {
    let floor = match below {
        Below::Clip => low,
        Below::Zero => 0.0,
    };
    energies(features, head, |row| row.iter_mut().for_each(|z| *z = if *z < low { floor } else { z.min(high) }))
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Features, Need::Head, Need::Train]
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        let between = [percentile(features, self.low)?, percentile(features, self.high)?];
        Ok(Box::new(Fitted { head: fit.head()?.clone(), between, below: self.below }))
    }
}

/// The last layer, and between which values features stay as they are.
struct Fitted {
    head: Head,
    between: [f64; 2],
    below: Below,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(vra(&bank.features, &self.head, self.between, self.below)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "low": self.between[0], "high": self.between[1] }))
    }
}
