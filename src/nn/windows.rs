//! Squares of an image that a network sees one by one.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

/// Squares at every `stride` pixels, from the first row and column on; what is left at the end of an axis is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Rows and columns of each.
    pub side: usize,
    /// Pixels from one to the next along an axis.
    pub stride: usize,
}

impl Windows {
    /// Rows and columns of windows in an image of so many rows and columns; `None` if a window has no room in it.
    pub fn grid(self, size: [usize; 2]) -> Option<[usize; 2]> {
        let [rows, columns] = size.map(|pixels| Some(pixels.checked_sub(self.side)? / self.stride + 1));
        Some([rows?, columns?])
    }

    /// These windows of (N, C, H, W) images, by their places image after image and row after row: (K, C, side, side) of K places below N · h · w.
    ///
    /// # Errors
    /// If there is no room for one, or no such place.
    pub fn of(self, images: &Tensor, places: Range<usize>) -> Result<Tensor> {
        let (_, _, height, width) = images.dims4()?;
        let Some([rows, columns]) = self.grid([height, width]) else {
            bail!("images of {height}×{width} have no window of {0}×{0}", self.side)
        };
        let window = |place: usize| {
            let (image, row, column) = (place / (rows * columns), place / columns % rows, place % columns);
            let band = images.narrow(0, image, 1)?.narrow(2, row * self.stride, self.side)?;
            band.narrow(3, column * self.stride, self.side)
        };
        Tensor::cat(&places.map(window).collect::<Result<Vec<_>>>()?, 0)
    }
}

/// What a network shows of an image's windows.
#[derive(Debug, Clone)]
pub struct Windowed {
    /// What it is called.
    pub name: &'static str,
    /// Where the windows lie.
    pub windows: Windows,
    /// Rows and columns of the images.
    pub size: [usize; 2],
    /// (N, D, h, w) f32, the features of each.
    pub features: Tensor,
}

/// Pairs of patches of one size that a network sees while it learns, of each image one of each kind.
#[derive(Debug, Clone)]
pub struct PatchPairs {
    /// (N, 8), before softmax: in which direction the second of two patches lies, seen from the first.
    pub logits: Tensor,
    /// (N) u32, the direction.
    pub directions: Tensor,
    /// (N, D) each, the embeddings of two patches that lie nearly at one place.
    pub near: [Tensor; 2],
}
