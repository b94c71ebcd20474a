//! The loss of networks while they learned: of every step, of each term if there are several, and of held-out images after epochs.
//!
//! Steps are many and scatter: a line has so many points at most, each the mean of as many steps. Of a loss that falls to a tenth or less the
//! axis is logarithmic, unless something drawn is not positive.

use std::{collections::BTreeSet, path::Path};

use indexmap::IndexSet;

use crate::{
    Error, Result,
    report::{
        figures::{Axis, Mark, Panel, Picture, Sign, Style, network},
        variants,
    },
    run::results::Results,
    watch::jsonl::{self, Losses},
};

/// Points of a line at most. Ours: a panel has about as many pixels.
const MOST_POINTS: usize = 250;
/// Lines of no more points have dots.
const FEW: usize = 20;
/// How much the largest value is of the smallest where the axis is logarithmic.
const WIDE: f64 = 10.0;

const TRAIN: &str = "train images";
const HELD_OUT: &str = "held-out images";

/// The picture: a panel for each network, for each cell that reaches it and each category.
pub fn picture(names: &[String], results: &Results, runs_root: &Path) -> Result<Picture> {
    let mut all = Vec::new();
    for name in names {
        // Unknown names are told.
        network(results, "training", name)?;
        let mut seen = BTreeSet::new();
        for variant in variants::of_network(results, name) {
            for (task, result) in variant.cell.seeds.first().iter().flat_map(|seed| &seed.tasks) {
                let Some(found) = result.networks.get(name).filter(|found| seen.insert(&found.folder)) else {
                    continue;
                };
                let path = runs_root.join(&found.folder).join(jsonl::FILE);
                let losses = Losses::read(&path)?.filter(|losses| !losses.steps.is_empty()).ok_or_else(|| {
                    Error::input(format!("figure training: \"{name}\" has no record of training, {}", path.display()))
                        .hint("remove the network from the figure, or its folder to train it anew")
                })?;
                let mut title = variant.label();
                if results.has_categories() {
                    title = format!("{title}: {task}");
                }
                if found.members.len() > 1 {
                    title = format!("{title}, the first of {}", found.members.len());
                }
                all.push((title, losses));
            }
        }
    }
    let several = |losses: &Losses| losses.terms.len() > 1;
    let terms: IndexSet<&str> = all
        .iter()
        .filter(|(_, losses)| several(losses))
        .flat_map(|(_, losses)| losses.terms.keys().map(String::as_str))
        .collect();
    let held_out = all.iter().any(|(_, losses)| !losses.held_out.is_empty());
    let of_term = |name: &str| Style::of(2 + terms.get_index_of(name).unwrap_or(0));
    let panels = all.iter().map(|(title, losses)| {
        let shown = losses.terms.iter().filter(|_| several(losses));
        let shown = shown.map(|(name, points)| (&points[..], of_term(name)));
        // What is drawn last lies above.
        let lines = shown.chain([(&losses.steps[..], Style::of(0)), (&losses.held_out[..], Style::of(1))]);
        panel(title.clone(), &lines.collect::<Vec<_>>())
    });
    let panels = panels.collect();
    let train = if terms.is_empty() { TRAIN.to_owned() } else { format!("{TRAIN}, all terms with their weights") };
    let legend = [(train, Style::of(0))].into_iter();
    let legend = legend.chain(held_out.then(|| (HELD_OUT.to_owned(), Style::of(1))));
    let legend = legend.chain(terms.iter().map(|name| (format!("{name}, without its weight"), of_term(name))));
    let seed = results.cells.first().and_then(|cell| cell.seeds.first()).map_or(0, |seed| seed.seed);
    Ok(Picture {
        title: "Losses while learning".to_owned(),
        subtitle: format!("{} · seed {seed}", super::title(results)),
        panels,
        stacked: false,
        legend: legend.collect(),
    })
}

