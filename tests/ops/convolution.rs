//! Convolution and transposed convolution: PyTorch's values (`make_convolution.py`), central differences,
//! adjointness, bits. Every kernel against plain loops is in the module's own tests.

use candle_core::{DType, Tensor, Var};
use oodkit::ops::{self, Activation, Convolution};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    cases, check_differences, check_samples,
    common::{assert_close, uniform, values},
    objective, variable,
};

/// What it is; N C H W O kh kw; stride, padding, dilation and groups; what follows them; the golden values.
type Case = (String, [usize; 7], Convolution, Vec<usize>, Value);

fn general(section: &str) -> Vec<Case> {
    let all = cases(include_str!("../golden/convolution.json"), section).into_iter();
    let all = all.map(|(what, case, golden)| {
        let convolution = Convolution {
            stride: [case[7], case[8]],
            padding: [case[9], case[10]],
            dilation: [case[11], case[12]],
            groups: case[13],
        };
        (what, std::array::from_fn(|i| case[i]), convolution, case[14..].to_vec(), golden)
    });
    all.collect()
}

crate::device::on_each_device! {
    convolutions_match_pytorch_and_differences,
    transposed_convolutions_match_pytorch_and_differences,
    products_of_channels_are_those_of_matrices_and_differences,
}

fn products_of_channels_are_those_of_matrices_and_differences() {
    for shape in [[2, 3, 4, 5], [3, 1, 2, 2], [1, 33, 1, 7]] {
        let x = variable("x", &shape);
        let apply = |at: &[Tensor]| ops::channel_products(&at[0]);
        let pixels = x.transpose(0, 1).unwrap().flatten_from(1).unwrap();
        let expected = pixels.matmul(&pixels.t().unwrap()).unwrap();
        assert_close("products", &values(&apply(&[x.as_tensor().clone()]).unwrap()), &values(&expected), 1e-12);
        check_differences("products", &[&x], apply);
    }
}

fn convolutions_match_pytorch_and_differences() {
    for (what, [n, c, h, w, o, kh, kw], convolution, _, golden) in general("conv2d") {
        let shape = [o, c / convolution.groups, kh, kw];
        let (x, weight, bias) = (variable("x", &[n, c, h, w]), variable("weight", &shape), variable("bias", &[o]));
        let f = |at: &[Tensor]| ops::conv2d(&at[0], &at[1], Some(&at[2]), convolution);
        let inputs = [&x, &weight, &bias];
        let y = f(&inputs.map(|var| var.as_tensor().clone())).unwrap();
        check_samples(&what, &y, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden, 16);
        check_differences(&what, &inputs, f);
    }
}

fn transposed_convolutions_match_pytorch_and_differences() {
    for (what, [n, c, h, w, o, kh, kw], convolution, rest, golden) in general("conv_transpose2d") {
        let shape = [c, o / convolution.groups, kh, kw];
        let (x, weight, bias) = (variable("x", &[n, c, h, w]), variable("weight", &shape), variable("bias", &[o]));
        let f = |at: &[Tensor]| ops::conv_transpose2d(&at[0], &at[1], Some(&at[2]), convolution, [rest[0], rest[1]]);
        let inputs = [&x, &weight, &bias];
        let y = f(&inputs.map(|var| var.as_tensor().clone())).unwrap();
        check_samples(&what, &y, &[("x", &x), ("weight", &weight), ("bias", &bias)], &golden, 16);
        check_differences(&what, &inputs, f);
    }
}

#[test]
fn inference_is_the_convolution_and_what_follows_it() {
    for (what, [n, c, h, w, o, kh, kw], convolution, _, _) in general("conv2d") {
        let (x, weight) = (uniform("x", &[n, c, h, w]), uniform("weight", &[o, c / convolution.groups, kh, kw]));
        let bias = uniform("bias", &[o]);
        for biased in [false, true] {
            let bias = biased.then_some(&bias);
            let y = ops::conv2d(&x, &weight, bias, convolution).unwrap();
            let residual = uniform("residual", y.dims());
            for add in [None, Some(&residual)] {
                let sum = add.map_or(y.clone(), |add| (&y + add).unwrap());
                for (activation, expected) in
                    [(Activation::Identity, sum.clone()), (Activation::Relu, sum.relu().unwrap())]
                {
                    let found = ops::conv2d_inference(&x, &weight, bias, add, convolution, activation).unwrap();
                    assert_close(&what, &values(&found), &values(&expected), 1e-12);
                }
            }
        }
    }
}

