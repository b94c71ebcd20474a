//! What is wrong with the data of an experiment.

use super::{Found, in_names, root};
use crate::{
    config::{Categories, Data, Experiment, HELD_OUT, HeldOut, Network, Validation, expect, methods},
    data::{self, Dataset, Division, made::Distribution, mvtec, registry},
    did_you_mean,
    nn::{Output, weights::Normalise},
    yaml::problems::{Path, first_repeated},
};

impl Found {
    pub(super) fn data(&mut self, experiment: &Experiment) {
        let data = root("data");
        if experiment.data.has_categories() {
            self.categories(&data, &experiment.data);
        } else if experiment.data.ood_sets().is_empty() {
            self.add(data.clone(), "needs OOD sets: `ood: [svhn]`, or classes of the ID set under `held_out`");
        }
        for (index, dataset) in experiment.data.ood.iter().enumerate() {
            if dataset.name == experiment.data.id.name {
                let message = format!("\"{}\" is the in-distribution set itself", dataset.name);
                self.add(data.join("ood").join(index), message);
            }
        }
        if let Some(index) = first_repeated(experiment.data.ood.iter().map(|dataset| &dataset.name)) {
            let message = format!("\"{}\" is given twice", experiment.data.ood[index].name);
            self.add(data.join("ood").join(index), message);
        }
        for (index, dataset) in experiment.data.shifted.iter().enumerate() {
            let path = data.join("shifted").join(index);
            let ood = experiment.data.ood_sets();
            let mut others = experiment.data.shifted[..index].iter().chain(&ood).chain([&experiment.data.id]);
            if others.any(|other| other.name == dataset.name) {
                self.add(path.clone(), format!("\"{}\" is given twice", dataset.name));
            }
            if dataset.group.is_some() {
                self.add(path.join("group"), "is for OOD sets, whose means are by group");
            }
            self.no_masks(&path, dataset);
            self.dataset(path.clone(), dataset);
            self.takes_the_shape(path, dataset);
        }
        let others = [("id", Some(&experiment.data.id)), ("outliers", experiment.data.outliers.as_ref())];
        for (key, _) in others.into_iter().filter(|(_, set)| set.is_some_and(|set| set.group.is_some())) {
            self.add(data.join(key).join("group"), "is for OOD sets, whose means are by group");
        }
        if !experiment.data.id.held_out.is_empty() {
            for (index, _) in experiment.data.ood.iter().enumerate().filter(|(_, set)| set.name == HELD_OUT) {
                let message =
                    "\"held_out\" is the set of the classes that data.id holds out: give this one another name";
                self.add(data.join("ood").join(index), message);
            }
        }
        for (index, dataset) in experiment.data.ood.iter().enumerate() {
            if experiment.groups().contains_key(dataset.name.as_str()) {
                let message = format!("\"{}\" is the name of a group as well", dataset.name);
                self.add(data.join("ood").join(index), message);
            }
        }
        self.dataset(data.join("id"), &experiment.data.id);
        let by_data = experiment.networks.values().any(|network| network.normalise == Normalise::Data);
        self.in_distribution(data.join("id"), &experiment.data.id, by_data);
        let learned = experiment.networks.values().any(|network| network.train.is_some());
        if learned && experiment.data.id.is_one_list() {
            let message = "its train and test images would be the same: write `{split}` in list, or divide it: `split: { test: 0.2 }`";
            self.add(data.join("id").join("list"), message);
        }
        for (index, dataset) in experiment.data.ood.iter().enumerate() {
            self.dataset(data.join("ood").join(index), dataset);
            self.takes_the_shape(data.join("ood").join(index), dataset);
            self.attack(data.join("ood").join(index).join("attack"), dataset, experiment);
        }
        let validation = experiment.data.validation.iter();
        let chosen_on = validation.flat_map(|validation| {
            let id = if let HeldOut::Set(set) = &validation.id { Some(&**set) } else { None };
            id.into_iter().chain(&validation.ood).chain(&validation.made_of)
        });
        let own = experiment.networks.values().filter_map(|network| network.data.as_ref());
        let others = [&experiment.data.id].into_iter().map(|set| (data.join("id"), set));
        let others = others.chain(experiment.data.outliers.iter().map(|set| (data.join("outliers"), set)));
        let others = others.chain(experiment.data.shifted.iter().map(|set| (data.join("shifted"), set)));
        let others = others.chain(chosen_on.map(|set| (data.join("validation"), set)));
        let others = others.chain(own.map(|set| (root("networks"), set)));
        for (path, set) in others.filter(|(_, set)| set.attack.is_some()) {
            let message = format!("`attack` goes with sets under data.ood, and \"{}\" is none", set.name);
            self.add(path, message);
        }
        if let Some(outliers) = &experiment.data.outliers {
            let path = data.join("outliers");
            if outliers.name == experiment.data.id.name {
                self.add(path.clone(), format!("\"{}\" is the in-distribution set itself", outliers.name));
            }
            if !experiment.networks.values().any(Network::learns_auxiliary) {
                let message = "no network learns from outliers: give one `loss: { cross_entropy: {}, energy_margin: {} }` or \
                               `outlier_exposure: {}`";
                self.add(path.clone(), message);
            }
            self.no_masks(&path, outliers);
            self.dataset(path.clone(), outliers);
            self.takes_the_shape(path, outliers);
        }
    }

