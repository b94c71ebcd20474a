//! Patch description networks and the models that they teach, against PyTorch's (`tests/golden/patch_description.py`).

use candle_core::{DType, Device, Tensor};
use oodkit::{
    losses::Objective,
    models::ModelConfig,
    nn::{
        Backbone, Model, Output, Pass, Shape,
        params::Params,
        patch_description::{PatchNetwork, Settings},
    },
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/patch_description.json")).unwrap()
}

/// Puts the golden files' values into all parameters.
fn fill(params: &Params) {
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
}

fn check_gradients(what: &str, params: &Params, gradients: &candle_core::backprop::GradStore, golden: &Value) {
    for (name, expected) in golden.as_object().unwrap() {
        let (_, var) = params.trainable().into_iter().find(|(other, _)| other == name).unwrap();
        let [norm, dot] = directional(name, gradients.get(&var).unwrap_or_else(|| panic!("{what} {name}")));
        let expected = numbers(expected);
        let error = (norm - expected[0]).abs().max((dot - expected[1]).abs());
        assert!(error < 1e-8 * expected[0].max(1e-4), "{what} {name}: {norm} {dot}, {expected:?}");
    }
}

#[test]
fn networks_that_describe_patches_match_pytorch() {
    let golden = golden();
    let cases = golden["networks"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let layers = serde_json::from_value(case["layers"].clone()).unwrap();
        let settings = Settings { layers, channels: 2, outputs: 3 };
        let padded = case["padded"].as_bool().unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-10)] {
            let what = format!("{layers:?}, padded {padded}, {dtype:?}");
            let params = Params::new(0, &Device::Cpu);
            let network = PatchNetwork::new(&settings, 3, padded, 1, &params.builder().set_dtype(dtype)).unwrap();
            fill(&params);
            let images = uniform("images", &[2, 3, 70, 72]).to_dtype(dtype).unwrap();
            let described = network.forward(&images, &Pass::new(TRAIN)).unwrap();
            assert_eq!(serde_json::to_value(described.dims()).unwrap(), case["shape"], "{what}");
            let grid = settings.layers.grid([70, 72], padded).unwrap();
            assert_eq!(described.dims()[2..], grid, "{what}");
            assert_close(&what, &sampled(&described, 48), &numbers(&case["values"]), tolerance);
            if dtype == DType::F64 {
                let toward = uniform("toward", described.dims());
                let gradients = (described * toward).unwrap().sum_all().unwrap().backward().unwrap();
                check_gradients(&what, &params, &gradients, &case["gradients"]);
            }
        }
    }
}

/// Dense evaluation is the network on every patch alone.
#[test]
fn a_description_is_that_of_its_patch_alone() {
    for layers in ["small", "p17", "p33", "p65"] {
        let settings: Settings =
            serde_saphyr::from_str(&format!("{{ layers: {layers}, channels: 2, outputs: 3 }}")).unwrap();
        let (stride, patch) = (settings.layers.stride(), settings.layers.patch());
        let params = Params::new(0, &Device::Cpu);
        let network = PatchNetwork::new(&settings, 3, false, 1, &params.builder()).unwrap();
        fill(&params);
        let images = uniform("images", &[1, 3, patch + 3 * stride, patch + 2 * stride]).to_dtype(DType::F32).unwrap();
        let of = |images: &Tensor| network.forward(images, &Pass::eval()).unwrap();
        let dense = of(&images);
        let [rows, columns] = settings.layers.grid([patch + 3 * stride, patch + 2 * stride], false).unwrap();
        assert_eq!((dense.dims(), rows >= 4 && columns >= 3), (&[1, 3, rows, columns][..], true), "{layers}");
        for (row, column) in (0..4).flat_map(|row| (0..3).map(move |column| (row, column))) {
            let alone = images.narrow(2, row * stride, patch).unwrap().narrow(3, column * stride, patch).unwrap();
            let here = dense.narrow(2, row, 1).unwrap().narrow(3, column, 1).unwrap();
            let what = format!("{layers} at {row}, {column}");
            let alone = of(&alone.contiguous().unwrap());
            assert_eq!(alone.dims(), [1, 3, 1, 1], "{what}");
            assert_close(&what, &values(&alone), &values(&here), 1e-5);
        }
    }
}

const SHAPE: Shape = Shape { channels: 3, height: 48, width: 64, classes: 1 };

/// A model with the golden files' parameters, and images.
fn built(yaml: &str, dtype: DType) -> (Params, Box<dyn Model>, Tensor) {
    let params = Params::new(0, &Device::Cpu);
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    let model = config.build(SHAPE, params.builder().set_dtype(dtype)).unwrap();
    fill(&params);
    (params, model, uniform("images", &[3, 3, 48, 64]).to_dtype(dtype).unwrap())
}

