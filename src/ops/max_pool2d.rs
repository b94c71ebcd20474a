//! Max-pooling with a correct gradient.
//!
//! candle 0.11.1 divides the gradient of its max-pool by the window's size, trains every layer below with a fraction of
//! its gradient, and refuses overlapping windows and padding.

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

/// The largest value of each window.
///
/// `x`: (N, C, H, W); result: (N, C, H', W'), see [`Pool`]. Padding counts as −∞. NaN wins, as in PyTorch; among equal
/// values the first (row by row) gets the gradient, as in PyTorch.
///
/// # Errors
/// When a window does not fit, a stride or kernel is 0, padding exceeds half of the kernel or there are no values.
pub fn max_pool2d(x: &Tensor, pool: Pool) -> Result<Tensor> {
    op::apply(MaxPool2d(pool.windows(x, MaxPool2d::NAME)?), [x])
}

#[derive(Debug, Clone, Copy)]
struct MaxPool2d(Windows);

/// Whether `new` replaces `old` as the largest: NaN does, and is never replaced but by NaN.
#[inline(always)]
pub(super) fn wins<T: Float>(new: T, old: T) -> bool {
    new > old || new.is_nan()
}

impl MaxPool2d {
    /// The largest of each window of plane `x`, whose windows' rows are taken together before their columns. `line`: a
    /// line of −∞.
    #[inline(always)]
    fn largest<T: Float>(&self, x: &[T], line: &mut [T], y: &mut [T]) {
        let Windows { rows, columns } = self.0;
        for (r, y) in y.chunks_mut(columns.count).enumerate() {
            let mut window =
                x[rows.window(r).start * columns.size..rows.window(r).end * columns.size].chunks(columns.size);
            let pixels = &mut line[columns.pixels()];
            if let Some(first) = window.next() {
                pixels.copy_from_slice(first);
            }
            for row in window {
                pixels.iter_mut().zip(row).for_each(|(most, x)| *most = if wins(*x, *most) { *x } else { *most });
            }
            for tap in 0..columns.kernel {
                columns.gather(line, tap, y.iter_mut(), |most, x| *most = if wins(x, *most) { x } else { *most });
            }
        }
    }
}

impl Op<1> for MaxPool2d {
    const NAME: &'static str = "max_pool2d";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, _, _) = x.shape.dims4()?;
        let windows = self.0;
        let y = fresh(images * channels * windows.count(), |y| {
            let planes = y.par_chunks(windows.count()).zip(x.data.par_chunks(windows.pixels()));
            let line = || windows.columns.line(T::LOWEST);
            let planes = planes
                .with_min_len(windows.planes_a_task())
                .map_init(line, |line, (y, x)| wide!(y.fill(T::LOWEST, |y| self.largest(x, line, y))));
            planes.sum()
        });
        Ok((y, (images, channels, windows.rows.count, windows.columns.count).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels, _, _) = x.shape().dims4()?;
        let shape = (images, channels, self.0.rows.count, self.0.columns.count).into();
        Ok((cuda::pool::max(x, &shape, self.0)?, shape))
    }

    fn gradients(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&MaxPool2dGradient(self.0), [x, dy])?)])
    }
}

/// (x, dY) to dX.
pub(super) struct MaxPool2dGradient(pub(super) Windows);

/// What the windows of one row know.
struct Search<T> {
    /// A row of x between −∞.
    line: Vec<T>,
    /// The largest value so far of each window.
    most: Vec<T>,
    /// Where it was found: the position in the plane, less the window's first column.
    places: Vec<u32>,
}

impl MaxPool2dGradient {
    /// [`MaxPool2dGradient::distribute`] for 2×2 windows side by side, which most networks have: no window knows of
    /// another, so that each is settled in registers.
    #[inline(always)]
    fn settle<T: Float>(&self, x: &[T], dy: &[T], dx: &mut [T]) {
        let Windows { rows, columns } = self.0;
        let (width, two) = (columns.size, 2 * columns.size);
        let pairs = dx.chunks_exact_mut(two).zip(x.chunks_exact(two)).zip(dy.chunks_exact(columns.count));
        for ((dx, x), dy) in pairs.take(rows.count) {
            let (dx, x) = (dx.split_at_mut(width), x.split_at(width));
            let dx = dx.0.as_chunks_mut::<2>().0.iter_mut().zip(dx.1.as_chunks_mut::<2>().0);
            let x = x.0.as_chunks::<2>().0.iter().zip(x.1.as_chunks::<2>().0);
            for (((above, below), (a, b)), dy) in dx.zip(x).zip(dy) {
                let (mut most, mut place) = (a[0], 0u32);
                for (here, value) in [(1, a[1]), (2, b[0]), (3, b[1])] {
                    let wins = wins(value, most);
                    most = if wins { value } else { most };
                    place = if wins { here } else { place };
                }
                let to = |here| if place == here { *dy } else { T::zero() };
                *above = [to(0), to(1)];
                *below = [to(2), to(3)];
            }
        }
    }

    /// Whether [`MaxPool2dGradient::settle`] is for these windows.
    fn is_quartering(&self) -> bool {
        let quartering =
            |axis: Axis| axis.kernel == 2 && axis.stride == 2 && axis.padding == 0 && axis.count * 2 <= axis.size;
        quartering(self.0.rows) && quartering(self.0.columns)
    }

    /// Adds the gradient of each window to the first of its largest elements.
    #[inline(always)]
    fn distribute<T: Float>(&self, x: &[T], dy: &[T], search: &mut Search<T>, dx: &mut [T]) {
        let Windows { rows, columns } = self.0;
        let Search { line, most, places } = search;
        for (r, dy) in dy.chunks(columns.count).enumerate() {
            let window = rows.window(r);
            // Where all are −∞, the first pixel wins.
            most.fill(T::LOWEST);
            for (q, place) in places.iter_mut().enumerate() {
                let first = columns.padding.saturating_sub(q * columns.stride);
                *place = (window.start * columns.size + first) as u32;
            }
            for row in window {
                line[columns.pixels()].copy_from_slice(&x[row * columns.size..][..columns.size]);
                for tap in 0..columns.kernel {
                    let here = (row * columns.size + tap) as u32;
                    columns.gather(line, tap, most.iter_mut().zip(places.iter_mut()), |(most, place), x| {
                        let wins = wins(x, *most);
                        *most = if wins { x } else { *most };
                        *place = if wins { here } else { *place };
                    });
                }
            }
            for (q, (place, dy)) in places.iter().zip(dy).enumerate() {
                dx[*place as usize + q * columns.stride - columns.padding] += *dy;
            }
        }
    }
}

impl Op<2> for MaxPool2dGradient {
    const NAME: &'static str = "max_pool2d's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let windows = self.0;
        let dx = fresh(x.data.len(), |dx| {
            let planes = dx.par_chunks(windows.pixels()).zip(x.data.par_chunks(windows.pixels()));
            let planes = planes.zip(dy.data.par_chunks(windows.count())).with_min_len(windows.planes_a_task());
            let search = || Search {
                line: windows.columns.line(T::LOWEST),
                most: vec![T::LOWEST; windows.columns.count],
                places: vec![0; windows.columns.count],
            };
            let planes = planes.map_init(search, |search, ((dx, x), dy)| {
                wide!({
                    dx.fill(T::zero(), |dx| match self.is_quartering() {
                        true => self.settle(x, dy, dx),
                        false => self.distribute(x, dy, search, dx),
                    })
                })
            });
            planes.sum()
        });
        Ok((dx, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::pool::max_gradient(x, dy, self.0)?, x.shape().clone()))
    }
}
