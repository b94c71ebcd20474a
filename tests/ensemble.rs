//! Deep ensembles: their scores against scipy and mpmath, what an experiment may say of them, and one from end to end.

use std::{fs, path::Path, process::Command};

use candle_core::{Device, Tensor};
use oodkit::{
    config::load,
    detectors::{
        Bank,
        mutual_information::{log_mean_softmax, mutual_information},
        softmax_entropy::softmax_entropy,
    },
    run::{
        bank,
        plan::{Places, plan},
        store::Store,
    },
};

/// Values in f64, but the logits of the members.
#[derive(serde::Deserialize)]
struct Golden {
    members: Vec<Vec<Vec<f32>>>,
    log_mean: Vec<Vec<f64>>,
    entropy: Vec<f64>,
    mutual_information: Vec<f64>,
}

fn golden() -> (Golden, Tensor) {
    let golden: Golden = serde_json::from_str(include_str!("golden/ensemble.json")).unwrap();
    let members = Tensor::new(golden.members.clone(), &Device::Cpu).unwrap();
    (golden, members)
}

/// Relative to values as small as `least`.
#[track_caller]
fn assert_near(what: &str, actual: &[f32], expected: &[f64], least: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (place, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= 1e-6 * expected.abs().max(least), "{what}[{place}]: {actual}, expected {expected}");
    }
}

#[test]
fn equal_to_scipy_and_mpmath() {
    let (golden, members) = golden();
    let log_mean = log_mean_softmax(&members).unwrap();
    let numbers: Vec<f32> = log_mean.flatten_all().unwrap().to_vec1().unwrap();
    assert_near("ln of the mean softmax", &numbers, &golden.log_mean.concat(), 1e-10);
    assert_near("entropy of the mean softmax", &softmax_entropy(&log_mean).unwrap(), &golden.entropy, 1e-12);
    let information = mutual_information(&members).unwrap();
    assert_near("mutual information", &information, &golden.mutual_information, 1e-12);
    assert!(information[11] > 1e-18 && information[11] < 1e-17, "f64 entropies would cancel: {}", information[11]);
}

