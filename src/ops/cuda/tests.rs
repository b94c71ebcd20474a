//! Every operation on the emulator against the same operation on the CPU: values and gradients, f32 and f64.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, Var, op::BackpropOp};

use super::{View, convolution, emulator::emulated};
use crate::{
    detectors::{
        Batches, LayerShape,
        afdu::{self, Aggregate, Constant, Granularity, Tap},
    },
    models::ModelConfig,
    nn::{
        self, Backbone, Mode, Pass, Precision, Shown,
        params::Params,
        pass::Layer,
        self_calibrated::{self, SelfCalibrated},
        stl, wide_resnet,
    },
    ops::{self, Activation, Assign, Convolution, Pool, Quantiser, Statistics, conv2d::geometry::Geometry},
};

/// Numbers in [-1, 1), in twentieths when `ties` are wanted.
fn numbers(name: &str, shape: &[usize], ties: bool) -> Tensor {
    use rand::Rng as _;
    let mut rng = crate::rng::stream(0, "test", name);
    let count = shape.iter().product();
    let draw = |_| {
        let value: f64 = rng.random_range(-1.0..1.0);
        if ties { (value * 4.0).round() / 4.0 } else { value }
    };
    Tensor::from_vec((0..count).map(draw).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The result of `f` and the gradients of Σ y·toward with respect to each input.
fn results(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Vec<f64>>> {
    let variables = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let y = f(&tracked)?;
    let toward = numbers("toward", y.dims(), false).to_dtype(y.dtype())?;
    let gradients = (&y * toward)?.sum_all()?.backward()?;
    let gradients = variables.iter().filter_map(|variable| gradients.get(variable)).map(values);
    Ok(std::iter::once(values(&y)).chain(gradients).collect())
}

/// `f` gives on the emulator what it gives on the CPU.
#[track_caller]
fn check(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(dtype).unwrap()).collect();
        let expected = results(&inputs, &f).unwrap();
        let actual = emulated(|| results(&inputs, &f)).unwrap_or_else(|error| panic!("{what} {dtype:?}: {error}"));
        assert_eq!(actual.len(), expected.len(), "{what}: number of gradients");
        for (part, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            compare(&format!("{what} {dtype:?}: result {part}"), actual, expected, tolerance);
        }
    }
}

/// Within `tolerance` of the largest, or both NaN.
#[track_caller]
fn compare(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let size = expected.iter().fold(1.0f64, |size, value| size.max(value.abs()));
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let close = (actual - expected).abs() <= tolerance * size || actual.is_nan() && expected.is_nan();
        assert!(close, "{what}[{i}] is {actual}, {expected} on the CPU");
    }
}

const ACTIVATIONS: [Activation; 4] =
    [Activation::Identity, Activation::Relu, Activation::LeakyRelu(0.1), Activation::Relu6];

#[test]
fn elementwise() {
    for shape in [&[1][..], &[3, 7], &[2, 3, 20, 11]] {
        check("relu", &[numbers("x", shape, true)], |x| ops::relu(&x[0]));
        check("leaky_relu", &[numbers("x", shape, true)], |x| ops::leaky_relu(&x[0], 0.2));
        for activation in ACTIVATIONS {
            let like = ops::activate(&(numbers("like", shape, true) * 4.0).unwrap(), activation).unwrap();
            check(&format!("{activation:?}, like another"), &[numbers("x", shape, true)], |x| {
                ops::activate_like(&x[0], &like.to_dtype(x[0].dtype())?, activation)
            });
        }
        check("silu", &[numbers("x", shape, false)], |x| ops::silu(&(&x[0] * 9.0)?));
        check("gelu", &[numbers("x", shape, false)], |x| ops::gelu(&(&x[0] * 9.0)?));
        check("add", &[numbers("x", shape, true), numbers("y", shape, true)], |x| {
            ops::add(&x[0], &x[1], Activation::Relu)
        });
        check("softmax", &[numbers("x", shape, false)], |x| ops::softmax(&(&x[0] * 50.0)?));
        let rng = || crate::rng::stream(7, "dropout", "cuda");
        check("dropout", &[numbers("x", shape, false)], |x| ops::dropout(&x[0], 0.3, rng()));
    }
}

