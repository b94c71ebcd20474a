//! ROC and PRO curves over the pixels of all test images: two panels for each task. The right one ends where MVTec's evaluation does.

use std::path::Path;

use crate::{
    Result,
    config::MethodsFigure,
    metrics::measures::PRO_LIMIT,
    report::figures::{Axis, GREY, Mark, Panel, Picture, Style, maps::view, title},
    run::results::Results,
};

/// The false positive rate up to which the overlap is integrated, in percent.
const LIMIT: f64 = 100.0 * PRO_LIMIT;

/// The picture; reads what was stored beside the scores.
pub fn picture(figure: &MethodsFigure, results: &Results, runs_root: &Path) -> Result<Picture> {
    let mut panels = Vec::new();
    for task in results.mapped() {
        let views = figure.methods.iter().map(|name| view(name, "pixel_curves", 0, &task, results, runs_root));
        let curves: Vec<_> = views.collect::<Result<Vec<_>>>()?.into_iter().map(|view| view.curves).collect();
        for (what, end, y_label) in
            [("ROC", 100.0, "anomalous pixels found (%)"), ("PRO", LIMIT, "overlap with regions (%)")]
        {
            let mut marks = vec![Mark::Line(vec![(0.0, 0.0), (end, end)], GREY.faint(0.5))];
            for (index, curves) in curves.iter().enumerate() {
                let Some(curves) = curves else { continue };
                let curve = if what == "ROC" { &curves.roc } else { &curves.pro };
                marks.push(Mark::Line(up_to(curve, end), Style::of(index)));
            }
            panels.push(Panel {
                title: format!("{}: {what}", task.name),
                x_label: "normal pixels found (%)".to_owned(),
                y_label: y_label.to_owned(),
                x: Axis { range: (0.0, end), ticks: Vec::new() },
                y: Axis { range: (0.0, 100.0), ticks: Vec::new() },
                marks,
            });
        }
    }
    let note = results.datasets.values().find_map(|record| record.note.as_ref());
    let note = note.map(|note| format!(" · {note}")).unwrap_or_default();
    Ok(Picture {
        title: "Pixels: ROC and PRO curves".to_owned(),
        subtitle: format!("{}{note} · first seed", title(results)),
        panels,
        stacked: false,
        legend: figure.methods.iter().enumerate().map(|(at, name)| (name.clone(), Style::of(at))).collect(),
    })
}

/// A curve in percent, cut where it leaves the panel.
fn up_to(curve: &[[f64; 2]], end: f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for [x, y] in curve.iter().map(|point| point.map(|share| 100.0 * share)) {
        if x <= end {
            points.push((x, y));
            continue;
        }
        if let Some(&(left, below)) = points.last() {
            points.push((end, below + (y - below) * (end - left) / (x - left)));
        }
        break;
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_cut_at_the_end_of_the_panel() {
        let curve = [[0.0, 0.0], [0.1, 0.5], [0.5, 0.9], [1.0, 1.0]];
        assert_eq!(up_to(&curve, 30.0), [(0.0, 0.0), (10.0, 50.0), (30.0, 70.0)]);
        assert_eq!(up_to(&curve, 100.0).len(), 4);
    }
}
