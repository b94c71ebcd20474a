//! The usual pair: mirror, then crop after padding (torchvision's `RandomHorizontalFlip` and
//! `RandomCrop(size, padding)`, in the order of energy_ood), on bytes, one pass over the batch.
//!
//! Sequential on purpose: it is cheap (`batches::tests::cost`) and runs on a thread beside the training step.

use std::fmt;

use garde::Validate;
use rand::Rng as _;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Image, crop};
use crate::{rng::Rng, yaml::named::is_default};

/// A mirror, then a crop after padding: what every CIFAR recipe does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// Mirror left-right: with probability one half, or `alternating`.
    #[garde(skip)]
    #[serde(default)]
    pub flip: Flip,
    /// Pad by so many pixels and cut a random window of the original size; 4 for CIFAR in every recipe.
    #[garde(range(max = 64))]
    #[serde(default)]
    pub crop_padding: usize,
    /// What those pixels show. Every CIFAR recipe's but airbench's, which reflects: `constant`, black.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub padding: crop::PaddingMode,
}

/// When images are mirrored: `false`, `true` or `alternating`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flip {
    /// Never.
    #[default]
    Never,
    /// Each time with probability one half.
    Random,
    /// Half of the images, drawn once, in the first epoch, the others in the second, and so on: every two epochs show each image both ways.
    Alternating,
}

impl From<bool> for Flip {
    fn from(flip: bool) -> Self {
        if flip { Self::Random } else { Self::Never }
    }
}

/// The word for [`Flip::Alternating`].
const ALTERNATING: &str = "alternating";

impl Serialize for Flip {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never | Self::Random => serializer.serialize_bool(*self == Self::Random),
            Self::Alternating => serializer.serialize_str(ALTERNATING),
        }
    }
}

impl<'de> Deserialize<'de> for Flip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrWord;
        impl de::Visitor<'_> for BoolOrWord {
            type Value = Flip;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("`true`, `false` or `alternating`")
            }

            fn visit_bool<E: de::Error>(self, flip: bool) -> Result<Flip, E> {
                Ok(flip.into())
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Flip, E> {
                match word {
                    ALTERNATING => Ok(Flip::Alternating),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(BoolOrWord)
    }
}

impl JsonSchema for Flip {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Flip".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({ "enum": [false, true, ALTERNATING] })
    }
}

