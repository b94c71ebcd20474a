//! The weights of the golden networks, and which of their values are compared.

use candle_core::{DType, Tensor};

use crate::common::{uniform, values};

/// What a parameter of this name holds in the golden networks, f32: such that values neither vanish nor grow from layer to layer.
pub fn parameter(name: &str, shape: &[usize]) -> Tensor {
    let values = uniform(name, shape);
    let scaled = if name.ends_with(".N") {
        // DUQ's counts of images.
        values + 12.0
    } else if shape.len() >= 2 {
        values * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
    } else if name.ends_with("running_var") || name.ends_with("weight") {
        values.affine(0.3, 1.0)
    } else {
        values * 0.1
    };
    scaled.unwrap().to_dtype(DType::F32).unwrap()
}

/// At least `most` of the elements, evenly spread, or all.
pub fn sampled(tensor: &Tensor, most: usize) -> Vec<f64> {
    let values = values(tensor);
    values.iter().step_by((values.len() / most).max(1)).copied().collect()
}
