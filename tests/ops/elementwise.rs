//! Activations, residual addition, dropout.

use candle_core::{DType, Device, Result, Tensor, Var};
use oodkit::{
    ops::{self, Activation},
    rng,
};

use crate::{
    check_differences, check_layer,
    common::{assert_close, values},
    layers, objective, uniform, variable,
};

const ACTIVATIONS: [Activation; 4] =
    [Activation::Identity, Activation::Relu, Activation::LeakyRelu(0.1), Activation::Relu6];

fn activate(kind: usize, x: &Tensor) -> Result<Tensor> {
    match kind {
        1 => ops::relu(x),
        2 => ops::leaky_relu(x, 0.1),
        _ => ops::relu6(x),
    }
}

/// Rounded to halves, as `stepped` of make_layers.py: zeros, corners and ties.
pub(crate) fn stepped(name: &str, shape: &[usize]) -> Var {
    Var::from_tensor(&((uniform(name, shape) * 2.0).unwrap().round().unwrap() / 2.0).unwrap()).unwrap()
}

crate::device::on_each_device! {
    activations_match_pytorch_at_their_corners_too,
    silu_gelu_and_softmax_match_pytorch_and_differences,
    add_matches_pytorch_and_differences,
    gates_are_candles_and_differences,
    concatenations_are_candles_and_differences,
}

fn activations_match_pytorch_at_their_corners_too() {
    for (what, case, golden) in layers("activation") {
        let (kind, shape) = (case[0], &case[1..]);
        let x = stepped("x", shape);
        check_layer(&what, &[("x", &x)], &golden, |at| activate(kind, &(&at[0] * 8.0)?));
        check_differences(&what, &[&variable("x", shape)], |at| activate(kind, &(&at[0] * 8.0)?));
    }
}

fn silu_gelu_and_softmax_match_pytorch_and_differences() {
    for (what, case, golden) in layers("smooth") {
        let apply = |at: &[Tensor]| {
            let x = (&at[0] * 5.0)?;
            match case[0] {
                0 => ops::silu(&x),
                1 => ops::gelu(&x),
                _ => ops::softmax(&x),
            }
        };
        let x = variable("x", &case[1..]);
        check_layer(&what, &[("x", &x)], &golden, apply);
        check_differences(&what, &[&x], apply);
    }
}

fn concatenations_are_candles_and_differences() {
    let maps: Vec<Var> = [2, 1, 4, 3, 2].iter().map(|c| variable(&format!("{c} channels"), &[3, *c, 2, 5])).collect();
    for count in 1..=maps.len() {
        let maps: Vec<&Var> = maps[..count].iter().collect();
        let apply = |at: &[Tensor]| ops::concat(&at.iter().collect::<Vec<_>>());
        let at: Vec<Tensor> = maps.iter().map(|map| map.as_tensor().clone()).collect();
        assert_eq!(values(&apply(&at).unwrap()), values(&Tensor::cat(&at, 1).unwrap()), "{count}");
        check_differences("concat", &maps, apply);
    }
    let other = uniform("other", &[3, 2, 5, 2]);
    assert!(ops::concat(&[]).is_err() && ops::concat(&[&maps[0], &other]).is_err());
}

fn gates_are_candles_and_differences() {
    let (x, gate) = (variable("x", &[2, 3, 5]), variable("gate", &[2, 3, 5]));
    let apply = |at: &[Tensor]| ops::gate(&at[0], &(&at[1] * 6.0)?);
    let expected = (x.as_tensor() * candle_nn::ops::sigmoid(&(gate.as_tensor() * 6.0).unwrap()).unwrap()).unwrap();
    let actual = apply(&[x.as_tensor().clone(), gate.as_tensor().clone()]).unwrap();
    assert_close("gate", &values(&actual), &values(&expected), 1e-12);
    check_differences("gate", &[&x, &gate], apply);
    assert!(ops::gate(&x, &uniform("gate", &[2, 3, 4])).is_err());
}

fn add_matches_pytorch_and_differences() {
    for (what, case, golden) in layers("add") {
        let (a, b) = (stepped("a", &case[1..]), variable("b", &case[1..]));
        let apply = |at: &[Tensor]| ops::add(&(&at[0] * 8.0)?, &at[1], ACTIVATIONS[case[0]]);
        check_layer(&what, &[("a", &a), ("b", &b)], &golden, apply);
        check_differences(&what, &[&a, &b], apply);
    }
}

