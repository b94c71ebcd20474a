//! An experiment as one HTML page that needs no network: tables, figures, heat maps, images, provenance, configuration.
//!
//! [`build`] gathers what is stored and [`html::html`] writes it. Nothing is trained, scored or drawn.

mod facts;
pub mod html;
mod images;
pub mod parts;
mod pictures;
mod rankings;
mod tables;

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{
    Error, Result,
    config::Experiment,
    data::ImageSet,
    report::{base64::base64, table},
    run::results::Results,
};
use html::Built;
pub use images::images;
use parts::Page;

/// Bytes of a page at most: mail and browsers take that many.
pub const MOST: usize = 20_000_000;

/// The test images of a task's set as they were scored, or `None` where they are not there or are many.
pub type Images<'a> = &'a mut dyn FnMut(&str, &str) -> Option<ImageSet>;

/// Where what a page shows lies.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Where [`crate::config::Expect::file`] starts.
    pub experiments: &'a Path,
    /// Where the score files' paths start.
    pub runs: &'a Path,
    /// Where the experiment's tables and figures are.
    pub folder: &'a Path,
}

/// Makes the page of an experiment, of at most `most` bytes.
///
/// Numbers are those of `results`; figures are the files that are there. Figures, scores, heat maps and images that are not there, or have
/// no room, are named on the page.
///
/// # Errors
/// A table that the results do not have the numbers of, a paper's CSV that cannot be used, or a file that cannot be read.
pub fn build(
    results: &Results,
    experiment: &Experiment,
    places: Places<'_>,
    images: Images<'_>,
    most: usize,
) -> Result<Built> {
    let mut absent = Vec::new();
    let tables = experiment.tables.iter().map(|table| table::build(table, results, places.experiments));
    let tables = tables.map(|table| Ok(tables::table(&table?))).collect::<Result<Vec<_>>>()?;
    let galleries = pictures::galleries(experiment, results, places.runs).unwrap_or_else(|error| {
        absent.push(format!("heat maps image by image, whose sheets are shown if they are there: {error}"));
        Vec::new()
    });
    let figures = pictures::figures(experiment, results, places.folder, !galleries.is_empty(), &mut absent)?;
    let rankings = rankings::rankings(results, places.runs, images, &mut absent)?;
    let config = serde_saphyr::to_string(experiment)
        .map_err(|error| Error::Failed(format!("cannot serialise the configuration: {error}")))?;
    let page = Page {
        title: results.title.clone(),
        about: Some(experiment.about.clone()).filter(|about| !about.trim().is_empty()),
        warning: results.smoke.then(|| "SMOKE RUN on synthetic data: numbers mean nothing".to_owned()),
        tables,
        figures,
        galleries,
        rankings,
        facts: facts::facts(results),
        config,
        folder: places.folder.display().to_string(),
        absent,
    };
    let [style, script] = [html::STYLE, html::SCRIPT].map(|text| base64(&Sha256::digest(text.as_bytes())));
    Ok(html::html(&page, most, [&style, &script]))
}
