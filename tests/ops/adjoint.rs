//! ⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for operations that are linear, or that pick elements by a pattern which x itself fixes.

use candle_core::{Result, Tensor, Var};
use oodkit::{
    ops::{self, Activation, Interpolation, Pool},
    rng,
};
use proptest::prelude::*;

use crate::{
    common::{uniform, values},
    objective,
};

fn is_adjoint(shape: [usize; 4], f: impl Fn(&Tensor) -> Result<Tensor>) {
    let x = Var::from_tensor(&uniform("x", &shape)).unwrap();
    let forward = objective(&f(&x).unwrap());
    let backward = (x.as_tensor() * forward.backward().unwrap().get(&x).unwrap()).unwrap().sum_all().unwrap();
    let (forward, backward) = (values(&forward)[0], values(&backward)[0]);
    assert!((forward - backward).abs() <= 1e-11 * (1.0 + forward.abs()), "{forward} and {backward}");
}

fn pools() -> impl Strategy<Value = ([usize; 4], Pool)> {
    let axis = (1..6usize, 1..4usize).prop_flat_map(|(kernel, stride)| {
        let padding = 0..=kernel / 2;
        (Just(kernel), Just(stride), padding, 0..12usize)
    });
    (1..4usize, 1..4usize, axis.clone(), axis, any::<bool>()).prop_map(|(n, c, rows, columns, ceil_mode)| {
        // Large enough for one window.
        let size = |(kernel, _, padding, more): (usize, usize, usize, usize)| (kernel - padding).max(1) + more;
        let pool =
            Pool { kernel: [rows.0, columns.0], stride: [rows.1, columns.1], padding: [rows.2, columns.2], ceil_mode };
        ([n, c, size(rows), size(columns)], pool)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn pooling((shape, pool) in pools(), count_include_pad: bool) {
        is_adjoint(shape, |x| ops::avg_pool2d(x, pool, count_include_pad));
        is_adjoint(shape, |x| ops::max_pool2d(x, pool));
        is_adjoint(shape, |x| ops::max_pool2d_like(x, &uniform("like", &shape), pool));
    }

    #[test]
    fn resizing(shape in [1..3usize, 1..3, 1..9, 1..9], h in 1..14usize, w in 1..14usize) {
        is_adjoint(shape, |x| ops::resize(x, (h, w), Interpolation::Nearest, false));
        is_adjoint(shape, |x| ops::resize(x, (h, w), Interpolation::Bilinear, false));
        is_adjoint(shape, |x| ops::resize(x, (h, w), Interpolation::Bilinear, true));
    }

    #[test]
    fn elementwise(shape in [1..4usize, 1..4, 1..9, 1..9], p in 0.0..0.9f64, seed: u64) {
        is_adjoint(shape, |x| ops::dropout(x, p, rng::stream(seed, "dropout", "")));
        is_adjoint(shape, ops::global_avg_pool2d);
        is_adjoint(shape, |x| ops::leaky_relu(x, p));
        is_adjoint(shape, |x| ops::activate_like(x, &uniform("like", &shape), Activation::LeakyRelu(p)));
        is_adjoint(shape, |x| ops::add(x, &(x * 0.3)?, Activation::Relu));
        is_adjoint(shape, |x| ops::add(&x.zeros_like()?, x, Activation::Relu));
        is_adjoint(shape, |x| ops::add(x, &x.zeros_like()?, Activation::Relu));
    }

    #[test]
    fn linear(n in 1..70usize, i in 1..40usize, o in 1..70usize) {
        let none = uniform("none", &[o]).zeros_like().unwrap();
        let (x, weight) = (uniform("x", &[n, i]), uniform("weight", &[o, i]));
        is_adjoint([1, 1, n, i], |x| ops::linear(&x.reshape((n, i))?, &weight, &none));
        is_adjoint([1, 1, o, i], |weight| ops::linear(&x, &weight.reshape((o, i))?, &none));
        let (x, weight) = (x.zeros_like().unwrap(), weight.zeros_like().unwrap());
        is_adjoint([1, 1, 1, o], |bias| ops::linear(&x, &weight, &bias.reshape(o)?));
    }
}
