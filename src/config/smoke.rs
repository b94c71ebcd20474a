//! `smoke=1`: the same path in seconds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    config::{
        Detectors, Experiment, Figure, HeldOut, Method, MethodEntry, Network,
        methods::root,
        sweep::{self, CATEGORIES, FOLD},
        tasks::{Categories, SMOKE_CATEGORIES},
    },
    data::{self, Dataset, Format, Size, registry},
    detectors::Smoke,
    models::{ModelConfig, common_multiple},
    nn::{Backbone, weights::Normalise},
};

/// Values tried per swept key, and validation sets made.
const SWEEP_VALUES: usize = 2;
/// Images a training step.
const BATCH: usize = 8;
/// Training steps of each network, and steps of a sampler.
const STEPS: usize = 2;
/// Images that a diffusion model makes of each class.
const SAMPLES: usize = 2;
/// Anomalous images whose maps are drawn.
const MAPPED: usize = 1;
/// Networks of an ensemble.
const MEMBERS: usize = 2;
/// Held-out images.
const VALIDATION: usize = 8;
/// Images a forward pass of the evaluation.
const EVALUATION_BATCH: usize = 16;
/// Subsets of the redraw protocol.
const DRAWS: usize = 10;
/// Train images of a set; of the ID set two of each class, if that is more: some detectors learn from how a class's images differ.
const TRAIN_IMAGES: usize = 32;
/// Rows and columns of images that are brought to a size, at least.
const SIDE: usize = 32;
/// Test images of a set.
const TEST_IMAGES: usize = 24;

/// Lets a network learn a step that was to be used with weights that are not there; of `categories`, which have one class each, a set
/// of its own that is made up.
pub fn untrained(network: &mut Network, categories: bool) {
    let recipe =
        serde_json::json!({ "epochs": 1, "batch_size": BATCH, "max_steps": 1, "optimizer": { "sgd": { "lr": 0.01 } } });
    let learns = network.train.is_some();
    network.train = network.train.take().or_else(|| serde_json::from_value(recipe).ok());
    network.model = network.model.take().map(ModelConfig::learning);
    network.normalise = Normalise::Data;
    if categories && !learns && network.data.is_none() {
        network.data = Some(Dataset {
            format: Some(Format::ClassFolders),
            train_limit: Some(TRAIN_IMAGES),
            test_limit: Some(TEST_IMAGES),
            ..Dataset::named("made_up")
        });
    }
}

