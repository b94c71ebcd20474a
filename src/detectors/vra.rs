//! VRA: variational rectified activation. Features that are unusually large are clipped, and unusually small ones suppressed.
//!
//! score = −logsumexp(W · r(z) + b) for the features z and the last layer W, b, where r(z) is z between two percentiles α and β of the
//! train images' features, β above β, and 0 (`below: zero`) or α (`below: clip`) below α.
//!
//! - Paper: Xu, Lian, Liu, Tao, *VRA: Variational Rectified Activation for Out-of-distribution Detection*, NeurIPS 2023,
//!   <https://arxiv.org/abs/2302.11716>.
//! - Reference code: `zeroQiaoba/VRA`: `{ low: 60, high: 90, below: zero, thresholds: each }` for CIFAR-10 (high 95 for CIFAR-100).
//!   OpenOOD `vra_postprocessor.py`, whose clipping at both ends is the default here. pytorch-ood `VRA` is
//!   `{ low: 1, high: 99, thresholds: each }`.
//! - Deviations: α and β are taken of the train images, as in the reference, not of OpenOOD's separate validation images. VRA+ and
//!   VRA++, which amplify what is between, are not here.
//! - Features may be negative, and so may α be: then `below: zero` raises what is below α.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores,
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
    /// What becomes of features below α: `clip` in OpenOOD, `zero` in the reference.
    #[garde(skip)]
    pub below: Below,
    /// Of what α and β are percentiles: of `all` features together in OpenOOD, of `each` feature by itself in the reference.
    #[garde(skip)]
    pub thresholds: Thresholds,
}

impl Default for Config {
    fn default() -> Self {
        Self { low: 10.0, high: 90.0, below: Below::Clip, thresholds: Thresholds::All }
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

/// Of what the thresholds are percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Thresholds {
    /// Of all features: one α and one β.
    All,
    /// Of each feature: an α and a β each.
    Each,
}

/// The energy of each row of (N, D) `features` after what is above its β is set to it, and what is below its α to it or 0.
/// `between` is α ≤ β of each feature in turn, and again from the first when there are fewer than D.
///
/// # Errors
/// As [`energies`].
pub fn vra(features: &Tensor, head: &Head, between: &[[f64; 2]], below: Below) -> Result<Vec<f32>> {
    energies(features, head, |row| {
        for (z, [low, high]) in row.iter_mut().zip(between.iter().cycle()) {
            *z = match below {
                Below::Zero if *z < *low => 0.0,
                _ => z.max(*low).min(*high),
            };
        }
    })
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        let between = |values: &Tensor| {
            let values = values.contiguous()?;
            Ok([percentile(&values, self.low)?, percentile(&values, self.high)?])
        };
        let between = match self.thresholds {
            Thresholds::All => vec![between(features)?],
            Thresholds::Each => {
                let columns = (0..features.dims2()?.1).map(|column| between(&features.narrow(1, column, 1)?));
                columns.collect::<Result<_>>()?
            }
        };
        Ok(Box::new(Fitted { head: fit.head()?.clone(), between, below: self.below }))
    }
}

/// The last layer, and between which values features stay as they are.
struct Fitted {
    head: Head,
    between: Vec<[f64; 2]>,
    below: Below,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(vra(&bank.features, &self.head, &self.between, self.below)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        match &self.between[..] {
            [[low, high]] => Some(serde_json::json!({ "low": low, "high": high })),
            _ => None,
        }
    }
}
