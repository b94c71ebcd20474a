//! Experiment files: all of them load, and what they mean survives writing, overriding, sweeping and shrinking.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use oodkit::{
    config::{self, Experiment, load, overrides, sweep},
    detectors::{DetectorConfig, afdu::Granularity},
    train::schedule::Schedule,
};
use serde_json::{Value, json};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn experiment(name: &str) -> Experiment {
    load::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.yaml"))).unwrap().experiment
}

fn with(experiment: &Experiment, texts: &[&str]) -> Experiment {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    overrides::apply(experiment, &texts).unwrap()
}

#[test]
fn every_experiment_loads_and_its_card_is_complete() {
    let files = files();
    assert!(files.len() >= 5);
    for path in files {
        let loaded = load::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let text = fs::read_to_string(&path).unwrap();
        for line in ["# paper:", "# command:", "# cost:", "# known:"] {
            assert!(text.contains(line), "{} has no `{line}`", path.display());
        }
        let names_itself = text.contains(&format!("exp={}", loaded.name)) || loaded.name == "quickstart";
        assert!(names_itself, "{}: the command is another's", path.display());
        assert!(!sweep::cells(&loaded.experiment).unwrap().is_empty());
        for expect in loaded.experiment.tables.iter().filter_map(|table| table.expect.as_ref()) {
            let paper = path.parent().unwrap().join(&expect.file);
            let text = fs::read_to_string(&paper).unwrap_or_else(|error| panic!("{}: {error}", paper.display()));
            let header = text.lines().find(|line| !line.starts_with('#')).unwrap();
            let columns: BTreeSet<&str> = header.split(',').collect();
            let named = expect.columns.values().chain(expect.filter.keys()).chain([&expect.row]);
            for column in named {
                assert!(columns.contains(column.as_str()), "{} has no column {column}", paper.display());
            }
            let place = header.split(',').position(|column| column == expect.row).unwrap();
            let rows: BTreeSet<&str> = text.lines().filter_map(|line| line.split(',').nth(place)).collect();
            for row in expect.rows.values() {
                assert!(rows.contains(row.as_str()), "{} has no row {row}", paper.display());
            }
        }
    }
}

#[test]
fn a_resolved_experiment_written_as_yaml_reads_back_the_same() {
    for path in files() {
        let experiment = load::load(&path).unwrap().experiment;
        let text = serde_saphyr::to_string(&experiment).unwrap();
        assert_eq!(load::parse(&text, "resolved").unwrap_or_else(|error| panic!("{error}\n{text}")), experiment);
        let small = config::smoke(experiment);
        let text = serde_saphyr::to_string(&small).unwrap();
        assert_eq!(load::parse(&text, "smoke").unwrap_or_else(|error| panic!("{error}\n{text}")), small);
    }
}

#[test]
fn keys_beside_a_merge_win() {
    let train = experiment("cifar10_sparsity_cpu").networks["base"].train.clone().unwrap();
    assert_eq!(train.epochs, 8);
    assert_eq!(train.batch_size, 128);
    assert!(matches!(train.schedule, Schedule::Cosine(_)));
}

#[test]
fn paper_recipe_is_the_papers() {
    for name in ["cifar10_sparsity", "cifar100_sparsity"] {
        let experiment = experiment(name);
        let tree = serde_json::to_value(&experiment).unwrap();
        let sgd = |lr: f64| json!({ "lr": lr, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4 });
        for (network, epochs, lr) in [("base", 100, 0.1), ("plain", 10, 0.001), ("tuned", 10, 0.001)] {
            let train = &tree["networks"][network]["train"];
            assert_eq!(train["epochs"], epochs);
            assert_eq!(train["batch_size"], 128);
            assert_eq!(train["optimizer"]["sgd"], sgd(lr));
            assert_eq!(train["augment"], json!({ "flip": true, "crop_padding": 4 }));
        }
        assert_eq!(tree["networks"]["tuned"]["loss"]["sparsity"], json!({ "weight": 0.01, "target": "logits" }));
        assert_eq!(tree["networks"]["plain"]["loss"]["sparsity"]["weight"], 0.0);
        assert_eq!(tree["networks"]["base"]["backbone"]["wide_resnet"]["depth"], 40);
        for table in 0..2 {
            assert_eq!(tree["tables"][table]["protocol"], "energy_ood");
        }
    }
}

