//! Models of a teacher and a student: reverse distillation's networks against PyTorch's (`tests/golden/distillation.py`), and what both show.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use oodkit::{
    models::{ModelConfig, students::Combine},
    nn::{Backbone, Model, Pass, Shape, params::Params, resnet, reverse::Reverse},
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/distillation.json")).unwrap()
}

/// A backbone whose blocks are of a kind; nothing else of it is asked.
fn teacher(wide: u64) -> Backbone {
    match wide {
        0 => Backbone::by_name("resnet20").unwrap(),
        wide => Backbone::Resnet(resnet::Settings { depth: 50, width: wide as usize }),
    }
}

#[test]
fn the_student_of_reverse_distillation_matches_pytorch() {
    for golden in golden()["reverse"].as_array().unwrap() {
        let channels: [usize; 3] = serde_json::from_value(golden["channels"].clone()).unwrap();
        let backbone = teacher(golden["wide"].as_u64().unwrap());
        let sizes = [[16, 24], [8, 12], [4, 6]];
        let stages =
            [0, 1, 2].map(|at| uniform(&format!("stage {at}"), &[3, channels[at], sizes[at][0], sizes[at][1]]));
        for (dtype, tolerance) in [(DType::F32, 2e-4), (DType::F64, 1e-9)] {
            let what = format!("{} {dtype:?}", backbone.name());
            let params = Params::new(0, &Device::Cpu);
            let sizes = [0, 1, 2].map(|at| [channels[at], sizes[at][0], sizes[at][1]]);
            let student = Reverse::new(&backbone, sizes, &params.builder().set_dtype(dtype)).unwrap();
            let all = params.all().unwrap();
            let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
            params.load(&state, std::path::Path::new("test")).unwrap();
            let stages = stages.each_ref().map(|maps| maps.to_dtype(dtype).unwrap());
            let mut folded = student.clone();
            folded.fold().unwrap();
            for student in [&student, &folded] {
                let made = student.forward(stages.each_ref(), &Pass::eval()).unwrap();
                for (at, (made, expected)) in made.iter().zip(golden["eval"].as_array().unwrap()).enumerate() {
                    assert!(!made.track_op() && made.dims() == stages[at].dims(), "{what}: stage {at}");
                    assert_close(&format!("{what}: stage {at}"), &sampled(made, 48), &numbers(expected), tolerance);
                }
            }
            assert!(folded.forward(stages.each_ref(), &Pass::new(TRAIN)).is_err(), "a folded network does not learn");
            let made = student.forward(stages.each_ref(), &Pass::new(TRAIN)).unwrap();
            let mut sum = Tensor::zeros((), dtype, &Device::Cpu).unwrap();
            for (at, (made, expected)) in made.iter().zip(golden["train"].as_array().unwrap()).enumerate() {
                assert_close(
                    &format!("{what}: learning {at}"),
                    &sampled(made, 48),
                    &numbers(expected),
                    10.0 * tolerance,
                );
                let toward = uniform(&format!("toward {at}"), made.dims()).to_dtype(dtype).unwrap();
                sum = (sum + (made * toward).unwrap().sum_all().unwrap()).unwrap();
            }
            if dtype == DType::F32 {
                continue;
            }
            let gradients = sum.backward().unwrap();
            let expected = golden["gradients"].as_object().unwrap();
            assert_eq!(expected.len(), params.trainable().len(), "{what}");
            for (name, var) in params.trainable() {
                let [norm, dot] = directional(&name, gradients.get(&var).unwrap_or_else(|| panic!("{what} {name}")));
                let expected = numbers(&expected[&name]);
                let error = (norm - expected[0]).abs().max((dot - expected[1]).abs());
                assert!(error < 1e-8 * expected[0].max(1e-4), "{what} {name}: {norm} {dot}, {expected:?}");
            }
            let all = params.all().unwrap();
            for (name, expected) in golden["buffers"].as_object().unwrap() {
                assert_close(&format!("{what} {name}"), &sampled(&all[name], 2), &numbers(expected), tolerance);
            }
        }
    }
}

const SHAPE: Shape = Shape { channels: 3, height: 32, width: 64, classes: 1 };

fn build(yaml: &str, shape: Shape) -> oodkit::Result<(Params, Box<dyn Model>)> {
    let params = Params::new(0, &Device::Cpu);
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    let model = config.build(shape, params.builder())?;
    Ok((params, model))
}

/// 1 − cosine at every position, one by one.
fn angles(teacher: &Tensor, student: &Tensor) -> Vec<f64> {
    let (images, channels, rows, columns) = teacher.dims4().unwrap();
    let (t, s) = (values(teacher), values(student));
    let positions = rows * columns;
    let angle = |at: usize| {
        let (image, position) = (at / positions, at % positions);
        let product = |a: &[f64], b: &[f64]| -> f64 {
            (0..channels).map(|c| (image * channels + c) * positions + position).map(|at| a[at] * b[at]).sum()
        };
        1.0 - product(&t, &s) / (product(&t, &t) * product(&s, &s)).sqrt()
    };
    (0..images * positions).map(angle).collect()
}

