//! Tables and figures, made from results and scores only.
//!
//! [`table::build`] turns results (and a paper's CSV) into one neutral value, [`table::Rendered`]; each writer is one
//! file with one function from that value to text. [`figures`] draws the same picture as SVG and PNG. [`page`] puts all into one HTML file.

mod base64;
pub mod chosen;
mod controls;
pub mod csv;
pub mod expect;
pub mod figures;
pub mod fits;
pub mod json;
pub mod latex;
pub mod maps;
pub mod markdown;
pub mod page;
mod pixels;
mod remarks;
pub mod table;
pub mod terminal;
pub mod variants;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{Result, config::Experiment, fs::write_atomic, run::results::Results};

/// What [`write()`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The tables, for the terminal.
    pub text: String,
    /// The files written, tables first, in the order of the experiment.
    pub files: Vec<PathBuf>,
}

/// The tables of `experiment` for the terminal; nothing is written.
///
/// # Errors
/// As [`write()`], files that are written apart.
pub fn text(results: &Results, experiment: &Experiment, experiments_dir: &Path) -> Result<String> {
    let width = console::Term::stdout().size_checked().map(|(_, columns)| columns);
    let tables = experiment.tables.iter().map(|table| table::build(table, results, experiments_dir));
    let texts = tables.map(|table| Ok(terminal::text(&table?, width))).collect::<Result<Vec<_>>>()?;
    Ok(texts.join("\n"))
}

/// Makes every table and figure of `experiment` from `results`: nothing is trained or scored.
///
/// Tables become `table_<name>.{md,csv,caption.txt,tex,json}`, figures `<kind>_<what>.{svg,png}` (the second
/// of that name `<kind>_<what>_2`), in `out` (created if need be).
/// `experiments_dir` is where [`crate::config::Expect::file`] starts, `runs_root` where the score files' paths start.
///
/// # Errors
/// A table or figure that names what the results do not have, a paper's CSV that cannot be used, a score file that is
/// missing or broken, or a file that cannot be written.
pub fn write(
    results: &Results,
    experiment: &Experiment,
    experiments_dir: &Path,
    runs_root: &Path,
    out: &Path,
) -> Result<Report> {
    std::fs::create_dir_all(out).map_err(crate::Error::io("create", out))?;
    let width = console::Term::stdout().size_checked().map(|(_, columns)| columns);
    let mut report = Report { text: String::new(), files: Vec::new() };
    for table in &experiment.tables {
        let rendered = table::build(table, results, experiments_dir)?;
        if !report.text.is_empty() {
            report.text.push('\n');
        }
        report.text.push_str(&terminal::text(&rendered, width));
        for (extension, text) in [
            ("md", markdown::text(&rendered)),
            ("csv", csv::text(&rendered)),
            ("caption.txt", csv::caption(&rendered)),
            ("tex", latex::text(&rendered)),
            ("json", json::text(&rendered)),
        ] {
            let path = out.join(format!("table_{}.{extension}", table.name));
            write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
            report.files.push(path);
        }
    }
    let protocol = experiment.tables.first().map(|table| table.protocol).unwrap_or_default();
    let mut taken = BTreeSet::new();
    for figure in &experiment.figures {
        for drawn in figures::draw(figure, results, protocol, runs_root)? {
            let stem = figures::free(&drawn.stem, &mut taken);
            for (extension, bytes) in [("svg", drawn.svg.as_bytes()), ("png", &drawn.png)] {
                let path = out.join(format!("{stem}.{extension}"));
                write_atomic(&path, |file| file.write_all(bytes))?;
                report.files.push(path);
            }
        }
    }
    Ok(report)
}