#[test]
fn overrides_reach_every_kind_of_key() {
    let quickstart = experiment("quickstart");
    let changed = with(
        &quickstart,
        &[
            "seeds=[0,1,2]",
            "networks.tuned.loss.sparsity.weight=0.05",
            "networks.base.train.epochs=2",
            "networks.base.train.max_steps=3",
            "networks.base.backbone=wrn40_2",
            "data.ood=[svhn, {name: mnist, test_limit: 5}]",
            "methods.0.name=Softmax",
            "methods.3.detector.energy.temperature=2",
            "evaluation.redraw={draws: 3}",
            "evaluation.redraw.draws=4",
            "title=a=b",
            "sweep.networks.tuned.loss.sparsity.weight=[0, 1]",
        ],
    );
    let tree = serde_json::to_value(&changed).unwrap();
    assert_eq!(tree["seeds"], json!([0, 1, 2]));
    assert_eq!(tree["networks"]["tuned"]["loss"]["sparsity"]["weight"], 0.05);
    assert_eq!(tree["networks"]["base"]["train"]["epochs"], 2);
    assert_eq!(tree["networks"]["base"]["train"]["max_steps"], 3);
    assert_eq!(tree["networks"]["base"]["backbone"]["wide_resnet"]["width"], 2);
    assert_eq!(tree["data"]["ood"][1]["test_limit"], 5);
    assert_eq!(tree["methods"][0]["name"], "Softmax");
    assert_eq!(tree["methods"][3]["detector"]["energy"]["temperature"], 2.0);
    assert_eq!(tree["evaluation"]["redraw"], json!({ "draws": 4, "id_fraction": 0.2 }));
    assert_eq!(tree["title"], "a=b");
    assert_eq!(sweep::cells(&changed).unwrap().len(), 2);
    assert_eq!(with(&quickstart, &[]), quickstart);
}

#[test]
fn overrides_reach_keys_that_are_not_written_by_default() {
    let quickstart = experiment("quickstart");
    let changed = with(
        &quickstart,
        &[
            "tables=[{name: t, rows: method, columns: [auroc]}]",
            "figures=[]",
            "methods=[{name: S, network: base, detector: energy}, {name: T, network: tuned, detector: softmax_entropy}]",
            "networks.tuned.members=2",
            "networks.base.backbone=vgg19_bn",
            "networks.base.backbone.vgg19_bn.width=8",
            "methods.0.detector=afdu",
            "methods.0.detector.afdu.images=100",
            "sweep={methods.0.detector.afdu.images: [50, 100]}",
        ],
    );
    let tree = serde_json::to_value(&changed).unwrap();
    assert_eq!(tree["networks"]["tuned"]["members"], 2);
    assert_eq!(tree["networks"]["base"]["backbone"]["vgg19_bn"]["width"], 8);
    assert_eq!(sweep::cells(&changed).unwrap()[0].experiment.methods()[0].detector, {
        serde_json::from_value(json!({ "afdu": { "images": 50 } })).unwrap()
    });
    let refused = |text: &str| overrides::apply(&quickstart, &[text.to_owned()]).unwrap_err().to_string();
    for (text, message) in [
        ("networks.base.member=2", "there is no key `member` in networks.base (did you mean \"members\"?)"),
        ("networks.tunde={}", "there is no key `tunde` in networks (did you mean \"tuned\"?)"),
        ("networks.base.members=two", "networks.base.members: expected"),
        ("methods.0.images=2", "there is no key `images` in methods.0"),
    ] {
        assert!(refused(text).contains(message), "{}", refused(text));
    }
}

