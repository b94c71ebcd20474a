//! Random changes of train images, on bytes: torchvision's, as they work on PIL images.
//!
//! A change is a function of an image and its parameters, which gives Pillow's bytes, and a draw of the parameters, which has
//! torchvision's distribution. Images keep their size. The pair `flip` and `crop_padding` has a file of its own, [`plain`]: its
//! draws are those of networks that are trained already.
//!
//! - Reference code: torchvision 0.29 `transforms`, Pillow 13.
//! - Deviations: a resized crop is cut from the image at the size that the data set is read at, which was cut about the centre;
//!   torchvision cuts it from the image in the file. A hole is filled with grey levels, where torchvision fills normalised values.

pub(super) mod affine;
pub(super) mod colour;
pub(super) mod crop;
mod erase;
mod flip;
mod plain;
mod rand_augment;
pub(super) mod spread;

pub(super) use flip::Alternation;
pub(super) use plain::plain;

pub use affine::{Interpolation, Rotation};
pub use colour::ColorJitter;
pub use crop::{Crop, PaddingMode, ResizedCrop};
pub use erase::{Cutout, Erasing, Fill};
pub use plain::{Flip, Plain};
pub use rand_augment::RandAugment;
pub use spread::Spread;

use std::fmt;

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::Normalisation;
use crate::{
    rng::Rng,
    yaml::{
        keys::keys,
        named::{string_or_map, string_or_object, variant_by_name},
    },
};

/// Random changes of train images: the usual pair as a map, or a list of changes, made in its order. Ours: none unless asked
/// for.
///
/// All are made on bytes, before normalisation, and leave an image its size.
#[derive(Debug, Clone, PartialEq, Serialize, Validate, JsonSchema)]
#[serde(untagged)]
pub enum Augment {
    /// A mirror and a crop after padding.
    Plain(#[garde(dive)] Plain),
    /// These, one after the other.
    List(#[garde(dive, length(max = 64))] Vec<Change>),
}

impl Default for Augment {
    fn default() -> Self {
        Self::Plain(Plain::default())
    }
}

impl Augment {
    /// How likely an image is mirrored in the first epoch by a flip that alternates, if there is one.
    pub(super) fn alternates(&self) -> Option<f64> {
        match self {
            Self::Plain(plain) => (plain.flip == Flip::Alternating).then_some(0.5),
            Self::List(changes) => changes.iter().find_map(|change| match change {
                Change::HorizontalFlip(flip) => flip.alternating.then_some(flip.p),
                _ => None,
            }),
        }
    }
}

impl From<Plain> for Augment {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

impl<'de> Deserialize<'de> for Augment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapOrList;
        impl<'de> Visitor<'de> for MapOrList {
            type Value = Augment;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of changes, or a map of `flip` and `crop_padding`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Augment, A::Error> {
                Plain::deserialize(MapAccessDeserializer::new(map)).map(Augment::Plain)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Augment, A::Error> {
                let mut changes = Vec::new();
                while let Some(change) = list.next_element::<Named>()? {
                    changes.push(change.0);
                }
                Ok(Augment::List(changes))
            }
        }
        deserializer.deserialize_any(MapOrList)
    }
}

/// A change that may be given by its name alone.
struct Named(Change);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        string_or_map(deserializer, "a change's name, or a map of its name and settings", variant_by_name).map(Self)
    }
}

keys! {
    /// A random change, with torchvision's parameters, defaults and distributions.
    #[schemars(rename = "Change")]
    #[schemars(transform = string_or_object)]
    pub enum Change: Alter {
        /// A window of random area and shape, resized to the image's size: `RandomResizedCrop`.
        RandomResizedCrop = "random_resized_crop" in ResizedCrop,
        /// A window of the image's size after padding: `RandomCrop`.
        RandomCrop = "random_crop" in Crop,
        /// Mirrors left-right: `RandomHorizontalFlip`.
        HorizontalFlip = "horizontal_flip" in flip::Horizontal,
        /// Mirrors up-down: `RandomVerticalFlip`.
        VerticalFlip = "vertical_flip" in flip::Vertical,
        /// Turns about the centre, counter-clockwise: `RandomRotation`.
        Rotation = "rotation" in Rotation,
        /// Brightness, contrast, saturation and hue in a random order: `ColorJitter`.
        ColorJitter = "color_jitter" in ColorJitter,
        /// Fills a random rectangle: `RandomErasing`.
        RandomErasing = "random_erasing" in Erasing,
        /// Fills a square about a random pixel, cut at the border (DeVries & Taylor 2017).
        Cutout = "cutout" in Cutout,
        /// Some of fourteen changes, each drawn evenly, of one strength: `RandAugment`.
        RandAugment = "rand_augment" in RandAugment,
    }
}

/// What a random change does.
pub trait Alter {
    /// Changes an image, which keeps its size.
    fn alter(&self, image: &mut Image, about: &About<'_>, rng: &mut Rng);
}

/// What a change is told of an image.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// That of its data set.
    pub normalisation: &'a Normalisation,
    /// Whether an alternating flip mirrors it in this epoch.
    pub mirrored: bool,
}

/// An image as bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub(super) height: usize,
    pub(super) width: usize,
    /// (C, H, W).
    pub(super) bytes: Vec<u8>,
}

impl Image {
    pub(super) fn planes(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes.chunks_exact(self.height * self.width)
    }

    pub(super) fn planes_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.bytes.chunks_exact_mut(self.height * self.width)
    }

    /// Its red, green and blue planes, if it has colours.
    pub(super) fn colours_mut(&mut self) -> Option<[&mut [u8]; 3]> {
        let length = self.height * self.width;
        let (red, rest) = self.bytes.split_at_mut_checked(length)?;
        let (green, blue) = rest.split_at_mut_checked(length)?;
        (blue.len() == length).then_some([red, green, blue])
    }
}

/// Makes every change of the list, in its order, of `bytes` (C, H, W), in place.
pub(super) fn change(
    bytes: &mut [u8],
    [_, height, width]: [usize; 3],
    changes: &[Change],
    about: &About<'_>,
    rng: &mut Rng,
) {
    let mut image = Image { height, width, bytes: bytes.to_vec() };
    for change in changes {
        change.alter(&mut image, about, rng);
    }
    bytes.copy_from_slice(&image.bytes);
}

/// A number between two, evenly.
pub(super) fn even([from, to]: [f64; 2], rng: &mut Rng) -> f64 {
    rng.random_range(from..=to)
}

/// A number from 0 below `end`, evenly; u32, so that 32- and 64-bit machines draw the same.
pub(super) fn below(end: usize, rng: &mut Rng) -> usize {
    rng.random_range(0..end as u32) as usize
}

/// A rectangle of an image: top row, left column, rows, columns.
type Window = [usize; 4];

/// Sides √(area·ratio) and √(area/ratio), of a random share of the area and a random ratio, rounded half to even as Python
/// does.
fn sides(area: usize, scale: [f64; 2], ratio: [f64; 2], rng: &mut Rng) -> [usize; 2] {
    let target = area as f64 * even(scale, rng);
    let ratio = even(ratio.map(f64::ln), rng).exp();
    [target * ratio, target / ratio].map(|square| square.sqrt().round_ties_even() as usize)
}

#[cfg(test)]
pub(super) mod tests;
