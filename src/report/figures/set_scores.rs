//! Mean scores of the ID set and of each OOD set along the sweep; the band holds the middle half of a set's scores.
//!
//! The last swept key is the axis, and each combination of the others has a panel.

use std::path::Path;

use crate::{
    Result,
    config::SetScoresFigure,
    report::figures::{Axis, Mark, Panel, Picture, Style, id_set, ood_sets, scores, sweep::Along, title},
    run::results::Results,
};

/// Beside the lowest and the highest band, of the distance between them.
const MARGIN: f64 = 0.05;

/// The picture; reads the score files.
pub fn picture(figure: &SetScoresFigure, results: &Results, runs_root: &Path) -> Result<Picture> {
    let along = Along::of("set_scores", &figure.method, results)?;
    let sets: Vec<&str> = std::iter::once(id_set(results)?).chain(ood_sets(results)).collect();
    let panels = along.lines.iter().map(|(others, line)| {
        let mut marks = Vec::new();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (index, set) in sets.iter().enumerate() {
            let mut points = Vec::new();
            for (place, variant) in line {
                points.push((*place, Summary::of(scores::read(variant, set, runs_root)?)));
            }
            for (_, summary) in &points {
                low = low.min(summary.lower).min(summary.mean);
                high = high.max(summary.upper).max(summary.mean);
            }
            let (style, points) = (Style::of(index), &points);
            let at = |of: fn(&Summary) -> f64| points.iter().map(move |(place, summary)| (*place, of(summary)));
            marks.push(Mark::Area(at(|of| of.upper).chain(at(|of| of.lower).rev()).collect(), style.faint(0.15)));
            marks.push(Mark::Line(at(|of| of.mean).collect(), style));
            marks.push(Mark::Dots(at(|of| of.mean).collect(), style));
        }
        let margin = ((high - low) * MARGIN).max(high.abs().max(1e-6) * 1e-3);
        Ok(Panel {
            title: if others.is_empty() { figure.method.clone() } else { others.clone() },
            x_label: along.key.to_owned(),
            y_label: "score (larger: more anomalous)".to_owned(),
            x: along.axis(),
            y: Axis { range: (low - margin, high + margin), ticks: Vec::new() },
            marks,
        })
    });
    let panels = panels.collect::<Result<_>>()?;
    let name = |(index, set): (usize, &&str)| {
        (if index == 0 { format!("{set} (ID)") } else { (*set).to_owned() }, Style::of(index))
    };
    Ok(Picture {
        title: format!("Scores of {} along the sweep", figure.method),
        subtitle: format!(
            "{} · mean, and the middle half of each set · first seed{}",
            title(results),
            along.labelled()
        ),
        panels,
        stacked: false,
        legend: sets.iter().enumerate().map(name).collect(),
    })
}

/// A set's scores in three numbers.
struct Summary {
    mean: f64,
    /// A quarter is lower.
    lower: f64,
    /// A quarter is higher.
    upper: f64,
}

impl Summary {
    /// Of scores, of which there is at least one.
    fn of(mut scores: Vec<f64>) -> Self {
        scores.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| scores[(share * (scores.len() - 1) as f64).round() as usize];
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        Self { mean, lower: at(0.25), upper: at(0.75) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_its_mean_and_its_quarters() {
        let Summary { mean, lower, upper } = Summary::of(vec![5.0, 1.0, 2.0, 3.0, 14.0]);
        assert_eq!([mean, lower, upper], [5.0, 2.0, 5.0]);
        assert_eq!(Summary::of(vec![7.0]).upper, 7.0);
    }
}
