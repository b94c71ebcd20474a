//! Networks that see windows of images: CutPaste's against PyTorch's (`tests/golden/cutpaste.py`).

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use oodkit::{
    losses::pseudo_class,
    models::ModelConfig,
    nn::{Model, Pass, Shape, params::Params, windows::Windows},
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

/// A network whose parameters have golden values, for images of this size.
fn build(yaml: &str, [height, width]: [usize; 2], dtype: DType) -> (Params, Box<dyn Model>) {
    let params = Params::new(0, &Device::Cpu);
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    let shape = Shape { channels: 3, height, width, classes: 1 };
    let model = config.build(shape, params.builder().set_dtype(dtype)).unwrap();
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
    (params, model)
}

const CUTPASTE: &str = "cutpaste: { backbone: resnet20, head: [7, 5]";

fn cutpaste() -> Value {
    serde_json::from_str(include_str!("../golden/cutpaste.json")).unwrap()
}

#[test]
fn cutpaste_learns_which_maker_it_was_as_in_pytorch() {
    let golden = cutpaste();
    let makers: Vec<u32> = serde_json::from_value(golden["makers"].clone()).unwrap();
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::F64, 1e-9)] {
        let images = uniform("images", &[4, 3, 16, 16]).to_dtype(dtype).unwrap();
        let (params, model) = build(&format!("{CUTPASTE} }}"), [16, 16], dtype);
        for model in [&model, &model.folded().unwrap()] {
            let shown = model.show(&images, &Pass::eval()).unwrap();
            assert_close("logits", &values(shown.makers().unwrap()), &numbers(&golden["logits"]), tolerance);
            assert_close("features", &sampled(shown.features().unwrap(), 48), &numbers(&golden["features"]), tolerance);
            assert!(shown.logits.is_none(), "they are no classes of the images");
        }
        let shown = model.show(&images, &Pass::new(TRAIN)).unwrap();
        let logits = shown.makers().unwrap();
        assert_close("learning", &values(logits), &numbers(&golden["learned"]), 10.0 * tolerance);
        let loss = pseudo_class(logits, &makers).unwrap();
        assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], 10.0 * tolerance);
        let all = params.all().unwrap();
        for (name, expected) in golden["buffers"].as_object().unwrap() {
            let found = sampled(&all[&format!("cutpaste.{name}")], 48);
            assert_close(name, &found, &numbers(expected), 10.0 * tolerance);
        }
        if dtype == DType::F32 {
            continue;
        }
        let (gradients, expected) = (loss.backward().unwrap(), golden["gradients"].as_object().unwrap());
        assert_eq!(expected.len(), params.trainable().len());
        for (name, var) in params.trainable() {
            let [norm, dot] = directional(&name, gradients.get(&var).unwrap_or_else(|| panic!("{name}")));
            let expected = numbers(&expected[&name]);
            let error = (norm - expected[0]).abs().max((dot - expected[1]).abs());
            assert!(error < 1e-8 * expected[0].max(1e-4), "{name}: {norm} {dot}, {expected:?}");
        }
    }
}

