//! Linear layers: matrix products (cuBLAS), with the bias kernels of convolution.cu.

use candle_core::{Layout, Result, Shape};

use super::{Gpu, View, convolution};
use crate::ops::Activation;

/// `view` as a matrix of these sizes, or its transpose.
fn matrix<G>(view: View<'_, G>, rows: usize, columns: usize, transposed: bool) -> Result<Layout> {
    let layout = Layout::contiguous_with_offset((1, rows, columns), view.layout.start_offset());
    if transposed { layout.transpose(1, 2) } else { Ok(layout) }
}

/// x·Wᵀ + b for x (N, I), W (O, I), b (O).
pub(in crate::ops) fn forward<G: Gpu>(x: View<'_, G>, weight: View<'_, G>, bias: View<'_, G>) -> Result<(G, Shape)> {
    let ((rows, inputs), (outputs, _)) = (x.shape().dims2()?, weight.shape().dims2()?);
    let (left, right) = (matrix(x, rows, inputs, false)?, matrix(weight, outputs, inputs, true)?);
    let mut y = x.memory.matmul(weight.memory, (1, rows, outputs, inputs), &left, &right)?;
    let shape = (rows, outputs).into();
    convolution::finish(&mut y, &shape, weight, Some(bias), None, Activation::Identity)?;
    Ok((y, shape))
}

/// dX = dY·W.
pub(in crate::ops) fn input_gradient<G: Gpu>(dy: View<'_, G>, weight: View<'_, G>) -> Result<(G, Shape)> {
    let ((rows, outputs), (_, inputs)) = (dy.shape().dims2()?, weight.shape().dims2()?);
    let (left, right) = (matrix(dy, rows, outputs, false)?, matrix(weight, outputs, inputs, false)?);
    Ok((dy.memory.matmul(weight.memory, (1, rows, inputs, outputs), &left, &right)?, (rows, inputs).into()))
}

/// dW = dYᵀ·X.
pub(in crate::ops) fn weight_gradient<G: Gpu>(dy: View<'_, G>, x: View<'_, G>) -> Result<(G, Shape)> {
    let ((rows, outputs), (_, inputs)) = (dy.shape().dims2()?, x.shape().dims2()?);
    let (left, right) = (matrix(dy, rows, outputs, true)?, matrix(x, rows, inputs, false)?);
    Ok((dy.memory.matmul(x.memory, (1, outputs, inputs, rows), &left, &right)?, (outputs, inputs).into()))
}
