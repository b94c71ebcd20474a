//! The operations against PyTorch (`tests/golden/make_ops.py`) and central differences.

mod adjoint;
#[path = "../common/mod.rs"]
mod common;
mod elementwise;
mod norms;
mod pools;
mod resize;
mod rows;
mod threads;

use candle_core::{DType, Device, Result, Tensor, Var, backprop::GradStore};
use common::{assert_close, numbers, uniform, values};
use oodkit::ops::{self, Convolution};
use serde_json::{Value, json};

fn golden(section: &str) -> Vec<(String, Vec<usize>, Value)> {
    cases(include_str!("../golden/ops.json"), section)
}

/// The same from `make_layers.py`.
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
                moved[k] = Tensor::from_vec(changed, var.dims(), &Device::Cpu).unwrap();
                difference += sign * at(&moved) / (2.0 * STEP);
            }
            assert_close(&format!("{what}: input {k}, element {i}"), &[gradient[i]], &[difference], 1e-6);
        }
    }
}

fn check_golden(what: &str, y: &Tensor, inputs: &[(&str, &Var)], golden: &Value) {
    check_samples(what, y, inputs, golden, 48);
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

#[test]
fn conv2d_matches_pytorch_and_differences() {
    for (what, case, golden) in golden("conv2d") {
        let [n, c, h, w, o, kh, kw, stride, padding] = case[..] else { panic!("{what}") };
        let (x, weight, bias) =
            (variable("x", &[n, c, h, w]), variable("weight", &[o, c, kh, kw]), variable("bias", &[o]));
        let y = ops::conv2d(&x, &weight, Some(&bias), Convolution::new(stride, padding)).unwrap();
        check_golden(&what, &y, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden);
        check_differences(&what, &[&x, &weight, &bias], |at| {
            ops::conv2d(&at[0], &at[1], Some(&at[2]), Convolution::new(stride, padding))
        });
        let without = ops::conv2d(&x, &weight, None, Convolution::new(stride, padding)).unwrap();
        let shifted = without.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap();
        assert_close(&what, &values(&shifted), &values(&y), 1e-12);
    }
}

#[test]
fn conv2d_takes_any_layout_and_skips_a_gradient_that_nothing_needs() {
    let (x, weight) = (uniform("x", &[2, 5, 6, 3]), variable("weight", &[2, 3, 3, 3]));
    let x = x.permute((0, 3, 2, 1)).unwrap();
    let y = ops::conv2d(&x, &weight, None, Convolution::new(1, 1)).unwrap();
    let copied = ops::conv2d(&x.contiguous().unwrap(), &weight, None, Convolution::new(1, 1)).unwrap();
    assert_eq!(values(&y), values(&copied));
    // A sum hands a gradient with strides of 0 back.
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&weight).is_some() && gradients.get(&x).is_none());
}

#[test]
fn conv2d_in_f32_is_close_to_f64_and_repeats_its_bits() {
    let (x, weight) = (uniform("x", &[37, 3, 9, 9]), uniform("weight", &[8, 3, 3, 3]));
    let exact = values(&ops::conv2d(&x, &weight, None, Convolution::new(1, 1)).unwrap());
    let run = || {
        let (x, weight) =
            (Var::from_tensor(&x.to_dtype(DType::F32).unwrap()).unwrap(), weight.to_dtype(DType::F32).unwrap());
        let weight = Var::from_tensor(&weight).unwrap();
        let y = ops::conv2d(&x, &weight, None, Convolution::new(1, 1)).unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        [values(&y), values(gradients.get(&weight).unwrap()), values(gradients.get(&x).unwrap())]
    };
    let first = run();
    assert_close("f32", &first[0], &exact, 1e-5);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(run), first, "{threads} threads");
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let tensor = |shape: &[usize]| uniform("x", shape);
    assert!(ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[1, 3, 3, 3]), None, Convolution::new(1, 0)).is_err());
    assert!(ops::conv2d(&tensor(&[1, 2, 2, 4]), &tensor(&[1, 2, 3, 3]), None, Convolution::new(1, 0)).is_err());
    assert!(ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[1, 2, 3, 3]), None, Convolution::new(0, 0)).is_err());
    assert!(
        ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[5, 2, 3, 3]), Some(&tensor(&[4])), Convolution::new(1, 0))
            .is_err()
    );
}
