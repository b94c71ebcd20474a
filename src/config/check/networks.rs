//! What is wrong with networks.

use std::collections::BTreeMap;

use super::{Found, in_names, root};
use crate::{
    config::{Data, Experiment, Network, methods},
    data::{self, Dataset, Format, enlarged::Outliers},
    losses::{Loss, Term},
    models::{ModelConfig, taken},
    nn::{
        Backbone, Output, Shape,
        backbone::Part,
        weights::{Normalise, WeightsHead},
    },
    train::{
        Train,
        recipe::{Keep, LR_OF_ZERO},
    },
    yaml::{
        named::is_default,
        problems::{Path, Problem, no_such},
    },
};

/// What is asked of a backbone, and the words for it.
const BOUND: (Part, &str, &str) = (Part::SpectralNorm, "bounded layers", "them");
const ACTIVATION: (Part, &str, &str) = (Part::Activation, "other non-linearity", "it");
const SHORTCUT: (Part, &str, &str) = (Part::Shortcut, "such shortcuts", "them");

impl Found {
    pub(super) fn networks(&mut self, experiment: &Experiment) {
        for (name, network) in &experiment.networks {
            let path = root("networks").join(name.as_str());
            if name.is_empty() || !name.chars().all(in_names) {
                self.add(path.clone(), "a network's name must be letters, digits, `_` or `-`: it names files");
            }
            self.length(&path, name);
            self.origin(&path, name, network, &experiment.networks);
            if let Some(train) = &network.train {
                self.train(&path.join("train"), train);
                self.trunk_lr(&path.join("train"), train, methods::root(network, &experiment.networks));
                let learned = network.data.as_ref().unwrap_or(&experiment.data.id);
                self.padding(&path.join("train"), train, learned);
                self.lookahead(&path.join("train"), train, learned);
                self.drop_last(&path.join("train"), train, learned);
                self.groups(
                    &path.join("train"),
                    train,
                    methods::root(network, &experiment.networks),
                    &experiment.data.id,
                );
                self.reptile(&path.join("train"), network, &experiment.data);
            }
            let loss = &network.loss;
            if loss.terms().next().is_none() {
                self.add(path.join("loss"), "no term: give cross_entropy, sparsity or both");
            } else if loss.terms().all(|(_, term)| term.weight() == 0.0) {
                self.add(path.join("loss"), "no term has a weight above 0, so there is nothing to learn");
            }
            self.architecture(&path, network);
            self.surveys(&path, network);
            if network.train.is_some() {
                self.objective(&path, name, network, methods::root(network, &experiment.networks));
                self.outliers(&path, network, experiment.data.outliers.is_some());
            }
            let learned = network.data.as_ref().unwrap_or(&experiment.data.id);
            self.own_data(&path, network, methods::root(network, &experiment.networks), &experiment.data);
            self.fits(&path, network, learned, &experiment.data.id);
            self.model(&path, network, methods::root(network, &experiment.networks), &experiment.data.id);
            self.taken(&path, network, experiment);
            self.normalise(&path, network, learned);
            self.members(&path, network, &experiment.seeds);
        }
    }

