//! Detectors that differentiate the network: golden values of a WRN in f64, central differences, and what they refuse.

#[expect(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/inputs.rs"]
mod inputs;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/network.rs"]
mod network;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/scores.rs"]
mod scores;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use candle_core::{DType, Device, Tensor};
use common::{uniform, values};
use garde::Validate;
use inputs::Set;
use network::parameter;
use oodkit::{
    data::{Attack, Normalisation},
    detectors::{
        Bank, DetectorConfig, Fit, adascale, inputs::pull_back, mahalanobis::Distances, nac, odin, pgd, stages::Stages,
    },
    nn::{self, Backbone, Model, Output, Pass, Shape, Shown, params::Params, pass::PENULTIMATE, wide_resnet},
};
use scores::{Reference, assert_scores};

#[derive(serde::Deserialize)]
struct Golden {
    classes: usize,
    deviations: Vec<f32>,
    scores: Vec<Reference>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/input_gradients.json")).unwrap()
}

/// The network of the golden values.
fn wide_resnet(dtype: DType) -> Arc<dyn Model> {
    let backbone = Backbone::WideResnet(wide_resnet::Settings { depth: 10, width: 1, dropout: 0.0 });
    let shape = Shape { channels: 3, height: 8, width: 8, classes: golden().classes };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(&backbone.into(), shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
    network.folded().unwrap().into()
}

fn images(name: &str, count: usize) -> Tensor {
    let images = uniform(name, &[count, 3, 8, 8]).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    (images * 1.5).unwrap()
}

/// The test images of the golden values, of which the later half is stranger.
fn test_images() -> Tensor {
    let images = images("test images", 8);
    let later = (images.narrow(0, 4, 4).unwrap() * 2.0).unwrap();
    Tensor::cat(&[images.narrow(0, 0, 4).unwrap(), later], 0).unwrap()
}

/// Means are of no matter here.
fn by(std: Vec<f32>) -> Normalisation {
    Normalisation { mean: vec![0.5; std.len()], std }
}

fn set(images: Tensor) -> Set {
    Set { network: wide_resnet(images.dtype()), images, normalisation: by(golden().deviations), batch: 3 }
}

/// What an experiment has of a set.
fn bank(set: Set, labels: Option<Vec<u32>>) -> Bank {
    let Shown { logits, features, .. } = set.network.show(&set.images, &Pass::eval()).unwrap();
    let [logits, features] = [logits, features].map(|values| values.unwrap().to_dtype(DType::F32).unwrap());
    Bank { labels, inputs: Some(Arc::new(set)), ..Bank::new(logits, features) }
}

fn train() -> Bank {
    bank(set(images("train images", 100)), Some((0..100).map(|image| image % 5).collect()))
}

fn config(yaml: &str) -> DetectorConfig {
    let config: DetectorConfig = serde_saphyr::from_str(yaml).unwrap();
    config.validate().unwrap();
    config
}

fn score(detector: &str, train: &Bank, test: &Bank, memory: usize) -> oodkit::Result<Vec<f32>> {
    let head = train.inputs.as_ref().and_then(|inputs| inputs.network().head());
    let fit = Fit { train: Some(train), head: head.as_ref(), memory, ..Fit::default() };
    Ok(config(detector).build().fit(&fit)?.score(test)?.as_slice().to_vec())
}

#[test]
fn equal_to_pytorch() {
    let (train, test) = (train(), bank(set(test_images()), None));
    for Reference { detector, expected } in golden().scores {
        assert_scores(&score(&detector, &train, &test, 1 << 20).unwrap(), &expected, &detector);
    }
}

/// In f32, as used, where rounding may turn the sign of a gradient that is nearly 0, and move a state into the next bin.
#[test]
fn f32_is_near() {
    let as_f32 = |images: Tensor| set(images.to_dtype(DType::F32).unwrap());
    let train = bank(as_f32(images("train images", 100)), train().labels);
    let test = bank(as_f32(test_images()), None);
    for Reference { detector, expected } in golden().scores {
        for (score, expected) in score(&detector, &train, &test, 1 << 20).unwrap().into_iter().zip(expected) {
            let error = (f64::from(score) - expected).abs();
            assert!(error <= 5e-3 * expected.abs(), "{detector}: {score}, expected {expected}");
        }
    }
}

/// (f(x + ε·e_i) − f(x − ε·e_i)) / 2ε of each place i among `places` of all values of x.
fn differences(x: &Tensor, places: &[usize], f: impl Fn(&Tensor) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let plain = values(x);
    let moved = |place: usize, step: f64| {
        let mut values = plain.clone();
        values[place] += step;
        f(&Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap())
    };
    places.iter().map(|place| (moved(*place, STEP) - moved(*place, -STEP)) / (2.0 * STEP)).collect()
}

#[track_caller]
fn assert_gradient(what: &str, gradient: &[f64], differences: &[f64]) {
    let largest = differences.iter().fold(0.0, |largest: f64, difference| largest.max(difference.abs()));
    for (gradient, difference) in gradient.iter().zip(differences) {
        assert!((gradient - difference).abs() <= 1e-5 * largest, "{what}: {gradient}, differences {difference}");
    }
}

const PLACES: [usize; 6] = [0, 17, 63, 70, 127, 191];

#[test]
fn odin_goes_down_its_loss() {
    let image = images("test images", 1);
    let set = set(image.clone());
    for temperature in [1.0, 1000.0] {
        let config = odin::Config { temperature, ..odin::Config::default() };
        let softmax = |images: &Tensor| {
            let logits = values(set.network.show(images, &Pass::eval()).unwrap().logits().unwrap());
            let sum: f64 = logits.iter().map(|logit| (logit / temperature).exp()).sum();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (largest / temperature).exp() / sum
        };
        let factor = (1.0 - softmax(&image)) / temperature;
        let gradient = values(&config.gradient(&set, &image).unwrap());
        let gradient: Vec<f64> = PLACES.iter().map(|place| gradient[*place] * factor).collect();
        assert_gradient("ODIN", &gradient, &differences(&image, &PLACES, |images| -softmax(images).ln()));
    }
}

/// A softmax that f32, and f64, round to 1 has a direction all the same.
#[test]
fn sure_images_move_too() {
    let image = (images("test images", 1) * 1e4).unwrap();
    let set = set(image.clone());
    let gradient =
        odin::Config { temperature: 1.0, noise: 0.1, ..odin::Config::default() }.gradient(&set, &image).unwrap();
    let logits = values(set.network.show(&image, &Pass::eval()).unwrap().logits().unwrap());
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!(logits.iter().filter(|logit| **logit < largest).all(|logit| largest - logit > 800.0), "{logits:?}");
    assert!(values(&gradient).iter().all(|slope| slope.is_finite() && *slope != 0.0));
}

fn attack(epsilon: u8, steps: usize) -> Attack {
    Attack { network: "net".to_owned(), epsilon, steps }
}

/// Logits w·x and −w·x: the gradient has one sign for each pixel, wherever the image is.
struct Straight(Tensor);

impl Model for Straight {
    fn show(&self, images: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
        let logit = images.flatten_from(1)?.matmul(&self.0)?;
        Ok(Shown { logits: Some(Tensor::cat(&[&logit, &logit.neg()?], 1)?), ..Shown::default() })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        unreachable!("nothing folds it")
    }
}

/// Every pixel of a straight network's image that matters goes as far as it may, and stops at black, at white and at ε.
#[test]
fn an_attack_goes_to_its_bounds_and_no_farther() {
    let weights = Tensor::new(&[[1.0f64], [-1.0], [2.0], [0.0]], &Device::Cpu).unwrap();
    let normalisation = Normalisation { mean: vec![0.25], std: vec![0.5] };
    let levels = [[250.0, 3.0, 100.0, 128.0], [0.0, 255.0, 10.0, 200.0]];
    let images: Vec<f64> = levels.as_flattened().iter().map(|level| (level / 255.0 - 0.25) / 0.5).collect();
    let images = Tensor::from_vec(images, (2, 1, 2, 2), &Device::Cpu).unwrap();
    let set = Set { network: Arc::new(Straight(weights)), images, normalisation, batch: 1 };
    // w·x > 0 of the first image: up where w > 0. Of the second, down.
    assert_eq!(pgd::moved(&attack(8, 10), &set).unwrap(), [255, 0, 108, 128, 0, 255, 2, 200]);
    // Half a step further than ε in one step, and back to it.
    assert_eq!(pgd::moved(&attack(2, 1), &set).unwrap(), [252, 1, 102, 128, 0, 255, 8, 200]);
}

/// Of a network that is not straight: within ε, and surer of most images.
#[test]
fn a_network_is_surer_of_attacked_images() {
    let set = set(test_images());
    let sure = |images: &Tensor| -> Vec<f64> {
        let softmax = candle_nn::ops::softmax(set.network.show(images, &Pass::eval()).unwrap().logits().unwrap(), 1);
        values(&softmax.unwrap().max(1).unwrap())
    };
    let bytes = |images: &Tensor| -> Vec<f64> {
        let plane =
            |(at, x): (usize, f64)| (x * f64::from(set.normalisation.std[at / 64 % 3]) + 0.5).clamp(0.0, 1.0) * 255.0;
        values(images).into_iter().enumerate().map(plane).collect()
    };
    let moved = pgd::moved(&attack(4, 5), &set).unwrap();
    for (moved, first) in moved.iter().zip(bytes(&set.images)) {
        assert!((f64::from(*moved) - first).abs() <= 4.5, "{moved} of {first}");
    }
    let back =
        |(at, level): (usize, &u8)| (f64::from(*level) / 255.0 - 0.5) / f64::from(set.normalisation.std[at / 64 % 3]);
    let moved: Vec<f64> = moved.iter().enumerate().map(back).collect();
    let moved = Tensor::from_vec(moved, set.images.shape(), &Device::Cpu).unwrap();
    let surer = sure(&moved).iter().zip(sure(&set.images)).filter(|(after, before)| *after > before).count();
    assert!(surer >= 7, "{surer} of 8");
}

#[test]
fn mahalanobis_goes_down_its_distance() {
    let train = train();
    // Features in steps of f32, which is what distances are of.
    let features = Tensor::new(&[[0.5f32; 64], [1.25f32; 64]], &Device::Cpu).unwrap();
    for normalise in [false, true] {
        let distances = Distances::fit(&train.features, &train.labels.clone().unwrap(), normalise).unwrap();
        let gradients = distances.gradients(&features).unwrap();
        let largest = gradients.iter().fold(0.0, |largest: f64, slope| largest.max(slope.abs()));
        for place in [0usize, 5, 63, 64, 100] {
            let moved = |step: f32| {
                let mut values = features.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                values[place] += step;
                let features = Tensor::from_vec(values, (2, 64), &Device::Cpu).unwrap();
                distances.nearest(&features).unwrap()[place / 64]
            };
            // Within a class's reach, a quadratic form: differences are exact unless the length goes along.
            let difference = (moved(0.0078125) - moved(-0.0078125)) / 0.015625;
            let error = (gradients[place] - difference).abs();
            let bound = if normalise { 1e-3 * largest } else { 1e-8 * difference.abs() };
            assert!(error <= bound, "{place}, normalised {normalise}: {} and {difference}", gradients[place]);
        }
    }

    // On their way back through the network.
    let image = images("test images", 1);
    let set = set(image.clone());
    let names: Vec<String> = ["block1", "block3", PENULTIMATE].map(str::to_owned).into();
    for (index, name) in names.iter().enumerate() {
        let stage = |images: &Tensor| {
            let outputs = set.network.show(images, &Pass::eval()).unwrap();
            Stages::Named(names.clone()).of(&outputs).unwrap()[index].1.clone()
        };
        let variable = candle_core::Var::from_tensor(&image).unwrap();
        let features = stage(&variable);
        let v: Vec<f64> = values(&uniform(name, features.dims()));
        let along = |images: &Tensor| values(&stage(images)).iter().zip(&v).map(|(z, v)| z * v).sum();
        let gradient = values(&pull_back(&features, v.clone(), &variable).unwrap());
        let gradient: Vec<f64> = PLACES.iter().map(|place| gradient[*place]).collect();
        assert_gradient(name, &gradient, &differences(&image, &PLACES, along));
    }
}

/// An image that has gone where central differences by each of its pixels point scores what the detector gives with noise.
#[test]
fn steps_are_those_of_differences() {
    let (train, image, deviations) = (train(), images("test images", 1), golden().deviations);
    let (network, pixels) = (wide_resnet(DType::F64), (0..192).collect::<Vec<_>>());
    let features = network.show(&image, &Pass::eval()).unwrap().features.unwrap();
    let [slopes, normalised] = [false, true].map(|normalise| {
        let distances = Distances::fit(&train.features, &train.labels.clone().unwrap(), normalise).unwrap();
        distances.gradients(&features).unwrap()
    });
    let along = |images: &Tensor, slopes: &[f64]| {
        let features = values(network.show(images, &Pass::eval()).unwrap().features().unwrap());
        features.iter().zip(slopes).map(|(z, slope)| z * slope).sum::<f64>()
    };
    let loss = |images: &Tensor| {
        let logits = values(network.show(images, &Pass::eval()).unwrap().logits().unwrap());
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
    };
    let check = |noise: f64, f: &dyn Fn(&Tensor) -> f64, [with, without]: [&str; 2]| {
        let slopes = differences(&image, &pixels, f);
        let moved = values(&image).into_iter().zip(slopes).enumerate();
        let moved = moved.map(|(at, (x, slope))| x - noise * slope.signum() / f64::from(deviations[at / 64]));
        let moved = Tensor::from_vec(moved.collect(), image.shape(), &Device::Cpu).unwrap();
        let score = |detector, image: &Tensor| {
            f64::from(score(detector, &train, &bank(set(image.clone()), None), 1 << 20).unwrap()[0])
        };
        let (found, expected, plain) = (score(with, &image), score(without, &moved), score(without, &image));
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{with}: {found}, by differences {expected}");
        assert!((expected - plain).abs() > 1e-3 * expected.abs(), "{with}: {expected} and without noise {plain}");
    };
    check(0.004, &loss, ["odin: { temperature: 1, noise: 0.004 }", "odin: { temperature: 1, noise: 0 }"]);
    one_value(&image, &network, &deviations, &differences(&image, &pixels, loss));
    check(0.002, &|images| along(images, &slopes), ["mahalanobis: { noise: 0.002 }", "mahalanobis"]);
    let unit = ["mahalanobis: { normalise: true, noise: 0.002 }", "mahalanobis: { normalise: true }"];
    check(0.002, &|images| along(images, &normalised), unit);
}

#[test]
fn adascale_goes_up_its_largest_logit() {
    let image = images("test images", 1);
    let set = set(image.clone());
    let largest = |images: &Tensor| {
        let logits = values(set.network.show(images, &Pass::eval()).unwrap().logits().unwrap());
        logits.into_iter().fold(f64::NEG_INFINITY, f64::max)
    };
    let (features, gradient) = adascale::gradient(&set, &image, 0).unwrap();
    let plain = values(set.network.show(&image, &Pass::eval()).unwrap().features().unwrap());
    assert!(values(&features).iter().zip(&plain).all(|(found, plain)| (found - plain).abs() < 1e-12));
    let gradient = values(&gradient);
    let gradient: Vec<f64> = PLACES.iter().map(|place| gradient[*place]).collect();
    assert_gradient("AdaSCALE", &gradient, &differences(&image, &PLACES, largest));
}

/// Images that are drawn by name, and percentages between `low` and `high`.
#[test]
fn adascale_learns_from_as_many_train_images_as_it_may() {
    let (train, test) = (train(), bank(set(test_images()), None));
    let head = wide_resnet(DType::F64).head().unwrap();
    let fitted = |yaml: &str| {
        let fit = Fit { train: Some(&train), head: Some(&head), memory: 1 << 20, ..Fit::default() };
        config(yaml).build().fit(&fit).unwrap().record().unwrap()["images"].as_u64().unwrap()
    };
    assert_eq!([fitted("adascale"), fitted("adascale: { images: 23 }")], [100, 23]);
    let [some, again] = [(); 2].map(|()| score("adascale: { images: 23 }", &train, &test, 1 << 20).unwrap());
    assert_eq!(some, again);
    // One percentage for all images is SCALE.
    let scale = score("scale: { percentile: 80 }", &train, &test, 1 << 20).unwrap();
    assert_eq!(score("adascale: { low: 80, high: 80 }", &train, &test, 1 << 20).unwrap(), scale);
}

/// The same of i-ODIN, where the steepest of all values moves.
fn one_value(image: &Tensor, network: &Arc<dyn Model>, deviations: &[f32], slopes: &[f64]) {
    const NOISE: f64 = 0.5;
    let steepest = (0..slopes.len()).max_by(|a, b| slopes[*a].abs().total_cmp(&slopes[*b].abs())).unwrap();
    let mut moved = values(image);
    moved[steepest] -= NOISE * slopes[steepest].signum() / f64::from(deviations[steepest / 64]);
    let moved = Tensor::from_vec(moved, image.shape(), &Device::Cpu).unwrap();
    let score = |pixels: &str, noise: f64, images: &Tensor| {
        let set = Set { network: network.clone(), ..set(images.clone()) };
        let yaml = format!("odin: {{ temperature: 1, noise: {noise}, pixels: {pixels} }}");
        score(&yaml, &train(), &bank(set, None), 1 << 20).unwrap()[0]
    };
    let (found, expected, all) = (score("one", NOISE, image), score("all", 0.0, &moved), score("all", NOISE, image));
    assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}, by differences {expected}");
    assert!((found - all).abs() > 1e-3 * all.abs(), "{found}, and {all} if all move");
}

