//! `results.json`: what was written stays readable, and what cannot be read says why.

use std::{fs, path::Path};

use oodkit::{
    config::Experiment,
    report::{markdown, table},
    run::results::{Results, SCHEMA},
};
use serde_json::{Value, json};

/// A folder with this record in it, and what reading it gives.
fn read(record: &Value) -> Result<Results, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("results.json"), record.to_string()).unwrap();
    let name = folder.path().display().to_string();
    Results::read(folder.path()).map(Option::unwrap).map_err(|error| error.to_string().replace(&name, "DIR"))
}

fn committed(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results").join(name).join("results.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers without the marks of the best and of footnotes, which say more than when these pages were written.
fn without_marks(text: &str) -> String {
    let text = text.replace("**", "");
    let mut parts = text.split("<sup>");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.split_once("</sup>").unwrap().1)
}

#[test]
fn committed_results_print_the_tables_of_their_pages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rows = 0;
    for folder in fs::read_dir(root.join("docs/results")).unwrap().map(|entry| entry.unwrap().path()) {
        if !folder.join("results.json").is_file() {
            continue;
        }
        let page = without_marks(&fs::read_to_string(folder.join("README.md")).unwrap());
        let results = Results::read(&folder).unwrap().unwrap();
        assert_eq!(results.schema, SCHEMA);
        let experiment: Experiment = serde_json::from_value(results.config.clone()).unwrap();
        let mut shown = 0;
        for table in &experiment.tables {
            let text = markdown::text(&table::build(table, &results, &root.join("experiments")).unwrap());
            let text = without_marks(&text);
            let numbers: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
            // A page leaves some tables out.
            if page.contains(numbers[0]) && page.contains(numbers[1]) {
                shown += 1;
                rows += numbers.len();
                for line in numbers {
                    assert!(page.contains(line), "{}, table {}: {line}", folder.display(), table.name);
                }
            }
        }
        assert!(shown > 0, "{}", folder.display());
    }
    assert!(rows > 100, "{rows} rows");
}

#[test]
fn schema_1_becomes_tasks_sets_and_measures() {
    let old = committed("fashion_sparsity");
    assert_eq!(old["schema"], 1);
    let (was, new) = (&old["cells"][0]["seeds"][0], read(&old).unwrap());
    let task = &new.cells[0].seeds[0].tasks["fashion_mnist"];
    assert_eq!(json!(task.networks["base"].measures["accuracy"]), was["networks"]["base"]["accuracy"]);
    let (set, measures) = (&was["methods"]["EBD"]["ood"]["digits"], &task.methods["EBD"].sets["digits"].measures);
    for (key, value) in set["full"].as_object().unwrap() {
        assert_eq!(json!(measures[key]), *value, "{key}");
    }
    assert_eq!(json!(measures["gap"]), set["gap"]["mean"]);
    assert_eq!(json!(measures["gap_sd"]), set["gap"]["in_sd"]);
    // Written as schema 2, it reads back as it is.
    let written = serde_json::to_value(&new).unwrap();
    assert_eq!(written["schema"], 2);
    assert_eq!(read(&written).unwrap(), new);
}

#[test]
fn one_measure_more_or_less_breaks_nothing() {
    for mut record in
        [committed("fashion_sparsity"), serde_json::to_value(read(&committed("fashion_sparsity")).unwrap()).unwrap()]
    {
        let schema_1 = record["schema"] == 1;
        let seed = &mut record["cells"][0]["seeds"][0];
        let measures = match schema_1 {
            true => &mut seed["methods"]["EBD"]["ood"]["digits"]["full"],
            false => &mut seed["tasks"]["fashion_mnist"]["methods"]["EBD"]["sets"]["digits"]["measures"],
        };
        measures.as_object_mut().unwrap().shift_remove("aupr_out_ap").unwrap();
        measures["of_tomorrow"] = json!(0.5);
        let results = read(&record).unwrap();
        let measures = &results.tasks().next().unwrap().methods["EBD"].sets["digits"].measures;
        assert_eq!((measures.get("aupr_out_ap"), measures["of_tomorrow"]), (None, 0.5));
        let experiment: Experiment = serde_json::from_value(results.config.clone()).unwrap();
        for table in &experiment.tables {
            table::build(table, &results, Path::new("experiments")).unwrap();
        }
    }
}

#[test]
fn the_schema_is_compared_before_anything_else() {
    let future = json!({"schema": 3, "rows": "whatever comes"});
    assert_eq!(read(&future).unwrap_err(), "DIR/results.json is of schema 3, this program reads 1 and 2");
    for nothing in [json!({}), json!([]), json!({"schema": "1"}), json!({"schema": -1})] {
        let error = read(&nothing).unwrap_err();
        assert!(error.contains("DIR/results.json is not a record") && error.contains("`schema`"), "{error}");
    }
    // Records of a known schema that are damaged say what is missing.
    for damaged in
        [json!({"schema": 1}), json!({"schema": 2}), json!({"schema": 1, "cells": [{"seeds": [1, {"methods": [2]}]}]})]
    {
        let error = read(&damaged).unwrap_err();
        assert!(error.contains("is not a record that this version of oodkit wrote"), "{damaged}: {error}");
    }
}
