//! The rows of a comparison: the entries of a file's `methods`, and the methods that they come to.
//!
//! `detector: all` stands for a method for each detector that the network can have. [`lacks`] is the rule; it refuses a detector
//! that is named, too.

use std::{collections::BTreeMap, fmt};

use garde::Validate;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};

use crate::{
    config::{Experiment, Grid, Network, check::in_words},
    detectors::{DetectorConfig, unknown},
    models::ModelConfig,
    nn::{Output, heads::Head},
};

/// The name that stands for all detectors.
pub const ALL: &str = "all";

/// An entry of `methods`: a network and the detector that reads it, or `all` detectors that it can have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Method")]
pub struct MethodEntry {
    /// The name in tables; the detector's unless given. With `detector: all`, what stands before each detector's: `base: knn`.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A network of this experiment.
    #[garde(skip)]
    pub network: String,
    /// A detector, bare or with settings: `energy`, `energy: { temperature: 2 }`. `all`: each that the network can have and that
    /// gives no maps, with its default settings.
    #[garde(dive)]
    pub detector: Detectors,
    /// Settings of the detector to choose on `data.validation`, and the values to try, in every combination:
    /// `{ percentile: [85, 90, 95] }`. Those of `all` stand there.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Grid::is_empty")]
    pub search: Grid,
}

/// A detector, or all of them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(transform = bare_all)]
pub enum Detectors {
    /// This one.
    One(DetectorConfig),
    /// Each that the network can have.
    All {
        /// Which ones.
        all: All,
    },
}

/// Settings of `all`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct All {
    /// Detectors to leave out, such as those that cost far more than the others: `[afdu]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Settings to choose on `data.validation`, by detector: `{ react: { percentile: [85, 90, 95] } }`. What is of detectors that
    /// are not among them is passed over.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub search: IndexMap<String, Grid>,
}

/// A method: a network and the detector that reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// The name in tables.
    pub name: String,
    /// A network of the experiment.
    pub network: String,
    /// The detector and its settings.
    pub detector: DetectorConfig,
    /// Settings to choose, and the values to try.
    pub search: Grid,
    /// The entry of `methods` that it comes from.
    pub entry: usize,
    /// Whether the entry is `all`: the other methods are wanted even if this one cannot learn from the network.
    pub of_all: bool,
}

/// Detectors that an `all` leaves out, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// The network that cannot have them.
    pub network: String,
    /// Their names.
    pub detectors: Vec<&'static str>,
    /// What follows a detector's name: `reads the kernels of a DUQ network, and "base" is none`.
    pub why: String,
}

impl From<&Method> for MethodEntry {
    fn from(method: &Method) -> Self {
        Self {
            name: Some(method.name.clone()),
            network: method.network.clone(),
            detector: Detectors::One(method.detector.clone()),
            search: method.search.clone(),
        }
    }
}

impl Experiment {
    /// The methods, in the order of the file; `all` as its detectors in the order of the registry.
    pub fn methods(&self) -> Vec<Method> {
        let mut methods = Vec::new();
        for (entry, listed) in self.methods.iter().enumerate() {
            let method = |name: String, detector: DetectorConfig, search: Grid| {
                let network = listed.network.clone();
                Method {
                    name,
                    network,
                    detector,
                    search,
                    entry,
                    of_all: matches!(listed.detector, Detectors::All { .. }),
                }
            };
            match &listed.detector {
                Detectors::One(detector) => {
                    let name = listed.name.clone().unwrap_or_else(|| detector.name().to_owned());
                    methods.push(method(name, detector.clone(), listed.search.clone()));
                }
                Detectors::All { all } => {
                    let Some(network) = self.networks.get(&listed.network) else { continue };
                    let has = |detector: &DetectorConfig| {
                        !all.except.iter().any(|name| name == detector.name())
                            && leaves_out(detector, &listed.network, network, &self.networks).is_none()
                    };
                    methods.extend(DetectorConfig::all().filter(has).map(|detector| {
                        let name = detector.name();
                        let name = listed.name.as_ref().map_or(name.to_owned(), |before| format!("{before}: {name}"));
                        let search = all.search.get(detector.name()).cloned().unwrap_or_default();
                        method(name, detector, search)
                    }));
                }
            }
        }
        methods
    }