/// The experiment cut down to a few steps on a few images: one seed, two values per swept key, two categories, two steps per network. Networks
/// are as deep as they were, and narrow unless their weights are published ones.
///
/// Its numbers mean nothing; that it runs through says that the whole path works. Values that are smaller already stay.
#[must_use]
pub fn smoke(mut experiment: Experiment) -> Experiment {
    experiment.seeds.truncate(1);
    fewer_categories(&mut experiment);
    let cells = cell_names(&experiment);
    let settled = methods(&mut experiment);
    sweep_less(&mut experiment, settled, &cells);
    let published: Vec<bool> =
        experiment.networks.values().map(|network| starts_published(network, &experiment.networks)).collect();
    for (network, published) in experiment.networks.values_mut().zip(published) {
        network.members = network.members.map(|members| members.min(MEMBERS));
        network.model = network.model.take().map(|model| model.smoke(published));
        if !published {
            network.backbone = network.backbone.take().map(|backbone| backbone.smoke().unwrap_or(backbone));
        }
    }
    for train in experiment.networks.values_mut().filter_map(|network| network.train.as_mut()) {
        train.epochs = 1;
        for group in &mut train.groups {
            group.epochs = group.epochs.map(|epochs| epochs.min(1));
        }
        train.batch_size = train.batch_size.min(BATCH);
        train.max_steps = Some(train.max_steps.map_or(STEPS, |steps| steps.min(STEPS)));
        train.validation = train.validation.min(VALIDATION);
        // Slow weights move at each step, a round is one.
        train.lookahead.iter_mut().for_each(|lookahead| lookahead.every = 1);
        train.reptile.iter_mut().for_each(|reptile| reptile.inner_steps = 1);
    }
    for figure in &mut experiment.figures {
        match figure {
            Figure::Samples(samples) => {
                samples.images = samples.images.min(SAMPLES);
                samples.steps = Some(samples.steps.map_or(STEPS, |steps| steps.min(STEPS)));
                // There is one epoch.
                samples.every_epochs = samples.every_epochs.map(|_| 1);
            }
            Figure::Maps(maps) => maps.images = maps.images.min(MAPPED),
            _ => {}
        }
    }
    let batch_size = &mut experiment.evaluation.batch_size;
    *batch_size = Some(batch_size.map_or(EVALUATION_BATCH, |images| images.min(EVALUATION_BATCH)));
    if let Some(redraw) = &mut experiment.evaluation.redraw {
        redraw.draws = redraw.draws.min(DRAWS);
    }
    // Synthetic sets have both parts, and classes have names of their own.
    experiment.sweep.shift_remove(FOLD);
    experiment.data.ood = experiment.data.ood_sets();
    let side = side(&experiment.networks);
    let id = &mut experiment.data.id;
    let two_of_each = registry::known(id.source()).map_or(0, |known| 2 * known.classes);
    limit(id, TRAIN_IMAGES.max(two_of_each));
    id.size = id.size.map(|size| Size::Sides(size.sides().map(|given| given.min(side))));
    let size = data::shape(id).map_or([side; 2], |[_, height, width]| [height, width]);
    let grids: Vec<Option<[usize; 2]>> = experiment
        .networks
        .values()
        .map(|network| root(network, &experiment.networks).model().and_then(|model| model.grid(size)))
        .collect();
    for (network, grid) in experiment.networks.values_mut().zip(grids) {
        if let Some(grid) = grid {
            network.loss = network.loss.clone().on_grid(grid);
        }
    }
    let limit = |dataset: &mut Dataset| limit(dataset, TRAIN_IMAGES);
    experiment.data.ood.iter_mut().chain(&mut experiment.data.shifted).for_each(limit);
    experiment.data.outliers.iter_mut().for_each(limit);
    experiment.networks.values_mut().filter_map(|network| network.data.as_mut()).for_each(limit);
    if let Some(validation) = &mut experiment.data.validation {
        match &mut validation.id {
            HeldOut::Images(images) => *images = (*images).min(VALIDATION),
            HeldOut::Set(set) => limit(set),
            HeldOut::Val(_) => validation.id = HeldOut::Images(VALIDATION),
        }
        validation.ood.iter_mut().chain(&mut validation.made_of).for_each(limit);
        validation.made.truncate(SWEEP_VALUES);
    }
    experiment
}

/// Rows and columns of images that are brought to a size: a whole number of the patches of every network, and no fewer than one needs.
fn side(networks: &BTreeMap<String, Network>) -> usize {
    let models: Vec<ModelConfig> = networks.values().filter_map(Network::model).collect();
    let least = models.iter().map(ModelConfig::least_side).fold(SIDE, usize::max);
    least.next_multiple_of(models.iter().map(ModelConfig::patch).fold(1, common_multiple))
}

/// Whether the chain of `from` of a network begins with published weights, whose layers are as wide as they are.
fn starts_published(network: &Network, networks: &BTreeMap<String, Network>) -> bool {
    let mut current = Some(network);
    // No chain is longer than there are networks.
    for _ in 0..=networks.len() {
        let Some(network) = current.filter(|network| network.weights.is_none()) else { break };
        current = network.from.as_ref().and_then(|from| networks.get(from));
    }
    current.is_some_and(|network| network.weights.is_some())
}

/// Fewer categories, given or swept. A paper's numbers of those that are gone have no row to stand beside.
fn fewer_categories(experiment: &mut Experiment) {
    for names in experiment.sweep.get_mut(CATEGORIES).into_iter().flatten() {
        if let Value::Array(names) = names {
            names.truncate(SMOKE_CATEGORIES);
        }
    }
    let Some(Categories::Named(names)) = &mut experiment.data.categories else { return };
    let gone = names.split_off(SMOKE_CATEGORIES.min(names.len()));
    let stays = |key: &String, _: &mut String| !gone.contains(key);
    for expect in experiment.tables.iter_mut().filter_map(|table| table.expect.as_mut()) {
        expect.rows.retain(stays);
        expect.columns.retain(stays);
    }
}

/// What a sweep's cells are called. A sweep that is wrong has none, and is refused when it is planned.
fn cell_names(experiment: &Experiment) -> BTreeSet<String> {
    sweep::cells(experiment).into_iter().flatten().map(|cell| cell.name).collect()
}

