//! Mirrored images: each time at random, or in every other epoch.
//!
//! - Alternating flips: Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, <https://arxiv.org/abs/2404.00498>; code:
//!   `KellerJordan/cifar10-airbench`.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{About, Alter, Image};
use crate::{
    rng::{self, Rng},
    yaml::named::is_default,
};

/// Settings of `horizontal_flip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "HorizontalFlip")]
pub struct Horizontal {
    /// The probability. torchvision's default: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    pub p: f64,
    /// Draws once for each image, and mirrors in every second epoch those that it did not mirror in the one before. torchvision's: false.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub alternating: bool,
}

impl Default for Horizontal {
    fn default() -> Self {
        Self { p: 0.5, alternating: false }
    }
}

impl Alter for Horizontal {
    fn alter(&self, image: &mut Image, about: &About<'_>, rng: &mut Rng) {
        let mirrors = if self.alternating { about.mirrored } else { rng.random_bool(self.p) };
        if mirrors {
            image.bytes.chunks_exact_mut(image.width).for_each(<[u8]>::reverse);
        }
    }
}

/// Settings of `vertical_flip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "VerticalFlip")]
pub struct Vertical {
    /// The probability. torchvision's default: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    pub p: f64,
}

impl Default for Vertical {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl Alter for Vertical {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        if rng.random_bool(self.p) {
            flip_rows(image);
        }
    }
}

/// The last row first.
fn flip_rows(image: &mut Image) {
    let (height, width) = (image.height, image.width);
    for plane in image.planes_mut() {
        for row in 0..height / 2 {
            let (above, below) = plane.split_at_mut((height - 1 - row) * width);
            above[row * width..(row + 1) * width].swap_with_slice(&mut below[..width]);
        }
    }
}

/// Which images of a set are mirrored in each epoch by alternating flips: some, drawn once, and in the next epoch the others.
#[derive(Debug)]
pub(in crate::data) struct Alternation(Vec<bool>);

impl Alternation {
    /// Of a set of so many images, drawn from the stream (seed, `mirrored`, purpose), each with probability `p`.
    pub(in crate::data) fn new(images: usize, p: f64, seed: u64, purpose: &str) -> Self {
        let mut rng = rng::stream(seed, "mirrored", purpose);
        Self((0..images).map(|_| rng.random_bool(p)).collect())
    }

    /// Whether the image at this place is mirrored in this epoch, from 0.
    pub(in crate::data) fn mirrors(&self, place: usize, epoch: u64) -> bool {
        self.0.get(place).is_some_and(|first| *first != (epoch % 2 == 1))
    }
}
