//! What is wrong with tables and figures.

use super::{Found, networks::in_words, root};
use crate::{
    config::{Experiment, Figure, Network, Over, Redraw, Rows, SamplesFigure, Sampling, Table, expect, methods},
    detectors::DetectorConfig,
    metrics::{Column, Protocol},
    models::ModelConfig,
    nn::Output,
    yaml::problems::{Path, first_repeated, no_such},
};

impl Found {
    pub(super) fn tables(&mut self, experiment: &Experiment) {
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
            for (index, column) in table.columns.iter().enumerate() {
                let message = match categories {
                    _ if column.is_of_pixels() && !experiment.data.may_have_masks() => {
                        "needs masks of anomalous pixels: `data: { format: mvtec, … }` has them, or an OOD set with `masks`"
                    }
                    true if column.is_of_classes() => "a category has one class, so there is nothing to be right about",
                    _ => continue,
                };
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
    pub(super) fn intervals(&mut self, path: &Path, table: &Table, experiment: &Experiment) {
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
    pub(super) fn protocol(&mut self, path: &Path, table: &Table, experiment: &Experiment) {
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

    pub(super) fn figures(&mut self, experiment: &Experiment) {
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
                        self.tells_classes(path.join(index), name, experiment);
                    }
                }
                Figure::Confusion(figure) => {
                    let path = path.join("confusion").join("network");
                    self.network_name(path.clone(), &figure.network, experiment);
                    self.tells_classes(path, &figure.network, experiment);
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
                Figure::SetScores(figure) => {
                    let path = path.join("set_scores");
                    if experiment.data.has_categories() {
                        self.add(path.clone(), "goes with one ID set, not with categories");
                    }
                    if experiment.sweep.is_empty() {
                        self.add(path.clone(), "this experiment has no sweep");
                    }
                    self.method_name(&path.join("method"), &figure.method, experiment);
                }
                Figure::Factors(_) => self.viewed(&path.join("factors"), figure, experiment),
                Figure::Maps(figure) => self.mapped(&path.join("maps"), &figure.methods, experiment),
                Figure::Pseudo(figure) => {
                    self.makes_outliers(&path.join("pseudo"), figure.network.as_deref(), experiment);
                }
                Figure::Samples(figure) => self.samples(&path.join("samples"), (index, figure), experiment),
                Figure::Training(figure) => {
                    let path = path.join("training").join("networks");
                    for (index, name) in figure.networks.iter().enumerate() {
                        self.network_name(path.join(index), name, experiment);
                        self.learns(path.join(index), name, experiment);
                    }
                    if let Some(index) = first_repeated(&figure.networks) {
                        self.add(path.join(index), format!("\"{}\" is given twice", figure.networks[index]));
                    }
                }
                Figure::PixelCurves(figure) => self.mapped(&path.join("pixel_curves"), &figure.methods, experiment),
                Figure::Neuron(_) => self.viewed(&path.join("neuron"), figure, experiment),
            }
        }
    }

    pub(super) fn network_name(&mut self, path: Path, name: &str, experiment: &Experiment) {
        if !experiment.networks.contains_key(name) {
            self.add(path, no_such("network", name, experiment.networks.keys().map(String::as_str)));
        }
    }

    /// What is shown of pseudo-anomalies needs a recipe that makes them.
    fn makes_outliers(&mut self, path: &Path, name: Option<&str>, experiment: &Experiment) {
        let makes = |network: &Network| network.train.as_ref().is_some_and(|train| train.outliers.is_some());
        let recipe = "`train: { outliers: { make: [cutpaste, confetti] } }`";
        match name {
            None if experiment.networks.values().any(makes) => {}
            None => self.add(path.clone(), format!("no network learns from made outliers: {recipe} makes them")),
            Some(name) => {
                let path = path.join("network");
                self.network_name(path.clone(), name, experiment);
                if experiment.networks.get(name).is_some_and(|network| !makes(network)) {
                    self.add(path, format!("\"{name}\" learns from no made outliers: {recipe} makes them"));
                }
            }
        }
    }

    /// What is shown of training needs a network that learns.
    fn learns(&mut self, path: Path, name: &str, experiment: &Experiment) {
        if experiment.networks.get(name).is_some_and(|network| network.train.is_none()) {
            self.add(path, format!("\"{name}\" has no `train`: it does not learn, and there is no training to show"));
        }
    }

    /// What is shown of samples needs a diffusion model, told classes where it is to be guided to them.
    fn samples(&mut self, path: &Path, (index, figure): (usize, &SamplesFigure), experiment: &Experiment) {
        let (networks, name) = (&experiment.networks, &figure.network);
        let Some(network) = networks.get(name) else {
            return self.network_name(path.join("network"), name, experiment);
        };
        let model_of = |network: &Network| methods::root(network, networks).model();
        let Some(model) = model_of(network) else { return };
        let Some(steps) = model.schedule_steps() else {
            let is_one = |network: &Network| model_of(network).is_some_and(|model| model.schedule_steps().is_some());
            let others: Vec<&str> =
                networks.iter().filter(|(_, network)| is_one(network)).map(|(name, _)| name.as_str()).collect();
            let remedy = match &others[..] {
                [] => "give the experiment one, such as `model: { diffusion: {} }`".to_owned(),
                others => format!("name {}", others.join(" or ")),
            };
            let message = format!("\"{name}\", of the kind {}, is no diffusion model; {remedy}", model.name());
            return self.add(path.join("network"), message);
        };
        if let Some(wanted) = figure.steps.filter(|wanted| *wanted > steps) {
            let message = format!("the schedule of \"{name}\" has {steps} steps, and not {wanted}");
            self.add(path.join("steps"), message);
        }
        if figure.guidance > 0.0 && !model.is_told_classes() {
            let message = format!(
                "\"{name}\" is told no classes, and guidance is towards one: leave it out, or give the model `classes: true`"
            );
            self.add(path.join("guidance"), message);
        }
        if figure.guidance > 0.0 && matches!(model, ModelConfig::Diffusion(settings) if settings.drop == Some(0.0)) {
            let message = format!("\"{name}\" cannot go without a class (`drop: 0`), and guidance is away from that");
            self.add(path.join("guidance"), message);
        }
        if figure.every_epochs.is_none() {
            return;
        }
        self.learns(path.join("every_epochs"), name, experiment);
        let mut before = experiment.figures[..index].iter();
        let same = |other: &Figure| matches!(other, Figure::Samples(other) if other.network == *name && other.every_epochs.is_some());
        if before.any(same) {
            let message = format!("another figure has it for \"{name}\" already, and their files have one name");
            self.add(path.join("every_epochs"), message);
        }
    }

    /// What is shown of classes needs a network that tells them.
    fn tells_classes(&mut self, path: Path, name: &str, experiment: &Experiment) {
        let Some(network) = experiment.networks.get(name) else { return };
        let model = methods::root(network, &experiment.networks).model();
        if let Some(model) = model.filter(|model| !model.shows().contains(&Output::Logits)) {
            self.add(path, format!("\"{name}\", of the kind {}, tells no classes", model.name()));
        }
    }

    /// What is shown of maps and masks.
    fn mapped(&mut self, path: &Path, methods: &[String], experiment: &Experiment) {
        if !experiment.data.may_have_masks() {
            let message = "shows maps beside masks: `data: { format: mvtec, … }` has them, or an OOD set with `masks`";
            self.add(path.clone(), message);
        }
        for (index, name) in methods.iter().enumerate() {
            let path = path.join("methods").join(index);
            let Some(detector) = self.method_name(&path, name, experiment) else { continue };
            if detector.build().post().is_none() {
                let others = DetectorConfig::all().filter(|other| other.post().is_some());
                let others: Vec<&str> = others.map(|other| other.name()).collect();
                let message = format!("{} gives no map of an image; {} do", detector.name(), in_words(&others));
                self.add(path, message);
            }
        }
    }

    /// What is shown of a fit; the network's layers are known only when it is built.
    fn viewed(&mut self, path: &Path, figure: &Figure, experiment: &Experiment) {
        let Some((method, view)) = figure.view() else { return };
        let Some(detector) = self.method_name(&path.join("method"), method, experiment) else { return };
        let Some(views) = detector.detector().views() else {
            let others = DetectorConfig::all().filter(|other| other.detector().views().is_some());
            let others: Vec<&str> = others.map(|other| other.name()).collect();
            let (others, name) = (others.join(" and "), detector.name());
            let message = format!("shows what {others} fits, and the detector of \"{method}\" is {name}");
            return self.add(path.join("method"), message);
        };
        for (key, message) in views.problems(view, method) {
            self.add(path.join(key), message);
        }
    }
}
