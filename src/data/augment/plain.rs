//! The usual pair: mirror, then crop after padding (torchvision's `RandomHorizontalFlip` and
//! `RandomCrop(size, padding)`, in the order of energy_ood), on bytes, one pass over the batch.
//!
//! Sequential on purpose: it is cheap (`batches::tests::cost`) and runs on a thread beside the training step.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

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

/// Appends a changed copy of `image` (C, H, W) to `batch`.
///
/// Draws from `rng` in this order: mirrored or not (if `flip`), the row and the column where the window starts in the
/// padded image (if `crop_padding` > 0), each uniform over 0..=2·padding. Padding is black: the byte 0, as torchvision
/// pads before it normalises.
pub(in crate::data) fn plain(
    image: &[u8],
    height: usize,
    width: usize,
    changes: &Plain,
    rng: &mut Rng,
    batch: &mut Vec<u8>,
) {
    let padding = changes.crop_padding;
    let flip = changes.flip && rng.random_bool(0.5);
    let (top, left) = match padding {
        0 => (0, 0),
        // u32, so that 32- and 64-bit machines draw the same.
        _ => (rng.random_range(0..=2 * padding as u32) as usize, rng.random_range(0..=2 * padding as u32) as usize),
    };
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
            let config = Plain { flip, crop_padding: padding };
            let mut seen = std::collections::BTreeSet::new();
            for draw in 0..8000 {
                let mut batch = vec![9];
                plain(&image, h, w, &config, &mut stream(draw, "augment", "0"), &mut batch);
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
}
