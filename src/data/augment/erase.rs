//! Holes in images: random erasing (Zhong et al. 2020) and cutout (DeVries & Taylor 2017).

use garde::Validate;
use rand::Rng as _;
use rand_distr::{Distribution as _, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{About, Alter, Image, Window, below, sides, spread::rising};
use crate::{data::Normalisation, rng::Rng};

/// Settings of `random_erasing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Erasing {
    /// The probability. torchvision's default: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    pub p: f64,
    /// The rectangle's share of the area, from and to. torchvision's default: 0.02 and 0.33.
    #[garde(inner(range(min = 0.0, max = 1.0)), custom(rising))]
    pub scale: [f64; 2],
    /// Its height over its width, from and to, even in the logarithm. torchvision's default: 0.3 and 3.3.
    #[garde(inner(range(min = 1e-3, max = 1e3)), custom(rising))]
    pub ratio: [f64; 2],
    /// What it is filled with. torchvision's default after `Normalize`: `mean`.
    #[garde(skip)]
    pub value: Fill,
}

impl Default for Erasing {
    fn default() -> Self {
        Self { p: 0.5, scale: [0.02, 0.33], ratio: [0.3, 3.3], value: Fill::Mean }
    }
}

/// What a hole is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// The data set's `mean`, to a grey level: torchvision's 0 after `Normalize`.
    #[default]
    Mean,
    /// Black: torchvision's 0 before `Normalize`.
    Black,
    /// Each pixel and channel a normal draw about `mean` with `std`, to a grey level: torchvision's `random` after `Normalize`.
    Random,
}

/// Settings of `cutout`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cutout {
    /// The square's side in pixels, twice its half: 16 for CIFAR-10, 8 for CIFAR-100 in the paper.
    #[garde(range(min = 2, max = 4096))]
    pub length: usize,
    /// How many of them: 1 in the paper.
    #[garde(range(min = 1, max = 64))]
    pub holes: usize,
    /// What they are filled with. The authors' code: 0 after `Normalize`, the mean.
    #[garde(skip)]
    pub value: Fill,
}

impl Default for Cutout {
    fn default() -> Self {
        Self { length: 16, holes: 1, value: Fill::Mean }
    }
}

/// torchvision's `RandomErasing`.
impl Alter for Erasing {
    fn alter(&self, image: &mut Image, about: &About<'_>, rng: &mut Rng) {
        if rng.random_bool(self.p)
            && let Some(window) = window(image.height, image.width, self, rng)
        {
            fill(image, window, self.value, about.normalisation, rng);
        }
    }
}

/// `RandomErasing.get_params`: the first of ten draws that fits, or none.
pub(super) fn window(height: usize, width: usize, settings: &Erasing, rng: &mut Rng) -> Option<Window> {
    for _ in 0..10 {
        let [h, w] = sides(height * width, settings.scale, settings.ratio, rng);
        if h < height && w < width {
            let top = below(height - h + 1, rng);
            let left = below(width - w + 1, rng);
            return Some([top, left, h, w]);
        }
    }
    None
}

/// The authors' `Cutout`: squares about pixels drawn evenly, cut at the border.
impl Alter for Cutout {
    fn alter(&self, image: &mut Image, about: &About<'_>, rng: &mut Rng) {
        for _ in 0..self.holes {
            let y = below(image.height, rng);
            let x = below(image.width, rng);
            let window = square(image.height, image.width, [y, x], self.length);
            fill(image, window, self.value, about.normalisation, rng);
        }
    }
}

/// From `length / 2` before the pixel, `length / 2` on after it.
pub(super) fn square(height: usize, width: usize, [y, x]: [usize; 2], length: usize) -> Window {
    let (top, left) = (y.saturating_sub(length / 2), x.saturating_sub(length / 2));
    let (bottom, right) = ((y + length / 2).min(height), (x + length / 2).min(width));
    [top, left, bottom - top, right - left]
}

/// Fills a rectangle of every channel.
pub(super) fn fill(
    image: &mut Image,
    [top, left, height, width]: Window,
    value: Fill,
    normalisation: &Normalisation,
    rng: &mut Rng,
) {
    let columns = image.width;
    let level = |value: f32| (value * 255.0).round() as u8;
    for (channel, plane) in image.planes_mut().enumerate() {
        let (mean, std) = (normalisation.mean[channel], normalisation.std[channel]);
        for row in plane.chunks_exact_mut(columns).skip(top).take(height) {
            let hole = &mut row[left..left + width];
            match value {
                Fill::Mean => hole.fill(level(mean)),
                Fill::Black => hole.fill(0),
                Fill::Random => hole.fill_with(|| {
                    let draw: f32 = StandardNormal.sample(rng);
                    level(mean + std * draw)
                }),
            }
        }
    }
}
