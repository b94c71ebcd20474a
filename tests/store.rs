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

/// The scores of a detector that reads two networks are of both, and whatever these are called.
#[test]
fn scores_of_two_networks_are_of_both() {
    let (before, _) = EXPERIMENT.split_once("  plain:").unwrap();
    let again = "  again: { model: { autoencoder: { channels: 2, latent: 1, depth: 2 } }, loss: { reconstruction: {} }, train: *recipe }";
    let method = "{ name: Change, network: base, detector: { reconstruction_change: { maker: again } } }";
    let tables = "tables: [{ name: t, rows: method, columns: [auroc] }]";
    let text = format!("{before}{again}\nmethods: [{method}]\n{tables}\n");
    let place = Place::new();
    place.write(&text, "a");
    let plan = String::from_utf8(place.oodkit("plan", &[]).stdout).unwrap();
    assert!(plan.contains("\nreads    Change: base, and again as its maker\n"), "{plan}");
    assert!(plan.contains("2 networks, 2 to train"), "{plan}");

    let scores = || {
        let networks = place.networks().into_iter().map(|network| network.join("seed0/scores"));
        let folders = networks.filter(|folder| folder.exists()).flat_map(|folder| fs::read_dir(folder).unwrap());
        let mut records: Vec<_> = folders.map(|folder| folder.unwrap().path().join("record.json")).collect();
        records.sort_by_key(|record| fs::metadata(record).unwrap().modified().unwrap());
        records.into_iter().map(|record| fs::read_to_string(record).unwrap()).collect::<Vec<_>>()
    };
    place.run(&[]);
    let first = scores();
    assert_eq!(first.len(), 1);
    let record: serde_json::Value = serde_json::from_str(&first[0]).unwrap();
    assert_eq!(record["weights"].as_array().unwrap().len(), 2, "{record}");
    // The same again, also under another name.
    place.run(&[]);
    place.write(&text.replace("again", "maker_of_images"), "a");
    place.run(&[]);
    assert_eq!((scores(), place.networks().len()), (first.clone(), 2));
    // Another second network: other scores, beside the old ones.
    place.write(&text.replace("latent: 1", "latent: 2"), "a");
    place.run(&[]);
    let both = scores();
    assert_eq!((both.len(), &both[0], place.networks().len()), (2, &first[0], 3));
    let sha256 = |record: &String| serde_json::from_str::<serde_json::Value>(record).unwrap()["sha256"].clone();
    assert_ne!(sha256(&both[0]), sha256(&both[1]));

    // A sweep over the second network reaches the method.
    let table = place.oodkit("run", &["--set", "sweep={ networks.again.model.autoencoder.latent: [1, 2] }"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("Change (latent=1)") && table.contains("Change (latent=2)"), "{table}");
    assert_eq!((scores().len(), place.networks().len()), (2, 3));
}

/// The ordinary trainer, with all that a recipe of DDPM's has; pixels are in -1..1 whatever is given with the data.
#[test]
fn a_diffusion_model_trains_as_any_other_network() {
    let (before, _) = EXPERIMENT.split_once("  plain:").unwrap();
    let unet = "unet: { channels: 4, multipliers: [1, 2], blocks: 1, attention: [1], dropout: 0.1 }";
    let recipe = "train: { epochs: 1, batch_size: 16, optimizer: { adamw: { lr: 0.002 } }, warmup_epochs: 0.5, clip: { norm: 1 }, \
                  ema: { decay: 0.9 }, augment: { flip: true }, validation: 16, keep: best }";
    let ddpm = format!(
        "  ddpm: {{ model: {{ diffusion: {{ {unet}, unshuffle: 2, classes: true }} }}, loss: {{ denoising: {{}} }}, {recipe} }}"
    );
    let tuned = format!("  tuned: {{ from: ddpm, loss: {{ denoising: {{}} }}, {recipe} }}");
    let method = "methods: [{ name: MSP, network: base, detector: msp }]";
    let text = format!("{before}{ddpm}\n{tuned}\n{method}\n");
    let place = Place::new();
    place.write(&text, "a");
    place.run(&[]);
    let records = || {
        let folders = place.networks().into_iter().map(|network| network.join("seed0"));
        let read = |folder: PathBuf| fs::read_to_string(folder.join("network.json")).unwrap();
        let of_diffusion = |record: &serde_json::Value| record["normalisation"]["mean"] == serde_json::json!([0.5]);
        folders.map(|folder| serde_json::from_str(&read(folder)).unwrap()).filter(of_diffusion).collect::<Vec<_>>()
    };
    // Of `base`, mean and std are those given with the data, and no record of its own has them.
    assert_eq!(records().len(), 2);
    for record in records() {
        assert_eq!(record["normalisation"]["std"], serde_json::json!([0.5]));
        assert!(record["final_loss"].as_f64().unwrap() < 2.0, "{record}");
    }
    // Other statistics of the data make another `base`, and the same diffusion models.
    place.write(&text.replace("mean: [0.5]", "mean: [0.4]"), "a");
    let plan = String::from_utf8(place.oodkit("plan", &[]).stdout).unwrap();
    assert!(plan.contains("3 networks, 1 to train"), "{plan}");

    for (from, to, command, message) in [
        // The size of images of one's own is known when they are read.
        (
            "multipliers: [1, 2]",
            "multipliers: [1, 2, 2]",
            "run",
            "unet.multipliers: 3 levels halve rows and columns 2 times after",
        ),
        (
            "attention: [1]",
            "attention: [16]",
            "plan",
            "networks.ddpm.model.diffusion.unet.attention.0: there is no level 16",
        ),
        ("classes: true", "predicts: velocity", "plan", "networks.ddpm.model.diffusion.predicts: velocity is that of"),
        ("classes: true", "classes: true, steps: 1", "plan", "networks.ddpm.model.diffusion.steps"),
        ("loss: { denoising: {} }, train", "train", "plan", "write `loss: { denoising: {} }`"),
        (
            "ddpm: {",
            "ddpm: { data: { name: mnist, classes: ['3'] },",
            "plan",
            "networks.ddpm.model.diffusion.classes: the images are of one class",
        ),
        ("ddpm: {", "ddpm: { weights: no.safetensors, normalise: weights,", "plan", "brings pixels to -1..1"),
    ] {
        assert!(text.contains(from), "{from}");
        place.write(&text.replacen(from, to, 1), "a");
        let told = place.fails(2, command, &[]);
        assert!(told.contains(message), "{told}");
    }
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
    // Other images are other networks, though they lie where the old ones did.
    place.run(&["--set", "networks.tuned.loss.sparsity.weight=0.01"]);
    assert_eq!(place.networks().len(), 5);
}

#[test]
fn nothing_is_built_on_images_of_a_known_set_that_were_exchanged() {
    let place = Place::new();
    fs::rename(place.path("a"), place.path("fashion_mnist")).unwrap();
    let known = EXPERIMENT.replace("name: mine, format: idx, path: ID, mean: [0.5], std: [0.5]", "name: fashion_mnist");
    place.write(&known, "a");
    let data = place.path("").display().to_string();
    place.run(&["--data", &data]);
    place.other_images("fashion_mnist");
    let told = place.fails(2, "run", &["--data", &data, "--set", "networks.tuned.loss.sparsity.weight=0.01"]);
    assert!(told.contains("are not those that"), "{told}");
}

impl Place {
    /// Sets the time of change of a copy's files.
    fn date(&self, name: &str, time: std::time::SystemTime) {
        for entry in fs::read_dir(self.path(name)).unwrap() {
            fs::File::options().append(true).open(entry.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
    }

    /// What `plan` says of each network: `done`, `to do`.
    fn plan(&self) -> Vec<String> {
        let output = self.oodkit("plan", &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.trim_start().starts_with('#'));
        lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect()
    }
}

#[test]
fn the_same_data_elsewhere_are_the_same_network_and_so_are_data_that_are_gone() {
    let place = Place::new();
    let an_hour = std::time::Duration::from_secs(3600);
    place.date("a", std::time::SystemTime::now() - an_hour);
    place.write(EXPERIMENT, "a");
    place.run(&[]);
    let done = place.plan();
    assert!(done.iter().all(|line| line.starts_with("done ")), "{done:?}");

    fs::rename(place.path("a"), place.path("moved")).unwrap();
    // The digest was kept. Without it, the networks that learned from here could not be named.
    assert_eq!(place.plan(), done);
    place.write(EXPERIMENT, "moved");
    assert_eq!(place.plan(), done);
    place.write(EXPERIMENT, "b");
    assert!(place.plan().iter().all(|line| line.starts_with("to do ")));

    // A changed byte is seen: the kept digest is of files as they were.
    place.write(EXPERIMENT, "moved");
    let labels = place.path("moved/train-labels-idx1-ubyte.gz");
    let mut bytes = fs::read(&labels).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&labels, bytes).unwrap();
    assert!(place.plan().iter().all(|line| line.starts_with("to do ")));
}

#[test]
fn networks_that_were_known_by_the_path_of_their_data_are_found_while_these_do_not_change() {
    let place = Place::new();
    place.write(EXPERIMENT, "a");
    // Where the files are not there, the path is all that there is.
    fs::rename(place.path("a"), place.path("away")).unwrap();
    let by_path = place.plan();
    fs::rename(place.path("away"), place.path("a")).unwrap();
    place.run(&[]);

    // The first network as an earlier version kept it.
    let done = place.plan();
    let folder = |line: &str| place.path("runs").join(line.split_whitespace().last().unwrap());
    let (new, old) = (folder(&done[0]), folder(&by_path[0]));
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::rename(&new, &old).unwrap();
    let record = old.join("network.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("checksum");
    let data = json["identity"]["data"].as_object_mut().unwrap();
    assert!(data.remove("digest").is_some());
    data.insert("path".into(), place.path("a").display().to_string().into());
    fs::write(&record, json.to_string()).unwrap();

    let found = place.plan();
    assert!(found[0].starts_with("done ") && folder(&found[0]) == old, "{found:?}");
    assert_eq!(found[1..], done[1..]);
    assert!(!place.run(&[]).contains("step"), "nothing is trained");
    // What was changed since is not what it learned from.
    place.date("a", std::time::SystemTime::now() + std::time::Duration::from_secs(3600));
    assert!(place.plan()[0].starts_with("to do "));
}

#[test]
fn a_checkpoint_is_not_continued_on_images_that_were_exchanged() {
    let place = Place::new();
    fs::rename(place.path("a"), place.path("fashion_mnist")).unwrap();
    let known = EXPERIMENT.replace("name: mine, format: idx, path: ID, mean: [0.5], std: [0.5]", "name: fashion_mnist");
    place.write(&known.replace("epochs: 2", "epochs: 2000"), "a");
    let data = place.path("").display().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", &place.path("kept.yaml").display().to_string(), "--runs"])
        .arg(place.path("runs"))
        .args(["--data", &data, "--set", "networks.base.train.checkpoint.every_steps=1"])
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
    place.other_images("fashion_mnist");
    let told = place.fails(2, "run", &["--data", &data, "--set", "networks.base.train.checkpoint.every_steps=1"]);
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
    assert!(!place.path("runs/networks").exists());
}
