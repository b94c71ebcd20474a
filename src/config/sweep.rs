//! The grid of a sweep.
//!
//! `sweep: { networks.tuned.loss.sparsity.weight: [0, 0.01], networks.tuned.train.epochs: [1, 2] }` is every combination of
//! the values, the last key running fastest. A path and its values follow the rules of [`overrides`](super::overrides).
//! Only what is below `networks`, `methods` and `evaluation` can be swept, and the fold of a cross-validation or the categories of a folder: one table, with one
//! caption, shows all cells.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::Value;

use crate::{
    Error, Result,
    config::{
        Experiment,
        check::check,
        overrides::{set, to_experiment, to_tree},
    },
    yaml::problems::{Path, Problem},
};

/// Cells of a sweep at most: more is a mistake in the file, not an experiment.
const MAX_CELLS: usize = 1_000;

/// Keys that are about the experiment as a whole, and why.
const FIXED: [(&str, &str); 7] = [
    ("title", NAMES),
    ("about", NAMES),
    ("sweep", NAMES),
    ("tables", NAMES),
    ("figures", NAMES),
    (
        "data",
        "a table's caption and columns are those of one choice of data; give each choice an experiment file of its own",
    ),
    (
        "seeds",
        "each cell is repeated with all of them; list them under `seeds`, or give each an experiment file of its own",
    ),
];

/// The keys of data that can be swept.
pub const FOLD: &str = "data.id.split.fold";
/// The same.
pub const CATEGORIES: &str = "data.categories";

const NAMES: &str = "it is the same for all cells";

/// One combination of a sweep's values.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepCell {
    /// `weight=0.01`, or `default` without a sweep. Unique; letters, digits and `.,=+_-` only, so that it can name a file.
    pub name: String,
    /// The swept paths and their values here, in the file's order; empty without a sweep.
    pub values: IndexMap<String, Value>,
    /// The experiment with these values, checked, its sweep emptied.
    pub experiment: Experiment,
}

/// The cells of an experiment's sweep, in order; one called `default` if it has none.
///
/// # Errors
/// [`Error::Input`] naming the path and the value: an empty list, a path that does not exist or may not be swept, a value
/// of the wrong type or out of range, two equal cells, too many cells.
pub fn cells(experiment: &Experiment) -> Result<Vec<SweepCell>> {
    let sweep = &experiment.sweep;
    for (path, values) in sweep {
        refuse_list(path, values)?;
    }
    let count = sweep.values().try_fold(1usize, |count, values| count.checked_mul(values.len()));
    let Some(count) = count.filter(|count| *count <= MAX_CELLS) else {
        return Err(Error::input(format!("sweep: more than {MAX_CELLS} combinations")));
    };
    let labels = labels(sweep);
    let tree = to_tree(experiment)?;
    let mut cells = Vec::with_capacity(count);
    let mut seen = BTreeMap::new();
    for index in 0..count {
        let values = combination(sweep, index);
        let cell = resolve(&tree, &values)?;
        let name = name(&labels, &values);
        if let Some(twin) = seen.insert(to_tree(&cell)?.to_string(), name.clone()) {
            return Err(Error::input(format!("sweep: {twin} and {name} are the same experiment")));
        }
        cells.push(SweepCell { name, values, experiment: cell });
    }
    make_unique(&mut cells);
    Ok(cells)
}

/// What is wrong with the sweep of an experiment that is right otherwise, each at its key.
pub fn problems(experiment: &Experiment) -> Vec<Problem> {
    // Keys may need each other's values, so that none is wrong unless a cell is.
    let Err(whole) = cells(experiment) else { return Vec::new() };
    let sweep = Path::default().join("sweep");
    let mut problems = Vec::new();
    for (path, values) in &experiment.sweep {
        let mut alone = experiment.clone();
        alone.sweep = IndexMap::from([(path.clone(), values.clone())]);
        if let Err(error) = cells(&alone) {
            // The key stands before the message already.
            let message = error.to_string();
            let message = match message.strip_prefix(&format!("sweep `{path}")) {
                Some(rest) => match rest.strip_prefix("`: ") {
                    Some(about_list) => about_list.to_owned(),
                    None => format!("`{}", rest.trim_start_matches(": ")),
                },
                None => message,
            };
            problems.push(Problem { path: sweep.join(path.as_str()), message });
        }
    }
    if problems.is_empty() {
        problems.push(Problem { path: sweep, message: whole.to_string() });
    }
    problems
}