/// The axes of these lines, with them.
fn panel(title: String, lines: &[(&[(u64, f64)], Style)]) -> Panel {
    // Held-out images are few points, of whole epochs.
    let together = lines.iter().map(|(points, _)| points.len().div_ceil(MOST_POINTS)).max().unwrap_or(1).max(1);
    let lines: Vec<(Vec<(f64, f64)>, Style)> = lines
        .iter()
        .map(|(points, style)| (thinned(points), *style))
        .filter(|(points, _)| !points.is_empty())
        .collect();
    let values = || lines.iter().flat_map(|(points, _)| points).map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let wide = low > 0.0 && high >= WIDE * low;
    let along = |value: f64| if wide { value.log10() } else { value };
    let (low, high) = if low <= high { (along(low), along(high)) } else { (0.0, 1.0) };
    let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1e-6) * 0.5 };
    let range = (low - margin, high + margin);
    let last = lines.iter().flat_map(|(points, _)| points).map(|(step, _)| *step).fold(1.0, f64::max);
    let mut marks = Vec::new();
    for (points, style) in lines {
        let points: Vec<(f64, f64)> = points.into_iter().map(|(step, value)| (step, along(value))).collect();
        if points.len() <= FEW {
            marks.push(Mark::Dots(points.clone(), style.with(Sign::Dots)));
        }
        marks.push(Mark::Line(points, style));
    }
    Panel {
        title,
        x_label: if together > 1 { format!("step, means of {together}") } else { "step".to_owned() },
        y_label: if wide { "loss, log scale" } else { "loss" }.to_owned(),
        x: Axis { range: (0.0, last), ticks: Vec::new() },
        y: Axis { range, ticks: if wide { decades(range) } else { Vec::new() } },
        marks,
    }
}

/// At most so many points, each the mean of as many steps, where the last of them is.
fn thinned(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |some: &[(u64, f64)]| {
        let sum: f64 = some.iter().map(|(_, value)| value).sum();
        Some((some.last()?.0 as f64, sum / some.len() as f64))
    };
    points.chunks(together).filter_map(mean).collect()
}

/// Labelled places of a logarithmic axis: 1, 2 and 5 times powers of ten, or of a long one powers alone.
fn decades((low, high): (f64, f64)) -> Vec<(f64, String)> {
    let factors: &[f64] = if high - low > 2.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let every = ((high - low) / 8.0).ceil().max(1.0) as i32;
    let powers = (low.floor() as i32..=high.ceil() as i32).filter(|power| power.rem_euclid(every) == 0);
    let places = powers.flat_map(|power| factors.iter().map(move |factor| (power, *factor)));
    let ticks = places.filter_map(|(power, factor)| {
        let place = f64::from(power) + factor.log10();
        let label = match power {
            // Not 0.30000000000000004.
            -4..0 => format!("{:.*}", -power as usize, factor * 10_f64.powi(power)),
            0..5 => format!("{:.0}", factor * 10_f64.powi(power)),
            _ => format!("{factor:.0}e{power}"),
        };
        (low..=high).contains(&place).then_some((place, label))
    });
    ticks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> String {
        decades((low.log10(), high.log10())).into_iter().map(|tick| tick.1).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_of_a_logarithmic_axis_are_round() {
        assert_eq!(labels(0.03, 2.5), "0.05 0.1 0.2 0.5 1 2");
        assert_eq!(labels(0.000_05, 3.0), "0.0001 0.001 0.01 0.1 1");
        assert_eq!(labels(900.0, 120_000.0), "1000 10000 1e5");
        assert!((5..=8).contains(&labels(1e-9, 1e9).split(' ').count()));
    }

    #[test]
    fn many_steps_are_means_of_as_many_each() {
        let points: Vec<(u64, f64)> = (1..=600).map(|step| (step, step as f64)).collect();
        let thinned = thinned(&points);
        assert_eq!((thinned.len(), thinned[0], thinned[199]), (200, (3.0, 2.0), (600.0, 599.0)));
        assert_eq!(super::thinned(&points[..2]), [(1.0, 1.0), (2.0, 2.0)]);
        assert_eq!(super::thinned(&[]), []);
    }

    #[test]
    fn an_axis_is_logarithmic_where_a_positive_loss_falls_far() {
        let of = |values: &[f64]| {
            let points: Vec<(u64, f64)> = (1..).zip(values.iter().copied()).collect();
            panel("base".into(), &[(&points, Style::of(0))])
        };
        let far = of(&[1.0, 0.1, 0.01]);
        assert_eq!(far.y_label, "loss, log scale");
        assert!(far.y.range.0 < -2.0 && far.y.range.1 > 0.0 && far.x.range == (0.0, 3.0));
        let Mark::Line(points, _) = &far.marks[1] else { panic!("dots, then a line") };
        assert!(points.iter().zip([0.0, -1.0, -2.0]).all(|((_, value), expected)| (value - expected).abs() < 1e-12));
        for near in [&[1.0, 0.5][..], &[1.0, -0.01], &[1.0, 0.0]] {
            let near = of(near);
            assert_eq!((near.y_label.as_str(), near.y.ticks.len()), ("loss", 0));
        }
        for odd in [&[0.5][..], &[0.0], &[]] {
            let (low, high) = of(odd).y.range;
            assert!(low < high, "{odd:?}");
        }
    }
}