/// Appends a changed copy of `image` (C, H, W) to `batch`.
///
/// Draws from `rng` in this order: mirrored or not (if `flip` is random), then the row and the column where the window starts in the
/// padded image (if `crop_padding` > 0), each uniform over 0..=2·padding. Where flips alternate, `mirrored` says so. Black padding is the
/// byte 0, as torchvision pads before it normalises.
pub(in crate::data) fn plain(
    image: &[u8],
    height: usize,
    width: usize,
    changes: &Plain,
    mirrored: bool,
    rng: &mut Rng,
    batch: &mut Vec<u8>,
) {
    let padding = changes.crop_padding;
    let flip = match changes.flip {
        Flip::Never => false,
        Flip::Random => rng.random_bool(0.5),
        Flip::Alternating => mirrored,
    };
    let (top, left) = match padding {
        0 => (0, 0),
        // u32, so that 32- and 64-bit machines draw the same.
        _ => (rng.random_range(0..=2 * padding as u32) as usize, rng.random_range(0..=2 * padding as u32) as usize),
    };
    if changes.padding != crop::PaddingMode::Constant && padding > 0 {
        let mut cut = Image { height, width, bytes: image.to_vec() };
        if flip {
            cut.bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        crop::cut_padded(&mut cut, top, left, &crop::Crop { padding, padding_mode: changes.padding, fill: 0 });
        batch.extend(cut.bytes);
        return;
    }
    // Output column x shows image column x + left − padding where the image has one.
    let first = padding.saturating_sub(left).min(width);
    let end = (width + padding).saturating_sub(left).clamp(first, width);
    let source = (first + left).saturating_sub(padding);
    let start = batch.len();
    batch.resize(start + image.len(), 0);
    // With a padding wider than the image, a window may show none of it.
    if first == end {
        return;
    }
    let planes = image.chunks_exact(height * width).zip(batch[start..].chunks_exact_mut(height * width));
    for (plane, out) in planes {
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let Some(row) = (y + top).checked_sub(padding).filter(|row| *row < height) else { continue };
            let row = &plane[row * width..(row + 1) * width];
            let window = &mut out[first..end];
            if flip {
                let mirrored = &row[width - source - window.len()..width - source];
                window.iter_mut().zip(mirrored.iter().rev()).for_each(|(out, pixel)| *out = *pixel);
            } else {
                window.copy_from_slice(&row[source..source + window.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    /// Flip, pad, cut: the definition, pixel by pixel.
    fn by_definition(image: &[u8], h: usize, w: usize, flip: bool, padding: usize, top: usize, left: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for plane in image.chunks_exact(h * w) {
            for y in 0..h {
                for x in 0..w {
                    let row = (y + top) as i64 - padding as i64;
                    let column = (x + left) as i64 - padding as i64;
                    let inside = (0..h as i64).contains(&row) && (0..w as i64).contains(&column);
                    let column = if flip { w as i64 - 1 - column } else { column };
                    out.push(if inside { plane[row as usize * w + column as usize] } else { 0 });
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_definition_for_every_offset() {
        let (h, w) = (3, 5);
        let image: Vec<u8> = (1..=2 * 15).collect();
        for (flip, padding) in [(false, 0), (true, 0), (false, 2), (true, 2), (true, 7)] {
            let config = Plain { flip: flip.into(), crop_padding: padding, ..Plain::default() };
            let mut seen = std::collections::BTreeSet::new();
            for draw in 0..8000 {
                let mut batch = vec![9];
                plain(&image, h, w, &config, false, &mut stream(draw, "augment", "0"), &mut batch);
                assert_eq!(batch[0], 9);
                let mut rng = stream(draw, "augment", "0");
                let flipped = flip && rng.random_bool(0.5);
                let mut offset = || if padding == 0 { 0 } else { rng.random_range(0..=2 * padding as u32) as usize };
                let (top, left) = (offset(), offset());
                assert_eq!(batch[1..], by_definition(&image, h, w, flipped, padding, top, left));
                seen.insert((flipped, top, left));
            }
            // Every offset occurs, both ends included.
            assert_eq!(seen.len(), (1 + usize::from(flip)) * (2 * padding + 1).pow(2));
        }
    }

    /// Against the definition: the image that is mirrored outside its border, the border's pixel once.
    #[test]
    fn padding_reflects_and_flips_alternate() {
        let (h, w, padding) = (3, 5, 2);
        let image: Vec<u8> = (1..=2 * 15).collect();
        let config = Plain { flip: Flip::Alternating, crop_padding: padding, padding: crop::PaddingMode::Reflect };
        let inside = |at: i64, length: i64| {
            let at = at.abs();
            if at < length { at } else { 2 * length - 2 - at }
        };
        for (draw, mirrored) in (0..200).flat_map(|draw| [(draw, false), (draw, true)]) {
            let mut batch = Vec::new();
            plain(&image, h, w, &config, mirrored, &mut stream(draw, "augment", "0"), &mut batch);
            let mut rng = stream(draw, "augment", "0");
            let [top, left] = [0; 2].map(|_| i64::from(rng.random_range(0..=2 * padding as u32)) - padding as i64);
            for (at, byte) in batch.iter().enumerate() {
                let [plane, y, x] = [at / (h * w), at / w % h, at % w];
                let (row, column) = (inside(y as i64 + top, h as i64), inside(x as i64 + left, w as i64));
                let column = if mirrored { w as i64 - 1 - column } else { column };
                assert_eq!(*byte, image[plane * h * w + row as usize * w + column as usize]);
            }
        }
    }

    #[test]
    fn a_flip_is_a_bool_or_a_word() {
        let of = |text: &str| serde_json::from_str::<Plain>(text).map(|plain| serde_json::to_string(&plain).unwrap());
        assert_eq!(of(r#"{"flip":true}"#).unwrap(), r#"{"flip":true,"crop_padding":0}"#);
        assert_eq!(of("{}").unwrap(), r#"{"flip":false,"crop_padding":0}"#);
        let all = r#"{"flip":"alternating","crop_padding":2,"padding":"reflect"}"#;
        assert_eq!(of(all).unwrap(), all);
        let error = of(r#"{"flip":"sometimes"}"#).unwrap_err().to_string();
        assert!(error.contains("\"sometimes\", expected `true`, `false` or `alternating`"), "{error}");
    }
}
