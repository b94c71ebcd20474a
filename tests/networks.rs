//! The networks against PyTorch's: `tests/golden/make_networks.py`.

#[path = "networks/adm.rs"]
mod adm;
#[path = "networks/airbench.rs"]
mod airbench;
mod common;
#[path = "networks/metaformer.rs"]
mod metaformer;
#[path = "common/network.rs"]
mod network;
#[path = "networks/patches.rs"]
mod patches;
#[path = "networks/reptile.rs"]
mod reptile;
#[path = "networks/reverse.rs"]
mod reverse;
#[path = "networks/simplenet.rs"]
mod simplenet;
#[path = "networks/stl.rs"]
mod stl;
#[path = "networks/swin.rs"]
mod swin;
#[path = "networks/tiled.rs"]
mod tiled;
#[path = "networks/timm_networks.rs"]
mod timm_networks;
#[path = "networks/unet.rs"]
mod unet;
#[path = "networks/vit.rs"]
mod vit;
#[path = "networks/windows.rs"]
mod windows;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, numbers, uniform, values};
use network::{directional, parameter, sampled};
use oodkit::{
    data::batches::Batch,
    losses::{Loss, Objective},
    models::{ModelConfig, autoencoder},
    nn::{
        self, Backbone, Mode, Model, Output, Pass, Precision, Shape, Shown, params::Params, pass::Side, vgg,
        wide_resnet,
    },
};
use serde_json::Value;

const TRAIN: Mode = Mode::Train { seed: 0, step: 0, precision: Precision::F32 };

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/networks.json")).unwrap()
}

fn check_outputs(name: &str, outputs: &Shown, golden: &Value, tolerance: f64) {
    assert_close(&format!("{name} logits"), &values(outputs.logits().unwrap()), &numbers(&golden["logits"]), tolerance);
    assert_close(
        &format!("{name} features"),
        &sampled(outputs.features().unwrap(), 48),
        &numbers(&golden["features"]),
        tolerance,
    );
    let taps = golden["taps"].as_object().unwrap();
    assert_eq!(taps.len(), outputs.stages.len(), "{name}: number of stages");
    for (tap, expected) in taps {
        let actual = outputs.stage(tap).unwrap();
        assert_eq!(serde_json::to_value(actual.dims()).unwrap(), expected["shape"], "{name} {tap}");
        assert_close(&format!("{name} {tap}"), &sampled(actual, 48), &numbers(&expected["values"]), tolerance);
    }
}

fn matches_pytorch(name: &str, backbone: Backbone) {
    matches(name, backbone, &golden()[name]);
}

fn matches(name: &str, backbone: Backbone, golden: &Value) {
    // As used, to the accuracy that f32 allows; then in f64, where gradients through many layers stay sharp.
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let (network, params, images) = evaluates_as_pytorch(name, &backbone, golden, dtype, tolerance);
        let outputs = network.show(&images, &Pass::new(TRAIN)).unwrap();
        // Statistics of a few values (8 in the last stages) amplify the rounding of f32.
        let train_tolerance = if dtype == DType::F32 { 1e-3 } else { tolerance };
        check_outputs(&format!("{name} train"), &outputs, &golden["train"], train_tolerance);
        let after = params.all().unwrap();
        for (buffer, expected) in golden["buffers"].as_object().unwrap() {
            assert_close(&format!("{name} {buffer}"), &sampled(&after[buffer], 2), &numbers(expected), train_tolerance);
        }
        if dtype == DType::F64 {
            check_gradients(name, &params, &outputs, golden);
        }
    }
}