fn loss(model: &dyn Model, images: &Tensor, loss: &str) -> Tensor {
    let batch = oodkit::data::batches::Batch {
        images: images.clone(),
        normal: images.dims()[0],
        entries: None,
        marked: None,
        labels: None,
        epoch: 0,
        step: 0,
    };
    let objective = Objective::new(&serde_saphyr::from_str(loss).unwrap(), &[], 0).unwrap();
    objective.loss(model, &batch, TRAIN).unwrap().total
}

#[test]
fn efficient_ad_matches_pytorch() {
    let golden = &golden()["efficient_ad"];
    let yaml = "efficient_ad: { patches: { channels: 2, outputs: 5 }, width: 4, dropout: 0 }";
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let (params, model, images) = built(yaml, dtype);
        let shown = model.show(&images, &Pass::eval()).unwrap();
        let parts = shown.parts().unwrap();
        assert_eq!(parts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["local", "global"]);
        // As many as quarters of the image's rows: the paper's code has a margin there, too.
        assert_eq!((parts[0].1.dims(), golden["grid"].clone()), (&[3, 12, 16][..], serde_json::json!([12, 16])));
        for (name, part) in parts.iter().map(|(name, part)| (*name, part)).chain([("map", shown.map().unwrap())]) {
            assert_close(&format!("{name} {dtype:?}"), &sampled(part, 48), &numbers(&golden[name]), tolerance);
        }
        let learned = loss(&*model, &images, "{ regression: { hard: 0.9 } }");
        assert_close("loss", &values(&learned), &[golden["loss"].as_f64().unwrap()], tolerance);
        if dtype == DType::F64 {
            let gradients = learned.backward().unwrap();
            check_gradients("EfficientAD", &params, &gradients, &golden["gradients"]);
            // The teacher alone has none.
            let of_teacher = |name: &String| name.starts_with("teacher.");
            let without: Vec<_> = params
                .trainable()
                .into_iter()
                .filter(|(_, var)| gradients.get(var).is_none())
                .map(|(name, _)| name)
                .collect();
            assert!(without.len() == 8 && without.iter().all(of_teacher), "{without:?}");
            assert_eq!(golden["gradients"].as_object().unwrap().len() + 8, params.trainable().len());
        }
        // What comes before the student is computed once.
        let fixed = model.fixed(&images).unwrap().unwrap();
        let again = model.show_fixed(&fixed, &Pass::eval()).unwrap();
        assert_eq!(values(again.map().unwrap()), values(shown.map().unwrap()));
        let folded = model.folded().unwrap().show(&images, &Pass::eval()).unwrap();
        assert_eq!(values(folded.map().unwrap()), values(shown.map().unwrap()));
        // Dropout is drawn anew at every step, and only while it learns.
        let (_, dropping, _) = built(&yaml.replace("dropout: 0", "dropout: 0.5"), dtype);
        assert_eq!(values(dropping.show(&images, &Pass::eval()).unwrap().map().unwrap()), values(shown.map().unwrap()));
        assert_ne!(values(&loss(&*dropping, &images, "{ regression: { hard: 0.9 } }")), values(&learned));
    }
}

#[test]
fn uninformed_students_match_pytorch() {
    let golden = &golden()["students"];
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let (_, model, images) =
            built("uninformed_students: { patches: { layers: p33, channels: 2, outputs: 5 } }", dtype);
        let shown = model.show(&images, &Pass::eval()).unwrap();
        let [(error, one), (variance, two)] = shown.parts().unwrap() else { panic!("two parts") };
        assert_eq!([*error, *variance], ["error", "variance"]);
        for (name, part) in [(error, one), (variance, two)] {
            assert_eq!(part.dims(), [3, 12, 16]);
            assert_close(&format!("{name} {dtype:?}"), &sampled(part, 48), &numbers(&golden[*name]), tolerance);
        }
        let map: Vec<f64> = values(one).iter().zip(values(two)).map(|(one, two)| (one + two) / 2.0).collect();
        assert_close("map", &values(shown.map().unwrap()), &map, 1e-6);
        assert_eq!(shown.pairs().unwrap().len(), 3);
        let learned = loss(&*model, &images, "{ regression: {} }");
        assert_close("loss", &values(&learned), &[golden["loss"].as_f64().unwrap()], tolerance);
    }
}

