//! The windows of pooling operations, and how lines of pixels meet them.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::{Float, elementwise::BLOCK};

/// The windows of a pooling operation; rows first in every pair.
///
/// There are (size + 2·padding − kernel) / stride + 1 of them along an axis, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// From one window to the next.
    pub stride: [usize; 2],
    /// Rows above and below, columns on either side; at most half of the kernel.
    pub padding: [usize; 2],
    /// Rounds the number of windows up instead, as PyTorch does: unless the last one would begin beyond the image and its
    /// first padding.
    pub ceil_mode: bool,
}

impl Pool {
    /// Square windows, rounded down.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], ceil_mode: false }
    }

    /// The windows over `x` (N, C, H, W); `name` is the operation's, for the error.
    pub(super) fn windows(&self, x: &Tensor, name: &str) -> Result<Windows> {
        let (_, _, height, width) = x.dims4()?;
        let axis =
            |i: usize, size: usize| Axis::new(size, self.kernel[i], self.stride[i], self.padding[i], self.ceil_mode);
        match (axis(0, height), axis(1, width)) {
            // Positions in a plane fit 32 bits: they stand beside f32 values in vectors.
            (Some(rows), Some(columns)) if x.elem_count() > 0 && u32::try_from(height * width).is_ok() => {
                Ok(Windows { rows, columns })
            }
            _ => bail!("{name}: input {:?} and {self:?} do not fit", x.dims()),
        }
    }
}

/// The windows over a plane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) rows: Axis,
    pub(super) columns: Axis,
}

impl Windows {
    /// Pixels of a plane.
    pub(super) fn pixels(&self) -> usize {
        self.rows.size * self.columns.size
    }

    /// Windows over a plane.
    pub(super) fn count(&self) -> usize {
        self.rows.count * self.columns.count
    }

    /// Planes that one parallel task handles.
    pub(super) fn planes_a_task(&self) -> usize {
        (BLOCK / self.pixels()).max(1)
    }
}

/// The windows along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// Pixels.
    pub(super) size: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Windows.
    pub(super) count: usize,
}

impl Axis {
    fn new(size: usize, kernel: usize, stride: usize, padding: usize, ceil_mode: bool) -> Option<Self> {
        if kernel == 0 || stride == 0 || padding > kernel / 2 || size == 0 {
            return None;
        }
        let up = if ceil_mode { stride - 1 } else { 0 };
        let last = size.checked_add(2 * padding)?.checked_add(up)?.checked_sub(kernel)? / stride;
        let beyond = last * stride >= size + padding;
        Some(Self { size, kernel, stride, padding, count: if ceil_mode && beyond { last } else { last + 1 } })
    }

    /// The pixels of window `i`.
    pub(super) fn window(&self, i: usize) -> Range<usize> {
        let start = i * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel).saturating_sub(self.padding).min(self.size)
    }

    /// Positions of window `i` that are pixels or padding, but not what rounding up adds.
    pub(super) fn padded_len(&self, i: usize) -> usize {
        let start = i * self.stride;
        (start + self.kernel).min(self.size + 2 * self.padding) - start
    }

    /// A line with room for padding: pixel p at p + padding, so that window i begins at i·stride.
    pub(super) fn line<T: Float>(&self, value: T) -> Vec<T> {
        vec![value; (self.count * self.stride + self.kernel).max(self.size + self.padding)]
    }

    /// Where in a [`Axis::line`] the pixels are.
    pub(super) fn pixels(&self) -> Range<usize> {
        self.padding..self.padding + self.size
    }

    /// Calls `visit` with each window's value and the element of `line` at its place `tap`.
    #[inline(always)]
    pub(super) fn gather<T: Float, U>(
        &self,
        line: &[T],
        tap: usize,
        windows: impl Iterator<Item = U>,
        visit: impl Fn(U, T),
    ) {
        let line = &line[tap..];
        match self.stride {
            1 => windows.zip(line).for_each(|(window, value)| visit(window, *value)),
            2 => windows.zip(line.as_chunks::<2>().0).for_each(|(window, pair)| visit(window, pair[0])),
            stride => windows.zip(line.iter().step_by(stride)).for_each(|(window, value)| visit(window, *value)),
        }
    }

    /// Adds each window's value to the element of `line` at its place `tap`.
    #[inline(always)]
    pub(super) fn scatter<T: Float>(&self, line: &mut [T], tap: usize, windows: &[T]) {
        let line = &mut line[tap..];
        match self.stride {
            1 => line.iter_mut().zip(windows).for_each(|(to, value)| *to += *value),
            2 => line.as_chunks_mut::<2>().0.iter_mut().zip(windows).for_each(|(pair, value)| pair[0] += *value),
            stride => line.iter_mut().step_by(stride).zip(windows).for_each(|(to, value)| *to += *value),
        }
    }
}
