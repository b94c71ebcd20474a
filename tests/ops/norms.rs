//! Batch and group normalisation.

use candle_core::{Result, Tensor};
use oodkit::ops::{self, Activation, Statistics};

use crate::{check_differences, check_layer, common::assert_close, common::values, layers, uniform, variable};

crate::device::on_each_device! {
    batch_norm_matches_pytorch_and_differences,
    group_norm_matches_pytorch_and_differences,
    moments_are_exact_far_from_zero,
}

fn batch_norm_matches_pytorch_and_differences() {
    const ACTIVATIONS: [Activation; 4] =
        [Activation::Identity, Activation::Relu, Activation::LeakyRelu(0.1), Activation::Relu6];
    for (what, case, golden) in layers("batch_norm") {
        let [n, c, h, w, training, kind] = case[..] else { panic!("{what}") };
        let (x, weight, bias) = (variable("x", &[n, c, h, w]), variable("weight", &[c]), variable("bias", &[c]));
        let running = [uniform("mean", &[c]), uniform("var", &[c]).affine(0.5, 1.0).unwrap()];
        let apply = |at: &[Tensor]| -> Result<Tensor> {
            let (moments, statistics) = match training {
                1 => (ops::moments(&at[0])?, Statistics::Batch),
                _ => (Tensor::stack(&running, 0)?.to_dtype(at[0].dtype())?, Statistics::Given),
            };
            ops::batch_norm(&at[0], &(&at[1] * 9.0)?, &at[2], &moments, statistics, 1e-5, ACTIVATIONS[kind])
        };
        check_layer(&what, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden, apply);
        check_differences(&what, &[&x, &weight, &bias], apply);
    }
}

fn group_norm_matches_pytorch_and_differences() {
    for (what, case, golden) in layers("group_norm") {
        let [n, c, h, w, groups, silu] = case[..] else { panic!("{what}") };
        let (x, weight, bias) = (variable("x", &[n, c, h, w]), variable("weight", &[c]), variable("bias", &[c]));
        let apply = |at: &[Tensor]| ops::group_norm(&at[0], &at[1], &at[2], groups, 1e-5, silu == 1);
        check_layer(&what, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden, apply);
        check_differences(&what, &[&x, &weight, &bias], apply);
        // Any number of dimensions behind the channels.
        let flat = ops::group_norm(&x.flatten_from(2).unwrap(), &weight, &bias, groups, 1e-5, silu == 1).unwrap();
        assert_eq!(values(&flat), values(&apply(&[x.as_tensor(), &weight, &bias].map(Clone::clone)).unwrap()));
    }
}

fn moments_are_exact_far_from_zero() {
    let x = (uniform("x", &[7, 3, 30, 41]) + 1e4).unwrap();
    let exact = values(&ops::moments(&x).unwrap());
    for c in 0..3 {
        let channel = values(&x.narrow(1, c, 1).unwrap());
        let mean = channel.iter().sum::<f64>() / channel.len() as f64;
        let variance = channel.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / channel.len() as f64;
        assert_close("moments", &[exact[c], exact[3 + c]], &[mean, variance], 1e-9);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (x, good, bad) = (uniform("x", &[1, 2, 4, 4]), uniform("x", &[2]), uniform("x", &[3]));
    let (moments, none) = (uniform("x", &[2, 2]), uniform("x", &[0, 2, 4, 4]));
    let batch = |x: &Tensor, bias: &Tensor, activation| {
        ops::batch_norm(x, &good, bias, &moments, Statistics::Given, 1e-5, activation)
    };
    assert!(batch(&x, &good, Activation::Relu).is_ok());
    assert!(batch(&x, &bad, Activation::Relu).is_err());
    assert!(batch(&x, &good, Activation::LeakyRelu(-1.0)).is_err());
    assert!(batch(&none, &good, Activation::Relu).is_err());
    assert!(ops::moments(&none).is_err());
    let group = |x: &Tensor, bias: &Tensor, groups| ops::group_norm(x, &good, bias, groups, 1e-5, false);
    assert!(group(&x, &good, 2).is_ok());
    assert!(group(&x, &bad, 2).is_err() && group(&x, &good, 0).is_err() && group(&x, &good, 3).is_err());
    assert!(group(&none, &good, 1).is_err() && group(&good, &good, 1).is_err());
}
