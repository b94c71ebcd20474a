//! Random changes of train images, on bytes: torchvision's, as they work on PIL images.
//!
//! A change is a function of an image and its parameters, which gives Pillow's bytes, and a draw of the parameters, which has
//! torchvision's distribution. Images keep their size. The pair `flip` and `crop_padding` has a file of its own, [`plain`]: its
//! draws are those of networks that are trained already.
//!
//! - Reference code: torchvision 0.29 `transforms`, Pillow 13.
//! - Deviations: a resized crop is cut from the image at the size that the data set is read at, which was cut about the centre;
//!   torchvision cuts it from the image in the file. A hole is filled with grey levels, where torchvision fills normalised values.

mod affine;
mod colour;
mod crop;
mod erase;
mod plain;
mod rand_augment;

pub(super) use plain::plain;

use rand::Rng as _;

use super::Normalisation;
use crate::{config::Change, rng::Rng};

/// An image as bytes.
#[derive(Debug, Clone, PartialEq)]
struct Image {
    height: usize,
    width: usize,
    /// (C, H, W).
    bytes: Vec<u8>,
}

impl Image {
    fn planes(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes.chunks_exact(self.height * self.width)
    }

    fn planes_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.bytes.chunks_exact_mut(self.height * self.width)
    }

    /// Its red, green and blue planes, if it has colours.
    fn colours_mut(&mut self) -> Option<[&mut [u8]; 3]> {
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
    normalisation: &Normalisation,
    rng: &mut Rng,
) {
    let mut image = Image { height, width, bytes: bytes.to_vec() };
    for change in changes {
        match change {
            Change::RandomResizedCrop(settings) => crop::resized(&mut image, settings, rng),
            Change::RandomCrop(settings) => crop::padded(&mut image, settings, rng),
            Change::HorizontalFlip(chance) => {
                if rng.random_bool(chance.p) {
                    image.bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
                }
            }
            Change::VerticalFlip(chance) => {
                if rng.random_bool(chance.p) {
                    flip_rows(&mut image);
                }
            }
            Change::Rotation(settings) => affine::random_rotation(&mut image, settings, rng),
            Change::ColorJitter(settings) => colour::jitter(&mut image, settings, rng),
            Change::RandomErasing(settings) => erase::rectangle(&mut image, settings, normalisation, rng),
            Change::Cutout(settings) => erase::cutout(&mut image, settings, normalisation, rng),
            Change::RandAugment(settings) => rand_augment::some(&mut image, settings, rng),
        }
    }
    bytes.copy_from_slice(&image.bytes);
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

/// A number between two, evenly.
fn even([from, to]: [f64; 2], rng: &mut Rng) -> f64 {
    rng.random_range(from..=to)
}

/// A number from 0 below `end`, evenly; u32, so that 32- and 64-bit machines draw the same.
fn below(end: usize, rng: &mut Rng) -> usize {
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
mod tests;
