//! Bounded spectral norms, SNGP's head and the detectors DDU and SNGP against PyTorch, numpy and scipy:
//! `tests/golden/uncertainty.py`.

mod common;
#[path = "common/network.rs"]
mod network;

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};
use common::{assert_close, numbers, uniform, values};
use network::{directional, parameter, sampled};
use oodkit::{
    config,
    detectors::{
        Bank, Detector, Fit,
        ddu::{self, Gaussians},
        sngp::{self, Posterior, Uncertainty},
    },
    models::ModelConfig,
    nn::{
        self, Architecture, Backbone, Mode, Nonlinearity, Pass, Precision, Shape,
        architecture::Shortcut,
        heads::Head,
        layers::{Conv2d, ConvInit},
        params::Params,
        spectral_norm,
    },
    ops::Convolution,
};
use serde_json::{Value, json};

const TRAIN: Mode = Mode::Train { seed: 0, step: 0, precision: Precision::F32 };

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/uncertainty.json")).unwrap()
}

fn architecture(backbone: Value, coefficient: f64) -> Architecture {
    Architecture {
        spectral_norm: Some(spectral_norm::Settings { coefficient }),
        activation: Nonlinearity::LeakyRelu,
        ..serde_json::from_value::<Backbone>(backbone).unwrap().into()
    }
}

fn matches_pytorch(name: &str, architecture: &Architecture) {
    let golden = &golden()["networks"][name];
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let classes = golden["eval"]["logits"].as_array().unwrap().len() / dims[0];
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(architecture, shape, params.builder().set_dtype(DType::F64)).unwrap();
    let all = params.all().unwrap();
    assert_eq!(serde_json::to_value(all.keys().collect::<Vec<_>>()).unwrap(), golden["parameters"], "{name}");
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    let images = (images * 1.5).unwrap();

    for (pass, mode) in [("eval", Mode::Eval), ("train", TRAIN), ("after", Mode::Eval)] {
        let before = params.all().unwrap();
        let outputs = network.show(&images, &Pass::new(mode)).unwrap();
        let check = |what: &str, outputs: &nn::Shown| {
            let what = format!("{name} {what}");
            assert_close(&what, &values(outputs.logits().unwrap()), &numbers(&golden[pass]["logits"]), 1e-9);
            assert_close(&what, &sampled(outputs.features().unwrap(), 48), &numbers(&golden[pass]["features"]), 1e-9);
        };
        check(pass, &outputs);
        if mode == Mode::Eval {
            check("folded", &network.folded().unwrap().show(&images, &Pass::eval()).unwrap());
            let after = params.all().unwrap();
            assert!(
                before.iter().all(|(name, old)| values(old) == values(&after[name])),
                "{name}: inference moved u or v"
            );
            continue;
        }
        let labels = Tensor::from_iter((0..dims[0] as u32).map(|i| i % 5), &Device::Cpu).unwrap();
        let loss = candle_nn::loss::cross_entropy(outputs.logits().unwrap(), &labels).unwrap();
        let gradients = loss.backward().unwrap();
        assert_eq!(params.trainable().len(), golden["gradients"].as_object().unwrap().len());
        for (parameter, var) in params.trainable() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} {parameter}: no gradient"));
            let [norm, dot] = directional(&parameter, gradient);
            let expected = numbers(&golden["gradients"][&parameter]);
            assert!(expected[0] > 1e-9, "{name} {parameter}: nothing to compare");
            let relative = [norm / expected[0], dot / expected[0]];
            assert_close(&format!("{name} {parameter}"), &relative, &[1.0, expected[1] / expected[0]], 1e-6);
        }
        let after = params.all().unwrap();
        for (buffer, expected) in golden["buffers"].as_object().unwrap() {
            assert_close(&format!("{name} {buffer}"), &sampled(&after[buffer], 2), &numbers(expected), 1e-9);
        }
    }
    let error = network.folded().unwrap().show(&images, &Pass::new(TRAIN)).unwrap_err();
    assert!(error.to_string().contains("folded for inference cannot learn"), "{error}");
}

