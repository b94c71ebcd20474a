//! Settings to choose on validation data, and the data to choose them on.
//!
//! A search tries every combination of the values of a detector's settings on validation images, never on the OOD sets that are
//! reported on, and keeps the best.

use std::fmt;

use garde::Validate;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IntoDeserializer as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value, json};

use crate::{
    config::{methods::ALL, sweep::combination},
    data::{Dataset, made::Distribution},
    detectors::DetectorConfig,
};

/// Values to try of a detector's settings: `{ percentile: [85, 90, 95, 99] }`.
pub type Grid = IndexMap<String, Vec<Value>>;

/// Combinations of a grid at most. Ours: energy_ood tries 40 for ODIN; more is a mistake in the file.
pub const MAX_COMBINATIONS: usize = 1_000;

/// Data for choosing settings, of a method with `search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// ID images: a number of test images, drawn once for all seeds and left out of the test; `val`, the images of the ID set's own
    /// `val/`; or the test images of another set (OpenOOD lists 1,000 of CIFAR's, which its test list leaves out).
    #[garde(dive)]
    pub id: HeldOut,
    /// OOD sets, of which none may be among `data.ood`. Their test images are taken. May be left out with `made`.
    #[garde(dive)]
    #[serde(default)]
    pub ood: Vec<Dataset>,
    /// OOD sets that are made of images: a distribution, a list of them, or `all`. energy_ood chooses on all of them. Default: none.
    #[garde(skip)]
    #[serde(default, deserialize_with = "some_or_all", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = word_or_list)]
    pub made: Vec<Distribution>,
    /// The set whose test images these are made of, one for each. Default: the ID images above, as in the paper of outlier
    /// exposure; its code and energy_ood's take CIFAR-100's for CIFAR-10, and the other way round.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<Dataset>,
    /// What is best, as a mean over these sets. The AUROC in OpenOOD.
    #[garde(skip)]
    #[serde(default)]
    pub by: By,
}

/// ID images for validation: a number of test images, or a data set.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(transform = number_or_set)]
pub enum HeldOut {
    /// So many of the ID set's test images.
    Images(usize),
    /// The images of the ID set's own `val/`.
    Val(Val),
    /// The test images of a data set.
    Set(Box<Dataset>),
}

/// The word for a set's own validation images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Val {
    /// `val`.
    Val,
}

/// The number that a search goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The largest area under the ROC curve.
    #[default]
    Auroc,
    /// The smallest false positive rate at 95 % true positive rate, ID positive (energy_ood's, and ODIN's).
    Fpr95,
}

/// The detector with some settings changed.
///
/// # Errors
/// What is wrong with a setting that it does not have, or a value of another type; its range is not checked.
pub fn with(detector: &DetectorConfig, settings: &IndexMap<String, Value>) -> Result<DetectorConfig, String> {
    let mut map = settings_of(detector).ok_or_else(|| format!("{} has no settings", detector.name()))?;
    map.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
    serde_json::from_value(json!({ (detector.name()): map })).map_err(|error| error.to_string())
}

/// The value of a setting that is not its default, so that somebody gave it.
pub fn given(detector: &DetectorConfig, key: &str) -> Option<Value> {
    let setting = |detector: &DetectorConfig| settings_of(detector)?.remove(key);
    let default = DetectorConfig::default_of(detector.name()).ok()?;
    setting(detector).filter(|given| setting(&default).as_ref() != Some(given))
}

fn settings_of(detector: &DetectorConfig) -> Option<Map<String, Value>> {
    let Value::Object(mut tree) = serde_json::to_value(detector).ok()? else { return None };
    match tree.remove(detector.name())? {
        Value::Object(settings) => Some(settings),
        _ => None,
    }
}

/// `percentile=95, k=10`
pub fn in_words(settings: &IndexMap<String, Value>) -> String {
    settings.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// Every combination of a grid's values, the last key running fastest; one of no values for no grid.
pub fn combinations(grid: &Grid) -> Vec<IndexMap<String, Value>> {
    let count = grid.values().map(Vec::len).product();
    (0..count).map(|index| combination(grid, index)).collect()
}

impl Validate for HeldOut {
    type Context = ();

    fn validate_into(&self, context: &(), parent: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
        match self {
            Self::Images(0) => report.append(parent(), garde::Error::new("lower than 1")),
            Self::Images(_) | Self::Val(_) => {}
            Self::Set(set) => set.validate_into(context, parent, report),
        }
    }
}

impl<'de> Deserialize<'de> for HeldOut {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrSet;

        impl<'de> Visitor<'de> for NumberOrSet {
            type Value = HeldOut;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a number of test images, `val`, a data set's name, or a map with `name` and more")
            }

            fn visit_u64<E: de::Error>(self, images: u64) -> Result<HeldOut, E> {
                usize::try_from(images).map(HeldOut::Images).map_err(|_| E::custom("is too large"))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<HeldOut, E> {
                Ok(if name == "val" { HeldOut::Val(Val::Val) } else { HeldOut::Set(Box::new(Dataset::named(name))) })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeldOut, A::Error> {
                Dataset::deserialize(MapAccessDeserializer::new(map)).map(|set| HeldOut::Set(Box::new(set)))
            }
        }

        deserializer.deserialize_any(NumberOrSet)
    }
}

/// A list of distributions, one of them, or `all`.
fn some_or_all<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Distribution>, D::Error> {
    struct SomeOrAll;

    impl<'de> Visitor<'de> for SomeOrAll {
        type Value = Vec<Distribution>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("`all`, or a list of distributions")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            match word {
                ALL => Ok(Distribution::ALL.to_vec()),
                one => Distribution::deserialize(one.into_deserializer()).map(|one| vec![one]),
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut made = Vec::new();
            while let Some(one) = list.next_element()? {
                made.push(one);
            }
            if made.is_empty() { Err(de::Error::custom("must not be empty")) } else { Ok(made) }
        }
    }

    deserializer.deserialize_any(SomeOrAll)
}

/// Schema transform: a list, one of its values, or `all`.
fn word_or_list(schema: &mut Schema) {
    let mut list = std::mem::take(schema);
    let description = list.remove("description");
    let words = Distribution::ALL.map(Distribution::name).into_iter().chain([ALL]).collect::<Vec<_>>();
    *schema = json_schema!({ "description": description, "anyOf": [{ "enum": words }, list] });
}

/// Schema transform: a number, or a data set.
fn number_or_set(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "string" }, long] });
}
