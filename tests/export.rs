//! `oodkit export`: the tensors are the network's, and the JSON says what another program must know.

use std::{fs, path::Path};

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use oodkit::{metrics, nn::weights};
use serde_json::{Value, json};

const EXPERIMENT: &str = "\
title: Exported
seeds: [0, 3]
data:
  id: { name: mine, format: class_folders, size: [16, 20], resize: { mode: bicubic }, crop: 0.8, mean: [0.5, 0.4, 0.3], std: [0.2, 0.2, 0.1] }
  ood: [{ name: other, format: folder }]
networks:
  base: { backbone: { wide_resnet: { depth: 10, width: 1, dropout: 0 } }, train: { epochs: 1, batch_size: 4, optimizer: { sgd: { lr: 0.1 } } } }
  pair: { backbone: lenet, members: 2, train: { epochs: 1, batch_size: 4, optimizer: { sgd: { lr: 0.01 } } } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: EBD, network: base, detector: { energy: { temperature: 2 } } }
  - { name: MI, network: pair, detector: mutual_information }
";

fn oodkit(root: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    let output = command.current_dir(root).env("NO_COLOR", "1").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), said)
}

#[test]
fn a_network_is_exported_with_what_others_must_know() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (place, shade) in
        [("mine/train/a", 20), ("mine/train/b", 150), ("mine/test/a", 25), ("mine/test/b", 155), ("other", 90)]
    {
        fs::create_dir_all(root.join("data").join(place)).unwrap();
        for index in 0..4_u8 {
            let image = RgbImage::from_fn(20, 16, |x, y| Rgb([shade + index, x as u8, y as u8]));
            image.save(root.join("data").join(place).join(format!("{index}.png"))).unwrap();
        }
    }
    fs::write(root.join("case.yaml"), EXPERIMENT).unwrap();
    let export = |rest: &[&str]| {
        let all = [&["export", "--experiment", "case.yaml", "--out", "out"], rest].concat();
        oodkit(root, &all)
    };
    let (code, said) = export(&["--network", "base"]);
    assert_eq!(code, 2);
    assert!(said.contains("network base of seed 0 is not trained"), "{said}");
    let (code, said) = oodkit(root, &["run", "case.yaml"]);
    assert_eq!(code, 0, "{said}");

    let (code, said) = export(&["--network", "base", "--seed", "3"]);
    assert_eq!(code, 0, "{said}");
    let about: Value = serde_json::from_slice(&fs::read(root.join("out/model.json")).unwrap()).unwrap();
    let results: Value = {
        let experiments = fs::read_dir(root.join("runs/experiments")).unwrap();
        let place = experiments.map(|entry| entry.unwrap().path()).next().unwrap();
        serde_json::from_slice(&fs::read(place.join("results.json")).unwrap()).unwrap()
    };
    let task = &results["cells"][0]["seeds"][1]["tasks"]["mine"];
    let trained = root.join("runs").join(task["networks"]["base"]["folder"].as_str().unwrap());
    let (ours, theirs) = (
        weights::read(&trained.join("model.safetensors")).unwrap(),
        weights::read(&root.join("out/model.safetensors")).unwrap(),
    );
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(ours.iter().all(|(name, tensor)| values(tensor) == values(&theirs[name])));
    assert_eq!(about["seed"], 3);
    assert_eq!(about["files"], json!(["model.safetensors"]));
    assert_eq!(about["python"], "pytorch_ood.model.WideResNet(num_classes=2, depth=10, widen_factor=1)");
    assert_eq!(about["classes"], json!({ "count": 2, "names": ["a", "b"] }));
    let input = &about["input"];
    assert_eq!((&input["channels"], &input["height"], &input["width"]), (&json!(3), &json!(16), &json!(20)));
    assert_eq!((&input["resize"], &input["crop"]), (&json!({ "mode": "bicubic", "antialias": true }), &json!(0.8)));
    assert!((input["mean"][2].as_f64().unwrap() - 0.3).abs() < 1e-6);
    let methods: Vec<_> = about["methods"].as_array().unwrap().iter().map(|method| &method["name"]).collect();
    assert_eq!(methods, ["MSP", "EBD"]);
    let energy = &about["methods"][1];
    assert_eq!(energy["detector"], json!({ "energy": { "temperature": 2.0 } }));
    let scores = root.join("runs").join(task["methods"]["EBD"]["scores"]["mine"].as_str().unwrap());
    let scores = metrics::read_scores(&scores).unwrap();
    assert_eq!(energy["threshold"].as_f64(), metrics::threshold(&scores, 0.95));

    let (code, said) = export(&["--network", "pair"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("model_0.safetensors") && said.contains("model_1.safetensors"), "{said}");
    for (arguments, reason) in [
        (["--network", "bass"], "--network bass: case has no such network (did you mean \"base\"?)"),
        (["--network", "base"], "--seed 9: not a seed of the experiment"),
    ] {
        let (code, said) = export(&[&arguments[..], &["--seed", "9"]].concat());
        assert_eq!(code, 2);
        assert!(said.contains(reason), "{said}");
    }
}
