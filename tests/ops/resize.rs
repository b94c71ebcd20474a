//! Resizing.

use candle_core::Tensor;
use oodkit::ops::{self, Interpolation};

use crate::{check_differences, check_layer, common::values, layers, uniform, variable};

crate::device::on_each_device! {
    resize_matches_pytorch_and_differences,
    the_gradient_adds_to_that_of_other_consumers,
}

fn resize_matches_pytorch_and_differences() {
    for (what, case, golden) in layers("resize") {
        let [n, c, h, w, to_h, to_w, kind] = case[..] else { panic!("{what}") };
        let x = variable("x", &[n, c, h, w]);
        let interpolation = if kind == 0 { Interpolation::Nearest } else { Interpolation::Bilinear };
        let apply = |at: &[Tensor]| ops::resize(&at[0], (to_h, to_w), interpolation, kind == 2);
        check_layer(&what, &[("x", &x)], &golden, apply);
        check_differences(&what, &[&x], apply);
    }
}

fn the_gradient_adds_to_that_of_other_consumers() {
    let x = variable("x", &[1, 1, 2, 2]);
    let larger = ops::resize(&x, (4, 4), Interpolation::Nearest, false).unwrap();
    let sum = (larger.sum_all().unwrap() + x.sum_all().unwrap()).unwrap();
    assert_eq!(values(sum.backward().unwrap().get(&x).unwrap()), [5.0; 4]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = uniform("x", &[1, 1, 2, 2]);
    assert!(ops::resize(&x, (0, 3), Interpolation::Nearest, false).is_err());
    assert!(ops::resize(&x, (3, 3), Interpolation::Nearest, true).is_err());
    assert!(ops::resize(&uniform("x", &[0, 1, 2, 2]), (3, 3), Interpolation::Bilinear, true).is_err());
    assert!(ops::resize(&uniform("x", &[2, 2]), (3, 3), Interpolation::Bilinear, true).is_err());
}