/// Fewer values of every swept key, and one of each that a smoke run has `settled`. A paper's numbers of those of `all` cells that are gone
/// have no row to stand beside.
fn sweep_less(experiment: &mut Experiment, settled: Vec<(String, Value)>, all: &BTreeSet<String>) {
    for (key, value) in settled {
        if let Some(values) = experiment.sweep.get_mut(&key) {
            *values = vec![value];
        }
    }
    for values in experiment.sweep.values_mut() {
        values.truncate(SWEEP_VALUES);
    }
    let left = cell_names(experiment);
    let gone: Vec<&String> = all.difference(&left).collect();
    let stays =
        |key: &String, _: &mut String| !gone.iter().any(|cell| key == *cell || key.contains(&format!("({cell})")));
    for expect in experiment.tables.iter_mut().filter_map(|table| table.expect.as_mut()) {
        expect.rows.retain(stays);
        expect.columns.retain(stays);
    }
}

/// Detectors with fewer neighbours, clusters and neurons. What that changes of an `all` becomes an entry of its own, at the end:
/// the others keep their places, by which a sweep may call them. To be called while networks are what they were. The keys that have one value
/// now, whatever a sweep gives them.
fn methods(experiment: &mut Experiment) -> Vec<(String, Value)> {
    let mut settled = Vec::new();
    // Fitting a neuron costs about the same however few the images, and most networks have hundreds of thousands of pixels:
    // only those that figures show and LeNet's are fitted, once, and feature maps as a whole in all other rows.
    let few_pixels =
        |name: &String| experiment.networks[name].built_on().as_ref().is_some_and(Backbone::has_few_pixels);
    let shown: BTreeSet<String> =
        experiment.figures.iter().filter_map(|figure| Some(figure.view()?.0.to_owned())).collect();
    let all = experiment.methods();
    let shows = |method: &&Method| shown.contains(&method.name);
    let mut seen: BTreeSet<String> = all.iter().filter(shows).map(|method| method.network.clone()).collect();
    for mut method in all {
        let own = method.clone();
        for values in method.search.values_mut() {
            values.truncate(SWEEP_VALUES);
        }
        let origin = root(&experiment.networks[&method.network], &experiment.networks);
        let replaced = origin.built_on().filter(|_| !starts_published(origin, &experiment.networks));
        let place = format!("methods.{}.detector.{}", method.entry, method.detector.name());
        let mut set = Vec::new();
        method.detector.detector_mut().smoke(&mut Smoke {
            search: &mut method.search,
            set: &mut set,
            layer: &|name| replaced.as_ref().map_or_else(|| name.to_owned(), |backbone| backbone.layer_in_smoke(name)),
            neurons: &mut || {
                shown.contains(&method.name) || few_pixels(&method.network) && seen.insert(method.network.clone())
            },
        });
        settled.extend(set.into_iter().map(|(key, value)| (format!("{place}.{key}"), value)));
        let entry = &mut experiment.methods[method.entry];
        match &mut entry.detector {
            Detectors::One(detector) => (*detector, entry.search) = (method.detector, method.search),
            Detectors::All { all } if method.detector != own.detector => {
                all.except.push(method.detector.name().to_owned());
                experiment.methods.push(MethodEntry::from(&method));
            }
            Detectors::All { all } => {
                if let Some(search) = all.search.get_mut(method.detector.name()) {
                    *search = method.search;
                }
            }
        }
    }
    settled
}

fn limit(dataset: &mut Dataset, train_images: usize) {
    let at_most = |limit: Option<usize>, images: usize| Some(limit.map_or(images, |limit| limit.min(images)));
    // The synthetic images stand in the folder of the set's name, wherever the real ones are.
    dataset.path = None;
    if let Some(of) = dataset.of.take() {
        dataset.format = dataset.format.or(registry::known(&of).map(|known| known.format));
    }
    dataset.split = None;
    dataset.classes = None;
    dataset.held_out.clear();
    if let Some(format) = dataset.format {
        format.smoke(dataset);
    }
    dataset.list = dataset.list.as_ref().map(|_| format!("{}/{{split}}.txt", dataset.name));
    dataset.train_limit = at_most(dataset.train_limit, train_images);
    dataset.test_limit = at_most(dataset.test_limit, TEST_IMAGES);
}
