//! Which positions of a grid are anomalous, of images whose pixels are marked.

use candle_core::{Device, Result, Tensor, bail};

use crate::data::enlarged::Marked;

/// 1 at positions of which at least the share `marked.cell` of the pixels is marked, 0 at the others: (N, rows, columns) f32 on the CPU.
/// Position i of n covers the pixels from ⌊i·H/n⌋ to ⌈(i + 1)·H/n⌉, as in adaptive pooling.
///
/// # Errors
/// If the grid has more positions than the images have pixels, or none.
pub(super) fn anomalous(marked: &Marked, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let [height, width] = marked.size;
    if rows == 0 || columns == 0 || rows > height || columns > width {
        bail!("a grid of {rows}×{columns} positions has no pixels of its own in images of {height}×{width}");
    }
    let covers =
        |at: usize, positions: usize, pixels: usize| at * pixels / positions..((at + 1) * pixels).div_ceil(positions);
    let mut cells = Vec::with_capacity(marked.images() * rows * columns);
    for mask in marked.pixels.chunks_exact(height * width) {
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let (down, across) = (covers(row, rows, height), covers(column, columns, width));
            let pixels = down.len() * across.len();
            let count: usize =
                down.map(|y| mask[y * width..][across.clone()].iter().filter(|mark| **mark != 0).count()).sum();
            let is = count > 0 && count as f64 >= marked.cell * pixels as f64;
            cells.push(f32::from(u8::from(is)));
        }
    }
    Tensor::from_vec(cells, (marked.images(), rows, columns), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_anomalous_from_its_share_of_pixels_on() -> Result<()> {
        // Two images of 4×6 pixels; of the first, one pixel of the first cell of 2×2 and two of the next.
        let mut pixels = vec![0; 48];
        [0, 2, 3, 24].iter().for_each(|at: &usize| pixels[*at] = 1);
        let cells = |cell, grid| -> Result<Vec<f32>> {
            let marked = Marked { pixels: pixels.clone(), size: [4, 6], cell, makers: vec![0; 2] };
            anomalous(&marked, grid)?.flatten_all()?.to_vec1()
        };
        assert_eq!(cells(0.25, [2, 3])?, [1., 1., 0., 0., 0., 0., 1., 0., 0., 0., 0., 0.]);
        assert_eq!(cells(0.3, [2, 3])?, [0., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]);
        // A share of 0 asks for one pixel. Positions that no whole pixels make up share some.
        assert_eq!(cells(0.0, [1, 1])?, [1., 1.]);
        assert_eq!(cells(0.125, [1, 4])?, [1., 1., 1., 0., 1., 0., 0., 0.]);
        assert!(cells(0.25, [5, 1]).is_err());
        Ok(())
    }
}
