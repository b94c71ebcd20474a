//! Figures, as SVG and PNG.
//!
//! A kind of figure is one file with one function from results to a [`Picture`], which says what to draw but not how, and which
//! `panels` draws, or to a `gallery` of small pictures, both on a `canvas`. In a sweep, a method or network that the sweep
//! reaches is shown with the file's own values (or those of the first cell), and its name says so; accuracy bars and losses show it in
//! every cell.

mod accuracy;
mod canvas;
mod confusion;
mod factors;
pub mod gallery;
mod histogram;
pub mod maps;
mod names;
mod neuron;
pub mod overlay;
mod panels;
mod pixel_curves;
mod pseudo;
mod roc;
mod samples;
mod scale;
pub mod scores;
mod set_scores;
pub mod sheet;
mod sweep;
mod training;

use std::path::Path;

use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::Figure,
    metrics::Protocol,
    report::{
        base64::base64,
        variants::{self, Variant},
    },
    run::results::{NetworkResult, Results},
};

pub use names::{Files, files, free};
use names::{named, stem};

/// A figure: panels in rows, one legend below them all.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Above all.
    pub title: String,
    /// Below the title, smaller.
    pub subtitle: String,
    /// Left to right, top to bottom.
    pub panels: Vec<Panel>,
    /// One below the other, for panels that share an axis.
    pub stacked: bool,
    /// What the colours mean; an empty legend takes no room.
    pub legend: Vec<(String, Style)>,
}

/// A pair of axes and what is drawn on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above the panel.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// In the order of drawing.
    pub marks: Vec<Mark>,
}

/// The range of an axis, and where it is labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Lowest and highest value shown; the second is larger.
    pub range: (f64, f64),
    /// Labelled places; none: round numbers are found.
    pub ticks: Vec<(f64, String)>,
}

/// Something drawn in a panel, in the units of its axes.
#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    /// A line through points.
    Line(Vec<(f64, f64)>, Style),
    /// A filled outline.
    Area(Vec<(f64, f64)>, Style),
    /// A dot at each point.
    Dots(Vec<(f64, f64)>, Style),
    /// Small text, centred above a point.
    Text((f64, f64), String),
}

/// How a mark looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// Red, green, blue.
    pub color: (u8, u8, u8),
    /// 0 (invisible) to 1.
    pub opacity: f64,
    /// What it is drawn with.
    pub sign: Sign,
}

/// What a mark is made of: how it looks in a legend. Of lines, [`Sign::Dashes`] are dashed and all others are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A line.
    Line,
    /// A dashed line.
    Dashes,
    /// Dots.
    Dots,
    /// A filled outline.
    Area,
}

/// For what is no method: the diagonal, thresholds, error bars.
pub const GREY: Style = Style { color: (110, 110, 110), opacity: 1.0, sign: Sign::Line };

/// Okabe & Ito's colours without yellow, which is too light for lines: told apart by colour-blind readers.
const PALETTE: [(u8, u8, u8); 7] =
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0)];

impl Style {
    /// The style of the `index`th of several lines; dashed when the colours come round again.
    pub fn of(index: usize) -> Self {
        let color = PALETTE[index % PALETTE.len()];
        let sign = if (index / PALETTE.len()) % 2 == 1 { Sign::Dashes } else { Sign::Line };
        Self { color, opacity: 1.0, sign }
    }

    /// The same, lighter.
    pub fn faint(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }

    /// The same, dashed.
    pub fn dashed(self) -> Self {
        self.with(Sign::Dashes)
    }

    /// The same, as another sign.
    pub fn with(self, sign: Sign) -> Self {
        Self { sign, ..self }
    }
}

/// Panels at most, so that a picture stays one that can be opened.
const MOST_PANELS: usize = 24;
/// Entries of a legend at most: beyond them nobody can tell lines apart.
const MOST_IN_LEGEND: usize = 28;
/// Characters of an experiment's title in a subtitle: what stands after it must be seen.
const LONGEST_TITLE: usize = 100;

