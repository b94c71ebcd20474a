//! Pictures of AFDU: what an experiment may ask for, what they show, and that they are the same however they came about.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use oodkit::{config::load, run::view::File};

const EXPERIMENT: &str = "\
title: Pictures
seeds: [3, 4]
data:
  id: { name: fashion_mnist_small, path: EMBEDDED/fashion_mnist_small, train_limit: 64, test_limit: 24 }
  ood: [{ name: digits, path: EMBEDDED/digits, test_limit: 24 }]
networks:
  base: { backbone: lenet, train: { epochs: 1, batch_size: 16, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: Energy, network: base, detector: energy }
  - { name: AFDU, network: base, detector: { afdu: { tap: pre, layers: [conv2, fc1], clusters: 16 } } }
figures:
  - factors: { method: AFDU, images: 5 }
  - neuron: { method: AFDU, layer: conv2, neuron: 100 }
  - neuron: { method: AFDU, layer: fc1 }
";

fn experiment() -> String {
    EXPERIMENT.replace("EMBEDDED", concat!(env!("CARGO_MANIFEST_DIR"), "/data/embedded"))
}

/// The experiment with a part replaced that it has once.
fn changed(from: &str, to: &str) -> String {
    let text = experiment();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

fn oodkit(command: &str, folder: &Path) -> Output {
    let [experiment, runs] = ["pictures.yaml", "runs"].map(|name| folder.join(name));
    let arguments = [command, experiment.to_str().unwrap(), "--runs", runs.to_str().unwrap()];
    Command::new(env!("CARGO_BIN_EXE_oodkit")).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

/// What it says while it works, and the figures that it writes.
fn run(folder: &Path) -> (String, Vec<PathBuf>) {
    let output = oodkit("run", folder);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let said = String::from_utf8(output.stdout).unwrap();
    (told, said.lines().skip_while(|line| *line != "files").skip(1).map(|line| line.trim().into()).collect())
}

fn refused(folder: &Path, command: &str) -> String {
    let output = oodkit(command, folder);
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

/// Every file that figures are drawn from.
fn views(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.join("runs/networks")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("factors-") || name.starts_with("neuron-") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_cannot_be_drawn_is_told_at_the_key() {
    let factors = "factors: { method: AFDU, images: 5 }";
    for (from, to, expected) in [
        (factors, "factors: { method: AFD }", "figures.0.factors.method: there is no method \"AFD\""),
        (factors, "factors: { method: Energy }", "shows what afdu fits, and the detector of \"Energy\" is energy"),
        (factors, "factors: { method: AFDU, images: 0 }", "figures.0.factors.images: must be at least 1"),
        (factors, "factors: { method: AFDU, layer: conv1 }", "there is no layer \"conv1\""),
        (factors, "factors: { layer: conv2 }", "lacks the key `method`"),
        ("tap: pre,", "granularity: channel,", "are channels (`granularity: channel`), which have no pixels"),
        ("neuron: 100", "neuron: -1", "neuron"),
        ("neuron: 100", "nuron: 100", "nuron"),
    ] {
        let error = load::parse(&changed(from, to), "here").unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn what_the_network_does_not_have_is_told_before_it_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let factors = "factors: { method: AFDU, images: 5 }";
    let layers = "layers: [conv2, fc1], clusters: 16";
    let fc1 = "  - neuron: { method: AFDU, layer: fc1 }\n";
    for (from, to, expected) in [
        (factors, "factors: { method: AFDU, layer: fc1 }", "figures.0: the layer fc1 has no feature maps; conv2"),
        (layers, "layers: [fc1, fc2]", "figures.0: none of the detector's layers has feature maps; it reads fc1, fc2"),
        (
            layers,
            "layers: [conv2, fc7]",
            "methods.1.detector.afdu.layers: the network has no layer \"fc7\" (did you mean",
        ),
        (layers, "clusters: 16", "figures.0: the detector reads no layer \"conv3\" (did you mean"),
        (
            "neuron: 100",
            "neuron: 1024",
            "figures.1: the layer conv2 has 1024 neurons, 0 to 1023: there is no neuron 1024",
        ),
    ] {
        let mut text = changed(from, to).replace(fc1, "");
        if to.contains("fc2") {
            text = text.replace(", layer: conv2", "");
        }
        if to == "clusters: 16" {
            text = text.replace(factors, "factors: { method: AFDU, layer: conv3 }");
        }
        fs::write(folder.path().join("pictures.yaml"), text).unwrap();
        let error = refused(folder.path(), "run");
        assert!(error.contains(expected), "{to}: {error}");
        assert!(!folder.path().join("runs/networks").exists(), "{to}: trained first");
    }
}

#[test]
fn layers_of_a_method_without_figures_are_looked_for_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let (head, _) = experiment().split_once("figures:").map(|(head, tail)| (head.to_owned(), tail.to_owned())).unwrap();
    fs::write(folder.path().join("pictures.yaml"), head.replace("[conv2, fc1]", "[convv1]")).unwrap();
    let expected = "pictures.yaml: methods.1.detector.afdu.layers: the network has no layer \"convv1\" (did you mean \
                    \"conv1\"?); it has conv1, conv2, fc1, fc2, fc3";
    for command in ["plan", "run"] {
        let error = refused(folder.path(), command);
        assert!(error.contains(expected), "{command}: {error}");
    }
    assert!(!folder.path().join("runs/networks").exists(), "trained first");
}

#[test]
fn memory_that_a_fit_cannot_do_with_is_told_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let (head, _) = experiment().split_once("figures:").map(|(head, tail)| (head.to_owned(), tail.to_owned())).unwrap();
    let with = |memory: usize| {
        let text = head.replace("layers: [conv2, fc1], ", "") + &format!("evaluation: {{ fit_memory: {memory} }}\n");
        fs::write(folder.path().join("pictures.yaml"), text).unwrap();
    };
    with(16);
    for command in ["plan", "run"] {
        let error = refused(folder.path(), command);
        let expected = "pictures.yaml: methods.1.detector.afdu: AFDU needs at least ";
        assert!(error.contains(expected) && error.contains("and may use 16 MiB"), "{command}: {error}");
        assert!(error.contains("hint: raise evaluation.fit_memory"), "{command}: {error}");
    }
    assert!(!folder.path().join("runs/networks").exists(), "trained first");
    with(64);
    assert!(oodkit("plan", folder.path()).status.success());
}

/// What results.json says of AFDU's fit with the first seed.
fn fit(folder: &Path) -> serde_json::Value {
    let experiment = fs::read_dir(folder.join("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let results = fs::read(experiment.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let tasks = results["cells"][0]["seeds"][0]["tasks"].as_object().unwrap();
    tasks.values().next().unwrap()["methods"]["AFDU"]["fit"].clone()
}

#[test]
fn pictures_are_the_same_from_a_fit_and_from_stored_scores() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("pictures.yaml"), experiment()).unwrap();
    let (told, files) = run(folder);
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let expected = ["factors_AFDU", "neuron_AFDU_conv2_100", "neuron_AFDU_fc1"];
    let expected: Vec<String> =
        expected.iter().flat_map(|name| ["svg", "png"].map(|extension| format!("{name}.{extension}"))).collect();
    assert_eq!(names, expected, "{told}");
    let first: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, bytes) in files.iter().zip(&first).filter(|(path, _)| path.extension().unwrap() == "png") {
        let picture = image::load_from_memory(bytes).unwrap().to_rgb8();
        let (width, height) = picture.dimensions();
        let edge = (0..width).flat_map(|x| [(x, 0), (x, height - 1)]);
        let edge = edge.chain((0..height).flat_map(|y| [(0, y), (width - 1, y)]));
        assert!(edge.into_iter().all(|(x, y)| picture.get_pixel(x, y).0 == [255; 3]), "{} is cut off", path.display());
    }
    let svg = |index: usize| String::from_utf8(first[index].clone()).unwrap();
    for text in ["AFDU: activations and anomaly factors of conv2", "seed 3", "fashion_mnist_small (ID)", "digits"] {
        assert!(svg(0).contains(text), "{text}");
    }
    // Five images a set: a line of four and a line of one, under four headings.
    assert_eq!(svg(0).matches("ln factors").count(), 4);
    for text in ["neuron 100 of conv2 (channel 1, row 4, column 4)", "activation before the non-linearity", "Gaussian"]
    {
        assert!(svg(2).contains(text), "{text}");
    }
    // Eight images of two sets, and two names in the legend.
    assert_eq!(svg(2).matches("<circle").count(), 18);
    assert!(svg(4).contains(" of fc1"));

    // What is drawn from: of the first seed only, and what it says it is.
    let stored = views(folder);
    assert_eq!(stored.len(), 3, "{stored:?}");
    let contents = |path: &PathBuf| fs::read(path).unwrap();
    let before: Vec<Vec<u8>> = stored.iter().map(contents).collect();
    let maps = File::read(stored[0].clone()).unwrap().maps(2).unwrap();
    for set in &maps {
        assert_eq!(set.pictures.dims(), [5, 1, 28, 28]);
        assert_eq!([set.activations.dims(), set.log_factors.dims()], [[5, 8, 8]; 2]);
    }
    let factors = |index: usize| maps[index].log_factors.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(factors(0) != factors(1) && [factors(0), factors(1)].concat().iter().any(|factor| *factor > 0.05));

    let met = fit(folder);
    assert_eq!([&met["neurons"], &met["images"]], [1144, 64], "{met}");

    // Drawn again from the same files.
    let (told, _) = run(folder);
    assert_eq!(fit(folder), met);
    assert!(!told.contains("epoch"), "{told}");
    assert!(oodkit("table", folder).status.success());
    assert!(files.iter().zip(&first).all(|(path, bytes)| &fs::read(path).unwrap() == bytes));

    // Without them: `table` says so, and `run` makes the same ones anew from the stored scores' network.
    for path in &stored {
        fs::remove_file(path).unwrap();
    }
    let error = refused(folder, "table");
    let name = stored[0].file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name) && error.contains("run the experiment again"), "{error}");
    let (told, _) = run(folder);
    assert!(!told.contains("epoch"), "{told}");
    assert_eq!(views(folder), stored);
    assert!(stored.iter().map(contents).eq(before));
    assert!(files.iter().zip(&first).all(|(path, bytes)| &fs::read(path).unwrap() == bytes));

    // A file that is damaged is named.
    fs::write(&stored[0], b"nonsense").unwrap();
    let error = refused(folder, "table");
    assert!(error.contains(name) && error.contains("does not hold what a figure shows"), "{error}");
    fs::copy(&stored[1], &stored[0]).unwrap();
    assert!(refused(folder, "table").contains("a map is missing or of another size"));
}
