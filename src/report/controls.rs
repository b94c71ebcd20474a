//! What a caption says of control rows, and where one of them reaches what a method does.

use crate::{
    config::Table,
    metrics::{self, Better, Column, Unit},
    report::{
        table::{Header, Number, Sets, two_decimals},
        variants::Variant,
    },
    run::controls::MEAN_IMAGE,
};

/// What control rows are.
const WHAT: [&str; 3] = [
    "Control rows are statistics of the images before they are normalised, or of their files' size.",
    "An image is scored by its distance from the train images' median, in median absolute deviations.",
    "On the better side: by large or small, whichever tells a set better; this looks at the test images.",
];

/// What [`MEAN_IMAGE`] is, where there is such a row: results of earlier versions have none.
const OF_MEAN: &str = "the mean squared distance of an image's values from the mean train image.";

/// Sets that a note tells of, at most.
const TOLD: usize = 8;

/// The sentences; none of a table without control rows.
pub fn lines(table: &Table, variants: &[Variant<'_>], sets: &[&str]) -> Vec<String> {
    let (controls, methods): (Vec<Variant<'_>>, Vec<_>) = variants.iter().copied().partition(Variant::is_control);
    if controls.is_empty() {
        return Vec::new();
    }
    let reached = table.columns.iter().find_map(|column| reached(table, *column, [&controls, &methods], sets));
    let of_mean = controls.iter().any(|control| control.label().starts_with(MEAN_IMAGE));
    let of_mean = of_mean.then(|| format!("{MEAN_IMAGE}: {OF_MEAN}"));
    WHAT.map(str::to_owned).into_iter().chain(of_mean).chain(reached.unwrap_or_default()).collect()
}

/// Where a control reaches a method in a number; `None` of a number that controls do not have.
fn reached(
    table: &Table,
    column: Column,
    [controls, methods]: [&[Variant<'_>]; 2],
    sets: &[&str],
) -> Option<Vec<String>> {
    let measure = metrics::measure_for(column, table.protocol)?;
    let sign = match (measure.unit, measure.better) {
        (Unit::Share, Better::Larger) => 1.0,
        (Unit::Share, Better::Smaller) => -1.0,
        _ => return None,
    };
    let of = |variant: &Variant<'_>, set: &str| {
        let (protocol, sampling) = (table.protocol, table.sampled());
        Number { column, sets: Sets::One(set), protocol, sampling }.of(variant).map(|number| number.mean)
    };
    let mut had = false;
    let mut told = Vec::new();
    for set in sets {
        let found = controls.iter().filter_map(|control| Some((control, of(control, set)?)));
        let Some((control, best)) = found.max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1))) else { continue };
        had = true;
        let named = |variant: &Variant<'_>, value: f64| format!("{} {}", variant.label(), two_decimals(value));
        let below = methods.iter().filter_map(|method| {
            let value = of(method, set)?;
            (sign * value <= sign * best).then(|| named(method, value))
        });
        let below: Vec<String> = below.collect();
        if !below.is_empty() {
            told.push(format!("On {set}: {}, where {}.", named(control, best), has(&below)));
        }
    }
    let header = Header { group: None, metric: column, paper: false, intervals: false, marks: Vec::new() };
    let title = header.title();
    let title = title.trim_end_matches([' ', '↑', '↓']);
    if !had {
        return None;
    }
    if told.is_empty() {
        return Some(vec![format!("No control reaches a method in {title}.")]);
    }
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    if more > 0 {
        told.push(format!("And so on {more} more."));
    }
    let head = format!("Where a control reaches a method in {title}, the number says nothing of the method:");
    Some(std::iter::once(head).chain(told).collect())
}

/// `PaDiM 40.80 and PatchCore 60.20`.
fn has(methods: &[String]) -> String {
    match methods {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => methods.concat(),
    }
}
