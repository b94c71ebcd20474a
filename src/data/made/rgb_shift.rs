//! Channels moved on by one.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct RgbShift;

impl Maker for RgbShift {
    fn needs_colour(&self) -> bool {
        true
    }

    fn make(&self, of: &Source, _: &mut Rng) -> Result<Vec<u8>> {
        Ok(rgb_shift(&of.image()?, of.shape()))
    }
}

/// An RGB image (3, H, W) as green, blue, red, the green one mirrored left to right.
pub fn rgb_shift(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (red, others) = image.split_at(height * width);
    let (green, blue) = others.split_at(height * width);
    let mirrored = green.chunks_exact(width).flat_map(|row| row.iter().rev());
    mirrored.chain(blue).chain(red).copied().collect()
}
