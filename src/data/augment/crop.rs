//! Random crops: after padding, and resized.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{About, Alter, Image, Window, below, sides, spread::rising};
use crate::{
    data::{Mode, resample},
    rng::Rng,
};

/// Settings of `random_resized_crop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResizedCrop {
    /// The window's share of the area, from and to. torchvision's default: 0.08 and 1.
    #[garde(inner(range(min = 1e-6, max = 1.0)), custom(rising))]
    pub scale: [f64; 2],
    /// Its width over its height, from and to, even in the logarithm. torchvision's default: 3/4 and 4/3.
    #[garde(inner(range(min = 1e-3, max = 1e3)), custom(rising))]
    pub ratio: [f64; 2],
}

impl Default for ResizedCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Settings of `random_crop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// Pixels on every side.
    #[garde(range(min = 1, max = 1024))]
    pub padding: usize,
    /// What they show. torchvision's default: `constant`.
    #[garde(skip)]
    #[serde(default)]
    pub padding_mode: PaddingMode,
    /// The grey level of `constant`. torchvision's default: 0.
    #[garde(skip)]
    #[serde(default)]
    pub fill: u8,
}

/// What the pixels around an image show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaddingMode {
    /// One grey level.
    #[default]
    Constant,
    /// The border's pixel.
    Edge,
    /// The image mirrored at its border, the border's pixel once.
    Reflect,
    /// The image mirrored at its border, the border's pixel twice.
    Symmetric,
}

impl PaddingMode {
    /// Pixels on a side, at most, that can be filled around an image whose smaller side is given: a mirror shows an image once.
    pub fn most(self, side: usize) -> Option<usize> {
        match self {
            Self::Constant | Self::Edge => None,
            Self::Reflect => Some(side.saturating_sub(1)),
            Self::Symmetric => Some(side),
        }
    }
}

/// torchvision's `RandomCrop` of the image's own size after `padding`.
impl Alter for Crop {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        let top = below(2 * self.padding + 1, rng);
        let left = below(2 * self.padding + 1, rng);
        cut_padded(image, top, left, self);
    }
}

/// The window that starts at (`top`, `left`) of the padded image.
pub(super) fn cut_padded(image: &mut Image, top: usize, left: usize, settings: &Crop) {
    let place = |at: usize, start: usize, length: usize| {
        source((at + start) as i64 - settings.padding as i64, length as i64, settings.padding_mode)
    };
    let columns: Vec<Option<usize>> = (0..image.width).map(|x| place(x, left, image.width)).collect();
    let rows: Vec<Option<usize>> = (0..image.height).map(|y| place(y, top, image.height)).collect();
    let mut bytes = Vec::with_capacity(image.bytes.len());
    for plane in image.planes() {
        for row in &rows {
            let row = row.map(|row| &plane[row * image.width..(row + 1) * image.width]);
            bytes.extend(columns.iter().map(|column| match (row, *column) {
                (Some(row), Some(column)) => row[column],
                _ => settings.fill,
            }));
        }
    }
    image.bytes = bytes;
}

/// The pixel of a row of `length` that the place `at` shows, as `numpy.pad` has it however wide the padding is.
fn source(at: i64, length: i64, mode: PaddingMode) -> Option<usize> {
    let at = match mode {
        PaddingMode::Constant => return (0..length).contains(&at).then_some(at as usize),
        PaddingMode::Edge => at.clamp(0, length - 1),
        PaddingMode::Reflect if length == 1 => 0,
        PaddingMode::Reflect => {
            let at = at.rem_euclid(2 * length - 2);
            at.min(2 * length - 2 - at)
        }
        PaddingMode::Symmetric => {
            let at = at.rem_euclid(2 * length);
            at.min(2 * length - 1 - at)
        }
    };
    Some(at as usize)
}

/// torchvision's `RandomResizedCrop` to the image's own size.
impl Alter for ResizedCrop {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        let window = window(image.height, image.width, self, rng);
        *image = resize(&cut(image, window), image.height, image.width);
    }
}

/// `RandomResizedCrop.get_params`: the first of ten draws that fits, else the largest window about the centre.
pub(super) fn window(height: usize, width: usize, settings: &ResizedCrop, rng: &mut Rng) -> Window {
    for _ in 0..10 {
        let [w, h] = sides(height * width, settings.scale, settings.ratio, rng);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = below(height - h + 1, rng);
            let left = below(width - w + 1, rng);
            return [top, left, h, w];
        }
    }
    let ratio = width as f64 / height as f64;
    let [narrowest, widest] = settings.ratio;
    let (h, w) = if ratio < narrowest {
        ((width as f64 / narrowest).round_ties_even() as usize, width)
    } else if ratio > widest {
        (height, (height as f64 * widest).round_ties_even() as usize)
    } else {
        (height, width)
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    [(height - h) / 2, (width - w) / 2, h, w]
}

/// A rectangle of the image.
pub(in crate::data) fn cut(image: &Image, [top, left, height, width]: Window) -> Image {
    let mut bytes = Vec::with_capacity(image.bytes.len());
    for plane in image.planes() {
        for row in plane.chunks_exact(image.width).skip(top).take(height) {
            bytes.extend_from_slice(&row[left..left + width]);
        }
    }
    Image { height, width, bytes }
}

/// A window of so many rows and columns, each place as likely.
///
/// # Panics
/// When the image has no room for it.
pub(in crate::data) fn window_of(image: &Image, [height, width]: [usize; 2], rng: &mut Rng) -> Image {
    let (top, left) = (below(image.height - height + 1, rng), below(image.width - width + 1, rng));
    cut(image, [top, left, height, width])
}

/// Pillow's `resize(…, BILINEAR)`, to the byte.
pub(super) fn resize(image: &Image, height: usize, width: usize) -> Image {
    let bytes = resample::planes(&image.bytes, [image.height, image.width], [height, width], Mode::Bilinear, true);
    Image { height, width, bytes }
}