#[test]
fn bounded_networks_match_pytorch() {
    let wide = json!({ "wide_resnet": { "depth": 10, "width": 2, "dropout": 0 } });
    matches_pytorch("lenet", &architecture("lenet".into(), 0.8));
    matches_pytorch("wide_resnet", &architecture(wide.clone(), 0.8));
    let pooled = Architecture { shortcut: Shortcut::AveragePool, ..architecture(wide, 0.8) };
    matches_pytorch("wide_resnet average_pool", &pooled);
    matches_pytorch("resnet18_32x32", &architecture("resnet18_32x32".into(), 0.8));
}

#[test]
fn the_head_of_sngp_matches_pytorch() {
    let settings = nn::sngp::Settings { features: 40, reduction: Some(16), ..nn::sngp::Settings::default() };
    let lenet = architecture("lenet".into(), 3.0);
    matches_pytorch("lenet sngp", &Architecture { head: Head::Sngp(settings), ..lenet });
}

/// Both give other logits while they learn, and gradients through what they divide by.
#[test]
fn heads_that_learn_other_logits_match_pytorch() {
    for head in ["t2fnorm", "elogitnorm"] {
        let lenet = architecture("lenet".into(), 0.8);
        matches_pytorch(&format!("lenet {head}"), &Architecture { head: Head::by_name(head).unwrap(), ..lenet });
    }
}

/// One channel of singular vectors and a bound of 1e-3, which every weight passes.
fn layer(case: &Value, params: &Params) -> (Conv2d, [usize; 2]) {
    let size = serde_json::from_value(case["size"].clone()).unwrap();
    let channels: [usize; 2] = serde_json::from_value(case["channels"].clone()).unwrap();
    let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case[key].as_u64().unwrap() as usize);
    let vb = params.builder().set_dtype(DType::F64);
    let conv = Conv2d::new(channels, kernel, Convolution::new(stride, padding), ConvInit::Default, &vb).unwrap();
    (conv.bounded(Some(&spectral_norm::Settings { coefficient: 1e-3 }), size, &vb).unwrap(), size)
}

/// Training passes until the singular vectors have settled.
fn settle(conv: &Conv2d, images: &Tensor, passes: usize) {
    for _ in 0..passes {
        conv.forward(images, &Pass::new(TRAIN)).unwrap();
    }
}

fn set_weight(params: &Params, weight: &Tensor) {
    let mut state = params.all().unwrap();
    state.insert("weight".to_owned(), weight.clone());
    params.load(&state, Path::new("test")).unwrap();
}

#[test]
fn singular_values_are_those_of_the_convolutions_matrix() {
    for case in golden()["singular_values"].as_array().unwrap() {
        let params = Params::new(0, &Device::Cpu);
        let (conv, [height, width]) = layer(case, &params);
        let weight = params.all().unwrap()["weight"].clone();
        let weight = parameter_f64("conv.weight", weight.dims());
        set_weight(&params, &weight);
        let images = uniform("x", &[2, case["channels"][0].as_u64().unwrap() as usize, height, width]);
        settle(&conv, &images, 400);
        let [stride, padding] = ["stride", "padding"].map(|key| case[key].as_u64().unwrap() as usize);
        let plain = oodkit::ops::conv2d(&images, &weight, None, Convolution::new(stride, padding)).unwrap();
        let bounded = conv.forward(&images, &Pass::eval()).unwrap();
        let norm = |tensor: &Tensor| values(tensor).iter().map(|x| x * x).sum::<f64>().sqrt();
        let epsilon = if case["kernel"] == 1 { 0.0 } else { 1e-5 };
        let sigma = (norm(&plain) / norm(&bounded) - epsilon) * 1e-3;
        assert_close("σ", &[sigma], &[case["sigma"].as_f64().unwrap()], 1e-8);
    }
}

fn parameter_f64(name: &str, shape: &[usize]) -> Tensor {
    (uniform(name, shape) * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()).unwrap()
}

