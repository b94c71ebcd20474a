//! Results of one configuration, measured on several machines, as one record.
//!
//! Seeds and the values of a sweep may differ: they are what is shared out. Everything else that numbers depend on must be the
//! same, and what was measured twice must be the same numbers.

use std::path::{Path, PathBuf};

use indexmap::IndexSet;
use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    run::{
        plan::to_json,
        results::{Cell, Environment, Results, SeedResult},
    },
};

/// At most so many differences are told.
const TOLD: usize = 5;

/// Joins the cells and seeds of these files. The title, the tables and the figures are those of the first.
///
/// # Errors
/// [`Error::Input`] if the files are of differing configurations or data, with the keys and both values; if a seed stands in two of
/// them with differing numbers; if there are fewer than two files.
pub fn merge(files: &[PathBuf]) -> Result<Results> {
    let [first, others @ ..] = files else { return Err(Error::input("there are no results to merge")) };
    if others.is_empty() {
        return Err(Error::input("one file of results is nothing to merge").hint("oodkit merge A.json B.json"));
    }
    let mut merged = Results::read_file(first)?;
    for path in others {
        let other = Results::read_file(path)?;
        refuse_other(first, &merged, path, &other)?;
        join_config(&mut merged.config, &other.config);
        for cell in other.cells {
            match merged.cells.iter_mut().find(|known| known.name == cell.name) {
                None => merged.cells.push(cell),
                Some(known) => join_cell(known, cell, first, path)?,
            }
        }
        merged.environment = Environment::of([&merged.environment, &other.environment].into_iter());
        let overrides: IndexSet<String> = merged.overrides.drain(..).chain(other.overrides).collect();
        merged.overrides = overrides.into_iter().collect();
    }
    for cell in &mut merged.cells {
        cell.seeds.sort_by_key(|seed| seed.seed);
    }
    Ok(merged)
}

/// Refuses results that are not of the same configuration and data.
fn refuse_other(first: &Path, merged: &Results, path: &Path, other: &Results) -> Result<()> {
    let ours = [compared(merged)?, compared(other)?];
    let mut found = Vec::new();
    differences("", &ours[0], &ours[1], &mut found);
    // A sweep's lists may differ, but not what is swept.
    let swept = [merged, other].map(|results| {
        let sweep = results.config.get("sweep").and_then(Value::as_object);
        sweep.into_iter().flat_map(Map::keys).cloned().collect::<IndexSet<_>>()
    });
    if swept[0] != swept[1] {
        found.push(("sweep".to_owned(), json!(swept[0]), json!(swept[1])));
    }
    if found.is_empty() {
        return Ok(());
    }
    let told = found.iter().take(TOLD).map(|(key, ours, theirs)| format!("{key}: {ours} and {theirs}"));
    let mut lines: Vec<String> = told.collect();
    if found.len() > TOLD {
        lines.push(format!("and {} more", found.len() - TOLD));
    }
    let message =
        format!("{} and {} are not of one configuration:\n  {}", first.display(), path.display(), lines.join("\n  "));
    Err(Error::input(message).hint("only seeds and the values of a sweep may differ: run one of them again"))
}

/// What must be the same.
fn compared(results: &Results) -> Result<Value> {
    let mut config = results.config.clone();
    if let Some(config) = config.as_object_mut() {
        for key in ["title", "about", "tables", "figures", "seeds", "sweep"] {
            config.remove(key);
        }
    }
    let mut datasets = to_json(&results.datasets)?;
    for set in datasets.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        // Older records lack it, and the digest covers it.
        set.remove("class_sizes");
        set.remove("classes");
    }
    Ok(json!({
        "smoke": results.smoke,
        "config": config,
        "datasets": datasets,
        "shifted": to_json(&results.shifted)?,
        "outliers": to_json(&results.outliers)?,
        "validation": to_json(&results.validation)?,
    }))
}

/// The innermost values in which two differ, with their paths.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<(String, Value, Value)>) {
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                differences(&at(key), &ours[key], &theirs[key], found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (ours, theirs)) in left.iter().zip(right).enumerate() {
                differences(&at(&index.to_string()), ours, theirs, found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push((path.to_owned(), ours.clone(), theirs.clone())),
    }
}

/// The seeds and the values of the sweep of both.
fn join_config(config: &mut Value, other: &Value) {
    let join = |list: Option<&mut Value>, other: &Value| {
        if let (Some(list), Some(other)) = (list.and_then(Value::as_array_mut), other.as_array()) {
            list.extend(other.iter().filter(|value| !list.contains(value)).cloned().collect::<Vec<_>>());
        }
    };
    join(config.get_mut("seeds"), &other["seeds"]);
    if let Some(sweep) = config.get_mut("sweep").and_then(Value::as_object_mut) {
        sweep.iter_mut().for_each(|(path, values)| join(Some(values), &other["sweep"][path]));
    }
}

fn join_cell(known: &mut Cell, cell: Cell, first: &Path, path: &Path) -> Result<()> {
    let place = |what: &str| format!("{} and {}: cell {}{what}", first.display(), path.display(), cell.name);
    if known.values != cell.values {
        return Err(Error::input(format!("{} has other values", place(""))));
    }
    for seed in cell.seeds {
        let Some(measured) = known.seeds.iter().find(|known| known.seed == seed.seed) else {
            known.seeds.push(seed);
            continue;
        };
        let mut found = Vec::new();
        differences("", &numbers(measured)?, &numbers(&seed)?, &mut found);
        // A measure that one of two versions lacks differs in nothing.
        found.retain(|(_, ours, theirs)| !ours.is_null() && !theirs.is_null());
        if let Some((key, ours, theirs)) = found.first() {
            let message = format!(
                "{} was measured twice, with differing numbers:\n  {key}: {ours} and {theirs}",
                place(&format!(", seed {}", seed.seed))
            );
            return Err(Error::input(message).hint(
                "other processors may round otherwise: leave the seed out of one of the runs, as in --set seeds=[1, 2]",
            ));
        }
    }
    Ok(())
}

/// What was measured, without where and how long.
fn numbers(seed: &SeedResult) -> Result<Value> {
    let mut tasks = to_json(&seed.tasks)?;
    for task in tasks.as_object_mut().into_iter().flat_map(Map::values_mut) {
        for (kind, kept) in [
            ("networks", &["measures", "steps", "final_loss"][..]),
            ("methods", &["network", "sets", "thresholds", "detector"]),
        ] {
            let all = task.get_mut(kind).and_then(Value::as_object_mut);
            for one in all.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
                one.retain(|key, _| kept.contains(&key.as_str()));
            }
        }
    }
    Ok(tasks)
}