    /// What `all` leaves out because the file excepts it, with its network.
    pub fn excepted(&self) -> Vec<(&str, &[String])> {
        let all = self.methods.iter().filter_map(|listed| match &listed.detector {
            Detectors::All { all } if !all.except.is_empty() => Some((&listed.network[..], &all.except[..])),
            _ => None,
        });
        all.collect()
    }

    /// What the networks of `all` cannot have; not what the file excepts.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut left: Vec<LeftOut> = Vec::new();
        for listed in &self.methods {
            let Detectors::All { all } = &listed.detector else { continue };
            let Some(network) = self.networks.get(&listed.network) else { continue };
            for detector in
                DetectorConfig::all().filter(|detector| !all.except.iter().any(|name| name == detector.name()))
            {
                let Some(why) = leaves_out(&detector, &listed.network, network, &self.networks) else { continue };
                let name = detector.name();
                match left.iter_mut().find(|left| left.network == listed.network && left.why == why) {
                    Some(left) if left.detectors.contains(&name) => {}
                    Some(left) => left.detectors.push(name),
                    None => left.push(LeftOut { network: listed.network.clone(), detectors: vec![name], why }),
                }
            }
        }
        left
    }
}

/// Why `all` leaves a detector out, as [`lacks`].
fn leaves_out(
    detector: &DetectorConfig,
    name: &str,
    network: &Network,
    networks: &BTreeMap<String, Network>,
) -> Option<String> {
    let second = detector.detector().second();
    let second = second.map(|second| format!("reads a second network: name it under `{}`", second.key));
    lacks(detector, name, network, networks).or(second).or_else(|| {
        let model = root(network, networks).model()?;
        let head = match model {
            ModelConfig::Classifier(architecture) => architecture.head,
            _ => Head::default(),
        };
        detector.detector().left_out(&head).map(str::to_owned)
    })
}

/// What a detector reads of positions that no term of the loss shapes: it would grade first weights.
fn untaught(detector: &DetectorConfig, name: &str, network: &Network, shown: &[Output]) -> Option<String> {
    let teaches = |output| {
        let mut terms = network.loss.terms().filter(|(_, term)| term.weight() > 0.0);
        network.train.is_none() || terms.any(|(_, term)| term.needs().contains(&output))
    };
    let of_positions = |output: &Output| match output {
        Output::Map if shown.contains(&Output::Noised) => {
            (!teaches(Output::Scores)).then_some(("scores", "add `truncated_l1: {}` to it"))
        }
        Output::Map if shown.contains(&Output::Scores) => (!teaches(Output::Scores))
            .then_some(("scores", "add `score_margin: {}` to it, or write `map: { of: distance }`")),
        Output::Embedding if shown.contains(&Output::Embedding) => {
            (!teaches(Output::Embedding)).then_some(("embedding", "add `hypersphere: {}` to it"))
        }
        _ => None,
    };
    let (what, remedy) = detector.detector().needs().iter().find_map(of_positions)?;
    Some(format!("reads the {what} of positions, and no term of the loss of \"{name}\" teaches it: {remedy}"))
}