#[test]
fn an_unknown_key_comes_with_all_that_may_be_set() {
    let quickstart = experiment("quickstart");
    let advice = |text: &str| {
        let error = overrides::apply(&quickstart, &[text.to_owned()]).unwrap_err();
        error.advice().unwrap_or_default().to_owned()
    };
    // Absent unless they are set: members, clip, ema, precision.
    assert!(
        advice("networks.base.nonsense=1").starts_with("keys in networks.base: backbone, model, head, "),
        "{}",
        advice("networks.base.nonsense=1")
    );
    assert!(advice("networks.base.nonsense=1").contains("members"));
    for key in ["clip", "ema", "precision"] {
        assert!(advice("networks.base.train.nonsense=1").contains(key), "{}", advice("networks.base.train.nonsense=1"));
    }
    assert!(
        advice("nonsense.epochs=1").starts_with("keys here: title, about, seeds, data"),
        "{}",
        advice("nonsense.epochs=1")
    );
    // A file's own names are those that it has.
    assert_eq!(advice("networks.nonsense.train=1"), "keys in networks: base, tuned");
}

#[test]
fn a_method_is_called_by_the_detector_that_it_was_given() {
    let quickstart = experiment("quickstart");
    let changed = with(&quickstart, &["methods.0.detector=knn"]);
    let names =
        |experiment: &Experiment| experiment.methods().into_iter().map(|method| method.name).collect::<Vec<_>>();
    let (old, new) = (names(&quickstart), names(&changed));
    assert_eq!((old[0].as_str(), new[0].as_str()), ("MSP", "knn"));
    assert_eq!(old[1..], new[1..]);
    // Tables and figures that name it follow.
    let text = serde_json::to_string(&serde_json::to_value(&changed).unwrap()).unwrap();
    assert!(!text.contains("\"MSP\"") && text.contains("\"knn\""), "{text}");
    // A name that is given, other settings of the same detector, and `all` leave it.
    assert_eq!(names(&with(&quickstart, &["methods.0.detector=knn", "methods.0.name=Near"]))[0], "Near");
    assert_eq!(names(&with(&quickstart, &["methods.0.detector={msp: {}}"]))[0], "MSP");
    assert_eq!(names(&with(&quickstart, &["methods.0.detector={knn: {k: 3}}"]))[0], "knn");
}

