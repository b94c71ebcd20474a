//! What is kept is used again only where it is the same thing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// LeNet for a few steps on two of the embedded sets.
const EXPERIMENT: &str = "\
title: Kept
data:
  id: { name: mine, format: idx, path: ID, mean: [0.5], std: [0.5], train_limit: 64, test_limit: 32 }
  ood: [{ name: digits, test_limit: 32 }]
networks:
  base:
    backbone: lenet
    train: &recipe { epochs: 2, batch_size: 16, optimizer: { sgd: { lr: 0.05 } } }
  plain: { from: base, train: *recipe }
  tuned: { from: base, train: *recipe, loss: { cross_entropy: {}, sparsity: { weight: 0 } } }
methods:
  - { name: EBD, network: base, detector: energy }
  - { name: Plain, network: plain, detector: energy }
  - { name: Sparsity, network: tuned, detector: energy }
tables: [{ name: t, rows: method, columns: [accuracy, auroc] }]
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Two copies of the same data, in `a` and, with other pixels, in `b`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/embedded/fashion_mnist_small");
        for name in ["a", "b"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            for entry in fs::read_dir(&embedded).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, folder.path().join(name).join(path.file_name().unwrap())).unwrap();
            }
        }
        let place = Self { folder };
        place.other_images("b");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a copy's train images by its test images' bytes and back: still a data set, but another one.
    fn other_images(&self, name: &str) {
        let (train, test) = (self.path(name).join("train-"), self.path(name).join("t10k-"));
        for kind in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
            let path = |stem: &Path| PathBuf::from(format!("{}{kind}", stem.display()));
            let (a, b) = (fs::read(path(&train)).unwrap(), fs::read(path(&test)).unwrap());
            fs::write(path(&train), b).unwrap();
            fs::write(path(&test), a).unwrap();
        }
    }

    fn write(&self, text: &str, id: &str) {
        fs::write(self.path("kept.yaml"), text.replace("ID", &self.path(id).display().to_string())).unwrap();
    }

    fn oodkit(&self, command: &str, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg(command)
            .arg(self.path("kept.yaml"))
            .arg("--runs")
            .arg(self.path("runs"))
            .args(more)
            .output()
            .unwrap()
    }

    /// Runs, and returns what was told on stderr.
    fn run(&self, more: &[&str]) -> String {
        let output = self.oodkit("run", more);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        told
    }

    /// Must fail with this exit code; returns what was told.
    fn fails(&self, code: i32, command: &str, more: &[&str]) -> String {
        let output = self.oodkit(command, more);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        told
    }

    /// The folders of networks, one for each recipe.
    fn networks(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> =
            fs::read_dir(self.path("runs/networks")).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }
}

#[test]
fn a_term_of_weight_zero_is_the_same_network_as_without_it() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    assert_eq!(place.networks().len(), 2, "base, and one for both plain and tuned");
    let told = place.run(&["--set", "networks.tuned.loss.sparsity.weight=0.01"]);
    assert!(!told.contains("base"), "the base network is shared: {told}");
    assert_eq!(place.networks().len(), 3);
}

#[test]
fn scores_that_are_used_again_say_what_made_them() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    let experiment = fs::read_dir(place.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let told_commit = || {
        let results = fs::read_to_string(experiment.join("results.json")).unwrap();
        let results: serde_json::Value = serde_json::from_str(&results).unwrap();
        results["environment"]["commit"].as_str().unwrap().to_owned()
    };
    let commit = told_commit();
    let detectors =
        place.networks().into_iter().flat_map(|network| fs::read_dir(network.join("seed0/scores")).unwrap());
    for detector in detectors {
        let path = detector.unwrap().path().join("record.json");
        let record = fs::read_to_string(&path).unwrap();
        assert!(record.contains(&commit), "{record}");
        // Edited, it is no more what its checksum says; without one, it is as an earlier version wrote it.
        let edited = record.replace(&commit, "an-earlier-one");
        let edited: Vec<&str> = edited.lines().filter(|line| !line.contains("\"checksum\"")).collect();
        fs::write(&path, edited.join("\n")).unwrap();
    }
    place.run(&[]);
    assert_eq!(told_commit(), "an-earlier-one");
}

#[test]
fn other_data_is_another_network() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    place.write(EXPERIMENT, "b");
    assert!(place.run(&[]).contains("base"), "what was learned from a is no network of b");
    assert_eq!(place.networks().len(), 4);
}

#[test]
fn nothing_is_built_on_images_that_were_exchanged() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    place.other_images("a");
    let told = place.fails(2, "run", &["--set", "networks.tuned.loss.sparsity.weight=0.01"]);
    assert!(told.contains("are not those that"), "{told}");
}

#[test]
fn a_checkpoint_is_not_continued_on_images_that_were_exchanged() {
    let place = Place::new();
    place.write(&EXPERIMENT.replace("epochs: 2", "epochs: 2000"), "a");
    let mut child = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", &place.path("kept.yaml").display().to_string(), "--runs"])
        .arg(place.path("runs"))
        .args(["--set", "networks.base.train.checkpoint.every_steps=1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let has_checkpoint = || {
        place.path("runs/networks").exists()
            && place.networks().iter().any(|path| path.join("seed0/checkpoint.safetensors").exists())
    };
    for _ in 0..600 {
        if has_checkpoint() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(has_checkpoint());
    place.other_images("a");
    let told = place.fails(2, "run", &["--set", "networks.base.train.checkpoint.every_steps=1"]);
    assert!(told.contains("was taken on other train images"), "{told}");
}

#[test]
fn a_network_that_diverged_is_not_kept() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    let lr = ["--set", "networks.base.train.optimizer.sgd.lr=1000", "--set", "networks.base.train.max_steps=3"];
    let told = place.fails(1, "run", &lr);
    assert!(told.contains("finite") || told.contains("the loss is"), "{told}");
    assert!(told.contains("hint: a lower optimizer.sgd.lr"), "{told}");
    for network in place.networks() {
        assert!(!network.join("seed0/network.json").exists());
    }
}

#[test]
fn a_table_is_of_the_experiment_as_it_stands() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    assert!(place.oodkit("table", &[]).status.success());
    // How it is presented may change.
    place.write(&EXPERIMENT.replace("columns: [accuracy, auroc]", "columns: [fpr95]"), "a");
    assert!(place.oodkit("table", &[]).status.success());
    place.write(&EXPERIMENT.replace("lr: 0.05", "lr: 0.01"), "a");
    let told = place.fails(2, "table", &[]);
    assert!(told.contains("was changed since"), "{told}");
}

#[test]
fn a_paper_that_is_not_there_is_told_before_any_work() {
    let place = Place::new();
    let table =
        "columns: [auroc], expect: { file: paper/none.csv, source: Nobody, row: method, columns: { auroc: auroc } }";
    place.write(&EXPERIMENT.replace("columns: [accuracy, auroc]", table), "a");
    let told = place.fails(2, "run", &[]);
    assert!(told.contains("paper/none.csv"), "{told}");
    assert!(!place.path("runs").exists());
}