/// The network, its parameters, and the images that it was compared on.
fn evaluates_as_pytorch(
    name: &str,
    backbone: &Backbone,
    golden: &Value,
    dtype: DType,
    tolerance: f64,
) -> (Box<dyn Model>, Params, Tensor) {
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let classes = golden["eval"]["logits"].as_array().unwrap().len() / dims[0];
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(&backbone.clone().into(), shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    assert_eq!(serde_json::to_value(all.keys().collect::<Vec<_>>()).unwrap(), golden["parameters"], "{name}");
    assert_eq!(serde_json::to_value(params.count()).unwrap(), golden["trainable"], "{name}");
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
    let images = (images * 1.5).unwrap();

    let outputs = network.show(&images, &Pass::eval()).unwrap();
    check_outputs(&format!("{name} eval"), &outputs, &golden["eval"], tolerance);
    assert!(!outputs.logits().unwrap().track_op(), "{name}: inference keeps a graph");
    let folded = network.folded().unwrap();
    let outputs_folded = folded.show(&images, &Pass::eval()).unwrap();
    check_outputs(&format!("{name} folded"), &outputs_folded, &golden["eval"], tolerance);
    assert!(!outputs_folded.logits().unwrap().track_op(), "{name}: folded inference keeps a graph");

    let head = network.head().unwrap();
    let again =
        outputs.features().unwrap().matmul(&head.weight.t().unwrap()).unwrap().broadcast_add(&head.bias).unwrap();
    assert_close("head", &values(&again), &values(outputs.logits().unwrap()), 1e-6);
    (network, params, images)
}

fn check_gradients(name: &str, params: &Params, outputs: &Shown, golden: &Value) {
    let labels =
        Tensor::from_iter((0..outputs.logits().unwrap().dims()[0] as u32).map(|i| i % 5), &Device::Cpu).unwrap();
    let loss = candle_nn::loss::cross_entropy(outputs.logits().unwrap(), &labels).unwrap();
    assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], 1e-9);
    let gradients = loss.backward().unwrap();
    for (parameter, var) in params.trainable() {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} {parameter}: no gradient"));
        let [norm, dot] = directional(&parameter, gradient);
        let expected = numbers(&golden["gradients"][&parameter]);
        // A bias that a batch normalisation takes off again has a gradient of rounding errors.
        if expected[0] < 1e-12 {
            assert!(norm < 1e-12, "{name} {parameter}: {norm}");
            continue;
        }
        assert!(expected[0] > 1e-6, "{name} {parameter}: nothing to compare");
        let relative = [norm / expected[0], dot / expected[0]];
        assert_close(&format!("{name} {parameter} gradient"), &relative, &[1.0, expected[1] / expected[0]], 1e-7);
    }
}

#[test]
fn lenet_matches_pytorch() {
    matches_pytorch("lenet 28", Backbone::Lenet(Default::default()));
    matches_pytorch("lenet 32", Backbone::Lenet(Default::default()));
}

#[test]
fn wide_resnet_matches_pytorch() {
    let wrn = |depth, width| Backbone::WideResnet(wide_resnet::Settings { depth, width, dropout: 0.0 });
    matches_pytorch("wide_resnet 16 2", wrn(16, 2));
    matches_pytorch("wide_resnet 10 1", wrn(10, 1));
}

#[test]
fn resnet18_matches_pytorch() {
    matches_pytorch("resnet18_32x32", Backbone::Resnet18Small(Default::default()));
}

#[test]
fn resnets_for_cifar_match_pytorch() {
    matches_pytorch("resnet20", Backbone::by_name("resnet20").unwrap());
}

#[test]
fn resnets_match_torchvision() {
    matches_pytorch("resnet18", Backbone::by_name("resnet18").unwrap());
    matches_pytorch("resnet50", Backbone::by_name("resnet50").unwrap());
}

#[test]
fn a_wide_resnet50_matches_torchvision() {
    // It learns as resnet50 does, and has 67 million parameters: one pass is compared.
    let (name, backbone) = ("wide_resnet50_2", Backbone::by_name("wide_resnet50_2").unwrap());
    evaluates_as_pytorch(name, &backbone, &golden()[name], DType::F64, 1e-9);
}

#[test]
fn efficientnet_matches_timm() {
    matches_pytorch("efficientnet_lite0", Backbone::by_name("efficientnet_lite0").unwrap());
}

#[test]
fn vgg19_matches_pytorch() {
    matches_pytorch("vgg19_bn 32", Backbone::Vgg19Bn(vgg::Settings::default()));
    matches_pytorch("vgg19_bn 28", Backbone::Vgg19Bn(vgg::Settings::default()));
    matches_pytorch("vgg19_bn 48 narrow", Backbone::Vgg19Bn(vgg::Settings { width: 4 }));
}

fn small_wrn(dropout: f64) -> (Box<dyn Model>, Params) {
    let params = Params::new(1, &Device::Cpu);
    let shape = Shape { channels: 1, height: 8, width: 8, classes: 3 };
    let backbone = Backbone::WideResnet(wide_resnet::Settings { depth: 10, width: 1, dropout });
    (nn::build(&backbone.into(), shape, params.builder()).unwrap(), params)
}

