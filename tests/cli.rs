//! The command line as a user meets it: help, exit codes, and what it says to bad data, weights and arguments.

use std::{fs, path::Path};

use assert_cmd::Command;

/// The program, started in the repository's root.
fn oodkit() -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1");
    command
}

/// LeNet on digits of `FORMAT`, from `WEIGHTS`; every file of it is made by the test.
const EXPERIMENT: &str = "\
title: Bad files
data:
  id: { name: ID, format: FORMAT, mean: [0.5], std: [0.5] }
  ood: [digits]
networks:
  base:
    backbone: lenet
    WEIGHTS
    train: { epochs: 1, batch_size: 8, max_steps: 1, optimizer: { sgd: { lr: 0.1 } } }
methods: [{ name: MSP, network: base, detector: msp }]
tables: [{ name: t, rows: method, columns: [auroc] }]
";

struct Cases {
    folder: tempfile::TempDir,
    text: String,
    count: usize,
}

impl Cases {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/embedded/digits");
        fs::create_dir_all(folder.path().join("data/embedded/digits")).unwrap();
        for entry in fs::read_dir(digits).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join("data/embedded/digits").join(path.file_name().unwrap())).unwrap();
        }
        Self { folder, text: String::new(), count: 0 }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Runs the program; it must end with 2 and say something to stderr only.
    fn add(&mut self, name: &str, arguments: &[&str]) {
        let output = oodkit().args(arguments).env("OODKIT_RUNS", self.path("runs")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(output.stdout.is_empty(), "{name} printed to stdout");
        assert!(!said.contains("panicked"), "{name}: {said}");
        let said = said.replace(&self.folder.path().display().to_string(), "DIR");
        self.count += 1;
        self.text.push_str(&format!("## {name}\n{}\n\n", said.trim_end()));
    }

    /// Runs the experiment with ID data of `format` made by `write` in the set's folder.
    fn data(&mut self, name: &str, format: &str, write: impl Fn(&Path)) {
        let id = format!("set{}", self.count);
        write(self.path(&format!("data/{id}/x")).parent().unwrap());
        let text = EXPERIMENT.replace("name: ID", &format!("name: {id}")).replace("FORMAT", format);
        self.run(name, &text.replace("    WEIGHTS\n", ""));
    }

    /// Runs the experiment on good data from a weights file of these bytes.
    fn weights(&mut self, name: &str, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        fs::write(&path, bytes).unwrap();
        let text = EXPERIMENT
            .replace("{ name: ID, format: FORMAT, mean: [0.5], std: [0.5] }", "fashion_mnist_small")
            .replace("WEIGHTS", &format!("weights: {}", path.display()));
        self.run_on(name, &text, "data");
    }

    fn run(&mut self, name: &str, text: &str) {
        let data = self.path("data").display().to_string();
        self.run_on(name, text, &data);
    }

    fn run_on(&mut self, name: &str, text: &str, data: &str) {
        let path = self.path("bad.yaml");
        fs::write(&path, text).unwrap();
        self.add(name, &["run", &path.display().to_string(), "--data", data]);
    }
}

