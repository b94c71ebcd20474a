//! The linear layer against PyTorch, candle's matrix product and central differences.

use candle_core::{DType, Device, Tensor};
use oodkit::ops;

use crate::{
    check_differences, check_layer,
    common::{assert_close, uniform, values},
    layers, objective, variable,
};

crate::device::on_each_device! {
    linear_matches_pytorch_and_differences,
}

fn linear_matches_pytorch_and_differences() {
    for (what, case, golden) in layers("linear") {
        let [n, i, o] = case[..] else { panic!("{what}") };
        let (x, weight, bias) = (variable("x", &[n, i]), variable("weight", &[o, i]), variable("bias", &[o]));
        let apply = |at: &[Tensor]| ops::linear(&at[0], &at[1], &at[2]);
        check_layer(&what, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden, apply);
        check_differences(&what, &[&x, &weight, &bias], apply);
    }
}

#[test]
fn linear_matches_candles_product() {
    // Sizes of one, below, at and above the rows of a task.
    for [n, i, o] in [[1, 1, 1], [3, 5, 2], [32, 7, 32], [33, 4, 65], [70, 40, 33], [2, 256, 120]] {
        let what = format!("linear {n} {i} {o}");
        let (x, weight, bias) = (variable("x", &[n, i]), variable("weight", &[o, i]), variable("bias", &[o]));
        let y = ops::linear(&x, &weight, &bias).unwrap();
        let expected = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        assert_close(&what, &values(&y), &values(&expected), 1e-12);
        let (ours, candles) = (objective(&y).backward().unwrap(), objective(&expected).backward().unwrap());
        for var in [&x, &weight, &bias] {
            assert_close(&what, &values(ours.get(var).unwrap()), &values(candles.get(var).unwrap()), 1e-11);
        }
    }
}

#[test]
fn linear_takes_any_layout_and_skips_a_gradient_that_nothing_needs() {
    let (x, weight) = (uniform("x", &[6, 40]), variable("weight", &[6, 9]));
    let bias = Tensor::zeros(6, DType::F64, &Device::Cpu).unwrap();
    let y = ops::linear(&x.t().unwrap().narrow(1, 1, 3).unwrap(), &weight.narrow(1, 2, 3).unwrap(), &bias).unwrap();
    let expected = x.t().unwrap().narrow(1, 1, 3).unwrap().matmul(&weight.narrow(1, 2, 3).unwrap().t().unwrap());
    assert_close("strided", &values(&y), &values(&expected.unwrap()), 1e-12);
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&weight).is_some() && gradients.get(&x).is_none());
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    for [x, weight, bias] in [
        [&[2, 3][..], &[4, 2], &[4]],
        [&[2, 3], &[4, 3], &[3]],
        [&[2, 0], &[4, 0], &[4]],
        [&[0, 3], &[4, 3], &[4]],
        [&[2, 3], &[0, 3], &[0]],
        [&[3], &[4, 3], &[4]],
    ] {
        assert!(ops::linear(&uniform("x", x), &uniform("w", weight), &uniform("b", bias)).is_err());
    }
}