#[test]
fn dropout_depends_on_seed_and_step_and_acts_in_training_only() {
    let images = uniform("images", &[4, 1, 8, 8]).to_dtype(DType::F32).unwrap();
    let logits =
        |dropout, mode| values(small_wrn(dropout).0.show(&images, &Pass::new(mode)).unwrap().logits().unwrap());
    let train = |seed, step| logits(0.3, Mode::Train { seed, step, precision: Precision::F32 });
    assert_eq!(train(0, 0), train(0, 0));
    assert_ne!(train(0, 0), train(0, 1));
    assert_ne!(train(0, 0), train(1, 0));
    assert_ne!(train(0, 0), logits(0.0, TRAIN));
    assert_eq!(logits(0.3, Mode::Eval), logits(0.0, Mode::Eval));
}

#[test]
fn a_wide_resnet_starts_as_he_et_al() {
    let params = Params::new(0, &Device::Cpu);
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 10 };
    let backbone = Backbone::WideResnet(wide_resnet::Settings { depth: 10, width: 4, dropout: 0.0 });
    nn::build(&backbone.into(), shape, params.builder()).unwrap();
    let all = params.all().unwrap();
    let weight = values(&all["block2.layer.0.conv2.weight"]);
    let deviation = (weight.iter().map(|v| v * v).sum::<f64>() / weight.len() as f64).sqrt();
    assert!((deviation - (2.0f64 / (9.0 * 128.0)).sqrt()).abs() < 1e-3);
    assert!(values(&all["fc.bias"]).iter().all(|v| *v == 0.0));
    assert!(values(&all["fc.weight"]).iter().all(|v| v.abs() <= 1.0 / 16.0));
}

#[test]
fn gradients_reach_the_images_in_inference() {
    let (network, _) = small_wrn(0.0);
    let images =
        candle_core::Var::from_tensor(&uniform("images", &[2, 1, 8, 8]).to_dtype(DType::F32).unwrap()).unwrap();
    let outputs = network.show(&images, &Pass::eval()).unwrap();
    let gradients = outputs.logits().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(values(gradients.get(&images).unwrap()).iter().any(|v| *v != 0.0));
}

#[test]
fn gradients_reach_the_images_through_a_folded_network() {
    let (network, _) = small_wrn(0.0);
    let images = uniform("images", &[2, 1, 8, 8]).to_dtype(DType::F32).unwrap();
    let gradient = |network: &dyn Model| {
        let images = candle_core::Var::from_tensor(&images).unwrap();
        let shown = network.show(&images, &Pass::eval()).unwrap();
        values(shown.logits().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&images).unwrap())
    };
    assert_eq!(gradient(network.folded().unwrap().as_ref()), gradient(network.as_ref()));
}

#[test]
fn a_folded_network_does_not_learn() {
    let (network, _) = small_wrn(0.0);
    let images = uniform("images", &[2, 1, 8, 8]).to_dtype(DType::F32).unwrap();
    let error = network.folded().unwrap().show(&images, &Pass::new(TRAIN)).unwrap_err();
    assert!(error.to_string().contains("folded for inference cannot learn"), "{error}");
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let build = |backbone: &Backbone, channels, size, classes| {
        let shape = Shape { channels, height: size, width: size, classes };
        nn::build(&backbone.clone().into(), shape, Params::new(0, &Device::Cpu).builder()).map(|_| ())
    };
    let message = |result: oodkit::Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        message(build(&Backbone::Lenet(Default::default()), 1, 8, 10)),
        "lenet needs images of at least 16×16 pixels, not 8×8"
    );
    assert_eq!(
        message(build(&Backbone::Vgg19Bn(vgg::Settings::default()), 1, 8, 10)),
        "vgg19_bn needs images of at least 16×16 pixels, not 8×8"
    );
    assert!(message(build(&Backbone::Resnet18Small(Default::default()), 0, 8, 10)).contains("channels: 0"));
    assert!(build(&Backbone::Lenet(Default::default()), 1, 16, 10).is_ok());
    assert!(build(&Backbone::Resnet18Small(Default::default()), 1, 8, 10).is_ok());
}

