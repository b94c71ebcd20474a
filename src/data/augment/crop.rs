//! Random crops: after padding, and resized.

use super::{Image, Window, below, sides};
use crate::{
    config::{Crop, PaddingMode, ResizedCrop},
    rng::Rng,
};

/// torchvision's `RandomCrop` of the image's own size after `padding`.
pub(super) fn padded(image: &mut Image, settings: &Crop, rng: &mut Rng) {
    let top = below(2 * settings.padding + 1, rng);
    let left = below(2 * settings.padding + 1, rng);
    cut_padded(image, top, left, settings);
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
pub(super) fn resized(image: &mut Image, settings: &ResizedCrop, rng: &mut Rng) {
    let window = window(image.height, image.width, settings, rng);
    *image = resize(&cut(image, window), image.height, image.width);
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
pub(super) fn cut(image: &Image, [top, left, height, width]: Window) -> Image {
    let mut bytes = Vec::with_capacity(image.bytes.len());
    for plane in image.planes() {
        for row in plane.chunks_exact(image.width).skip(top).take(height) {
            bytes.extend_from_slice(&row[left..left + width]);
        }
    }
    Image { height, width, bytes }
}

/// Pillow's `resize(…, BILINEAR)`, to the byte: anti-aliased where it shrinks, along the rows and then along the columns.
pub(super) fn resize(image: &Image, height: usize, width: usize) -> Image {
    let mut wide = Vec::with_capacity(image.bytes.len() / image.width * width);
    if image.width == width {
        wide.clone_from(&image.bytes);
    } else {
        let weights = weights(image.width, width);
        for row in image.bytes.chunks_exact(image.width) {
            wide.extend(weights.iter().map(|(first, weights)| {
                byte(row[*first..].iter().zip(weights).map(|(pixel, weight)| i32::from(*pixel) * weight).sum())
            }));
        }
    }
    if image.height == height {
        return Image { height, width, bytes: wide };
    }
    let mut bytes = Vec::with_capacity(wide.len() / image.height * height);
    let weights = weights(image.height, height);
    let mut sums = vec![0; width];
    for plane in wide.chunks_exact(image.height * width) {
        for (first, weights) in &weights {
            sums.fill(0);
            for (row, weight) in plane.chunks_exact(width).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, pixel)| *sum += i32::from(*pixel) * weight);
            }
            bytes.extend(sums.iter().map(|sum| byte(*sum)));
        }
    }
    Image { height, width, bytes }
}

/// Bits after the point of Pillow's weights.
const BITS: u32 = 22;

/// A sum of weighted bytes to the nearest byte.
fn byte(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// For each of `to` places, the first of `from` places that it is the mean of, and their weights: a triangle as wide as a
/// pixel of the coarser side.
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let place = |to: usize| {
        let centre = (to as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let triangle = |at: usize| (1.0 - ((at as f64 - centre + 0.5) / reach).abs()).max(0.0);
        let total: f64 = (first..end).map(triangle).sum();
        let fixed = |at| (triangle(at) / total * f64::from(1 << BITS) + 0.5) as i32;
        (first, (first..end).map(fixed).collect())
    };
    (0..to).map(place).collect()
}
