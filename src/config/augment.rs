//! Random changes of train images: what `augment` may say.

use std::fmt;

use garde::Validate;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::yaml::named::{self, string_or_map, variant_by_name};

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

/// A mirror, then a crop after padding: what every CIFAR recipe does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// Mirror left-right with probability one half.
    #[garde(skip)]
    #[serde(default)]
    pub flip: bool,
    /// Pad by so many black pixels and cut a random window of the original size; 4 for CIFAR in every recipe.
    #[garde(range(max = 64))]
    #[serde(default)]
    pub crop_padding: usize,
}

/// A random change, with torchvision's parameters, defaults and distributions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = named::string_or_object)]
pub enum Change {
    /// A window of random area and shape, resized to the image's size: `RandomResizedCrop`.
    RandomResizedCrop(#[garde(dive)] ResizedCrop),
    /// A window of the image's size after padding: `RandomCrop`.
    RandomCrop(#[garde(dive)] Crop),
    /// Mirrors left-right: `RandomHorizontalFlip`.
    HorizontalFlip(#[garde(dive)] Chance),
    /// Mirrors up-down: `RandomVerticalFlip`.
    VerticalFlip(#[garde(dive)] Chance),
    /// Turns about the centre, counter-clockwise: `RandomRotation`.
    Rotation(#[garde(dive)] Rotation),
    /// Brightness, contrast, saturation and hue in a random order: `ColorJitter`.
    ColorJitter(#[garde(dive)] ColorJitter),
    /// Fills a random rectangle: `RandomErasing`.
    RandomErasing(#[garde(dive)] Erasing),
    /// Fills a square about a random pixel, cut at the border (DeVries & Taylor 2017).
    Cutout(#[garde(dive)] Cutout),
    /// Some of fourteen changes, each drawn evenly, of one strength: `RandAugment`.
    RandAugment(#[garde(dive)] RandAugment),
}

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

/// Settings of a flip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Chance {
    /// The probability. torchvision's default: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    pub p: f64,
}

impl Default for Chance {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

/// How a pixel between pixels is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    #[default]
    Nearest,
    /// The mean of the four around it, by distance.
    Bilinear,
}

/// Settings of `rotation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The angle in degrees: from −d to d, or from one of two numbers to the other.
    #[garde(custom(within(-360.0, 360.0)))]
    pub degrees: Spread,
    /// torchvision's default: `nearest`.
    #[garde(skip)]
    #[serde(default)]
    pub interpolation: Interpolation,
    /// The grey level where there is no image. torchvision's default: 0.
    #[garde(skip)]
    #[serde(default)]
    pub fill: u8,
}

/// Settings of `color_jitter`. torchvision's defaults: 0, no change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// The factor of brightness: from max(0, 1 − b) to 1 + b, or from one of two numbers to the other.
    #[garde(custom(within(0.0, 100.0)))]
    pub brightness: Spread,
    /// The factor of contrast, likewise.
    #[garde(custom(within(0.0, 100.0)))]
    pub contrast: Spread,
    /// The factor of saturation, likewise; grey images have none.
    #[garde(custom(within(0.0, 100.0)))]
    pub saturation: Spread,
    /// The turn of the hue, in turns: from −h to h, or from one of two numbers to the other; grey images have none.
    #[garde(custom(within(-0.5, 0.5)))]
    pub hue: Spread,
}

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

/// Settings of `rand_augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// How many changes an image gets. torchvision's default: 2.
    #[garde(range(min = 1, max = 14))]
    pub num_ops: usize,
    /// Their strength, below `num_magnitude_bins`. torchvision's default: 9.
    #[garde(range(max = 999), custom(below(&self.num_magnitude_bins)))]
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

/// How far a number spreads: one number about the middle, or two, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Spread {
    /// So far about the middle.
    About(f64),
    /// From and to.
    Between([f64; 2]),
}

impl Default for Spread {
    fn default() -> Self {
        Self::About(0.0)
    }
}

impl Spread {
    /// From and to, about this middle.
    pub fn about(self, middle: f64) -> [f64; 2] {
        match self {
            Self::About(most) => [middle - most, middle + most],
            Self::Between(range) => range,
        }
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrTwo;
        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Spread;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a number, or two: [from, to]")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Spread, E> {
                Ok(Spread::About(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Spread, E> {
                Ok(Spread::About(value as f64))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Spread, E> {
                Ok(Spread::About(value as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Spread, A::Error> {
                let mut next = |at| values.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, &self));
                let range = [next(0)?, next(1)?];
                match values.next_element::<f64>()? {
                    Some(_) => Err(serde::de::Error::invalid_length(3, &self)),
                    None => Ok(Spread::Between(range)),
                }
            }
        }
        deserializer.deserialize_any(OneOrTwo)
    }
}

impl JsonSchema for Spread {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Spread".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let numbers = json_schema!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 });
        json_schema!({ "description": "A number, or two: from and to.", "anyOf": [{ "type": "number" }, numbers] })
    }
}

fn rising(range: &[f64; 2], (): &()) -> garde::Result {
    if range[0] <= range[1] { Ok(()) } else { Err(garde::Error::new("the first is above the second")) }
}

/// One number from 0 to `high`; two from `low` to `high`, rising.
fn within(low: f64, high: f64) -> impl FnOnce(&Spread, &()) -> garde::Result {
    move |spread, ()| match spread {
        Spread::About(most) if (0.0..=high).contains(most) => Ok(()),
        Spread::About(most) => Err(garde::Error::new(format!("{most} is not from 0 to {high}"))),
        Spread::Between(range) if range.iter().all(|value| (low..=high).contains(value)) => rising(range, &()),
        Spread::Between(_) => Err(garde::Error::new(format!("not from {low} to {high}"))),
    }
}

fn below(bins: &usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    let bins = *bins;
    move |magnitude, ()| {
        if *magnitude < bins {
            Ok(())
        } else {
            Err(garde::Error::new(format!("must be below `num_magnitude_bins`, {bins}")))
        }
    }
}