#[test]
fn students_of_two_sizes_of_patches_match_pytorch() {
    let golden = &golden()["students_of_two_sizes"];
    let patches = |layers: &str| format!("{{ layers: {layers}, channels: 2, outputs: 5 }}");
    let yaml =
        format!("uninformed_students: {{ patches: {}, further: [{}], padding: true }}", patches("p33"), patches("p65"));
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let (params, model, images) = built(&yaml, dtype);
        let shown = model.show(&images, &Pass::eval()).unwrap();
        let parts = shown.parts().unwrap();
        let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["error of p33", "variance of p33", "error of p65", "variance of p65"]);
        for (name, part) in parts.iter().map(|(name, part)| (*name, part)).chain([("map", shown.map().unwrap())]) {
            assert_eq!(part.dims(), [3, 12, 16]);
            assert_close(&format!("{name} {dtype:?}"), &sampled(part, 48), &numbers(&golden[name]), tolerance);
        }
        let learned = loss(&*model, &images, "{ regression: {} }");
        assert_close("loss", &values(&learned), &[golden["loss"].as_f64().unwrap()], tolerance);
        // Every student of both sizes learns, and no teacher.
        let gradients = learned.backward().unwrap();
        for (name, var) in params.trainable() {
            assert_eq!(gradients.get(&var).is_some(), name.starts_with("students."), "{name}");
        }
        let fixed = model.fixed(&images).unwrap().unwrap();
        let again = model.show_fixed(&fixed, &Pass::eval()).unwrap();
        assert_eq!((fixed.len(), values(again.map().unwrap())), (3, values(shown.map().unwrap())));
        // The moments of each teacher's outputs are its own.
        let mut survey = model.survey().unwrap();
        survey.see(&images).unwrap();
        survey.finish().unwrap();
        for taught in &model.fixed(&images).unwrap().unwrap()[1..] {
            let mean = values(&taught.mean((0, 2, 3)).unwrap());
            assert!(mean.iter().all(|mean| mean.abs() < 1e-3), "{mean:?}");
        }
    }
}

/// The loss of a teacher of two sizes is the sum of those of two teachers.
#[test]
fn teachers_of_two_sizes_learn_beside_each_other() {
    let patches = |layers: &str| format!("{{ layers: {layers}, channels: 2, outputs: 5 }}");
    let yaml = |patches: &str| {
        format!("patch_description: {{ backbone: resnet20, stages: [layer2], patches: {patches}, decode: true }}")
    };
    let terms = "{ regression: {}, compactness: { weight: 0.5 } }";
    let (params, model, images) =
        built(&yaml(&format!("{}, further: [{}]", patches("p33"), patches("p65"))), DType::F64);
    let together = loss(&*model, &images, terms);
    let mut alone = Vec::new();
    for (layers, below) in [("p33", "teacher."), ("p65", "teacher.further.0.")] {
        let (other, model, _) = built(&yaml(&patches(layers)), DType::F64);
        let all = params.all().unwrap();
        let theirs = |name: &str| match name.strip_prefix("teacher.") {
            Some(rest) if !rest.starts_with("source.") => format!("{below}{rest}"),
            _ => name.to_owned(),
        };
        let state = other.all().unwrap().into_keys().map(|name| (name.clone(), all[&theirs(&name)].clone())).collect();
        other.load(&state, std::path::Path::new("test")).unwrap();
        alone.extend(values(&loss(&*model, &images, terms)));
    }
    assert_close("loss", &values(&together), &[alone.iter().sum()], 1e-10);
    let shown = model.show(&images, &Pass::eval()).unwrap();
    assert_eq!(shown.pairs().unwrap().iter().map(|(target, _)| target.dims()[2]).collect::<Vec<_>>(), [12, 5]);
}

