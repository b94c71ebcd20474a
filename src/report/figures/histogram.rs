//! Score histograms of ID and OOD images, one panel per method (Chen & Li 2023, figure 3).

use std::path::Path;

use crate::{
    Result,
    report::figures::{Axis, Mark, Panel, Picture, Style, id_set, method, ood_sets, scores, title},
    run::results::Results,
};

/// Bars across a panel.
const BINS: usize = 64;
/// Scores beyond these quantiles of a set are counted in the outermost bins, so that one outlier does not squeeze the rest.
const TAIL: f64 = 0.002;

/// Positive scores that span more than this go by their logarithms: AFDU's sums of factors reach 10³⁴, and on a plain axis all of
/// them stood in the first bar.
const WIDE: f64 = 1e4;

/// The picture; reads the score files.
pub fn picture(names: &[String], results: &Results, runs_root: &Path) -> Result<Picture> {
    let (id_name, sets) = (id_set(results)?, ood_sets(results));
    let mut panels = Vec::new();
    let mut seed = None;
    for name in names {
        let variant = method(results, "histogram", name)?;
        seed = seed.or_else(|| variant.methods().next().map(|(seed, _)| seed.seed));
        let mut id = scores::read(&variant, id_name, runs_root)?;
        let mut ood = sets.iter().map(|set| scores::read(&variant, set, runs_root)).collect::<Result<Vec<_>>>()?;
        let mut x_label = "score (larger: more anomalous)";
        if wide(std::iter::once(&id).chain(&ood)) {
            std::iter::once(&mut id).chain(&mut ood).flatten().for_each(|score| *score = score.log10());
            x_label = "log10 of the score (larger: more anomalous)";
        }
        let (low, high) = range(std::iter::once(&id).chain(&ood));
        let id_shares = shares(&id, low, high);
        let ood_shares: Vec<_> = ood.iter().map(|scores| shares(scores, low, high)).collect();
        let highest = id_shares.iter().chain(ood_shares.iter().flatten()).copied().fold(0.0, f64::max);
        let id_outline = outline(&id_shares, low, high);
        let mut marks =
            vec![Mark::Area(id_outline.clone(), id_style().faint(0.35)), Mark::Line(id_outline, id_style())];
        for (index, shares) in ood_shares.iter().enumerate() {
            marks.push(Mark::Line(outline(shares, low, high), Style::of(index + 1)));
        }
        panels.push(Panel {
            title: variant.label(),
            x_label: x_label.to_owned(),
            y_label: "images (%)".to_owned(),
            x: Axis { range: (low, high), ticks: Vec::new() },
            y: Axis { range: (0.0, highest * 1.05), ticks: Vec::new() },
            marks,
        });
    }
    let mut legend = vec![(format!("{id_name} (ID)"), id_style())];
    legend.extend(sets.iter().enumerate().map(|(index, set)| ((*set).to_owned(), Style::of(index + 1))));
    Ok(Picture {
        title: "Scores of ID and OOD images".to_owned(),
        subtitle: format!("{} · seed {}", title(results), seed.unwrap_or_default()),
        panels,
        stacked: false,
        legend,
    })
}

fn id_style() -> Style {
    Style::of(0)
}

/// Whether all scores are positive, and the largest more than [`WIDE`] times the smallest.
fn wide<'a>(sets: impl Iterator<Item = &'a Vec<f64>>) -> bool {
    let ends = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = sets.flatten().fold(ends, |(low, high), score| (low.min(*score), high.max(*score)));
    low > 0.0 && high > WIDE * low
}

/// From the lowest to the highest score, the tails of each set left out; never empty.
fn range<'a>(sets: impl Iterator<Item = &'a Vec<f64>>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for scores in sets {
        let mut sorted = scores.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let tail = (last as f64 * TAIL) as usize;
        if let (Some(first), Some(last)) = (sorted.get(tail), sorted.get(last - tail)) {
            low = low.min(*first);
            high = high.max(*last);
        }
    }
    if low < high { (low, high) } else { (low - 0.5, low + 0.5) }
}

/// Percent of the scores in each of [`BINS`] bins.
fn shares(scores: &[f64], low: f64, high: f64) -> Vec<f64> {
    let mut counts = vec![0_usize; BINS];
    for score in scores {
        let bin = (*score - low) / (high - low) * BINS as f64;
        counts[(bin.max(0.0) as usize).min(BINS - 1)] += 1;
    }
    counts.iter().map(|count| 100.0 * *count as f64 / scores.len() as f64).collect()
}

/// The steps along the tops of the bars, from the axis and back to it.
fn outline(shares: &[f64], low: f64, high: f64) -> Vec<(f64, f64)> {
    let edge = |bin: usize| low + (high - low) * bin as f64 / BINS as f64;
    let mut points = vec![(low, 0.0)];
    points.extend(shares.iter().enumerate().flat_map(|(bin, share)| [(edge(bin), *share), (edge(bin + 1), *share)]));
    points.push((high, 0.0));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_in_a_bin() {
        let scores: Vec<f64> = (-500..1500).map(|score| score as f64).collect();
        let shares = shares(&scores, 0.0, 1000.0);
        assert!((shares.iter().sum::<f64>() - 100.0).abs() < 1e-9);
        assert!(shares[0] > 25.0 && shares[BINS - 1] > 25.0);
    }

    #[test]
    fn only_positive_scores_of_many_magnitudes_are_wide() {
        assert!(wide([vec![1.0, 3.0], vec![1e33]].iter()));
        assert!(!wide([vec![1.0, 3.0], vec![9999.0]].iter()));
        assert!(!wide([vec![-1.0, 3.0], vec![1e33]].iter()));
        assert!(!wide([vec![0.0], vec![1e33]].iter()));
    }

    #[test]
    fn constant_scores_have_a_range() {
        assert_eq!(range([vec![2.0; 10]].iter()), (1.5, 2.5));
    }
}
