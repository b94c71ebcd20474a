//! What detectors' fits met, for a table's caption.

use indexmap::{IndexMap, IndexSet};

use crate::{detectors::in_words, report::variants::Variant};

/// Methods whose fits a caption tells of, at most: a line of more would be longer than the table.
const TOLD: usize = 6;

/// What tells of the machine, not of the fit.
const OF_THE_MACHINE: [&str; 1] = ["passes"];

/// What is told however many there are: that a fit learned from less than it was to, for want of memory.
const MEMORY: &str = "memory";

/// `Fits, seed 0; what is 0 is left out.` and a line for each method: `AFDU: neurons 4694, with atoms 2994.` Of each method's first
/// seed, and of the first category; methods that met the same stand together. None if there is nothing to tell.
pub fn lines(methods: &[Variant<'_>]) -> Vec<String> {
    let mut told: IndexMap<String, Vec<String>> = IndexMap::new();
    let (mut first, mut limited) = (None, Vec::new());
    for method in methods {
        limited.extend(limits(method).map(|limit| format!("{}: {limit}.", method.label())));
        let Some((seed, result)) = method.methods().next() else { continue };
        let mut fit = result.fit.clone().unwrap_or_default();
        if let Some(fit) = fit.as_object_mut() {
            fit.retain(|key, _| key != MEMORY && !OF_THE_MACHINE.contains(&key.as_str()));
        }
        let words = in_words(&fit);
        if !words.is_empty() {
            first.get_or_insert(seed);
            told.entry(words).or_default().push(method.label());
        }
    }
    let mut lines = Vec::new();
    if told.values().map(Vec::len).sum::<usize>() > TOLD {
        lines.push("What the detectors' fits met is in results.json, under `fit`.".to_owned());
    } else if let Some(seed) = first {
        let category = seed.tasks.keys().next().filter(|_| seed.tasks.len() > 1);
        let of = category.map(|category| format!(" of {category}")).unwrap_or_default();
        lines.push(format!("Fits{of}, seed {}; what is 0 is left out.", seed.seed));
        lines.extend(told.iter().map(|(words, names)| format!("{}: {words}.", names.join(", "))));
    }
    lines.into_iter().chain(limited).map(|line| line.replace(char::is_control, " ")).collect()
}

/// What limited a method's fits, each once.
fn limits<'a>(method: &Variant<'a>) -> impl Iterator<Item = &'a str> {
    let (name, seeds) = (method.name, method.cell.seeds.iter());
    let fits = seeds.flat_map(|seed| seed.tasks.values()).filter_map(move |task| task.methods.get(name)?.fit.as_ref());
    let limits = fits.filter_map(|fit| fit.get(MEMORY)?.as_str()).filter(|limit| !limit.is_empty());
    limits.collect::<IndexSet<_>>().into_iter()
}