#[test]
fn a_network_learns_and_a_step_gives_the_same_bits_twice() {
    let run = || -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
        let params = Params::new(5, &Device::Cpu);
        let shape = Shape { channels: 1, height: 28, width: 28, classes: 4 };
        let network = nn::build(&Backbone::Lenet(Default::default()).into(), shape, params.builder()).unwrap();
        // Classes differ in brightness.
        let brightness = Tensor::from_iter((0..33).map(|i| (i % 4) as f64 - 1.5), &Device::Cpu).unwrap();
        let images = uniform("images", &[33, 1, 28, 28]).broadcast_add(&brightness.reshape((33, 1, 1, 1)).unwrap());
        let images = images.unwrap().to_dtype(DType::F32).unwrap();
        let labels = Tensor::from_iter((0..33).map(|i| i % 4u32), &Device::Cpu).unwrap();
        let json =
            serde_json::json!({ "sgd": { "lr": 0.05, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4 } });
        let rule = serde_json::from_value(json).unwrap();
        let mut sgd = oodkit::train::optim::Optimizer::new(&rule, None, params.trainable()).unwrap();
        let losses = (0..30).map(|step| {
            let outputs =
                network.show(&images, &Pass::new(Mode::Train { seed: 0, step, precision: Precision::F32 })).unwrap();
            let loss = candle_nn::loss::cross_entropy(outputs.logits().unwrap(), &labels).unwrap();
            sgd.step(&loss.backward().unwrap(), 0.05).unwrap();
            values(&loss)[0]
        });
        let losses = losses.collect();
        (losses, params.all().unwrap().iter().map(|(name, value)| (name.clone(), values(value))).collect())
    };
    let (losses, weights) = run();
    assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
    assert_eq!(run(), (losses, weights));
}

#[test]
fn the_evaluation_batch_is_told_by_shapes_and_memory() {
    let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
    let network =
        nn::build(&Backbone::Lenet(Default::default()).into(), shape, Params::new(0, &Device::Cpu).builder()).unwrap();
    let batch = |memory| nn::footprint::batch_size(network.as_ref(), shape, memory, &Device::Cpu).unwrap();
    // The first convolution reads 28² and writes 6·24² values; the taps hold 6·12² and 16·4².
    let image = 4 * (28 * 28 + 6 * 24 * 24 + 6 * 12 * 12 + 16 * 4 * 4);
    assert_eq!([batch(8 * image), batch(8 * image - 1), batch(0), batch(1 << 40)], [8, 4, 1, 256]);
}

/// An autoencoder of the golden file, its parameters and images.
fn golden_autoencoder() -> (Value, Box<dyn Model>, Params, Tensor) {
    let golden: Value = serde_json::from_str(include_str!("golden/autoencoder.json")).unwrap();
    let settings: autoencoder::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 1 };
    let params = Params::new(0, &Device::Cpu);
    let builder = params.builder().set_dtype(DType::F64);
    let model = ModelConfig::Autoencoder(settings).build(shape, builder).unwrap();
    let state = params.all().unwrap();
    let state = state.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
    (golden, model, params, uniform("images", &dims))
}

#[test]
fn an_autoencoder_matches_pytorch() {
    let (golden, model, params, images) = golden_autoencoder();
    for model in [&model, &model.folded().unwrap()] {
        let shown = model.show(&images, &Pass::eval()).unwrap();
        assert_close("images", &sampled(shown.images().unwrap(), 48), &numbers(&golden["again"]), 1e-9);
        let map = shown.map().unwrap();
        assert_eq!(serde_json::to_value(map.dims()).unwrap(), golden["map_shape"]);
        assert_close("map", &sampled(map, 48), &numbers(&golden["map"]), 1e-9);
        assert!(shown.logits().is_err() && shown.features().is_err() && !map.track_op());
    }
    let loss: Loss = serde_saphyr::from_str("{ reconstruction: {} }").unwrap();
    let objective = Objective::new(&loss, &[], 0).unwrap();
    assert!(!objective.classifies());
    let batch = Batch { normal: 2, images, labels: None, entries: None, marked: None, epoch: 0, step: 0 };
    let step = objective.loss(&*model, &batch, TRAIN).unwrap();
    assert_eq!(step.watched, []);
    assert_close("loss", &values(&step.total), &[golden["loss"].as_f64().unwrap()], 1e-9);
    let gradients = step.total.backward().unwrap();
    for (name, var) in params.trainable() {
        let [norm, dot] = directional(&name, gradients.get(&var).unwrap());
        let expected = numbers(&golden["gradients"][&name]);
        // A bias that a batch normalisation takes off again has a gradient of rounding errors.
        if expected[0] < 1e-12 {
            assert!(norm < 1e-12, "{name}: {norm}");
            continue;
        }
        assert_close(&name, &[norm, dot], &expected, 1e-9);
    }
}