#[test]
fn batch_norm() {
    for shape in [[2, 3, 5, 4], [1, 1, 1, 2], [9, 2, 17, 16], [3, 40, 1, 1]] {
        let channels = shape[1];
        let inputs =
            [numbers("x", &shape, false), numbers("weight", &[channels], false), numbers("bias", &[channels], false)];
        // A mean far from 0, as after a biased layer.
        let x = ((&inputs[0] * 8.0).unwrap() + 20.0).unwrap();
        let inputs = [x, inputs[1].clone(), inputs[2].clone()];
        for activation in ACTIVATIONS {
            check(&format!("batch_norm {shape:?} {activation:?}"), &inputs, |at| {
                let moments = ops::moments(&at[0].detach())?;
                ops::batch_norm(&at[0], &at[1], &at[2], &moments, Statistics::Batch, 1e-5, activation)
            });
            let given = Tensor::stack(
                &[numbers("mean", &[channels], false), Tensor::ones(channels, DType::F64, &Device::Cpu).unwrap()],
                0,
            );
            let given = given.unwrap();
            check(&format!("batch_norm, given {shape:?} {activation:?}"), &inputs, |at| {
                let moments = given.to_dtype(at[0].dtype())?;
                ops::batch_norm(&at[0], &at[1], &at[2], &moments, Statistics::Given, 1e-5, activation)
            });
        }
    }
}

#[test]
fn max_pool() {
    for (shape, kernel, stride, padding) in [
        ([2, 3, 8, 7], 2, 2, 0),
        ([1, 2, 9, 10], 3, 2, 1),
        ([2, 1, 5, 5], 3, 1, 1),
        ([1, 1, 7, 7], 2, 3, 1),
        ([1, 2, 1, 1], 1, 1, 0),
    ] {
        for ties in [false, true] {
            let what = format!("max_pool {shape:?} {kernel} {stride} {padding}");
            let pool = Pool::new(kernel, stride, padding);
            check(&what, &[numbers("x", &shape, ties)], |x| ops::max_pool2d(&x[0], pool));
            let like = numbers("like", &shape, ties);
            check(&format!("{what}, like another"), &[numbers("x", &shape, ties)], |x| {
                ops::max_pool2d_like(&x[0], &like.to_dtype(x[0].dtype())?, pool)
            });
        }
    }
}

#[test]
fn avg_pool() {
    for (shape, pool) in [
        ([2, 3, 8, 7], Pool::new(2, 2, 0)),
        ([1, 2, 9, 10], Pool { kernel: [3, 2], stride: [2, 3], padding: [1, 1], ceil_mode: false }),
        ([1, 2, 9, 10], Pool { ceil_mode: true, ..Pool::new(3, 2, 1) }),
        ([2, 1, 1, 1], Pool::new(1, 1, 0)),
    ] {
        for with_padding in [false, true] {
            let what = format!("avg_pool {shape:?} {pool:?} {with_padding}");
            check(&what, &[numbers("x", &shape, false)], |x| ops::avg_pool2d(&x[0], pool, with_padding));
        }
        check(&format!("max_pool {shape:?} {pool:?}"), &[numbers("x", &shape, true)], |x| ops::max_pool2d(&x[0], pool));
        check("global average", &[numbers("x", &shape, false)], |x| ops::global_avg_pool2d(&x[0]));
    }
}

#[test]
fn group_norm() {
    for (shape, groups) in [(&[2, 6, 5, 3][..], 3), (&[3, 4, 300], 1), (&[1, 8, 2, 2], 8)] {
        let x = ((numbers("x", shape, false) * 8.0).unwrap() + 20.0).unwrap();
        let inputs = [x, numbers("weight", &shape[1..2], false), numbers("bias", &shape[1..2], false)];
        for silu in [false, true] {
            let what = format!("group_norm {shape:?} {groups} {silu}");
            check(&what, &inputs, |at| ops::group_norm(&at[0], &at[1], &at[2], groups, 1e-5, silu));
        }
    }
}

