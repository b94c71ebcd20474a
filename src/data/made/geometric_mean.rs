//! The geometric mean of two images.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct GeometricMean;

impl Maker for GeometricMean {
    fn needs_two(&self) -> bool {
        true
    }

    fn make(&self, of: &Source, rng: &mut Rng) -> Result<Vec<u8>> {
        Ok(geometric_mean(&of.image()?, &of.another(rng)?))
    }
}

/// √(a·b) of two images of one shape, rounded; black where one of them is.
pub fn geometric_mean(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) * f64::from(b)).sqrt().round() as u8).collect()
}