/// Where the singular vectors have settled, σ does not change with them to first order.
#[test]
fn gradients_are_central_differences() {
    const H: f64 = 1e-5;
    for case in golden()["singular_values"].as_array().unwrap() {
        let params = Params::new(0, &Device::Cpu);
        let (conv, [height, width]) = layer(case, &params);
        let weight = parameter_f64("conv.weight", params.all().unwrap()["weight"].dims());
        let images = uniform("x", &[2, case["channels"][0].as_u64().unwrap() as usize, height, width]);
        let loss = |weight: &Tensor| {
            set_weight(&params, weight);
            settle(&conv, &images, 150);
            let y = conv.forward(&images, &Pass::new(TRAIN)).unwrap();
            (&y * uniform("toward", y.dims())).unwrap().sum_all().unwrap()
        };
        let gradients = loss(&weight).backward().unwrap();
        let gradient = params.trainable().iter().map(|(_, var)| values(gradients.get(var).unwrap())).next().unwrap();
        let points = values(&weight);
        for place in [0, points.len() - 1] {
            let shifted = |by: f64| {
                let mut points = points.clone();
                points[place] += by;
                values(&loss(&Tensor::from_vec(points, weight.dims(), &Device::Cpu).unwrap()))[0]
            };
            let expected = (shifted(H) - shifted(-H)) / (2.0 * H);
            let error = (gradient[place] - expected).abs();
            assert!(error < 1e-5 * expected.abs().max(1e-2), "{case} at {place}: {}, not {expected}", gradient[place]);
        }
    }
}

/// Steps that push the weights up leave what the layer does within its bound.
#[test]
fn a_layer_keeps_its_bound_while_it_learns() {
    let params = Params::new(0, &Device::Cpu);
    let vb = params.builder();
    let (bound, size) = (spectral_norm::Settings { coefficient: 0.5 }, [6, 7]);
    let conv = Conv2d::new([2, 4], 3, Convolution::new(1, 1), ConvInit::Default, &vb).unwrap();
    let conv = conv.bounded(Some(&bound), size, &vb).unwrap();
    let rule = serde_json::from_value(json!({ "sgd": { "lr": 0.1 } })).unwrap();
    let mut sgd = oodkit::train::optim::Optimizer::new(&rule, None, params.trainable()).unwrap();
    let images = uniform("x", &[8, 2, 6, 7]).to_dtype(DType::F32).unwrap();
    for step in 0..140 {
        let loss = conv.forward(&images, &Pass::new(TRAIN)).unwrap().sqr().unwrap().mean_all().unwrap().neg().unwrap();
        // As schedules do, it ends slowly: the estimate is a step behind.
        sgd.step(&loss.backward().unwrap(), if step < 120 { 0.1 } else { 0.001 }).unwrap();
    }
    let basis = Tensor::eye(2 * 6 * 7, DType::F32, &Device::Cpu).unwrap().reshape(((), 2, 6, 7)).unwrap();
    let largest = |rows: Tensor| {
        let matrix = rows.flatten_from(1).unwrap().to_dtype(DType::F64).unwrap();
        let mut v = uniform("v", &[1, 84]);
        for _ in 0..300 {
            v = v.matmul(&matrix).unwrap().matmul(&matrix.t().unwrap()).unwrap();
            v = v.broadcast_div(&v.sqr().unwrap().sum_all().unwrap().sqrt().unwrap()).unwrap();
        }
        values(&v.matmul(&matrix).unwrap()).iter().map(|x| x * x).sum::<f64>().sqrt()
    };
    let sigma = largest(conv.forward(&basis, &Pass::eval()).unwrap());
    let weight = params.all().unwrap()["weight"].clone();
    let free = largest(oodkit::ops::conv2d(&basis, &weight, None, Convolution::new(1, 1)).unwrap());
    // One iteration a step lags behind weights that move, the more so where singular values lie close together.
    assert!(free > 1.0 && sigma > 0.45 && sigma < 0.55, "σ is {sigma}, {free} unless bounded, and its bound 0.5");
}