/// A figure as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The file names without extension.
    pub stem: String,
    /// The SVG document.
    pub svg: String,
    /// The PNG file.
    pub png: Vec<u8>,
}

/// Draws a figure.
///
/// `protocol` is what numbers along a sweep, and the dashed line of ROC curves, follow. `runs_root` is where the score files' paths start.
///
/// # Errors
/// The figure names a method or network that the results do not have, or a score file cannot be used.
pub fn draw(figure: &Figure, results: &Results, protocol: Protocol, runs_root: &Path) -> Result<Vec<Drawn>> {
    let (kind, names) = named(figure);
    // Of photographs, a picture for each category.
    let galleries = match figure {
        Figure::Samples(figure) => samples::galleries(figure, results, runs_root)?,
        Figure::Maps(figure) => maps::galleries(figure, results, runs_root)?,
        Figure::Pseudo(figure) => pseudo::galleries(figure, results, runs_root)?,
        // Each category has an ID set of its own.
        Figure::Roc(_) | Figure::Histogram(_) if results.has_categories() => {
            let of =
                |category: &String| one(figure, &results.of_category(category), protocol, runs_root, Some(category));
            return results.datasets.keys().map(of).collect();
        }
        _ => return one(figure, results, protocol, runs_root, None).map(|drawn| vec![drawn]),
    };
    let galleries = galleries.into_iter().map(|(category, mut gallery)| {
        gallery.title = loud(gallery.title, results);
        // Of samples without categories, the only task is known.
        let category = Some(&category).filter(|_| kind != "samples" || results.has_categories());
        embedded(stem(kind, category, &names), &gallery::Laid::of(&gallery)?)
    });
    galleries.collect()
}

/// A figure that is one picture, of a category or of all results.
fn one(
    figure: &Figure,
    results: &Results,
    protocol: Protocol,
    runs_root: &Path,
    category: Option<&String>,
) -> Result<Drawn> {
    let made = match figure {
        Figure::Roc(figure) => Made::Panels(roc::picture(&figure.methods, results, protocol, runs_root)?),
        Figure::Histogram(figure) => Made::Panels(histogram::picture(&figure.methods, results, runs_root)?),
        Figure::Accuracy(figure) => Made::Panels(accuracy::picture(&figure.networks, results)?),
        Figure::Confusion(figure) => Made::Matrix(confusion::Matrix::of(&figure.network, results)?),
        Figure::Sweep(figure) => Made::Panels(sweep::picture(figure, results, protocol)?),
        Figure::SetScores(figure) => Made::Panels(set_scores::picture(figure, results, runs_root)?),
        Figure::Factors(figure) => Made::Gallery(factors::gallery(figure, results, runs_root)?),
        Figure::Neuron(figure) => Made::Panels(neuron::picture(figure, results, runs_root)?),
        Figure::PixelCurves(figure) => Made::Panels(pixel_curves::picture(figure, results, runs_root)?),
        Figure::Training(figure) => Made::Panels(training::picture(&figure.networks, results, runs_root)?),
        Figure::Maps(_) | Figure::Pseudo(_) | Figure::Samples(_) => {
            return Err(Error::Failed("photographs are a picture for each category".into()));
        }
    };
    let (kind, names) = named(figure);
    let stem = stem(kind, category, &names);
    match made {
        Made::Panels(mut picture) => {
            picture.title = loud(picture.title, results);
            cap(&mut picture);
            drawn(stem, &panels::Panels::of(&picture)?)
        }
        Made::Matrix(mut matrix) => {
            matrix.title = loud(matrix.title, results);
            drawn(stem, &matrix)
        }
        Made::Gallery(mut gallery) => {
            gallery.title = loud(gallery.title, results);
            drawn(stem, &gallery::Laid::of(&gallery)?)
        }
    }
}

