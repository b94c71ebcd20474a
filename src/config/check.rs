//! What the types cannot refuse: ranges, and names that must refer to something.
//!
//! Every problem is found, not only the first, and carries the path of its key; [`load`](super::load) turns the path
//! into a line and a column.

use std::collections::BTreeMap;

use crate::{
    Error, Result,
    config::{
        Categories, Column, Data, Detectors, Experiment, Figure, Grid, HELD_OUT, HeldOut, Method, Network, Over,
        Protocol, Redraw, Rows, Sampling, Table, Validation, expect,
        methods::{self, ALL, lacks},
        search, sweep,
    },
    data::{self, Dataset, Format, Split, made::Distribution, registry},
    detectors::{
        DetectorConfig,
        afdu::{Granularity, Layers},
        unknown,
    },
    did_you_mean,
    losses::Reads,
    nn::{
        Backbone,
        backbone::Part,
        heads::{Gives, Head},
        weights::{Normalise, WeightsHead},
    },
    train::{Train, recipe::Keep},
    yaml::problems::{Path, Problem, first_repeated, no_such, of_part},
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

    fn data(&mut self, experiment: &Experiment) {
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
        }
        if let Some(outliers) = &experiment.data.outliers {
            let path = data.join("outliers");
            if outliers.name == experiment.data.id.name {
                self.add(path.clone(), format!("\"{}\" is the in-distribution set itself", outliers.name));
            }
            let learns = |network: &Network| network.train.is_some() && network.loss.of_outliers().next().is_some();
            if !experiment.networks.values().any(learns) {
                let message = "no network learns from outliers: give one `loss: { cross_entropy: {}, energy_margin: {} }` or \
                               `outlier_exposure: {}`";
                self.add(path.clone(), message);
            }
            self.dataset(path.clone(), outliers);
            self.takes_the_shape(path, outliers);
        }
    }

    /// What a folder of categories must say.
    fn categories(&mut self, path: &Path, data: &Data) {
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
                let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
                if !plain {
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
    fn without_id(&mut self) {
        for problem in &mut self.problems {
            let steps = &mut problem.path.0;
            if steps.first() == Some(&"data".into()) && steps.get(1) == Some(&"id".into()) {
                steps.remove(1);
            }
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

    /// All sets but the ID set are brought to its shape, and hold no classes out.
    fn takes_the_shape(&mut self, path: Path, dataset: &Dataset) {
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
    fn in_distribution(&mut self, path: Path, dataset: &Dataset, by_data: bool) {
        let known = registry::known(dataset.source());
        let Some(format) = dataset.format.or(known.map(|known| known.format)) else { return };
        if format == Format::Folder {
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

    fn dataset(&mut self, path: Path, dataset: &Dataset) {
        let name = &dataset.name;
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
        let listed = dataset.format.is_some_and(Format::is_list);
        if listed && dataset.list.as_ref().is_none_or(String::is_empty) {
            let message = match dataset.format {
                Some(Format::Openood) => "openood needs list: a benchmark, as `list: cifar10`",
                _ => "an image_list needs list: the file with a line `path label` for each picture",
            };
            self.add(path.clone(), message);
        }
        if dataset.list.is_some() && !listed {
            self.add(path.join("list"), "goes with `format: image_list` or `openood`");
        }
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
    fn parts(&mut self, path: &Path, dataset: &Dataset) {
        let format = dataset.format.or(registry::known(dataset.source()).map(|known| known.format));
        for (key, classes) in [("classes", dataset.classes.as_deref()), ("held_out", Some(&dataset.held_out[..]))] {
            let classes = classes.unwrap_or_default();
            if let Some(index) = first_repeated(classes) {
                self.add(path.join(key).join(index), format!("\"{}\" is given twice", classes[index]));
            }
            if !classes.is_empty() && format == Some(Format::Folder) {
                self.add(path.join(key), "a folder without labels has no classes: `format: class_folders`");
            }
        }
        let both = |class: &String| dataset.classes.as_ref().is_some_and(|classes| classes.contains(class));
        if let Some(index) = dataset.held_out.iter().position(both) {
            let message = format!("\"{}\" is under `classes`, so it is learned", dataset.held_out[index]);
            self.add(path.join("held_out").join(index), message);
        }
        let Some(division) = &dataset.split else { return };
        let path = path.join("split");
        if let Some((key, message)) = division.problem() {
            self.add(path.join(key), message);
        }
        match format {
            Some(Format::ClassFolders) | None => {}
            Some(Format::ImageList) => {
                if dataset.list.as_ref().is_some_and(|list| list.contains("{split}")) {
                    self.add(path, "divides one list, and `{split}` in `list` stands for two");
                }
            }
            Some(_) => {
                self.add(path, "goes with class_folders or image_list: this format has its train and test images")
            }
        }
    }

    fn networks(&mut self, experiment: &Experiment) {
        for (name, network) in &experiment.networks {
            let path = root("networks").join(name.as_str());
            if name.is_empty() || !name.chars().all(in_names) {
                self.add(path.clone(), "a network's name must be letters, digits, `_` or `-`: it names files");
            }
            self.length(&path, name);
            self.origin(&path, name, network, &experiment.networks);
            if let Some(train) = &network.train {
                self.train(&path.join("train"), train);
            }
            let loss = &network.loss;
            if loss.terms().next().is_none() {
                self.add(path.join("loss"), "no term: give cross_entropy, sparsity or both");
            } else if loss.terms().all(|(_, term)| term.weight() == 0.0) {
                self.add(path.join("loss"), "no term has a weight above 0, so there is nothing to learn");
            }
            self.architecture(&path, network);
            if network.train.is_some() {
                self.objective(&path, network, methods::root(network, &experiment.networks).head.as_ref());
                self.outliers(&path, network, experiment.data.outliers.is_some());
            }
            let learned = network.data.as_ref().unwrap_or(&experiment.data.id);
            self.own_data(&path, network, &experiment.data);
            self.fits(&path, network, learned);
            self.normalise(&path, network, learned);
            self.members(&path, network, &experiment.seeds);
        }
    }

    /// Whether it is known what images are normalised by.
    fn normalise(&mut self, path: &Path, network: &Network, id: &Dataset) {
        let known = network.backbone.as_ref().and_then(Backbone::normalisation);
        let path_of = path.join("normalise");
        match network.normalise {
            Normalise::Data
                if network.train.is_none() && data::given_normalisation(id).is_ok_and(|given| given.is_none()) =>
            {
                let or = if known.is_some() { "write `normalise: weights`, or " } else { "" };
                let message = format!(
                    "weights that are used as they are need the mean and std that they were trained with: {or}give them with \
                     \"{}\", one number per channel",
                    id.name
                );
                self.add(path.clone(), message);
            }
            Normalise::Weights if network.from.is_some() => {
                self.add(path_of, "goes with weights: a network `from` another has that one's");
            }
            Normalise::Weights if network.weights.is_none() => {
                self.add(path_of, "goes with weights, and this network starts untrained");
            }
            Normalise::Weights => {
                let channels = data::shape(id).map(|[channels, ..]| channels).or(id.channels);
                if known.is_none() {
                    let message = "oodkit knows no mean and std of this backbone's weights: give them with data.id";
                    self.add(path_of, message);
                } else if channels == Some(1) {
                    let message =
                        format!("is of RGB images, and those of \"{}\" are grey: write `channels: 3` there", id.name);
                    self.add(path_of, message);
                }
            }
            Normalise::Data => {}
        }
    }

    /// What a network learns, where that is not the ID set; and that there is something to learn.
    fn own_data(&mut self, path: &Path, network: &Network, data: &Data) {
        let Some(own) = &network.data else {
            if data.has_categories() && network.train.is_some() {
                let message = "a category's train images are of one class, so there is nothing to classify: give the network `data` of its \
                               own to learn, or `weights` without `train`";
                self.add(path.join("train"), message);
            }
            return;
        };
        let path = path.join("data");
        if network.train.is_none() {
            self.add(path.clone(), "goes with `train`: a network that does not learn needs no data");
        }
        if network.from.is_some() {
            self.add(path.clone(), "goes with `backbone`: a network that goes on `from` another learns the ID set");
        }
        self.dataset(path.clone(), own);
        self.in_distribution(path.clone(), own, network.normalise == Normalise::Data);
        self.takes_the_shape(path, own);
    }

    /// Whether there are outliers exactly if the loss has a term of them.
    fn outliers(&mut self, path: &Path, network: &Network, given: bool) {
        let loss = path.join("loss");
        for term in network.loss.of_outliers().filter(|_| !given) {
            let message = format!(
                "{term} needs auxiliary outliers: name a set of them, `data: {{ outliers: tiny_images_300k }}`"
            );
            self.add(loss.join(term), message);
        }
        for (term, problem) in network.loss.terms().filter_map(|(name, term)| Some((name, term.problem()?))) {
            self.add(loss.join(term).join(problem.0), problem.1);
        }
        if network.loss.of_outliers().next().is_none() && network.train.as_ref().is_some_and(Train::asks_for_outliers) {
            let message = "the loss has no term of outliers: give it energy_margin or outlier_exposure";
            self.add(path.join("train").join("outlier_ratio"), message);
        }
    }

    /// Whether the loss is of what the head gives.
    fn objective(&mut self, path: &Path, network: &Network, head: Option<&Head>) {
        let path = path.join("loss");
        let of_kernels = head.is_some_and(|head| head.gives() == Gives::Kernels);
        let reading = |wanted: Reads| network.loss.terms().filter(move |(_, term)| term.reads() == wanted);
        if !of_kernels {
            for (term, _) in reading(Reads::Kernels) {
                self.add(path.join(term), format!("{term} is of the kernels of a DUQ network: give it `head: duq`"));
            }
            return;
        }
        if reading(Reads::Softmax).next().is_some() {
            let message = "a DUQ head gives kernels, no logits of a softmax: write `loss: { binary_cross_entropy: {}, \
                           gradient_penalty: { weight: 0.5 } }`";
            self.add(path.clone(), message);
        }
        for (term, _) in reading(Reads::Outliers) {
            let message = format!("a DUQ head gives kernels, no logits of a softmax, so {term} has no meaning here");
            self.add(path.join(term), message);
        }
        let precision = network.train.as_ref().map(|train| train.precision);
        for (name, term) in network.loss.terms() {
            if let Some(message) = precision.and_then(|precision| term.refuses(precision)) {
                self.add(path.join(name), message);
            }
        }
    }

    /// Whether a network can be built and trained for the images of an ID set, as far as they are known before reading.
    fn fits(&mut self, path: &Path, network: &Network, dataset: &Dataset) {
        let smallest = network.backbone.as_ref().map_or(1, Backbone::least_side);
        if let Some([_, height, width]) = data::shape(dataset)
            && height.min(width) < smallest
        {
            let message = format!(
                "needs images of at least {smallest}×{smallest} pixels, and those of \"{}\" are {height}×{width}",
                dataset.name
            );
            self.add(path.join("backbone"), message);
        }
        let limit = dataset.train_limit.unwrap_or(usize::MAX);
        if let Some(train) = &network.train
            && let Some(images) = data::full_size(dataset, Split::Train).or(dataset.train_limit).map(|n| n.min(limit))
            && train.validation >= images
        {
            let message = format!("{} of {images} train images: none would be left to learn from", train.validation);
            self.add(path.join("train").join("validation"), message);
        }
    }

    /// Members differ from each other, and repetitions of an ensemble share none.
    fn members(&mut self, path: &Path, network: &Network, seeds: &[u64]) {
        if network.members.is_some() && network.train.is_none() {
            self.add(path.join("members"), "without train all members would be the same weights");
        }
        let mut taken = BTreeMap::new();
        for &seed in seeds.iter().filter(|_| network.members.is_some()) {
            for member in network.seeds(seed) {
                match taken.insert(member, seed) {
                    Some(other) if other != seed => {
                        let message = format!(
                            "the ensembles of seeds {other} and {seed} would share the network of seed {member}: members \
                             are 1000 apart, so choose other seeds"
                        );
                        return self.add(path.join("members"), message);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What its backbone cannot have.
    fn architecture(&mut self, path: &Path, network: &Network) {
        let asked = [
            ("head", network.head.is_some(), None),
            ("spectral_norm", network.spectral_norm.is_some(), Some((Part::SpectralNorm, "bounded layers", "them"))),
            ("activation", network.activation.is_some(), Some((Part::Activation, "other non-linearity", "it"))),
            ("shortcut", network.shortcut.is_some(), Some((Part::Shortcut, "such shortcuts", "them"))),
        ];
        for (key, _, part) in asked.into_iter().filter(|(_, asked, _)| *asked) {
            let path = path.join(key);
            let Some(backbone) = &network.backbone else {
                self.add(path, "goes with backbone: a network `from` another is built as that one");
                continue;
            };
            let Some((part, what, them)) = part.filter(|(part, ..)| !backbone.has(*part)) else { continue };
            let others = in_words(&Backbone::all_with(part));
            self.add(path, format!("{} has no {what}; {others} have {them}", backbone.name()));
        }
    }

    fn origin(&mut self, path: &Path, name: &str, network: &Network, networks: &BTreeMap<String, Network>) {
        match (&network.backbone, &network.from) {
            (Some(_), Some(_)) => {
                self.add(path.join("from"), "give backbone or from, not both: from takes its network's backbone");
            }
            (None, None) => {
                self.add(path.clone(), "give backbone (a new network) or from (the network it starts from)")
            }
            (Some(_), None) => {}
            (None, Some(from)) => {
                if !networks.contains_key(from) {
                    self.add(path.join("from"), no_such("network", from, networks.keys().map(String::as_str)));
                } else if let Some(cycle) = cycle(name, networks) {
                    self.add(path.join("from"), format!("networks start from each other: {cycle}"));
                } else if networks[from].members.is_some() {
                    let message = format!(
                        "\"{from}\" is an ensemble: start from a network without members, and give members here to tune \
                         one for each"
                    );
                    self.add(path.join("from"), message);
                }
                if network.weights.is_some() {
                    self.add(
                        path.join("weights"),
                        "weights go with backbone: from already says where this network starts",
                    );
                }
            }
        }
        if network.train.is_none() && network.weights.is_none() {
            self.add(path.clone(), "give train (a recipe), or weights (a file) to use as they are");
        }
        if network.train.is_none() && network.weights.as_ref().is_some_and(|weights| weights.head == WeightsHead::New) {
            self.add(path.join("weights").join("head"), "a new head knows nothing: give train (a recipe) to learn it");
        }
    }

    fn train(&mut self, path: &Path, train: &Train) {
        if train.keep == Keep::Best && train.validation == 0 {
            self.add(path.join("keep"), "best needs held-out images to choose by: set validation");
        }
        if let Some((key, problem)) = train.optimizer.problem() {
            self.add(path.join("optimizer").join(train.optimizer.name()).join(key), problem);
        }
        if let Some((name, curve)) = train.schedule.curve()
            && let Some((key, problem)) = curve.problem()
        {
            self.add(path.join("schedule").join(name).join(key), problem);
        }
    }

    fn methods(&mut self, experiment: &Experiment) {
        let path = root("methods");
        let methods = experiment.methods();
        for (index, listed) in experiment.methods.iter().enumerate() {
            let path = path.join(index);
            if !experiment.networks.contains_key(&listed.network) {
                let message = no_such("network", &listed.network, experiment.networks.keys().map(String::as_str));
                self.add(path.join("network"), message);
            } else if let Detectors::All { all } = &listed.detector {
                let except = path.join("detector").join(ALL).join("except");
                for (place, name) in all.except.iter().enumerate() {
                    if !DetectorConfig::NAMES.contains(&name.as_str()) {
                        self.add(except.join(place), unknown(name));
                    }
                }
                if let Some(place) = first_repeated(&all.except) {
                    self.add(except.join(place), format!("\"{}\" is given twice", all.except[place]));
                }
                if !methods.iter().any(|method| method.entry == index) {
                    self.add(path.join("detector"), "no detector is left");
                }
            }
        }
        self.searches(experiment);
        for method in &methods {
            let Some(network) = experiment.networks.get(&method.network) else { continue };
            if let Some(why) = lacks(&method.detector, &method.network, network, &experiment.networks) {
                let path = path.join(method.entry).join("detector");
                self.add(path, format!("{} {why}", method.detector.name()));
            }
        }
        if let Some(index) = first_repeated(methods.iter().map(|method| &method.name)) {
            let Method { name, entry, .. } = &methods[index];
            let (path, listed) = (path.join(*entry), &experiment.methods[*entry]);
            let all = matches!(listed.detector, Detectors::All { .. });
            let advice = match all {
                true => "; except it here, or give this entry a name of its own",
                false => "; give one of them another: `{ name: …, network: …, detector: … }`",
            };
            let path = if listed.name.is_some() { path.join("name") } else { path };
            self.add(path, format!("a method is called \"{name}\" already{advice}"));
        }
    }

    /// Whether every combination of a search can be had, and on what.
    fn searches(&mut self, experiment: &Experiment) {
        for (index, listed) in experiment.methods.iter().enumerate() {
            let path = root("methods").join(index);
            match &listed.detector {
                Detectors::One(detector) => self.search(&path.join("search"), detector, &listed.search, experiment),
                Detectors::All { all } => {
                    if !listed.search.is_empty() {
                        let message =
                            "`all` has its searches by detector: `detector: { all: { search: { react: { .. } } } }`";
                        self.add(path.join("search"), message);
                    }
                    let path = path.join("detector").join(ALL).join("search");
                    for (name, grid) in &all.search {
                        match DetectorConfig::default_of(name) {
                            Ok(detector) => self.search(&path.join(name.as_str()), &detector, grid, experiment),
                            Err(error) => self.add(path.join(name.as_str()), error.to_string()),
                        }
                    }
                }
            }
        }
    }

    fn search(&mut self, path: &Path, detector: &DetectorConfig, grid: &Grid, experiment: &Experiment) {
        if !grid.is_empty() && experiment.data.validation.is_none() {
            let message = "needs images to choose on: `data: { validation: { id: 1000, ood: [..] } }`";
            return self.add(path.clone(), message);
        }
        let before = self.problems.len();
        for (key, values) in grid {
            let path = path.join(key.as_str());
            if values.is_empty() {
                self.add(path.clone(), "no values to try");
            }
            if let Some(place) = first_repeated(values.iter().map(ToString::to_string)) {
                self.add(path.join(place), format!("{} is given twice", values[place]));
            }
            let alone = |value: &serde_json::Value| [(key.clone(), value.clone())].into_iter().collect();
            let each: Vec<_> = values.iter().map(|value| search::with(detector, &alone(value))).collect();
            let tried = each.iter().any(|tried| tried.as_ref() == Ok(detector));
            if let Some(given) = search::given(detector, key).filter(|_| !tried) {
                self.add(path.clone(), format!("is given as {given} too: a value that is chosen needs none"));
            }
            match &each[..] {
                // What is wrong with every value alike is wrong with the key.
                [Err(reason), others @ ..] if !others.is_empty() && others.iter().all(|other| other == &each[0]) => {
                    self.add(path, reason.clone());
                }
                _ => {
                    let wrong = each.into_iter().enumerate().filter_map(|(place, tried)| Some((place, tried.err()?)));
                    wrong.for_each(|(place, reason)| self.add(path.join(place), reason));
                }
            }
        }
        let count = grid.values().try_fold(1usize, |count, values| count.checked_mul(values.len()));
        if count.is_none_or(|count| count > search::MAX_COMBINATIONS) {
            self.add(path.clone(), format!("more than {} combinations", search::MAX_COMBINATIONS));
        }
        if self.problems.len() > before {
            return;
        }
        // A value may be right beside one value of another setting, and wrong beside another.
        for values in search::combinations(grid) {
            let Ok(detector) = search::with(detector, &values) else { continue };
            if let Some(problem) = of_part(&detector).first() {
                let words = search::in_words(&values);
                return self.add(path.clone(), format!("{words}: {}: {}", problem.path, problem.message));
            }
        }
    }

    /// Settings must not be chosen on what is reported.
    fn validation(&mut self, experiment: &Experiment) {
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
                    let parts = (set.classes.clone(), set.split.clone());
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
            self.dataset(path, set);
        }
    }

    /// Whether there are OOD sets to choose on, and those that are made can be.
    fn made(&mut self, path: &Path, validation: &Validation, id: &Dataset) {
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

    fn tables(&mut self, experiment: &Experiment) {
        let tables = root("tables");
        if let Some(index) = first_repeated(experiment.tables.iter().map(|table| &table.name)) {
            let message = format!("a table is called \"{}\" already", experiment.tables[index].name);
            self.add(tables.join(index).join("name"), message);
        }
        for (index, table) in experiment.tables.iter().enumerate() {
            let path = tables.join(index);
            if let Some(methods) = &table.methods {
                self.method_names(&path.join("methods"), methods, experiment);
            }
            self.protocol(&path, table, experiment);
            self.length(&path.join("name"), &table.name);
            if table.over == Over::Group && experiment.groups().is_empty() {
                let message = "no OOD set has a group: `data: { ood: [{ name: svhn, group: far }] }`";
                self.add(path.join("over"), message);
            }
            if table.rows == Rows::Sweep && experiment.sweep.is_empty() {
                self.add(path.join("rows"), "this experiment has no sweep");
            }
            let categories = experiment.data.has_categories();
            if (table.rows == Rows::Task && !categories) || (table.rows == Rows::Ood && categories) {
                let message = match categories {
                    true => "categories are tasks, each with its own normal images: `rows: task`",
                    false => {
                        "`rows: task` is of a folder of categories, `data: { format: mvtec, … }`; OOD sets are `rows: ood`"
                    }
                };
                self.add(path.join("rows"), message);
            }
            for (index, _) in
                table.columns.iter().enumerate().filter(|(_, column)| !categories && column.is_of_pixels())
            {
                let message = "needs masks of anomalous pixels, which `data: { format: mvtec, … }` has";
                self.add(path.join("columns").join(index), message);
            }
            if categories && table.sampled() != Sampling::Full {
                self.add(path.join("sampling"), "categories are measured on all of their images: remove it");
            }
            if table.rows.are_sets() && table.over != Over::OodMean {
                let message = "with `rows: ood` or `task` each set is a row already, and so is each mean: remove over";
                self.add(path.join("over"), message);
            }
            if let Some(column) = first_repeated(&table.columns) {
                self.add(path.join("columns").join(column), "is given twice");
            }
            if table.intervals {
                self.intervals(&path.join("intervals"), table, experiment);
            }
            if let Some(expect) = &table.expect {
                self.problems.extend(expect::problems(&path.join("expect"), expect, table, experiment, None));
            }
        }
    }

    /// Whether a table that shows intervals has a number with one.
    fn intervals(&mut self, path: &Path, table: &Table, experiment: &Experiment) {
        let has_one = |column: &Column| {
            crate::metrics::measure_for(*column, table.protocol).is_some_and(|measure| measure.has_interval())
        };
        if table.sampled() == Sampling::Redraw {
            self.add(path.clone(), "these numbers are over random draws, whose ± they have: remove intervals");
        } else if table.sampled() == Sampling::FullSpectrum {
            self.add(
                path.clone(),
                "intervals are computed without covariate-shifted images: remove intervals or sampling",
            );
        } else if !table.columns.iter().any(has_one) {
            self.add(path.clone(), "no column has one: add auroc, fpr95 or fpr@0.9, or remove intervals");
        } else if !table.rows.are_sets() && table.over != Over::Each && experiment.data.ood_sets().len() > 1 {
            self.add(path.clone(), "intervals are of single OOD sets: add `over: each`, or `rows: ood`");
        }
    }

    /// Whether a table asks for nothing that its protocol is not.
    fn protocol(&mut self, path: &Path, table: &Table, experiment: &Experiment) {
        let redraw = &experiment.evaluation.redraw;
        if table.sampling == Sampling::FullSpectrum && experiment.data.shifted.is_empty() {
            self.add(
                path.join("sampling"),
                "full_spectrum needs covariate-shifted ID sets: `data: { shifted: [...] }`",
            );
        }
        match table.protocol {
            Protocol::EnergyOod => {
                if table.sampling == Sampling::FullSpectrum {
                    self.add(
                        path.join("sampling"),
                        "energy_ood has no covariate-shifted ID images: take another protocol",
                    );
                }
                if redraw.as_ref().is_some_and(|redraw| *redraw != Redraw::default()) {
                    let message = "energy_ood is ten draws of a fifth of the ID set, and evaluation.redraw says otherwise: \
                                   remove that, or write `protocol: id_positive_closest, sampling: redraw`";
                    self.add(path.join("protocol"), message);
                }
            }
            Protocol::OpenoodV15 => {
                if table.sampling == Sampling::Redraw {
                    self.add(path.join("sampling"), "openood_v1_5 is on complete OOD sets: remove sampling");
                }
                if !table.rows.are_sets() && table.over == Over::OodMean {
                    let message = "openood_v1_5 averages OOD sets by group: add `over: group`, or `over: each`";
                    self.add(path.join("protocol"), message);
                }
            }
            Protocol::IdPositiveClosest | Protocol::OodPositiveFirst => {
                if table.sampling == Sampling::Redraw && redraw.is_none() {
                    self.add(path.join("sampling"), "redraw needs evaluation.redraw: `evaluation: { redraw: {} }`");
                }
            }
        }
    }

    fn method_names(&mut self, path: &Path, names: &[String], experiment: &Experiment) {
        let methods = experiment.methods();
        for (index, name) in names.iter().enumerate() {
            if !methods.iter().any(|method| method.name == *name) {
                let message = no_such("method", name, methods.iter().map(|method| method.name.as_str()));
                self.add(path.join(index), message);
            }
        }
        if let Some(index) = first_repeated(names) {
            self.add(path.join(index), format!("\"{}\" is given twice", names[index]));
        }
    }

    fn figures(&mut self, experiment: &Experiment) {
        for (index, figure) in experiment.figures.iter().enumerate() {
            let path = root("figures").join(index);
            match figure {
                Figure::Roc(figure) => {
                    self.method_names(&path.join("roc").join("methods"), &figure.methods, experiment)
                }
                Figure::Histogram(figure) => {
                    self.method_names(&path.join("histogram").join("methods"), &figure.methods, experiment);
                }
                Figure::Accuracy(figure) => {
                    let path = path.join("accuracy").join("networks");
                    for (index, name) in figure.networks.iter().enumerate() {
                        self.network_name(path.join(index), name, experiment);
                    }
                }
                Figure::Confusion(figure) => {
                    self.network_name(path.join("confusion").join("network"), &figure.network, experiment);
                }
                Figure::Sweep(figure) => {
                    let path = path.join("sweep");
                    if experiment.sweep.is_empty() {
                        self.add(path.clone(), "this experiment has no sweep");
                    }
                    self.method_name(&path.join("method"), &figure.method, experiment);
                    if let Some(column) = first_repeated(&figure.columns) {
                        self.add(path.join("columns").join(column), "is given twice");
                    }
                }
                Figure::Factors(figure) => {
                    self.afdu(&path.join("factors"), &figure.method, figure.layer.as_deref(), true, experiment);
                }
                Figure::Neuron(figure) => {
                    self.afdu(&path.join("neuron"), &figure.method, figure.layer.as_deref(), false, experiment);
                }
            }
        }
    }

    fn network_name(&mut self, path: Path, name: &str, experiment: &Experiment) {
        if !experiment.networks.contains_key(name) {
            self.add(path, no_such("network", name, experiment.networks.keys().map(String::as_str)));
        }
    }

    /// What a picture of AFDU shows; the network's layers are known only when it is built.
    fn afdu(&mut self, path: &Path, method: &str, layer: Option<&str>, maps: bool, experiment: &Experiment) {
        let Some(config) = self.method_name(&path.join("method"), method, experiment) else { return };
        let DetectorConfig::Afdu(config) = config else {
            let message = format!("shows what afdu fits, and the detector of \"{method}\" is {}", config.name());
            return self.add(path.join("method"), message);
        };
        if maps && config.granularity == Granularity::Channel {
            let message =
                format!("the neurons of \"{method}\" are channels (`granularity: channel`), which have no pixels");
            self.add(path.join("method"), message);
        }
        if let (Layers::Named(names), Some(layer)) = (&config.layers, layer)
            && !names.iter().any(|name| name == layer)
        {
            let message = no_such("layer", layer, names.iter().map(String::as_str));
            self.add(path.join("layer"), format!("{message} among those that \"{method}\" reads"));
        }
    }

    /// The method's detector, if there is such a method.
    fn method_name(&mut self, path: &Path, name: &str, experiment: &Experiment) -> Option<DetectorConfig> {
        let methods = experiment.methods();
        if !methods.iter().any(|method| method.name == name) {
            self.add(path.clone(), no_such("method", name, methods.iter().map(|method| method.name.as_str())));
        }
        methods.into_iter().find(|method| method.name == name).map(|method| method.detector)
    }
}

/// `networks.a → b → a` if following `from` comes back to where it started.
fn cycle(start: &str, networks: &BTreeMap<String, Network>) -> Option<String> {
    let mut names = vec![start];
    while let Some(next) = networks.get(*names.last()?).and_then(|network| network.from.as_deref()) {
        let back = names.contains(&next);
        names.push(next);
        if back {
            return (next == start).then(|| names.join(" → "));
        }
    }
    None
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

/// `a, b and c`
fn in_words(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}
