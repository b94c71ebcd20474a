//! Vision transformers against timm's (`tests/golden/vit.py`).

use candle_core::{DType, Device, Tensor, Var};
use oodkit::nn::{
    self, Architecture, Backbone, Model, Pass, Shape, params::Params, pass::Side, positions::bicubic, vit::Settings,
    weights::fit,
};
use serde_json::{Value, json};

use super::{
    TRAIN, check_outputs,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/vit.json")).unwrap()
}

fn settings(of: &Value) -> Settings {
    serde_json::from_value(of.clone()).unwrap()
}

/// A golden network with its parameters, and its images.
fn built(golden: &Value, dtype: DType) -> (Box<dyn Model>, Params, Tensor) {
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let classes = golden["eval"]["logits"].as_array().unwrap().len() / dims[0];
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes };
    let params = Params::new(0, &Device::Cpu);
    let backbone = Backbone::Vit(settings(&golden["settings"]));
    let network = nn::build(&backbone.into(), shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    assert_eq!(json!(all.keys().collect::<Vec<_>>()), golden["parameters"]);
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
    (network, params, (images * 1.5).unwrap())
}

#[test]
fn outputs_and_gradients_are_timms() {
    for golden in golden()["networks"].as_array().unwrap() {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-9)] {
            let (network, params, images) = built(golden, dtype);
            for network in [&network, &network.folded().unwrap()] {
                let used = network.show(&images, &Pass::eval()).unwrap();
                check_outputs("eval", &used, &golden["eval"], tolerance);
                assert!(!used.logits().unwrap().track_op(), "inference keeps a graph");
            }
            let variable = Var::from_tensor(&images).unwrap();
            let learning = network.show(&variable, &Pass::new(TRAIN)).unwrap();
            check_outputs("train", &learning, &golden["eval"], tolerance);

            let (logits, count) = (learning.logits().unwrap(), images.dim(0).unwrap() as u32);
            let classes = logits.dim(1).unwrap() as u32;
            let labels = Tensor::from_iter((0..count).map(|image| image % classes), &Device::Cpu).unwrap();
            let mut loss = candle_nn::loss::cross_entropy(logits, &labels).unwrap();
            for (name, maps) in &learning.stages {
                let toward = uniform(&format!("toward {name}"), maps.dims()).to_dtype(dtype).unwrap();
                loss = (loss + (maps * toward).unwrap().mean_all().unwrap()).unwrap();
            }
            assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], tolerance);
            let gradients = loss.backward().unwrap();
            let found = sampled(gradients.get(&variable).unwrap(), 100);
            assert_close("images", &found, &numbers(&golden["input_gradient"]), tolerance);
            let expected = golden["gradients"].as_object().unwrap();
            assert_eq!(expected.len(), params.trainable().len());
            for (name, var) in params.trainable() {
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: no gradient"));
                let expected = numbers(&expected[&name]);
                assert!(expected[0] > 1e-5, "{name}: nothing to compare");
                let [norm, dot] = directional(&name, gradient);
                let relative = [norm / expected[0], dot / expected[0]];
                assert_close(&name, &relative, &[1.0, expected[1] / expected[0]], 10.0 * tolerance);
            }
        }
    }
}

/// A stage is the tokens that go on, and a gradient by it that of all that it leads to.
#[test]
fn it_is_differentiated_by_its_stages() {
    let golden = &golden()["networks"][1];
    let (network, _, images) = built(golden, DType::F64);
    let plain = network.show(&images, &Pass::eval()).unwrap();
    let stages: Vec<String> = plain.stages.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(stages, ["blocks.0", "blocks.1", "norm"]);
    let shown = network.show(&images, &Pass::eval().differentiating(&stages)).unwrap();
    assert_eq!(values(shown.logits().unwrap()), values(plain.logits().unwrap()));
    let gradients = shown.logits().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let of = |place: usize| {
        let leaf = &shown.leaves[place];
        assert_eq!(values(&leaf.values), values(&plain.stages[place].1), "{}", leaf.name);
        values(gradients.get(&leaf.variable).unwrap())
    };
    assert!(of(0).iter().any(|value| value.abs() > 1e-6));
    // Nothing is read of patches behind the last block.
    assert!([1, 2].iter().all(|place| of(*place).iter().all(|value| *value == 0.0)));
    // The same where it is the only one.
    let alone = network.show(&images, &Pass::eval().differentiating(&stages[..1])).unwrap();
    let gradients = alone.logits().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(alone.leaves.len(), 1);
    assert_close("alone", &values(gradients.get(&alone.leaves[0].variable).unwrap()), &of(0), 1e-12);
}

#[test]
fn stages_end_where_they_are_asked_to() {
    let golden = &golden()["networks"][2];
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 1 };
    let params = Params::new(0, &Device::Cpu);
    let trunk = Backbone::Vit(settings(&golden["settings"])).extractor(shape, params.builder()).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap();
    let (features, all) = trunk.extract(&images, &Pass::eval()).unwrap();
    assert_eq!(features.dims(), [2, 8]);
    for last in 0..all.len() {
        let found = trunk.stages_until(&images, &all[last].0, &Pass::eval()).unwrap();
        assert_eq!(found.len(), last + 1);
        for ((name, maps), (other, expected)) in found.iter().zip(&all) {
            assert_eq!((name, values(maps)), (other, values(expected)));
        }
    }
    let error = trunk.extract(&images.narrow(2, 0, 48).unwrap(), &Pass::eval()).unwrap_err().to_string();
    assert!(error.contains("24 patches of an image, and the network is built for 7×4"), "{error}");
}