/// z_i·∂L/∂z_i of the features, by differences of L through the last layer alone.
#[test]
fn nac_weighs_neurons_by_their_gradients() {
    let image = images("test images", 1);
    let set = set(image.clone());
    let head = set.network.head().unwrap();
    let loss = |features: &Tensor| {
        let logits = features.matmul(&head.weight.t().unwrap()).unwrap().broadcast_add(&head.bias).unwrap();
        let logits = values(&logits);
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        log_sum - logits.iter().sum::<f64>() / logits.len() as f64
    };
    let features = set.network.show(&image, &Pass::eval()).unwrap().features.unwrap();
    let places: Vec<usize> = (0..64).collect();
    let expected = differences(&features, &places, loss).into_iter().zip(values(&features)).map(|(g, z)| g * z);
    let parts = nac::parts(&set, &[PENULTIMATE.to_owned()], &image, 0).unwrap();
    assert_gradient("NAC", &parts[0][0], &expected.collect::<Vec<_>>());
}

#[test]
fn needs_follow_the_settings() {
    let needs = |yaml: &str| config(yaml).build().needs().contains(&Output::Gradients);
    for yaml in ["odin", "nac", "adascale", "mahalanobis: { noise: 0.001 }", "mahalanobis: { layers: all }"] {
        assert!(needs(yaml), "{yaml}");
    }
    for yaml in ["odin: { noise: 0 }", "mahalanobis", "mahalanobis: { weights: [2] }"] {
        assert!(!needs(yaml), "{yaml}");
    }
    // What stored scores of earlier versions are called by.
    let json = |yaml: &str| serde_json::to_string(&config(yaml)).unwrap();
    assert_eq!(json("odin: { pixels: all }"), r#"{"odin":{"temperature":1000.0,"noise":0.0014}}"#);
    assert_eq!(json("mahalanobis"), r#"{"mahalanobis":{}}"#);
    assert_eq!(json("mahalanobis: { noise: 0, layers: penultimate, normalise: false }"), r#"{"mahalanobis":{}}"#);
    assert_eq!(json("rmds"), r#"{"rmds":{}}"#);
    assert_eq!(json("rmds: { normalise: true }"), r#"{"rmds":{"normalise":true}}"#);
    assert_eq!(
        json("mahalanobis: { noise: 0.5, layers: [relu, block1], weights: [1, 2] }"),
        r#"{"mahalanobis":{"noise":0.5,"layers":["relu","block1"],"weights":[1.0,2.0]}}"#
    );
}

#[test]
fn bad_settings_are_refused() {
    for (yaml, message) in [
        ("odin: { noise: -1 }", "noise: lower than 0"),
        ("odin: { temperature: 0 }", "temperature: lower than 0.001"),
        ("odin: { pixels: some }", "unknown variant `some`"),
        ("mahalanobis: { layers: [] }", "names no stage; `all` takes every one"),
        ("mahalanobis: { layers: [relu, relu] }", "\"relu\" is named twice"),
        ("mahalanobis: { layers: some }", "expected `penultimate`, `all` or a list of stages' names"),
        ("mahalanobis: { weights: [1e7] }", "weights[0]: greater than 1000000"),
        ("nac: { layers: {} }", "layers"),
        ("nac: { layers: { relu: { bins: 7 } } }", "must be even"),
        ("nac: { layers: { relu: { bin: 7 } } }", "unknown field `bin`"),
        ("nac: { images: 0 }", "images"),
        ("adascale: { low: 90 }", "greater than `high`, 85"),
        ("adascale: { high: 100 }", "high: greater than 99.99"),
        ("adascale: { share: 1.1 }", "share: greater than 1"),
        ("adascale: { images: 0 }", "images: lower than 1"),
    ] {
        let read = serde_saphyr::from_str::<DetectorConfig>(yaml).map_err(|error| error.to_string());
        let error = read.and_then(|config| config.validate().map_err(|report| report.to_string())).unwrap_err();
        assert!(error.contains(message), "{yaml}: {error}");
    }
}

#[test]
fn what_does_not_fit_the_network_is_refused() {
    let (train, test) = (train(), bank(set(test_images()), None));
    let refused = |detector: &str, train: &Bank, test: &Bank, memory| {
        score(detector, train, test, memory).unwrap_err().to_string()
    };
    let stages = "it has block1, block2, block3, relu, penultimate";
    for detector in ["mahalanobis: { layers: [block9] }", "nac: { layers: { block9: {} } }"] {
        let error = refused(detector, &train, &test, 1 << 20);
        assert!(error.contains("no stage \"block9\" (did you mean \"block") && error.ends_with(stages), "{error}");
    }
    let error = refused("mahalanobis: { layers: all, weights: [1, 2] }", &train, &test, 1 << 20);
    assert_eq!(error, "mahalanobis has 2 weights for the layers block1, block2, block3, relu: give one each");
    let error = refused("mahalanobis: { weights: [1, 2] }", &train, &test, 1 << 20);
    assert_eq!(error, "mahalanobis has 2 weights for the layers penultimate: give one each");
    let error = refused("mahalanobis: { layers: all }", &train, &test, 100);
    assert!(error.starts_with("mahalanobis needs 1 MiB for its layers, and may use 0 MiB"), "{error}");

    let without = |bank: &Bank| Bank { inputs: None, ..bank.clone() };
    let blind = Bank { inputs: None, ..train.clone() };
    let error = refused("grood", &blind, &test, 1 << 20);
    assert!(error.contains("needs the network and the images, and there are none"), "{error}");
    let error = refused("grood", &train, &test, 1000);
    assert!(error.starts_with("grood needs 1 MiB for the train images' gradients, and may use 0 MiB"), "{error}");
    for detector in ["odin", "nac", "adascale", "mahalanobis: { noise: 0.001 }", "mahalanobis: { layers: all }"] {
        let error = refused(detector, &train, &without(&test), 1 << 20);
        assert!(error.contains("needs the network and the images, and there are none"), "{detector}: {error}");
        let three = bank(Set { normalisation: by(vec![0.5; 2]), ..set(test_images()) }, None);
        if detector == "odin" || detector.contains("noise") {
            assert_eq!(refused(detector, &train, &three, 1 << 20), "2 deviations where there must be 3");
        }
    }
    for detector in ["odin", "nac", "adascale"] {
        let [logits, features] = [&test.logits, &test.features].map(|rows| rows.narrow(0, 0, 3).unwrap());
        let fewer = Bank { logits, features, ..test.clone() };
        assert_eq!(refused(detector, &train, &fewer, 1 << 20), "8 images where there must be 3", "{detector}");
    }
}

/// Gradients that are not finite are met as such, with their image, where the score itself would be.
struct Steep(Arc<dyn Model>);

impl Model for Steep {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        // |x − 0.25|^½: finite everywhere, and infinitely steep at one value.
        let images = ((images - 0.25)?.sqr()? + 0.0)?.powf(0.25)?;
        self.0.show(&images, pass)
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

#[test]
fn gradients_that_are_no_numbers_are_refused() {
    let mut pixels = values(&test_images());
    pixels[5 * 192 + 100] = 0.25;
    let images = Tensor::from_vec(pixels, (8, 3, 8, 8), &Device::Cpu).unwrap();
    let steep = |images| Set { network: Arc::new(Steep(wide_resnet(DType::F64))), ..set(images) };
    let train = train();
    for detector in ["odin", "adascale", "mahalanobis: { noise: 0.001 }"] {
        assert!(score(detector, &train, &bank(steep(test_images()), None), 1 << 20).is_ok());
        let error = score(detector, &train, &bank(steep(images.clone()), None), 1 << 20).unwrap_err().to_string();
        assert!(error.starts_with("the gradient with respect to image 5 is "), "{error}");
    }
}

/// All it gives of the third image of one of its batches is NaN.
struct Faulty {
    network: Arc<dyn Model>,
    /// Batches before that one.
    left: AtomicUsize,
}

impl Model for Faulty {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        let outputs = self.network.show(images, pass)?;
        if self.left.fetch_sub(1, Ordering::Relaxed) != 0 {
            return Ok(outputs);
        }
        let spoilt = |values: &Tensor| {
            let rows = Tensor::new(&[1.0, 1.0, f64::NAN], &Device::Cpu)?;
            let shape: Vec<usize> = (0..values.rank()).map(|axis| if axis == 0 { 3 } else { 1 }).collect();
            values.broadcast_mul(&rows.reshape(shape)?)
        };
        let stages = outputs.stages.iter().map(|(name, maps)| Ok((name.clone(), spoilt(maps)?)));
        Ok(Shown {
            logits: Some(spoilt(outputs.logits()?)?),
            features: Some(spoilt(outputs.features()?)?),
            stages: stages.collect::<candle_core::Result<_>>()?,
            ..outputs
        })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        Err(candle_core::Error::Msg("it is folded".into()))
    }
}

/// The sixth image is the third of the second batch; with noise, each batch goes through the network twice.
#[test]
fn what_is_no_number_is_named_by_its_place_in_the_set() {
    let train = train();
    for (detector, before, expected) in [
        ("mahalanobis: { layers: all }", 1, "layer block1: feature 0 of image 5 is NaN"),
        ("mahalanobis: { layers: [block2], noise: 0.001 }", 2, "layer block2: feature 0 of image 5 is NaN"),
        ("mahalanobis: { layers: [block2], noise: 0.001 }", 3, "layer block2: feature 0 of image 5 is NaN"),
        ("mahalanobis: { noise: 0.001 }", 2, "feature 0 of image 5 is NaN"),
        ("mahalanobis: { noise: 0.001 }", 3, "feature 0 of image 5 is NaN"),
        ("odin", 3, "logit 0 of image 5 is NaN"),
        ("adascale", 2, "logit 0 of image 5 is NaN"),
        ("adascale", 3, "feature 0 of image 5 is NaN"),
    ] {
        let test = bank(set(test_images()), None);
        let left = AtomicUsize::new(before);
        let faulty = Set { network: Arc::new(Faulty { network: wide_resnet(DType::F64), left }), ..set(test_images()) };
        let test = Bank { inputs: Some(Arc::new(faulty)), ..test };
        let error = score(detector, &train, &test, 1 << 20).unwrap_err().to_string();
        assert_eq!(error, expected, "{detector}");
    }
}

/// Noise is drawn by name: more of it, or another seed, is another prototype.
#[test]
fn grood_draws_its_noise_by_name() {
    let (train, test) = (train(), bank(set(test_images()), None));
    let of = |yaml: &str| score(yaml, &train, &test, 1 << 20).unwrap();
    let plain = of("grood");
    assert_eq!(plain, of("grood: { noise_images: 1, seed: 0 }"));
    for other in ["grood: { noise_images: 101 }", "grood: { seed: 1 }", "grood: { by: norm }"] {
        assert_ne!(plain, of(other), "{other}");
    }
    let some = test.subset(&[6, 2]).unwrap();
    assert_eq!(score("grood", &train, &some, 1 << 20).unwrap(), [plain[6], plain[2]]);
}

#[test]
fn as_many_train_images_of_each_class_are_learned_from() {
    let train = train();
    let fitted = |yaml: &str, labels: Vec<u32>| {
        let train = Bank { labels: Some(labels), ..train.clone() };
        let fit = Fit { train: Some(&train), memory: 1 << 20, ..Fit::default() };
        config(yaml).build().fit(&fit).unwrap().record().unwrap()["images"].as_u64().unwrap()
    };
    let even = train.labels.clone().unwrap();
    assert_eq!(fitted("nac", even.clone()), 100);
    assert_eq!(fitted("nac: { images: 23 }", even.clone()), 20);
    assert_eq!(fitted("nac: { images: 2 }", even), 5);
    // The rarest class has three images.
    assert_eq!(fitted("nac", (0..100).map(|image| u32::from(image < 3)).collect()), 6);
}