#[test]
fn images_held_out_are_fewer_than_a_limit_leaves() {
    let quickstart = experiment("quickstart");
    let held_out = |images| {
        let texts = ["data.id.train_limit=100".to_owned(), format!("networks.base.train.validation={images}")];
        overrides::apply(&quickstart, &texts).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(held_out(99), Ok(()));
    let error = held_out(100).unwrap_err();
    assert!(error.ends_with("validation: 100 of 100 train images: none would be left to learn from"), "{error}");
}

#[test]
fn a_sweep_is_a_grid_in_the_files_order() {
    let swept = with(
        &experiment("quickstart"),
        &["sweep={networks.tuned.loss.sparsity.weight: [0, 0.01], networks.tuned.train.epochs: [1, 2, 3]}"],
    );
    let cells = sweep::cells(&swept).unwrap();
    let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
    let expected = ["weight=0,epochs=1", "weight=0,epochs=2", "weight=0,epochs=3", "weight=0.01,epochs=1"];
    assert_eq!(names[..4], expected);
    assert_eq!(names.len(), 6);
    let last = &cells[5];
    assert_eq!(last.values["networks.tuned.train.epochs"], 3);
    let tuned = &last.experiment.networks["tuned"];
    assert_eq!(tuned.train.as_ref().unwrap().epochs, 3);
    assert_eq!(tuned.loss.sparsity.as_ref().unwrap().weight, 0.01);
    assert!(last.experiment.sweep.is_empty());
    assert_eq!(last.experiment.networks["base"], swept.networks["base"]);
}

#[test]
fn a_swept_value_may_need_another_swept_value() {
    // Each cross-entropy of 0 has a sparsity term beside it in every cell, though not in the file itself.
    let text = serde_saphyr::to_string(&with(
        &experiment("quickstart"),
        &[
            "networks.tuned.loss.sparsity.weight=0",
            "sweep={networks.tuned.loss.cross_entropy.weight: [1, 0], networks.tuned.loss.sparsity.weight: [0.1, 0.2]}",
        ],
    ));
    assert_eq!(sweep::cells(&load::parse(&text.unwrap(), "text").unwrap()).unwrap().len(), 4);
}

#[test]
fn cell_names_are_short_unambiguous_and_name_files() {
    let names = |text: &str| -> Vec<String> {
        let swept = with(&experiment("quickstart"), &[&format!("sweep={text}")]);
        sweep::cells(&swept).unwrap().into_iter().map(|cell| cell.name).collect()
    };
    let unswept = sweep::cells(&experiment("cifar10_sparsity")).unwrap();
    assert_eq!(unswept.len(), 1);
    assert_eq!((unswept[0].name.as_str(), &unswept[0].experiment), ("default", &experiment("cifar10_sparsity")));
    assert_eq!(
        names("{networks.base.train.epochs: [1], networks.tuned.train.epochs: [2]}"),
        ["base.train.epochs=1,tuned.train.epochs=2"]
    );
    assert_eq!(names("{networks.base.backbone: [lenet, wrn40_2]}"), ["backbone=lenet", "backbone=wrn40_2"]);
    assert_eq!(names("{evaluation.redraw: [null, {draws: 3}]}"), ["redraw=null", "redraw=draws-3"]);
    // Equal after what a file name cannot hold is taken out.
    assert_eq!(names("{methods.0.name: ['a/b', 'a:b']}"), ["name=a-b+0", "name=a-b+1"]);
    let long = names(&format!("{{methods.0.name: [{0}1, {0}2]}}", "x".repeat(300)));
    assert!(long[0].len() < 140 && long[0] != long[1]);
}

#[test]
fn smoke_is_small_valid_and_settled() {
    for path in files() {
        let mut experiment = load::load(&path).unwrap().experiment;
        // Sets that are elsewhere: made-up images are not to be written there.
        experiment.data.id.path = Some("/somewhere/else".into());
        if let Some(first) = experiment.data.ood.first_mut() {
            first.path = Some("~/pictures".into());
        }
        let small = config::smoke(experiment);
        config::check(&small).unwrap();
        assert_eq!(small.seeds.len(), 1);
        // Two values of each key.
        assert!(sweep::cells(&small).unwrap().len() <= 1 << small.sweep.len());
        for train in small.networks.values().filter_map(|network| network.train.as_ref()) {
            assert!(train.epochs == 1 && train.batch_size <= 8 && train.max_steps.unwrap() <= 2);
        }
        for dataset in small.data.ood.iter().chain([&small.data.id]).chain(&small.data.outliers) {
            // Two of each class.
            let most = if dataset.name == "cifar100" { 200 } else { 32 };
            assert!(dataset.train_limit.unwrap() <= most && dataset.test_limit.unwrap() <= 24);
            assert_eq!(dataset.path, None);
        }
        let of_pixels = small.methods().into_iter().filter(
            |method| matches!(&method.detector, DetectorConfig::Afdu(afdu) if afdu.granularity == Granularity::Pixel),
        );
        assert!(of_pixels.count() <= small.networks.len(), "{}", path.display());
        assert_eq!(config::smoke(small.clone()), small);
    }
}

/// What takes a part of a network of published weights is as wide as that; of random ones both are narrow.
#[test]
fn smoke_keeps_networks_as_wide_as_what_they_take() {
    for (weights, narrow) in [("weights: { file: wide.pth }, normalise: weights, ", false), ("", true)] {
        let train = "train: { epochs: 1, batch_size: 4, optimizer: { sgd: { lr: 0.01 } }";
        let text = format!(
            "title: Taken\ndata: {{ format: mvtec, path: mvtec, size: 256 }}\nnetworks:\n  student: {{ model: {{ stfpm: {{ backbone: wide_resnet50_2 }} \
             }}, {weights}loss: {{ distillation: {{}} }}, {train} }} }}\n  fcdd: {{ model: {{ fcdd: {{ backbone: wide_resnet50_2 }} }}, from: student, loss: \
             {{ fcdd: {{}} }}, {train}, outliers: {{ make: [confetti] }} }} }}\nmethods: [{{ network: fcdd, detector: map }}]\n"
        );
        let experiment = load::parse(&text, "taken").unwrap_or_else(|error| panic!("{error}"));
        let small = config::smoke(experiment.clone());
        for name in ["student", "fcdd"] {
            let [before, after] = [&experiment, &small].map(|experiment| experiment.networks[name].built_on().unwrap());
            assert_eq!(before != after, narrow, "{name}: {after:?}");
        }
        let text = serde_json::to_string(&small).unwrap();
        assert_eq!(load::parse(&text, "smoke").unwrap_or_else(|error| panic!("{error}")), small);
    }
}

/// No cell would have the value that somebody gave.
#[test]
fn an_override_of_what_is_swept_is_refused() {
    let swept = experiment("quickstart");
    let given = [format!("{}=0.05", swept.sweep.keys().next().unwrap())];
    let error = overrides::refuse_swept(&swept, &given).unwrap_err().to_string();
    assert!(error.contains(&given[0]) && error.contains("the file sweeps this key"), "{error}");
    overrides::refuse_swept(&swept, &["seeds=[0]".to_owned()]).unwrap();
}

/// Levels of up to 600 steps, where a smoke run's sampler takes one at a time.
#[test]
fn smoke_settles_what_is_swept() {
    let small = config::smoke(experiment("fashion_diffood_controls"));
    assert_eq!(serde_json::to_value(&small.sweep["methods.0.detector.diffood.levels"]).unwrap(), json!([[1, 2]]));
    assert_eq!(
        serde_json::to_value(&small.sweep["methods.0.detector.diffood.by"]).unwrap(),
        json!(["denoising", "noise"])
    );
}

/// What it sets itself is not taken for a value that somebody gave beside those to choose from.
#[test]
fn smoke_leaves_what_is_searched() {
    let text = std::fs::read_to_string("experiments/cifar10_openood_cpu.yaml").unwrap();
    let methods = "  - { network: base, detector: knn, search: { k: [1, 3] } }
  - { network: base, detector: vim, search: { dimension: [16, 32] } }
  - { network: base, detector: { react: { percentile: 85 } }, search: { percentile: [85, 90] } }
tables:";
    let (before, after) = (text.find("  - network: base\n").unwrap(), text.find("tables:").unwrap());
    let text = format!("{}{methods}{}", &text[..before], &text[after + "tables:".len()..]);
    let text = text.replace(
        "<<: !include ../configs/train/sgd_100.yaml",
        "batch_size: 128\n      optimizer: { sgd: { lr: 0.1 } }",
    );
    let experiment = load::parse(&text, "searched").unwrap();
    let small = config::smoke(experiment);
    config::check(&small).unwrap();
    assert_eq!(small.methods()[0].search["k"], [1, 3]);
}

/// Whether `value` has the keys, types and names that `schema` allows: what editors check, without ranges.
fn fits(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        return fits(value, root.pointer(name.trim_start_matches('#')).ok_or(format!("no {name}"))?, root);
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[word].as_array() {
            let errors: Vec<String> = choices.iter().filter_map(|choice| fits(value, choice, root).err()).collect();
            if errors.len() == choices.len() {
                return Err(errors.join(" | "));
            }
        }
    }
    if schema["pattern"] == "\\.ya?ml$" && !value.as_str().is_some_and(|text| text.ends_with(".yaml")) {
        return Err(format!("{value} is no file to include"));
    }
    let names = schema["enum"].as_array();
    if names.is_some_and(|names| !names.contains(value)) || schema.get("const").is_some_and(|only| only != value) {
        return Err(format!("{value} is not a name"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = |name: &Value| name == kind || (name == "number" && kind == "integer");
    match &schema["type"] {
        Value::String(_) if !allowed(&schema["type"]) => return Err(format!("{value} is no {}", schema["type"])),
        Value::Array(kinds) if !kinds.iter().any(allowed) => return Err(format!("{value} is none of {kinds:?}")),
        _ => {}
    }
    if let Value::Array(entries) = value
        && schema["items"].is_object()
    {
        entries.iter().try_for_each(|entry| fits(entry, &schema["items"], root))?;
    }
    let Value::Object(map) = value else { return Ok(()) };
    for key in schema["required"].as_array().into_iter().flatten() {
        if !map.contains_key(key.as_str().unwrap()) {
            return Err(format!("{key} is missing"));
        }
    }
    for (key, entry) in map {
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(inner), _) => fits(entry, inner, root).map_err(|error| format!("{key}: {error}"))?,
            (None, Value::Bool(false)) => return Err(format!("{key} is unknown")),
            (None, inner @ Value::Object(_)) => fits(entry, inner, root).map_err(|error| format!("{key}: {error}"))?,
            (None, _) => {}
        }
    }
    Ok(())
}

/// An editor takes `!include x.yaml` as the text `x.yaml`, and `<<` as a key; so docs/guide/first-experiment.md tells it to.
#[test]
fn the_schema_accepts_the_shipped_files_as_an_editor_reads_them() {
    let schema = config::schema();
    let mut includes = 0;
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        includes += text.matches("!include ").count();
        let plain = text.replace("!include ", "").replace("<<: ", "'<<': ");
        let tree: Value = serde_saphyr::from_str(&plain).unwrap();
        fits(&tree, &schema, &schema).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(includes > 30, "{includes}");
    let with = |train: Value| {
        let networks = json!({ "base": { "backbone": "lenet", "train": train } });
        json!({ "title": "x", "data": { "id": "mnist", "ood": ["svhn"] }, "networks": networks, "methods": [] })
    };
    let accepted = |train: Value| fits(&with(train), &schema, &schema).is_ok();
    assert!(accepted(json!("../configs/train/x.yaml")) && accepted(json!({ "<<": "../x.yaml", "epochs": 1 })));
    assert!(!accepted(json!({ "<<": "../x.yaml", "epoch": 1 })) && !accepted(json!("cosine")));
}

#[test]
fn the_schema_accepts_what_loads_and_refuses_what_does_not() {
    let schema = config::schema();
    for path in files() {
        let tree = serde_json::to_value(load::load(&path).unwrap().experiment).unwrap();
        fits(&tree, &schema, &schema).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let good = json!({
        "title": "x",
        "data": { "id": "mnist", "ood": ["svhn", { "name": "digits" }] },
        "networks": { "base": { "backbone": "lenet", "weights": "x.pth" } },
        "methods": [{ "name": "a", "network": "base", "detector": "energy" }],
    });
    fits(&good, &schema, &schema).unwrap();
    for (place, wrong) in [
        ("/title", json!(3)),
        ("/data/id", json!({ "nam": "mnist" })),
        ("/networks/base/backbone", json!("lenett")),
        ("/networks/base", json!({ "backbones": "lenet" })),
        ("/methods/0/detector", json!("energyy")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = wrong;
        assert!(fits(&bad, &schema, &schema).is_err(), "the schema accepts a wrong {place}");
    }
}

/// The properties in a schema, at any depth, that are numbers (or lists of numbers) without a range.
fn boundless(node: &Value, found: &mut BTreeSet<String>) {
    let is = |node: &Value, kind: &str| {
        node["type"] == kind || node["type"].as_array().is_some_and(|kinds| kinds.contains(&json!(kind)))
    };
    for (key, property) in node["properties"].as_object().into_iter().flatten() {
        let number = if is(property, "array") { &property["items"] } else { property };
        let bounded = number.get("minimum").is_some() && number.get("maximum").is_some();
        if (is(number, "integer") || is(number, "number")) && !bounded {
            found.insert(key.clone());
        }
    }
    match node {
        Value::Object(map) => map.values().for_each(|inner| boundless(inner, found)),
        Value::Array(entries) => entries.iter().for_each(|inner| boundless(inner, found)),
        _ => {}
    }
}

#[test]
fn every_number_has_a_range() {
    let mut found = BTreeSet::new();
    boundless(&config::schema(), &mut found);
    // Any seed will do. The ranges of `mean` and `std`, lists that may be absent, are checked but are not in the schema.
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["mean", "seed", "seeds", "std"]);
}

#[test]
fn one_argument_may_hold_several_overrides() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["plan", "quickstart", "--set=seeds=[3, 5] data.ood=[digits, textures_small] title='two words'"])
        .args(["--sweep", "networks.tuned.loss.sparsity.weight=[0, 0.5] networks.tuned.train.epochs=[1, 2]"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["seed 5", "against digits, textures_small\n", "weight=0.5,epochs=2"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

/// The front door gives the program what the user typed, whatever the shell and make would make of it.
#[test]
fn make_passes_values_as_they_are() {
    let make = |arguments: &[&str]| {
        let output = std::process::Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // Nothing is built; the program is one that prints its arguments.
            .args(["--no-print-directory", "--assume-old=build", "oodkit=printf '[%s]'"])
            .args(arguments)
            // Make's own, where a make runs the tests.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .expect("make is there");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let spaces = "data.ood=[digits, textures_small] title='two words' about=\"a \\ `b` $(c) $d; 'e\"";
    assert_eq!(
        make(&["plan", "exp=quickstart", &format!("set={}", spaces.replace('$', "$$"))]),
        (true, format!("[plan][quickstart][--set={}]", spaces.replace('$', "$$")))
    );
    assert_eq!(make(&["exp=x; y", "sweep=a=[1, 2]", "smoke=1"]).1, "[run][x; y][--sweep=a=[1, 2]][--smoke]");
    assert_eq!(make(&["table", "exp=x", "smoke=0"]), (true, "[table][x]".into()));
    assert_eq!(make(&["run", "exp=x", "smoke=yes"]), (false, String::new()));
    assert!(!make(&["plan"]).0, "no experiment was named");
}

#[test]
fn every_key_of_the_schema_is_described() {
    let schema = config::schema();
    let mut undescribed = Vec::new();
    let definitions = schema["$defs"].as_object().unwrap().iter().map(|(name, inner)| (name.as_str(), inner));
    for (name, definition) in definitions.chain([("Experiment", &schema)]) {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            if property.get("description").is_none() {
                undescribed.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(undescribed, Vec::<String>::new());
}

/// Networks that were trained before a key existed are found again by recipes without the key.
#[test]
fn recipes_keep_the_identity_they_had() {
    let hashes = |name: &str, texts: &[&str]| -> BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.yaml"));
        let mut loaded = load::load(&path).unwrap();
        loaded.experiment = with(&loaded.experiment, texts);
        let store = oodkit::run::store::Store::new("runs");
        let places = oodkit::run::plan::Places { data: None, weights: Path::new("weights"), store: &store };
        oodkit::run::plan::plan(&loaded, &places).unwrap().nodes.into_iter().map(|node| node.hash).collect()
    };
    let now = hashes("fashion_sparsity", &[]);
    let then = ["e2057db2a02c", "71f8eb83f72b", "f6d7990722cd", "88b4b0acdea6", "5e48f285f91e"];
    assert_eq!(now, then.map(str::to_owned).into());
    assert_eq!(hashes("fashion_sparsity", &["networks.base.head=linear", "networks.base.activation=relu"]), now);
    for other in ["activation=leaky_relu", "head=sngp", "spectral_norm={}"] {
        assert!(hashes("fashion_sparsity", &[&format!("networks.base.{other}")]).is_disjoint(&now), "{other}");
    }
    // Outliers are part of the networks that learn from them, and of no other.
    let (sparsity, margin) = (hashes("cifar10_sparsity", &[]), hashes("cifar10_energy_margin", &[]));
    assert_eq!((sparsity.len(), margin.len(), margin.intersection(&sparsity).count()), (3, 5, 3));
    let less = hashes("cifar10_energy_margin", &["data.outliers.train_limit=100"]);
    assert_eq!(less.intersection(&margin).collect::<BTreeSet<_>>(), sparsity.iter().collect());
    let noted = ["data.outliers.note=mine", "data.outliers.test_limit=9", "networks.margin.train.outlier_ratio=2"];
    assert_eq!(hashes("cifar10_energy_margin", &noted), margin);
    // What a younger key of the fusion network says by default changes nothing, nor does another way to write the same.
    let ablation = |texts: &[&str]| hashes("mvtec_ablation", &[&["data.categories=[screw]"], texts].concat());
    let fusion = ablation(&[]);
    let then = ["4584a55a31f7", "575082f636ec", "6ccbeead79ba", "7133cb96e000", "95909099609a"];
    assert_eq!(fusion, then.map(str::to_owned).into());
    let key = "networks.direct.model.fusion";
    assert_eq!(ablation(&[&format!("{key}.freeze=[stem, layer1]"), &format!("{key}.batch_norm=train")]), fusion);
    for other in ["model.fusion.freeze=stem", "model.fusion.batch_norm=frozen", "train.trunk_lr=0.001"] {
        let changed = ablation(&[&format!("networks.direct.{other}")]);
        assert_eq!((changed.len(), changed.intersection(&fusion).count()), (5, 4), "{other}");
    }
    let (frozen, statistics) = (format!("{key}.freeze=all"), format!("{key}.batch_norm=frozen"));
    assert_eq!(ablation(&[&frozen, &statistics]), ablation(&[&frozen]));
    let wider = hashes("cifar10_energy_margin", &["networks.margin.train.outlier_ratio=1"]);
    assert_eq!(wider.intersection(&margin).count(), 4);
}

#[test]
fn augment_may_be_a_list_and_the_pair_keeps_its_form() {
    use oodkit::data::augment::{Augment, Change, Spread};
    let read = |yaml: &str| serde_saphyr::from_str::<Augment>(yaml);
    let list = read("[horizontal_flip, { rotation: { degrees: 15 } }, { color_jitter: { hue: [-0.1, 0.2] } }, cutout]")
        .unwrap();
    let Augment::List(changes) = &list else { panic!("a list") };
    assert_eq!(changes.len(), 4);
    assert!(matches!(&changes[0], Change::HorizontalFlip(flip) if flip.p == 0.5));
    assert!(matches!(&changes[1], Change::Rotation(turn) if turn.degrees == Spread::About(15.0)));
    assert!(matches!(&changes[2], Change::ColorJitter(jitter) if jitter.hue == Spread::Between([-0.1, 0.2])));
    // What is recorded reads back.
    assert_eq!(serde_json::from_value::<Augment>(serde_json::to_value(&list).unwrap()).unwrap(), list);
    // The pair is recorded as ever, so that networks keep their identity.
    for (yaml, recorded) in [
        ("{ flip: true, crop_padding: 4 }", json!({ "flip": true, "crop_padding": 4 })),
        ("{}", json!({ "flip": false, "crop_padding": 0 })),
    ] {
        assert_eq!(serde_json::to_value(read(yaml).unwrap()).unwrap(), recorded);
    }
    assert_eq!(serde_json::to_value(Augment::default()).unwrap(), json!({ "flip": false, "crop_padding": 0 }));
    for (yaml, reason) in [
        ("[horizontal_flop]", "did you mean \"horizontal_flip\""),
        ("[rotation]", "needs settings"),
        ("{ flop: true }", "flop"),
        ("[{ cutout: { size: 3 } }]", "size"),
        ("[{ rotation: { degrees: [1, 2, 3] } }]", "two: [from, to]"),
        ("7", "a list of changes"),
    ] {
        let error = read(yaml).unwrap_err().to_string();
        assert!(error.contains(reason), "{yaml}: {error}");
    }
    use garde::Validate as _;
    for (yaml, reason) in [
        ("[{ rotation: { degrees: [20, 10] } }]", "the first is above the second"),
        ("[{ color_jitter: { hue: 0.6 } }]", "0.6 is not from 0 to 0.5"),
        ("[{ color_jitter: { brightness: [-1, 1] } }]", "not from 0 to 100"),
        ("[{ random_resized_crop: { scale: [0.5, 0.1] } }]", "the first is above the second"),
        ("[{ rand_augment: { magnitude: 31 } }]", "below `num_magnitude_bins`, 31"),
    ] {
        let error = read(yaml).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains(reason), "{yaml}: {error}");
    }
}
