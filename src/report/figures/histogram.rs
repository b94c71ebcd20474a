//! Score histograms of ID and OOD images, one panel per method (Chen & Li 2023, figure 3).

use std::path::Path;

use crate::{
    Result,
    report::figures::{Axis, Mark, Panel, Picture, Style, id_set, method, ood_sets, scale::Scale, scores, title},
    run::results::Results,
};

/// Bars across a panel.
const BINS: usize = 64;
/// Scores beyond these quantiles of a set are counted in the outermost bins, so that one outlier does not squeeze the rest.
const TAIL: f64 = 0.002;
/// Percent of the ID images in one bar from which another axis is tried. Ours: a bell that is ten bars wide has 24.
const CROWDED: f64 = 25.0;

/// The picture; reads the score files.
pub fn picture(names: &[String], results: &Results, runs_root: &Path) -> Result<Picture> {
    let (id_name, sets) = (id_set(results)?, ood_sets(results));
    let mut panels = Vec::new();
    let mut seed = None;
    let mut cut = false;
    for name in names {
        let variant = method(results, "histogram", name)?;
        seed = seed.or_else(|| variant.methods().next().map(|(seed, _)| seed.seed));
        let id = scores::read(&variant, id_name, runs_root)?;
        let ood = sets.iter().map(|set| scores::read(&variant, set, runs_root)).collect::<Result<Vec<_>>>()?;
        let bars = Bars::of(&id, &ood);
        cut |= bars.cut;
        let highest = bars.id.iter().chain(bars.ood.iter().flatten()).copied().fold(0.0, f64::max);
        let id_outline = bars.outline(&bars.id);
        let mut marks =
            vec![Mark::Area(id_outline.clone(), id_style().faint(0.35)), Mark::Line(id_outline, id_style())];
        for (index, shares) in bars.ood.iter().enumerate() {
            marks.push(Mark::Line(bars.outline(shares), Style::of(index + 1)));
        }
        panels.push(Panel {
            title: variant.label(),
            x_label: format!("{} (larger: more anomalous)", bars.scale.words()),
            y_label: "images (%)".to_owned(),
            x: Axis { range: bars.range, ticks: bars.scale.ticks(bars.range) },
            y: Axis { range: (0.0, highest * 1.05), ticks: Vec::new() },
            marks,
        });
    }
    let mut legend = vec![(format!("{id_name} (ID)"), id_style())];
    legend.extend(sets.iter().enumerate().map(|(index, set)| ((*set).to_owned(), Style::of(index + 1))));
    let beyond = if cut { " · the outermost bars count what lies beyond them" } else { "" };
    Ok(Picture {
        title: "Scores of ID and OOD images".to_owned(),
        subtitle: format!("{} · seed {}{beyond}", title(results), seed.unwrap_or_default()),
        panels,
        stacked: false,
        legend,
    })
}

fn id_style() -> Style {
    Style::of(0)
}

/// What a panel shows: percent of each set's scores in each of [`BINS`] bins of an axis.
struct Bars {
    scale: Scale,
    /// Of the axis.
    range: (f64, f64),
    /// Whether scores lie beyond the axis.
    cut: bool,
    id: Vec<f64>,
    ood: Vec<Vec<f64>>,
}

impl Bars {
    /// On the plain axis, unless it has much of the ID images in one bar and another axis at most half of that: Mahalanobis
    /// distances of OOD images reach hundreds of times those of ID images, AFDU's sums of factors 10³⁴.
    fn of(id: &[f64], ood: &[Vec<f64>]) -> Self {
        let plain = Self::on(Scale::Plain, id, ood);
        if plain.fullest() <= CROWDED {
            return plain;
        }
        let other = |scale| Self::on(scale, id, ood);
        let others = Scale::others(id, ood.iter().flatten()).into_iter().map(other);
        let best = others.min_by(|one, two| one.fullest().total_cmp(&two.fullest()));
        best.filter(|best| best.fullest() <= plain.fullest() / 2.0).unwrap_or(plain)
    }

