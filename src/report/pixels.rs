//! What a caption says of pixel measures: how they are taken, and why one is missing.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    config::Table,
    metrics::{
        Column,
        measures::{PRO, PRO_LIMIT},
        pixel::AUPIMO_FROM,
    },
    report::variants::Variant,
    run::results::{DatasetRecord, Results},
};

/// The key of AUPIMO in results.
const AUPIMO: &str = "aupimo";

/// The sentences; none of a table without pixel measures.
pub fn lines(table: &Table, variants: &[Variant<'_>], results: &Results) -> Vec<String> {
    if !table.columns.iter().any(|column| column.is_of_pixels()) {
        return Vec::new();
    }
    let mut lines = vec![
        "Pixel measures are over all pixels of all test images, on raw scores, at the network's input size.".to_owned(),
        format!("Masks are brought to that size by the rule {}.", mask_rules(results)),
    ];
    if table.columns.iter().any(|column| matches!(column, Column::Pro | Column::ProAt(_))) {
        lines.push("PRO: 8-connected regions count alike, against the normal pixels of all images.".to_owned());
        lines.push("PRO is divided by the false positive rate that it is integrated up to.".to_owned());
        lines.push(format!("That rate is {PRO_LIMIT}, unless the column says otherwise."));
    }
    lines.extend(unmarked(results));
    let has = |variant: &Variant<'_>, set: &str, key: &str| {
        let measured = variant.cell.seeds.iter().filter_map(|seed| seed.measured(variant.name, set));
        measured.into_iter().any(|measured| measured.measures.contains_key(key))
    };
    let sets: Vec<&str> = results.sets().map(|(name, _)| name).collect();
    let methods = variants.iter().filter(|variant| !variant.is_control());
    let (mapping, others): (Vec<&Variant<'_>>, Vec<_>) =
        methods.partition(|method| sets.iter().any(|set| has(method, set, PRO)));
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|method| method.label()).collect();
        let why = match are_black(results) {
            true => "No mask marks a pixel at this size, so",
            false => "Without maps or masks",
        };
        lines.push(format!("{why} there are no pixel measures: {}.", names.join(", ")));
    }
    if table.columns.contains(&Column::Aupimo) {
        let lacks = |method: &&Variant<'_>, set: &str| has(method, set, PRO) && !has(method, set, AUPIMO);
        let few = sets.iter().filter(|set| mapping.iter().any(|method| lacks(method, set)));
        let few: Vec<&str> = few.copied().collect();
        if !few.is_empty() {
            let least = (1.0 / AUPIMO_FROM).round();
            let named = few.join(", ");
            lines.push(format!("AUPIMO is a dash for {named}: the normal test images have fewer than {least} pixels."));
            lines.push(format!("Its lowest false positive rate, {AUPIMO_FROM:e}, would be less than one pixel."));
            if sets.len() > 1 {
                lines.push("A mean over such categories is a dash too.".to_owned());
            }
        }
    }
    lines
}

/// When a pixel of a resized mask counts, of all sets with masks.
fn mask_rules(results: &Results) -> String {
    let data = &results.config["data"];
    let has_masks = |set: &&Value| {
        let record = set["name"].as_str().and_then(|name| results.datasets.get(name));
        record.is_some_and(|record| record.masks_sha256.is_some())
    };
    let sets: Vec<&Value> = match data["ood"].as_array() {
        Some(ood) if !results.has_categories() => ood.iter().filter(has_masks).collect(),
        _ => vec![data],
    };
    let rules: BTreeSet<&str> = sets.iter().map(|set| set["mask_rule"].as_str().unwrap_or("nearest")).collect();
    rules.into_iter().collect::<Vec<_>>().join(" or ")
}

/// Whether there are masks of anomalous images, and none marks a pixel.
fn are_black(results: &Results) -> bool {
    let masks = |(name, record): (&String, &DatasetRecord)| {
        let kinds = record.kinds.iter().filter(|(kind, _)| *kind != name).map(|(_, kind)| (kind.images, kind.unmarked));
        kinds.chain([(record.test, record.unmarked)]).collect::<Vec<_>>()
    };
    let normal = |name: &String| !results.has_categories() && results.config["data"]["id"]["name"] == name.as_str();
    let sets = results.datasets.iter().filter(|(name, _)| !normal(name));
    let masks: Vec<_> = sets.flat_map(masks).filter_map(|(images, unmarked)| Some((images, unmarked?))).collect();
    !masks.is_empty() && masks.iter().all(|(images, unmarked)| images == unmarked)
}

/// Images that have no part in pixel measures.
fn unmarked(results: &Results) -> Option<String> {
    let of = |(name, record): (&String, &DatasetRecord)| {
        let count: usize = record.kinds.values().filter_map(|kind| kind.unmarked).chain(record.unmarked).sum();
        (count > 0).then(|| format!("{count} of {name}"))
    };
    let all: Vec<String> = results.datasets.iter().filter_map(of).collect();
    (!all.is_empty()).then(|| {
        format!("Anomalous images without a marked pixel at this size, left out of pixel measures: {}.", all.join(", "))
    })
}