    /// A classifier of the experiment must be named.
    fn attack(&mut self, path: Path, dataset: &Dataset, experiment: &Experiment) {
        let Some(attack) = &dataset.attack else { return };
        let Some(network) = experiment.networks.get(&attack.network) else {
            return self.network_name(path.join("network"), &attack.network, experiment);
        };
        if network.members.is_some() {
            let message = format!("\"{}\" is an ensemble, and one classifier is attacked", attack.network);
            self.add(path.join("network"), message);
        } else if methods::shown(network, &experiment.networks)
            .is_some_and(|shown| ![Output::Logits, Output::Gradients].iter().all(|output| shown.contains(output)))
        {
            self.add(path.join("network"), format!("\"{}\" has no logits to be sure by", attack.network));
        }
    }

    /// What a folder of categories must say.
    pub(super) fn categories(&mut self, path: &Path, data: &Data) {
        if data.id.size.is_none() {
            self.add(path.clone(), "needs `size`, which images and masks are brought to: `size: 256`");
        }
        if let Some(Categories::Named(names)) = &data.categories {
            let path = path.join("categories");
            if names.is_empty() {
                self.add(path.clone(), "names no category; `all` takes every one");
            }
            if let Some(index) = first_repeated(names) {
                self.add(path.join(index), format!("\"{}\" is given twice", names[index]));
            }
            for (index, name) in names.iter().enumerate() {
                if !mvtec::is_plain(name) {
                    self.add(path.join(index), format!("\"{name}\" is not the name of a folder"));
                }
            }
        }
        for (key, given) in [
            ("shifted", !data.shifted.is_empty()),
            ("outliers", data.outliers.is_some()),
            ("validation", data.validation.is_some()),
        ] {
            if given {
                self.add(path.join(key), "goes with one ID set, not with categories");
            }
        }
    }

    /// The keys of categories stand under `data` itself.
    pub(super) fn without_id(&mut self) {
        for problem in &mut self.problems {
            let steps = &mut problem.path.0;
            if steps.first() == Some(&"data".into()) && steps.get(1) == Some(&"id".into()) {
                steps.remove(1);
            }
        }
    }

    /// All sets but the ID set are brought to its shape, and hold no classes out.
    pub(super) fn takes_the_shape(&mut self, path: Path, dataset: &Dataset) {
        if !dataset.held_out.is_empty() {
            self.add(path.join("held_out"), "goes with the ID set: choose classes of other sets with `classes`");
        }
        for (key, given) in [
            ("size", dataset.size.is_some()),
            ("resize", dataset.resize.is_some()),
            ("crop", dataset.crop.is_some()),
            ("brightness", dataset.brightness.is_some()),
            ("channels", dataset.channels.is_some()),
        ] {
            if given {
                self.add(path.join(key), "goes with the ID set: all other sets take its shape");
            }
        }
    }