/// The rows of each block of as many as there are inputs are orthogonal, with norms around √inputs.
#[test]
fn random_features_are_orthogonal_and_the_seeds() {
    let build = |seed: u64| {
        let params = Params::new(seed, &Device::Cpu);
        let settings = nn::sngp::Settings { features: 200, reduction: None, length_scale: 2.0, feature_scale: 4.0 };
        let architecture = Architecture { head: Head::Sngp(settings), ..architecture("lenet".into(), 3.0) };
        let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
        nn::build(&architecture, shape, params.builder()).unwrap();
        // A second network on the same parameters is the same network.
        let first = params.all().unwrap();
        nn::build(&architecture, shape, params.builder()).unwrap();
        assert_eq!(values(&first["fc3.random_weight"]), values(&params.all().unwrap()["fc3.random_weight"]));
        first
    };
    let (first, other) = (build(0), build(1));
    let weight = first["fc3.random_weight"].to_dtype(DType::F64).unwrap();
    assert_ne!(values(&weight), values(&other["fc3.random_weight"]));
    let gram = (weight.matmul(&weight.t().unwrap()).unwrap() * 4.0).unwrap().to_vec2::<f64>().unwrap();
    let mut norms = Vec::new();
    for (i, row) in gram.iter().enumerate() {
        norms.push(row[i].sqrt());
        for (j, product) in row.iter().enumerate() {
            assert!(i == j || i / 84 != j / 84 || product.abs() < 1e-4, "{i}, {j}: {product}");
        }
    }
    // χ with 84 degrees of freedom: mean 9.14, deviation 0.71; of 200, the mean's is 0.05.
    let mean = norms.iter().sum::<f64>() / 200.0;
    let deviation = (norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / 199.0).sqrt();
    assert!((mean - 9.14).abs() < 0.2 && (deviation - 0.71).abs() < 0.15, "{mean} ± {deviation}");
    let phase = values(&first["fc3.random_phase"]);
    assert!(phase.iter().all(|b| (0.0..std::f64::consts::TAU).contains(b)));
}

