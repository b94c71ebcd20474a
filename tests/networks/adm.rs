//! The U-Net of improved DDPM and ADM against PyTorch (`tests/golden/adm.py`), by the names of their published weights.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use oodkit::{
    models::{Kind as _, ModelConfig, diffusion},
    nn::{
        Pass, Shape,
        params::Params,
        unet::{self, Style, UNet},
        weights::{
            WeightsHead,
            fit::{self, Wanted},
        },
    },
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/adm.json")).unwrap()
}

fn model(settings: &Value, classes: bool) -> ModelConfig {
    let mut diffusion = serde_json::json!({ "unet": settings, "classes": classes });
    if classes {
        diffusion["drop"] = 0.into();
    }
    serde_json::from_value(serde_json::json!({ "diffusion": diffusion })).unwrap()
}

fn wanted(model: &ModelConfig, shape: Shape) -> Wanted {
    let (built, names) = (model.clone(), model.clone());
    let build = move |shape, vb: candle_nn::VarBuilder| built.build(shape, vb).map(|_| ());
    Wanted::of(Arc::new(build), None, shape).unwrap().named_by(Arc::new(move |theirs| names.our_name(theirs)))
}

/// What a file of weights of this network holds: as ours, but for the names, and attention's layers, which are convolutions of lines there.
fn published(model: &ModelConfig, names: &[&String], ours: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Tensor> {
    let tensor = |name: &&String| {
        let sizes = &ours[&model.our_name(name).unwrap()];
        let sizes = match name.ends_with("qkv.weight") || name.ends_with("proj_out.weight") {
            true => &sizes[..3],
            false => &sizes[..],
        };
        ((*name).clone(), parameter(name, sizes))
    };
    names.iter().map(tensor).collect()
}

/// The weights from a file of published names, the forward pass, the loss of one training step, and its gradients.
fn is_pytorchs(name: &str) {
    let golden = &golden()[name];
    let settings: unet::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let times = numbers(&golden["times"]);
    let labels: Option<Vec<u32>> = serde_json::from_value(golden["classes"].clone()).unwrap();
    let classes = labels.as_ref().map(|_| 5);
    let labels = labels.map(|labels| Tensor::new(labels, &Device::Cpu).unwrap());
    let model = model(&golden["settings"], classes.is_some());
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 5 };
    let expected = golden["gradients"].as_object().unwrap();
    let build = |shape, vb: candle_nn::VarBuilder| model.build(shape, vb).map(|_| ());
    let ours = fit::sizes(&build, shape).unwrap();
    let given = published(&model, &expected.keys().collect::<Vec<_>>(), &ours);
    let fitted = wanted(&model, shape).fit(given, WeightsHead::File, Path::new("net.pt")).unwrap();
    assert!(fitted.notes.iter().any(|note| note.contains("convolutions of one position")), "{:?}", fitted.notes);
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let params = Params::new(0, &Device::Cpu);
        let network = UNet::new(&settings, dims[1], classes, &params.builder().set_dtype(dtype)).unwrap();
        params.load(&fitted.tensors, Path::new("net.pt")).unwrap();
        let [images, noise] = ["images", "noise"].map(|name| uniform(name, &dims).to_dtype(dtype).unwrap());
        let used = network.forward(&images, &times, labels.as_ref(), &Pass::eval()).unwrap();
        assert!(!used.track_op(), "{name}: inference keeps a graph");
        assert_close(name, &sampled(&used, 200), &numbers(&golden["output"]), tolerance);
        if dtype == DType::F32 {
            continue;
        }
        let learning = network.forward(&images, &times, labels.as_ref(), &Pass::new(TRAIN)).unwrap();
        let loss = oodkit::losses::denoising(&learning, &noise).unwrap();
        assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], tolerance);
        let gradients = loss.backward().unwrap();
        let vars: BTreeMap<_, _> = params.trainable().into_iter().collect();
        assert_eq!(expected.len(), vars.len());
        for (theirs, expected) in expected {
            let [norm, dot] = directional(theirs, gradients.get(&vars[&model.our_name(theirs).unwrap()]).unwrap());
            let expected = numbers(expected);
            assert!(expected[0] > 1e-6, "{theirs}: nothing to compare");
            assert_close(theirs, &[norm / expected[0], dot / expected[0]], &[1.0, expected[1] / expected[0]], 1e-8);
        }
    }
}

