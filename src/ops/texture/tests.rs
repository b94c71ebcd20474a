//! The operations against the same of candle's, in value and gradient, against central differences, and where maps are constant.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng as _;

use super::*;

fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let mut rng = crate::rng::stream(0, "test", name);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Σ y·toward.
fn objective(y: &Tensor) -> Tensor {
    (y * numbers("toward", y.dims()).to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap()
}

/// The result, and the gradients of [`objective`].
fn results(inputs: &[Tensor], f: Function<'_>) -> Vec<Vec<f64>> {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let y = f(&tracked).unwrap();
    let gradients = objective(&y).backward().unwrap();
    let gradients = variables.iter().map(|variable| values(gradients.get(variable).unwrap()));
    std::iter::once(values(&y)).chain(gradients).collect()
}

#[track_caller]
fn same(what: &str, inputs: &[Tensor], ours: Function<'_>, plain: Function<'_>) {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(dtype).unwrap()).collect();
        let (actual, expected) = (results(&inputs, ours), results(&inputs, plain));
        for (part, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            let size = expected.iter().fold(1.0f64, |size, value| size.max(value.abs()));
            assert_eq!(actual.len(), expected.len());
            for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                assert!(
                    (actual - expected).abs() <= tolerance * size,
                    "{what} {dtype:?} {part}[{i}]: {actual}, {expected}"
                );
            }
        }
    }
}

#[track_caller]
fn differences(what: &str, inputs: &[Tensor], f: Function<'_>) {
    let gradients = results(inputs, f);
    for (k, input) in inputs.iter().enumerate() {
        let original = values(input);
        for i in (0..original.len()).step_by((original.len() / 24).max(1)) {
            let moved = |by: f64| {
                let (mut moved, mut changed) = (inputs.to_vec(), original.clone());
                changed[i] += by;
                moved[k] = Tensor::from_vec(changed, input.shape(), &Device::Cpu).unwrap();
                objective(&f(&moved).unwrap()).to_scalar::<f64>().unwrap()
            };
            let difference = (moved(1e-7) - moved(-1e-7)) / 2e-7;
            let gradient = gradients[k + 1][i];
            assert!(
                (gradient - difference).abs() < 1e-5 * gradient.abs().max(1.0),
                "{what} {k}[{i}]: {gradient}, {difference}"
            );
        }
    }
}

const QUANTISERS: [Quantiser; 5] = [
    Quantiser { levels: 8, assign: Assign::Official },
    Quantiser { levels: 8, assign: Assign::Paper },
    Quantiser { levels: 37, assign: Assign::Official },
    Quantiser { levels: 1, assign: Assign::Official },
    Quantiser { levels: 1, assign: Assign::Paper },
];

#[test]
fn similarities_are_candles() {
    for (x, means) in [([2, 5, 8, 12], [2, 5, 1, 1]), ([1, 3, 6, 4], [1, 3, 3, 2]), ([2, 1, 2, 2], [2, 1, 2, 2])] {
        let inputs = [numbers("x", &x), numbers("means", &means)];
        same("cosine", &inputs, &|at| cosine_similarity(&at[0], &at[1]), &|at| {
            plain::cosine_similarity(&at[0], &at[1])
        });
        differences("cosine", &inputs, &|at| cosine_similarity(&at[0], &at[1]));
    }
    // Pixels and cells that are 0, or shorter than PyTorch's least length.
    let mut x = values(&numbers("x", &[1, 3, 4, 4]));
    for channel in 0..3 {
        x[channel * 16] = 0.0;
        x[channel * 16 + 5] *= 1e-14;
    }
    let x = Tensor::from_vec(x, (1, 3, 4, 4), &Device::Cpu).unwrap();
    let mut means = values(&numbers("means", &[1, 3, 2, 2]));
    (0..3).for_each(|channel| means[channel * 4 + 3] = 0.0);
    let inputs = [x, Tensor::from_vec(means, (1, 3, 2, 2), &Device::Cpu).unwrap()];
    same("zeros", &inputs, &|at| cosine_similarity(&at[0], &at[1]), &|at| plain::cosine_similarity(&at[0], &at[1]));
    let [y, of_x, _] = results(&inputs, &|at| cosine_similarity(&at[0], &at[1])).try_into().unwrap();
    assert!(y[0] == 0.0 && y[5].abs() < 0.1 && y[15] == 0.0 && of_x[0] == 0.0 && of_x[5] == 0.0 && of_x[15] == 0.0);
    assert!(y[1] != 0.0 && of_x[1] != 0.0);
}

