//! Max, average and global average pooling.

use oodkit::ops::{self, Pool};

use crate::{
    check_differences, check_layer,
    common::{assert_close, values},
    elementwise::stepped,
    layers, uniform, variable,
};

fn case(case: &[usize]) -> ([usize; 4], Pool, bool) {
    let [n, c, h, w, kh, kw, sh, sw, ph, pw, ceil, last] = *case else { panic!("{case:?}") };
    ([n, c, h, w], Pool { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], ceil_mode: ceil == 1 }, last == 1)
}

crate::device::on_each_device! {
    max_pool2d_matches_pytorch_and_differences,
    avg_pool2d_matches_pytorch_and_differences,
    global_average_is_the_mean,
}

fn max_pool2d_matches_pytorch_and_differences() {
    for (what, numbers, golden) in layers("max_pool2d") {
        let (shape, pool, ties) = case(&numbers);
        let x = if ties { stepped("x", &shape) } else { variable("x", &shape) };
        check_layer(&what, &[("x", &x)], &golden, |at| ops::max_pool2d(&at[0], pool));
        if !ties {
            check_differences(&what, &[&x], |at| ops::max_pool2d(&at[0], pool));
        }
    }
}

fn avg_pool2d_matches_pytorch_and_differences() {
    for (what, numbers, golden) in layers("avg_pool2d") {
        let (shape, pool, count_include_pad) = case(&numbers);
        let x = variable("x", &shape);
        check_layer(&what, &[("x", &x)], &golden, |at| ops::avg_pool2d(&at[0], pool, count_include_pad));
        check_differences(&what, &[&x], |at| ops::avg_pool2d(&at[0], pool, count_include_pad));
    }
}

#[test]
fn where_all_is_lowest_the_first_pixel_gets_the_gradient() {
    let lowest = candle_core::Tensor::full(f32::NEG_INFINITY, (1, 1, 3, 3), &candle_core::Device::Cpu).unwrap();
    let x = candle_core::Var::from_tensor(&lowest).unwrap();
    let y = ops::max_pool2d(&x, Pool::new(2, 2, 1)).unwrap();
    assert!(values(&y).iter().all(|value| *value == f64::NEG_INFINITY));
    let gradients = y.zeros_like().unwrap().add(&y).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(values(gradients.get(&x).unwrap()), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

fn global_average_is_the_mean() {
    for shape in [[2, 3, 4, 5], [1, 2, 1, 1], [2, 1, 50, 41]] {
        let x = variable("x", &shape);
        let average = values(&ops::global_avg_pool2d(&x).unwrap());
        let pixels = shape[2] * shape[3];
        let values = values(&x);
        let expected = values.chunks(pixels).map(|plane| plane.iter().sum::<f64>() / pixels as f64);
        assert_close("global average", &average, &expected.collect::<Vec<_>>(), 1e-12);
        check_differences("global average", &[&x], |at| ops::global_avg_pool2d(&at[0]));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let tensor = |shape: &[usize]| uniform("x", shape);
    for (shape, pool) in [
        ([1, 2, 1, 4], Pool::new(2, 2, 0)),
        ([1, 2, 4, 4], Pool::new(2, 0, 0)),
        ([1, 2, 4, 4], Pool::new(0, 1, 0)),
        ([1, 2, 4, 4], Pool::new(2, 2, 2)),
        ([0, 2, 4, 4], Pool::new(2, 2, 0)),
        ([1, 2, 0, 4], Pool::new(2, 2, 1)),
        ([1, 2, 4, 4], Pool::new(usize::MAX, 1, usize::MAX / 2)),
        ([1, 2, 4, 4], Pool { ceil_mode: true, ..Pool::new(usize::MAX, usize::MAX, 0) }),
    ] {
        assert!(ops::max_pool2d(&tensor(&shape), pool).is_err(), "{shape:?} {pool:?}");
        assert!(ops::avg_pool2d(&tensor(&shape), pool, true).is_err(), "{shape:?} {pool:?}");
    }
    assert!(ops::max_pool2d(&tensor(&[4, 4]), Pool::new(2, 2, 0)).is_err());
    assert!(ops::global_avg_pool2d(&tensor(&[0, 2, 4, 4])).is_err());
}

#[test]
fn like_itself_is_the_pool_and_like_another_takes_its_places() {
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
        let (x, pool) = (uniform("x", &[2, 3, 7, 6]), Pool::new(kernel, stride, padding));
        let expected = ops::max_pool2d(&x, pool).unwrap();
        assert_eq!(values(&ops::max_pool2d_like(&x, &x, pool).unwrap()), values(&expected));
        // Where −x is largest, x is smallest: −max(−x).
        let other = ops::max_pool2d_like(&x, &x.neg().unwrap(), pool).unwrap();
        assert_eq!(values(&other), values(&ops::max_pool2d(&x.neg().unwrap(), pool).unwrap().neg().unwrap()));
        assert!(ops::max_pool2d_like(&x, &x.narrow(3, 0, 5).unwrap(), pool).is_err());
    }
}