    fn on(scale: Scale, id: &[f64], ood: &[Vec<f64>]) -> Self {
        let along = |scores: &[f64]| scores.iter().map(|score| scale.along(*score)).collect::<Vec<f64>>();
        let (id, ood) = (along(id), ood.iter().map(|scores| along(scores)).collect::<Vec<_>>());
        let all = || std::iter::once(&id).chain(&ood);
        let (low, high) = range(all());
        let cut = all().flatten().any(|score| *score < low || *score > high);
        let shares = |scores: &Vec<f64>| shares(scores, low, high);
        Self { scale, range: (low, high), cut, id: shares(&id), ood: ood.iter().map(shares).collect() }
    }

    /// Percent of the ID images in the bar that has most of them.
    fn fullest(&self) -> f64 {
        self.id.iter().copied().fold(0.0, f64::max)
    }

    /// The steps along the tops of the bars, from the axis and back to it.
    fn outline(&self, shares: &[f64]) -> Vec<(f64, f64)> {
        let (low, high) = self.range;
        let edge = |bin: usize| low + (high - low) * bin as f64 / BINS as f64;
        let mut points = vec![(low, 0.0)];
        points
            .extend(shares.iter().enumerate().flat_map(|(bin, share)| [(edge(bin), *share), (edge(bin + 1), *share)]));
        points.push((high, 0.0));
        points
    }
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

    /// So many scores evenly from `low` to `high`.
    fn even(low: f64, high: f64) -> Vec<f64> {
        (0..1000).map(|index| low + (high - low) * f64::from(index) / 999.0).collect()
    }

    #[test]
    fn the_axis_is_the_one_that_shows_the_id_images() {
        // A narrow range, as of energies, and sure images that no axis pulls apart.
        assert_eq!(Bars::of(&even(-12.0, -6.0), &[even(-8.0, -1.0)]).scale, Scale::Plain);
        let sure = [vec![-1.0; 900], even(-1.0, -0.4)[..100].to_vec()].concat();
        assert_eq!(Bars::of(&sure, &[even(-1.0, -0.2)]).scale, Scale::Plain);
        // As of Mahalanobis: all ID images would stand in one bar.
        let (id, far) = (even(400.0, 800.0), [even(500.0, 390_000.0)]);
        assert!(Bars::on(Scale::Plain, &id, &far).fullest() > 99.0);
        let bars = Bars::of(&id, &far);
        assert!(matches!(bars.scale, Scale::AwayFrom { .. }) && bars.fullest() < 10.0, "{:?}", bars.scale);
        // The same below zero.
        let bars = Bars::of(&even(-800.0, -400.0), &[even(-390_000.0, -500.0)]);
        assert!(matches!(bars.scale, Scale::AwayFrom { .. }) && bars.fullest() < 10.0, "{:?}", bars.scale);
        // As of AFDU: over many magnitudes, ID images too.
        let magnitudes = |low, high| even(low, high).into_iter().map(|power| 10_f64.powf(power)).collect::<Vec<_>>();
        let bars = Bars::of(&magnitudes(0.0, 10.0), &[magnitudes(2.0, 33.0)]);
        assert!(bars.scale == Scale::Magnitude && bars.fullest() < 10.0, "{:?}", bars.scale);
    }

    #[test]
    fn what_lies_beyond_the_axis_is_told() {
        let mut id = even(0.0, 1.0);
        assert!(!Bars::of(&id[..100], &[]).cut);
        id.push(1000.0);
        assert!(Bars::of(&id, &[even(0.5, 2.0)]).cut);
    }

    #[test]
    fn constant_scores_have_a_range() {
        assert_eq!(range([vec![2.0; 10]].iter()), (1.5, 2.5));
        assert_eq!(Bars::of(&[2.0; 10], &[vec![2.0; 10]]).scale, Scale::Plain);
    }
}
