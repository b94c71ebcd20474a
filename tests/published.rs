//! Published weights in an experiment: which classes they have, new heads, what is found before any training, tags of the hub.

use std::{collections::BTreeMap, fs, path::Path};

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use oodkit::nn::{self, Architecture, Backbone, Shape, params::Params, weights};

const SHAPE: Shape = Shape { channels: 1, height: 16, width: 16, classes: 3 };

/// A folder with images of two classes in both splits, an OOD set, and LeNet's weights of three classes.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self { folder: tempfile::tempdir().unwrap() };
        for split in ["train", "test"] {
            let mut list = String::new();
            for class in 0..2_u8 {
                for index in 0..4_u8 {
                    let path = format!("{split}/{class}/{index}.png");
                    case.image(&format!("data/mine/{path}"), 40 + 100 * class + 7 * index);
                    list += &format!("{path} {class}\n");
                }
            }
            fs::write(case.path(&format!("data/{split}.txt")), list).unwrap();
        }
        for index in 0..4 {
            case.image(&format!("data/other/{index}.png"), 250 - index);
        }
        case.weights("three.safetensors", SHAPE, |_| {});
        case
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn image(&self, name: &str, grey: u8) {
        GrayImage::from_fn(16, 16, |x, _| Luma([grey.wrapping_add(x as u8)])).save(self.path(name)).unwrap();
    }

    fn weights(&self, name: &str, shape: Shape, change: impl Fn(&mut BTreeMap<String, Tensor>)) {
        self.weights_of("lenet", name, shape, change);
    }

    fn weights_of(&self, backbone: &str, name: &str, shape: Shape, change: impl Fn(&mut BTreeMap<String, Tensor>)) {
        let params = Params::new(5, &Device::Cpu);
        let architecture: Architecture = Backbone::by_name(backbone).unwrap().into();
        nn::build(&architecture, shape, params.builder()).unwrap();
        let mut tensors = params.all().unwrap();
        change(&mut tensors);
        weights::write(&self.path(name), &tensors, &BTreeMap::new()).unwrap();
    }

    /// Exit code and what was said, for networks of these YAML lines.
    fn run(&self, id: &str, networks: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
        let networks: Vec<_> =
            networks.iter().map(|(name, network)| (*name, format!("backbone: lenet, {network}"), "msp")).collect();
        self.run_methods(&format!("{id}, mean: [0.5], std: [0.5]"), &networks, arguments)
    }

    /// The same for networks that say their backbone, each with the detector that reads it.
    fn run_methods(&self, id: &str, networks: &[(&str, String, &str)], arguments: &[&str]) -> (i32, String) {
        let mut text = format!(
            "title: Published weights\ndata:\n  id: {{ name: mine, {id} }}\n  ood: [{{ name: other, format: folder \
             }}]\nnetworks:\n"
        );
        let mut methods = String::from("methods:\n");
        for (name, network, detector) in networks {
            text += &format!("  {name}: {{ {network} }}\n");
            methods += &format!("  - {{ name: {name}, network: {name}, detector: {detector} }}\n");
        }
        fs::write(self.path("case.yaml"), text + &methods).unwrap();
        let output = self.oodkit("run").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// The program, to do something with the last experiment.
    fn oodkit(&self, what: &str) -> Command {
        self.program(&[what, "case.yaml"])
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let folder = self.folder.path();
        let mut command = Command::cargo_bin("oodkit").unwrap();
        command.current_dir(folder).args(arguments).env("NO_COLOR", "1");
        command.env("OODKIT_DATA", folder.join("data")).env("OODKIT_RUNS", folder.join("runs"));
        command
    }

    /// `network.json` of the only network.
    fn record(&self) -> serde_json::Value {
        let records = self.records();
        assert_eq!(records.len(), 1);
        records[0].clone()
    }

    fn records(&self) -> Vec<serde_json::Value> {
        let networks = self.folder.path().join("runs/networks");
        let Ok(entries) = fs::read_dir(networks) else { return Vec::new() };
        let files = entries.map(|entry| entry.unwrap().path().join("seed0/network.json"));
        files.filter_map(|path| Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())).collect()
    }
}

const LIST: &str = "format: image_list, path: mine, list: '{split}.txt'";
const FOLDERS: &str = "format: class_folders";
const TRAIN: &str = "train: { epochs: 1, batch_size: 4, optimizer: { sgd: { lr: 0.01 } } }";