#[test]
fn maps_of_several_stages_are_pytorchs() {
    let golden = golden();
    let shapes = [[3, 5, 6, 8], [3, 7, 3, 4]];
    let maps = |who: &str, at: usize| uniform(&format!("{who} {at}"), &shapes[at]);
    let pairs = [0, 1].map(|at| (maps("teacher", at), maps("student", at)));
    for case in golden["maps"].as_array().unwrap() {
        let combine: Combine = serde_json::from_value(case["combine"].clone()).unwrap();
        let map = combine.map(&pairs, case["align_corners"].as_bool().unwrap()).unwrap().unwrap();
        assert_eq!(map.dims(), [3, 6, 8]);
        assert_close(&format!("{combine:?}"), &values(&map), &numbers(&case["map"]), 1e-12);
        assert!(combine.map(&[], true).unwrap().is_none());
    }
}

/// One stage, so that nothing is enlarged; the maps of several are compared where they are made.
#[test]
fn a_student_of_the_teachers_kind_is_compared_stage_by_stage() {
    let (params, model) = build("stfpm: { backbone: resnet20, stages: [layer2] }", SHAPE).unwrap();
    let images = uniform("images", &[2, 3, 32, 64]).to_dtype(DType::F32).unwrap();
    let shown = model.show(&images, &Pass::eval()).unwrap();
    let [(teacher, student)] = shown.pairs().unwrap() else { panic!("one stage") };
    // Each is what a network of its parameters shows.
    for (prefix, maps) in [("", teacher), ("student.", student)] {
        let (alone, features) = build("features: { backbone: resnet20 }", SHAPE).unwrap();
        let all = params.all().unwrap();
        let own = alone.all().unwrap().into_keys().map(|name| (name.clone(), all[&format!("{prefix}{name}")].clone()));
        alone.load(&own.collect::<BTreeMap<_, _>>(), std::path::Path::new("test")).unwrap();
        let features = features.show(&images, &Pass::eval()).unwrap();
        assert_eq!(values(features.stage("layer2").unwrap()), values(maps), "{prefix}");
    }
    assert_ne!(values(teacher), values(student));
    let map = shown.map().unwrap();
    assert_eq!(map.dims(), [2, 16, 32]);
    assert_close("map", &values(map), &angles(teacher, student), 1e-5);
    let folded = model.folded().unwrap().show(&images, &Pass::eval()).unwrap();
    assert_close("folded", &values(folded.map().unwrap()), &values(map), 1e-4);
    // What comes before the student is computed once.
    let fixed = model.fixed(&images).unwrap().unwrap();
    assert_eq!(values(model.show_fixed(&fixed, &Pass::eval()).unwrap().map().unwrap()), values(map));
    // While it learns there is no map, and the pairs of some images are some of the pairs.
    let learning = model.show(&images, &Pass::new(TRAIN)).unwrap();
    assert!(learning.map().is_err() && learning.pairs().unwrap()[0].1.track_op());
    assert!(!learning.pairs().unwrap()[0].0.track_op(), "the teacher's maps are constants");
    let second = learning.narrow(1, 1).unwrap();
    let count = 16 * 32 * 32;
    assert_eq!(values(&second.pairs().unwrap()[0].0), values(&learning.pairs().unwrap()[0].0)[count..]);
}

#[test]
fn a_teachers_stages_are_made_again_from_one_embedding() {
    let stages = "stages: [layer1, layer2, layer3]";
    let (_, model) = build(&format!("reverse_distillation: {{ backbone: resnet20, {stages} }}"), SHAPE).unwrap();
    let images = uniform("images", &[2, 3, 32, 64]).to_dtype(DType::F32).unwrap();
    let shown = model.show(&images, &Pass::eval()).unwrap();
    let dims: Vec<_> = shown.pairs().unwrap().iter().map(|(_, student)| student.dims().to_vec()).collect();
    assert_eq!(dims, [[2, 16, 32, 64], [2, 32, 16, 32], [2, 64, 8, 16]]);
    let (_, features) = build("features: { backbone: resnet20 }", SHAPE).unwrap();
    let features = features.show(&images, &Pass::eval()).unwrap();
    for ((_, expected), (teacher, _)) in features.stages.iter().zip(shown.pairs().unwrap()) {
        assert_eq!(values(teacher), values(expected));
    }
    assert_eq!(shown.map().unwrap().dims(), [2, 32, 64]);
    let folded = model.folded().unwrap().show(&images, &Pass::eval()).unwrap();
    assert_close("folded", &values(folded.map().unwrap()), &values(shown.map().unwrap()), 1e-4);
    // The map may be of some stages: it then has the rows and columns of the finest of them.
    let one = format!("reverse_distillation: {{ backbone: resnet20, {stages}, scored: [layer3] }}");
    let one = build(&one, SHAPE).unwrap().1.show(&images, &Pass::eval()).unwrap();
    let [_, _, (teacher, student)] = one.pairs().unwrap() else { panic!("three stages") };
    assert_close("scored", &values(one.map().unwrap()), &angles(teacher, student), 1e-5);
}