/// What a kind of figure makes of results.
enum Made {
    Panels(Picture),
    Gallery(gallery::Gallery),
    Matrix(confusion::Matrix),
}

fn drawn(stem: String, sheet: &impl canvas::Sheet) -> Result<Drawn> {
    Ok(Drawn { stem, svg: canvas::svg(sheet)?, png: canvas::png(sheet)? })
}

/// The same with the pixels in the SVG: photographs as shapes would be files of megabytes.
fn embedded(stem: String, sheet: &impl canvas::Sheet) -> Result<Drawn> {
    let (png, (width, height)) = (canvas::png(sheet)?, sheet.size());
    let data = base64(&png);
    let svg = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\n<image \
         width=\"{width}\" height=\"{height}\" href=\"data:image/png;base64,{data}\"/>\n</svg>\n"
    );
    Ok(Drawn { stem, svg, png })
}

/// The title; a smoke run's says so.
fn loud(title: String, results: &Results) -> String {
    if results.smoke { format!("SMOKE RUN, numbers mean nothing: {title}") } else { title }
}

/// Leaves out what is too much for one picture, and says so.
fn cap(picture: &mut Picture) {
    let (panels, entries) = (picture.panels.len(), picture.legend.len());
    if panels > MOST_PANELS {
        picture.panels.truncate(MOST_PANELS);
        picture.subtitle.push_str(&format!(" · the first {MOST_PANELS} of {panels} panels"));
    }
    if entries > MOST_IN_LEGEND {
        picture.legend.truncate(MOST_IN_LEGEND);
        picture.subtitle.push_str(&format!(" · the first {MOST_IN_LEGEND} of {entries} names"));
    }
}

/// The experiment's title as part of a subtitle.
fn title(results: &Results) -> String {
    shortened(&results.title, LONGEST_TITLE)
}

/// At most so many characters, the last of them `…` if some are missing.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// The method with the file's own values, or an error that names the figure and what there is.
fn method<'a>(results: &'a Results, figure: &str, name: &'a str) -> Result<Variant<'a>> {
    let known = || results.tasks().flat_map(|task| task.methods.keys());
    if !known().any(|known| known == name) {
        let near = crate::did_you_mean(name, known().map(String::as_str));
        return Err(Error::input(format!("figure {figure}: the results have no method \"{name}\"{near}")));
    }
    variants::representative(variants::of_method(results, name))
        .ok_or_else(|| Error::input(format!("figure {figure}: the results are empty")))
}

/// The network with the file's own values in every task, by its name, as the first seed has it.
fn network<'a>(results: &'a Results, figure: &str, name: &str) -> Result<IndexMap<&'a str, &'a NetworkResult>> {
    let known = || results.tasks().flat_map(|task| task.networks.keys());
    let Some(name) = known().find(|known| *known == name) else {
        let near = crate::did_you_mean(name, known().map(String::as_str));
        return Err(Error::input(format!("figure {figure}: the results have no network \"{name}\"{near}")));
    };
    let variant = variants::representative(variants::of_network(results, name));
    // Where categories are swept, other cells have other tasks.
    let cells = variant.map(|variant| variant.cell).into_iter().chain(&results.cells);
    let mut found = IndexMap::new();
    for (task, result) in cells.filter_map(|cell| cell.seeds.first()).flat_map(|seed| &seed.tasks) {
        if let Some(network) = result.networks.get(name) {
            found.entry(task.as_str()).or_insert(network);
        }
    }
    Ok(found)
}

/// The names of the OOD sets, in the order of the experiment.
fn ood_sets(results: &Results) -> Vec<&str> {
    results.datasets.keys().skip(1).map(String::as_str).collect()
}

/// The name of the ID set.
fn id_set(results: &Results) -> Result<&str> {
    let first = results.datasets.keys().next();
    first.map(String::as_str).ok_or_else(|| Error::input("the results name no data set"))
}
