//! Classes as rows with a single 1.

use candle_core::{DType, Result, Tensor, bail};

/// (N) u32 labels to (N, `classes`) f32 with a single 1 in each row.
///
/// # Errors
/// If there is no label, or one is not below `classes`.
pub(crate) fn one_hot(labels: &Tensor, classes: usize) -> Result<Tensor> {
    if labels.elem_count() == 0 {
        bail!("there are no labels");
    }
    let largest = labels.max_all()?.to_scalar::<u32>()?;
    if largest as usize >= classes {
        bail!("the label {largest} is not one of {classes} classes");
    }
    let all = Tensor::arange(0, classes as u32, labels.device())?.unsqueeze(0)?;
    labels.unsqueeze(1)?.broadcast_eq(&all)?.to_dtype(DType::F32)
}