/// The target is the backbone's stages, standardised and put together at the descriptions' rows and columns.
#[test]
fn a_teacher_learns_a_backbones_stages() {
    let yaml = |more: &str| {
        format!(
            "patch_description: {{ backbone: resnet20, stages: [layer2], patches: {{ channels: 2, outputs: 32 }}, {more} }}"
        )
    };
    let (params, model, images) = built(&yaml("padding: true"), DType::F32);
    // Of padded patches there are as many as positions of a stage of a quarter of the rows.
    let shown = model.show(&images, &Pass::eval()).unwrap();
    let [(target, described)] = shown.pairs().unwrap() else { panic!("one pair") };
    assert_eq!((target.dims(), described.dims()), (&[3, 32, 12, 16][..], &[3, 32, 12, 16][..]));
    assert!(!target.track_op() && values(described) == values(shown.embedding().unwrap()));
    // Before the survey it is of mean 0 and variance 1 as the golden values have them; after it, as the train images do.
    let mut survey = model.survey().unwrap();
    for image in 0..3 {
        survey.see(&images.narrow(0, image, 1).unwrap()).unwrap();
    }
    survey.finish().unwrap();
    let target = model.show(&images, &Pass::eval()).unwrap().pairs().unwrap()[0].0.clone();
    let (_, _, rows, columns) = target.dims4().unwrap();
    let flat = target.transpose(0, 1).unwrap().flatten_from(1).unwrap();
    let mean = values(&flat.mean(1).unwrap());
    let variance = values(&flat.sqr().unwrap().mean(1).unwrap());
    assert_eq!(mean.len(), 32);
    assert!(mean.iter().all(|mean| mean.abs() < 1e-4), "{mean:?}");
    assert!(variance.iter().all(|variance| (variance - 1.0).abs() < 1e-3), "{variance:?}");
    // The stage itself, at half its rows and columns, is what was standardised.
    let backbone = Backbone::by_name("resnet20").unwrap();
    let alone = Params::new(0, &Device::Cpu);
    let extractor = backbone.extractor(SHAPE, alone.builder()).unwrap();
    fill(&alone);
    let (_, stages) = extractor.extract(&images, &Pass::eval()).unwrap();
    let stage =
        oodkit::ops::resize(&stages[1].1, (rows, columns), oodkit::ops::Interpolation::Bilinear, false).unwrap();
    let all = params.all().unwrap();
    let [mean, variance] =
        ["mean", "var"].map(|what| all[&format!("teacher.source.running_{what}")].reshape((1, 32, 1, 1)).unwrap());
    let expected = stage.broadcast_sub(&mean).unwrap().broadcast_div(&variance.sqrt().unwrap()).unwrap();
    assert_close("target", &values(&target), &values(&expected), 1e-4);
    // Other channels than the descriptions': a projection that does not learn, or one of the descriptions that does.
    let fewer = |more: &str| yaml(more).replace("outputs: 32", "outputs: 5");
    let (projected, model, _) = built(&fewer("padding: true"), DType::F32);
    let shown = model.show(&images, &Pass::eval()).unwrap();
    assert_eq!(shown.pairs().unwrap()[0].0.dims(), [3, 5, 12, 16]);
    assert!(projected.all().unwrap().contains_key("teacher.source.random_projection"));
    assert!(projected.trainable().iter().all(|(name, _)| !name.contains("source")));
    let (decoded, model, _) = built(&fewer("decode: true"), DType::F32);
    let shown = model.show(&images, &Pass::eval()).unwrap();
    let [(target, made)] = shown.pairs().unwrap() else { panic!("one pair") };
    assert_eq!((target.dims(), made.dims()), (&[3, 32, 12, 16][..], &[3, 32, 12, 16][..]));
    assert_eq!(shown.embedding().unwrap().dims(), [3, 5, 12, 16]);
    assert!(decoded.trainable().iter().any(|(name, _)| name == "teacher.decoder.weight"));
    let fixed = model.fixed(&images).unwrap().unwrap();
    assert_eq!(values(&model.show_fixed(&fixed, &Pass::eval()).unwrap().pairs().unwrap()[0].1), values(made));
    assert_eq!(
        values(&model.folded().unwrap().show(&images, &Pass::eval()).unwrap().pairs().unwrap()[0].1),
        values(made)
    );
}

#[test]
fn models_that_learn_patches_say_what_is_wrong() {
    let refused = |yaml: &str, height, width| {
        let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
        let shape = Shape { height, width, ..SHAPE };
        let error = config.build(shape, Params::new(0, &Device::Cpu).builder()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(
            config.least_side() > height.min(width) || !config.problems(Some([height, width])).is_empty(),
            "{yaml}"
        );
        error.to_string()
    };
    assert!(refused("efficient_ad: {}", 32, 64).contains("images of 32×64 have no patch of 33×33"));
    assert!(refused("uninformed_students: { patches: { layers: p65 } }", 65, 59).contains("no patch of 65×65"));
    assert_eq!(
        refused("patch_description: { backbone: resnet20, stages: [layer7] }", 64, 64),
        "patch_description: stages.0: resnet_cifar has no stage \"layer7\" (did you mean \"layer3\"?); its stages: layer1, layer2, layer3"
    );
    for yaml in [
        "efficient_ad: { students: 3 }",
        "uninformed_students: { students: 1 }",
        "efficient_ad: { dropout: 1 }",
        "uninformed_students: { patches: { layers: p33 }, further: [{ layers: p33 }] }",
        "patch_description: { backbone: resnet20, further: [{ layers: p65 }, { layers: p65 }] }",
    ] {
        let config: Result<ModelConfig, _> = serde_saphyr::from_str(yaml);
        let wrong = |config: ModelConfig| garde::Validate::validate(&config).is_err();
        assert!(config.map_or(true, wrong), "{yaml}");
    }
    let shows = serde_saphyr::from_str::<ModelConfig>("efficient_ad: {}").unwrap().shows();
    assert_eq!(shows, [Output::Pairs, Output::Map, Output::Parts]);
}
