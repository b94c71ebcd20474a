//! Which parts of a backbone do not learn.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    did_you_mean,
    models::stages::Stage,
    nn::{Backbone, pass::STEM},
    yaml::{
        named::word_or_list,
        problems::{Path, Problem},
    },
};

/// Words that stand for stages in `freeze`.
pub(super) const ALL: &str = "all";
pub(super) const NONE: &str = "none";

/// Which parts of the backbone do not learn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Freeze {
    /// All up to this one: a stage, `stem` (the layers before the first stage), `all` or `none`.
    Until(String),
    /// These, the first ones from input to output.
    Parts(Vec<String>),
}

impl Default for Freeze {
    fn default() -> Self {
        Self::Until(ALL.to_owned())
    }
}

impl<'de> Deserialize<'de> for Freeze {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a stage, `stem`, `all`, `none`, or a list of the first parts: [stem, layer1]";
        word_or_list(deserializer, expecting, |word| Some(Self::Until(word.to_owned())), Self::Parts)
    }
}

impl Freeze {
    /// The last part that is frozen, `all` or `none`.
    pub(super) fn last(&self) -> &str {
        match self {
            Self::Until(word) => word,
            Self::Parts(parts) => parts.last().map_or(NONE, String::as_str),
        }
    }

    /// The same with other names of stages.
    pub(super) fn renamed(self, name: impl Fn(String) -> String) -> Self {
        match self {
            Self::Until(word) => Self::Until(name(word)),
            Self::Parts(parts) => Self::Parts(parts.into_iter().map(name).collect()),
        }
    }

    /// The place of the last stage that is frozen; `None` of the stem alone, of all and of nothing.
    pub(super) fn place(&self, backbone: &Backbone, stages: &[Stage]) -> Result<Option<usize>, Problem> {
        let wrong = |message| Problem { path: Path::default().join("freeze"), message };
        let place = |name: &str| stages.iter().position(|(stage, _)| stage == name);
        let stem = backbone.has_stem().then_some(STEM);
        let parts: Vec<&str> = stem.into_iter().chain(stages.iter().map(|(stage, _)| &stage[..])).collect();
        match self {
            Self::Until(word) if [ALL, NONE].contains(&&word[..]) => return Ok(None),
            Self::Parts(named) if named.is_empty() => {
                return Err(wrong("names no part: write `freeze: none`".to_owned()));
            }
            _ => {}
        }
        let named = match self {
            Self::Until(word) => std::slice::from_ref(word),
            Self::Parts(named) => named,
        };
        if let Some(name) = named.iter().find(|name| !parts.contains(&&name[..])) {
            let what =
                if name == STEM { "layers before its first stage".to_owned() } else { format!("stage \"{name}\"") };
            let near = did_you_mean(name, parts.iter().copied().chain([ALL, NONE]));
            let known = parts.join(", ");
            return Err(wrong(format!(
                "{} has no {what}{near}; its parts: {known}; {ALL} and {NONE} stand for these",
                backbone.name()
            )));
        }
        if let Self::Parts(named) = self
            && named.iter().zip(&parts).any(|(name, part)| name != part)
        {
            let parts = parts.join(", ");
            return Err(wrong(format!("must list the first parts without gaps, from the input on, of [{parts}]")));
        }
        Ok(place(self.last()))
    }
}
