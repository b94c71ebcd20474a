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

/// What the golden files hold of the gradient of a parameter: its norm, and its product with a direction.
pub fn directional(name: &str, gradient: &Tensor) -> [f64; 2] {
    let toward = values(&uniform(&format!("toward {name}"), gradient.dims()));
    let gradient = values(gradient);
    let norm = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
    [norm, gradient.iter().zip(toward).map(|(value, toward)| value * toward).sum()]
}

/// At least `most` of the elements, evenly spread, or all.
pub fn sampled(tensor: &Tensor, most: usize) -> Vec<f64> {
    let values = values(tensor);
    values.iter().step_by((values.len() / most).max(1)).copied().collect()
}