/// Tokens are no images: what each layer has of an image is kept as one.
#[test]
fn layers_have_a_row_for_each_image() {
    let (network, _, images) = built(&golden()["networks"][0], DType::F32);
    let plain = network.show(&images, &Pass::eval()).unwrap();
    for side in [Side::Before, Side::After] {
        let shown = network.show(&images, &Pass::eval().keeping_layers(side)).unwrap();
        assert_eq!(values(shown.logits().unwrap()), values(plain.logits().unwrap()));
        let layers: Vec<_> =
            shown.layers.iter().map(|layer| (layer.name.as_str(), layer.values.dims().to_vec())).collect();
        let of_block = vec![3, 48, 17, 1];
        let expected = [("blocks.0.mlp.act", of_block.clone()), ("blocks.1.mlp.act", of_block), ("head", vec![3, 5])];
        assert_eq!(layers, expected);
    }
}

#[test]
fn positions_are_resampled_as_pytorch_does() {
    for case in golden()["bicubic"].as_array().unwrap() {
        let [old, new] = ["old", "new"].map(|key| case[key].as_u64().unwrap() as usize);
        let weights = Tensor::from_vec(bicubic(old, new), (new, old), &Device::Cpu).unwrap();
        assert_close(&format!("{old} to {new}"), &sampled(&weights, 400), &numbers(&case["weights"]), 1e-9);
    }
    // As many as there are stay as they are.
    let same = bicubic(4, 4);
    assert!(same.iter().enumerate().all(|(at, weight)| *weight == f64::from(u8::from(at % 5 == 0))), "{same:?}");
}

#[test]
fn presets_have_timms_parameters() {
    let mut presets = Vec::<(&str, Vec<(String, Vec<usize>)>)>::new();
    for line in include_str!("../golden/vit_names.txt").lines() {
        match line.split_once(' ') {
            None => presets.push((line, Vec::new())),
            Some((name, sizes)) => {
                let sizes = sizes.split('x').map(|size| size.parse().unwrap()).collect();
                presets.last_mut().unwrap().1.push((name.to_owned(), sizes));
            }
        }
    }
    assert_eq!(presets.len(), 4);
    for (preset, expected) in presets {
        let backbone = Backbone::by_name(preset).unwrap();
        // Whatever the image's size is.
        let side = 2 * backbone.patch();
        let shape = Shape { channels: 3, height: side, width: 2 * side, classes: 1000 };
        let architecture: Architecture = backbone.clone().into();
        let build = |shape, vb: candle_nn::VarBuilder| nn::build(&architecture, shape, vb).map(|_| ());
        let found: Vec<_> = fit::sizes(&build, shape).unwrap().into_iter().collect();
        assert_eq!(found, expected, "{preset}");
        assert_eq!(backbone.label(), preset);
        let mean = backbone.normalisation().unwrap().mean;
        assert_eq!(mean == [0.5; 3], preset.starts_with("vit"), "{preset}: {mean:?}");
        assert!(backbone.elsewhere(3, 10).unwrap().contains("timm.create_model('vit_"));
        let Some(Backbone::Vit(small)) = backbone.smoke() else { panic!("{preset} has no small twin") };
        let Backbone::Vit(large) = backbone else { panic!("{preset}") };
        assert_eq!((small.depth, small.patch, small.width), (large.depth, large.patch, 8));
    }
    assert_eq!(Backbone::by_name("vit").unwrap().label(), "vit_s16");
    assert_eq!(serde_json::from_str::<Backbone>(r#"{ "vit": { "depth": 3 } }"#).unwrap().label(), "vit");
}

#[test]
fn what_does_not_fit_is_refused() {
    let of = |settings: Value, [height, width]: [usize; 2]| {
        let shape = Shape { channels: 1, height, width, classes: 2 };
        let backbone = Backbone::Vit(serde_json::from_value(settings).unwrap());
        nn::build(&backbone.into(), shape, Params::new(0, &Device::Cpu).builder()).map(|_| ())
    };
    let small = json!({ "width": 4, "depth": 1, "heads": 2, "patch": 14, "pretrained_size": 28 });
    assert!(of(small.clone(), [28, 42]).is_ok() && of(small.clone(), [14, 14]).is_ok());
    for size in [[28, 40], [8, 8]] {
        let error = of(small.clone(), size).unwrap_err();
        let expected = format!("vit: {}×{} pixels are no whole number of patches of 14×14", size[0], size[1]);
        assert_eq!((error.to_string(), error.exit_code()), (expected, 2));
    }
    for (key, value, said) in [
        ("heads", json!(3), "3 heads do not divide a width of 4"),
        ("pretrained_size", json!(30), "must be a whole number of patches of 14"),
        ("patch", json!(0), "patch"),
        ("layer_scale", json!(-1.0), "layer_scale"),
        ("depth", json!(0), "depth"),
    ] {
        let mut settings = small.clone();
        settings[key] = value;
        let error = of(settings, [28, 28]).unwrap_err();
        assert!(error.to_string().contains(said) && error.exit_code() == 2, "{error}");
    }
    let error = of(json!({ "width": 2, "heads": 1, "patch": 1, "pretrained_size": 300 }), [8, 8]).unwrap_err();
    assert!(error.to_string().contains("300 patches along a side; at most 256"), "{error}");
}