/// The images that are made again depend on the images, so that the loss has a gradient there too.
#[test]
fn an_autoencoders_loss_changes_as_its_gradient_says() {
    let (_, model, _, images) = golden_autoencoder();
    let objective = Objective::new(&serde_saphyr::from_str("{ reconstruction: {} }").unwrap(), &[], 0).unwrap();
    let map_sum = |images: &Tensor| model.show(images, &Pass::eval()).unwrap().map().unwrap().sum_all().unwrap();
    let variable = candle_core::Var::from_tensor(&images).unwrap();
    let gradient = values(map_sum(&variable).backward().unwrap().get(&variable).unwrap());
    let plain = values(&images);
    for place in [0, 100, 777, 1500] {
        let moved = |by: f64| {
            let mut pixels = plain.clone();
            pixels[place] += by;
            let images = Tensor::from_vec(pixels, images.shape(), &Device::Cpu).unwrap();
            map_sum(&images).to_scalar::<f64>().unwrap()
        };
        let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((difference - gradient[place]).abs() < 1e-6 * gradient[place].abs().max(1.0), "{place}");
    }
    // Held-out images are judged by the same loss, in evaluation.
    let (name, judged) = objective.judge(&*model, &images, None, 0).unwrap();
    assert_eq!(name, "loss");
    let expected = 2.0 * map_sum(&images).to_scalar::<f64>().unwrap() / (2.0 * 4.0 * 6.0);
    assert!((judged - expected).abs() < 1e-9, "{judged}, not {expected}");
}

