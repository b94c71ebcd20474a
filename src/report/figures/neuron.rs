//! One neuron's normal range (the AFDU paper's figure 2): how its train activations are distributed, the density that AFDU lays
//! over them, the Gaussian of their mean and standard deviation, and the anomaly factor of every activation, with the first
//! images of each set.

use std::path::Path;

use crate::{
    Result,
    config::{Figure, NeuronFigure},
    report::figures::{Axis, GREY, Mark, Panel, Picture, Sign, Style, method, scores::view, title},
    run::results::Results,
};

/// What is shown beyond the train activations, in their ranges.
const MARGIN: f64 = 0.25;

/// The largest log factor that the axis reaches at least, and at most.
const HIGHEST: [f64; 2] = [6.0, 30.0];

/// Bars of the histogram that may be higher than the axis.
const CUT: usize = 2;

/// The picture; reads what was stored beside the scores.
pub fn picture(figure: &NeuronFigure, results: &Results, runs_root: &Path) -> Result<Picture> {
    let variant = method(results, "neuron", &figure.method)?;
    let (seed, file) = view(&variant, &Figure::Neuron(figure.clone()), results, runs_root)?;
    let view = file.neuron(results.datasets.len())?;
    let (first, last) = (view.range[0], view.range[1]);
    let marked =
        |part: usize| view.marks.iter().flat_map(move |set| &set[part]).copied().filter(|value| value.is_finite());
    // Marks that lie farther out than one range stand at the edge.
    let whole = last - first;
    let low = marked(0).fold(first, f64::min).max(first - whole * (1.0 - MARGIN)) - whole * MARGIN;
    let high = marked(0).fold(last, f64::max).min(last + whole * (1.0 - MARGIN)) + whole * MARGIN;
    let x = || Axis { range: (low, high), ticks: Vec::new() };
    let curve = |of: &[f64]| -> Vec<(f64, f64)> {
        let points = view.values.iter().copied().zip(of.iter().copied());
        points.filter(|(value, _)| (low..=high).contains(value)).collect()
    };

    let (mean, deviation) = (view.moments[0], view.moments[1]);
    let gaussian = |value: f64| {
        (-0.5 * ((value - mean) / deviation).powi(2)).exp() / (deviation * (2.0 * std::f64::consts::PI).sqrt())
    };
    let gaussian: Vec<f64> = view.values.iter().map(|value| gaussian(*value)).collect();
    let bin = whole / view.histogram.len() as f64;
    let mut outline = vec![(first, 0.0)];
    outline.extend(view.histogram.iter().enumerate().flat_map(|(index, height)| {
        let left = first + bin * index as f64;
        [(left, *height), (left + bin, *height)]
    }));
    outline.push((last, 0.0));
    // A value that many images share makes a bar that is higher than everything else together: two bars may be cut.
    let mut heights = view.histogram.clone();
    heights.sort_unstable_by(|a, b| b.total_cmp(a));
    let curves = gaussian.iter().chain(&view.densities).copied();
    let highest = 1.25 * curves.chain(heights.get(CUT).copied()).fold(0.0, f64::max);
    let bars = GREY.faint(0.4).with(Sign::Area);
    let (density, normal) = (Style::of(0), Style::of(1).dashed());
    let mut marks = vec![Mark::Area(outline, bars)];
    marks.extend([(&gaussian, normal), (&view.densities, density)].map(|(of, style)| Mark::Line(curve(of), style)));
    for (index, height) in view.histogram.iter().enumerate().filter(|(_, height)| **height > highest) {
        let at = first + bin * (index as f64 + 0.5);
        marks.push(Mark::Text((at, highest * 0.9), format!("↑ {:.0} % of images", 100.0 * height * bin)));
    }
    let distribution = Panel {
        title: String::new(),
        x_label: String::new(),
        y_label: "density".to_owned(),
        x: x(),
        y: Axis { range: (0.0, highest), ticks: Vec::new() },
        marks,
    };

    let top = marked(1).fold(0.0, f64::max) * 1.1;
    let top = top.clamp(HIGHEST[0], HIGHEST[1]);
    let factor = Style::of(6);
    let shown = curve(&view.log_factors);
    let bottom = shown.iter().map(|(_, factor)| *factor).fold(0.0, f64::min);
    let mut marks = vec![Mark::Line(vec![(low, 0.0), (high, 0.0)], GREY)];
    marks.extend(below(&shown, top).into_iter().map(|part| Mark::Line(part, factor)));
    let mut legend = vec![
        ("train activations".to_owned(), bars),
        ("kernel density".to_owned(), density),
        ("Gaussian".to_owned(), normal),
        ("ln anomaly factor".to_owned(), factor),
    ];
    for (index, (name, [activations, factors])) in results.datasets.keys().zip(&view.marks).enumerate() {
        // The colours after the curves'.
        let style = Style::of(index + 2).with(Sign::Dots);
        let points = activations.iter().copied().zip(factors.iter().copied());
        marks.push(Mark::Dots(points.filter(|(activation, _)| !activation.is_nan()).collect(), style));
        let what = if index == 0 { " (ID)" } else { "" };
        legend.push((format!("{name}{what}"), style));
    }
    let factors = Panel {
        title: String::new(),
        x_label: format!("activation {}", file.side()),
        y_label: "ln anomaly factor".to_owned(),
        x: x(),
        y: Axis { range: (bottom * 1.1, top), ticks: Vec::new() },
        marks,
    };
    let images = view.marks.iter().map(|set| set[0].len()).max().unwrap_or(0);
    Ok(Picture {
        title: format!("{}: {}", variant.label(), file.what()),
        subtitle: format!("{} · seed {seed} · dots: the first {images} test images of each set", title(results)),
        panels: vec![distribution, factors],
        stacked: true,
        legend,
    })
}

/// The parts of a line that are not above `top`, cut where it crosses.
fn below(line: &[(f64, f64)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut last: Option<(f64, f64)> = None;
    for &point in line {
        let above = point.1 > top;
        let was_above = last.is_none_or(|last| last.1 > top);
        if !above && was_above {
            parts.push(Vec::new());
        }
        if let (Some(part), Some((x, y))) = (parts.last_mut(), last)
            && above != was_above
        {
            let share = (top - y) / (point.1 - y);
            part.push((x + (point.0 - x) * share, top));
        }
        if let Some(part) = parts.last_mut()
            && !above
        {
            part.push(point);
        }
        last = Some(point);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_crosses() {
        let line = [(0.0, 4.0), (1.0, 2.0), (2.0, 0.0), (3.0, 3.0), (4.0, 9.0), (5.0, 5.0), (6.0, 1.0)];
        let [first, second] = &below(&line, 3.0)[..] else { panic!("{:?}", below(&line, 3.0)) };
        assert_eq!(first, &[(0.5, 3.0), (1.0, 2.0), (2.0, 0.0), (3.0, 3.0), (3.0, 3.0)]);
        assert_eq!(second, &[(5.5, 3.0), (6.0, 1.0)]);
        assert!(below(&line[4..5], 3.0).is_empty());
        assert_eq!(below(&line[1..3], 3.0), [line[1..3].to_vec()]);
    }
}
