//! What a method or network is called in a sweep.
//!
//! A sweep gives a method one result per cell, but only if the sweep reaches it: in `networks.tuned.loss...: [0, 0.01]`
//! a method on `base` is the same in every cell. It then appears once, under its name; a method that the sweep reaches
//! appears once per cell, as `name (cell)`.

use serde_json::Value;

use crate::{
    config::{expect::in_cell, methods::ALL},
    detectors::DetectorConfig,
    run::results::{Cell, MethodResult, NetworkResult, Results, SeedResult},
};

/// A method or network in the cell, or the only cell, that it appears with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant<'a> {
    /// The method's or network's name.
    pub name: &'a str,
    /// Where its numbers are.
    pub cell: &'a Cell,
    /// Whether the sweep reaches it, so that other cells have other numbers.
    pub swept: bool,
    /// Whether the cell holds the experiment file's own values: it is what a paper's number stands beside.
    pub base: bool,
}

impl<'a> Variant<'a> {
    /// `Sparsity`, or `Sparsity (weight=0.01)` if the sweep reaches it.
    pub fn label(&self) -> String {
        if self.swept { in_cell(self.name, &self.cell.name) } else { self.name.to_owned() }
    }

    /// The method's results by seed; seeds without it are left out.
    pub fn methods(&self) -> impl Iterator<Item = (&'a SeedResult, &'a MethodResult)> + use<'a> {
        let name = self.name;
        self.cell.seeds.iter().filter_map(move |seed| Some((seed, seed.task()?.methods.get(name)?)))
    }

    /// Whether it is a control row.
    pub fn is_control(&self) -> bool {
        self.methods().any(|(_, method)| method.control)
    }

    /// Why it has no scores, if it is one of `detector: all` that cannot have them with some seed.
    pub fn unfit(&self) -> Option<&'a str> {
        self.cell.seeds.iter().find_map(|seed| Some(seed.task()?.unfit.get(self.name)?.as_str()))
    }

    /// The network's results by seed; seeds without it are left out.
    pub fn networks(&self) -> impl Iterator<Item = &'a NetworkResult> + use<'a> {
        let name = self.name;
        self.cell.seeds.iter().filter_map(move |seed| seed.task()?.networks.get(name))
    }
}

/// The method in every cell in which it differs.
pub fn of_method<'a>(results: &'a Results, name: &'a str) -> Vec<Variant<'a>> {
    let control = results.controls().contains(name);
    variants(results, name, |path| match control {
        // It is of the images alone.
        true => !["methods", "networks", "evaluation"].contains(&path.split('.').next().unwrap_or_default()),
        false => reaches_method(&results.config, path, name),
    })
}

/// The network in every cell in which it differs.
pub fn of_network<'a>(results: &'a Results, name: &'a str) -> Vec<Variant<'a>> {
    variants(results, name, |path| reaches_network(&results.config, path, name))
}

/// The one variant that stands for a method or network where only one can be shown: the file's own values, or the first
/// cell if the sweep does not have them.
pub fn representative(variants: Vec<Variant<'_>>) -> Option<Variant<'_>> {
    variants.iter().find(|variant| variant.base).copied().or_else(|| variants.first().copied())
}

fn variants<'a>(results: &'a Results, name: &'a str, reaches: impl Fn(&str) -> bool) -> Vec<Variant<'a>> {
    let swept = results.cells.iter().any(|cell| cell.values.keys().any(|path| reaches(path)));
    let cells = if swept { results.cells.as_slice() } else { results.cells.get(..1).unwrap_or_default() };
    cells
        .iter()
        .map(|cell| {
            let base = cell
                .values
                .iter()
                .filter(|(path, _)| reaches(path))
                .all(|(path, value)| at(&results.config, path).is_some_and(|own| same(own, value)));
            Variant { name, cell, swept, base }
        })
        .collect()
}

/// Whether a swept path changes the method: its detector, its network, or what all methods share.
fn reaches_method(config: &Value, path: &str, method: &str) -> bool {
    let mut segments = path.split('.');
    match (segments.next(), segments.next()) {
        (Some("methods"), Some(which)) => {
            position(config, method).is_none_or(|index| which == method || which.parse() == Ok(index))
        }
        (Some("networks"), _) => {
            let entry = position(config, method).and_then(|index| config.get("methods")?.get(index));
            let network = entry.and_then(|entry| entry.get("network")?.as_str());
            let reached = |network: &str| reaches_network(config, path, network);
            network.is_none_or(reached) || entry.and_then(second).is_some_and(|network| reached(&network))
        }
        _ => true,
    }
}

/// Whether a swept path changes the network: itself, one that it starts from, or what all networks share.
fn reaches_network(config: &Value, path: &str, network: &str) -> bool {
    let mut segments = path.split('.');
    match (segments.next(), segments.next()) {
        (Some("methods" | "evaluation"), _) => false,
        (Some("networks"), Some(changed)) => {
            // No chain is longer than the number of networks, so a circle in a damaged record ends too.
            let networks = config.get("networks").and_then(Value::as_object);
            let mut current = Some(network);
            for _ in 0..=networks.map_or(0, serde_json::Map::len) {
                match current {
                    Some(name) if name == changed => return true,
                    Some(name) => {
                        current = networks.and_then(|all| all.get(name)?.get("from")?.as_str());
                    }
                    None => return false,
                }
            }
            false
        }
        _ => true,
    }
}

/// The entry of the experiment that a method is of: the one of its name, else the one whose detectors it is among.
fn position(config: &Value, method: &str) -> Option<usize> {
    let entries = config.get("methods")?.as_array()?;
    let all = |entry: &Value| detector(entry) == Some(ALL);
    let one = |entry: &Value| !all(entry) && entry["name"].as_str().or_else(|| detector(entry)) == Some(method);
    let among = |entry: &Value| {
        all(entry)
            && match entry["name"].as_str() {
                Some(before) => method.strip_prefix(before).is_some_and(|rest| rest.starts_with(": ")),
                None => DetectorConfig::NAMES.contains(&method),
            }
    };
    entries.iter().position(one).or_else(|| entries.iter().position(among))
}

/// The second network of an entry whose detector reads two.
fn second(entry: &Value) -> Option<String> {
    let detector: DetectorConfig = serde_json::from_value(entry.get("detector")?.clone()).ok()?;
    detector.detector().second()?.network.map(str::to_owned)
}

/// The key under which an entry's settings stand.
fn detector(entry: &Value) -> Option<&str> {
    entry["detector"].as_object()?.keys().next().map(String::as_str)
}

fn at<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(config, |value, segment| match value {
        Value::Array(items) => {
            items.get(segment.parse::<usize>().ok()?).or_else(|| items.iter().find(|item| item["name"] == segment))
        }
        other => other.get(segment),
    })
}

/// `0` and `0.0` are one value.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}