#[test]
fn linear() {
    for (rows, inputs, outputs) in [(1, 1, 1), (5, 7, 3), (300, 4, 10)] {
        let inputs = [
            numbers("x", &[rows, inputs], false),
            numbers("weight", &[outputs, inputs], false),
            numbers("bias", &[outputs], false),
        ];
        check(&format!("linear {rows} {outputs}"), &inputs, |at| ops::linear(&at[0], &at[1], &at[2]));
    }
}

#[test]
fn cross_entropy() {
    for (rows, classes) in [(1, 2), (5, 10), (300, 3), (2, 1000)] {
        let labels: Vec<u32> = (0..rows as u32).map(|row| row * 7 % classes as u32).collect();
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        for smoothing in [0.0, 0.1] {
            let what = format!("cross-entropy {rows} {classes} {smoothing}");
            check(&what, &[numbers("x", &[rows, classes], false)], |x| {
                ops::softmax_cross_entropy(&(&x[0] * 30.0)?, &labels, smoothing)
            });
        }
    }
}

#[test]
fn resize() {
    use ops::Interpolation::{Bilinear, Nearest};
    for (shape, size) in [
        ([2, 2, 4, 5], (8, 10)),
        ([1, 3, 7, 6], (3, 11)),
        ([1, 1, 1, 1], (3, 2)),
        ([1, 2, 9, 9], (1, 1)),
        ([1, 1, 5, 4], (5, 4)),
    ] {
        for (kind, corners) in [(Nearest, false), (Bilinear, false), (Bilinear, true)] {
            let what = format!("resize {shape:?} {size:?} {kind:?} {corners}");
            check(&what, &[numbers("x", &shape, false)], |x| ops::resize(&x[0], size, kind, corners));
        }
    }
}

/// A convolution's four directions on the emulator: Y (with bias), dX, dW, db for dY = `toward`.
fn launched(x: &Tensor, weight: &Tensor, bias: &Tensor, toward: &Tensor, sizes: &Geometry) -> Result<Vec<Tensor>> {
    let held = [x, weight, bias, toward].map(Tensor::storage_and_layout);
    let [x, weight, bias, dy] = [0, 1, 2, 3].map(|i| View::<CpuStorage>::of(&held[i].0, held[i].1).unwrap());
    let results = [
        (convolution::forward(x, weight, Some(bias), sizes)?, dy.shape()),
        (convolution::input_gradient(dy, weight, sizes)?, x.shape()),
        (convolution::weight_gradient(dy, x, sizes)?, weight.shape()),
        (convolution::bias_gradient(dy)?.0, bias.shape()),
    ];
    let tensor = |(memory, shape): (CpuStorage, &Shape)| {
        Tensor::from_storage(Storage::Cpu(memory), shape, BackpropOp::none(), false)
    };
    Ok(results.map(tensor).into())
}

#[test]
fn convolutions() {
    let plain = Convolution::new(1, 0);
    for (shape, [o, kh, kw], convolution) in [
        ([2, 3, 7, 6], [4, 3, 3], Convolution::new(1, 1)),
        ([3, 4, 9, 8], [6, 3, 5], Convolution { stride: [2, 1], padding: [1, 2], ..plain }),
        ([2, 4, 9, 7], [6, 3, 3], Convolution { padding: [2, 2], ..plain }.dilated(2).grouped(2)),
        ([2, 6, 8, 9], [6, 3, 3], Convolution::new(2, 1).grouped(6)),
        ([1, 3, 5, 5], [6, 5, 3], Convolution { padding: [2, 0], ..plain }.grouped(3)),
        ([2, 5, 4, 4], [3, 1, 1], plain),
        ([2, 4, 5, 4], [8, 1, 1], Convolution::new(2, 0).grouped(2)),
        ([1, 1, 1, 1], [1, 1, 1], plain),
        ([1, 2, 6, 6], [3, 6, 6], plain),
    ] {
        let what = format!("conv2d {shape:?} {o} {kh} {kw} {convolution:?}");
        let weight = numbers("weight", &[o, shape[1] / convolution.groups, kh, kw], false);
        let sizes = Geometry::new(&shape, weight.dims(), convolution).unwrap();
        let toward = numbers("toward", &[shape[0], o, sizes.output[0], sizes.output[1]], false);
        let inputs = [numbers("x", &shape, false), weight, numbers("bias", &[o], false)];
        check(&what, &inputs, |at| ops::conv2d(&at[0], &at[1], Some(&at[2]), convolution));
        check(&what, &inputs[..2], |at| ops::conv2d(&at[0], &at[1], None, convolution));
        for activation in ACTIVATIONS {
            for (bias, add) in [(None, None), (Some(&inputs[2]), None), (None, Some(&toward))] {
                let infer =
                    || ops::conv2d_inference(&inputs[0], &inputs[1], bias, add, convolution, activation).unwrap();
                compare(&format!("{what}, inference"), &values(&emulated(infer)), &values(&infer()), 1e-12);
            }
        }

        // There is no bf16 on the CPU to compare with; f64 on the rounded numbers is exact enough.
        let rounded = [&inputs[0], &inputs[1], &inputs[2], &toward].map(|tensor| tensor.to_dtype(DType::BF16).unwrap());
        let exact = rounded.each_ref().map(|tensor| tensor.to_dtype(DType::F64).unwrap());
        let [x, weight, bias, toward] = &exact;
        let expected = launched(x, weight, bias, toward, &sizes).unwrap();
        let [x, weight, bias, toward] = &rounded;
        let actual = launched(x, weight, bias, toward, &sizes).unwrap();
        for (part, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            compare(&format!("{what} bf16: result {part}"), &values(actual), &values(expected), 2e-2);
        }
    }
}

