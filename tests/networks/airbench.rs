//! airbench's network and its whitening against numpy (`tests/golden/airbench.py`), gradients against central differences.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use oodkit::nn::{
    self, Backbone, Mode, Model, Pass, Precision, Shape,
    airbench::Settings,
    layers::{Conv2d, Whitening},
    params::Params,
};
use oodkit::ops::Convolution;
use serde_json::{Value, json};

use super::{
    check_outputs,
    common::{assert_close, numbers, uniform, values},
    network::{parameter, sampled},
};

const TRAIN: Mode = Mode::Train { seed: 0, step: 0, precision: Precision::F32 };

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/airbench.json")).unwrap()
}

fn settings(of: &Value) -> Settings {
    serde_json::from_value(of.clone()).unwrap()
}

/// The network with the golden parameters, and the golden images.
fn built(settings: &Settings, images: &[usize], dtype: DType) -> (Box<dyn Model>, Params, Tensor) {
    let shape = Shape { channels: images[1], height: images[2], width: images[3], classes: 5 };
    let params = Params::new(0, &Device::Cpu);
    let backbone = Backbone::Airbench(settings.clone());
    let network = nn::build(&backbone.into(), shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
    let images = uniform("images", images).to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
    (network, params, (images * 1.5).unwrap())
}

#[test]
fn it_matches_numpy() {
    for golden in golden()["networks"].as_array().unwrap() {
        let settings = settings(&golden["settings"]);
        let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
            let (network, params, images) = built(&settings, &dims, dtype);
            let names: Vec<String> = params.all().unwrap().into_keys().collect();
            assert_eq!(json!(names), golden["parameters"]);
            assert_eq!(json!(params.count()), golden["trainable"]);
            let outputs = network.show(&images, &Pass::eval()).unwrap();
            check_outputs("eval", &outputs, &golden["eval"], tolerance);
            assert!(!outputs.logits().unwrap().track_op(), "inference keeps a graph");
            let folded = network.folded().unwrap().show(&images, &Pass::eval()).unwrap();
            check_outputs("folded", &folded, &golden["eval"], tolerance);
            // The scale of the logits is in the weight that detectors see.
            let head = network.head().unwrap();
            let again = outputs.features().unwrap().matmul(&head.weight.t().unwrap()).unwrap();
            let again = again.broadcast_add(&head.bias).unwrap();
            assert_close("head", &values(&again), &values(outputs.logits().unwrap()), 1e-6);
            // Statistics of few values amplify the rounding of f32.
            let tolerance = if dtype == DType::F32 { 1e-3 } else { tolerance };
            let outputs = network.show(&images, &Pass::new(TRAIN)).unwrap();
            check_outputs("train", &outputs, &golden["train"], tolerance);
            let after = params.all().unwrap();
            for (buffer, expected) in golden["buffers"].as_object().unwrap() {
                assert_close(buffer, &sampled(&after[buffer], 2), &numbers(expected), tolerance);
            }
        }
    }
}

/// Every parameter that learns, along a direction; the filters that whiten do not.
#[test]
fn gradients_are_those_of_central_differences() {
    const STEP: f64 = 1e-6;
    for (text, learned) in [("convs", 3), ("batch_norm", 2)] {
        let mut recorded = json!({ "widths": [4, 6, 6], "convs": learned });
        if text == "batch_norm" {
            recorded["batch_norm"] = json!({ "scale": "learned" });
        }
        let (network, params, images) = built(&settings(&recorded), &[3, 3, 32, 32], DType::F64);
        let labels = Tensor::new(&[0u32, 3, 1], &Device::Cpu).unwrap();
        let loss = || {
            let outputs = network.show(&images, &Pass::new(TRAIN)).unwrap();
            candle_nn::loss::cross_entropy(outputs.logits().unwrap(), &labels).unwrap()
        };
        let gradients = loss().backward().unwrap();
        for (name, var) in params.trainable() {
            let gradient = gradients.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}: no gradient"));
            let toward = uniform(&format!("toward {name}"), var.dims());
            let expected: f64 = values(&(gradient * &toward).unwrap()).iter().sum();
            let start = var.as_detached_tensor().copy().unwrap();
            let at = |way: f64| {
                var.set(&(&start + (&toward * (way * STEP)).unwrap()).unwrap()).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let found = (at(1.0) - at(-1.0)) / (2.0 * STEP);
            var.set(&start).unwrap();
            assert!(
                (found - expected).abs() < 1e-6 * expected.abs().max(1e-2),
                "{text} {name}: {expected} is not {found}"
            );
        }
    }
}

