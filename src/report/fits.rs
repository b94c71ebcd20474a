//! What detectors' fits met, for a table's caption.

use indexmap::IndexMap;
use serde_json::Value;

use crate::{detectors::in_words, report::variants::Variant};

/// Methods whose fits a caption tells of, at most: a line of more would be longer than the table.
const TOLD: usize = 6;

/// What tells of the machine, not of the fit.
const OF_THE_MACHINE: [&str; 1] = ["passes"];

/// What is told however many there are: that a fit learned from less than it was to, for want of memory.
const MEMORY: &str = "memory";

/// `Fits of seed 0 (what is 0 left out): AFDU: neurons 4694, with atoms 2994; DDU: jitter 1e-5.` Of each method's first seed;
/// methods that met the same stand together. `None` if there is nothing to tell.
pub fn line(methods: &[Variant<'_>]) -> Option<String> {
    let mut told: IndexMap<String, Vec<String>> = IndexMap::new();
    let (mut first, mut limited) = (None, Vec::new());
    for method in methods {
        let Some((seed, result)) = method.methods().next() else { continue };
        let mut fit = result.fit.clone().unwrap_or_default();
        if let Some(fit) = fit.as_object_mut() {
            fit.retain(|key, _| !OF_THE_MACHINE.contains(&key.as_str()));
        }
        if let Some(limit) = fit.get(MEMORY).and_then(Value::as_str).filter(|limit| !limit.is_empty()) {
            limited.push(format!(" {}: {limit}.", method.label()));
        }
        let words = in_words(&fit);
        if !words.is_empty() {
            first.get_or_insert(seed.seed);
            told.entry(words).or_default().push(method.label());
        }
    }
    let seed = first?;
    if told.values().map(Vec::len).sum::<usize>() > TOLD {
        let line = format!("What the detectors' fits met is in results.json, under `fit`.{}", limited.concat());
        return Some(line.replace(char::is_control, " "));
    }
    let told: Vec<String> = told.iter().map(|(words, names)| format!("{}: {words}", names.join(", "))).collect();
    let line = format!("Fits of seed {seed} (what is 0 left out): {}.", told.join("; "));
    Some(line.replace(char::is_control, " "))
}
