//! Max-pooling with a correct gradient.
//!
//! candle 0.11.1 divides the gradient of its max-pool by the window's size, trains every layer below with a fraction of
//! its gradient, and refuses overlapping windows and padding.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    op::{self, Array, Op},
};

/// The largest value of each `kernel`×`kernel` window.
///
/// `x`: (N, C, H, W); result: (N, C, H', W') with H' = (H + 2·padding − kernel) / stride + 1, rounded down. Padding
/// counts as −∞. NaN wins, as in PyTorch; among equal values the first (row by row) gets the gradient, as in PyTorch.
///
/// # Errors
/// When the window does not fit, `stride` or `kernel` is 0, or `padding` exceeds half of `kernel`.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let fits = height.min(width) + 2 * padding >= kernel;
    if kernel == 0 || stride == 0 || 2 * padding > kernel || !fits || height * width == 0 {
        bail!("max_pool2d: input {:?}, kernel {kernel}, stride {stride}, padding {padding} do not fit", x.dims());
    }
    op::apply(MaxPool2d { kernel, stride, padding }, [x])
}

#[derive(Debug, Clone, Copy)]
struct MaxPool2d {
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl MaxPool2d {
    fn output_size(&self, input: usize) -> usize {
        (input + 2 * self.padding - self.kernel) / self.stride + 1
    }

    #[cfg(any(feature = "cuda", test))]
    fn window_of_both_axes(&self) -> cuda::pool::Window {
        cuda::pool::Window { kernel: [self.kernel; 2], stride: [self.stride; 2], padding: [self.padding; 2] }
    }

    /// Input positions of window `r` along one axis of `size` positions.
    fn window(&self, r: usize, size: usize) -> std::ops::Range<usize> {
        let start = r * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel).saturating_sub(self.padding).min(size)
    }

    /// The position of the largest value in each window of one plane, row by row.
    fn for_each_winner<T: Float>(&self, plane: &[T], height: usize, width: usize, mut visit: impl FnMut(usize)) {
        for r in 0..self.output_size(height) {
            let rows = self.window(r, height);
            for q in 0..self.output_size(width) {
                let columns = self.window(q, width);
                let mut winner = rows.start * width + columns.start;
                let mut largest = plane[winner];
                for row in rows.clone() {
                    let start = row * width + columns.start;
                    for (offset, value) in plane[start..row * width + columns.end].iter().enumerate() {
                        // The second test is true for NaN only.
                        #[expect(clippy::eq_op, reason = "WithDType has no is_nan")]
                        if *value > largest || *value != *value {
                            (winner, largest) = (start + offset, *value);
                        }
                    }
                }
                visit(winner);
            }
        }
    }
}

impl Op<1> for MaxPool2d {
    const NAME: &'static str = "max_pool2d";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, height, width) = x.shape.dims4()?;
        let (out_height, out_width) = (self.output_size(height), self.output_size(width));
        let mut y = vec![T::zero(); images * channels * out_height * out_width];
        let planes = y.par_chunks_mut(out_height * out_width).zip(x.data.par_chunks(height * width));
        planes.with_min_len(8).for_each(|(y, x)| {
            let mut y = y.iter_mut();
            self.for_each_winner(x, height, width, |winner| {
                if let Some(y) = y.next() {
                    *y = x[winner];
                }
            });
        });
        Ok((y, (images, channels, out_height, out_width).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, height, width) = x.shape().dims4()?;
        let shape = (images, channels, self.output_size(height), self.output_size(width)).into();
        Ok((cuda::pool::forward("max_pool", x, &shape, self.window_of_both_axes())?, shape))
    }

    fn gradients(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&MaxPool2dGradient(*self), [x, dy])?)])
    }
}

/// (x, dY) to dX.
struct MaxPool2dGradient(MaxPool2d);

impl Op<2> for MaxPool2dGradient {
    const NAME: &'static str = "max_pool2d's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let (_, _, height, width) = x.shape.dims4()?;
        let mut dx = vec![T::zero(); x.data.len()];
        let windows = self.0.output_size(height) * self.0.output_size(width);
        let inputs = x.data.par_chunks(height * width).zip(dy.data.par_chunks(windows));
        dx.par_chunks_mut(height * width).zip(inputs).with_min_len(8).for_each(|(dx, (x, dy))| {
            let mut dy = dy.iter();
            self.0.for_each_winner(x, height, width, |winner| {
                if let Some(dy) = dy.next() {
                    dx[winner] += *dy;
                }
            });
        });
        Ok((dx, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::pool::max_gradient(x, dy, self.0.window_of_both_axes())?, x.shape().clone()))
    }
}
