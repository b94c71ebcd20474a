//! Bytes at random.

use rand::Rng as _;

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct UniformNoise;

impl Maker for UniformNoise {
    fn make(&self, of: &Source, rng: &mut Rng) -> Result<Vec<u8>> {
        Ok(uniform_noise(of.image()?.len(), rng))
    }
}

/// Bytes from 0 to 255, each as likely and for itself.
///
/// The paper draws over the classifier's input space; the code from −1 to 1 after normalisation, which for CIFAR are bytes from
/// 62 to 188 or so. Ours: the input space of images, which are bytes.
pub fn uniform_noise(bytes: usize, rng: &mut Rng) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rng.fill(noise.as_mut_slice());
    noise
}
