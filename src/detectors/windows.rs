//! From a score of every window of an image to a map: the weighted mean of the windows that cover a place.

use candle_core::{DType, Device};

use super::{
    first_not_finite,
    resample::{Axis, resample},
};
use crate::{
    Error, Result,
    nn::{Shown, windows::Windowed},
};

/// What is read of the windows of images of one size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    name: &'static str,
    windows: crate::nn::windows::Windows,
    /// Rows and columns of images.
    pub size: [usize; 2],
    /// D.
    pub features: usize,
    /// Rows and columns of windows.
    pub grid: [usize; 2],
}

impl Layout {
    /// Of what a network shows.
    ///
    /// # Errors
    /// If the features have no rows and columns.
    pub fn of(seen: &Windowed) -> Result<Self> {
        let (_, features, rows, columns) = seen.features.dims4()?;
        Ok(Self { name: seen.name, windows: seen.windows, size: seen.size, features, grid: [rows, columns] })
    }

    /// Windows of an image.
    pub fn count(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// What the windows are called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Rows and columns of a window.
    pub fn side(&self) -> usize {
        self.windows.side
    }

    /// Pixels from a window to the next.
    pub fn stride(&self) -> usize {
        self.windows.stride
    }

    /// The features of each window of a batch whose first image is at position `start`: (N · h · w, D), image after image and row after row.
    ///
    /// # Errors
    /// [`Error::Input`] if the batch has other windows; [`Error::Failed`] naming the first image with a value that is NaN or infinite.
    pub fn read(&self, batch: &Shown, start: usize) -> Result<Vec<f32>> {
        let seen = batch.windows.iter().find(|seen| seen.name == self.name);
        let Some(seen) = seen.filter(|seen| Self::of(seen).is_ok_and(|layout| layout == *self)) else {
            let message = format!("the windows \"{}\" are not those that the detector learned", self.name);
            return Err(Error::input(message));
        };
        let rows = seen.features.permute((0, 2, 3, 1))?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let values = rows.flatten_all()?.to_vec1::<f32>()?;
        for (image, values) in values.chunks_exact(self.count() * self.features).enumerate() {
            if let Some(value) = first_not_finite(values) {
                let (name, image) = (self.name, start + image);
                return Err(Error::Failed(format!("the windows \"{name}\" of image {image} hold {value}")));
            }
        }
        Ok(values)
    }

    /// Rows and columns of a map whose cells have `cell` rows and columns of pixels; the last may have fewer.
    pub fn cells(&self, cell: usize) -> [usize; 2] {
        self.size.map(|pixels| pixels.div_ceil(cell))
    }

    /// The matrices that make a map of (h, w) values of windows, with cells of `cell` pixels. A window counts `weight` of how far its centre is
    /// from a cell's along an axis, in pixels. What no window covers has the value of the nearest.
    pub fn spread(&self, cell: usize, weight: impl Fn(f64) -> f64) -> [Axis; 2] {
        [0, 1].map(|axis| {
            let (last, Self { windows, size, .. }) = (self.grid[axis] - 1, self);
            let place = |at: usize| {
                let end = ((at + 1) * cell).min(size[axis]);
                // Twice the centre, which may lie between two pixels.
                let twice = at * cell + end - 1;
                let first = (twice / 2 + 1).saturating_sub(windows.side).div_ceil(windows.stride).min(last);
                let until = (twice / 2 / windows.stride).clamp(first, last);
                let away = |window: usize| {
                    (twice as f64 - (2 * window * windows.stride + windows.side - 1) as f64).abs() / 2.0
                };
                let weights: Vec<f64> = (first..=until).map(|window| weight(away(window))).collect();
                let sum: f64 = weights.iter().sum();
                (first, weights.into_iter().map(|weight| weight / sum).collect())
            };
            (0..size[axis].div_ceil(cell)).map(place).collect()
        })
    }

    /// The map of each image of (N, h, w) values of windows, one after another.
    pub fn maps(&self, values: &[f32], [down, across]: &[Axis; 2]) -> Vec<f32> {
        values.chunks_exact(self.count()).flat_map(|image| resample(image, self.grid[1], down, across)).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::nn::windows::Windows;

    fn layout(size: [usize; 2], side: usize, stride: usize) -> Layout {
        let windows = Windows { side, stride };
        let [rows, columns] = windows.grid(size).unwrap();
        let features = Tensor::zeros((1, 1, rows, columns), DType::F32, &Device::Cpu).unwrap();
        Layout::of(&Windowed { name: "patch", windows, size, features }).unwrap()
    }

    /// Pixel by pixel, the mean of all windows that cover it, as Patch SVDD's `distribute_score`.
    #[test]
    fn a_cell_has_the_mean_of_the_windows_that_cover_it() {
        let layout = layout([16, 12], 8, 2);
        let values: Vec<f32> = (0..layout.count()).map(|at| (at * 7 % 11) as f32).collect();
        let map = layout.maps(&values, &layout.spread(2, |_| 1.0));
        assert_eq!((layout.grid, layout.cells(2)), ([5, 3], [8, 6]));
        for (row, column) in (0..16).flat_map(|row| (0..12).map(move |column| (row, column))) {
            let covers = |at: usize, pixel: usize| (2 * at..2 * at + 8).contains(&pixel);
            let covering = (0..15).filter(|at| covers(at / 3, row) && covers(at % 3, column));
            let covering: Vec<f32> = covering.map(|at| values[at]).collect();
            let mean = covering.iter().sum::<f32>() / covering.len() as f32;
            let found = map[row / 2 * 6 + column / 2];
            assert!((found - mean).abs() < 1e-5, "{row}, {column}: {found}, not {mean}");
        }
    }

    #[test]
    fn a_gaussian_counts_near_windows_more_and_a_remainder_has_the_nearest() {
        let layout = layout([9, 4], 4, 4);
        let bell = |away: f64| (-0.5 * (away / 2.0).powi(2)).exp();
        let [down, across] = layout.spread(1, bell);
        assert_eq!(across, vec![(0, vec![1.0]); 4]);
        // Two windows without overlap, and a last row that none covers.
        assert_eq!(down[3..6], [(0, vec![1.0]), (1, vec![1.0]), (1, vec![1.0])]);
        assert_eq!(down[8], (1, vec![1.0]));
        let dense = super::tests::layout([8, 4], 4, 1);
        let [down, _] = dense.spread(1, bell);
        let (first, weights) = &down[3];
        // Row 3 is covered by the windows 0 to 3, whose centres are the rows 1.5 to 4.5.
        let expected: Vec<f64> = [1.5, 0.5, 0.5, 1.5].map(bell).to_vec();
        let sum: f64 = expected.iter().sum();
        assert_eq!(*first, 0);
        assert!(weights.iter().zip(&expected).all(|(found, weight)| (found - weight / sum).abs() < 1e-12));
    }
}