#[test]
fn counts_are_candles() {
    for quantiser in QUANTISERS {
        let inputs = [numbers("similarities", &[3, 50])];
        let what = format!("{quantiser:?}");
        same(&what, &inputs, &|at| quantise_and_count(&at[0], quantiser), &|at| {
            plain::quantise_and_count(&at[0], quantiser)
        });
        differences(&what, &inputs, &|at| quantise_and_count(&at[0], quantiser));
        let inputs = [numbers("features", &[3, 4, quantiser.levels]), inputs[0].clone()];
        let plain: Function<'_> = &|at| plain::redistribute(&at[0], &at[1], quantiser);
        same(&what, &inputs, &|at| redistribute(&at[0], &at[1], quantiser), plain);
        differences(&what, &inputs, &|at| redistribute(&at[0], &at[1], quantiser));
    }
}

#[test]
fn cooccurrences_are_candles() {
    for quantiser in QUANTISERS {
        for scale in [1, 2, 4] {
            let inputs = [numbers("similarities", &[2, 8, 12])];
            let what = format!("{quantiser:?} {scale}");
            let plain: Function<'_> = &|at| plain::cooccurrence(&at[0], scale, quantiser);
            same(&what, &inputs, &|at| cooccurrence(&at[0], scale, quantiser), plain);
            differences(&what, &inputs, &|at| cooccurrence(&at[0], scale, quantiser));
        }
    }
    // Cells of one row have levels, but no pairs.
    let quantiser = QUANTISERS[0];
    let inputs = [numbers("similarities", &[2, 4, 8])];
    let plain: Function<'_> = &|at| plain::cooccurrence(&at[0], 4, quantiser);
    same("rows", &inputs, &|at| cooccurrence(&at[0], 4, quantiser), plain);
    let y = cooccurrence(&inputs[0], 4, quantiser).unwrap();
    assert_eq!(y.dims(), [2, 3, 16, 64]);
    assert!(values(&y.narrow(1, 2, 1).unwrap()).iter().all(|share| *share == 0.0));
}

/// A few images at a time, of different numbers at the end, and all at once.
#[test]
fn features_of_pairs_are_those_of_layers_one_by_one() {
    use crate::ops::{Activation, Convolution, activate, conv2d};
    let (channels, activations) = ([3, 2, 5, 4], [Activation::LeakyRelu(0.1), Activation::Relu]);
    let inputs = [
        numbers("pairs", &[5, 3, 4, 6]),
        numbers("first", &[2, 3, 1, 1]),
        numbers("second", &[5, 2, 1, 1]),
        numbers("third", &[4, 5, 1, 1]),
        numbers("shared", &[5, 4, 4, 1]),
    ];
    let plain: Function<'_> = &|at| {
        let one = Convolution::new(1, 0);
        let x = activate(&conv2d(&at[0], &at[1], None, one)?, activations[0])?;
        let x = activate(&conv2d(&x, &at[2], None, one)?, activations[1])?;
        conv2d(&x, &at[3], None, one)?.broadcast_add(&at[4])
    };
    for alive in [1, 250, usize::MAX] {
        let layers = pairs::Layers { images: 5, channels, size: [4, 6], activations, alive };
        let what = format!("features, {alive} alive");
        same(&what, &inputs, &|at| pairs::apply(layers, &at[0], [&at[1], &at[2], &at[3]], &at[4]), plain);
    }
    let ours: Function<'_> = &|at| pair_features(&at[0], [&at[1], &at[2], &at[3]], activations, &at[4]);
    same("features", &inputs, ours, plain);
    differences("features", &inputs, ours);
    let refused = |weights, shared: &[usize]| {
        pair_features(&inputs[0], weights, activations, &numbers("shared", shared)).unwrap_err().to_string()
    };
    assert!(refused([&inputs[1], &inputs[3], &inputs[2]], &[5, 4, 4, 1]).contains("do not follow"));
    assert!(refused([&inputs[1], &inputs[2], &inputs[3]], &[5, 4, 1, 1]).contains("do not fit"));
}

