//! `oodkit score` and `oodkit detectors`: detectors for networks of any framework, through feature files.

use std::{collections::HashMap, fs, path::Path};

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use oodkit::{
    detectors::{energy::energy, knn::knn},
    metrics::files::read_scores,
};

fn oodkit() -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.env("NO_COLOR", "1");
    command
}

/// A file of the named tensors, as PyTorch's `safetensors.torch.save_file` writes it.
fn write(folder: &Path, name: &str, tensors: &[(&str, Tensor)]) -> String {
    let path = folder.join(name);
    let tensors: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path.display().to_string()
}

fn rows(count: usize, columns: usize, step: f64) -> Tensor {
    let values: Vec<f32> = (0..count * columns).map(|index| (index as f64 * step).sin() as f32).collect();
    Tensor::from_vec(values, (count, columns), &Device::Cpu).unwrap()
}

fn scored(arguments: &[&str], out: &Path) -> Vec<f32> {
    oodkit().arg("score").args(arguments).args(["--out", out.to_str().unwrap()]).assert().success();
    read_scores(out).unwrap().into_iter().map(|score| score as f32).collect()
}

#[test]
fn scores_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scores.npy");
    let (train, test) = (rows(40, 8, 0.37), rows(9, 8, 0.91));
    let logits = rows(9, 3, 1.7);
    let as_f64 = logits.to_dtype(candle_core::DType::F64).unwrap();
    let input = write(folder.path(), "test.safetensors", &[("features", test.clone()), ("logits", as_f64)]);
    let fit = write(folder.path(), "train.safetensors", &[("features", train.clone())]);
    assert_eq!(scored(&["--detector", "energy", "--input", &input], &out), energy(&logits, 1.0).unwrap());
    let knn_of = ["--detector", "knn: {k: 3}", "--fit", &fit, "--input", &input];
    assert_eq!(scored(&knn_of, &out), knn(&train, &test, 3).unwrap());
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let good = write(here, "good.safetensors", &[("features", rows(4, 3, 0.5))]);
    let nan = Tensor::new(&[[1f32, 2.0], [3.0, f32::NAN]], &Device::Cpu).unwrap();
    let labels = |values: &[i64]| Tensor::new(values, &Device::Cpu).unwrap();
    let files = [
        ("nan", write(here, "nan.safetensors", &[("logits", nan)]), "logits holds NaN in row 1"),
        (
            "typo",
            write(here, "typo.safetensors", &[("feature", rows(4, 3, 0.5))]),
            "no use for a tensor \"feature\" (did you mean \"features\"?)",
        ),
        (
            "rows",
            write(here, "rows.safetensors", &[("logits", rows(4, 3, 0.5)), ("features", rows(5, 3, 0.5))]),
            "logits has 4 rows and features has 5",
        ),
        (
            "label",
            write(here, "label.safetensors", &[("logits", rows(2, 3, 0.5)), ("labels", labels(&[0, 3]))]),
            "the label of image 1 is 3, and logits has 3 columns",
        ),
        (
            "negative",
            write(here, "negative.safetensors", &[("logits", rows(2, 3, 0.5)), ("labels", labels(&[0, -1]))]),
            "the label of image 1 is -1, which is no class",
        ),
        (
            "rank",
            write(here, "rank.safetensors", &[("logits", rows(2, 3, 0.5).flatten_all().unwrap())]),
            "logits is [6], and must have 2 axes",
        ),
        (
            "head",
            write(here, "head.safetensors", &[("features", rows(4, 3, 0.5)), ("head.weight", rows(2, 5, 0.5))]),
            "features has 3 columns, which does not fit head.weight, [2, 5]",
        ),
        ("nothing", write(here, "nothing.safetensors", &[("head.weight", rows(2, 5, 0.5))]), "holds no logits"),
        ("missing", good.clone(), "the detector msp needs logits, not in the file"),
        ("absent", here.join("absent.safetensors").display().to_string(), "cannot be read"),
    ];
    fs::write(here.join("text.safetensors"), "no tensors").unwrap();
    let text = ("text", here.join("text.safetensors").display().to_string(), "a broken safetensors file");
    let out = here.join("scores.npy");
    let refused = |arguments: &[&str], expected: &str| {
        let assert = oodkit().arg("score").args(arguments).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(said.contains(expected) && !said.contains("panicked"), "{arguments:?}: {said}");
        assert!(!out.exists());
    };
    let to = out.to_str().unwrap();
    for (_, input, expected) in files.iter().chain([&text]) {
        refused(&["--detector", "msp", "--input", input, "--out", to], expected);
    }
    refused(&["--detector", "knn", "--input", &good, "--out", to], "give its file with --fit");
    refused(
        &["--detector", "knn: {k: 0}", "--input", &good, "--out", to],
        "--detector:1:10: knn.k: must be at least 1",
    );
    refused(&["--detector", "afdu: {sigma: .nan}", "--input", &good, "--out", to], "must be a finite number");
    refused(&["--detector", "kn", "--input", &good, "--out", to], "did you mean \"knn\"?");
    refused(&["--detector", "msp", "--input", &good, "--out", "scores.txt"], "written as .npy");
    let wide = write(here, "wide.safetensors", &[("features", rows(60, 4, 0.5))]);
    refused(
        &["--detector", "knn", "--fit", &wide, "--input", &good, "--out", to],
        "features has 4 columns in the --fit file and 3 in",
    );
}

#[test]
fn detectors_are_listed_with_what_they_need() {
    let assert = oodkit().arg("detectors").assert().success();
    let said = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let line = said.lines().find(|line| line.trim_start().starts_with("knn")).unwrap();
    assert!(line.contains("features, a train set") && line.contains("Sun et al. 2022"), "{line}");
    assert_eq!(said.lines().count(), oodkit::detectors::DetectorConfig::NAMES.len());
}
