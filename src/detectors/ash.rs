//! ASH: activation shaping. Of each image's features only the largest stay.
//!
//! score = −logsumexp(W · s(z) + b) for the features z and the last layer W, b. s keeps the k = n − round(n·p/100) largest of the n
//! features, sets the others to 0 and
//! - `p` (prune) leaves it at that,
//! - `b` (binarise) sets the kept ones to Σz / k,
//! - `s` (scale) multiplies the kept ones by exp(Σz / Σ of the kept z).
//!
//! - Paper: Djurisic, Bozanic, Ashok, Liu, *Extremely Simple Activation Shaping for Out-of-Distribution Detection*, ICLR 2023,
//!   <https://arxiv.org/abs/2209.09858>.
//! - Reference code: `andrijazz/ash`; OpenOOD `networks/ash_net.py`; pytorch-ood `ASH`, to which this is equal on features that are
//!   not negative. (OpenOOD's own pipelines other than its evaluator forget the wrapper net and score plain energy.)
//! - The layer that is shaped is the pooled features, as in OpenOOD on ResNet-18.
//! - Deviations: at least one feature is kept. Where features are equal, the first are kept; the reference leaves it open.
//! - Features may be negative: largest means largest, not of the largest magnitude. `s` sums the positive features only, so that its
//!   exponent is 1 or more and never a division by zero; it is 1 where none is positive, and at most 80. `b` sums all, as the
//!   reference; the kept ones become negative when the sum is.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Output, Scorer, Scores,
    shaping::{energies, largest, sharpening},
};
use crate::{Result, nn::Head};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Ash")]
pub struct Config {
    /// What becomes of the kept features: `b` in OpenOOD; the paper has all three, and pytorch-ood `s` by default.
    #[garde(skip)]
    pub variant: Variant,
    /// The percentage p of an image's features that are set to 0: 90 in OpenOOD, which searches 65 to 95.
    #[garde(range(min = 0.0, max = 99.99))]
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { variant: Variant::B, percentile: 90.0 }
    }
}

/// What becomes of the largest features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AshVariant")]
pub enum Variant {
    /// They are scaled by exp(Σz / Σ of the kept z).
    S,
    /// They share the sum of all.
    B,
    /// They stay as they are.
    P,
}

/// The energy of each row of (N, D) `features`, of which `percentile` percent are set to 0 and the others changed by `variant`.
///
/// # Errors
/// As [`energies`].
pub fn ash(features: &Tensor, head: &Head, variant: Variant, percentile: f64) -> Result<Vec<f32>> {
    energies(features, head, |row| shape(row, variant, percentile))
}

fn shape(row: &mut [f64], variant: Variant, percentile: f64) {
    let kept = largest(row, percentile);
    let sum: f64 = row.iter().sum();
    let factor = match variant {
        Variant::S => sharpening(row, &kept),
        Variant::B | Variant::P => 1.0,
    };
    let mut kept = kept.iter().copied().peekable();
    let share = sum / kept.len() as f64;
    for (at, z) in row.iter_mut().enumerate() {
        *z = match (kept.next_if_eq(&at), variant) {
            (None, _) => 0.0,
            (Some(_), Variant::B) => share,
            (Some(_), Variant::S | Variant::P) => *z * factor,
        };
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head]
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted { config: self.clone(), head: fit.head()?.clone() }))
    }
}

/// The last layer, and how features are shaped.
struct Fitted {
    config: Config,
    head: Head,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(ash(&bank.features, &self.head, self.config.variant, self.config.percentile)?)
    }
}
