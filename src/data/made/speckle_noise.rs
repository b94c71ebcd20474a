//! Noise that grows with the brightness.

use rand_distr::{Distribution as _, StandardNormal};

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct SpeckleNoise;

impl Maker for SpeckleNoise {
    fn make(&self, of: &Source, rng: &mut Rng) -> Result<Vec<u8>> {
        Ok(speckle_noise(&of.image()?, rng))
    }
}

/// x + x·n of each byte, n normal with deviation 1, cut off at 0 and 255.
pub fn speckle_noise(image: &[u8], rng: &mut Rng) -> Vec<u8> {
    let noisy = |&byte: &u8| {
        let noise: f64 = StandardNormal.sample(rng);
        (f64::from(byte) * (1.0 + noise)).round().clamp(0.0, 255.0) as u8
    };
    image.iter().map(noisy).collect()
}
