//! ROC curves of several methods, one panel per OOD set (Chen & Li 2023, figure 2b). ID is positive: the curve tells how
//! many OOD images are accepted when so many ID images are. The dashed line is where the tables' FPR95 is read off: 95 % of ID images
//! accepted, or, where OOD is positive, 95 % of OOD images rejected.

use std::path::Path;

use crate::{
    Result,
    metrics::Protocol,
    report::figures::{Axis, GREY, Mark, Panel, Picture, Style, id_set, method, ood_sets, scores, title},
    run::results::Results,
};

/// The picture; reads the score files.
pub fn picture(names: &[String], results: &Results, protocol: Protocol, runs_root: &Path) -> Result<Picture> {
    let (line, words) = match protocol.convention() {
        Protocol::IdPositiveClosest => {
            (vec![(0.0, 95.0), (100.0, 95.0)], "95 % of ID accepted: FPR95 is the share of OOD accepted")
        }
        _ => (vec![(5.0, 0.0), (5.0, 100.0)], "95 % of OOD rejected: FPR95 is the share of ID rejected"),
    };
    let id_name = id_set(results)?;
    let variants = names.iter().map(|name| method(results, "roc", name)).collect::<Result<Vec<_>>>()?;
    let id = variants.iter().map(|variant| scores::read(variant, id_name, runs_root)).collect::<Result<Vec<_>>>()?;
    let mut panels = Vec::new();
    for set in ood_sets(results) {
        let mut marks = vec![
            Mark::Line(vec![(0.0, 0.0), (100.0, 100.0)], GREY.faint(0.5)),
            Mark::Line(line.clone(), GREY.dashed()),
        ];
        for (index, variant) in variants.iter().enumerate() {
            let ood = scores::read(variant, set, runs_root)?;
            marks.push(Mark::Line(curve(&id[index], &ood), Style::of(index)));
        }
        panels.push(Panel {
            title: format!("{id_name} against {set}"),
            x_label: "OOD images accepted (%)".to_owned(),
            y_label: "ID images accepted (%)".to_owned(),
            x: Axis { range: (0.0, 100.0), ticks: Vec::new() },
            y: Axis { range: (0.0, 100.0), ticks: Vec::new() },
            marks,
        });
    }
    let mut legend: Vec<_> =
        variants.iter().enumerate().map(|(index, variant)| (variant.label(), Style::of(index))).collect();
    legend.push((words.to_owned(), GREY.dashed()));
    let seed = variants.first().and_then(|variant| variant.methods().next()).map(|(seed, _)| seed.seed);
    Ok(Picture {
        title: "ROC curves".to_owned(),
        subtitle: format!("{} · seed {}", title(results), seed.unwrap_or_default()),
        panels,
        stacked: false,
        legend,
    })
}

/// (share of OOD accepted, share of ID accepted) in percent, as the threshold rises; points closer than the eye can tell
/// are left out.
fn curve(id: &[f64], ood: &[f64]) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, bool)> = id.iter().map(|score| (*score, true)).collect();
    all.extend(ood.iter().map(|score| (*score, false)));
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut accepted_id, mut accepted_ood) = (0, 0);
    let mut curve = vec![(0.0, 0.0)];
    let mut last = (0.0, 0.0);
    for (index, (score, is_id)) in all.iter().enumerate() {
        if *is_id {
            accepted_id += 1;
        } else {
            accepted_ood += 1;
        }
        // Equal scores are accepted together: a tie is a slope, not a step.
        if all.get(index + 1).is_some_and(|next| next.0 == *score) {
            continue;
        }
        let point = (percent(accepted_ood, ood.len()), percent(accepted_id, id.len()));
        if index + 1 == all.len() || point.0 - last.0 > 0.2 || point.1 - last.1 > 0.2 {
            curve.push(point);
            last = point;
        }
    }
    curve
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_slopes_and_separation_is_a_corner() {
        assert_eq!(
            curve(&[1.0, 2.0], &[3.0, 4.0]),
            [(0.0, 0.0), (0.0, 50.0), (0.0, 100.0), (50.0, 100.0), (100.0, 100.0)]
        );
        assert_eq!(curve(&[1.0, 1.0], &[1.0]), [(0.0, 0.0), (100.0, 100.0)]);
    }

    #[test]
    fn a_long_curve_is_thinned_but_complete() {
        let id: Vec<f64> = (0..100_000).map(|index| index as f64).collect();
        let ood: Vec<f64> = id.iter().map(|score| score + 30_000.5).collect();
        let curve = curve(&id, &ood);
        assert!(curve.len() < 1_100, "{}", curve.len());
        assert_eq!(curve.last(), Some(&(100.0, 100.0)));
    }
}
