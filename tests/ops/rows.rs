//! Softmax and cross-entropy; their values beside PyTorch's are in elementwise.rs, losses.rs and here.

use candle_core::{DType, Device, Tensor};
use oodkit::ops;

use crate::{check_differences, check_layer, common::values, layers, uniform, variable};

crate::device::on_each_device! {
    cross_entropy_matches_pytorch_and_differences,
}

fn cross_entropy_matches_pytorch_and_differences() {
    for (what, case, golden) in layers("cross_entropy") {
        let [n, k, percent] = case[..] else { panic!("{what}") };
        let x = variable("x", &[n, k]);
        let labels: Vec<u32> = (0..n as u32).map(|i| i * 7 % k as u32).collect();
        let labels = Tensor::from_vec(labels, n, x.device()).unwrap();
        let apply = |at: &[Tensor]| ops::softmax_cross_entropy(&(&at[0] * 5.0)?, &labels, percent as f64 / 100.0);
        check_layer(&what, &[("x", &x)], &golden, apply);
        check_differences(&what, &[&x], apply);
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let x = Tensor::new(&[[1e30f32, -1e30, 0.0], [80.0, 90.0, f32::NEG_INFINITY]], &Device::Cpu).unwrap();
    let y = values(&ops::softmax(&x).unwrap());
    assert_eq!((y[0], y[1], y[5]), (1.0, 0.0, 0.0));
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let loss = values(&ops::softmax_cross_entropy(&x, &labels, 0.0).unwrap())[0];
    assert!((loss - (1.0 + (-10f64).exp()).ln() / 2.0).abs() < 1e-9, "{loss}");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let labels = |labels: &[u32]| Tensor::new(labels, &Device::Cpu).unwrap();
    let x = uniform("x", &[2, 3]);
    assert!(ops::softmax_cross_entropy(&x, &labels(&[0, 2]), 0.0).is_ok());
    let message = ops::softmax_cross_entropy(&x, &labels(&[0, 3]), 0.0).unwrap_err().to_string();
    assert!(message.contains("label 3, but there are 3 classes"), "{message}");
    assert!(ops::softmax_cross_entropy(&x, &labels(&[0]), 0.0).is_err());
    assert!(ops::softmax_cross_entropy(&x, &labels(&[0, 1]), 1.1).is_err());
    assert!(ops::softmax_cross_entropy(&x, &labels(&[0, 1]).to_dtype(DType::I64).unwrap(), 0.0).is_err());
    assert!(ops::softmax_cross_entropy(&uniform("x", &[0, 3]), &labels(&[]), 0.0).is_err());
    assert!(ops::softmax(&uniform("x", &[2, 0])).is_err());
    assert!(ops::softmax(&uniform("x", &[])).is_err());
}