fn matrix(json: &Value) -> Tensor {
    let rows: Vec<Vec<f32>> = serde_json::from_value(json.clone()).unwrap();
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn bank(logits: Tensor, features: Tensor, labels: Option<Vec<u32>>) -> Bank {
    Bank { labels, ..Bank::new(logits, features) }
}

fn of_features(features: &Tensor, labels: &[u32]) -> Bank {
    bank(Tensor::zeros((labels.len(), 3), DType::F32, &Device::Cpu).unwrap(), features.clone(), Some(labels.to_vec()))
}

#[test]
fn ddu_has_scipys_densities() {
    for case in golden()["ddu"].as_array().unwrap() {
        let (train, test) = (matrix(&case["train"]), matrix(&case["test"]));
        let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
        let gaussians = Gaussians::fit(&train, &labels).unwrap();
        assert_close("jitter", &[gaussians.jitter * 1e12], &[case["jitter"].as_f64().unwrap() * 1e12], 1e-12);
        assert_eq!(json!(gaussians.left_out), case["left_out"]);
        let expected = numbers(&case["log_densities"]);
        assert_close(&case["name"].to_string(), &gaussians.log_densities(&test).unwrap(), &expected, 1e-9);

        let train = of_features(&train, &labels);
        let scorer = ddu::Config {}.fit(&Fit { train: Some(&train), memory: 1 << 20, ..Fit::default() }).unwrap();
        let scores = scorer.score(&of_features(&test, &[0; 6])).unwrap();
        for (score, density) in scores.as_slice().iter().zip(expected) {
            assert_eq!(*score, -density as f32);
        }
        assert_eq!(scorer.record().unwrap()["classes_left_out"], case["left_out"]);
    }
}

#[test]
fn ddu_says_what_it_cannot_fit() {
    let fit = |features: &[[f32; 2]], labels: &[u32]| {
        let error = Gaussians::fit(
            &Tensor::from_slice(features.as_flattened(), (features.len(), 2), &Device::Cpu).unwrap(),
            labels,
        )
        .unwrap_err();
        error.to_string()
    };
    assert_eq!(fit(&[[0.0, 1.0], [1.0, f32::NAN]], &[0, 0]), "feature 1 of image 1 is NaN");
    assert!(fit(&[[0.0, 1.0], [1.0, 0.0]], &[0, 1]).contains("no class has two train images"));
    assert!(fit(&[[2.0, 1.0], [2.0, 1.0]], &[0, 0]).contains("stay singular"));
    assert!(fit(&[[2.0, 1.0], [2.0, 1.0]], &[0]).contains("2 × 2 for 1 labels"));
    let train = Tensor::new(&[[0f32, 1.0], [1.0, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
    let gaussians = Gaussians::fit(&train, &[0, 0, 0]).unwrap();
    let other = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(gaussians.log_densities(&other).unwrap_err().to_string().contains("3 features, and 2 in the train set"));
    let error = ddu::Config {}.fit(&Fit::default()).err().unwrap();
    assert!(error.to_string().contains("needs the train set"), "{error}");
}

/// Densities that differ by a factor only: a jitter that is a share of the variance sees no scale.
#[test]
fn the_scale_of_features_does_not_change_ddus_order() {
    let case = &golden()["ddu"][1];
    let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
    let densities = |scale: f64| {
        let [train, test] = ["train", "test"].map(|key| (matrix(&case[key]) * scale).unwrap());
        Gaussians::fit(&train, &labels).unwrap().log_densities(&test).unwrap()
    };
    let plain = densities(1.0);
    // A power of two, so that nothing is rounded otherwise.
    let scaled: Vec<f64> = densities(1024.0).iter().map(|density| density + 4.0 * 1024f64.ln()).collect();
    assert_close("scaled", &scaled, &plain, 1e-10);
}

#[test]
fn sngp_has_numpys_variances_and_uncertainties() {
    for case in golden()["sngp"].as_array().unwrap() {
        let [train, test, logits] = ["train", "test", "logits"].map(|key| matrix(&case[key]));
        let [ridge, mean_field] = ["ridge", "mean_field"].map(|key| case[key].as_f64().unwrap());
        for (uncertainty, key) in [(Uncertainty::Entropy, "entropy"), (Uncertainty::DempsterShafer, "dempster_shafer")]
        {
            let config = sngp::Config { ridge, mean_field, uncertainty };
            let posterior = Posterior::fit(&config, &train).unwrap();
            assert_close("variance", &posterior.variances(&test).unwrap(), &numbers(&case["variances"]), 1e-12);
            let fit = Fit { train: Some(&of_features(&train, &[0; 30])), ..Fit::default() };
            let scores = config.fit(&fit).unwrap().score(&bank(logits.clone(), test.clone(), None)).unwrap();
            let scores: Vec<f64> = scores.as_slice().iter().copied().map(f64::from).collect();
            assert_close(key, &scores, &numbers(&case[key]), 1e-6);
        }
    }
    let train = Tensor::new(&[[0f32, f32::INFINITY]], &Device::Cpu).unwrap();
    let error = Posterior::fit(&sngp::Config::default(), &train).unwrap_err();
    assert_eq!(error.to_string(), "feature 1 of image 0 is inf");
}

/// Without train images in its direction, an image's variance is the prior's; with many, it is next to nothing.
#[test]
fn sngps_variance_is_the_priors_where_nothing_was_learned() {
    let train = Tensor::from_vec([1f32, 0.0].repeat(999), (999, 2), &Device::Cpu).unwrap();
    let posterior = Posterior::fit(&sngp::Config::default(), &train).unwrap();
    let test = Tensor::new(&[[0f32, 3.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    assert_close("variances", &posterior.variances(&test).unwrap(), &[9.0, 1e-3], 1e-12);
}

#[test]
fn uncertainty_networks_are_read_and_told_apart() {
    let network = |yaml: &str| serde_saphyr::from_str::<config::Network>(yaml);
    let ddu = network("{ backbone: lenet, spectral_norm: {}, activation: leaky_relu, train: null }").unwrap();
    assert_eq!(ddu.model().unwrap(), ModelConfig::Classifier(architecture("lenet".into(), 3.0)));
    let sngp = network("{ backbone: lenet, head: { sngp: { features: 64 } } }").unwrap();
    let expected = BTreeMap::from([("features", json!(64)), ("reduction", Value::Null)]);
    let head = serde_json::to_value(sngp.model().unwrap()).unwrap()["classifier"]["head"].clone();
    assert!(expected.iter().all(|(key, value)| head["sngp"][key] == *value), "{head}");
    for wrong in ["{ backbone: lenet, head: { sngp: { features: none } } }", "{ backbone: lenet, spectral_norm: 3 }"] {
        assert!(network(wrong).is_err(), "{wrong}");
    }
}
