//! Reading an experiment file with precise errors.

use std::path::{Path, PathBuf};

use crate::{
    Result,
    config::{Experiment, check, schema::required, sweep},
    detectors::DetectorConfig,
    yaml::{
        load::{self, Document},
        problems::{self, Problem},
    },
};

/// An experiment and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The file's stem: the name in `make exp=`, folders and tables.
    pub name: String,
    /// The file as it was given.
    pub path: PathBuf,
    /// Its content, checked, with includes resolved and defaults filled in.
    pub experiment: Experiment,
}

/// Reads and checks an experiment file.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) with file, line, column and the line itself, if the file is not there, is no YAML, has
/// unknown keys or wrong types, numbers out of range, or names that refer to nothing.
pub fn load(path: &Path) -> Result<Loaded> {
    let experiment = load::load(path)?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Loaded { name, path: path.to_path_buf(), experiment })
}

/// Parses and checks an experiment that is not in a file; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`]; `!include` is refused.
pub fn parse(text: &str, name: &str) -> Result<Experiment> {
    load::parse(text, name)
}

/// Parses and checks a detector as it stands in an experiment: `energy`, `knn: { k: 50 }`.
///
/// # Errors
/// As [`load`]; the text is called `--detector`.
pub fn parse_detector(text: &str) -> Result<DetectorConfig> {
    load::parse(text, "--detector")
}

impl Document for Experiment {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = check::problems(self);
        if problems.is_empty() {
            problems = sweep::problems(self);
        }
        if problems.is_empty() {
            problems = check::cell_problems(self);
        }
        problems
    }

    fn required(key: Option<&str>, field: &str) -> Option<Vec<String>> {
        required(key, field)
    }
}

impl Document for DetectorConfig {
    fn problems(&self) -> Vec<Problem> {
        problems::of_part(self)
    }

    fn required(key: Option<&str>, field: &str) -> Option<Vec<String>> {
        required(key, field)
    }
}
