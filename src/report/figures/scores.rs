//! The score files that the results name.

use std::path::Path;

use crate::{Error, Result, metrics, report::variants::Variant};

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
