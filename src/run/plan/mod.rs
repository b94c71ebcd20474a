//! An experiment as a graph of networks: what must be trained, what is shared, what is done.
//!
//! A node is a network and a seed. Its identity is a hash of everything that can change its weights: architecture, data
//! set, loss, recipe, and the identity of what it starts from. Two networks with the same identity are the same node, in
//! whatever experiment, sweep cell or table they are named.
//!
//! A set with a `path` or a `list` is known by what its files hold, wherever they lie. Networks of earlier versions were known by the
//! path; they are found under it as long as no file has changed since.

mod describe;
mod pools;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use indexmap::IndexMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Error, Result,
    config::{Experiment, Network, load::Loaded, sweep},
    data::{self, Dataset, Normalisation, Split, given_normalisation},
    digest::hex,
    losses::Loss,
    models::ModelConfig,
    nn::{Backbone, weights::Normalise},
    run::{
        digests::{Digests, Known},
        published::{Files, Published},
        store::Store,
    },
    train::Train,
};

/// Changes when the meaning of a recipe changes, so that old weights are not taken for new ones.
const IDENTITY: u32 = 1;

/// What an experiment comes to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The experiment's name: its file's stem.
    pub name: String,
    /// Its file, for messages.
    pub path: PathBuf,
    /// The experiment as read, overrides applied, the sweep not expanded.
    pub experiment: Experiment,
    /// The cells of the sweep; a single one without a sweep.
    pub cells: Vec<Cell>,
    /// Every network to have, each once; what a node starts from stands before it.
    pub nodes: Vec<Node>,
}

/// One cell of the sweep.
#[derive(Debug, Clone)]
pub struct Cell {
    /// `weight=0.01`, or `default` without a sweep.
    pub name: String,
    /// Swept paths and their values.
    pub values: IndexMap<String, Value>,
    /// The experiment of this cell, without a sweep.
    pub experiment: Experiment,
    /// One, or one for each category.
    pub tasks: Vec<Task>,
}

impl Cell {
    /// The task of this name, or the only one.
    ///
    /// # Errors
    /// [`Error::Input`] that lists the tasks, if there is none of this name, or several and no name.
    pub fn task(&self, name: Option<&str>) -> Result<&Task> {
        let names = self.tasks.iter().map(Task::name).collect::<Vec<_>>();
        let found = match (name, &self.tasks[..]) {
            (None, [one]) => Some(one),
            (None, _) => None,
            (Some(name), tasks) => tasks.iter().find(|task| task.name() == name),
        };
        found.ok_or_else(|| match name {
            Some(name) => {
                Error::input(format!("there is no task \"{name}\"{}", crate::did_you_mean(name, names.iter().copied())))
                    .hint(format!("there are {}", names.join(", ")))
            }
            None => Error::input("the experiment has several tasks").hint(format!("name one of {}", names.join(", "))),
        })
    }
}

impl Task {
    /// The networks of this seed, by name.
    ///
    /// # Errors
    /// [`Error::Input`] if the experiment has no such seed.
    pub(super) fn of_seed(&self, seed: u64) -> Result<&BTreeMap<String, Vec<usize>>> {
        let at = self.experiment.seeds.iter().position(|known| *known == seed);
        let networks = at.and_then(|at| self.networks.get(at));
        networks.ok_or_else(|| Error::input(format!("there is no seed {seed}")))
    }
}

/// What is learned from and tested on together.
#[derive(Debug, Clone)]
pub struct Task {
    /// The cell's experiment with this task's data alone.
    pub experiment: Experiment,
    /// For each seed, in order: network name → indices into [`Plan::nodes`], one for each member of an ensemble.
    pub networks: Vec<BTreeMap<String, Vec<usize>>>,
}

impl Task {
    /// The name of its ID set.
    pub fn name(&self) -> &str {
        &self.experiment.data.id.name
    }
}

/// A network with a seed.
#[derive(Debug, Clone)]
pub struct Node {
    /// What people call it: `lenet on fashion_mnist`.
    pub label: String,
    /// The first 12 hexadecimal digits of its identity's SHA-256.
    pub hash: String,
    /// The hash by what its files hold, and that of earlier versions by where they are: its folder has either.
    by_content: String,
    by_path: String,
    /// What was hashed.
    pub identity: Value,
    /// The seed of its initial weights, batch order, augmentation and dropout.
    pub seed: u64,
    /// The node it starts from, an index into [`Plan::nodes`].
    pub upstream: Option<usize>,
    /// How it is built.
    pub model: ModelConfig,
    /// Published weights it starts from.
    pub weights: Option<Published>,
    /// What its images are normalised by, if that is the published weights' own; of a network `from` another, as there.
    pub normalisation: Option<Normalisation>,
    /// What it learns from, or is used on.
    pub data: Dataset,
    /// Whether it is the same for every task: it has data of its own, or is used as it is on a folder of categories.
    pub shared: bool,
    /// What it learns to tell from that, if its loss has a term of outliers.
    pub outliers: Option<Dataset>,
    /// What it learns to do.
    pub loss: Loss,
    /// How it learns; `None` uses the weights as they are.
    pub train: Option<Train>,
    /// Where it is used: the network's name and the sweep cell's.
    pub uses: Vec<(String, String)>,
}

