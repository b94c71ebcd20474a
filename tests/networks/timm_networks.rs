//! ConvNeXt and RegNetY against timm's (`tests/golden/convnext.py` and `regnet.py`), and what they refuse.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use oodkit::nn::{self, Backbone, Pass, Shape, params::Params, pass::Side, weights::fit};
use serde_json::{Value, json};

use super::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    matches,
    network::{parameter, sampled},
};

fn backbone(name: &str, settings: &Value) -> Backbone {
    serde_json::from_value(json!({ name: settings })).unwrap()
}

/// Outputs, stages, folded outputs, running statistics and the gradients of all parameters; and that of the images.
fn is_timms(name: &str, golden: &str) {
    let golden: Value = serde_json::from_str(golden).unwrap();
    for of in golden["networks"].as_array().unwrap() {
        let backbone = backbone(name, &of["settings"]);
        matches(&format!("{name} {}", of["settings"]), backbone.clone(), of);

        let dims: Vec<usize> = serde_json::from_value(of["images"].clone()).unwrap();
        let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 5 };
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&backbone.into(), shape, params.builder().set_dtype(DType::F64)).unwrap();
        let all = params.all().unwrap();
        let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
        params.load(&state, std::path::Path::new("test")).unwrap();
        let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
        let images = Var::from_tensor(&(images * 1.5).unwrap()).unwrap();
        let shown = network.show(&images, &Pass::new(TRAIN)).unwrap();
        let labels = Tensor::from_iter((0..dims[0] as u32).map(|i| i % 5), &Device::Cpu).unwrap();
        let loss = candle_nn::loss::cross_entropy(shown.logits().unwrap(), &labels).unwrap();
        let gradients = loss.backward().unwrap();
        let expected = numbers(&of["input_gradient"]);
        assert!(expected.iter().any(|value| value.abs() > 1e-3));
        assert_close("images", &sampled(gradients.get(&images).unwrap(), 48), &expected, 1e-9);

        // A network that is used, folded or not, has the same gradient of the images.
        let gradient = |network: &dyn nn::Model| {
            let shown = network.show(&images, &Pass::eval()).unwrap();
            let gradients = shown.logits().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            values(gradients.get(&images).unwrap())
        };
        assert_close("used", &gradient(&*network.folded().unwrap()), &gradient(&*network), 1e-9);

        // The neurons that are kept are one layer's each, and leave the outputs as they are.
        for side in [Side::Before, Side::After] {
            let plain = network.show(&images.detach(), &Pass::eval()).unwrap();
            let watched = network.show(&images.detach(), &Pass::eval().keeping_layers(side)).unwrap();
            assert_close("watched", &values(watched.logits().unwrap()), &values(plain.logits().unwrap()), 1e-12);
            assert!(watched.layers.iter().all(|layer| layer.values.dims()[0] == dims[0]));
            let names: Vec<&String> = watched.layers.iter().map(|layer| &layer.name).collect();
            let known = |name: &&&String| all.contains_key(&format!("{name}.weight"));
            assert_eq!(names.iter().filter(known).count(), names.len(), "{names:?}");
        }
    }
}

/// Names and shapes of the full-size networks; none is made.
fn has_timms_sizes(golden: &str, names: &str) {
    let golden: Value = serde_json::from_str(golden).unwrap();
    let expected: BTreeMap<String, Vec<usize>> = names
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, sizes)| (name.to_owned(), sizes.split('x').map(|size| size.parse().unwrap()).collect()))
        .collect();
    let shape = Shape { channels: 3, height: 224, width: 224, classes: 1000 };
    for (name, expected_sizes) in golden["presets"].as_object().unwrap() {
        let backbone = Backbone::by_name(name).unwrap();
        assert_eq!((backbone.label(), backbone.normalisation().is_some()), (name.clone(), true));
        let found = fit::sizes(&|shape, vb| nn::build(&backbone.clone().into(), shape, vb).map(|_| ()), shape).unwrap();
        let values: usize = found.values().map(|sizes| sizes.iter().product::<usize>()).sum();
        assert_eq!(json!({ "tensors": found.len(), "values": values }), *expected_sizes, "{name}");
        if name.as_str() == "convnext_tiny" || name.as_str() == "regnety_16gf" {
            assert_eq!(found, expected, "{name}");
        }
    }
}

fn refused(backbone: &Backbone, height: usize, width: usize) -> Result<(), String> {
    let shape = Shape { channels: 1, height, width, classes: 2 };
    let built = nn::build(&backbone.clone().into(), shape, Params::new(0, &Device::Cpu).builder());
    built.map(|_| ()).map_err(|error| error.to_string())
}

