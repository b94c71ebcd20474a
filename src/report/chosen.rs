//! Which settings searches chose, for a table's caption.

use indexmap::IndexMap;

use crate::{
    config::search::{By, in_words},
    report::variants::Variant,
    run::results::Results,
};

/// `Chosen on validation OOD (tin_val, made of cifar10_val: jigsaw, against 1000 images of cifar10_val) by the mean AUROC: react:
/// percentile=95; …`, with the seeds where they differ. `None` if nothing was searched.
pub fn line(methods: &[Variant<'_>], results: &Results) -> Option<String> {
    let mut by = None;
    let mut told = Vec::new();
    for method in methods {
        let mut choices: IndexMap<String, Vec<String>> = IndexMap::new();
        for (seed, result) in method.methods() {
            let Some(search) = &result.search else { continue };
            by = Some(search.by);
            choices.entry(in_words(&search.chosen)).or_default().push(seed.seed.to_string());
        }
        let alone = choices.len() == 1;
        let words = choices.into_iter().map(|(words, seeds)| match alone {
            true => words,
            false => format!("{words} (seed {})", seeds.join(", ")),
        });
        let words: Vec<String> = words.collect();
        if !words.is_empty() {
            told.push(format!("{}: {}", method.label(), words.join(" or ")));
        }
    }
    let by = match by? {
        By::Auroc => "largest mean AUROC",
        By::Fpr95 => "smallest mean FPR95 (ID positive)",
    };
    let mut sets = results.validation.iter();
    let id = sets.next().map_or(String::new(), |(name, record)| format!("{} images of {name}", record.test));
    let (made, read): (Vec<_>, Vec<_>) = sets.partition(|(_, record)| record.made_of.is_some());
    let mut ood: Vec<String> = read.into_iter().map(|(name, _)| name.clone()).collect();
    if let Some(source) = made.first().and_then(|(_, record)| record.made_of.as_ref()) {
        let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
        ood.push(format!("made of {source}: {}", names.join(", ")));
    }
    let line = format!("Chosen on validation OOD ({} against {id}) by the {by}: {}.", ood.join(", "), told.join("; "));
    Some(line.replace(char::is_control, " "))
}