#[test]
fn teachers_and_students_that_cannot_be_built_are_named() {
    let refused = |yaml: &str, height, width| {
        let error = build(yaml, Shape { height, width, ..SHAPE }).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        // What is known of the size before images are read says the same.
        let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
        let [problem] = &config.problems(Some([height, width]))[..] else { panic!("one problem") };
        assert_eq!(error.to_string(), format!("{}: {}: {}", config.name(), problem.path, problem.message));
        error.to_string()
    };
    let rd = |more: &str| format!("reverse_distillation: {{ backbone: resnet20, {more} }}");
    assert_eq!(
        refused(&rd("stages: [layer1, layer2, layer4]"), 32, 32),
        "reverse_distillation: stages.2: resnet_cifar has no stage \"layer4\" (did you mean \"layer3\"?); its stages: layer1, layer2, layer3"
    );
    assert_eq!(
        refused(&rd("stages: [layer2, layer1, layer3]"), 32, 32),
        "reverse_distillation: stages: must be named once each, from input to output: of layer1, layer2, layer3"
    );
    assert_eq!(
        refused(&rd("stages: [layer1, layer2, layer3]"), 36, 32),
        "reverse_distillation: stages: the stages are of 36×32, 18×16, 9×8: each must have half the rows and columns of the one before it, \
         and the last an even number of both. At the usual stages, images have a multiple of 32 rows and columns"
    );
    assert_eq!(
        refused(&rd("stages: [layer1, layer2, layer3], scored: [layer5]"), 32, 32),
        "reverse_distillation: scored: \"layer5\" is none of the stages that are read (did you mean \"layer3\"?); these are layer1, layer2, \
         layer3"
    );
    let none = "resnet_cifar has no stages of a quarter, an eighth and a sixteenth of 32 rows: name three of layer1, layer2, layer3";
    for model in ["reverse_distillation", "stfpm"] {
        assert_eq!(refused(&format!("{model}: {{ backbone: resnet20 }}"), 32, 32), format!("{model}: stages: {none}"));
    }
    assert!(
        refused("stfpm: { backbone: resnet20, stages: [layer0] }", 32, 32)
            .contains("stfpm: stages.0: resnet_cifar has no stage")
    );
}

#[test]
fn fcdd_is_one_number_of_each_position_and_its_distance_from_the_origin() {
    let (params, model) = build("fcdd: { backbone: resnet20, stage: layer2 }", SHAPE).unwrap();
    let images = uniform("images", &[2, 3, 32, 64]).to_dtype(DType::F32).unwrap();
    let shown = model.show(&images, &Pass::eval()).unwrap();
    // A network of the same first values, since these depend on names alone.
    let (_, features) = build("features: { backbone: resnet20 }", SHAPE).unwrap();
    let features = features.show(&images, &Pass::eval()).unwrap();
    let all = params.all().unwrap();
    let (weight, bias) = (values(&all["fcdd.score.weight"]), values(&all["fcdd.score.bias"])[0]);
    let maps = values(features.stage("layer2").unwrap());
    let positions = 16 * 32;
    let z = |at: usize| {
        let (image, position) = (at / positions, at % positions);
        let of = |c: usize| weight[c] * maps[(image * weight.len() + c) * positions + position];
        bias + (0..weight.len()).map(of).sum::<f64>()
    };
    let expected: Vec<f64> = (0..2 * positions).map(|at| (z(at).powi(2) + 1.0).sqrt() - 1.0).collect();
    assert_eq!((weight.len(), shown.map().unwrap().dims()), (32, &[2, 16, 32][..]));
    assert_close("map", &values(shown.map().unwrap()), &expected, 1e-5);
    let folded = model.folded().unwrap().show(&images, &Pass::eval()).unwrap();
    assert_close("folded", &values(folded.map().unwrap()), &expected, 1e-4);
    assert!(model.fixed(&images).unwrap().is_none(), "the stage that is read learns");
    let (_, frozen) = build("fcdd: { backbone: resnet20, stage: layer2, freeze: all }", SHAPE).unwrap();
    let fixed = frozen.fixed(&images).unwrap().unwrap();
    assert_close("frozen", &values(frozen.show_fixed(&fixed, &Pass::eval()).unwrap().map().unwrap()), &expected, 1e-5);

    let message = |more: &str| {
        let yaml = format!("fcdd: {{ backbone: resnet20{more} }}");
        let error = build(&yaml, SHAPE).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        let config: ModelConfig = serde_saphyr::from_str(&yaml).unwrap();
        let [problem] = &config.problems(Some([32, 64]))[..] else { panic!("one problem") };
        assert_eq!(error.to_string(), format!("fcdd: {}: {}", problem.path, problem.message));
        problem.message.clone()
    };
    assert_eq!(message(""), "resnet_cifar has no stage of an eighth of 32 rows: name one of layer1, layer2, layer3");
    assert!(message(", stage: layer4").starts_with("resnet_cifar has no stage \"layer4\""));
    assert_eq!(message(", stage: layer2, freeze: layer3"), "\"layer3\" comes after layer2, the stage that is read");
    assert!(message(", stage: layer2, freeze: layer9").starts_with("resnet_cifar has no stage \"layer9\""));
}