    /// What a set must have so that networks can learn it: labels, and, if it is normalised `by_data`, whole statistics or none.
    pub(super) fn in_distribution(&mut self, path: Path, dataset: &Dataset, by_data: bool) {
        let known = registry::known(dataset.source());
        let Some(format) = dataset.format.or(known.map(|known| known.format)) else { return };
        if !format.is_labelled() {
            self.add(path, format!("\"{}\" has no labels, so no network can learn it", dataset.name));
            return;
        }
        for (given, missing, key) in [(&dataset.mean, &dataset.std, "std"), (&dataset.std, &dataset.mean, "mean")] {
            if given.is_some() && missing.is_none() {
                self.add(
                    path.clone(),
                    format!("needs {key} as well: give mean and std, or neither to have them computed"),
                );
            }
        }
        for (key, count) in [("mean", dataset.mean.as_ref().map(Vec::len)), ("channels", dataset.channels)] {
            if count.is_some_and(|count| count != 1 && count != 3) {
                self.add(path.join(key), "images have 1 channel (grey) or 3 (RGB)");
            }
        }
        let means = dataset.mean.as_ref().map(Vec::len).or(known.map(|known| known.mean.len()));
        if let (Some(channels), Some(means)) = (dataset.channels, means)
            && channels != means
            && by_data
        {
            self.add(path.join("channels"), format!("{channels} channels have {means} values under `mean`"));
        }
    }

    pub(super) fn dataset(&mut self, path: Path, dataset: &Dataset) {
        let name = &dataset.name;
        for (key, given) in [("path", &dataset.path), ("masks", &dataset.masks)] {
            if given.as_ref().is_some_and(|given| given.as_os_str().is_empty()) {
                self.add(path.join(key), "is empty: name a folder (`.` is the data root), or leave the key out");
            }
        }
        if name.starts_with('.') || !name.chars().all(|c| in_names(c) || c == '.') {
            let message = "a data set's name must be letters, digits, `_`, `-` or (not first) `.`: it names files";
            self.add(path.join("name"), message);
            return;
        }
        self.length(&path.join("name"), name);
        self.length(&path.join("group"), dataset.group.as_deref().unwrap_or_default());
        if let Some(of) = &dataset.of
            && dataset.format.is_none()
            && registry::known(of).is_none()
        {
            let near = did_you_mean(of, registry::all().iter().map(|known| known.name));
            self.add(path.join("of"), format!("oodkit knows no data set \"{of}\"{near}"));
            return;
        }
        self.parts(&path, dataset);
        if let Some(group) = &dataset.group
            && (group.is_empty() || group == expect::MEAN || !group.chars().all(in_names))
        {
            let message = "a group is letters, digits, `_` or `-`, and not `mean`";
            self.add(path.join("group"), message);
        }
        if dataset.format.is_none() && registry::known(dataset.source()).is_none() {
            let near = did_you_mean(&dataset.name, registry::all().iter().map(|known| known.name));
            let advice = if near.is_empty() { "; a set of your own needs `format`, see `oodkit list`" } else { "" };
            self.add(path.join("name"), format!("oodkit knows no data set \"{}\"{near}{advice}", dataset.name));
        }
        if let (Some(mean), Some(std)) = (&dataset.mean, &dataset.std)
            && mean.len() != std.len()
        {
            let message = format!("{} numbers, but mean has {}: one per channel each", std.len(), mean.len());
            self.add(path.join("std"), message);
        }
    }

    /// Which classes are taken, and how a set without parts is divided.
    pub(super) fn parts(&mut self, path: &Path, dataset: &Dataset) {
        let format = dataset.format.or(registry::known(dataset.source()).map(|known| known.format));
        for (key, classes) in [("classes", dataset.classes.as_deref()), ("held_out", Some(&dataset.held_out[..]))] {
            let classes = classes.unwrap_or_default();
            if let Some(index) = first_repeated(classes) {
                self.add(path.join(key).join(index), format!("\"{}\" is given twice", classes[index]));
            }
            if !classes.is_empty() && format.is_some_and(|format| !format.is_labelled()) {
                self.add(path.join(key), "a folder without labels has no classes: `format: class_folders`");
            }
        }
        let both = |class: &String| dataset.classes.as_ref().is_some_and(|classes| classes.contains(class));
        if let Some(index) = dataset.held_out.iter().position(both) {
            let message = format!("\"{}\" is under `classes`, so it is learned", dataset.held_out[index]);
            self.add(path.join("held_out").join(index), message);
        }
        if let Some((key, message)) = dataset.split.as_ref().and_then(Division::problem) {
            self.add(path.join("split").join(key), message);
        }
        for (key, message) in format.map(|format| format.problems(dataset)).unwrap_or_default() {
            self.add(key.map_or_else(|| path.clone(), |key| path.join(key)), message);
        }
    }

