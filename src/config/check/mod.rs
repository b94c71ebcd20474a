//! What the types cannot refuse: ranges, and names that must refer to something.
//!
//! Every problem is found, not only the first, and carries the path of its key; [`load`](mod@super::load) turns the path
//! into a line and a column.

mod comparison;
mod images;
mod networks;
mod recipe;
mod sets;
mod tables;

pub(in crate::config) use networks::in_words;

use crate::{
    Error, Result,
    config::{Experiment, expect, methods, sweep},
    nn::Output,
    yaml::problems::{Path, Problem, first_repeated, of_part},
};

/// Refuses an experiment with values out of range or names that refer to nothing.
///
/// # Errors
/// [`Error::Input`] with one line per problem: the key's dotted path and what is wrong with it.
pub fn check(experiment: &Experiment) -> Result<()> {
    let problems = problems(experiment);
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    Err(Error::input(lines.join("\n")))
}

/// The most seeds of an experiment. Ours: papers repeat three to ten times, and a plan has nodes for each.
const MOST_SEEDS: usize = 1000;

/// Bytes of a name at most. Ours: file systems take 255, and files are named by two names, a hash and an ending together.
const LONGEST_NAME: usize = 100;

/// Everything that is wrong with the values of an experiment: ranges first, then references.
pub fn problems(experiment: &Experiment) -> Vec<Problem> {
    let mut found = Found::default();
    if experiment.seeds.len() > MOST_SEEDS {
        found.add(root("seeds"), format!("{} seeds; at most {MOST_SEEDS} are planned", experiment.seeds.len()));
        // The other checks take a time that grows with them.
        return found.problems;
    }
    found.problems = of_part(experiment);
    found.texts(experiment);
    found.data(experiment);
    found.validation(experiment);
    found.networks(experiment);
    found.methods(experiment);
    found.tables(experiment);
    found.figures(experiment);
    if experiment.data.has_categories() {
        found.without_id();
    }
    found.views(experiment);
    if let Some(seed) = first_repeated(&experiment.seeds) {
        found.add(root("seeds").join(seed), format!("seed {} is given twice", experiment.seeds[seed]));
    }
    found.problems
}

/// What is wrong with the names of cells, in an experiment that is right otherwise: in a check of its own, because each
/// cell of a sweep is checked as well.
pub fn cell_problems(experiment: &Experiment) -> Vec<Problem> {
    let tables = experiment.tables.iter().enumerate();
    let named: Vec<_> = tables
        .filter_map(|(index, table)| Some((index, table, table.expect.as_ref()?)))
        .filter(|(_, _, expect)| expect::names_cells(expect))
        .collect();
    let mut found = Found::default();
    if !named.is_empty()
        && let Ok(cells) = sweep::cells(experiment)
    {
        let cells: Vec<String> = cells.into_iter().map(|cell| cell.name).collect();
        for (index, table, expect) in named {
            let path = root("tables").join(index).join("expect");
            found.problems.extend(expect::problems(&path, expect, table, experiment, Some(&cells)));
        }
    }
    found.problems
}

fn root(key: &str) -> Path {
    Path::default().join(key)
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
}

impl Found {
    fn add(&mut self, path: Path, message: impl Into<String>) {
        self.problems.push(Problem { path, message: message.into() });
    }

    /// Views of test images are for who classifies them.
    fn views(&mut self, experiment: &Experiment) {
        let classifies = |network| {
            let root = methods::root(network, &experiment.networks);
            root.model().is_none_or(|model| model.shows().contains(&Output::Logits))
        };
        let reason = match experiment.data.has_categories() {
            true => "a category has one class, so there is no accuracy that views would change",
            false if !experiment.networks.values().any(classifies) => "no network classifies",
            false => return,
        };
        if experiment.evaluation.tta.is_some() {
            self.add(root("evaluation").join("tta"), format!("{reason}: leave this key out"));
        }
    }

    /// Text goes to terminals and into Markdown, where a control character can do harm and a line break ends a line.
    fn texts(&mut self, experiment: &Experiment) {
        let Ok(tree) = serde_json::to_value(experiment) else { return };
        self.texts_of(&Path::default(), &tree);
    }

    fn texts_of(&mut self, path: &Path, tree: &serde_json::Value) {
        match tree {
            serde_json::Value::String(text) => {
                if let Some(message) = control_character(text, *path == root("about")) {
                    self.add(path.clone(), message);
                }
            }
            serde_json::Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| self.texts_of(&path.join(index), item));
            }
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    match control_character(key, false) {
                        // The path is printed too.
                        Some(message) => self.add(path.clone(), format!("{message}, in a key")),
                        None => self.texts_of(&path.join(key.as_str()), value),
                    }
                }
            }
            _ => {}
        }
    }

    /// Refuses a name that no file can have.
    fn length(&mut self, path: &Path, name: &str) {
        if name.len() > LONGEST_NAME {
            self.add(
                path.clone(),
                format!("is a name of {} bytes; at most {LONGEST_NAME}: it names files", name.len()),
            );
        }
    }
}

/// Whether a character may stand in a name that names files.
fn in_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// What is wrong with a text that would not stay in its line.
fn control_character(text: &str, lines: bool) -> Option<String> {
    // Also the characters that change the direction of what stands around them.
    let hidden = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match text.chars().find(|c| hidden(*c) && !(lines && matches!(c, '\n' | '\t')))? {
        '\n' | '\r' if !lines => Some("must be one line".to_owned()),
        other => Some(format!("must not have the control character U+{:04X}", u32::from(other))),
    }
}