#[test]
fn classes_of_weights_that_are_used_as_they_are_are_those_of_their_head() {
    let case = Case::new();
    let (code, said) = case.run(LIST, &[("base", "weights: three.safetensors")], &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(case.record()["shape"], serde_json::json!([1, 16, 16, 3]));
    // Labels say which class is meant; folders are counted, and two of them could be any two of three.
    let (code, said) = case.run(FOLDERS, &[("base", "weights: three.safetensors")], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("the head of the weights three.safetensors has 3 classes where \"mine\" has 2"), "{said}");
    fs::write(case.path("data/test.txt"), "test/0/0.png 0\ntest/1/0.png 3\n").unwrap();
    let (code, said) = case.run(LIST, &[("base", "weights: three.safetensors")], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("has label 3, and the networks know the classes 0 to 2"), "{said}");
}

#[test]
fn weights_serve_a_set_of_one_class_whatever_their_head_and_normalise_by_their_own_statistics() {
    let case = Case::new();
    for split in ["train", "test"] {
        fs::rename(case.path(&format!("data/mine/{split}/0")), case.path(&format!("data/mine/{split}/good"))).unwrap();
        fs::remove_dir_all(case.path(&format!("data/mine/{split}/1"))).unwrap();
    }
    let five = Shape { channels: 3, classes: 5, ..SHAPE };
    case.weights_of("resnet20", "five.safetensors", five, |_| {});
    let backbone = "backbone: resnet20, weights: five.safetensors";
    let networks = [("own", format!("{backbone}, normalise: weights"), "{ knn: { k: 1 } }")];
    // The OOD scores, and the folder of the network, by what the images are normalised by.
    let run = |id: &str, network: &str| {
        let _ = fs::remove_dir_all(case.path("runs"));
        let (code, said) = case.run_methods(id, &[("own", network.to_owned(), "{ knn: { k: 1 } }")], &[]);
        assert_eq!(code, 0, "{said}");
        let experiment = fs::read_dir(case.path("runs/experiments/")).unwrap().next().unwrap().unwrap().path();
        let results = fs::read(experiment.join("results.json")).unwrap();
        let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
        let task = &results["cells"][0]["seeds"][0]["tasks"]["mine"];
        // In one class there is nothing to be right about.
        assert_eq!(task["networks"]["own"]["measures"], serde_json::json!({}));
        let scores = case.path(&format!("runs/{}", task["methods"]["own"]["scores"]["other"].as_str().unwrap()));
        (fs::read(scores).unwrap(), task["networks"]["own"]["folder"].as_str().unwrap().to_owned())
    };
    let (own, folder) = run("format: class_folders, channels: 3", &networks[0].1);
    assert_eq!(case.record()["shape"], serde_json::json!([3, 16, 16, 5]));
    case.program(&["export", "--experiment", "case.yaml", "--network", "own", "--out", "model"]).assert().success();
    let model: serde_json::Value = serde_json::from_slice(&fs::read(case.path("model/model.json")).unwrap()).unwrap();
    assert_eq!(model["input"]["mean"], serde_json::json!([0.485_f32, 0.456_f32, 0.406_f32]));
    let predict = ["predict", "--experiment", "case.yaml", "--method", "own", "--input", "data/other"];
    let predicted = String::from_utf8(case.program(&predict).assert().success().get_output().stdout.clone()).unwrap();
    // An image a line, under the names of the columns; the first score is that of the run, after 80 bytes of header.
    assert_eq!(predicted.lines().count(), 5, "{predicted}");
    let first = f32::from_le_bytes(own[own.len() - 16..own.len() - 12].try_into().unwrap());
    assert!(predicted.lines().nth(1).unwrap().contains(&f64::from(first).to_string()), "{first} in {predicted}");
    // ImageNet's given with the data are the same network; others are not.
    let given = "format: class_folders, channels: 3, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]";
    assert_eq!(run(given, backbone), (own.clone(), folder.clone()));
    let (other, other_folder) = run("format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]", backbone);
    assert_ne!(other, own);
    assert_ne!(other_folder, folder);
    // What the data say is not asked.
    let (again, _) = run("format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]", &networks[0].1);
    assert_eq!(again, own);
}

#[test]
fn what_weights_cannot_normalise_is_refused() {
    let case = Case::new();
    let refused = |id: &str, network: &str, why: &str| {
        let (code, said) = case.run_methods(id, &[("own", network.to_owned(), "msp")], &[]);
        assert_eq!(code, 2);
        assert!(said.contains(why), "{said}");
    };
    let weights = "weights: three.safetensors, normalise: weights";
    refused(FOLDERS, &format!("backbone: lenet, {weights}"), "knows no mean and std of this backbone's weights");
    refused(FOLDERS, &format!("backbone: resnet20, normalise: weights, {TRAIN}"), "and this network starts untrained");
    let grey = "format: class_folders, channels: 1";
    refused(grey, &format!("backbone: resnet20, {weights}"), "those of \"mine\" are grey: write `channels: 3` there");
    refused(
        FOLDERS,
        "backbone: resnet20, weights: three.safetensors",
        "write `normalise: weights`, or give them with \"mine\"",
    );
}

#[test]
fn a_head_of_other_classes_is_left_out_when_asked_for() {
    let case = Case::new();
    let (code, said) = case.run(LIST, &[("base", &format!("weights: three.safetensors, {TRAIN}"))], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("its head has 3 classes where the data have 2"), "{said}");
    assert!(said.contains("hint: `weights: { file: …, head: new }`"), "{said}");
    assert_eq!(case.records().len(), 0);

    let new = "weights: { file: three.safetensors, head: new }";
    let (code, said) = case.run(LIST, &[("base", &format!("{new}, {TRAIN}"))], &[]);
    assert_eq!(code, 0, "{said}");
    let note = "the head of 3 classes is left out; a new one for 2 is to be learned";
    assert!(said.contains(&format!("base: weights three.safetensors: {note}")), "{said}");
    let record = case.record();
    assert_eq!(record["shape"], serde_json::json!([1, 16, 16, 2]));
    assert_eq!(record["weights"]["notes"], serde_json::json!([note]));
    assert_eq!(record["weights"]["source"], "three.safetensors");
    assert_eq!(record["weights"]["sha256"], record["identity"]["weights"]["sha256"]);
    assert_eq!(record["weights"]["sha256"].as_str().unwrap().len(), 64);

    let (code, said) = case.run(LIST, &[("base", new)], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("a new head knows nothing: give train (a recipe) to learn it"), "{said}");
}

#[test]
fn weights_that_do_not_fit_are_found_before_any_training() {
    let case = Case::new();
    let two = Shape { classes: 2, ..SHAPE };
    case.weights("large.safetensors", Shape { height: 20, ..two }, |_| {});
    case.weights("nan.safetensors", two, |tensors| {
        tensors.insert("fc2.weight".into(), (tensors["fc2.weight"].clone() * f64::NAN).unwrap());
    });
    for (file, reason) in [
        (
            "large.safetensors",
            "the weights large.safetensors do not fit the network: it is for images of another size than 16×16",
        ),
        ("nan.safetensors", "cannot use the weights nan.safetensors: tensor fc2.weight holds NaN (element 0 of 10080)"),
    ] {
        let networks = [("first", TRAIN), ("second", &format!("weights: {file}, {TRAIN}"))];
        let (code, said) = case.run(LIST, &networks, &[]);
        assert_eq!(code, 2);
        assert!(said.contains(reason), "{said}");
        assert!(!said.contains("step"), "{said}");
        assert_eq!(case.records().len(), 0);
    }
}

#[test]
fn weights_of_the_hub_are_read_where_they_are_kept() {
    let case = Case::new();
    let network = ("base", "weights: hub:timm/lenet.mine");
    let (code, said) = case.run(LIST, &[network], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("data/weights/timm/lenet.mine/main/model.safetensors: No such file"), "{said}");
    assert!(said.contains("hint: oodkit data hub:timm/lenet.mine fetches them"), "{said}");
    fs::copy(case.path("three.safetensors"), case.path("data/weights/timm/lenet.mine/main/model.safetensors")).unwrap();
    let (code, said) = case.run(LIST, &[network], &[]);
    assert_eq!(code, 0, "{said}");
    let record = case.record();
    assert_eq!(record["weights"]["source"], "hub:timm/lenet.mine");
    assert_eq!(record["weights"]["sha256"], record["identity"]["weights"]);
    // A plan is made without them, and says so.
    let (code, said) = case.run(LIST, &[("base", "weights: hub:timm/none")], &["--smoke"]);
    assert_eq!(code, 0, "{said}");
    let plan = case.oodkit("plan").output().unwrap();
    let text = String::from_utf8(plan.stdout).unwrap();
    assert!(text.contains("missing  cannot read the weights") && text.contains("oodkit data hub:timm/none"), "{text}");
    for tag in ["hub:timm", "hub:../x", "hub:a/b/../../c", "hub:a/b@", "hub:a/.b"] {
        let (code, said) = case.run(LIST, &[("base", &format!("weights: \"{tag}\""))], &[]);
        assert_eq!(code, 2, "{tag}");
        assert!(said.contains("`hub:owner/name`, with `@revision` or `/file` after it"), "{tag}: {said}");
    }
}

#[test]
fn a_smoke_run_does_without_weights_that_are_not_there() {
    let case = Case::new();
    let networks = [("used", "weights: nowhere.pth"), ("tuned", &format!("weights: hub:timm/none, {TRAIN}"))];
    let (code, said) = case.run(FOLDERS, &networks, &["--smoke"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("networks.used: nowhere.pth is not there; this smoke run does without"), "{said}");
    assert!(said.contains("networks.tuned: hub:timm/none is not there; this smoke run does without"), "{said}");
    let (code, said) = case.run(FOLDERS, &networks, &[]);
    assert_eq!(code, 2);
    assert!(said.contains("cannot read the weights"), "{said}");
}

#[test]
fn fifos_are_refused_and_not_waited_for() {
    if !cfg!(unix) {
        return;
    }
    let case = Case::new();
    let fifo = case.path("fifo.pth");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (code, said) = case.run(LIST, &[("base", "weights: fifo.pth")], &[]);
    assert_eq!(code, 2);
    assert!(said.contains("cannot read the weights fifo.pth: not a regular file"), "{said}");
    assert!(Path::new(&fifo).exists());
}