impl Node {
    /// What its images are normalised by: what its weights want, else what was `computed` of the train images, else what is given
    /// with the data.
    ///
    /// # Errors
    /// If there is none of them.
    pub fn normalisation(&self, computed: Option<&Normalisation>) -> Result<Normalisation> {
        self.normalisation.as_ref().or(computed).cloned().map_or_else(|| data::normalisation(&self.data), Ok)
    }

    /// What the first cell that uses it calls it.
    pub fn name(&self) -> &str {
        self.uses.first().map_or("", |(name, _)| name)
    }

    /// Its folder, relative to the runs root.
    pub fn folder(&self) -> PathBuf {
        folder_of(&self.label, &self.hash, self.seed)
    }
}

fn folder_of(label: &str, hash: &str, seed: u64) -> PathBuf {
    let name = format!("{}-{hash}", label.replace(" on ", "-").replace(' ', "_"));
    ["networks", &name, &format!("seed{seed}")].iter().collect()
}

/// Whether a network is in this folder, whole or in part, that was written after this time since 1970.
fn is_since(folder: &Path, time: Option<Duration>) -> bool {
    ["network.json", "checkpoint.safetensors"].iter().any(|name| {
        let written = std::fs::metadata(folder.join(name)).and_then(|metadata| metadata.modified());
        let written = written.map(|written| written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        written.is_ok_and(|written| time.is_none_or(|time| time <= written))
    })
}

/// A set that a network learns from, and what its files hold.
struct Learned<'a> {
    dataset: &'a Dataset,
    /// Of a set with a path or a list, if its files are there.
    known: Option<Known>,
    /// Whether the network learns at all.
    learns: bool,
}

impl<'a> Learned<'a> {
    fn of(dataset: &'a Dataset, network: &Network, looked: &mut Looked<'_>) -> Result<Self> {
        let learns = network.train.is_some();
        let elsewhere = dataset.path.is_some() || dataset.list.is_some();
        let known = match &mut looked.digests {
            Some(digests) if elsewhere && learns => digests.of(dataset)?,
            _ => None,
        };
        Ok(Self { dataset, known, learns })
    }

    /// What of it can change the weights, by what its files hold.
    fn by_content(&self) -> Result<Value> {
        let mut data = train_split(self.dataset)?;
        // A network that does not learn is the same whatever it is used on.
        if let Some(data) = data.as_object_mut().filter(|_| self.known.is_some() || !self.learns) {
            data.remove("path");
            data.remove("list");
            data.extend(self.known.as_ref().map(|known| ("digest".to_owned(), json!(known.sha256))));
        }
        Ok(data)
    }

    /// The same by where its files are.
    fn by_path(&self) -> Result<Value> {
        train_split(self.dataset)
    }
}

/// Where a plan looks for what networks start and learn from.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The data root; `None` where data are made up, as in a smoke run: sets are then known by name and place.
    pub data: Option<&'a Path>,
    /// The folder of weights that were downloaded.
    pub weights: &'a Path,
    /// Where networks are kept.
    pub store: &'a Store,
}

/// What is known of files, each looked at once.
struct Looked<'a> {
    published: Files<'a>,
    digests: Option<Digests<'a>>,
    store: &'a Store,
}

/// Makes the plan; of the data it reads the files of sets with a `path` or a `list`, once while they do not change.
///
/// # Errors
/// If a sweep path or value does not fit the experiment, or a file of weights or data cannot be read.
pub fn plan(loaded: &Loaded, places: &Places<'_>) -> Result<Plan> {
    let Places { data, weights, store } = *places;
    let digests = data.map(|data| Digests::new(data, store.root()));
    let mut looked = Looked { published: Files::below(weights), digests, store };
    let mut nodes: Vec<Node> = Vec::new();
    let mut cells = Vec::new();
    for cell in sweep::cells(&loaded.experiment)? {
        let mut tasks = Vec::new();
        let categories = cell.experiment.data.has_categories();
        for data in cell.experiment.data.tasks(data)? {
            let experiment = Experiment { data, ..cell.experiment.clone() };
            let place = Placed { experiment: &experiment, cell: &cell.name, categories };
            let mut networks = Vec::new();
            let mut known = BTreeMap::new();
            for &seed in &experiment.seeds {
                let resolved = experiment.networks.iter().map(|(name, network)| {
                    let members = network
                        .seeds(seed)
                        .into_iter()
                        .map(|seed| resolve((name, seed), place, &mut nodes, &mut known, &mut looked));
                    Ok((name.clone(), members.collect::<Result<_>>()?))
                });
                networks.push(resolved.collect::<Result<_>>()?);
            }
            tasks.push(Task { experiment, networks });
        }
        cells.push(Cell { name: cell.name, values: cell.values, experiment: cell.experiment, tasks });
    }
    let (name, path, experiment) = (loaded.name.clone(), loaded.path.clone(), loaded.experiment.clone());
    Ok(Plan { name, path, experiment, cells, nodes })
}

