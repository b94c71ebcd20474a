//! Backbones of other people's weights, from images to a table: trained a step, read by every detector that can, and started from a file with a
//! head of its own.

use std::{collections::BTreeSet, fs, path::Path};

use assert_cmd::Command;
use serde_json::Value;

/// Small ones of their kinds: their names and settings.
const SMALL: [(&str, &str); 4] = [
    ("vit", "{ vit: { width: 12, depth: 2, heads: 2, patch: 8, pretrained_size: 32 } }"),
    ("swin", "{ swin: { width: 6, depths: [1, 2, 1, 1], heads: [1, 2, 2, 4], window: 4 } }"),
    ("convnext", "{ convnext: { depths: [1, 1, 1, 1], widths: [6, 8, 10, 12] } }"),
    ("regnety", "{ regnety: { depths: [1, 1, 1, 1], widths: [8, 8, 16, 16], group: 4 } }"),
];

fn run(folder: &Path, text: &str) -> Value {
    let file = folder.join("experiment.yaml");
    fs::write(&file, text).unwrap();
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("OODKIT_RUNS", folder.join("runs")).env("NO_COLOR", "1");
    let output = command.arg("run").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let experiments = fs::read_dir(folder.join("runs/experiments")).unwrap().map(|entry| entry.unwrap().path());
    let newest = experiments.max_by_key(|path| fs::metadata(path.join("results.json")).unwrap().modified().unwrap());
    serde_json::from_str(&fs::read_to_string(newest.unwrap().join("results.json")).unwrap()).unwrap()
}

/// The experiment of a network with these keys, learned for one step, and its methods.
fn experiment(network: &str, methods: &str) -> String {
    format!(
        "title: A backbone\ndata: {{ id: {{ name: fashion_mnist_small, size: 32, train_limit: 60, test_limit: 20, mean: [0.5], std: [0.5] }}, \
         ood: [{{ name: digits, test_limit: 20 }}] }}\nnetworks:\n  base:\n    {network}\n    train: {{ epochs: 1, max_steps: 1, \
         batch_size: 20, optimizer: {{ sgd: {{ lr: 0.01 }} }} }}\nmethods: {methods}\ntables: [{{ name: all, rows: method, columns: [auroc] }}]\n"
    )
}

fn task(results: &Value) -> &Value {
    results["cells"][0]["seeds"][0]["tasks"].as_object().unwrap().values().next().unwrap()
}

#[test]
fn detectors_and_transfer_work_on_them() {
    for (name, settings) in SMALL {
        let folder = tempfile::tempdir().unwrap();
        let methods = "[{ network: base, detector: all }, { name: PaDiM, network: base, detector: { padim: { dimensions: 4 } } }, \
                       { name: PatchCore, network: base, detector: { patchcore: { coreset: { size: 50 } } } }]";
        let results = run(folder.path(), &experiment(&format!("backbone: {settings}"), methods));
        let scored: BTreeSet<&str> =
            task(&results)["methods"].as_object().unwrap().keys().map(String::as_str).collect();
        // RegNetY's blocks start as their shortcuts: after one step no feature of some class varies, which a covariance needs.
        let of_covariances: &[&str] = if name == "regnety" { &[] } else { &["mahalanobis", "rmds", "vim"] };
        let others = ["afdu", "energy", "knn", "msp", "odin", "react", "PaDiM", "PatchCore"];
        for wanted in others.iter().chain(of_covariances).copied() {
            assert!(scored.contains(wanted), "{name}: no {wanted} among {scored:?}");
        }

        let network = folder.path().join("runs").join(task(&results)["networks"]["base"]["folder"].as_str().unwrap());
        let files = fs::read_dir(network).unwrap().map(|entry| entry.unwrap().path());
        let weights =
            files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "safetensors")).unwrap();
        let network = format!("backbone: {settings}\n    weights: {{ file: \"{}\", head: new }}", weights.display());
        let results = run(folder.path(), &experiment(&network, "[{ network: base, detector: energy }]"));
        assert_eq!(task(&results)["methods"].as_object().unwrap().len(), 1, "{name}");
    }
}

/// Weights of one architecture were trained with other means than others': a tag of the hub tells which.
#[test]
fn weights_of_another_mean_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |backbone: &str, tag: &str| {
        let network = format!(
            "backbone: {backbone}\n    weights: {{ file: \"hub:timm/{tag}\", head: new }}\n    normalise: weights"
        );
        let text =
            experiment(&network, "[{ network: base, detector: msp }]").replace("size: 32", "size: 224, channels: 3");
        let file = folder.path().join("experiment.yaml");
        fs::write(&file, text.replace(", mean: [0.5], std: [0.5]", "")).unwrap();
        let mut command = Command::cargo_bin("oodkit").unwrap();
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("OODKIT_RUNS", folder.path()).env("NO_COLOR", "1");
        String::from_utf8(command.arg("plan").arg(&file).output().unwrap().stderr).unwrap()
    };
    for (backbone, known, other) in [
        ("vit_s16", "vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_small_patch16_224.dino"),
        ("convnext_base", "convnext_base.fb_in1k", "convnext_base.clip_laion2b_augreg_ft_in1k"),
    ] {
        assert!(!plan(backbone, known).contains("knows the mean and std"), "{}", plan(backbone, known));
        let tag = other.split_once('.').unwrap().1;
        assert!(plan(backbone, other).contains(&format!("not of `{tag}`")), "{}", plan(backbone, other));
    }
}