#[test]
fn filters_whiten_the_first_train_images() {
    for case in golden()["whitening"].as_array().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let images = uniform("train images", &shape);
        let images = (&images + (images.roll(1, 3).unwrap() * 0.75).unwrap()).unwrap();
        let images = (&images + (images.roll(1, 2).unwrap() * 0.5).unwrap()).unwrap().to_dtype(DType::F32).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let settings = serde_json::from_value(case["settings"].clone()).unwrap();
        let layer = Whitening::new(shape[1], &settings, &params.builder()).unwrap();
        let mut survey = layer.survey().unwrap();
        // The first images, of which there are fewer than it asks for here.
        assert_eq!((survey.places(7), survey.places(30)), ((0..7).collect(), (0..20).collect()));
        for start in [0, 8, 16] {
            survey
                .see(&images.narrow(0, start, 4.min(shape[0] - start) + if start < 16 { 4 } else { 0 }).unwrap())
                .unwrap();
        }
        survey.finish().unwrap();
        let found = params.all().unwrap();
        assert_close("filters", &values(&found["whitening"]), &numbers(&case["filters"]), 1e-5);
        assert!(layer.survey().is_none(), "they are known now");
        assert!(params.trainable().iter().all(|(name, _)| name == "bias"));
        // What is loaded is known, too: a network that goes on from another keeps its filters.
        let loaded = Params::new(1, &Device::Cpu);
        let layer = Whitening::new(shape[1], &settings, &loaded.builder()).unwrap();
        loaded.load(&found, std::path::Path::new("test")).unwrap();
        assert!(layer.survey().is_none());
        // Patches of the images are nearly white, where ε is small: their mean square in each direction is λ/(λ + ε).
        let y = layer.forward(&images, &Pass::eval()).unwrap();
        let squares = y.sqr().unwrap().mean((0, 2, 3)).unwrap();
        let squares = values(&squares);
        assert!(squares[0] > 0.9 && squares.iter().all(|square| (0.0..1.001).contains(square)), "{squares:?}");
    }
}

#[test]
fn the_first_filters_begin_as_the_identity_and_others_as_ever() {
    for [inputs, outputs] in [[3, 5], [5, 3], [4, 4]] {
        let params = Params::new(3, &Device::Cpu);
        let vb: VarBuilder = params.builder();
        let conv = Conv2d::dirac([inputs, outputs], 3, Convolution::new(1, 1), &vb.pp("a")).unwrap();
        let usual = Params::new(3, &Device::Cpu);
        let bound = 1.0 / ((inputs * 9) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let plain = usual.builder().pp("a").get_with_hints((outputs, inputs, 3, 3), "weight", init).unwrap();
        let x = uniform("x", &[2, inputs, 4, 4]).to_dtype(DType::F32).unwrap();
        let y = conv.forward(&x, &Pass::eval()).unwrap();
        let same = inputs.min(outputs);
        let first = |tensor: &Tensor| values(&tensor.narrow(1, 0, same).unwrap().contiguous().unwrap());
        assert_close("the first channels", &first(&y), &first(&x), 1e-6);
        let weight = &params.all().unwrap()["a.weight"];
        let rest = |tensor: &Tensor| values(tensor)[same * inputs * 9..].to_vec();
        assert_eq!(rest(weight), rest(&plain));
        // A second network of the same parameters leaves them as they are.
        let var: Var = params.trainable().remove(0).1;
        var.set(&plain).unwrap();
        Conv2d::dirac([inputs, outputs], 3, Convolution::new(1, 1), &vb.pp("a")).unwrap();
        assert_eq!(values(&var), values(&plain));
    }
}

#[test]
fn images_that_are_too_small_are_refused() {
    let of = |side, kernel: usize| {
        let settings = settings(&json!({ "widths": [2, 2, 2], "whitening": { "kernel": kernel } }));
        let shape = Shape { channels: 1, height: 32, width: side, classes: 2 };
        let params = Params::new(0, &Device::Cpu);
        nn::build(&Backbone::Airbench(settings).into(), shape, params.builder())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!((of(9, 2), of(12, 5)), (Ok(()), Ok(())));
    assert_eq!(of(8, 2).unwrap_err(), "airbench needs images of at least 9×9 pixels, not 32×8");
    assert_eq!(of(11, 5).unwrap_err(), "airbench needs images of at least 12×12 pixels, not 32×11");
}
