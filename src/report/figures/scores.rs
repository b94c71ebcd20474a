//! The score files that the results name, and what lies beside them.

use std::path::Path;

use crate::{
    Error, Result,
    config::Figure,
    metrics,
    report::{figures::id_set, variants::Variant},
    run::{results::Results, view},
};

/// A method's scores of one set, those of the first seed that has them; larger means more anomalous. Not empty, all finite.
///
/// # Errors
/// The record names no such file, or the file cannot be used.
pub fn read(variant: &Variant<'_>, set: &str, runs_root: &Path) -> Result<Vec<f64>> {
    let path = variant.methods().find_map(|(_, method)| method.scores.get(set)).map(|path| runs_root.join(path));
    let path = path.ok_or_else(|| {
        Error::input(format!("the results name no scores of {} on {set}", variant.label()))
            .hint("run the experiment again")
    })?;
    metrics::read_scores(&path)
}

/// What was stored for a figure, and the seed that it is of: the first that has scores.
///
/// # Errors
/// The record names no scores, or the file is not there or is damaged.
pub fn view(variant: &Variant<'_>, figure: &Figure, results: &Results, runs_root: &Path) -> Result<(u64, view::File)> {
    let id = id_set(results)?;
    let found = variant.methods().find_map(|(seed, method)| {
        let folder = runs_root.join(method.scores.get(id)?.parent()?);
        let stem = |name: &String| Some(method.scores.get(name)?.file_stem()?.to_string_lossy().into_owned());
        let sets: Vec<String> = results.datasets.keys().map(stem).collect::<Option<_>>()?;
        Some((seed.seed, view::path(&folder, figure, &sets)?))
    });
    let (seed, path) = found.ok_or_else(|| {
        Error::input(format!("the results name no scores of {}", variant.label())).hint("run the experiment again")
    })?;
    Ok((seed, view::File::read(path)?))
}
