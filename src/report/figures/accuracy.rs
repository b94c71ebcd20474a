//! ID accuracy of networks as bars, with the spread over seeds (Chen & Li 2023, figure 2a).

use crate::{
    Error, Result,
    metrics::MeanStd,
    report::{
        figures::{Axis, GREY, Mark, Panel, Picture, Style, id_set, title},
        remarks::views_in_words,
        table::mean_std,
        variants,
    },
    run::results::Results,
};

/// Bars at most: more have no room for their names.
const MOST_BARS: usize = 16;

/// The picture: a bar per network, per cell for a network that the sweep reaches.
pub fn picture(names: &[String], results: &Results) -> Result<Picture> {
    let mut marks = Vec::new();
    let mut ticks = Vec::new();
    let (mut seeds, mut bars) = (0, 0);
    for (index, name) in names.iter().enumerate() {
        let variants = variants::of_network(results, name);
        let mut found = false;
        for variant in variants {
            let accuracies = variant.networks().filter_map(|network| network.measures.get("accuracy"));
            let accuracies: Vec<f64> = accuracies.map(|accuracy| accuracy * 100.0).collect();
            if accuracies.is_empty() {
                continue;
            }
            (found, bars) = (true, bars + 1);
            if ticks.len() == MOST_BARS {
                continue;
            }
            let bar = MeanStd::of(&accuracies);
            seeds = seeds.max(bar.n);
            let at = ticks.len() as f64;
            let (left, right) = (at - 0.32, at + 0.32);
            let outline = vec![(left, 0.0), (left, bar.mean), (right, bar.mean), (right, 0.0)];
            marks.push(Mark::Area(outline, Style::of(index).faint(0.85)));
            if bar.n > 1 {
                let (low, high) = (bar.mean - bar.std, bar.mean + bar.std);
                for line in [
                    vec![(at, low), (at, high)],
                    vec![(at - 0.06, low), (at + 0.06, low)],
                    vec![(at - 0.06, high), (at + 0.06, high)],
                ] {
                    marks.push(Mark::Line(line, GREY));
                }
            }
            marks.push(Mark::Text((at, bar.mean + bar.std), mean_std(&bar, "±")));
            // In a sweep, the cell below the name.
            let label = if variant.swept { format!("{name}\n{}", variant.cell.name) } else { name.clone() };
            ticks.push((at, label));
        }
        if !found {
            let known = results.tasks().flat_map(|task| task.networks.keys());
            let near = crate::did_you_mean(name, known.map(String::as_str));
            return Err(Error::input(format!("figure accuracy: the results have no network \"{name}\"{near}")));
        }
    }
    let spread = if seeds > 1 {
        format!("mean ± population standard deviation over {seeds} seeds")
    } else {
        "one seed".to_owned()
    };
    let some = if bars > MOST_BARS { format!(" · the first {MOST_BARS} of {bars} bars") } else { String::new() };
    let views = views_in_words(results).map(|views| format!(" · of {views}")).unwrap_or_default();
    Ok(Picture {
        title: format!("Accuracy on {}", id_set(results)?),
        subtitle: format!("{} · {spread}{views}{some}", title(results)),
        panels: vec![Panel {
            title: String::new(),
            x_label: String::new(),
            y_label: "test accuracy (%)".to_owned(),
            x: Axis { range: (-0.6, ticks.len() as f64 - 0.4), ticks },
            // Room for the number above a full bar.
            y: Axis {
                range: (0.0, 110.0),
                ticks: (0..=5).map(|tick| (f64::from(tick) * 20.0, (tick * 20).to_string())).collect(),
            },
            marks,
        }],
        stacked: false,
        legend: Vec::new(),
    })
}
