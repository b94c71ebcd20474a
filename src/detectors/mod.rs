//! Detectors: what turns a network's outputs into scores. Larger means more anomalous, everywhere.
//!
//! A detector is one file: its settings, a pure function, and the two impls. It is listed once, in [`registry!`] below;
//! the contract tests in `tests/detectors.rs` then cover it.

use candle_core::Tensor;

use crate::{Error, Result};

/// The outputs of one network on one set, computed once and shared by every detector.
#[derive(Debug, Clone)]
pub struct Bank {
    /// (N, K) f32 logits on the CPU.
    pub logits: Tensor,
    /// (N, D) f32 penultimate features on the CPU.
    pub features: Tensor,
    /// (N) classes, for labelled sets.
    pub labels: Option<Vec<u32>>,
}

/// Learns what it needs from in-distribution train data, and yields something that can score.
pub trait Detector {
    /// Whether [`Detector::fit`] reads the train bank; when false the train set is not run through the network.
    fn needs_fit(&self) -> bool {
        false
    }
    /// `train` is `None` unless [`Detector::needs_fit`].
    fn fit(&self, train: Option<&Bank>) -> Result<Box<dyn Scorer>>;
}

/// Scores images by their outputs.
pub trait Scorer {
    /// One score per row of the bank.
    fn score(&self, bank: &Bank) -> Result<Scores>;
}

/// One finite number per image; larger means more anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(Vec<f32>);

impl Scores {
    /// Refuses NaN and infinities: a metric of such scores would be meaningless.
    pub fn new(scores: Vec<f32>) -> Result<Self> {
        match scores.iter().position(|score| !score.is_finite()) {
            Some(index) => Err(Error::Failed(format!("score {index} is {}", scores[index]))),
            None => Ok(Self(scores)),
        }
    }

    /// The scores in the order of the images.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

/// A detector and its settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DetectorConfig {
    /// Placeholder until the registry macro lands in this file.
    Msp(#[garde(skip)] crate::config::Empty),
}
