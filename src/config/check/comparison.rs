//! What is wrong with methods and what is searched for them.

use super::{Found, root};
use crate::{
    config::{
        Detectors, Experiment, Grid, Method, Network,
        methods::{self, ALL, lacks},
        search,
    },
    detectors::{DetectorConfig, Second, unknown},
    nn::Output,
    yaml::problems::{Path, first_repeated, no_such, of_part},
};

impl Found {
    pub(super) fn methods(&mut self, experiment: &Experiment) {
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
            self.second(&path.join(method.entry).join("detector"), &method.detector, experiment);
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

    /// Whether the second network of a detector that reads two is there, learns the same images and shows what is read.
    fn second(&mut self, path: &Path, detector: &DetectorConfig, experiment: &Experiment) {
        let Some(Second { key, network, needs }) = detector.detector().second() else { return };
        let path = path.join(detector.name()).join(key);
        let networks = &experiment.networks;
        let lacking = |network: &Network| {
            let shown = methods::shown(network, networks)?;
            needs.iter().copied().find(|need| !shown.contains(need))
        };
        let fit: Vec<&str> = networks
            .iter()
            .filter(|(_, network)| network.data.is_none() && lacking(network).is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        let remedy = match (&fit[..], needs) {
            ([], [Output::Images]) => "give the experiment one, such as `model: { autoencoder: {} }`".to_owned(),
            ([], [Output::Noise]) => "give the experiment one, such as `model: { diffusion: {} }`".to_owned(),
            ([], _) => "give the experiment one that does".to_owned(),
            (fit, _) => format!("name {}", fit.join(" or ")),
        };
        let Some(name) = network else {
            let shown = needs.iter().map(Output::to_string).collect::<Vec<_>>().join(" and ");
            return self.add(path, format!("has to be given: the network that shows {shown}; {remedy}"));
        };
        let Some(network) = networks.get(name) else {
            return self.add(path, no_such("network", name, networks.keys().map(String::as_str)));
        };
        if let Some(own) = &network.data {
            let id = &experiment.data.id.name;
            let message = format!(
                "\"{name}\" learns \"{}\", and what is scored are images such as those of \"{id}\"; {remedy}",
                own.name
            );
            return self.add(path, message);
        }
        if let Some(need) = lacking(network) {
            let kind = match network.members {
                Some(_) => "an ensemble".to_owned(),
                None => {
                    format!("of the kind {}", methods::root(network, networks).model().map_or("", |model| model.name()))
                }
            };
            self.add(
                path,
                format!("{} reads {need} of it, and \"{name}\", {kind}, shows none; {remedy}", detector.name()),
            );
        }
    }

    /// Whether every combination of a search can be had, and on what.
    pub(super) fn searches(&mut self, experiment: &Experiment) {
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

    pub(super) fn search(&mut self, path: &Path, detector: &DetectorConfig, grid: &Grid, experiment: &Experiment) {
        if grid.is_empty() {
            return;
        }
        if experiment.data.validation.is_none() {
            let message = "needs images to choose on: `data: { validation: { id: 1000, ood: [..] } }`";
            return self.add(path.clone(), message);
        }
        let before = self.problems.len();
        for (key, values) in grid {
            let path = path.join(key.as_str());
            if values.is_empty() {
                self.add(path.clone(), "no values to try");
            }
            if detector.detector().second().is_some_and(|second| second.key == key) {
                self.add(path, "names a network: give the detector one, and sweep over others");
                continue;
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

    pub(super) fn method_names(&mut self, path: &Path, names: &[String], experiment: &Experiment) {
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

    /// The method's detector, if there is such a method.
    pub(super) fn method_name(&mut self, path: &Path, name: &str, experiment: &Experiment) -> Option<DetectorConfig> {
        let methods = experiment.methods();
        if !methods.iter().any(|method| method.name == name) {
            self.add(path.clone(), no_such("method", name, methods.iter().map(|method| method.name.as_str())));
        }
        methods.into_iter().find(|method| method.name == name).map(|method| method.detector)
    }
}