fn shapes() -> impl Strategy<Value = ([usize; 4], [usize; 4], Convolution)> {
    // Size, kernel, stride, padding, dilation of an axis, large enough for one window.
    let axis = (1..4usize, 1..4usize, 0..3usize, 1..3usize, 0..7usize).prop_map(
        |(kernel, stride, padding, dilation, more)| {
            let reach = (kernel - 1) * dilation + 1;
            (reach.saturating_sub(2 * padding).max(1) + more, kernel, stride, padding, dilation)
        },
    );
    (1..4usize, 1..4usize, 1..4usize, 1..12usize, axis.clone(), axis).prop_map(|(n, groups, c, o, rows, columns)| {
        let convolution = Convolution {
            stride: [rows.2, columns.2],
            padding: [rows.3, columns.3],
            dilation: [rows.4, columns.4],
            groups,
        };
        ([n, c * groups, rows.0, columns.0], [o * groups, c, rows.1, columns.1], convolution)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// ⟨Ax, y⟩ = ⟨x, Aᵀy⟩ in x and in the weight, and the transposed convolution is the same Aᵀ.
    #[test]
    fn both_gradients_are_adjoints((x, weight, convolution) in shapes()) {
        let (x, weight) = (variable("x", &x), variable("weight", &weight));
        let y = ops::conv2d(&x, &weight, None, convolution).unwrap();
        let forward = objective(&y);
        let gradients = forward.backward().unwrap();
        let along = |var: &Var| {
            values(&(var.as_tensor() * gradients.get(var).unwrap()).unwrap().sum_all().unwrap())[0]
        };
        let forward = values(&forward)[0];
        for backward in [along(&x), along(&weight)] {
            prop_assert!((forward - backward).abs() <= 1e-11 * (1.0 + forward.abs()), "{forward} and {backward}");
        }
        // Of the sizes that give this result, the transposed convolution knows the smallest and, with padding, the others.
        let rest = [0, 1].map(|axis| {
            let (kernel, padding) = (weight.dims()[2 + axis], convolution.padding[axis]);
            let reach = convolution.dilation[axis] * (kernel - 1) + 1;
            (x.dims()[2 + axis] + 2 * padding - reach) % convolution.stride[axis]
        });
        let toward = uniform("toward", y.dims());
        let transposed = ops::conv_transpose2d(&toward, &weight.detach(), None, convolution, rest).unwrap();
        let (found, expected) = (values(&transposed), values(gradients.get(&x).unwrap()));
        prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    // Chunks of images, blocks of channels, strides and groups that tasks are cut by.
    let cases: [([usize; 4], [usize; 4], Convolution); 5] = [
        ([37, 3, 9, 9], [8, 3, 3, 3], Convolution::new(1, 1)),
        ([3, 40, 12, 11], [130, 40, 3, 3], Convolution::new(2, 1)),
        ([70, 20, 2, 2], [40, 20, 3, 3], Convolution::new(1, 1)),
        ([2, 64, 9, 9], [96, 32, 1, 1], Convolution::new(1, 0).grouped(2)),
        ([5, 24, 13, 13], [24, 1, 5, 5], Convolution::new(2, 2).grouped(24)),
    ];
    for (x, weight, convolution) in cases {
        let single = |name: &str, shape: &[usize]| uniform(name, shape).to_dtype(DType::F32).unwrap();
        let (x, weight, bias) = (single("x", &x), single("weight", &weight), single("bias", &weight[..1]));
        let run = || {
            let inputs = [&x, &weight, &bias].map(|tensor| Var::from_tensor(tensor).unwrap());
            let y = ops::conv2d(&inputs[0], &inputs[1], Some(inputs[2].as_tensor()), convolution).unwrap();
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [values(&y)].into_iter().chain(inputs.iter().map(|var| values(gradients.get(var).unwrap()))).collect()
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
        let first: Vec<Vec<f64>> = on(1);
        for threads in [2, 3, 5] {
            assert!(on(threads) == first, "{convolution:?} differs on {threads} threads");
        }
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
fn shapes_that_do_not_fit_are_errors() {
    let tensor = |shape: &[usize]| uniform("x", shape);
    assert!(ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[1, 3, 3, 3]), None, Convolution::new(1, 0)).is_err());
    assert!(ops::conv2d(&tensor(&[1, 2, 2, 4]), &tensor(&[1, 2, 3, 3]), None, Convolution::new(1, 0)).is_err());
    assert!(ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[1, 2, 3, 3]), None, Convolution::new(0, 0)).is_err());
    assert!(
        ops::conv2d(&tensor(&[1, 2, 4, 4]), &tensor(&[5, 2, 3, 3]), Some(&tensor(&[4])), Convolution::new(1, 0))
            .is_err()
    );
    assert!(ops::conv2d(&tensor(&[0, 2, 4, 4]), &tensor(&[5, 2, 3, 3]), None, Convolution::new(1, 0)).is_err());
    assert!(
        ops::conv2d(&tensor(&[1, 4, 4, 4]), &tensor(&[5, 2, 3, 3]), None, Convolution::new(1, 0).grouped(2)).is_err()
    );
    let transposed = |x: &[usize], weight: &[usize], rest| {
        ops::conv_transpose2d(&tensor(x), &tensor(weight), None, Convolution::new(2, 0), rest)
    };
    assert!(transposed(&[1, 2, 4, 4], &[2, 3, 2, 2], [1, 1]).is_ok());
    assert!(transposed(&[1, 2, 4, 4], &[2, 3, 2, 2], [2, 0]).is_err());
    assert!(transposed(&[1, 2, 4, 4], &[3, 3, 2, 2], [0, 0]).is_err());
}

#[test]
fn absurd_strides_paddings_dilations_and_groups_are_errors() {
    let (x, weight) = (uniform("x", &[1, 2, 4, 4]), uniform("weight", &[2, 2, 3, 3]));
    let (single, depthwise) = (uniform("weight", &[2, 2, 1, 1]), uniform("weight", &[2, 1, 1, 1]));
    let plain = Convolution::new(1, 1);
    for huge in [usize::MAX, usize::MAX / 2, isize::MAX as usize + 1, 1 << 62, 1 << 33, 1 << 31] {
        for convolution in [
            Convolution::new(huge, 1),
            Convolution::new(1, huge),
            Convolution { stride: [1, huge], ..plain },
            Convolution { padding: [huge, 1], ..plain },
            plain.dilated(huge),
            Convolution { dilation: [1, huge], ..plain },
            Convolution::new(1, huge).dilated(huge),
            Convolution::new(huge, huge).dilated(huge),
            plain.grouped(huge),
        ] {
            let per_channel = Convolution { groups: convolution.groups.max(2), ..convolution };
            for (weight, convolution) in [(&weight, convolution), (&single, convolution), (&depthwise, per_channel)] {
                let what = format!("{:?} {convolution:?}", weight.dims());
                assert!(ops::conv2d(&x, weight, None, convolution).is_err(), "{what}");
                assert!(
                    ops::conv2d_inference(&x, weight, None, None, convolution, Activation::Relu).is_err(),
                    "{what}"
                );
                for rest in [0, huge - 1, huge] {
                    assert!(ops::conv_transpose2d(&x, weight, None, convolution, [rest; 2]).is_err(), "{what}");
                }
            }
        }
    }
    let leaky = Activation::LeakyRelu(-1.0);
    assert!(ops::conv2d_inference(&x, &weight, None, None, plain, leaky).is_err());
}

#[test]
fn a_bias_that_is_not_tracked_has_no_gradient() {
    let (x, weight, bias) = (variable("x", &[1, 2, 4, 4]), uniform("weight", &[2, 2, 3, 3]), uniform("bias", &[2]));
    for transposed in [false, true] {
        let y = match transposed {
            false => ops::conv2d(&x, &weight, Some(&bias), Convolution::new(1, 1)),
            true => ops::conv_transpose2d(&x, &weight, Some(&bias), Convolution::new(1, 1), [0; 2]),
        };
        let gradients = y.unwrap().sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_some() && gradients.get(&weight).is_none() && gradients.get(&bias).is_none());
    }
    let half = x.to_dtype(DType::F16).unwrap();
    let told =
        ops::conv_transpose2d(&half, &weight.to_dtype(DType::F16).unwrap(), None, Convolution::new(1, 1), [0; 2]);
    assert!(told.unwrap_err().to_string().contains("conv_transpose2d takes f32 or f64"));
}
