//! Numbers of one method along the sweep, a panel each; the band is ± one population standard deviation over the seeds of each
//! value. Seeds share batches and first weights between values, so differences of values may spread less: the subtitle says so, and
//! `differences: true` shows each seed's differences to the first value instead.
//!
//! Swept values stand at equal distances, so that 0 and powers of ten fit one axis. With several swept keys the last is
//! the axis, and each combination of the others a line. Of several categories, a line is their mean; where there is but one line, each
//! category has a faint one of its own beside it.

use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::{Sampling, SweepFigure},
    metrics::{MeanStd, Protocol},
    report::{
        figures::{Axis, Mark, Panel, Picture, Style, method, title},
        table::{Header, Number, Sets},
        variants::{self, Variant},
    },
    run::results::Results,
};

/// Values of the axis that are labelled, at most.
const MOST_TICKS: usize = 12;

/// How faint the lines of single categories are beside their mean.
const BESIDE: f64 = 0.45;

/// The picture: means over the OOD sets, or over the categories.
pub fn picture(figure: &SweepFigure, results: &Results, protocol: Protocol) -> Result<Picture> {
    let along = Along::of("sweep", &figure.method, results)?;
    let Along { key, values, lines, .. } = &along;
    let variants: Vec<&Variant<'_>> = lines.values().flatten().map(|(_, variant)| variant).collect();
    let sets: Vec<&str> = results.sets().map(|(name, _)| name).collect();
    let of = if results.has_categories() { "categories" } else { "OOD sets" };
    // Of the mean, and where it is the only line, of each category as well.
    let alone = results.has_categories() && sets.len() > 1 && lines.len() == 1;
    let parts: Vec<Sets<'_>> =
        std::iter::once(Sets::Mean(&sets)).chain(sets.iter().filter(|_| alone).map(|set| Sets::One(set))).collect();
    let panels = figure.columns.iter().map(|column| {
        let mut marks = Vec::new();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        // What is drawn last lies above: the mean.
        let drawn: Vec<_> = parts.iter().flat_map(|part| lines.values().map(move |line| (*part, line))).collect();
        for (index, (part, line)) in drawn.into_iter().enumerate().rev() {
            let number = Number { column: *column, sets: part, protocol, sampling: Sampling::Full };
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
            if alone && index > 0 {
                means.iter().for_each(|(_, mean)| (low, high) = (low.min(*mean), high.max(*mean)));
                marks.push(Mark::Line(means, Style::of(index).faint(BESIDE)));
                continue;
            }
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
            x_label: (*key).to_owned(),
            y_label: match (figure.differences, column.is_of_classes()) {
                (true, _) => format!("difference to {}, points", values[0]),
                (false, true) => "test accuracy (%)".to_owned(),
                (false, false) if alone => "mean, and each category (%)".to_owned(),
                (false, false) => format!("mean over {of} (%)"),
            },
            x: along.axis(),
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
    let some = along.labelled();
    let named = lines.len() > 1;
    let of_sets =
        [format!("mean of {} categories", sets.len())].into_iter().chain(sets.iter().map(|set| (*set).to_owned()));
    let style = |index: usize| if index > 0 { Style::of(index).faint(BESIDE) } else { Style::of(index) };
    let legend = match alone {
        true => of_sets.enumerate().map(|(index, name)| (name, style(index))).collect(),
        false => {
            lines.keys().enumerate().filter(|_| named).map(|(index, name)| (name.clone(), Style::of(index))).collect()
        }
    };
    Ok(Picture {
        title: format!("{}{} along the sweep", if figure.differences { "Differences of " } else { "" }, figure.method),
        subtitle: format!("{} · {protocol} · {spread}{some}", title(results)),
        panels,
        stacked: false,
        legend,
    })
}

/// A method's variants along a sweep.
pub(super) struct Along<'a> {
    /// The last swept key, whose values stand along the axis.
    pub(super) key: &'a str,
    pub(super) values: Vec<String>,
    /// By the other keys' values, each variant with the place of its value.
    pub(super) lines: IndexMap<String, Vec<(f64, Variant<'a>)>>,
    /// Every so manyth value is labelled.
    every: usize,
}

impl<'a> Along<'a> {
    /// Of a method that a figure of this kind names.
    pub(super) fn of(kind: &str, name: &'a str, results: &'a Results) -> Result<Self> {
        method(results, kind, name)?;
        let variants = variants::of_method(results, name);
        let first = variants.first().filter(|variant| variant.swept);
        let key = first.and_then(|variant| variant.cell.values.keys().last()).ok_or_else(|| {
            Error::input(format!("figure {kind}: no sweep reaches method \"{name}\""))
                .hint("add sweep: { networks.NAME.loss.sparsity.weight: [0, 0.01] }, or remove the figure")
        })?;
        let mut values: Vec<String> = Vec::new();
        let mut lines: IndexMap<String, Vec<_>> = IndexMap::new();
        for variant in variants {
            let others = variant.cell.values.iter().filter(|(path, _)| *path != key);
            let others: Vec<String> = others.map(|(path, value)| short(path, value)).collect();
            let value = variant.cell.values.get(key).map(ToString::to_string).unwrap_or_default();
            let place = values.iter().position(|known| *known == value).unwrap_or_else(|| {
                values.push(value);
                values.len() - 1
            });
            lines.entry(others.join(", ")).or_default().push((place as f64, variant));
        }
        let every = values.len().div_ceil(MOST_TICKS).max(1);
        Ok(Self { key, values, lines, every })
    }

    /// The horizontal axis.
    pub(super) fn axis(&self) -> Axis {
        let ticks = self.values.iter().enumerate().step_by(self.every);
        let ticks = ticks.map(|(place, value)| (place as f64, value.clone())).collect();
        Axis { range: (-0.3, self.values.len() as f64 - 0.7), ticks }
    }

    /// What a subtitle says of the axis.
    pub(super) fn labelled(&self) -> String {
        if self.every == 1 { String::new() } else { format!(" · one of {} values labelled", self.every) }
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Of the two categories of a record, with their numbers as its tables have them.
    #[test]
    fn of_several_categories_the_mean_and_each_are_drawn() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results/surfaces_pseudo_ratio");
        let results = Results::read(&folder).unwrap().unwrap();
        let figure = |differences| SweepFigure {
            method: "Fusion".into(),
            columns: vec![serde_json::from_value("auroc".into()).unwrap()],
            differences,
        };
        let drawn = picture(&figure(false), &results, Protocol::default()).unwrap();
        let names: Vec<&str> = drawn.legend.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["mean of 2 categories", "transistor", "metal_plate"]);
        let lines = |panel: &Panel| -> Vec<Vec<String>> {
            let of = |mark: &Mark| match mark {
                Mark::Line(points, _) => Some(points.iter().map(|(_, value)| format!("{value:.2}")).collect()),
                _ => None,
            };
            panel.marks.iter().filter_map(of).collect()
        };
        // The mean last, on top: share 0, 0.05, 0.25, 0.5, 0.75, 1.
        let [metal_plate, transistor, mean] = &lines(&drawn.panels[0])[..] else { panic!("three lines") };
        assert_eq!(mean, &["63.19", "86.11", "90.84", "93.30", "93.87", "91.70"]);
        assert_eq!(
            [&transistor[0], &transistor[3], &metal_plate[0], &metal_plate[3]],
            ["66.69", "87.11", "59.68", "99.49"]
        );
        assert_eq!(drawn.panels[0].y_label, "mean, and each category (%)");
        let (low, high) = drawn.panels[0].y.range;
        assert!(low < 59.68 && high > 99.49, "{low} to {high}");
        let differences = picture(&figure(true), &results, Protocol::default()).unwrap();
        assert_eq!(lines(&differences.panels[0])[2][3], "30.12");
    }
}
