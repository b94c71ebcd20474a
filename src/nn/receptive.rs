//! A coarse map at the size of the image, as FCDD enlarges it: each value is spread by a Gaussian about the centre of what it was seen in.
//!
//! y\[p\] = Σᵢ a\[i\] · g(p − (j·i + s)) along each axis, for a jump of j pixels between values; g is cut off outside of `field` pixels, and is
//! as high as 1 for an odd field, ½ for an even one, whose two middle pixels are alike.
//!
//! - Paper: Liznerski et al., *Explainable Deep One-Class Classification* (FCDD), ICLR 2021, algorithm 1.
//! - Code: `liznerski/fcdd`, `models/bases.py` (`_receptive_field_map`) and `datasets/noise.py` (`gkern`): a transposed convolution of stride j
//!   with a kernel of the receptive field's size, cropped so that the first value lies at the first centre.
//! - Ours: that centre is s = ⌊(j − 1)/2⌋, the middle of the first j pixels, which is where that code's VGG-11 has it; backbones with other
//!   padding have it up to j/2 pixels away.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows and columns of pixels that a Gaussian may cover, at most.
const MOST: usize = 4096;

/// The Gaussian that values of a coarse map are spread by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Receptive {
    /// σ, in pixels of the image. FCDD's for MVTec AD: 12.
    #[garde(range(min = 1e-3, max = 1000.0))]
    pub sigma: f64,
    /// Rows and columns of pixels that a value is spread over. Default: 62, the receptive field of FCDD's VGG-11; outside of it a Gaussian of σ 12
    /// has a hundredth of its mass.
    #[garde(range(min = 1, max = MOST))]
    pub field: usize,
}

impl Default for Receptive {
    fn default() -> Self {
        Self { sigma: 12.0, field: 62 }
    }
}

impl Receptive {
    /// What each of `grid` values adds to each of `size` pixels along an axis: `size` rows of `grid` weights.
    ///
    /// # Panics
    /// When there is no value.
    pub fn weights(&self, grid: usize, size: usize) -> Vec<Vec<f64>> {
        assert!(grid > 0, "no value on {size} pixels");
        let (jump, field) = (size.div_ceil(grid), self.field);
        let first = ((field - 1) / 2) as i64 - ((jump - 1) / 2) as i64;
        let weight = |pixel: usize, value: usize| {
            let tap = pixel as i64 - (jump * value) as i64 + first;
            if usize::try_from(tap).is_ok_and(|tap| tap < field) { self.tap(tap) } else { 0.0 }
        };
        (0..size).map(|pixel| (0..grid).map(|value| weight(pixel, value)).collect()).collect()
    }

    /// The kernel's value at a place of it.
    fn tap(&self, at: i64) -> f64 {
        let middle = (self.field as i64 - 1) / 2;
        let even = self.field.is_multiple_of(2);
        // An even kernel is an odd one of a pixel less, whose middle comes twice.
        let offset = if even && at > middle { at - middle - 1 } else { at - middle };
        let height = if even { 0.5 } else { 1.0 };
        height * (-0.5 * (offset as f64 / self.sigma).powi(2)).exp()
    }
}
