//! The mean of two images.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct ArithmeticMean;

impl Maker for ArithmeticMean {
    fn needs_two(&self) -> bool {
        true
    }

    fn make(&self, of: &Source, rng: &mut Rng) -> Result<Vec<u8>> {
        Ok(arithmetic_mean(&of.image()?, &of.another(rng)?))
    }
}

/// (a + b) / 2 of two images of one shape, halves rounded up.
pub fn arithmetic_mean(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(&a, &b)| u16::midpoint(a.into(), u16::from(b) + 1) as u8).collect()
}