/// Where a network is named.
#[derive(Clone, Copy)]
struct Placed<'a> {
    /// With the data of one task.
    experiment: &'a Experiment,
    /// The cell's name.
    cell: &'a str,
    /// Whether the task is one of several categories.
    categories: bool,
}

/// The node of network `name`, after those it starts from; cycles were refused when the file was read.
fn resolve<'a>(
    (name, seed): (&'a str, u64),
    place: Placed<'a>,
    nodes: &mut Vec<Node>,
    known: &mut BTreeMap<(&'a str, u64), usize>,
    looked: &mut Looked<'_>,
) -> Result<usize> {
    if let Some(&index) = known.get(&(name, seed)) {
        return Ok(index);
    }
    let experiment = place.experiment;
    let network = experiment.networks.get(name).ok_or_else(|| Error::input(format!("no network \"{name}\"")))?;
    let upstream =
        network.from.as_deref().map(|from| resolve((from, seed), place, nodes, known, looked)).transpose()?;
    let model = match (network.model(), upstream) {
        (Some(model), _) => model,
        (None, Some(upstream)) => nodes[upstream].model.clone(),
        (None, None) => {
            return Err(Error::input(format!("network \"{name}\" has neither backbone nor model nor from")));
        }
    };
    let own = network.data.as_ref();
    let data = own.unwrap_or(&experiment.data.id);
    let frozen = place.categories && network.train.is_none();
    let outliers = experiment.data.outliers.as_ref().filter(|_| network.learns_auxiliary());
    let weights = network.weights.as_ref().map(|weights| looked.published.get(weights)).transpose()?;
    let learned: Vec<Learned> = [Some(data), outliers]
        .into_iter()
        .flatten()
        .map(|set| Learned::of(set, network, looked))
        .collect::<Result<_>>()?;
    let normalisation = match (network.normalise, upstream) {
        (_, Some(upstream)) => nodes[upstream].normalisation.clone(),
        (Normalise::Weights, None) => model.backbone().and_then(Backbone::normalisation),
        (Normalise::Data, None) => None,
    };
    let given = match &normalisation {
        // Whatever is given with the data.
        None if model.normalisation(1).is_some() => None,
        None => given_normalisation(data)?,
        own => own.clone(),
    };
    let of = |by: fn(&Learned<'_>) -> Result<Value>, from: Option<&str>| {
        let sets = learned.iter().map(by).collect::<Result<Vec<_>>>()?;
        identity(network, &model, (given.as_ref(), sets), (from, weights.as_ref())).and_then(|whole| match frozen {
            true => Ok(of_any_category(whole)),
            false if own.is_some() => fed_as(whole, &experiment.data.id),
            false => Ok(whole),
        })
    };
    let mut identity = of(|set| set.by_content(), upstream.map(|index| nodes[index].by_content.as_str()))?;
    let by_content = short_hash(&identity);
    let index = match nodes.iter().position(|node| node.by_content == by_content && node.seed == seed) {
        Some(index) => index,
        None => {
            // What is of another kind than what it starts from is no tuned one.
            let tuned = if upstream.is_some() && network.model.is_none() { " tuned" } else { "" };
            let on = if frozen { String::new() } else { format!(" on {}", data.name) };
            let label = format!("{}{tuned}{on}", model.label());
            let old = of(|set| set.by_path(), upstream.map(|index| nodes[index].by_path.as_str()))?;
            let by_path = short_hash(&old);
            let newest = learned.iter().filter_map(|set| set.known.as_ref()).map(|known| known.newest).max();
            let mut hash = by_content.clone();
            let [here, there] = [&hash, &by_path].map(|hash| looked.store.root().join(folder_of(&label, hash, seed)));
            if is_since(&there, newest) && !is_since(&here, None) {
                (identity, hash) = (old, by_path.clone());
            }
            nodes.push(Node {
                label,
                hash,
                by_content,
                by_path,
                identity,
                seed,
                upstream,
                model,
                weights,
                normalisation,
                data: data.clone(),
                shared: own.is_some() || frozen,
                outliers: outliers.cloned(),
                loss: network.loss.clone(),
                train: network.train.clone(),
                uses: Vec::new(),
            });
            nodes.len() - 1
        }
    };
    let used = (name.to_owned(), place.cell.to_owned());
    if !nodes[index].uses.contains(&used) {
        nodes[index].uses.push(used);
    }
    known.insert((name, seed), index);
    Ok(index)
}

/// The identity of a network that is used as it is on categories: their names and their files make no difference, their shape does.
fn of_any_category(mut identity: Value) -> Value {
    if let Some(data) = identity.get_mut("data").and_then(Value::as_object_mut) {
        data.retain(|key, _| ["size", "channels"].contains(&key.as_str()));
    }
    identity
}

/// The identity of a network with data of its own, whose images are brought to what those of the ID set are brought to.
fn fed_as(mut identity: Value, id: &Dataset) -> Result<Value> {
    let mut fed = train_split(id)?;
    if let (Some(fed), Some(identity)) = (fed.as_object_mut(), identity.as_object_mut()) {
        fed.retain(|key, _| ["size", "channels", "resize", "crop", "brightness"].contains(&key.as_str()));
        identity.insert("fed".to_owned(), Value::Object(std::mem::take(fed)));
    }
    Ok(without_nulls(identity))
}

/// Everything that can change the weights, and nothing that cannot.
fn identity(
    network: &Network,
    model: &ModelConfig,
    (given, mut learned): (Option<&Normalisation>, Vec<Value>),
    (upstream, weights): (Option<&str>, Option<&Published>),
) -> Result<Value> {
    let mut train = to_json(&network.train)?;
    if let Some(train) = train.as_object_mut() {
        train.remove("checkpoint");
        // The key is younger than networks that were trained without it.
        if train["precision"] == json!("f32") {
            train.remove("precision");
        }
    }
    // A term of weight zero adds nothing, so "plain fine-tuning" and "λ = 0" are one network.
    let mut loss = to_json(&network.loss)?;
    if let Some(loss) = loss.as_object_mut() {
        loss.retain(|_, term| term["weight"] != json!(0.0));
    }
    let outliers = (learned.len() > 1).then(|| learned.swap_remove(1));
    let data = learned.pop();
    let normalisation = match given {
        Some(given) => json!([given.mean, given.std]),
        // The train images say what comes of it.
        None => json!("computed"),
    };
    let mut identity = json!({
        "identity": IDENTITY, "data": data, "train": train, "loss": loss, "outliers": outliers, "from": upstream, "weights": weights.map(Published::identity), "normalisation": normalisation,
    });
    if network.train.is_none() {
        identity["loss"] = Value::Null;
    }
    // A classifier's keys stand by themselves, as they did before there were other models.
    let built = match model.clone().canonical() {
        ModelConfig::Classifier(architecture) => to_json(&architecture)?,
        other => json!({ "model": to_json(&other)? }),
    };
    if let (Some(identity), Value::Object(built)) = (identity.as_object_mut(), built) {
        identity.extend(built);
    }
    Ok(without_nulls(identity))
}

/// What of a data set can change the weights.
fn train_split(dataset: &Dataset) -> Result<Value> {
    let mut data = to_json(dataset)?;
    if let Some(data) = data.as_object_mut() {
        // What is tested on cannot; the normalisation, of the ID set for all, stands by itself.
        for key in ["note", "test_limit", "mean", "std", "group", "links", "mask_rule"] {
            data.remove(key);
        }
    }
    Ok(data)
}

/// Images of a split that are read, where it is known without reading them.
fn images(dataset: &Dataset, split: Split, data: Option<&Path>) -> Option<usize> {
    let limit = match split {
        Split::Train => dataset.train_limit,
        Split::Test | Split::Val => dataset.test_limit,
    };
    // What the repository carries is a part of the complete set.
    let complete = data::full_size(dataset, split).filter(|_| !data::embedded(dataset));
    let there = || Some(data::glance(dataset, split, data?)?.0);
    complete.or_else(there).into_iter().chain(limit).min()
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Failed(format!("cannot serialise the configuration: {error}")))
}

/// Without nulls and with sorted keys, so that a new optional key leaves old identities as they were.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().filter(|(_, value)| !value.is_null()).collect();
            Value::Object(sorted.into_iter().map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The first 12 hexadecimal digits of the SHA-256 of a JSON value.
pub(crate) fn short_hash(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string()))[..12].to_owned()
}

/// A short hash of a value's content: equal values have equal fingerprints.
pub fn fingerprint(value: &impl serde::Serialize) -> Result<String> {
    Ok(short_hash(&without_nulls(to_json(value)?))[..8].to_owned())
}
