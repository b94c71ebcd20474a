//! Mirrored images.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Alter, Image};
use crate::{data::Normalisation, rng::Rng};

/// Settings of `horizontal_flip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "HorizontalFlip")]
pub struct Horizontal {
    /// The probability. torchvision's default: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    pub p: f64,
}

impl Default for Horizontal {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl Alter for Horizontal {
    fn alter(&self, image: &mut Image, _: &Normalisation, rng: &mut Rng) {
        if rng.random_bool(self.p) {
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
    fn alter(&self, image: &mut Image, _: &Normalisation, rng: &mut Rng) {
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
