//! What detectors' fits met, for a table's caption.

use indexmap::IndexMap;

use crate::{detectors::in_words, report::variants::Variant};

/// Methods whose fits a caption tells of, at most: a line of more would be longer than the table.
const TOLD: usize = 6;

/// What tells of the machine, not of the fit.
const OF_THE_MACHINE: [&str; 1] = ["passes"];

/// `Fits of seed 0 (what is 0 left out): AFDU: neurons 4694, with atoms 2994; DDU: jitter 1e-5.` Of each method's first seed;
/// methods that met the same stand together. `None` if there is nothing to tell.
pub fn line(methods: &[Variant<'_>]) -> Option<String> {
    let mut told: IndexMap<String, Vec<String>> = IndexMap::new();
    let mut first = None;
    for method in methods {
        let Some((seed, result)) = method.methods().next() else { continue };
        let mut fit = result.fit.clone().unwrap_or_default();
        if let Some(fit) = fit.as_object_mut() {
            fit.retain(|key, _| !OF_THE_MACHINE.contains(&key.as_str()));
        }
        let words = in_words(&fit);
        if !words.is_empty() {
            first.get_or_insert(seed.seed);
            told.entry(words).or_default().push(method.label());
        }
    }
    let seed = first?;
    if told.values().map(Vec::len).sum::<usize>() > TOLD {
        return Some("What the detectors' fits met is in results.json, under `fit`.".to_owned());
    }
    let told: Vec<String> = told.iter().map(|(words, names)| format!("{}: {words}", names.join(", "))).collect();
    let line = format!("Fits of seed {seed} (what is 0 left out): {}.", told.join("; "));
    Some(line.replace(char::is_control, " "))
}