/// Classes of which none stands for none, residual blocks that resample, heads by their channels, and a learned variance.
#[test]
fn adm_is_pytorchs() {
    is_pytorchs("adm");
}

#[test]
fn improved_ddpm_is_pytorchs() {
    is_pytorchs("improved");
}

#[test]
fn the_new_order_of_attention_is_pytorchs() {
    is_pytorchs("new");
}

/// Numbers of parameters are the papers': 296, 422 and 554 million, and 52.5 million for CIFAR-10.
#[test]
fn published_networks_have_as_many_parameters() {
    for (name, published) in golden()["published"].as_object().unwrap() {
        let classes = published["classes"].as_u64().map(|classes| classes as usize);
        let side = published["size"].as_u64().unwrap() as usize;
        let model = model(&published["settings"], classes.is_some());
        let build = |shape, vb: candle_nn::VarBuilder| model.build(shape, vb).map(|_| ());
        let shape = Shape { channels: 3, height: side, width: side, classes: classes.unwrap_or(10) };
        let sizes = fit::sizes(&build, shape).unwrap();
        assert_eq!(sizes.len() as u64, published["tensors"].as_u64().unwrap(), "{name}");
        let count: usize = sizes.values().map(|sizes| sizes.iter().product::<usize>()).sum();
        assert_eq!(count as u64, published["parameters"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn times_are_embedded_as_in_adm() {
    let golden = &golden()["embedding"];
    let like = Tensor::zeros(1, DType::F64, &Device::Cpu).unwrap();
    for (channels, name) in [(8, "even"), (7, "odd")] {
        let waves = unet::sinusoid(&numbers(&golden["times"]), channels, Style::Adm, &like).unwrap();
        assert_close(name, &values(&waves), &numbers(&golden[name]), 1e-9);
    }
}

/// Every image needs a class where none stands for none.
#[test]
fn without_a_class_of_none_every_image_needs_one() {
    let yaml =
        "diffusion: { unet: { channels: 4, multipliers: [1], blocks: 1, attention: [] }, classes: true, drop: 0 }";
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    let params = Params::new(0, &Device::Cpu);
    let shape = Shape { channels: 1, height: 4, width: 4, classes: 3 };
    let network = config.build(shape, params.builder()).unwrap();
    let tensors = params.all().unwrap();
    assert_eq!(tensors["class_embedding.weight"].dims(), [3, 16]);
    assert_eq!(wanted(&config, Shape { classes: 10, ..shape }).classes(&tensors).unwrap(), Some(3));
    let denoiser = network.denoiser().unwrap();
    assert!(denoiser.needs_class());
    let images = uniform("noisy", &[2, 1, 4, 4]).to_dtype(DType::F32).unwrap();
    let output = |classes: Option<&[u32]>| denoiser.output(&images, 1.0, classes).map_err(|error| error.to_string());
    output(Some(&[0, 2])).unwrap();
    assert!(output(None).unwrap_err().contains("cannot go without a class"));
    assert!(output(Some(&[0, 3])).unwrap_err().contains("3 is not one of 3 classes"));
    // It is told every class while it learns.
    let labels = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
    network.show(&images, &Pass::new(TRAIN).telling(Some(&labels))).unwrap().denoised().unwrap();
}

#[test]
fn keys_of_adm_that_do_not_go_together_are_told() {
    for (yaml, key, message) in [
        ("{ unet: { head_channels: 48 } }", "unet.head_channels", "heads of 48 channels do not divide 256 channels"),
        ("{ unet: { head_channels: 64, heads: 2 } }", "unet.heads", "`head_channels` says how many heads there are"),
        ("{ unet: { attention_order: new } }", "unet.attention_order", "goes with `style: adm`"),
        ("{ classes: true, drop: 0.001 }", "drop", "at least 0.01, or 0"),
    ] {
        let settings: diffusion::Settings = serde_saphyr::from_str(yaml).unwrap();
        let problems = settings.problems(None);
        let [problem] = &problems[..] else { panic!("{yaml}: {problems:?}") };
        assert_eq!(problem.path.to_string(), key, "{yaml}");
        assert!(problem.message.contains(message), "{yaml}: {}", problem.message);
    }
    // Keys that are as they were leave no trace in a file's identity.
    let written = serde_json::to_value(unet::Settings::default()).unwrap();
    let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["channels", "multipliers", "blocks", "attention", "heads", "dropout", "groups"]);
}