#[test]
fn every_model_shows_what_it_says() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
    let images = uniform("images", &[2, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    for yaml in [
        "classifier: { backbone: { wide_resnet: { depth: 10, width: 1 } } }",
        "classifier: { backbone: lenet, head: duq }",
        "features: { backbone: resnet20 }",
        "classifier: { backbone: { vit: { width: 4, depth: 1, heads: 2, patch: 8 } } }",
        "autoencoder: { channels: 2, latent: 2 }",
        "metaformer: { patch: 8, width: 8, heads: 2 }",
        "stfpm: { backbone: resnet20, stages: [layer3] }",
        "fcdd: { backbone: resnet20, stage: layer2 }",
        "simplenet: { backbone: resnet20, stages: [layer2, layer3], hidden: 8 }",
        "tiled: { model: { features: { backbone: resnet20 } }, size: 32 }",
        "cutpaste: { backbone: resnet20 }",
        "cutpaste: { backbone: resnet20, patch: 16 }",
        "patch_description: { backbone: resnet20, stages: [layer2], patches: { channels: 2, outputs: 3 } }",
        "efficient_ad: { patches: { channels: 2, outputs: 3 }, padding: true, width: 4 }",
        "uninformed_students: { patches: { layers: p17, channels: 2, outputs: 3 } }",
        "patch_svdd: { channels: [4, 4, 4], features: 5 }",
        "diffusion: { unet: { channels: 4, multipliers: [1, 2], blocks: 1 } }",
    ] {
        let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let model = config.build(shape, params.builder()).unwrap();
        let shown = model.show(&images, &Pass::eval().keeping_layers(Side::After)).unwrap();
        let says = |output| config.shows().contains(&output);
        assert_eq!(shown.logits.is_some(), says(Output::Logits), "{yaml}");
        assert_eq!(shown.features.is_some(), says(Output::Features), "{yaml}");
        assert_eq!(shown.images.is_some(), says(Output::Images), "{yaml}");
        assert_eq!(shown.map.is_some(), says(Output::Map), "{yaml}");
        assert_eq!(!shown.pairs.is_empty(), says(Output::Pairs), "{yaml}");
        assert_eq!(shown.makers.is_some(), says(Output::Makers), "{yaml}");
        assert_eq!(!shown.windows.is_empty(), says(Output::Windows), "{yaml}");
        assert_eq!(!shown.parts.is_empty(), says(Output::Parts), "{yaml}");
        assert_eq!(shown.embedding.is_some(), says(Output::Embedding), "{yaml}");
        assert_eq!(!shown.stages.is_empty(), says(Output::Stages), "{yaml}");
        assert_eq!(!shown.layers.is_empty(), says(Output::Layers), "{yaml}");
        assert_eq!(model.head().is_some(), says(Output::Head), "{yaml}");
        assert_eq!(model.denoiser().is_some(), says(Output::Noise), "{yaml}");
        // Held-out images are judged by their classes wherever a model tells them, whatever its loss is.
        if says(Output::Logits) {
            let objective =
                Objective::new(&serde_saphyr::from_str("{ sparsity: { weight: 1 } }").unwrap(), &[], 0).unwrap();
            let labels = Tensor::new(&[0u32, 3], &Device::Cpu).unwrap();
            assert_eq!(objective.judge(&*model, &images, Some(&labels), 0).unwrap().0, "accuracy");
        }
    }
}

#[test]
fn every_backbone_shows_the_stages_that_it_says() {
    let mut kinds = Vec::new();
    for (yaml, sizes) in [
        ("lenet", [[17, 30], [28, 28]]),
        ("{ wide_resnet: { depth: 10, width: 2 } }", [[16, 17], [32, 45]]),
        ("resnet18", [[32, 47], [65, 50]]),
        ("{ resnet: { depth: 50, width: 2 } }", [[32, 47], [33, 64]]),
        ("resnet18_32x32", [[16, 17], [32, 45]]),
        ("{ resnet_cifar: { depth: 8 } }", [[16, 17], [32, 45]]),
        ("efficientnet_lite0", [[32, 47], [65, 50]]),
        ("{ vgg19_bn: { width: 4 } }", [[28, 40], [32, 65]]),
        ("{ airbench: { widths: [4, 6, 8] } }", [[9, 17], [32, 45]]),
        ("{ convnext: { depths: [1, 1, 2, 1], widths: [4, 6, 8, 10] } }", [[32, 47], [65, 50]]),
        ("{ regnety: { depths: [1, 1, 2, 1], widths: [4, 8, 16, 24], group: 8 } }", [[32, 47], [65, 50]]),
        ("{ swin: { width: 4, depths: [1, 2, 1, 1], heads: [1, 2, 4, 2], window: 3 } }", [[4, 36], [64, 44]]),
        ("{ vit: { width: 4, depth: 2, heads: 2, patch: 7, pretrained_size: 28 } }", [[28, 28], [14, 35]]),
    ] {
        let backbone: Backbone = serde_saphyr::from_str(yaml).unwrap();
        for [height, width] in sizes {
            let shape = Shape { channels: 3, height, width, classes: 1 };
            let zeros = candle_nn::VarBuilder::zeros(DType::F32, &Device::Cpu);
            let images = Tensor::zeros((1, 3, height, width), DType::F32, &Device::Cpu).unwrap();
            let pass = Pass::eval();
            let (_, shown) = backbone.extractor(shape, zeros).unwrap().extract(&images, &pass).unwrap();
            let shown = shown.into_iter().map(|(name, maps)| (name, <[usize; 4]>::try_from(maps.dims()).unwrap()));
            let shown: Vec<_> =
                shown.map(|(name, [_, channels, rows, columns])| (name, [channels, rows, columns])).collect();
            assert_eq!(backbone.stages([height, width]), shown, "{yaml}, {height}×{width}");
        }
        kinds.push(backbone.name());
    }
    assert!(Backbone::NAMES.iter().all(|name| kinds.contains(name)), "{kinds:?}");
}

/// Of frozen features, the numbers are those of the classifier with the same weights.
#[test]
fn features_are_those_of_the_classifier_without_its_head() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
    let images = uniform("images", &[2, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    let build = |yaml: &str| {
        let params = Params::new(3, &Device::Cpu);
        let model = serde_saphyr::from_str::<ModelConfig>(yaml).unwrap().build(shape, params.builder()).unwrap();
        (params.count(), model.show(&images, &Pass::eval()).unwrap())
    };
    let (all, classifier) = build("classifier: { backbone: resnet20 }");
    let (fewer, features) = build("features: { backbone: resnet20 }");
    assert_eq!(all - fewer, 64 * 4 + 4);
    assert_eq!(values(features.features().unwrap()), values(classifier.features().unwrap()));
    assert_eq!(features.stages.len(), 3);
    assert!(features.stages.iter().zip(&classifier.stages).all(|((_, a), (_, b))| values(a) == values(b)));
}
