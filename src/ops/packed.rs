//! The gradients of a normalisation in one array, because a custom operation has one result: dX, then dW, then db.

use candle_core::{Result, Shape, Tensor};

/// The three gradients. `x`: the input's shape; `channels`: the number of weights.
pub(super) fn unpack(packed: &Tensor, x: &Shape, channels: usize) -> Result<[Option<Tensor>; 3]> {
    let dx = packed.narrow(0, 0, x.elem_count())?.reshape(x)?;
    // Copied, because a view would keep the large array alive as long as an optimiser keeps the gradient.
    let parameter = |i: usize| packed.narrow(0, x.elem_count() + i * channels, channels)?.force_contiguous();
    Ok([Some(dx), Some(parameter(0)?), Some(parameter(1)?)])
}
