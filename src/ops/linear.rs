//! A linear layer, bias inside, in parallel over blocks of rows.
//!
//! candle adds the bias in a tensor operation of its own, whose backward walks the gradient element by element.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    gemm::{Matrix, matmul},
    op::{self, Array, Op},
};

/// Rows of a result that one task computes; ours: a LeNet batch of 128 makes four tasks of some 30 µs.
const ROWS: usize = 32;

/// x·wᵀ + b for `x` (N, I), `weight` (O, I) and `bias` (O): (N, O), as PyTorch's `linear`.
///
/// # Errors
/// When the shapes do not fit or a size is 0: the batch must not be empty.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((rows, inputs), (outputs, expected)) = (x.dims2()?, weight.dims2()?);
    if inputs != expected || bias.dims() != [outputs] || [rows, inputs, outputs].contains(&0) {
        bail!("linear: input {:?}, weight {:?} and bias {:?} do not fit", x.dims(), weight.dims(), bias.dims());
    }
    op::apply(Linear, [x, weight, bias])
}

struct Linear;

impl Op<3> for Linear {
    const NAME: &'static str = "linear";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let ((rows, inputs), (outputs, _)) = (x.shape.dims2()?, weight.shape.dims2()?);
        let transposed = Matrix::new(weight.data, outputs, inputs).transposed();
        let mut y: Vec<T> = bias.data.iter().copied().cycle().take(rows * outputs).collect();
        y.par_chunks_mut(ROWS * outputs).zip(x.data.par_chunks(ROWS * inputs)).for_each(|(y, x)| {
            matmul(y, true, Matrix::new(x, x.len() / inputs, inputs), transposed);
        });
        Ok((y, (rows, outputs).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        cuda::linear::forward(x, weight, bias)
    }

    fn gradients(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        Ok([
            op::gradient(x, &InputGradient, [dy, weight])?,
            op::gradient(weight, &WeightGradient, [dy, x])?,
            op::gradient(bias, &BiasGradient, [dy])?,
        ])
    }
}

/// (dY, w) to dX = dY·w.
struct InputGradient;

impl Op<2> for InputGradient {
    const NAME: &'static str = "linear's input gradient";

    fn cpu<T: Float>(&self, [dy, weight]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let ((rows, outputs), (_, inputs)) = (dy.shape.dims2()?, weight.shape.dims2()?);
        let weight = Matrix::new(weight.data, outputs, inputs);
        let mut dx = vec![T::zero(); rows * inputs];
        dx.par_chunks_mut(ROWS * inputs).zip(dy.data.par_chunks(ROWS * outputs)).for_each(|(dx, dy)| {
            matmul(dx, false, Matrix::new(dy, dy.len() / outputs, outputs), weight);
        });
        Ok((dx, (rows, inputs).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy, weight]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        cuda::linear::input_gradient(dy, weight)
    }
}

/// (dY, x) to dW = dYᵀ·x.
struct WeightGradient;

impl Op<2> for WeightGradient {
    const NAME: &'static str = "linear's weight gradient";

    fn cpu<T: Float>(&self, [dy, x]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let ((rows, outputs), (_, inputs)) = (dy.shape.dims2()?, x.shape.dims2()?);
        let (dy, x) = (Matrix::new(dy.data, rows, outputs), Matrix::new(x.data, rows, inputs));
        let mut dw = vec![T::zero(); outputs * inputs];
        dw.par_chunks_mut(ROWS * inputs).enumerate().for_each(|(block, dw)| {
            let start = block * ROWS;
            matmul(dw, false, dy.columns(start..start + dw.len() / inputs).transposed(), x);
        });
        Ok((dw, (outputs, inputs).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy, x]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        cuda::linear::weight_gradient(dy, x)
    }
}

/// dY to dB, the sums of its columns.
struct BiasGradient;

impl Op<1> for BiasGradient {
    const NAME: &'static str = "linear's bias gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (_, outputs) = dy.shape.dims2()?;
        let mut sums = vec![0.0; outputs];
        for row in dy.data.chunks_exact(outputs) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value.to_f64();
            }
        }
        Ok((sums.into_iter().map(T::from_f64).collect(), outputs.into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        cuda::convolution::bias_gradient(dy)
    }
}
