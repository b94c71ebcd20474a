//! The means over space of what leaves a network's stages: the numbers that detectors of several layers read.

use std::borrow::Cow;

use candle_core::Tensor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Error, Result, did_you_mean,
    nn::{Shown, pass::PENULTIMATE},
    ops,
    yaml::{named::word_or_list, problems::first_repeated},
};

/// `penultimate`, `all`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stages {
    /// The features that the last layer reads.
    #[default]
    Penultimate,
    /// What leaves every stage, and the features, where they are not the means of the last.
    All,
    /// These, `penultimate` among them if it is wanted, in this order.
    Named(Vec<String>),
}

impl Stages {
    /// The (N, D) numbers of each of these stages, with its name. They are parts of the outputs' graph.
    ///
    /// # Errors
    /// [`Error::Input`] that lists the stages, if the network has none of a name.
    pub fn of(&self, shown: &Shown) -> Result<Vec<(String, Tensor)>> {
        let features = || -> Result<_> { Ok((PENULTIMATE.to_owned(), shown.features()?.clone())) };
        match self {
            Self::Penultimate => Ok(vec![features()?]),
            Self::All => {
                let mut all = Vec::with_capacity(shown.stages.len() + 1);
                for (name, maps) in &shown.stages {
                    all.push((name.clone(), means(maps)?));
                }
                if !all.last().map_or(Ok(false), |(_, last)| equal(last, shown.features()?))? {
                    all.push(features()?);
                }
                Ok(all)
            }
            Self::Named(names) => names.iter().map(|name| named(shown, name)).collect(),
        }
    }
}

fn named(shown: &Shown, name: &str) -> Result<(String, Tensor)> {
    match shown.stage(name) {
        Some(maps) => Ok((name.to_owned(), means(maps)?)),
        None if name == PENULTIMATE => Ok((name.to_owned(), shown.features()?.clone())),
        None => Err(no_stage(name, shown.stage_names())),
    }
}

/// What to say of a stage that the network does not have, with those that it has.
pub(super) fn no_stage<'a>(name: &str, stages: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = stages.into_iter().chain([PENULTIMATE]).collect();
    let nearest = did_you_mean(name, known.iter().copied());
    Error::input(format!("the network has no stage \"{name}\"{nearest}; it has {}", known.join(", ")))
}

/// (N, C, H, W) to (N, C).
fn means(maps: &Tensor) -> Result<Tensor> {
    Ok(ops::global_avg_pool2d(maps)?)
}

fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.dims() == b.dims() && super::numbers(a)? == super::numbers(b)?)
}

impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Penultimate => serializer.serialize_str(PENULTIMATE),
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let short = |word: &str| match word {
            PENULTIMATE => Some(Self::Penultimate),
            "all" => Some(Self::All),
            _ => None,
        };
        word_or_list(deserializer, "`penultimate`, `all` or a list of stages' names", short, Self::Named)
    }
}

impl schemars::JsonSchema for Stages {
    fn schema_name() -> Cow<'static, str> {
        "Stages".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "enum": [PENULTIMATE, "all"] },
            { "type": "array", "items": { "type": "string" }, "minItems": 1, "uniqueItems": true },
        ] })
    }
}

/// Garde: a list names something, and nothing twice.
pub(super) fn names_each_once(stages: &Stages, _: &()) -> garde::Result {
    match stages {
        Stages::Named(names) if names.is_empty() => Err(garde::Error::new("names no stage; `all` takes every one")),
        Stages::Named(names) => match first_repeated(names) {
            Some(index) => Err(garde::Error::new(format!("\"{}\" is named twice", names[index]))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