/// An IDX header: u8 data of these sizes.
fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn idx_files(folder: &Path, images: &[u8], labels: &[u8]) {
    for split in ["train", "t10k"] {
        fs::write(folder.join(format!("{split}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[test]
fn bad_data_files() {
    let mut cases = Cases::new();
    let good = idx(&[2, 28, 28], &[7; 2 * 784]);
    cases.data("no files", "idx", |_| {});
    cases.data("a truncated header", "idx", |folder| idx_files(folder, &good[..9], &idx(&[2], &[0, 1])));
    cases.data("truncated pixels", "idx", |folder| idx_files(folder, &good[..900], &idx(&[2], &[0, 1])));
    cases.data("a header that claims 10^12 pixels", "idx", |folder| {
        idx_files(folder, &idx(&[1_000_000, 1000, 1000], &[0; 10]), &idx(&[2], &[0, 1]));
    });
    cases.data("another magic number", "idx", |folder| idx_files(folder, b"not an idx file at all", &idx(&[2], &[0])));
    cases.data("fewer labels than images", "idx", |folder| idx_files(folder, &good, &idx(&[1], &[0])));
    cases.data("bytes after the last image", "idx", |folder| {
        idx_files(folder, &[good.clone(), vec![0; 3]].concat(), &idx(&[2], &[0, 1]));
    });
    cases.data("broken gzip", "idx", |folder| {
        for split in ["train", "t10k"] {
            fs::write(folder.join(format!("{split}-images-idx3-ubyte.gz")), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
            fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), idx(&[2], &[0, 1])).unwrap();
        }
    });
    cases.data("images too small for the network", "idx", |folder| {
        idx_files(folder, &idx(&[2, 4, 4], &[7; 32]), &idx(&[2], &[0, 1]));
    });
    cases.data("a cut CIFAR record", "cifar10", |folder| {
        for name in ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
        {
            fs::write(folder.join(name), [0; 3000]).unwrap();
        }
        fs::write(folder.join("test_batch.bin"), [0; 3000]).unwrap();
    });
    cases.data("a MATLAB file that is none", "svhn", |folder| {
        fs::write(folder.join("train_32x32.mat"), "hello").unwrap();
        fs::write(folder.join("test_32x32.mat"), "hello").unwrap();
    });
    cases.data("a bad line of a CSV", "fer2013", |folder| {
        fs::write(folder.join("fer2013.csv"), "emotion,pixels,Usage\n3,1 2 x,Training\n").unwrap();
    });
    cases.data("a picture that is none", "class_folders", |folder| {
        for class in ["train/a", "train/b", "test/a", "test/b"] {
            fs::create_dir_all(folder.join(class)).unwrap();
            fs::write(folder.join(class).join("0.png"), "not a picture").unwrap();
        }
    });
    cases.data("an empty store", "idx", |folder| {
        for split in ["train", "test"] {
            fs::write(folder.join(format!("{split}.safetensors")), "").unwrap();
        }
    });
    insta::assert_snapshot!(cases.text);
}

#[test]
fn bad_weights() {
    let mut cases = Cases::new();
    cases.weights("an empty file", "empty.safetensors", b"");
    cases.weights("text", "text.safetensors", b"these are no weights at all");
    cases.weights("a header length of 2^63", "long.safetensors", &[0, 0, 0, 0, 0, 0, 0, 0x80, b'{']);
    cases.weights("an extension that says nothing", "weights.bin", b"x");
    cases.weights("text called .pth", "text.pth", b"these are no weights at all");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let legacy = fs::read(golden.join("weights_legacy.pth")).unwrap();
    cases.weights("the old format of torch.save", "legacy.pth", &legacy);
    let plain = fs::read(golden.join("weights_plain.pth")).unwrap();
    cases.weights("weights of another network", "plain.pth", &plain);
    cases.weights("half an archive", "half.pth", &plain[..plain.len() / 2]);
    let text = EXPERIMENT
        .replace("{ name: ID, format: FORMAT, mean: [0.5], std: [0.5] }", "fashion_mnist_small")
        .replace("WEIGHTS", "weights: nowhere.safetensors");
    cases.run_on("a file that is not there", &text, "data");
    insta::assert_snapshot!(cases.text);
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_needs_a_program_built_for_it() {
    let output = oodkit().args(["run", "quickstart", "--device", "cuda:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("device cuda:1: this oodkit was built without CUDA\n\nhint: make build-cuda"), "{said}");
}

#[test]
fn bad_command_lines() {
    let mut cases = Cases::new();
    cases.add("no such experiment, but one like it", &["run", "quikstart"]);
    cases.add("no such experiment", &["plan", "xyzzy"]);
    cases.add("no such file", &["run", "experiments/nothing.yaml"]);
    cases.add("no experiments folder", &["run", "quickstart", "--experiments", "nowhere"]);
    cases.add("no such command", &["runn", "quickstart"]);
    cases.add("no such device", &["run", "quickstart", "--device", "gpu"]);
    let bf16 = "networks.tuned.train.precision=bf16 networks.base.train.precision=bf16";
    cases.add("bf16 on the CPU", &["run", "quickstart", "--device", "cpu", "--set", bf16]);
    cases.add("no such precision", &["plan", "quickstart", "--set", "networks.base.train.precision=f16"]);
    cases.add("no such option", &["run", "quickstart", "--smok"]);
    cases.add("an override of no key", &["plan", "quickstart", "--set", "networks.tuned.loss.sparsty.weight=1"]);
    cases.add("an override of another type", &["plan", "quickstart", "--set", "seeds=many"]);
    cases.add("an override without a value", &["plan", "quickstart", "--set", "seeds"]);
    cases.add("a sweep that is no list", &["plan", "quickstart", "--sweep", "networks.tuned.loss.sparsity.weight=1"]);
    cases.add("a sweep of no key", &["plan", "quickstart", "--sweep", "netwroks.tuned.loss.sparsity.weight=[1]"]);
    cases.add("a table before there are results", &["table", "quickstart"]);
    cases.add("data that are not there", &["run", "cifar10_sparsity_cpu", "--data", "nowhere"]);
    let good = cases.path("good.csv");
    fs::write(&good, "score\n0.5\n0.25\n").unwrap();
    let good = good.display().to_string();
    let files: [(&str, &str, &[u8]); 8] = [
        ("no scores", "empty.csv", b""),
        ("a header and no scores", "header.csv", b"score\n"),
        ("a NaN", "nan.csv", b"0.5\nnan\n"),
        ("an infinity", "inf.csv", b"0.5\n1.0\ninf\n"),
        ("a word", "word.csv", b"0.5\nhello\n"),
        ("no numpy file", "text.npy", b"hello"),
        ("a numpy header that claims 10^15 numbers", "long.npy", b"\x93NUMPY\x01\x00\x50\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }         \n"),
        ("scores of another kind of file", "scores.txt", b"0.5\n"),
    ];
    for (name, file, bytes) in files {
        let path = cases.path(file);
        fs::write(&path, bytes).unwrap();
        cases.add(name, &["metrics", "--id", &good, "--ood", &path.display().to_string()]);
    }
    cases.add("scores that are not there", &["metrics", "--id", &good, "--ood", "nowhere.npy"]);
    cases.add("one set of scores only", &["metrics", "--id", &good]);
    cases.add("a set the hub does not have", &["data", "textures"]);
    insta::assert_snapshot!(cases.text);
}

#[test]
fn damaged_records_and_checkpoints() {
    let mut cases = Cases::new();
    let runs = cases.path("runs");
    let run = |arguments: &[&str]| {
        oodkit().args(["run", "quickstart", "--smoke"]).args(arguments).env("OODKIT_RUNS", &runs).output().unwrap()
    };
    assert!(run(&[]).status.success());
    let smoke = runs.join("smoke");
    let network = fs::read_dir(smoke.join("networks")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let seed = network.join("seed0");
    let damage = |cases: &mut Cases, name: &str, path: &Path, bytes: &[u8]| {
        let whole = fs::read(path).unwrap_or_default();
        fs::write(path, bytes).unwrap();
        cases.add(name, &["run", "quickstart", "--smoke"]);
        if whole.is_empty() { fs::remove_file(path).unwrap() } else { fs::write(path, whole).unwrap() }
    };
    damage(&mut cases, "a record that is cut", &seed.join("network.json"), b"{\"schema\": 1");
    damage(&mut cases, "a record that is empty", &seed.join("network.json"), b"");
    damage(&mut cases, "weights that are cut", &seed.join("model.safetensors"), b"\x10\0\0\0\0\0\0\0{}");
    let outputs = seed.join("outputs/v2-batch16");
    let outputs = fs::read_dir(outputs).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    fs::write(&outputs, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let mended = run(&[]);
    let told = String::from_utf8(mended.stderr).unwrap();
    assert!(mended.status.success() && told.contains("is made again: logits or features are missing"), "{told}");
    let record = fs::read(seed.join("network.json")).unwrap();
    fs::remove_file(seed.join("network.json")).unwrap();
    damage(&mut cases, "a checkpoint that is none", &seed.join("checkpoint.safetensors"), b"\x02\0\0\0\0\0\0\0{}");
    fs::write(seed.join("network.json"), record).unwrap();
    let results = smoke.join("experiments/quickstart/results.json");
    fs::write(&results, "{}").unwrap();
    cases.add("results that are none", &["table", "quickstart", "--smoke"]);
    insta::assert_snapshot!(cases.text);

    // Nothing was lost: put right, the same command goes on.
    assert!(run(&[]).status.success());
}

#[test]
fn help_names_every_command() {
    let output = oodkit().arg("--help").output().unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn metrics_of_anybodys_scores() {
    let folder = tempfile::tempdir().unwrap();
    let (id, ood) = (folder.path().join("id.csv"), folder.path().join("ood.csv"));
    fs::write(&id, "0.1\n0.2\n0.3\n0.4\n").unwrap();
    fs::write(&ood, "0.35\n0.5\n").unwrap();
    let output = oodkit().args(["metrics", "--json", "--id"]).arg(&id).arg("--ood").arg(&ood).output().unwrap();
    assert!(output.status.success());
    let numbers: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Seven of the eight pairs are in order.
    assert_eq!(numbers["auroc"], 0.875);
    assert_eq!(numbers["n_id"], 4);
}

#[test]
fn the_schema_is_json() {
    let output = oodkit().arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["networks"].is_object());
}

#[test]
fn sets_in_other_folders_are_listed_and_hints_name_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("my data");
    fs::create_dir_all(data.join("MNIST-idx")).unwrap();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/embedded/digits");
    for entry in fs::read_dir(digits).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, data.join("MNIST-idx").join(path.file_name().unwrap())).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output =
            oodkit().args(arguments).env("OODKIT_DATA", &data).env("OODKIT_RUNS", folder.path()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (listed, _) = run(&["list"]);
    let line = |name: &str| listed.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    assert!(
        line("mnist ").contains(" here ")
            && line("mnist ").ends_with("(in MNIST-idx: write { name: mnist, path: MNIST-idx })"),
        "{listed}"
    );
    assert!(line("cifar10 ").contains(" - "), "{listed}");
    let (planned, _) = run(&["plan", "cifar10_sparsity"]);
    let shown = data.display();
    assert!(planned.contains(&format!("OODKIT_DATA={shown} make data set=cifar10")), "{planned}");
    assert!(planned.contains(&format!("into {shown}/textures")) && !planned.contains("into data/"), "{planned}");
}

#[test]
fn an_experiment_with_a_name_too_long_for_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{}.yaml", "e".repeat(240)));
    let text = EXPERIMENT
        .replace("{ name: ID, format: FORMAT, mean: [0.5], std: [0.5] }", "fashion_mnist_small")
        .replace("    WEIGHTS\n", "");
    fs::write(&file, text).unwrap();
    let output = oodkit().arg("plan").arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the experiment's name has 249 bytes: folders with at most 200 are made"), "{said}");
}

#[test]
fn a_plan_states_what_fits_hold_that_take_memory_by_the_images_size() {
    let folder = tempfile::tempdir().unwrap();
    let text = "title: Maps
data: { id: { name: fashion_mnist, train_limit: 1000 }, ood: [mnist] }
networks: { base: { backbone: resnet18_32x32, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.1 } } } } }
methods:
  - { name: PaDiM, network: base, detector: padim }
  - { name: PatchCore, network: base, detector: patchcore }
";
    let file = folder.path().join("maps.yaml");
    fs::write(&file, text).unwrap();
    let plan = |set: &str| oodkit().current_dir(&folder).arg("plan").arg(&file).args(["--set", set]).output().unwrap();
    let output = plan("seeds=[0]");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // 28 × 28 positions of 100 · 105 / 2 numbers; 100,000 of 196,000 patches of 4 · (384 + 128) + 16 bytes, and a quarter more.
    assert!(
        said.ends_with(
            "fit of PaDiM: holds 32 MiB at its peak\nfit of PatchCore: holds 247 MiB at its peak\n\
             maps of PaDiM: 20000 of 28×28, 59.8 MiB on disk\nmaps of PatchCore: 20000 of 14×14, 15.0 MiB on disk\n"
        ),
        "{said}"
    );
    let output = plan("evaluation.fit_memory=30");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("methods.0.detector.padim"), "{said}");
    assert!(said.contains("padim needs 32 MiB for the covariances of 28 × 28 positions, and may use 30 MiB"), "{said}");
}
