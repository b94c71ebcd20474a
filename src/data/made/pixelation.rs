//! A fifth of the resolution.

use super::{Maker, Source};
use crate::{Result, rng::Rng};

/// These images.
pub(super) struct Pixelation;

impl Maker for Pixelation {
    fn make(&self, of: &Source, _: &mut Rng) -> Result<Vec<u8>> {
        Ok(pixelation(&of.image()?, of.shape()))
    }
}

/// An image (C, H, W) at a fifth of its rows and columns (of 32 at 6), and back: box filters both ways, as Pillow's `BOX`. A pixel
/// is of the cell that its centre is in, and cells are averaged first over columns, then over rows, each rounded.
pub fn pixelation(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (rows, columns) = ((height / 5).max(1), (width / 5).max(1));
    let mut made = Vec::with_capacity(image.len());
    for channel in image.chunks_exact(height * width) {
        let narrow: Vec<u8> = channel.chunks_exact(width).flat_map(|row| cell_means(row, columns)).collect();
        let small: Vec<Vec<u8>> = (0..columns)
            .map(|x| narrow.iter().skip(x).step_by(columns).copied().collect::<Vec<u8>>())
            .map(|column| cell_means(&column, rows))
            .collect();
        made.extend((0..height * width).map(|at| {
            let (y, x) = (at / width, at % width);
            small[(2 * x + 1) * columns / (2 * width)][(2 * y + 1) * rows / (2 * height)]
        }));
    }
    made
}

/// The rounded means of `cells` equal stretches, at most as many as there are values. A value on the border of two is of the first.
fn cell_means(values: &[u8], cells: usize) -> Vec<u8> {
    let mut sums = vec![(0u64, 0u64); cells];
    for (i, &value) in values.iter().enumerate() {
        let (sum, count) = &mut sums[((2 * i + 1) * cells).div_ceil(2 * values.len()) - 1];
        *sum += u64::from(value);
        *count += 1;
    }
    sums.into_iter().map(|(sum, count)| ((2 * sum + count) / (2 * count)) as u8).collect()
}