#[test]
fn the_loss_of_makers_changes_as_its_gradient_says() {
    let (plain, makers) = (values(&uniform("logits of makers", &[3, 4])), [0, 3, 1]);
    let loss = |values: Vec<f64>| {
        pseudo_class(&Tensor::from_vec(values, (3, 4), &Device::Cpu).unwrap(), &makers)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    let variable = candle_core::Var::from_tensor(&uniform("logits of makers", &[3, 4])).unwrap();
    let gradients = pseudo_class(&variable, &makers).unwrap().backward().unwrap();
    for (at, slope) in values(gradients.get(&variable).unwrap()).into_iter().enumerate() {
        let moved = |by: f64| {
            let mut moved = plain.clone();
            moved[at] += by;
            loss(moved)
        };
        let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        assert!((difference - slope).abs() < 1e-8, "{at}: {difference}, not {slope}");
    }
    assert!(pseudo_class(&variable, &[0, 1]).is_err(), "an image without a maker");
    assert!(pseudo_class(&variable, &[0, 1, 4]).is_err(), "a maker beyond the last");
}

#[test]
fn windows_are_seen_as_if_each_were_an_image() {
    let golden = cutpaste();
    let (_, model) = build(&format!("{CUTPASTE}, patch: 16 }}"), [24, 36], DType::F64);
    let images = uniform("large", &[2, 3, 24, 36]);
    let shown = model.show(&images, &Pass::eval()).unwrap();
    let [seen] = &shown.windows[..] else { panic!("one kind of windows") };
    assert_eq!((seen.windows, seen.size), (Windows { side: 16, stride: 8 }, [24, 36]));
    assert_eq!(seen.features.dims(), [2, 64, 2, 3]);
    assert_close("windows", &sampled(&seen.features, 48), &numbers(&golden["windows"]), 1e-9);
    assert_close("their mean", &values(shown.makers().unwrap()), &numbers(&golden["mean"]), 1e-9);
    assert!(shown.features.is_none());
    let second = shown.narrow(1, 1).unwrap();
    assert_eq!(values(&second.windows[0].features), values(&seen.features)[2 * 3 * 64..]);
    // While it learns, windows are all that it is shown.
    let windows = images.narrow(2, 0, 16).unwrap().narrow(3, 0, 16).unwrap();
    let learning = model.show(&windows, &Pass::new(TRAIN)).unwrap();
    assert!(learning.windows.is_empty() && learning.makers().unwrap().track_op());
}

/// The last batch of an epoch may have one image, whose vector has no variance.
#[test]
fn a_single_image_is_learned() {
    let (params, model) = build(&format!("{CUTPASTE} }}"), [16, 16], DType::F32);
    let image = uniform("images", &[1, 3, 16, 16]).to_dtype(DType::F32).unwrap();
    let shown = model.show(&image, &Pass::new(TRAIN)).unwrap();
    let gradients = pseudo_class(shown.makers().unwrap(), &[2]).unwrap().backward().unwrap();
    for (name, var) in params.trainable() {
        let slopes = values(gradients.get(&var).unwrap_or_else(|| panic!("{name}")));
        assert!(slopes.iter().all(|slope| slope.is_finite()), "{name}");
    }
}

#[test]
fn what_cannot_be_built_of_windows_is_named() {
    for (yaml, size, words) in [
        (
            "cutpaste: { backbone: resnet20, patch: 64 }",
            [32, 64],
            "cutpaste: patch: a window of 64×64 has no room in images of 32×64",
        ),
        (
            "cutpaste: { backbone: resnet20, stride: 4 }",
            [32, 32],
            "cutpaste: stride: goes with `patch`: whole images are seen once",
        ),
        (
            "cutpaste: { backbone: resnet18, patch: 16 }",
            [64, 64],
            "cutpaste: patch: resnet needs at least 32×32 pixels, not 16×16",
        ),
        (
            "cutpaste: { backbone: resnet20, freeze: all }",
            [32, 32],
            "cutpaste: freeze: none of the features would learn: use `model: { features: { backbone: … } }` without `train`",
        ),
        (
            "cutpaste: { backbone: resnet20, freeze: layer9 }",
            [32, 32],
            "cutpaste: freeze: resnet_cifar has no stage \"layer9\" (did you mean \"layer3\"?); its parts: stem, layer1, layer2, layer3; all and none stand for these",
        ),
    ] {
        let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let shape = Shape { channels: 3, height: size[0], width: size[1], classes: 1 };
        let error = config.build(shape, params.builder()).err().unwrap();
        assert_eq!((error.exit_code(), &error.to_string()[..]), (2, words));
        // What is known of the size before images are read says the same.
        let [problem] = &config.problems(Some(size))[..] else { panic!("one problem") };
        assert_eq!(format!("{}: {}: {}", config.name(), problem.path, problem.message), words);
    }
}
