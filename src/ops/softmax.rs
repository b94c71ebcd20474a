//! Softmax over the last dimension, with the gradient that candle's fused version lacks.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::BLOCK,
    float::{largest, sum, sum_of},
    fresh::fresh,
    op::{self, Array, Op},
};

/// eˣ / Σ eˣ over the last dimension; the gradient is dx = y·(dy − Σ y·dy).
///
/// # Errors
/// When `x` is a scalar or its rows are empty.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.dims().last().is_none_or(|len| *len == 0) {
        bail!("softmax: the rows of {:?} are empty", x.dims());
    }
    op::apply(Softmax, [x])
}

/// Rows of `len` elements that one parallel task handles.
pub(super) fn rows_a_task(len: usize) -> usize {
    (BLOCK / 4 / len).max(1)
}

fn row(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

struct Softmax;

impl Op<1> for Softmax {
    const NAME: &'static str = "softmax";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let len = row(x.shape);
        let y = fresh(x.data.len(), |y| {
            let rows = y.par_chunks(len).zip(x.data.par_chunks(len)).with_min_len(rows_a_task(len));
            let rows = rows.map(|(y, x)| {
                let most = largest(x);
                y.write_and(x.iter().map(move |x| (*x - most).exp()), |y| {
                    let factor = T::from_f64(1.0 / sum(y));
                    y.iter_mut().for_each(|y| *y *= factor);
                })
            });
            rows.sum()
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        Ok((cuda::softmax::softmax(x, row(x.shape()))?, x.shape().clone()))
    }

    fn gradients(&self, _: [&Tensor; 1], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&SoftmaxGradient, [y, dy])?)])
    }
}

/// (y, dY) to dX.
struct SoftmaxGradient;

impl Op<2> for SoftmaxGradient {
    const NAME: &'static str = "softmax's gradient";

    fn cpu<T: Float>(&self, [y, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let len = row(y.shape);
        let dx = fresh(y.data.len(), |dx| {
            let rows = dx.par_chunks(len).zip(y.data.par_chunks(len)).zip(dy.data.par_chunks(len));
            let rows = rows.with_min_len(rows_a_task(len)).map(|((dx, y), dy)| {
                let mean = T::from_f64(sum_of([y, dy], |[y, dy]| y * dy));
                dx.write(y.iter().zip(dy).map(move |(y, dy)| *y * (*dy - mean)))
            });
            rows.sum()
        });
        Ok((dx, y.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [y, dy]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::softmax::gradient(y, dy, row(y.shape()))?, y.shape().clone()))
    }
}