#[test]
fn transposed_convolutions() {
    for (shape, [outputs, kernel], convolution, output_padding) in [
        ([2, 3, 4, 5], [4, 4], Convolution::new(2, 1), [0, 0]),
        ([1, 4, 3, 3], [2, 3], Convolution::new(2, 1), [1, 1]),
        ([2, 2, 5, 4], [3, 2], Convolution::new(2, 0), [0, 0]),
    ] {
        let what = format!("conv_transpose2d {shape:?} {outputs} {kernel} {convolution:?}");
        let weight = numbers("weight", &[shape[1], outputs, kernel, kernel], false);
        let inputs = [numbers("x", &shape, false), weight, numbers("bias", &[outputs], false)];
        check(&what, &inputs, |at| ops::conv_transpose2d(&at[0], &at[1], Some(&at[2]), convolution, output_padding));
        check(&what, &inputs[..2], |at| ops::conv_transpose2d(&at[0], &at[1], None, convolution, output_padding));
    }
}

#[test]
fn attention() {
    for (order, shape) in [(ops::Order::Channels, [2, 12, 5]), (ops::Order::Tokens, [2, 5, 12])] {
        check(&format!("attention {order:?}"), &[numbers("qkv", &shape, false)], |qkv| {
            ops::attention(&qkv[0], 2, 0.7, order)
        });
        let inputs = [numbers("qkv", &shape, false), numbers("bias", &[2, 2, 5, 5], false)];
        check(&format!("biased attention {order:?}"), &inputs, |at| {
            ops::biased_attention(&at[0], &at[1], 2, 0.7, order)
        });
    }
}

#[test]
fn optimiser_steps() {
    use crate::ops::optimizer::*;
    let direction = Direction { scale: 0.7, bound: 0.4, decay: 0.01 };
    let whole = Direction { scale: 1.0, bound: f64::INFINITY, decay: 0.0 };
    let run = |dtype| {
        let tensor = |name: &str| numbers(name, &[3, 100], false).to_dtype(dtype).unwrap();
        let [gradient, weight, velocity, mean] = ["g", "w", "v", "m"].map(tensor);
        let square = tensor("s").sqr().unwrap();
        let step = Adam { lr: 0.1, decay: 0.02, corrections: [0.1, 0.01], epsilon: 1e-8 };
        for direction in [direction, whole] {
            add_momentum(&velocity, &gradient, &weight, 0.9, direction).unwrap();
            descend(&weight, &gradient, 0.1, direction).unwrap();
            descend_with_momentum(&weight, &gradient, &velocity, 0.1, Some(0.9), direction).unwrap();
            descend_with_momentum(&weight, &gradient, &velocity, 0.1, None, direction).unwrap();
            adam_moments(&mean, &square, &gradient, [0.9, 0.99], direction).unwrap();
            adam(&weight, &mean, &square, step).unwrap();
            average(&velocity, &weight, 0.3).unwrap();
        }
        [weight, velocity, mean, square].map(|tensor| values(&tensor))
    };
    for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
        for (actual, expected) in emulated(|| run(dtype)).iter().zip(&run(dtype)) {
            compare(&format!("optimiser {dtype:?}"), actual, expected, tolerance);
        }
    }
}

