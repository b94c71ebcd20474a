//! How many images fit one forward pass: told by shapes alone, so that the same network always gets the same batch.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::nn::{Model, Pass, Shape};

/// Images at most: larger passes gain nothing that could be measured, and smaller ones pay for re-ordering the weights
/// (docs/performance.md).
const MOST: usize = 256;

/// The batch whose feature maps need at most `memory` bytes in inference: a power of two, 1 to 256; 1 if no batch does.
///
/// What counts is what one image needs at once: the maps that the largest convolution reads, adds and writes, and those
/// kept as stages. Found by passing one image through the network.
pub fn batch_size(model: &dyn Model, shape: Shape, memory: usize, device: &Device) -> Result<usize> {
    let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, device)?;
    // One that judges passes through all that a model is used for.
    let pass = Pass::eval().judging(0);
    let shown = model.show(&image, &pass)?;
    let kept: usize = shown.stages.iter().map(|(_, maps)| bytes(maps)).sum();
    let fitting = (memory / (pass.largest() + kept).max(1)).clamp(1, MOST);
    Ok(1 << fitting.ilog2())
}

/// The same for passes whose graph is kept until they are differentiated by their images, and at most `most`. `image`: one, as the
/// network takes it.
///
/// What counts is what the convolutions of one image read, add and write altogether: the graph keeps it.
pub fn differentiable_batch_size(model: &dyn Model, image: &Tensor, memory: usize, most: usize) -> Result<usize> {
    let pass = Pass::eval();
    model.show(Var::from_tensor(image)?.as_tensor(), &pass)?;
    let fitting = (memory / pass.sum().max(1)).clamp(1, most.max(1));
    Ok(1 << fitting.ilog2())
}

/// Bytes of a tensor.
pub(super) fn bytes(map: &Tensor) -> usize {
    map.elem_count() * map.dtype().size_in_bytes()
}
