//! Numbers of one method along the sweep, a panel each; the band is ± one population standard deviation over the seeds of each
//! value. Seeds share batches and first weights between values, so differences of values may spread less: the subtitle says so, and
//! `differences: true` shows each seed's differences to the first value instead.
//!
//! Swept values stand at equal distances, so that 0 and powers of ten fit one axis. With several swept keys the last is
//! the axis, and each combination of the others a line.

use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::{Sampling, SweepFigure},
    metrics::{MeanStd, Protocol},
    report::{
        figures::{Axis, Mark, Panel, Picture, Style, method, ood_sets, title},
        table::{Header, Number, Sets},
        variants::{self, Variant},
    },
    run::results::Results,
};

/// Values of the axis that are labelled, at most.
const MOST_TICKS: usize = 12;

/// The picture: means over the OOD sets.
pub fn picture(figure: &SweepFigure, results: &Results, protocol: Protocol) -> Result<Picture> {
    method(results, "sweep", &figure.method)?;
    let variants = variants::of_method(results, &figure.method);
    let key = variants.first().filter(|variant| variant.swept).and_then(|variant| variant.cell.values.keys().last());
    let key = key.ok_or_else(|| {
        Error::input(format!("figure sweep: no sweep reaches method \"{}\"", figure.method))
            .hint("add sweep: { networks.NAME.loss.sparsity.weight: [0, 0.01] }, or remove the figure")
    })?;
    // Values along the axis, and lines of (value's place, variant) by the other keys' values.
    let mut values: Vec<String> = Vec::new();
    let mut lines: IndexMap<String, Vec<(f64, Variant<'_>)>> = IndexMap::new();
    for variant in &variants {
        let others: Vec<String> = variant
            .cell
            .values
            .iter()
            .filter(|(path, _)| *path != key)
            .map(|(path, value)| short(path, value))
            .collect();
        let value = variant.cell.values.get(key).map(ToString::to_string).unwrap_or_default();
        let place = values.iter().position(|known| *known == value).unwrap_or_else(|| {
            values.push(value);
            values.len() - 1
        });
        lines.entry(others.join(", ")).or_default().push((place as f64, *variant));
    }
    let sets = ood_sets(results);
    // Every so manyth value is labelled.
    let every = values.len().div_ceil(MOST_TICKS).max(1);
    let panels = figure.columns.iter().map(|column| {
        let number = Number { column: *column, sets: Sets::Mean(&sets), protocol, sampling: Sampling::Full };
        let mut marks = Vec::new();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (index, line) in lines.values().enumerate() {
            let points: Vec<(f64, MeanStd)> = line
                .iter()
                .filter_map(|(place, variant)| {
                    let number = match figure.differences {
                        true => difference(&number, variant, &line[0].1)?,
                        false => number.of(variant)?,
                    };
                    Some((*place, number))
                })
                .collect();
            let upper = points.iter().map(|(place, number)| (*place, number.mean + number.std));
            let lower = points.iter().rev().map(|(place, number)| (*place, number.mean - number.std));
            let means: Vec<_> = points.iter().map(|(place, number)| (*place, number.mean)).collect();
            for (_, number) in &points {
                (low, high) = (low.min(number.mean - number.std), high.max(number.mean + number.std));
            }
            // Differences of equal numbers are 0 but for rounding.
            if points.iter().any(|(_, number)| number.std > 1e-9) {
                marks.push(Mark::Area(upper.chain(lower).collect(), Style::of(index).faint(0.2)));
            }
            marks.push(Mark::Line(means.clone(), Style::of(index)));
            marks.push(Mark::Dots(means, Style::of(index)));
        }
        let margin = ((high - low) * 0.08).max(0.05);
        let range = if low <= high { (low - margin, high + margin) } else { (0.0, 100.0) };
        let header = Header { group: None, metric: *column, paper: false, intervals: false, marks: Vec::new() };
        Panel {
            title: header.title().into_owned(),
            x_label: key.clone(),
            y_label: match (figure.differences, column.is_of_classes()) {
                (true, _) => format!("difference to {}, points", values[0]),
                (false, true) => "test accuracy (%)".to_owned(),
                (false, false) => "mean over OOD sets (%)".to_owned(),
            },
            x: Axis {
                range: (-0.3, values.len() as f64 - 0.7),
                ticks: values
                    .iter()
                    .enumerate()
                    .step_by(every)
                    .map(|(place, value)| (place as f64, value.clone()))
                    .collect(),
            },
            y: Axis { range, ticks: Vec::new() },
            marks,
        }
    });
    let panels = panels.collect();
    let seeds = variants.iter().map(|variant| variant.cell.seeds.len()).max().unwrap_or(0);
    let spread = match seeds {
        0 | 1 => "one seed".to_owned(),
        seeds if figure.differences => {
            format!("mean ± population standard deviation of the differences of {seeds} seeds, each to its own")
        }
        seeds => format!(
            "mean ± population standard deviation over {seeds} seeds of each value, not of differences between values"
        ),
    };
    let protocol = if protocol.convention() == Protocol::IdPositiveClosest {
        "ID positive, closest threshold"
    } else {
        "OOD positive, first threshold"
    };
    let some = match every {
        1 => String::new(),
        every => format!(" · one of {every} values labelled"),
    };
    let named = lines.len() > 1;
    Ok(Picture {
        title: format!("{}{} along the sweep", if figure.differences { "Differences of " } else { "" }, figure.method),
        subtitle: format!("{} · {protocol} · {spread}{some}", title(results)),
        panels,
        stacked: false,
        legend: lines.into_keys().enumerate().filter(|_| named).map(|(index, name)| (name, Style::of(index))).collect(),
    })
}

/// A number less that of the first value, seed by seed: of the seeds that have both.
fn difference(number: &Number<'_>, variant: &Variant<'_>, first: &Variant<'_>) -> Option<MeanStd> {
    let first: IndexMap<u64, MeanStd> = number.by_seed(first)?.into_iter().collect();
    let differences: Vec<f64> = number
        .by_seed(variant)?
        .into_iter()
        .filter_map(|(seed, own)| Some(own.mean - first.get(&seed)?.mean))
        .collect();
    (!differences.is_empty()).then(|| MeanStd::of(&differences))
}

/// `weight=0.01`: the last part of the path says enough.
fn short(path: &str, value: &serde_json::Value) -> String {
    format!("{}={value}", path.rsplit('.').next().unwrap_or(path))
}