const CONVNEXT: &str = include_str!("../golden/convnext.json");
const REGNET: &str = include_str!("../golden/regnet.json");

#[test]
fn convnext_is_timms() {
    is_timms("convnext", CONVNEXT);
}

#[test]
fn regnety_is_timms() {
    is_timms("regnety", REGNET);
}

#[test]
fn presets_have_the_parameters_of_timms() {
    has_timms_sizes(CONVNEXT, include_str!("../golden/convnext_names.txt"));
    has_timms_sizes(REGNET, include_str!("../golden/regnet_names.txt"));
}

#[test]
fn convnext_refuses_small_images() {
    let tiny = backbone("convnext", &json!({ "depths": [1, 1, 1, 1], "widths": [2, 2, 2, 2] }));
    assert_eq!(refused(&tiny, 32, 33), Ok(()));
    assert_eq!(refused(&tiny, 40, 31).unwrap_err(), "convnext needs images of at least 32×32 pixels, not 40×31");
}

#[test]
fn regnety_refuses_small_images_and_parts_of_groups() {
    let tiny = backbone("regnety", &json!({ "depths": [1, 1, 1, 1], "widths": [4, 8, 8, 16], "group": 8 }));
    assert_eq!(refused(&tiny, 33, 32), Ok(()));
    assert_eq!(refused(&tiny, 31, 40).unwrap_err(), "regnety needs images of at least 32×32 pixels, not 31×40");
    let of = |widths: [usize; 4], group: usize| {
        let settings = json!({ "depths": [1, 1, 1, 1], "widths": widths, "group": group });
        let settings: nn::regnet::Settings = serde_json::from_value(settings).unwrap();
        garde::Validate::validate(&settings).map_err(|report| report.to_string())
    };
    assert_eq!(of([4, 8, 8, 16], 8), Ok(()));
    let message = of([8, 16, 20, 24], 8).unwrap_err();
    assert!(message.contains("widths: 20 channels are no whole groups of 8"), "{message}");
    assert!(of([4, 8, 8, 16], 0).is_err() && of([0, 8, 8, 16], 8).is_err());
}

/// A block starts as its shortcut: its last scale is 0.
#[test]
fn blocks_start_as_nothing() {
    let regnety = json!({ "depths": [1, 2, 1, 1], "widths": [8, 8, 8, 8], "group": 4 });
    let convnext = json!({ "depths": [1, 2, 1, 1], "widths": [4, 4, 4, 4] });
    for (name, settings, scale, first) in [
        ("regnety", regnety, "s2.b2.conv3.bn.weight", 0.0),
        ("convnext", convnext, "stages.1.blocks.1.gamma", f64::from(1e-6f32)),
    ] {
        let params = Params::new(0, &Device::Cpu);
        let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
        nn::build(&backbone(name, &settings).into(), shape, params.builder()).unwrap();
        let all = params.all().unwrap();
        assert!(values(&all[scale]).iter().all(|value| (value - first).abs() < 1e-12), "{:?}", values(&all[scale]));
        assert!(values(&all["head.fc.bias"]).iter().all(|value| *value == 0.0));
        assert!(values(&all["head.fc.weight"]).iter().any(|value| *value != 0.0));
    }
}

/// Of all its names, those that were checked against torchvision 0.18.1 became timm's.
#[test]
fn torchvisions_names_of_regnety_are_known() {
    let regnety = Backbone::by_name("regnety_16gf").unwrap();
    for (theirs, ours) in [
        ("stem.0.weight", "stem.conv.weight"),
        ("stem.1.running_mean", "stem.bn.running_mean"),
        ("trunk_output.block1.block1-0.proj.0.weight", "s1.b1.downsample.conv.weight"),
        ("trunk_output.block1.block1-0.proj.1.bias", "s1.b1.downsample.bn.bias"),
        ("trunk_output.block3.block3-10.f.a.0.weight", "s3.b11.conv1.conv.weight"),
        ("trunk_output.block3.block3-10.f.b.1.weight", "s3.b11.conv2.bn.weight"),
        ("trunk_output.block4.block4-0.f.se.fc1.bias", "s4.b1.se.fc1.bias"),
        ("trunk_output.block4.block4-0.f.c.1.running_var", "s4.b1.conv3.bn.running_var"),
        ("fc.weight", "head.fc.weight"),
    ] {
        assert_eq!(regnety.our_name(theirs).as_deref(), Some(ours));
    }
    for theirs in
        ["trunk_output.block1.block2-0.f.a.0.weight", "trunk_output.block1.block1-0.f.d.0.weight", "stem.2.bias"]
    {
        assert_eq!(regnety.our_name(theirs), None);
    }
}
