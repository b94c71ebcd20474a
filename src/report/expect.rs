//! A paper's printed numbers, from a CSV.

use std::{collections::BTreeMap, path::Path};

use crate::{
    Error, Result,
    config::{Expect, expect::column_name},
    did_you_mean,
    fs::read_regular,
    metrics::Column,
    yaml::load::within_reach,
};

/// The part of a paper's table that an [`Expect`] selects.
#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    /// By the CSV's row name: percent by the CSV's column; empty fields are absent.
    rows: BTreeMap<String, BTreeMap<String, f64>>,
    expect: Expect,
}

/// The largest CSV that is read as a paper's table. Ours: the papers' have two kilobytes.
const LARGEST: u64 = 1 << 20;

impl Paper {
    /// Reads the CSV and checks that `expect` fits it and the table's `columns`.
    ///
    /// # Errors
    /// The file cannot be read; a named column is not in it; no line passes `where`; two lines have one row name; a
    /// number is none; `columns` speaks of a number that the table does not show.
    pub fn read(expect: &Expect, columns: &[Column], experiments_dir: &Path) -> Result<Self> {
        let path = experiments_dir.join(&expect.file);
        let file = path.display().to_string();
        let missing = || {
            Error::input(format!("expect.file: {file} does not exist"))
                .hint("the path starts at the folder of the experiments, such as paper/sparsity_table2.csv")
        };
        // The rule of `!include`. The file is looked at only after that, so that nothing is told of files outside.
        within_reach(&path, experiments_dir)?;
        let bytes = read_regular(&path, LARGEST).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => missing(),
            other => other,
        })?;
        let text =
            String::from_utf8(bytes).map_err(|_| Error::input(format!("expect.file: {file} is not UTF-8 text")))?;
        let mut reader = ::csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        let headers = reader.headers().map_err(|error| Error::input(format!("{file}: {error}")))?.clone();
        let column = |key: &str, name: &str| {
            headers.iter().position(|header| header == name).ok_or_else(|| {
                Error::input(format!("{key}: {file} has no column \"{name}\"{}", did_you_mean(name, headers.iter())))
                    .hint(format!("its columns are {}", headers.iter().collect::<Vec<_>>().join(", ")))
            })
        };
        let filters = expect
            .filter
            .iter()
            .map(|(name, value)| Ok((column("expect.where", name)?, value.as_str())))
            .collect::<Result<Vec<_>>>()?;
        let row = column("expect.row", &expect.row)?;
        let mut wanted = Vec::new();
        for (ours, theirs) in &expect.columns {
            let metric = ours.rsplit('.').next().unwrap_or(ours);
            let shown: Vec<_> = columns.iter().map(|column| column_name(*column)).collect();
            if !shown.iter().any(|name| name == metric) {
                return Err(Error::input(format!(
                    "expect.columns: the table shows no \"{metric}\"{}",
                    did_you_mean(metric, shown.iter().map(AsRef::as_ref))
                ))
                .hint(format!("its columns are {}", shown.join(", "))));
            }
            wanted.push((column(&format!("expect.columns.{ours}"), theirs)?, theirs));
        }

        let mut rows = BTreeMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| Error::input(format!("{file}: {error}")))?;
            if filters.iter().any(|(index, value)| record.get(*index) != Some(value)) {
                continue;
            }
            let line = record.position().map_or(0, ::csv::Position::line);
            let name = record.get(row).unwrap_or_default().to_owned();
            let mut numbers = BTreeMap::new();
            for (index, theirs) in &wanted {
                let field = record.get(*index).unwrap_or_default().trim();
                if field.is_empty() {
                    continue;
                }
                let number = field.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| {
                    Error::input(format!("{file}:{line}: \"{field}\" in column \"{theirs}\" is not a number"))
                })?;
                numbers.insert((*theirs).clone(), number);
            }
            if rows.insert(name.clone(), numbers).is_some() {
                return Err(Error::input(format!("{file}:{line}: a second row \"{name}\""))
                    .hint("select one with expect.where: { column: value }"));
            }
        }
        if rows.is_empty() {
            return Err(Error::input(format!("expect.where selects no line of {file}")));
        }
        if let Some((ours, theirs)) = expect.rows.iter().find(|(_, theirs)| !rows.contains_key(*theirs)) {
            return Err(Error::input(format!(
                "expect.rows.{ours}: {file} has no row \"{theirs}\"{}",
                did_you_mean(theirs, rows.keys().map(String::as_str))
            ))
            .hint(format!("its rows are {}", rows.keys().cloned().collect::<Vec<_>>().join(", "))));
        }
        Ok(Self { rows, expect: expect.clone() })
    }

    /// Where the numbers come from, as the experiment cites it.
    pub fn source(&self) -> &str {
        &self.expect.source
    }

    /// The OOD sets, by our names, that the paper's means are over, as the experiment states them.
    pub fn sets(&self) -> &[String] {
        &self.expect.sets
    }

    /// The OOD sets, by our names, that the paper's mean of a group is over, as the experiment states them.
    pub fn group(&self, group: &str) -> &[String] {
        self.expect.groups.get(group).map_or(&[], Vec::as_slice)
    }

    /// All rows but this one and those of groups' means.
    pub fn others(&self, row: &str) -> Vec<&str> {
        let groups: Vec<_> = self.expect.groups.keys().map(|group| self.row(std::slice::from_ref(group))).collect();
        let others = self.rows.keys().map(String::as_str);
        others.filter(|name| *name != row && !groups.contains(&Some(name))).collect()
    }

    /// Whether some column of ours with one of these keys (best first) stands beside one of the paper's.
    pub fn column(&self, keys: &[String]) -> Option<&str> {
        keys.iter().find_map(|key| self.expect.columns.get(key)).map(String::as_str)
    }

    /// The paper's row for one of our rows, known by any of these names (best first).
    pub fn row(&self, keys: &[String]) -> Option<&str> {
        let mapped = keys.iter().find_map(|key| self.expect.rows.get(key));
        mapped
            .or_else(|| keys.iter().find(|key| self.rows.contains_key(*key)))
            .and_then(|name| self.rows.get_key_value(name).map(|(name, _)| name.as_str()))
    }

    /// The number, in percent, unless the paper leaves it out.
    pub fn number(&self, row: &str, column: &str) -> Option<f64> {
        self.rows.get(row)?.get(column).copied()
    }
}
