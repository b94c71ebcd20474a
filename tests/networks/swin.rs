//! Swin transformers against timm's (`tests/golden/swin.py`).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use oodkit::nn::{
    self, Backbone, Mode, Model, Pass, Precision, Shape,
    params::Params,
    pass::Side,
    swin::Settings,
    weights::{
        WeightsHead,
        fit::{Wanted, sizes},
    },
};
use serde_json::{Value, json};

use super::{
    check_gradients, check_outputs,
    common::{assert_close, numbers, uniform, values},
    network::{parameter, sampled},
};

const TRAIN: Mode = Mode::Train { seed: 0, step: 0, precision: Precision::F32 };

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/swin.json")).unwrap()
}

fn settings(of: &Value) -> Settings {
    serde_json::from_value(of.clone()).unwrap()
}

/// The network with the golden parameters, and the golden images.
fn built(golden: &Value, dtype: DType) -> (Box<dyn Model>, Params, Tensor) {
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 5 };
    let params = Params::new(0, &Device::Cpu);
    let backbone = Backbone::Swin(settings(&golden["settings"]));
    let network = nn::build(&backbone.into(), shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
    (network, params, (images * 1.5).unwrap())
}

#[test]
fn it_matches_timm() {
    for golden in golden()["networks"].as_array().unwrap() {
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
            let (network, params, images) = built(golden, dtype);
            let names: Vec<String> = params.all().unwrap().into_keys().collect();
            assert_eq!(json!(names), golden["parameters"]);
            assert_eq!(json!(params.count()), golden["trainable"]);
            let outputs = network.show(&images, &Pass::eval()).unwrap();
            check_outputs("eval", &outputs, &golden["eval"], tolerance);
            assert!(!outputs.logits().unwrap().track_op(), "inference keeps a graph");
            let folded = network.folded().unwrap().show(&images, &Pass::eval()).unwrap();
            check_outputs("folded", &folded, &golden["eval"], tolerance);
            // Without dropout, it learns on what it shows when it is used.
            let outputs = network.show(&images, &Pass::new(TRAIN)).unwrap();
            check_outputs("train", &outputs, &golden["eval"], tolerance);
            if dtype == DType::F32 {
                continue;
            }
            check_gradients("swin", &params, &outputs, golden);
            let images = Var::from_tensor(&images).unwrap();
            let logits = network.show(&images, &Pass::eval()).unwrap().logits().unwrap().clone();
            let labels = Tensor::from_iter(0..images.dims()[0] as u32, &Device::Cpu).unwrap();
            let gradients = candle_nn::loss::cross_entropy(&logits, &labels).unwrap().backward().unwrap();
            let found = sampled(gradients.get(&images).unwrap(), 96);
            assert_close("gradient of the images", &found, &numbers(&golden["images_gradient"]), 1e-9);
        }
    }
}

