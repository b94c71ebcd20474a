//! Our reading of Metaformer: first weights that are learned from classes of other data, and adapted to each category.

use std::fs;

use serde_json::Value;

use super::{DATA, Place, has};

const METHOD: &str = "[{ name: MF, network: mf, detector: { map: { smooth: 0 } } }]";
const COLOURS: &str = "data: { name: colours, format: class_folders }, ";
const REPTILE: &str = "reptile: { inner_steps: 4 }, ";

/// A network of these settings that learns `more` first, by these words of its recipe, and one from it for each category.
fn networks(settings: &str, more: &str, recipe: &str) -> String {
    let train = |epochs: usize, recipe: &str| {
        format!("train: {{ epochs: {epochs}, batch_size: 3, {recipe}optimizer: {{ adamw: {{ lr: 0.003 }} }} }}")
    };
    let (first, then) = (train(1, recipe), train(30, ""));
    format!(
        "\n  meta: {{ model: {{ metaformer: {{ {settings} }} }}, {more}loss: {{ reconstruction: {{}} }}, {first} }}\n  mf: {{ from: meta, \
         loss: {{ reconstruction: {{}} }}, {then} }}"
    )
}

const SMALL: &str = "patch: 8, width: 16, depth: 1, heads: 2, latent: 4";

#[test]
fn what_classes_taught_is_adapted_to_each_category() {
    let place = Place::new();
    let networks = networks(SMALL, COLOURS, REPTILE);
    let (code, plan) = place.oodkit("plan", [DATA, &networks, METHOD], &[]);
    assert_eq!(code, Some(0), "{plan}");
    // 18 images are six batches of three, and eight in rounds of four; then 30 times two for each category.
    has(&plan, &["3 networks, 3 to train: 384 images forward and backward, 128 optimiser steps at most"]);
    let (code, said) = place.oodkit("run", [DATA, &networks, METHOD], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    for category in ["bolt", "nut"] {
        let measures = &results["cells"][0]["seeds"][0]["tasks"][category]["methods"]["MF"]["sets"]["all"]["measures"];
        assert!(measures["auroc"].as_f64().unwrap() > 0.8, "{category}: {measures}");
        assert!(measures["pixel_auroc"].as_f64().unwrap() > 0.8, "{category}: {measures}");
    }
    let records = fs::read_dir(place.path("runs/networks")).unwrap().map(|entry| entry.unwrap().path());
    let records = records.map(|folder| fs::read_to_string(folder.join("seed0/network.json")).unwrap());
    let records: Vec<Value> = records.map(|text| serde_json::from_str(&text).unwrap()).collect();
    let mut steps: Vec<u64> = records.iter().map(|record| record["steps"].as_u64().unwrap()).collect();
    steps.sort_unstable();
    assert_eq!(steps, [8, 60, 60]);
    // What goes on sees images as they were seen before: by the statistics of the colours.
    assert!(records[0]["normalisation"].is_object());
    assert!(records.iter().all(|record| record["normalisation"] == records[0]["normalisation"]), "{records:?}");
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let place = Place::new();
    let refused = |networks: &str, words: &[&str]| {
        let (code, said) = place.oodkit("run", [DATA, networks, METHOD], &[]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, words);
        let folders = fs::read_dir(place.path("runs/networks")).into_iter().flatten();
        let trained = folders.filter(|folder| folder.as_ref().unwrap().path().join("seed0/network.json").exists());
        assert_eq!(trained.count(), 0, "something was trained: {said}");
    };
    let other = |from: &str, to: &str| networks(&SMALL.replace(from, to), COLOURS, REPTILE);
    refused(
        &other("patch: 8", "patch: 12"),
        &["networks.meta.model.metaformer.patch: 32×32 pixels are no whole number of patches of 12×12"],
    );
    refused(&other("patch: 8", "patch: 6"), &["patch", "must be a multiple of 4"]);
    refused(
        &other("heads: 2", "heads: 3"),
        &["networks.meta.model.metaformer.heads: 3 heads do not divide a width of 16"],
    );
    refused(
        &other("patch: 8", "patch: 64"),
        &["networks.meta.model.metaformer.patch: 32×32 pixels are no whole number of patches of 64×64"],
    );
    let deep =
        networks(SMALL, COLOURS, REPTILE).replace(&format!("metaformer: {{ {SMALL} }}"), "autoencoder: { depth: 6 }");
    // Images of other data are brought to the categories' size.
    refused(&deep, &["networks.meta.model: needs images of at least 64×64 pixels, and those of \"mvtec\" are 32×32"]);
    refused(
        &networks(SMALL, "", REPTILE),
        &[
            "networks.meta.train.reptile: a category's train images are of one class",
            "give the network `data` of its own",
        ],
    );
    refused(
        &networks(SMALL, &COLOURS.replace(" }", ", classes: [c1] }"), REPTILE),
        &["the train images of \"colours\" are of 1 class", "give the network `data` with several classes"],
    );
    refused(
        &networks(SMALL, COLOURS, &format!("{REPTILE}ema: {{}}, ")),
        &["networks.meta.train.reptile: goes without `ema`"],
    );
    refused(&networks(SMALL, COLOURS, "reptile: { rate: 2 }, "), &["rate"]);
    let classifier = networks(SMALL, COLOURS, REPTILE)
        .replace(&format!("metaformer: {{ {SMALL} }}"), "classifier: { backbone: lenet }")
        .replace("reconstruction", "cross_entropy");
    refused(&classifier, &["networks.meta.train.reptile: a batch is of one class, so there is nothing to classify"]);
}