    /// Settings must not be chosen on what is reported.
    pub(super) fn validation(&mut self, experiment: &Experiment) {
        let Some(validation) = &experiment.data.validation else { return };
        let path = root("data").join("validation");
        let id = match &validation.id {
            HeldOut::Set(set) => Some((path.join("id"), &**set)),
            HeldOut::Images(_) | HeldOut::Val(_) => None,
        };
        let ood = validation.ood.iter().enumerate().map(|(index, set)| (path.join("ood").join(index), set));
        let sets: Vec<(Path, &Dataset)> = id.into_iter().chain(ood).collect();
        let made = validation.made.iter().enumerate().map(|(index, made)| (path.join("made").join(index), made.name()));
        let named: Vec<(Path, &str)> =
            sets.iter().map(|(path, set)| (path.clone(), set.name.as_str())).chain(made).collect();
        if let Some(index) = first_repeated(named.iter().map(|(_, name)| name)) {
            self.add(named[index].0.clone(), format!("\"{}\" is given twice", named[index].1));
        }
        self.made(&path, validation, &experiment.data.id);
        let source = validation.made_of.iter().map(|set| (path.join("made_of"), set));
        for (path, set) in sets.into_iter().chain(source) {
            let reported = |other: &&Dataset| {
                let place = |set: &Dataset| {
                    let parts = (set.classes.clone(), set.split.clone(), mvtec::kind(set).to_owned());
                    (set.format, set.path.clone(), set.list.clone(), parts)
                };
                let same_files = (set.path.is_some() || set.list.is_some()) && place(set) == place(other);
                other.name == set.name || same_files
            };
            let sets = &experiment.data;
            if let Some(other) = sets.ood.iter().chain(&sets.shifted).chain([&sets.id]).find(reported) {
                let name = &other.name;
                let message = format!(
                    "settings must not be chosen on \"{name}\", which is reported on: take other images, under a name of \
                     their own"
                );
                self.add(path.clone(), message);
            }
            if set.group.is_some() {
                self.add(path.join("group"), "is for OOD sets that are reported on");
            }
            self.no_masks(&path, set);
            self.dataset(path, set);
        }
    }

    /// Masks are of sets that are reported on.
    fn no_masks(&mut self, path: &Path, dataset: &Dataset) {
        if dataset.masks.is_some() {
            self.add(path.join("masks"), "goes with an OOD set: nothing else is measured by its pixels");
        }
    }

    /// Whether there are OOD sets to choose on, and those that are made can be.
    pub(super) fn made(&mut self, path: &Path, validation: &Validation, id: &Dataset) {
        if validation.ood.is_empty() && validation.made.is_empty() {
            let message = "must not be empty: name OOD sets, or write `made: all` to make some of the ID images";
            self.add(path.join("ood"), message);
        }
        if validation.made_of.is_some() && validation.made.is_empty() {
            self.add(path.join("made_of"), "goes with `made`: `made: all`");
        }
        if data::shape(id).is_some_and(|[channels, ..]| channels == 1)
            && let Some(place) = validation.made.iter().position(|made| made.needs_colour())
        {
            let others = Distribution::ALL.into_iter().filter(|made| !made.needs_colour()).map(Distribution::name);
            let others = others.collect::<Vec<_>>().join(", ");
            let message =
                format!("{} needs colour images, and \"{}\" is grey: [{others}]", validation.made[place], id.name);
            self.add(path.join("made").join(place), message);
        }
    }
}
