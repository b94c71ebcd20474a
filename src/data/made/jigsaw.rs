//! Quarters and halves of quarters in other places.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct Jigsaw;

impl Maker for Jigsaw {
    fn make(&self, of: &Source, _: &mut Rng) -> Result<Vec<u8>> {
        Ok(jigsaw(&of.image()?, of.shape()))
    }
}

/// An image (C, H, W) whose quarters have other places: the lower left one goes to the upper right, the lower right one to the
/// lower left, the upper right one to the lower right with its left and right halves swapped, and in the upper left one the upper
/// and lower halves are swapped.
///
/// No pixel is lost: what an odd number of rows or columns has in the middle stays there.
pub fn jigsaw(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (rows, columns) = (height / 2, width / 2);
    let (below, right) = (height - rows, width - columns);
    let source = |y: usize, x: usize| match (y < rows, y >= below, x < columns, x >= right) {
        (true, _, true, _) => (halves_swapped(y, rows), x),
        (true, _, _, true) => (y + below, x - right),
        (_, true, true, _) => (y, x + right),
        (_, true, _, true) => (y - below, right + halves_swapped(x - right, columns)),
        _ => (y, x),
    };
    let mut made = Vec::with_capacity(image.len());
    for channel in image.chunks_exact(height * width) {
        made.extend((0..height * width).map(|at| {
            let (y, x) = source(at / width, at % width);
            channel[y * width + x]
        }));
    }
    made
}

/// Where position `i` of `n` comes from if the two halves change places.
fn halves_swapped(i: usize, n: usize) -> usize {
    let half = n / 2;
    match i {
        _ if i < half => i + n - half,
        _ if i >= n - half => i + half - n,
        _ => i,
    }
}