/// Layers in memory, in batches of seven images.
#[derive(Debug)]
struct Made(Vec<Layer>);

impl Batches for Made {
    fn images(&self) -> usize {
        self.0[0].values.dims()[0]
    }

    fn layers(&self) -> crate::Result<Vec<LayerShape>> {
        Ok(self.0.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> crate::Result<()>) -> crate::Result<()> {
        for start in (0..self.images()).step_by(7) {
            let count = 7.min(self.images() - start);
            let part = |layer: &Layer| Layer { values: layer.values.narrow(0, start, count).unwrap(), ..layer.clone() };
            each(start, &Shown { layers: self.0.iter().map(part).collect(), ..Shown::default() })?;
        }
        Ok(())
    }

    fn subset(&self, _: &[usize]) -> crate::Result<Arc<dyn Batches>> {
        unreachable!("all images are read")
    }
}

/// Maps of 3×4 pixels and a linear layer of 40 neurons: some constant, some with an atom, one never a number; values beyond the
/// train images', also of those that are constant or never a number.
fn activations(images: usize, name: &str, scale: f64) -> Made {
    let layer = |layer: &str, shape: &[usize]| {
        let neurons: usize = shape[1..].iter().product();
        let mut rows = values(&(numbers(&format!("{name} {layer}"), shape, false) * scale).unwrap());
        for (index, value) in rows.iter_mut().enumerate() {
            match index % neurons {
                1 if name == "train" => *value = 0.25,
                2 if name == "train" => *value = f64::NAN,
                1 | 2 if (index / neurons).is_multiple_of(4) => *value = 3e38,
                3 => *value = value.max(0.3),
                4 if name == "test" && index > neurons => *value = [1e9, 3e38, -1e30][index / neurons % 3],
                _ => {}
            }
        }
        let values = Tensor::from_vec(rows, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        Layer { name: layer.into(), values, activation: Activation::Relu }
    };
    Made(vec![layer("conv", &[images, 6, 3, 4]), layer("fc", &[images, 40])])
}

#[test]
fn anomaly_factors() {
    let (train, test) = (activations(150, "train", 1.0), activations(20, "test", 2.0));
    let base = afdu::Config { clusters: 40, ..afdu::Config::default() };
    for engine in [afdu::Engine::Tabulated, afdu::Engine::Exact] {
        for (aggregate, tap, granularity, constant, floor) in [
            (Aggregate::Paper, Tap::Post, Granularity::Pixel, Constant::Ignore, 0.0),
            (Aggregate::Log, Tap::Pre, Granularity::Pixel, Constant::Layer, 0.0),
            (Aggregate::Standardised, Tap::Pre, Granularity::Pixel, Constant::Layer, 0.01),
            (Aggregate::Log, Tap::Post, Granularity::Channel, Constant::Ignore, 0.0),
        ] {
            let config =
                afdu::Config { engine, aggregate, tap, granularity, constant, floor, cap: 20.0, ..base.clone() };
            let fitted = afdu::fit::fit(&config, &train, 1 << 30, None).unwrap();
            let [actual, expected] = [emulated(|| scores(&fitted, &test)), scores(&fitted, &test)];
            for (image, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                let close = (actual - expected).abs() <= 1e-5 * expected.abs().max(1.0);
                assert!(close, "{config:?}: image {image} has {actual}, {expected} on the CPU");
            }
            assert!(expected.iter().any(|score| score.abs() > 0.5) && emulated(|| scores(&fitted, &test)) == actual);
            // The first and the second neuron tell nothing or little.
            for (neuron, value) in [(1, f32::INFINITY), (2, f32::NAN), (5, f32::NAN), (6, f32::NEG_INFINITY)] {
                let mut broken = Made(test.0.clone());
                let mut rows: Vec<f32> = broken.0[1].values.flatten_all().unwrap().to_vec1().unwrap();
                rows[9 * 40 + neuron] = value;
                broken.0[1].values = Tensor::from_vec(rows, (20, 40), &Device::Cpu).unwrap();
                if tap == Tap::Post && value == f32::NEG_INFINITY {
                    // A ReLU makes it 0.
                    assert!(afdu::score::scores(&fitted, &broken).is_ok());
                    continue;
                }
                let told = || afdu::score::scores(&fitted, &broken).unwrap_err().to_string();
                assert_eq!(told(), "a neuron of the layer fc is NaN or infinite on image 9", "{config:?}: {value}");
                assert_eq!(emulated(told), told());
            }
        }
    }
}

fn scores(fitted: &afdu::fit::Fitted, set: &Made) -> Vec<f32> {
    afdu::score::scores(fitted, set).unwrap()
}

/// Loss and gradients of a network's first training step.
fn first_step(backbone: &Backbone, shape: [usize; 3], precision: Precision) -> (f64, Vec<(String, Vec<f64>)>) {
    let [channels, height, width] = shape;
    let params = Params::new(0, &Device::Cpu);
    let network =
        nn::build(&backbone.clone().into(), nn::Shape { channels, height, width, classes: 5 }, params.builder())
            .unwrap();
    let images = numbers("images", &[3, channels, height, width], false).to_dtype(DType::F32).unwrap();
    let labels = Tensor::new(&[1u32, 4, 2], &Device::Cpu).unwrap();
    let outputs = network.show(&images, &Pass::new(Mode::Train { seed: 0, step: 0, precision })).unwrap();
    let loss = ops::softmax_cross_entropy(outputs.logits().unwrap(), &labels, 0.0).unwrap();
    let gradients = loss.backward().unwrap();
    let each = params.trainable().into_iter().map(|(name, variable)| (name, values(gradients.get(&variable).unwrap())));
    (values(&loss)[0], each.collect())
}

/// What is composed of candle's operations on a GPU, beside the fused operations.
#[test]
fn textures() {
    let (x, means) = (numbers("x", &[2, 5, 8, 12], false), numbers("means", &[2, 5, 2, 2], false));
    check("cosine_similarity", &[x.clone(), means], |at| ops::cosine_similarity(&at[0], &at[1]));
    check("gate", &[x.clone(), numbers("gate", &[2, 5, 8, 12], false)], |at| ops::gate(&at[0], &at[1]));
    check("channel_products", &[x], |at| ops::channel_products(&at[0]));
    for assign in [Assign::Official, Assign::Paper] {
        let quantiser = Quantiser { levels: 6, assign };
        let similarities = numbers("similarities", &[2, 8, 12], false);
        let row = similarities.reshape((2, 96)).unwrap();
        check("cooccurrence", &[similarities], |at| ops::cooccurrence(&at[0], 2, quantiser));
        check("quantise_and_count", std::slice::from_ref(&row), |at| ops::quantise_and_count(&at[0], quantiser));
        let inputs = [numbers("features", &[2, 3, 6], false), row];
        check("redistribute", &inputs, |at| ops::redistribute(&at[0], &at[1], quantiser));
    }
}

/// Result and gradients of the fusion network's parts, one training step in f64 and one in this precision.
fn parts_step(dtype: DType, precision: Precision) -> Vec<(String, Vec<f64>)> {
    let params = Params::new(0, &Device::Cpu);
    let builder = params.builder().set_dtype(dtype);
    let settings = stl::Settings { width: 8, levels: 10, cooccurrence_levels: 4, ..stl::Settings::default() };
    let texture = stl::Stl::new(&settings, 3, [16, 16], &builder).unwrap();
    let settings = self_calibrated::Settings { width: 4, ..self_calibrated::Settings::default() };
    let calibrated = SelfCalibrated::new(&settings, texture.channels(), [16, 16], &builder.pp("sc")).unwrap();
    let maps = numbers("maps", &[2, 3, 16, 16], false).to_dtype(dtype).unwrap();
    let pass = Pass::new(Mode::Train { seed: 0, step: 0, precision });
    let y = calibrated.forward(&texture.forward(&maps, &pass).unwrap(), &pass).unwrap();
    let toward = numbers("toward", y.dims(), false).to_dtype(dtype).unwrap();
    let gradients = (&y * toward).unwrap().sum_all().unwrap().backward().unwrap();
    let each = params.trainable().into_iter().map(|(name, variable)| (name, values(gradients.get(&variable).unwrap())));
    std::iter::once(("y".to_owned(), values(&y))).chain(each).collect()
}

#[test]
fn parts_of_the_fusion_network_learn_alike() {
    let expected = parts_step(DType::F64, Precision::F32);
    let actual = emulated(|| parts_step(DType::F64, Precision::F32));
    for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
        compare(name, actual, expected, 1e-8);
    }
    // Which level is hit depends on rounding, so that single pixels differ.
    let bf16 = emulated(|| parts_step(DType::F32, Precision::Bf16));
    let (actual, expected) = (&bf16[0].1, &expected[0].1);
    let error: f64 = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).sum::<f64>() / actual.len() as f64;
    assert!(error > 0.0 && error < 0.1, "{error}");
}

