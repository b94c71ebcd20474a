//! The operations against PyTorch (`tests/golden/make_layers.py`, `make_convolution.py`) and central differences.

mod adjoint;
#[path = "../common/mod.rs"]
mod common;
mod convolution;
mod device;
mod elementwise;
mod linear;
mod norms;
mod pools;
mod resize;
mod rows;
mod threads;

use candle_core::{DType, Result, Tensor, Var, backprop::GradStore};
use common::{assert_close, numbers, uniform, values};
use serde_json::{Value, json};

/// The cases of `make_layers.py`.
fn layers(section: &str) -> Vec<(String, Vec<usize>, Value)> {
    cases(include_str!("../golden/layers.json"), section)
}

fn cases(all: &str, section: &str) -> Vec<(String, Vec<usize>, Value)> {
    let all: Value = serde_json::from_str(all).unwrap();
    let cases = all[section].as_object().unwrap().iter();
    let cases = cases.map(|(key, case)| {
        (format!("{section} {key}"), key.split(' ').map(|size| size.parse().unwrap()).collect(), case.clone())
    });
    cases.collect()
}

/// `sample` of pattern.py: values at even distances, at least `most` of a large tensor.
fn sampled(tensor: &Tensor, most: usize) -> Vec<f64> {
    let values = values(tensor);
    values.iter().step_by((values.len() / most).max(1)).copied().collect()
}

fn variable(name: &str, shape: &[usize]) -> Var {
    Var::from_tensor(&uniform(name, shape)).unwrap()
}

/// sum(y · toward), whose gradients the golden values and the differences below are.
fn objective(y: &Tensor) -> Tensor {
    (y * uniform("toward", y.dims())).unwrap().sum_all().unwrap()
}

/// The gradients of [`objective`] of `f` equal central differences at up to 24 elements of each input.
fn check_differences(what: &str, inputs: &[&Var], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let at = |inputs: &[Tensor]| values(&objective(&f(inputs).unwrap()))[0];
    let tracked: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let gradients = objective(&f(&tracked).unwrap()).backward().unwrap();
    for (k, var) in inputs.iter().enumerate() {
        let gradient = values(gradients.get(var).unwrap());
        let mut moved: Vec<Tensor> = tracked.iter().map(Tensor::detach).collect();
        let original = values(var);
        const STEP: f64 = 1e-5;
        for i in (0..original.len()).step_by((original.len() / 24).max(1)) {
            let mut difference = 0.0;
            for sign in [1.0, -1.0] {
                let mut changed = original.clone();
                changed[i] += sign * STEP;
                moved[k] = Tensor::from_vec(changed, var.dims(), var.device()).unwrap();
                difference += sign * at(&moved) / (2.0 * STEP);
            }
            assert_close(&format!("{what}: input {k}, element {i}"), &[gradient[i]], &[difference], 1e-6);
        }
    }
}

fn check_samples(what: &str, y: &Tensor, inputs: &[(&str, &Var)], golden: &Value, most: usize) {
    assert_eq!(json!(y.dims()), golden["shape"], "{what}");
    assert_close(what, &sampled(y, most), &numbers(&golden["y"]), 1e-10);
    let gradients: GradStore = objective(y).backward().unwrap();
    for (name, var) in inputs {
        let expected = numbers(&golden[format!("d{name}")]);
        assert_close(&format!("{what} d{name}"), &sampled(gradients.get(var).unwrap(), most), &expected, 1e-10);
    }
}

/// `f` equals the golden values, and in f32 nearly itself in f64, gradients included.
fn check_layer(what: &str, inputs: &[(&str, &Var)], golden: &Value, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let tracked: Vec<Tensor> = inputs.iter().map(|(_, var)| var.as_tensor().clone()).collect();
    let y = f(&tracked).unwrap();
    check_samples(what, &y, inputs, golden, 16);
    let single = |var: &Var| Var::from_tensor(&var.to_dtype(DType::F32).unwrap()).unwrap();
    let singles: Vec<Var> = inputs.iter().map(|(_, var)| single(var)).collect();
    let at: Vec<Tensor> = singles.iter().map(|var| var.as_tensor().clone()).collect();
    let y_single = f(&at).unwrap();
    let close = |what: &str, actual: &Tensor, expected: &Tensor| {
        let (actual, expected) = (values(actual), values(expected));
        let size = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
        let scaled = |values: Vec<f64>| values.into_iter().map(|value| value / size).collect::<Vec<_>>();
        assert_close(what, &scaled(actual), &scaled(expected), 1e-5);
    };
    close(&format!("{what} f32"), &y_single, &y);
    let toward = uniform("toward", y.dims());
    let of = |y: &Tensor| (y * toward.to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    let (gradients, gradients_single) = (of(&y), of(&y_single));
    for ((name, var), single) in inputs.iter().zip(&singles) {
        let (actual, expected) = (gradients_single.get(single).unwrap(), gradients.get(var).unwrap());
        close(&format!("{what} d{name} f32"), actual, expected);
    }
}