#[test]
fn nan_is_not_hidden() {
    let x = Tensor::new(&[f64::NAN, 1.0, 2.0, -1.0], &Device::Cpu).unwrap();
    let image = x.reshape((1, 1, 2, 2)).unwrap();
    let parameter = Tensor::ones(1, DType::F64, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[2u32], &Device::Cpu).unwrap();
    let pool = ops::Pool::new(2, 2, 0);
    let norm = |activation| {
        let moments = ops::moments(&image).unwrap();
        ops::batch_norm(&image, &parameter, &parameter, &moments, ops::Statistics::Batch, 1e-5, activation)
    };
    for dtype in [DType::F64, DType::F32] {
        let x = x.to_dtype(dtype).unwrap();
        let image = image.to_dtype(dtype).unwrap();
        for (what, y) in [
            ("relu", ops::relu(&x)),
            ("leaky_relu", ops::leaky_relu(&x, 0.1)),
            ("relu6", ops::relu6(&x)),
            ("silu", ops::silu(&x)),
            ("gelu", ops::gelu(&x)),
            ("add", ops::add(&x, &x, Activation::Relu)),
            ("dropout", ops::dropout(&x, 0.5, rng::stream(0, "dropout", ""))),
            ("softmax", ops::softmax(&x)),
            ("cross-entropy", ops::softmax_cross_entropy(&x.reshape((1, 4)).unwrap(), &labels, 0.0)),
            ("max_pool2d", ops::max_pool2d(&image, pool)),
            ("avg_pool2d", ops::avg_pool2d(&image, pool, true)),
            ("global_avg_pool2d", ops::global_avg_pool2d(&image)),
            ("resize", ops::resize(&image, (3, 3), ops::Interpolation::Bilinear, false)),
            ("batch_norm", norm(Activation::Relu6)),
        ] {
            assert!(values(&y.unwrap())[0].is_nan(), "{what} {dtype:?}");
        }
    }
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

#[test]
fn what_does_not_fit_is_an_error() {
    let x = uniform("x", &[2]);
    assert!(ops::dropout(&x, 1.0, rng::stream(0, "dropout", "")).is_err());
    assert!(ops::leaky_relu(&x, -0.1).is_err() && ops::leaky_relu(&x, f64::NAN).is_err());
    assert!(ops::add(&x, &uniform("x", &[2, 1]), Activation::Identity).is_err());
    assert!(ops::relu(&Tensor::zeros(2, DType::U8, &Device::Cpu).unwrap()).is_err());
    assert!(objective(&ops::relu(&variable("x", &[0])).unwrap()).backward().is_ok());
}

#[test]
fn like_itself_is_the_activation_and_like_another_its_piece() {
    let (x, other) = ((uniform("x", &[40]) * 9.0).unwrap(), (uniform("other", &[40]) * 9.0).unwrap());
    for activation in ACTIVATIONS {
        let y = ops::activate(&other, activation).unwrap();
        assert_eq!(values(&ops::activate_like(&other, &y, activation).unwrap()), values(&y), "{activation:?}");
        let pieces = values(&ops::activate_like(&x, &y, activation).unwrap());
        for ((piece, x), other) in pieces.iter().zip(values(&x)).zip(values(&other)) {
            let expected = match activation {
                Activation::Relu if other <= 0.0 => 0.0,
                Activation::Relu6 if other <= 0.0 => 0.0,
                Activation::Relu6 if other >= 6.0 => 6.0,
                Activation::LeakyRelu(slope) if other <= 0.0 => slope * x,
                _ => x,
            };
            assert_eq!(*piece, expected, "{activation:?} of {x} like {other}");
        }
    }
}

#[test]
fn squared_distances_are_means_over_the_dimensions() {
    let (z, centers) = (variable("z", &[3, 5, 4]), uniform("centers", &[5, 4]));
    let distances = ops::squared_distances(&z, &centers).unwrap();
    let (z_values, centers_values) = (values(&z), values(&centers));
    for (place, distance) in values(&distances).into_iter().enumerate() {
        let (image, class) = (place / 4, place % 4);
        let term = |d: usize| (z_values[(image * 5 + d) * 4 + class] - centers_values[d * 4 + class]).powi(2);
        assert!((distance - (0..5).map(term).sum::<f64>() / 5.0).abs() < 1e-14);
    }
    check_differences("squared_distances", &[&z], |at| ops::squared_distances(&at[0], &centers));
    assert!(ops::squared_distances(&z, &uniform("centers", &[4, 5])).is_err());
}
