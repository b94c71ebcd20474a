//! What a file says of images that are moved so that a network is surer of them.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Projected gradient descent (Madry et al. 2018, <https://arxiv.org/abs/1706.06083>) towards the class that the network takes the image
/// for: every pixel moves by `epsilon` grey levels at most, and images stay bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// The classifier of this experiment that is to be surer.
    #[garde(length(min = 1))]
    pub network: String,
    /// Grey levels of 255 that a pixel moves at most. It has to be given: 8 is the field's habit for RGB images.
    #[garde(range(min = 1, max = 255))]
    pub epsilon: u8,
    /// Steps, each of 2.5 · epsilon / steps. Ours: 10; Madry et al. take 7 to 100, and the factor is their 100-step attack's.
    #[garde(range(min = 1, max = 10_000))]
    #[serde(default = "ten")]
    pub steps: usize,
}

/// A pixel can get anywhere within its bounds, and turn round.
const FACTOR: f64 = 2.5;

fn ten() -> usize {
    10
}

impl Attack {
    /// How far a pixel goes in a step, of 0..1.
    pub fn step(&self) -> f64 {
        FACTOR * f64::from(self.epsilon) / 255.0 / self.steps as f64
    }

    /// For captions.
    pub fn in_words(&self) -> String {
        let Self { network, epsilon, steps } = self;
        format!("moved by up to {epsilon}/255 to make {network} sure, {steps} steps of PGD")
    }
}