/// Its name, how many parameters it has, and the sizes of their tensors by name.
type Preset = (&'static str, usize, BTreeMap<String, Vec<usize>>);

/// The names and sizes of timm's parameters for 1000 classes: lines of a name and sizes, below a line of a preset and its parameters, with
/// `blocks.a-b` for blocks a to b.
fn published() -> Vec<Preset> {
    let mut presets = Vec::new();
    for line in include_str!("../golden/swin_names.txt").lines() {
        if let Some(preset) = line.strip_prefix("# ") {
            let (name, count) = preset.split_once(' ').unwrap();
            presets.push((name, count.parse().unwrap(), BTreeMap::new()));
            continue;
        }
        let (name, sizes) = line.split_once(' ').unwrap();
        let sizes: Vec<usize> = sizes.split('x').map(|size| size.parse().unwrap()).collect();
        let parameters = &mut presets.last_mut().unwrap().2;
        let Some((before, after)) = name.split_once("blocks.") else {
            parameters.insert(name.to_owned(), sizes);
            continue;
        };
        let (range, after) = after.split_once('.').unwrap();
        let (first, last) = range.split_once('-').unwrap();
        for block in first.parse::<usize>().unwrap()..=last.parse().unwrap() {
            parameters.insert(format!("{before}blocks.{block}.{after}"), sizes.clone());
        }
    }
    presets
}

/// At 224×224 pixels, and at sizes for which timm's tables would be of another size, or windows padded.
#[test]
fn presets_have_timms_parameters_whatever_the_size() {
    let published = published();
    assert_eq!(published.len(), 3);
    for (name, count, expected) in published {
        let backbone = Backbone::by_name(name).unwrap();
        assert_eq!(backbone.label(), name);
        let build =
            |shape: Shape, vb: candle_nn::VarBuilder| nn::build(&backbone.clone().into(), shape, vb).map(|_| ());
        for side in if name == "swin_tiny" { &[224, 256, 32][..] } else { &[32] } {
            let shape = Shape { channels: 3, height: *side, width: *side, classes: 1000 };
            let found = sizes(&build, shape).unwrap();
            assert_eq!(found, expected, "{name} {side}");
            assert_eq!(found.values().map(|sizes| sizes.iter().product::<usize>()).sum::<usize>(), count);
        }
    }
    // timm's has to be made for one size of images.
    assert_eq!(Backbone::by_name("swin_tiny").unwrap().elsewhere(1, 5), None);
}

/// Older files hold what is computed from the sizes.
#[test]
fn computed_tensors_of_a_file_are_left_out() {
    let golden = &golden()["networks"][0];
    let (_, params, _) = built(golden, DType::F32);
    let backbone = Backbone::Swin(settings(&golden["settings"]));
    let shape = Shape { channels: 3, height: 64, width: 64, classes: 5 };
    let of = backbone.clone().into();
    let build = move |shape, vb: candle_nn::VarBuilder| nn::build(&of, shape, vb).map(|_| ());
    let wanted = Wanted::of(std::sync::Arc::new(build), Some(&backbone), shape).unwrap();
    let own = params.all().unwrap();
    let mut given = own.clone();
    let zeros = Tensor::zeros((16, 16), DType::I64, &Device::Cpu).unwrap();
    given.insert("layers.0.blocks.0.attn.relative_position_index".into(), zeros.clone());
    given.insert("layers.0.blocks.1.attn_mask".into(), zeros);
    let fitted = wanted.fit(given, WeightsHead::File, std::path::Path::new("net.pth")).unwrap();
    assert_eq!(fitted.tensors.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>());
}

#[test]
fn its_neurons_are_those_of_the_blocks_and_of_the_last_norm() {
    let golden = &golden()["networks"][1];
    let (network, _, images) = built(golden, DType::F32);
    for side in [Side::Before, Side::After] {
        let outputs = network.show(&images, &Pass::eval().keeping_layers(side)).unwrap();
        let [blocks @ .., normal, logits] = &outputs.layers[..] else { panic!("{} layers", outputs.layers.len()) };
        let names: Vec<&str> = blocks.iter().map(|layer| &layer.name[..]).collect();
        assert_eq!(names.len(), 9);
        assert_eq!([names[0], names[8]], ["layers.0.blocks.0.mlp.act", "layers.3.blocks.1.mlp.act"]);
        assert_eq!(blocks[0].values.dims(), [2, 24, 9, 22]);
        assert_eq!((&normal.name[..], normal.values.dims()), ("norm", &[2, 48, 2, 3][..]));
        assert_eq!(&logits.name[..], "head.fc");
        let means = normal.values.mean((2, 3)).unwrap();
        assert_close("features", &values(&means), &values(outputs.features().unwrap()), 1e-5);
    }
}

#[test]
fn a_stage_alone_is_that_of_the_network() {
    let golden = &golden()["networks"][2];
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 5 };
    let params = Params::new(0, &Device::Cpu);
    let extractor = Backbone::Swin(settings(&golden["settings"])).extractor(shape, params.builder()).unwrap();
    let images = uniform("images", &dims).to_dtype(DType::F32).unwrap();
    let all = extractor.extract(&images, &Pass::eval()).unwrap().1;
    let some = extractor.stages_until(&images, "layers.1", &Pass::eval()).unwrap();
    assert_eq!(some.len(), 2);
    for ((name, found), (other, expected)) in some.iter().zip(&all) {
        assert_eq!((name, values(found)), (other, values(expected)));
    }
    // Images of another size do not fit what it was built for.
    assert!(extractor.extract(&images.narrow(2, 0, 48).unwrap(), &Pass::eval()).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let of = |settings: Value, height, width| {
        let shape = Shape { channels: 3, height, width, classes: 2 };
        let backbone = Backbone::Swin(serde_json::from_value(settings).unwrap());
        let built = nn::build(&backbone.into(), shape, Params::new(0, &Device::Cpu).builder());
        built.map(|_| ()).map_err(|error| error.to_string())
    };
    let small = json!({ "width": 2, "depths": [1, 2, 1, 1], "heads": [1, 1, 1, 1] });
    assert_eq!([of(small.clone(), 4, 4), of(small.clone(), 224, 8)], [Ok(()), Ok(())]);
    assert_eq!(
        of(small, 224, 30).unwrap_err(),
        "swin cuts images into patches of 4×4 pixels, and 224×30 are no whole number of them"
    );
    let heads = json!({ "width": 6, "depths": [1, 1, 1, 1], "heads": [3, 4, 7, 6] });
    assert_eq!(of(heads, 32, 32).unwrap_err(), "swin: 7 heads do not divide 24 channels");
}

#[test]
fn a_smoke_run_has_as_many_blocks_and_fits_its_images() {
    let settings = json!({ "width": 96, "depths": [2, 2, 18, 2], "heads": [3, 6, 12, 24], "patch": 6 });
    for backbone in
        [Backbone::by_name("swin_small").unwrap(), Backbone::Swin(serde_json::from_value(settings).unwrap())]
    {
        let smoke = backbone.smoke().unwrap();
        let Backbone::Swin(narrow) = &smoke else { panic!("{smoke:?}") };
        assert_eq!(narrow.depths, [2, 2, 18, 2]);
        let shape = Shape { channels: 3, height: 32, width: 32, classes: 2 };
        let network = nn::build(&smoke.into(), shape, Params::new(0, &Device::Cpu).builder()).unwrap();
        let images = uniform("images", &[2, 3, 32, 32]).to_dtype(DType::F32).unwrap();
        assert_eq!(network.show(&images, &Pass::eval()).unwrap().logits().unwrap().dims(), [2, 2]);
    }
}
