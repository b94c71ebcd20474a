//! RandAugment (Cubuk et al. 2020): changes drawn evenly from fourteen, of one strength.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    About, Alter, Image,
    affine::{self, Interpolation, Look},
    below, colour,
};
use crate::rng::Rng;

/// Settings of `rand_augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// How many changes an image gets. torchvision's default: 2.
    #[garde(range(min = 1, max = 14))]
    pub num_ops: usize,
    /// Their strength, below `num_magnitude_bins`. torchvision's default: 9.
    #[garde(range(max = 999), custom(below_bins(&self.num_magnitude_bins)))]
    pub magnitude: usize,
    /// How many strengths there are. torchvision's default: 31.
    #[garde(range(min = 2, max = 1000))]
    pub num_magnitude_bins: usize,
    /// torchvision's default: `nearest`.
    #[garde(skip)]
    pub interpolation: Interpolation,
    /// The grey level where there is no image. torchvision's default: 0.
    #[garde(skip)]
    pub fill: u8,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation: Interpolation::Nearest, fill: 0 }
    }
}

fn below_bins(bins: &usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    let bins = *bins;
    move |magnitude, ()| {
        if *magnitude < bins {
            Ok(())
        } else {
            Err(garde::Error::new(format!("must be below `num_magnitude_bins`, {bins}")))
        }
    }
}

/// The changes, in torchvision's order.
const KINDS: usize = 14;

/// A change and its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Identity,
    ShearX(f64),
    ShearY(f64),
    TranslateX(f64),
    TranslateY(f64),
    Rotate(f64),
    Brightness(f64),
    Color(f64),
    Contrast(f64),
    Sharpness(f64),
    Posterize(u32),
    Solarize(f64),
    AutoContrast,
    Equalize,
}

/// torchvision's `RandAugment`.
impl Alter for RandAugment {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        let look = Look { interpolation: self.interpolation, fill: self.fill };
        for _ in 0..self.num_ops {
            let kind = draw(image.height, image.width, self, rng);
            apply(image, kind, look);
        }
    }
}

/// A change drawn evenly, its strength by `magnitude`, up or down.
pub(super) fn draw(height: usize, width: usize, settings: &RandAugment, rng: &mut Rng) -> Kind {
    let index = below(KINDS, rng);
    let last = settings.num_magnitude_bins as f64 - 1.0;
    let share = settings.magnitude as f64 / last;
    let mut signed = |most: f64| if rng.random_bool(0.5) { -most * share } else { most * share };
    match index {
        0 => Kind::Identity,
        1 => Kind::ShearX(signed(0.3)),
        2 => Kind::ShearY(signed(0.3)),
        // The paper's 150 pixels of 331, whole ones.
        3 => Kind::TranslateX(signed(150.0 / 331.0 * width as f64).trunc()),
        4 => Kind::TranslateY(signed(150.0 / 331.0 * height as f64).trunc()),
        5 => Kind::Rotate(signed(30.0)),
        6 => Kind::Brightness(signed(0.9)),
        7 => Kind::Color(signed(0.9)),
        8 => Kind::Contrast(signed(0.9)),
        9 => Kind::Sharpness(signed(0.9)),
        10 => Kind::Posterize(8 - (settings.magnitude as f64 / (last / 4.0)).round_ties_even() as u32),
        11 => Kind::Solarize(255.0 * (1.0 - share)),
        12 => Kind::AutoContrast,
        _ => Kind::Equalize,
    }
}

/// Makes a change.
pub(super) fn apply(image: &mut Image, kind: Kind, look: Look) {
    match kind {
        Kind::Identity => {}
        Kind::ShearX(by) => affine::shear_x(image, by, look),
        Kind::ShearY(by) => affine::shear_y(image, by, look),
        Kind::TranslateX(by) => affine::translate(image, [by, 0.0], look),
        Kind::TranslateY(by) => affine::translate(image, [0.0, by], look),
        Kind::Rotate(degrees) => affine::rotate(image, degrees, look),
        Kind::Brightness(by) => colour::adjust_brightness(image, 1.0 + by),
        Kind::Color(by) => colour::adjust_saturation(image, 1.0 + by),
        Kind::Contrast(by) => colour::adjust_contrast(image, 1.0 + by),
        Kind::Sharpness(by) => colour::adjust_sharpness(image, 1.0 + by),
        Kind::Posterize(bits) => colour::posterize(image, bits),
        Kind::Solarize(threshold) => colour::solarize(image, threshold),
        Kind::AutoContrast => colour::stretch(image),
        Kind::Equalize => colour::equalize(image),
    }
}