/// Why the network of this name cannot have a detector, in words that follow the detector's name. `None` if it can, as far as is
/// known before the network is built.
pub fn lacks(
    detector: &DetectorConfig,
    name: &str,
    network: &Network,
    networks: &BTreeMap<String, Network>,
) -> Option<String> {
    let root = root(network, networks);
    let (ensemble, model) = (network.members.is_some(), root.model()?);
    let shown = shown(network, networks)?;
    if let Some(untaught) = untaught(detector, name, network, &shown) {
        return Some(untaught);
    }
    let lack = |output: &Output| {
        Some(match *output {
            Output::Members => {
                let has = if ensemble { "has one" } else { "is one network" };
                format!("compares the members of an ensemble, and \"{name}\" {has}: give it `members: 5`")
            }
            Output::Kernels => {
                format!("reads the kernels of a DUQ network, and \"{name}\" is none: give its backbone `head: duq`")
            }
            Output::RawLogits if ensemble => format!(
                "reads what softmax ignores of the logits, and of the ensemble \"{name}\" there is only the mean softmax"
            ),
            Output::Gradients | Output::Noise if ensemble => {
                format!("runs one network again, and \"{name}\" is an ensemble: give it a network without members")
            }
            _ if ensemble => format!(
                "reads the layers of one network, and \"{name}\" is an ensemble: give it a network without members"
            ),
            Output::Head if shown.contains(&Output::Logits) => format!(
                "reads the last linear layer, and the logits of \"{name}\" are not linear in its features: give it a \
                 network with the usual head"
            ),
            Output::LastMaps if shown.contains(&Output::Features) => format!(
                "needs features that are the means of the last feature maps, and those of \"{name}\", a {}, are not: \
                 ResNets, Wide ResNets and EfficientNets have them",
                root.built_on().map_or("", |backbone| backbone.name())
            ),
            _ => {
                let (kind, remedy) = (model.name(), instead(*output, &shown));
                format!("reads {output}, and \"{name}\", of the kind {kind}, shows none: {remedy}")
            }
        })
    };
    detector.detector().needs().iter().find(|output| !shown.contains(output)).and_then(lack)
}

/// What to read of a model that does not show an output.
fn instead(output: Output, shown: &[Output]) -> String {
    if output == Output::Map && shown.contains(&Output::Stages) {
        return "padim and patchcore make maps of its stages".to_owned();
    }
    let mut names = shown.iter().map(Output::to_string).collect::<Vec<_>>();
    names.dedup();
    let names = in_words(&names.iter().map(String::as_str).collect::<Vec<_>>());
    match shown.contains(&Output::Map) {
        true => format!("it shows {names}, and the detector `map` reads its map"),
        false => format!("it shows {names}, and `oodkit detectors` lists what reads them"),
    }
}

/// What a network shows, built as its chain of `from` says and with members of its own; `None` where that is not said.
pub fn shown(network: &Network, networks: &BTreeMap<String, Network>) -> Option<Vec<Output>> {
    Network { members: network.members, ..root(network, networks).clone() }.shows()
}

/// The network that says how this one is built: itself, or the next that does so in its chain of `from`.
pub fn root<'a>(network: &'a Network, networks: &'a BTreeMap<String, Network>) -> &'a Network {
    let mut current = network;
    // No chain is longer than there are networks, unless it is a circle.
    for _ in 0..networks.len() {
        match current.from.as_ref().filter(|_| current.model.is_none()).and_then(|from| networks.get(from)) {
            Some(from) => current = from,
            None => break,
        }
    }
    current
}

impl Validate for Detectors {
    type Context = ();

    fn validate_into(&self, context: &(), parent: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
        match self {
            Self::One(detector) => detector.validate_into(context, parent, report),
            Self::All { .. } => {}
        }
    }
}

const EXPECTED: &str = "a detector's name, a map of one name to its settings, or `all`";

impl<'de> Deserialize<'de> for Detectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMap;

        impl<'de> Visitor<'de> for NameOrMap {
            type Value = Detectors;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Detectors, E> {
                match name {
                    ALL => Ok(Detectors::All { all: All::default() }),
                    name => DetectorConfig::default_of(name).map(Detectors::One).map_err(E::custom),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Detectors, A::Error> {
                let Some(Known(name)) = map.next_key()? else {
                    return Err(de::Error::custom(format_args!("expected {EXPECTED}")));
                };
                let detectors = match name.as_str() {
                    ALL => Detectors::All { all: map.next_value()? },
                    name => Detectors::One(DetectorConfig::settings_of(name, &mut map)?),
                };
                match map.next_key::<String>()? {
                    Some(second) => Err(de::Error::custom(format_args!(
                        "a method has one detector, but `{second}` follows `{name}`"
                    ))),
                    None => Ok(detectors),
                }
            }
        }

        deserializer.deserialize_any(NameOrMap)
    }
}

/// The name of a detector, or `all`; an unknown one is refused where it stands.
struct Known(String);

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        if given == ALL || DetectorConfig::NAMES.contains(&given.as_str()) {
            Ok(Self(given))
        } else {
            Err(de::Error::custom(unknown(&given)))
        }
    }
}

/// Schema transform: `all` may stand alone.
fn bare_all(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "const": ALL }, long] });
}
