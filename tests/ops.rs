//! The operations against PyTorch (`tests/golden/make_ops.py`) and central differences.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var, backprop::GradStore};
use common::{assert_close, numbers, uniform, values};
use oodkit::{
    ops::{self, Activation, Convolution, Statistics},
    rng,
};
use serde_json::{Value, json};

fn golden(section: &str) -> Vec<(String, Vec<usize>, Value)> {
    let all: Value = serde_json::from_str(include_str!("golden/ops.json")).unwrap();
    let cases = all[section].as_object().unwrap().iter();
    let cases = cases.map(|(key, case)| {
        (format!("{section} {key}"), key.split(' ').map(|size| size.parse().unwrap()).collect(), case.clone())
    });
    cases.collect()
}

/// `sample` of pattern.py.
fn sampled(tensor: &Tensor) -> Vec<f64> {
    let values = values(tensor);
    values.iter().step_by((values.len() / 48).max(1)).copied().collect()
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
    assert_eq!(json!(y.dims()), golden["shape"], "{what}");
    assert_close(what, &sampled(y), &numbers(&golden["y"]), 1e-10);
    let gradients: GradStore = objective(y).backward().unwrap();
    for (name, var) in inputs {
        let expected = numbers(&golden[format!("d{name}")]);
        assert_close(&format!("{what} d{name}"), &sampled(gradients.get(var).unwrap()), &expected, 1e-10);
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
    assert!(ops::max_pool2d(&tensor(&[1, 2, 1, 4]), 2, 2, 0).is_err());
    assert!(ops::max_pool2d(&tensor(&[1, 2, 4, 4]), 2, 0, 0).is_err());
    assert!(ops::max_pool2d(&tensor(&[1, 2, 4, 4]), 2, 2, 2).is_err());
    assert!(ops::dropout(&tensor(&[2]), 1.0, rng::stream(0, "dropout", "")).is_err());
    let (x, good, bad) = (tensor(&[1, 2, 4, 4]), tensor(&[2]), tensor(&[3]));
    assert!(ops::batch_norm(&x, &good, &bad, &tensor(&[2, 2]), Statistics::Given, 1e-5, Activation::Relu).is_err());
    assert!(ops::relu(&Tensor::zeros(2, DType::U8, &Device::Cpu).unwrap()).is_err());
}

fn rounded(x: &Tensor) -> Tensor {
    ((x * 2.0).unwrap().round().unwrap() / 2.0).unwrap()
}

#[test]
fn max_pool2d_matches_pytorch_and_differences() {
    for (what, case, golden) in golden("max_pool2d") {
        let [n, c, h, w, kernel, stride, padding, ties] = case[..] else { panic!("{what}") };
        let x = uniform("x", &[n, c, h, w]);
        let x = Var::from_tensor(&if ties == 1 { rounded(&x) } else { x }).unwrap();
        check_golden(&what, &ops::max_pool2d(&x, kernel, stride, padding).unwrap(), &[("x", &x)], &golden);
        if ties == 0 {
            check_differences(&what, &[&x], |at| ops::max_pool2d(&at[0], kernel, stride, padding));
        }
    }
}

#[test]
fn nan_is_not_hidden() {
    let x = Tensor::new(&[f64::NAN, 1.0, 2.0, -1.0], &Device::Cpu).unwrap();
    assert!(values(&ops::relu(&x).unwrap())[0].is_nan());
    assert!(values(&ops::max_pool2d(&x.reshape((1, 1, 2, 2)).unwrap(), 2, 2, 0).unwrap())[0].is_nan());
}

#[test]
fn relu_matches_pytorch_at_zero_too() {
    for (what, shape, golden) in golden("relu") {
        let x = Var::from_tensor(&rounded(&uniform("x", &shape))).unwrap();
        check_golden(&what, &ops::relu(&x).unwrap(), &[("x", &x)], &golden);
        let away = variable("x", &shape);
        check_differences(&what, &[&away], |at| ops::relu(&at[0]));
    }
}

#[test]
fn batch_norm_matches_pytorch_and_differences() {
    for (what, case, golden) in golden("batch_norm") {
        let [n, c, h, w, training, relu] = case[..] else { panic!("{what}") };
        let (x, weight, bias) = (variable("x", &[n, c, h, w]), variable("weight", &[c]), variable("bias", &[c]));
        let running = [uniform("mean", &[c]), uniform("var", &[c]).affine(0.5, 1.0).unwrap()];
        let apply = |at: &[Tensor]| {
            let (moments, statistics) = match training {
                1 => (ops::moments(&at[0])?, Statistics::Batch),
                _ => (Tensor::stack(&running, 0)?, Statistics::Given),
            };
            let activation = if relu == 1 { Activation::Relu } else { Activation::Identity };
            ops::batch_norm(&at[0], &at[1], &at[2], &moments, statistics, 1e-5, activation)
        };
        let inputs = [&x, &weight, &bias];
        let y = apply(&inputs.map(|var| var.as_tensor().clone())).unwrap();
        check_golden(&what, &y, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden);
        check_differences(&what, &inputs, apply);
    }
}

#[test]
fn global_average_is_the_mean() {
    let x = variable("x", &[2, 3, 4, 5]);
    let average = values(&ops::global_avg_pool2d(&x).unwrap());
    let expected: Vec<f64> = values(&x).chunks(20).map(|plane| plane.iter().sum::<f64>() / 20.0).collect();
    assert_close("global average", &average, &expected, 1e-12);
    check_differences("global average", &[&x], |at| ops::global_avg_pool2d(&at[0]));
}

#[test]
fn dropout_keeps_the_mean_and_drops_by_stream() {
    let x = Var::from_tensor(&Tensor::ones((50, 1000), DType::F64, &Device::Cpu).unwrap()).unwrap();
    let stream = |step: &str| rng::stream(0, "dropout/block", step);
    let y = ops::dropout(&x, 0.3, stream("0")).unwrap();
    let dropped = values(&y);
    assert!(dropped.iter().all(|value| *value == 0.0 || (value - 1.0 / 0.7).abs() < 1e-12));
    let share = dropped.iter().filter(|value| **value == 0.0).count() as f64 / 5e4;
    assert!((share - 0.3).abs() < 0.01, "{share}");
    assert_eq!(values(&ops::dropout(&x, 0.3, stream("0")).unwrap()), dropped);
    assert_ne!(values(&ops::dropout(&x, 0.3, stream("1")).unwrap()), dropped);
    // The gradient passes the same elements with the same factor.
    assert_eq!(values(y.sum_all().unwrap().backward().unwrap().get(&x).unwrap()), dropped);
    // Word i decides element i, whatever the size and however it is split.
    let shorter = ops::dropout(&x.narrow(0, 0, 20).unwrap(), 0.3, stream("0")).unwrap();
    assert_eq!(values(&shorter), dropped[..20_000]);
    check_differences("dropout", &[&variable("x", &[3, 7])], |at| ops::dropout(&at[0], 0.3, stream("0")));
}
