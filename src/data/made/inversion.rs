//! Channels inverted.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct Inversion;

impl Maker for Inversion {
    fn make(&self, of: &Source, _: &mut Rng) -> Result<Vec<u8>> {
        Ok(inversion(&of.image()?, of.shape()))
    }
}

/// 255 − x of every channel (C, H, W) but the first, which is left so that the image is farther from any real one; of a grey image
/// (ours) of its one channel.
pub fn inversion(image: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let kept = if channels == 1 { 0 } else { height * width };
    image.iter().enumerate().map(|(at, &byte)| if at < kept { byte } else { 255 - byte }).collect()
}
