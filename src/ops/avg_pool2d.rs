//! Average pooling.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    fresh::fresh,
    op::{self, Array, Op},
    pool::{Axis, Pool, Windows},
    wide::wide,
};

/// The mean of each window.
///
/// `x`: (N, C, H, W); result: (N, C, H', W'), see [`Pool`]. Padding counts as zeros when `count_include_pad` (PyTorch's
/// default); otherwise the mean is over the pixels alone. What `ceil_mode` adds never counts.
///
/// # Errors
/// When a window does not fit, a stride or kernel is 0, padding exceeds half of the kernel or there are no values.
pub fn avg_pool2d(x: &Tensor, pool: Pool, count_include_pad: bool) -> Result<Tensor> {
    let windows = pool.windows(x, AvgPool2d::NAME)?;
    op::apply(AvgPool2d { windows, count_include_pad }, [x])
}

#[derive(Debug, Clone, Copy)]
struct AvgPool2d {
    windows: Windows,
    count_include_pad: bool,
}

impl AvgPool2d {
    /// The share of an element in the mean of each window along an axis.
    fn shares<T: Float>(&self, axis: &Axis) -> Vec<T> {
        let len = |i| if self.count_include_pad { axis.padded_len(i) } else { axis.window(i).len() };
        (0..axis.count).map(|i| T::from_f64(1.0 / len(i) as f64)).collect()
    }
}

impl Op<1> for AvgPool2d {
    const NAME: &'static str = "avg_pool2d";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = x.shape.dims4()?;
        let Windows { rows, columns } = self.windows;
        let (row_shares, column_shares) = (self.shares::<T>(&rows), self.shares::<T>(&columns));
        let mean = |x: &[T], line: &mut [T], y: &mut [T]| {
            for ((r, y), row_share) in y.chunks_mut(columns.count).enumerate().zip(&row_shares) {
                let pixels = &mut line[columns.pixels()];
                pixels.fill(T::zero());
                for row in
                    x[rows.window(r).start * columns.size..rows.window(r).end * columns.size].chunks(columns.size)
                {
                    pixels.iter_mut().zip(row).for_each(|(sum, x)| *sum += *x);
                }
                for tap in 0..columns.kernel {
                    columns.gather(line, tap, y.iter_mut(), |sum, x| *sum += x);
                }
                y.iter_mut().zip(&column_shares).for_each(|(y, share)| *y *= *row_share * *share);
            }
        };
        let y = fresh(images * channels * self.windows.count(), |y| {
            let planes = y.par_chunks(self.windows.count()).zip(x.data.par_chunks(self.windows.pixels()));
            let line = || columns.line(T::zero());
            let planes = planes.with_min_len(self.windows.planes_a_task());
            planes.map_init(line, |line, (y, x)| wide!(y.fill(T::zero(), |y| mean(x, line, y)))).sum()
        });
        Ok((y, (images, channels, rows.count, columns.count).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = x.shape().dims4()?;
        let shape = (images, channels, self.windows.rows.count, self.windows.columns.count).into();
        Ok((cuda::pool::average(x, &shape, self.windows, self.count_include_pad)?, shape))
    }

    fn gradients(&self, _: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&AvgPool2dGradient(*self), [dy])?)])
    }
}

/// dY to dX.
struct AvgPool2dGradient(AvgPool2d);

impl Op<1> for AvgPool2dGradient {
    const NAME: &'static str = "avg_pool2d's gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = dy.shape.dims4()?;
        let windows = self.0.windows;
        let Windows { rows, columns } = windows;
        let (row_shares, column_shares) = (self.0.shares::<T>(&rows), self.0.shares::<T>(&columns));
        let distribute = |dy: &[T], [line, shared]: &mut [Vec<T>; 2], dx: &mut [T]| {
            for ((r, dy), row_share) in dy.chunks(columns.count).enumerate().zip(&row_shares) {
                let shares = shared.iter_mut().zip(dy.iter().zip(&column_shares));
                shares.for_each(|(shared, (dy, share))| *shared = *dy * (*row_share * *share));
                line.fill(T::zero());
                for tap in 0..columns.kernel {
                    columns.scatter(line, tap, shared);
                }
                let window = &mut dx[rows.window(r).start * columns.size..rows.window(r).end * columns.size];
                for row in window.chunks_mut(columns.size) {
                    row.iter_mut().zip(&line[columns.pixels()]).for_each(|(dx, part)| *dx += *part);
                }
            }
        };
        let dx = fresh(images * channels * windows.pixels(), |dx| {
            let planes = dx.par_chunks(windows.pixels()).zip(dy.data.par_chunks(windows.count()));
            let buffers = || [columns.line(T::zero()), vec![T::zero(); columns.count]];
            let planes = planes
                .with_min_len(windows.planes_a_task())
                .map_init(buffers, |buffers, (dx, dy)| wide!(dx.fill(T::zero(), |dx| distribute(dy, buffers, dx))));
            planes.sum()
        });
        Ok((dx, (images, channels, rows.size, columns.size).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = dy.shape().dims4()?;
        let windows = self.0.windows;
        let shape = (images, channels, windows.rows.size, windows.columns.size).into();
        Ok((cuda::pool::average_gradient(dy, &shape, windows, self.0.count_include_pad)?, shape))
    }
}