fn refuse_list(path: &str, values: &[Value]) -> Result<()> {
    if values.is_empty() {
        return Err(Error::input(format!("sweep `{path}`: no values")));
    }
    // Each fold is tested on once, so that all of them are one result; categories are tasks, which stand apart anyway.
    if path == FOLD || path == CATEGORIES {
        return Ok(());
    }
    let first = path.split('.').next().unwrap_or(path);
    if let Some((_, why)) = FIXED.iter().find(|(key, _)| *key == first) {
        return Err(Error::input(format!("sweep `{path}`: `{first}` cannot be swept: {why}"))
            .hint("sweep what changes a result: networks, methods, evaluation"));
    }
    Ok(())
}

/// The values of a cell: the last key runs fastest.
pub(super) fn combination(sweep: &IndexMap<String, Vec<Value>>, index: usize) -> IndexMap<String, Value> {
    let mut left = index;
    let mut chosen: Vec<(String, Value)> = Vec::with_capacity(sweep.len());
    for (path, values) in sweep.iter().rev() {
        if let Some(value) = values.get(left % values.len().max(1)) {
            chosen.push((path.clone(), value.clone()));
        }
        left /= values.len().max(1);
    }
    chosen.into_iter().rev().collect()
}

fn resolve(tree: &Value, values: &IndexMap<String, Value>) -> Result<Experiment> {
    let mut tree = tree.clone();
    let mut said = Vec::new();
    for (path, value) in values {
        said.push(format!("`{path}: {value}`"));
        let quoted = |error: Error| error.at(&format!("sweep `{path}: {value}`"));
        set(&mut tree, path, value.clone()).map_err(quoted)?;
        to_experiment(&tree).map_err(quoted)?;
    }
    let mut experiment = to_experiment(&tree)?;
    check(&experiment).map_err(|error| error.at(&format!("sweep {}", said.join(", "))))?;
    experiment.sweep.clear();
    Ok(experiment)
}

/// Each swept path's shortest suffix that no other swept path ends with.
fn labels(sweep: &IndexMap<String, Vec<Value>>) -> IndexMap<&str, String> {
    let suffix = |path: &str, steps: usize| {
        let parts: Vec<&str> = path.split('.').collect();
        parts[parts.len().saturating_sub(steps)..].join(".")
    };
    let label = |path: &str| {
        let others = || sweep.keys().filter(|other| *other != path);
        let steps = (1..=path.split('.').count())
            .find(|steps| others().all(|other| suffix(other, *steps) != suffix(path, *steps)))
            .unwrap_or(usize::MAX);
        suffix(path, steps)
    };
    sweep.keys().map(|path| (path.as_str(), label(path))).collect()
}

fn name(labels: &IndexMap<&str, String>, values: &IndexMap<String, Value>) -> String {
    if values.is_empty() {
        return "default".into();
    }
    let part = |(path, value): (&String, &Value)| {
        let label = labels.get(path.as_str()).unwrap_or(path);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", file_words(label), file_words(&value))
    };
    values.iter().map(part).collect::<Vec<_>>().join(",")
}

/// Text as part of a file name: anything else than letters, digits and `._+-` becomes one `-`.
fn file_words(text: &str) -> String {
    let mut words = String::new();
    for c in text.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-').chars() {
        if c.is_ascii_alphanumeric() || "._+".contains(c) {
            words.push(c);
        } else if !words.ends_with('-') {
            words.push('-');
        }
    }
    words
}

/// Long names are cut, and names that are equal then (or were made equal by [`file_words`]) get their cell's number.
fn make_unique(cells: &mut [SweepCell]) {
    const LONGEST: usize = 120;
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for cell in cells.iter_mut() {
        cell.name.truncate(LONGEST);
        *count.entry(cell.name.to_lowercase()).or_default() += 1;
    }
    for (index, cell) in cells.iter_mut().enumerate() {
        if count.get(&cell.name.to_lowercase()).is_some_and(|count| *count > 1) {
            cell.name.push_str(&format!("+{index}"));
        }
    }
}