/// Worked out by hand: similarities 0, 0.1, …, 1 and four levels.
#[test]
fn hits_are_those_of_the_definitions() {
    let row: Vec<f64> = (0..=10).map(|i| f64::from(i) / 10.0).collect();
    let weights = |assign, i: usize| {
        let hits = Hits::new(Quantiser { levels: 4, assign }, row.iter().copied());
        let at = |side: usize| (hits.below[i] as usize + side, (hits.weights[side][i] * 1000.0).round());
        [at(0), at(1)].into_iter().filter(|(_, weight)| *weight > 0.0).collect::<Vec<_>>()
    };
    // Centres 0.125, 0.375, 0.625, 0.875 are levels 1 to 4; a similarity hits those closer than 0.25.
    assert_eq!(weights(Assign::Official, 0), [(1, 875.0)]);
    assert_eq!(weights(Assign::Official, 1), [(1, 975.0)]);
    assert_eq!(weights(Assign::Official, 2), [(1, 925.0), (2, 825.0)]);
    assert_eq!(weights(Assign::Official, 5), [(2, 875.0), (3, 875.0)]);
    assert_eq!(weights(Assign::Official, 10), [(4, 875.0)]);
    // Levels 0.25, 0.5, 0.75, 1; the nearest.
    assert_eq!(weights(Assign::Paper, 0), [(1, 750.0)]);
    assert_eq!(weights(Assign::Paper, 3), [(1, 950.0)]);
    assert_eq!(weights(Assign::Paper, 4), [(2, 900.0)]);
    assert_eq!(weights(Assign::Paper, 10), [(4, 1000.0)]);
}

#[test]
fn constant_maps_have_neither_hits_nor_nan() {
    let noise = (numbers("noise", &[2, 4, 4]) * 1e-8).unwrap();
    for map in [Tensor::full(0.7, (2, 4, 4), &Device::Cpu).unwrap(), (noise + 1.0).unwrap()] {
        for quantiser in QUANTISERS {
            let flat = [map.reshape((2, 16)).unwrap()];
            let map = [map.clone()];
            let features = numbers("features", &[2, 3, quantiser.levels]);
            let finite = |parts: Vec<Vec<f64>>| assert!(parts.iter().flatten().all(|value| value.is_finite()));
            finite(results(&flat, &|at| quantise_and_count(&at[0], quantiser)));
            finite(results(&map, &|at| cooccurrence(&at[0], 2, quantiser)));
            finite(results(&flat, &|at| plain::quantise_and_count(&at[0], quantiser)));
            finite(results(&map, &|at| plain::cooccurrence(&at[0], 2, quantiser)));
            let counted = quantise_and_count(&flat[0], quantiser).unwrap();
            assert!(values(&counted.narrow(1, 1, 1).unwrap()).iter().all(|share| *share == 0.0));
            let [y, of_features, of_similarities] =
                results(&[features, flat[0].clone()], &|at| redistribute(&at[0], &at[1], quantiser))
                    .try_into()
                    .unwrap();
            assert!([y, of_features, of_similarities].iter().flatten().all(|value| *value == 0.0));
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for row in [[0.1, 0.2, f64::NAN, 0.4], [f64::NAN, 0.2, 0.3, 0.4]] {
        let map = Tensor::new(&[row], &Device::Cpu).unwrap();
        for quantiser in QUANTISERS {
            let y = values(&quantise_and_count(&map, quantiser).unwrap());
            assert!(y.iter().any(|value| value.is_nan()), "{quantiser:?}");
            let y = redistribute(&numbers("features", &[1, 2, quantiser.levels]), &map, quantiser).unwrap();
            assert!(values(&y).iter().any(|value| value.is_nan()), "{quantiser:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let quantiser = QUANTISERS[0];
    let none = Quantiser { levels: 0, ..quantiser };
    let map = numbers("similarities", &[2, 6, 9]);
    for error in [
        cooccurrence(&map, 2, quantiser).unwrap_err(),
        cooccurrence(&map, 0, quantiser).unwrap_err(),
        cooccurrence(&map, 3, none).unwrap_err(),
        quantise_and_count(&map, quantiser).unwrap_err(),
        redistribute(&numbers("features", &[2, 4, 7]), &numbers("similarities", &[2, 9]), quantiser).unwrap_err(),
        cosine_similarity(&numbers("x", &[1, 2, 4, 6]), &numbers("means", &[1, 2, 2, 4])).unwrap_err(),
    ] {
        assert!(!error.to_string().is_empty());
    }
}
