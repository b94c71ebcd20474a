//! What is wrong with a file's values, and at which key.

use std::{collections::BTreeSet, fmt};

use garde::Validate;
use serde::{Serialize, de::DeserializeOwned};

use crate::did_you_mean;

/// Something wrong with an experiment, and the key it is wrong at.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// From the root.
    pub path: Path,
    /// What is wrong.
    pub message: String,
}

/// The path of a key, written `methods.0.network`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Path(pub Vec<Step>);

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a map.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl Path {
    /// The path of a key below this one.
    #[must_use]
    pub fn join(&self, step: impl Into<Step>) -> Self {
        let mut path = self.clone();
        path.0.push(step.into());
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            if position > 0 {
                formatter.write_str(".")?;
            }
            match step {
                Step::Key(key) => formatter.write_str(key)?,
                Step::Index(index) => write!(formatter, "{index}")?,
            }
        }
        Ok(())
    }
}

/// What is wrong with the numbers of a part of a file that stands alone: out of range, or not finite.
pub fn of_part<T: Validate<Context = ()> + Serialize + DeserializeOwned>(part: &T) -> Vec<Problem> {
    let mut problems = Vec::new();
    let tree = serde_json::to_value(part).unwrap_or_default();
    if let Err(report) = part.validate() {
        problems.extend(report.iter().map(|(path, error)| Problem {
            path: path_in(&tree, &path.to_string()),
            message: range_words(error.message()),
        }));
    }
    // NaN compares as neither too small nor too large; written as JSON it is `null`, which reading back refuses.
    if problems.is_empty()
        && let Err(error) = serde_path_to_error::deserialize::<_, T>(&tree)
    {
        let path = path_in(&tree, &error.path().to_string());
        problems.push(Problem { path, message: "must be a finite number".into() });
    }
    problems
}

/// Where an entry stands that is equal to an earlier one.
pub fn first_repeated<T: Ord>(entries: impl IntoIterator<Item = T>) -> Option<usize> {
    let mut seen = BTreeSet::new();
    entries.into_iter().position(|entry| !seen.insert(entry))
}

/// `there is no method "EBDD" (did you mean "EBD"?)`, or what there is when none is near.
pub fn no_such<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = did_you_mean(name, known.iter().copied());
    if near.is_empty() {
        format!("there is no {what} \"{name}\"; there is {}", known.join(", "))
    } else {
        format!("there is no {what} \"{name}\"{near}")
    }
}

/// garde's wording as advice: it says `lower than 1` where we say `must be at least 1`.
fn range_words(message: &str) -> String {
    if let Some(bound) = message.strip_prefix("lower than ") {
        format!("must be at least {bound}")
    } else if let Some(bound) = message.strip_prefix("greater than ") {
        format!("must be at most {bound}")
    } else if message == "length is lower than 1" {
        "must not be empty".into()
    } else {
        message.into()
    }
}

/// The path that a library writes as `figures[0].methods` or `backbone[0].depth`, in the words of the file.
///
/// An enum's value is `[0]` of it there, and `wide_resnet` in the file.
fn path_in(tree: &serde_json::Value, written: &str) -> Path {
    let mut path = Path::default();
    let mut node = Some(tree);
    for part in written.split(['.', '[']).map(|part| part.trim_end_matches(']')).filter(|part| !part.is_empty()) {
        let step = match (node, part.parse::<usize>()) {
            (Some(serde_json::Value::Array(_)), Ok(index)) => Step::Index(index),
            (Some(serde_json::Value::Object(map)), Ok(0)) if map.len() == 1 => {
                map.keys().next().map_or(Step::Index(0), |key| Step::Key(key.clone()))
            }
            (Some(serde_json::Value::Object(map)), _) if map.contains_key(part) => part.into(),
            // Below a short form such as `lenet`, or between an option and its content: the file has no such step.
            _ => continue,
        };
        node = match &step {
            Step::Key(key) => node.and_then(|node| node.get(key)),
            Step::Index(index) => node.and_then(|node| node.get(index)),
        };
        path.0.push(step);
    }
    path
}