#[test]
fn networks_learn_alike() {
    let wide = wide_resnet::Settings { depth: 10, width: 1, dropout: 0.3 };
    for (backbone, shape) in
        [(Backbone::Lenet(Default::default()), [1, 28, 28]), (Backbone::WideResnet(wide), [3, 8, 8])]
    {
        let (loss, expected) = first_step(&backbone, shape, Precision::F32);
        let (actual_loss, actual) = emulated(|| first_step(&backbone, shape, Precision::F32));
        compare("loss", &[actual_loss], &[loss], 1e-5);
        for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
            compare(name, actual, expected, 1e-4);
        }
        let (bf16_loss, bf16) = emulated(|| first_step(&backbone, shape, Precision::Bf16));
        compare("loss in bf16", &[bf16_loss], &[loss], 3e-2);
        let [a, b] =
            [&bf16, &expected].map(|all| all.iter().flat_map(|(_, values)| values).copied().collect::<Vec<f64>>());
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(cosine > 0.99 && bf16_loss != loss, "{backbone:?}: {cosine}");
    }
}

/// Prediction and gradients of a diffusion model's training step.
fn denoising_step(model: &str) -> Vec<(String, Vec<f64>)> {
    let model: ModelConfig = serde_saphyr::from_str(model).unwrap();
    let params = Params::new(0, &Device::Cpu);
    let shape = nn::Shape { channels: 1, height: 8, width: 8, classes: 3 };
    let network = model.build(shape, params.builder()).unwrap();
    // Blocks' last layers start with 0, which would hide what is before them.
    for (name, variable) in params.trainable() {
        let weight = (numbers(&name, variable.dims(), false) * 0.3).unwrap();
        variable.set(&weight.to_dtype(DType::F32).unwrap()).unwrap();
    }
    let images = numbers("images", &[4, 1, 8, 8], false).to_dtype(DType::F32).unwrap();
    let classes = Tensor::new(&[1u32, 0, 2, 1], &Device::Cpu).unwrap();
    let pass = Pass::new(Mode::Train { seed: 0, step: 0, precision: Precision::F32 }).telling(Some(&classes));
    let [predicted, target] = network.show(&images, &pass).unwrap().denoised.unwrap();
    let gradients = (&predicted - target).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let each = params.trainable().into_iter().map(|(name, variable)| (name, values(gradients.get(&variable).unwrap())));
    std::iter::once(("predicted".to_owned(), values(&predicted))).chain(each).collect()
}

/// Group norm, attention, upsampling, and the embeddings of times and classes, together.
#[test]
fn diffusion_models_learn_alike() {
    let blocks = "channels: 8, multipliers: [1, 2], blocks: 1, attention: [1], dropout: 0, groups: 4";
    let adm = "style: adm, scale_shift: true, resample: residual, head_channels: 4, attention_order: new";
    for model in [
        format!("diffusion: {{ unet: {{ {blocks} }}, schedule: cosine, classes: true }}"),
        format!("diffusion: {{ unet: {{ {blocks}, {adm}, learned_sigma: true }}, classes: true, drop: 0 }}"),
    ] {
        let expected = denoising_step(&model);
        let actual = emulated(|| denoising_step(&model));
        assert_eq!(actual.len(), expected.len());
        for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
            compare(name, actual, expected, 1e-3);
        }
    }
}