#[test]
fn what_no_member_disagrees_about_is_exactly_zero_and_nothing_is_below() {
    let rows = Tensor::new(&[[0.3f32, -2.0, 7.0], [1e30, -1e30, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let equal = Tensor::stack(&[&rows, &rows, &rows], 1).unwrap();
    // ln 3 − ln 3 may round.
    assert!(mutual_information(&equal).unwrap().iter().all(|score| (0.0..1e-30).contains(score)));
    let almost = Tensor::stack(&[&rows, &(&rows * 1.000_001).unwrap()], 1).unwrap();
    assert!(mutual_information(&almost).unwrap().iter().all(|score| *score >= 0.0));
    // Members that are sure of different classes: as much as there can be.
    let most = Tensor::new(&[[[500f32, 0.0, 0.0], [0.0, 500.0, 0.0]]], &Device::Cpu).unwrap();
    assert_eq!(mutual_information(&most).unwrap(), [2f32.ln()]);
}

#[test]
fn nonsense_is_an_error() {
    let bad = Tensor::new(&[[[0f32, 1.0], [f32::NAN, 0.0]]], &Device::Cpu).unwrap();
    assert!(mutual_information(&bad).unwrap_err().to_string().contains("of image 0 is NaN"));
    assert!(log_mean_softmax(&bad).is_err());
    let nothing = Tensor::zeros((0, 2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(mutual_information(&nothing).is_err() && log_mean_softmax(&nothing).is_err());
}

#[test]
fn a_bank_holds_all_members() {
    let (_, members) = golden();
    let one = |member: usize| Bank {
        labels: Some(vec![1; members.dim(0).unwrap()]),
        ..Bank::new(
            members.get_on_dim(1, member).unwrap(),
            Tensor::full(member as f32, (members.dim(0).unwrap(), 2), &Device::Cpu).unwrap(),
        )
    };
    let bank = bank::ensemble((0..3).map(one).collect()).unwrap();
    assert_eq!(bank.features.get(4).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
    let stacked = bank.members.unwrap();
    assert_eq!(stacked.to_vec3::<f32>().unwrap(), members.to_vec3::<f32>().unwrap());
    assert_eq!(bank.labels.unwrap().len(), members.dim(0).unwrap());
}

const EXPERIMENT: &str = "\
title: An ensemble
seeds: [0, 1]
data:
  id: { name: fashion_mnist_small, path: EMBEDDED/fashion_mnist_small, train_limit: 64, test_limit: 32 }
  ood: [{ name: digits, path: EMBEDDED/digits, test_limit: 32 }]
networks:
  base: { backbone: lenet, train: &recipe { epochs: 1, batch_size: 16, optimizer: { sgd: { lr: 0.05 } } } }
  ensemble: { backbone: lenet, train: *recipe, members: 2 }
  tuned: { from: base, train: *recipe, members: 2 }
methods:
  - { name: One, network: base, detector: energy }
  - { name: Entropy, network: ensemble, detector: softmax_entropy }
  - { name: Information, network: ensemble, detector: mutual_information }
  - { name: Tuned, network: tuned, detector: msp }
tables: [{ name: t, rows: method, columns: [accuracy, auroc] }]
";

fn experiment() -> String {
    EXPERIMENT.replace("EMBEDDED", concat!(env!("CARGO_MANIFEST_DIR"), "/data/embedded"))
}

#[test]
fn members_are_the_networks_of_other_seeds() {
    let experiment = load::parse(&experiment(), "here").unwrap();
    let places = Places { data: None, weights: Path::new("weights"), store: &Store::new("runs") };
    let plan = plan(&load::Loaded { name: "here".into(), path: "here".into(), experiment }, &places).unwrap();
    let networks = &plan.cells[0].tasks[0].networks;
    let seeds = |indices: &[usize]| indices.iter().map(|&index| plan.nodes[index].seed).collect::<Vec<_>>();
    assert_eq!(seeds(&networks[1]["ensemble"]), [1, 1001]);
    for (seed, networks) in networks.iter().enumerate() {
        assert_eq!(networks["ensemble"][0], networks["base"][0]);
        let [first, second] = networks["tuned"][..] else { panic!("two members") };
        assert_eq!(plan.nodes[first].upstream, Some(networks["base"][0]));
        assert_eq!(plan.nodes[second].upstream, Some(networks["ensemble"][1]), "tuned from seed {seed} + 1000");
    }
    // Two seeds of two members of two recipes.
    assert_eq!(plan.nodes.len(), 8);
}

#[test]
fn what_an_ensemble_cannot_be_is_told_at_the_key() {
    for (from, to, expected) in [
        ("members: 2 }\n  tuned", "members: 0 }\n  tuned", "must be at least 1"),
        ("seeds: [0, 1]", "seeds: [0, 1000]", "seeds 0 and 1000 would share the network of seed 1000"),
        ("{ from: base", "{ from: ensemble", "\"ensemble\" is an ensemble: start from a network without members"),
        (
            "train: *recipe, members: 2 }\n  tuned",
            "weights: w.pth, members: 2 }\n  tuned",
            "all members would be the same",
        ),
        ("network: base, detector: energy", "network: base, detector: mutual_information", "give it `members: 5`"),
        ("members: 2 }\n  tuned", "members: 1 }\n  tuned", "\"ensemble\" has one: give it `members: 5`"),
        ("detector: softmax_entropy", "detector: energy", "there is only the mean softmax"),
    ] {
        let text = experiment();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let error = load::parse(&text.replace(from, to), "here").unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

fn run(folder: &Path) -> (String, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .args(["run", folder.join("ensemble.yaml").to_str().unwrap(), "--runs", folder.join("runs").to_str().unwrap()])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let experiments = fs::read_dir(folder.join("runs/experiments")).unwrap();
    let results = experiments.last().unwrap().unwrap().path().join("results.json");
    (told, serde_json::from_str(&fs::read_to_string(results).unwrap()).unwrap())
}

#[test]
fn from_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ensemble.yaml"), experiment()).unwrap();
    let (_, results) = run(folder.path());
    let seed = &results["cells"][0]["seeds"][1]["tasks"]["fashion_mnist_small"];
    let (base, ensemble) = (&seed["networks"]["base"], &seed["networks"]["ensemble"]);
    assert!(base.get("members").is_none(), "records of single networks are as they were");
    assert_eq!(ensemble["members"].as_array().unwrap().len(), 2);
    assert_eq!(ensemble["members"][0], base["folder"]);
    assert_eq!(ensemble["parameters"].as_u64().unwrap(), 2 * base["parameters"].as_u64().unwrap());
    assert_eq!(ensemble["steps"], 8);
    for method in ["Entropy", "Information", "Tuned"] {
        let auroc = seed["methods"][method]["sets"]["digits"]["measures"]["auroc"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&auroc), "{method}: {auroc}");
    }

    // Everything is used again, and a member that was trained anew leaves no score of the old one.
    let scores = |results: &serde_json::Value| {
        let path =
            &results["cells"][0]["seeds"][0]["tasks"]["fashion_mnist_small"]["methods"]["Entropy"]["scores"]["digits"];
        fs::read(folder.path().join("runs").join(path.as_str().unwrap())).unwrap()
    };
    let (told, again) = run(folder.path());
    assert_eq!(again, results);
    assert!(!told.contains("epoch"), "{told}");
    let second = &results["cells"][0]["seeds"][0]["tasks"]["fashion_mnist_small"]["networks"]["ensemble"]["members"][1];
    let second = folder.path().join("runs").join(second.as_str().unwrap());
    let other = folder.path().join("runs").join(ensemble["members"][1].as_str().unwrap());
    // As a training that ended in other weights leaves it; its outputs are still those of the old ones.
    fs::copy(other.join("model.safetensors"), second.join("model.safetensors")).unwrap();
    let record = fs::read_to_string(second.join("network.json")).unwrap();
    let lines = record.lines().filter(|line| !line.contains("\"checksum\"") && !line.contains("\"model_sha256\""));
    fs::write(second.join("network.json"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let before = scores(&results);
    assert_ne!(scores(&run(folder.path()).1), before);
}