    /// What a network learns, where that is not the ID set; and that there is something to learn.
    pub(super) fn own_data(&mut self, path: &Path, network: &Network, root: &Network, data: &Data) {
        if let Some(model) = network.model.as_ref().filter(|model| model.is_told_classes() && network.train.is_some()) {
            let of_one = match &network.data {
                Some(own) => data::classes(own) == Some(1),
                None => data.has_categories() || data::classes(&data.id) == Some(1),
            };
            if of_one {
                let message = "the images are of one class, so there is none to tell: leave this key out";
                self.add(path.join("model").join(model.name()).join("classes"), message);
            }
        }
        let Some(own) = &network.data else {
            // Of a model without logits the loss is refused.
            let can_classify = root.model().is_none_or(|model| model.shows().contains(&Output::Logits));
            if data.has_categories() && network.train.is_some() && network.loss.classifies() && can_classify {
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

    /// Whether there are outliers, auxiliary or made, exactly if the loss has a term of them.
    pub(super) fn outliers(&mut self, path: &Path, network: &Network, given: bool) {
        let (loss, train) = (path.join("loss"), path.join("train"));
        let made = network.train.as_ref().and_then(|train| train.outliers.as_ref());
        for term in network.loss.of_outliers().filter(|_| !given) {
            let message = format!(
                "{term} needs auxiliary outliers: name a set of them, `data: {{ outliers: tiny_images_300k }}`"
            );
            self.add(loss.join(term), message);
        }
        for term in network.loss.of_masks().take(1).filter(|_| made.is_none()) {
            let message = format!(
                "{term} reads the masks of made outliers: give the recipe `outliers: {{ make: [cutpaste, confetti] }}`"
            );
            self.add(train.join("outliers"), message);
        }
        for (term, problem) in network.loss.terms().filter_map(|(name, term)| Some((name, term.problem()?))) {
            self.add(loss.join(term).join(problem.0), problem.1);
        }
        let learned =
            |of: fn(&dyn Term) -> bool| network.loss.terms().find(|(_, term)| term.weight() > 0.0 && of(*term));
        if let (Some((term, _)), None) = (learned(|term| term.of_masks()), learned(|term| term.tells_anomalies())) {
            let message = "tells nothing apart: a network that gives all positions one score has the smallest loss. Add `hypersphere: {}` or \
                           `score_margin: {}`";
            self.add(loss.join(term), message);
        }
        let auxiliary = network.loss.of_outliers().next().is_some();
        if !auxiliary && network.train.as_ref().is_some_and(Train::asks_for_outliers) {
            let message = "the loss has no term of outliers: give it energy_margin or outlier_exposure";
            self.add(train.join("outlier_ratio"), message);
        }
        let none = |made: &Outliers| !made.make.is_empty() && made.make.iter().all(|maker| maker.weight() == 0.0);
        if made.is_some_and(none) {
            self.add(train.join("outliers").join("make"), "no maker has a weight above 0, so there is nothing to make");
        }
        if let Some(term) = network.loss.of_masks().next()
            && network.train.as_ref().is_some_and(|train| train.keep == Keep::Best)
        {
            let message = format!(
                "best is chosen on held-out images, which are all normal: of {term} the best is the network that tells nothing \
                 apart. Leave `keep` out"
            );
            self.add(train.join("keep"), message);
        }
        if made.is_some() && auxiliary {
            self.add(train.join("outliers"), "goes without auxiliary outliers, and the loss has a term of these");
        } else if made.is_some() && network.loss.of_masks().next().is_none() {
            let message = "the loss has no term of made outliers: give it hypersphere or score_margin";
            self.add(train.join("outliers"), message);
        }
    }

    /// Whether the model shows what the terms of its loss read.
    pub(super) fn objective(&mut self, path: &Path, name: &str, network: &Network, root: &Network) {
        let (path, train) = (path.join("loss"), path.join("train"));
        let precision = network.train.as_ref().map(|train| train.precision);
        for (term, settings) in network.loss.terms() {
            if let Some(message) = precision.and_then(|precision| settings.refuses(precision)) {
                self.add(path.join(term), message);
            }
        }
        let only = network.loss.terms().find(|(_, term)| term.only_while_learning());
        if let Some((term, _)) = only
            && network.train.as_ref().is_some_and(|train| train.validation > 0)
        {
            let message = format!(
                "{term} is of what the model shows while it learns: held-out images cannot be judged by it. Leave it out"
            );
            self.add(train.join("validation"), message);
        }
        let Some(model) = root.model() else { return };
        let shown = model.shows();
        let mut said = false;
        for (term, settings) in network.loss.terms() {
            let Some(need) = settings.needs().iter().find(|need| !shown.contains(need)) else { continue };
            let (whole, message) = unlearnable(term, settings, *need, (name, network, &model));
            // What is wrong with the whole loss is said once.
            if !(whole && said) {
                self.add(if whole { path.clone() } else { path.join(term) }, message);
            }
            said |= whole;
        }
    }

    /// Whether the settings of its model go together on the images that all networks see, and its loss with the model's grid.
    fn model(&mut self, path: &Path, network: &Network, root: &Network, id: &Dataset) {
        let Some(model) = root.model() else { return };
        let size = data::shape(id).map(|[_, height, width]| [height, width]);
        if size.is_some_and(|[height, width]| height.min(width) < model.least_side()) {
            return;
        }
        if network.model.is_some() {
            for Problem { path: key, message } in model.problems(size) {
                let path = key.0.into_iter().fold(path.join("model").join(model.name()), |path, step| path.join(step));
                self.add(path, message);
            }
        }
        let made = network.train.as_ref().and_then(|train| train.outliers.as_ref()).map(|made| made.make.len());
        if let (Some(makers), Some(made)) = (model.makers(), made)
            && makers != made
        {
            let message = format!(
                "{made} of them, and the model tells {} classes apart, of which one is that of normal images: give it `classes: {}`",
                makers + 1,
                made + 1
            );
            self.add(path.join("train").join("outliers").join("make"), message);
        }
        let grid = size.and_then(|size| model.grid(size));
        for (term, (key, message)) in grid.into_iter().flat_map(|grid| network.loss.problems_on(grid)) {
            self.add(path.join("loss").join(term).join(key), message);
        }
    }

    /// Whether a model of its own can take something from the network that it starts from, as far as is known before images are read.
    fn taken(&mut self, path: &Path, network: &Network, experiment: &Experiment) {
        let (Some(from), Some(model)) = (&network.from, &network.model) else { return };
        let networks = &experiment.networks;
        let from = networks.get(from).and_then(|from| methods::root(from, networks).model());
        let (Some(from), Some([channels, height, width])) = (from, data::shape(&experiment.data.id)) else { return };
        if let Some(message) = taken::problem(&from, model, Shape { channels, height, width, classes: 1 }) {
            self.add(path.join("from"), message);
        }
    }

    /// Whether there is a trunk that learns, if it has a learning rate of its own.
    fn trunk_lr(&mut self, path: &Path, train: &Train, root: &Network) {
        let (Some(_), Some(model)) = (train.trunk_lr, root.model()) else { return };
        let kind = model.name();
        let message = match () {
            () if model.own().is_none() => {
                format!(
                    "goes with a model that has parts of its own beside its trunk, `model: {{ fusion: … }}`, and one of the kind {kind} has none"
                )
            }
            () if model.fixed().is_some() => {
                "the whole trunk is frozen: leave it out, or let a part of the trunk learn, `freeze: [stem, layer1]`"
                    .to_owned()
            }
            () if train.optimizer.lr() == 0.0 => LR_OF_ZERO.to_owned(),
            () => return,
        };
        self.add(path.join("trunk_lr"), message);
    }

    /// Whether there are classes to draw rounds from, and nothing that goes on from step to step whatever the class.
    fn reptile(&mut self, path: &Path, network: &Network, data: &Data) {
        let Some(train) = network.train.as_ref().filter(|train| train.reptile.is_some()) else { return };
        let path = path.join("reptile");
        let of_categories = |own: &Dataset| own.format.is_some_and(Format::has_categories);
        if network.data.as_ref().map_or(data.has_categories(), of_categories) {
            let message = "a category's train images are of one class, and every round is of another: give the network `data` of its own, \
                           `data: { name: textures, format: class_folders, path: … }`, and start a second one `from` it without `reptile`";
            self.add(path.clone(), message);
        }
        if network.loss.classifies() {
            let message = "a batch is of one class, so there is nothing to classify: it goes with a loss such as `reconstruction`";
            self.add(path.clone(), message);
        }
        if train.ema.is_some() {
            self.add(path.clone(), "goes without `ema`: an average of weights of one class after another is of no use");
        }
        if train.lookahead.is_some() {
            let message = "goes without `lookahead`: slow weights of one class after another are of no use";
            self.add(path.clone(), message);
        }
        if train.outliers.is_some() {
            self.add(path, "goes without `outliers`: a round has the images of one class as they are");
        }
    }

    /// Members differ from each other, and repetitions of an ensemble share none.
    pub(super) fn members(&mut self, path: &Path, network: &Network, seeds: &[u64]) {
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
    pub(super) fn architecture(&mut self, path: &Path, network: &Network) {
        let asked = [
            ("head", network.head.is_some(), None),
            ("spectral_norm", network.spectral_norm.is_some(), Some(BOUND)),
            ("activation", network.activation.is_some(), Some(ACTIVATION)),
            ("shortcut", network.shortcut.is_some(), Some(SHORTCUT)),
        ];
        for (key, _, part) in asked.into_iter().filter(|(_, asked, _)| *asked) {
            let path = path.join(key);
            let Some(backbone) = &network.backbone else {
                let other = if network.model.is_some() {
                    "`model` says how it is built"
                } else {
                    "a network `from` another is built as that one"
                };
                self.add(path, format!("goes with backbone: {other}"));
                continue;
            };
            self.part(path, backbone, part);
        }
        if let Some(ModelConfig::Classifier(architecture)) = &network.model {
            let path = path.join("model").join("classifier");
            for (key, asked, part) in [
                ("spectral_norm", architecture.spectral_norm.is_some(), BOUND),
                ("activation", !is_default(&architecture.activation), ACTIVATION),
                ("shortcut", !is_default(&architecture.shortcut), SHORTCUT),
            ] {
                if asked {
                    self.part(path.join(key), &architecture.backbone, Some(part));
                }
            }
        }
    }

    /// Refuses a part that a backbone cannot have.
    fn part(&mut self, path: Path, backbone: &Backbone, part: Option<(Part, &str, &str)>) {
        let Some((part, what, them)) = part.filter(|(part, ..)| !backbone.has(*part)) else { return };
        let others = in_words(&Backbone::all_with(part));
        self.add(path, format!("{} has no {what}; {others} have {them}", backbone.name()));
    }

    pub(super) fn origin(&mut self, path: &Path, name: &str, network: &Network, networks: &BTreeMap<String, Network>) {
        let own = network.model();
        if network.backbone.is_some() && network.model.is_some() {
            self.add(
                path.join("model"),
                "give backbone or model, not both: backbone is short for a model, a classifier",
            );
        }
        match (&own, &network.from) {
            (Some(_), Some(_)) if network.backbone.is_some() => {
                self.add(path.join("from"), "give backbone or from, not both: from takes its network's backbone");
            }
            (None, None) => {
                self.add(path.clone(), "give backbone or model (a new network), or from (the network it starts from)")
            }
            (Some(_), None) => {}
            (_, Some(from)) => {
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
            self.add(path.clone(), without_train(network, methods::root(network, networks).model()));
        }
        if network.train.is_none() && network.weights.as_ref().is_some_and(|weights| weights.head == WeightsHead::New) {
            let message = match &own {
                Some(model) if !model.learns() => {
                    format!("a model of the kind {} has no head: leave this key out", model.name())
                }
                _ => "a new head knows nothing: give train (a recipe) to learn it".to_owned(),
            };
            self.add(path.join("weights").join("head"), message);
        }
    }

    pub(super) fn train(&mut self, path: &Path, train: &Train) {
        if train.keep == Keep::Best && train.validation == 0 {
            self.add(path.join("keep"), "best needs held-out images to choose by: set validation");
        }
        if let Some((key, problem)) = train.optimizer.problem() {
            self.add(path.join("optimizer").join(train.optimizer.name()).join(key), problem);
        }
        if let Some((key, problem)) = train.schedule.problem() {
            self.add(path.join("schedule").join(train.schedule.name()).join(key), problem);
        }
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

/// `a, b and c`
pub(in crate::config) fn in_words(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// What a network without `train` and without `weights` needs.
fn without_train(network: &Network, model: Option<ModelConfig>) -> String {
    match (&network.from, model) {
        (Some(from), Some(model)) if network.model.is_some() => {
            format!(
                "give train (a recipe): \"{from}\" gives a part of a model of the kind {}, and the rest has to learn",
                model.name()
            )
        }
        (Some(from), _) => format!("give train (a recipe): without it this network is \"{from}\" itself"),
        (None, Some(model)) if !model.learns() => {
            format!("give weights (a file): a model of the kind {} does not learn", model.name())
        }
        (None, Some(model)) if model.backbone().is_none() => {
            format!("give train (a recipe): a model of the kind {} has to learn", model.name())
        }
        (None, _) => "give train (a recipe), or weights (a file) to use as they are".to_owned(),
    }
}

/// Whether what a model pairs are descriptions of patches, whose length is learned, too.
fn shows_descriptions(shown: &[Output]) -> bool {
    shown.contains(&Output::Parts) || shown.contains(&Output::Embedding)
}

/// Why a term cannot be learned by a model, and whether that is a matter of the whole loss.
fn unlearnable(
    term: &str,
    settings: &dyn Term,
    need: Output,
    (name, network, model): (&str, &Network, &ModelConfig),
) -> (bool, String) {
    let kernels = model.shows().contains(&Output::Kernels);
    match need {
        Output::Kernels if matches!(model, ModelConfig::Classifier(_)) => {
            (false, format!("{term} is of the kernels of a DUQ network: give it `head: duq`"))
        }
        Output::Softmax if kernels && settings.of_outliers() => {
            (false, format!("a DUQ head gives kernels, no logits of a softmax, so {term} has no meaning here"))
        }
        Output::Softmax if kernels => {
            let message = "a DUQ head gives kernels, no logits of a softmax: write `loss: { binary_cross_entropy: {}, \
                           gradient_penalty: { weight: 0.5 } }`";
            (true, message.to_owned())
        }
        _ => {
            let shown = model.shows();
            let instead = match (&network.from, &network.weights) {
                _ if shown.contains(&Output::Images) => "write `loss: { reconstruction: {} }`".to_owned(),
                _ if shown.contains(&Output::Noise) => "write `loss: { denoising: {} }`".to_owned(),
                _ if shown.contains(&Output::Noised) => "write `loss: { truncated_l1: {} }`".to_owned(),
                _ if shown.contains(&Output::Patches) => {
                    "write `loss: { patch_position: {}, patch_svdd: { weight: 0.001 } }`".to_owned()
                }
                _ if shown.contains(&Output::Makers) => "write `loss: { pseudo_class: {} }`".to_owned(),
                _ if shown.contains(&Output::Pairs) && shows_descriptions(&shown) => {
                    "write `loss: { regression: {} }`".to_owned()
                }
                _ if shown.contains(&Output::Pairs) => "write `loss: { distillation: {} }`".to_owned(),
                _ if shown.contains(&Output::Embedding) && !shown.contains(&Output::Scores) => {
                    "write `loss: { fcdd: {} }`".to_owned()
                }
                _ if shown.contains(&Output::Embedding) => {
                    "write `loss: { hypersphere: {}, score_margin: {}, consistency: {} }`".to_owned()
                }
                _ if settings.of_masks() => {
                    "write `model: { fusion: { backbone: … } }` in the place of `backbone`".to_owned()
                }
                (Some(from), _) => format!("use \"{from}\" itself"),
                (None, None) => "give `weights` in the place of `train`".to_owned(),
                (None, Some(_)) => "use it without `train`".to_owned(),
            };
            let default = match network.loss == Loss::default() {
                true => format!(" ({term} is the default of `loss`)"),
                false => String::new(),
            };
            let kind = model.name();
            (
                settings.classifies(),
                format!("{term} reads {need}, and \"{name}\", of the kind {kind}, shows none: {instead}{default}"),
            )
        }
    }
}
