//! An experiment that the command line names: read, changed, planned, and its results.

use std::path::{Path, PathBuf};

use oodkit::{
    Error, Result,
    config::{self, load::Loaded, overrides},
    data, did_you_mean, report,
    run::{
        plan::{Places, Plan, fingerprint, plan},
        results::Results,
        store::{Lock, Store},
    },
    say,
};

use super::{Experiment, Folders, print};

/// Bytes of the name of an experiment's folder at most. Ours: file systems take 255.
const LONGEST_NAME: usize = 200;

/// Digits of [`fingerprint`].
const FINGERPRINT: usize = 8;

/// Runs with changes that a hint lists, at most.
const LISTED: usize = 3;

/// An experiment, read and planned.
pub(super) struct Opened {
    pub(super) plan: Plan,
    /// Of a smoke run, what the run would be without.
    pub(super) real: Option<Plan>,
    pub(super) store: Store,
    /// Where its results go.
    pub(super) out: PathBuf,
    pub(super) data: PathBuf,
    /// What to type to run it.
    pub(super) command: String,
    /// What its folder's name ends with if its file is not of the experiments folder.
    elsewhere: String,
}

impl Opened {
    pub(super) fn new(arguments: &Experiment) -> Result<Self> {
        let folders = &arguments.changes.folders;
        let mut loaded = find(&arguments.experiment, &folders.experiments)?;
        let plain = loaded.experiment.clone();
        let parts = |texts: &[String]| texts.iter().flat_map(|text| overrides::split(text)).collect::<Vec<_>>();
        let set = parts(&arguments.changes.set);
        loaded.experiment = overrides::apply(&loaded.experiment, &set)?;
        overrides::refuse_swept(&loaded.experiment, &set)?;
        loaded.experiment = overrides::apply_sweep(&loaded.experiment, &parts(&arguments.changes.sweep))?;
        // A paper's table that cannot be read must not be found out after hours of training.
        for table in &loaded.experiment.tables {
            if let Some(expect) = &table.expect {
                report::expect::Paper::read(expect, &table.columns, &folders.experiments)?;
            }
        }
        let mut name = loaded.name.clone();
        if loaded.experiment != plain {
            // A changed experiment must not overwrite the results of the file as it stands.
            name = format!("{name}-{}", fingerprint(&loaded.experiment)?);
        }
        let mut elsewhere = String::new();
        let is_text = loaded.path.file_name().is_some_and(|name| name.to_str().is_some());
        if loaded.path.parent() != Some(&folders.experiments) || !is_text {
            // Nor may a file of the same name from elsewhere, or of one that looks the same because it is no text.
            let path = std::path::absolute(&loaded.path).map_err(Error::io("read", &loaded.path))?;
            let fingerprint = match path.to_str() {
                Some(text) => fingerprint(&text)?,
                None => fingerprint(&path.as_os_str().as_encoded_bytes())?,
            };
            elsewhere = format!("-{fingerprint}");
            name.push_str(&elsewhere);
        }
        if name.len() > LONGEST_NAME {
            let message =
                format!("the experiment's name has {} bytes: folders with at most {LONGEST_NAME} are made", name.len());
            return Err(Error::input(message).hint("give its file a shorter name"));
        }
        let (mut runs, mut data) = (folders.runs.clone(), folders.data.clone());
        let mut real = None;
        // A smoke run makes its data, but weights are what they are.
        let weights = data.join(data::download::WEIGHTS);
        if arguments.changes.smoke {
            // First, so that the networks without weights are narrow.
            without_absent_weights(&mut loaded.experiment, &weights);
            let store = Store::new(runs.clone());
            real = Some(plan(&loaded, &Places { data: None, weights: &weights, store: &store })?);
            loaded.experiment = config::smoke(loaded.experiment);
            runs = runs.join("smoke");
            data = runs.join("data");
        }
        let mut command = format!("make exp={}", arguments.experiment.display());
        for (variable, texts) in [("set", &arguments.changes.set), ("sweep", &arguments.changes.sweep)] {
            if !texts.is_empty() {
                command.push_str(&format!(" {variable}=\"{}\"", texts.join(" ")));
            }
        }
        command.push_str(if arguments.changes.smoke { " smoke=1" } else { "" });
        let out = runs.join("experiments").join(name);
        let store = Store::new(runs);
        let plan = plan(
            &loaded,
            &Places { data: Some(&*data).filter(|_| !arguments.changes.smoke), weights: &weights, store: &store },
        )?;
        Ok(Self { command, plan, real, out, store, data, elsewhere })
    }

    /// The results on disk, if they are those of the experiment as it stands now.
    pub(super) fn results(&self) -> Result<Results> {
        let hint = self.command.clone();
        let Some(results) = Results::read(&self.out)? else {
            let missing = self.out.join("results.json");
            let message = format!("no results of {} yet: {} does not exist", self.plan.name, missing.display());
            let others = self.others();
            let others = others.iter().map(|changes| format!("\n      or add what a run changed: {changes}"));
            return Err(Error::input(message).hint(hint + &others.collect::<String>()));
        };
        if !results.are_of(&self.plan.experiment)? {
            let message =
                format!("{} was changed since {} was written", self.plan.name, self.out.join("results.json").display());
            return Err(Error::input(message).hint(format!("{hint}: what is still good is not repeated")));
        }
        Ok(results)
    }

    /// Prints the tables, writes tables and figures, prints where they are.
    ///
    /// The tables are printed first: a folder that cannot be written hides no number.
    pub(super) fn report(
        &self,
        results: &Results,
        folders: &Folders,
        lock: impl FnOnce() -> Result<Lock>,
    ) -> Result<()> {
        let experiment = &self.plan.experiment;
        let mut text = report::text(results, experiment, &folders.experiments)?;
        if experiment.tables.is_empty() {
            let numbers = self.out.join("results.json");
            text.push_str(&format!("no `tables:` asked for; every number is in {}\n", numbers.display()));
        }
        print(&text)?;
        let _lock = lock()?;
        let report = report::write(results, experiment, &folders.experiments, self.store.root(), &self.out)?;
        let files: String = report.files.iter().map(|file| format!("  {}\n", file.display())).collect();
        print(&format!("\nfiles\n{files}"))
    }

    /// What runs of the same file changed of it that have results, as arguments.
    fn others(&self) -> Vec<String> {
        let folders = self.out.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        let mut names: Vec<_> = folders.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        names.sort();
        let is_of_the_file = |folder: &&PathBuf| {
            let name = folder.file_name().and_then(|name| name.to_str());
            let rest = name.and_then(|name| name.strip_prefix(&self.plan.name)?.strip_suffix(&self.elsewhere));
            let change = rest.and_then(|rest| rest.strip_prefix('-'));
            change.is_some_and(|change| change.len() == FINGERPRINT && change.chars().all(|c| c.is_ascii_hexdigit()))
        };
        let changes = |folder: &PathBuf| Results::read(folder).ok()?.map(|results| changes(&results));
        let found = names.iter().filter(is_of_the_file).filter_map(changes).filter(|changes| !changes.is_empty());
        found.take(LISTED).collect()
    }
}

/// `--set "seeds=[0]" --sweep "weight=[0, 1]"`: what a run's command line changed.
fn changes(results: &Results) -> String {
    let swept = |change: &String| {
        let key = change.split('=').next().unwrap_or_default();
        results.config["sweep"].get(key).is_some()
    };
    let (sweeps, sets): (Vec<_>, Vec<_>) =
        results.overrides.iter().flat_map(|text| overrides::split(text)).partition(swept);
    let all = [("--set", sets), ("--sweep", sweeps)].into_iter().filter(|(_, changes)| !changes.is_empty());
    all.map(|(flag, changes)| format!("{flag} \"{}\"", changes.join(" "))).collect::<Vec<_>>().join(" ")
}

/// Lets the networks of a smoke run start from nothing where their published weights are not there: it shows that the path works.
fn without_absent_weights(experiment: &mut config::Experiment, cache: &Path) {
    let categories = experiment.data.has_categories();
    for (name, network) in &mut experiment.networks {
        if let Some(weights) = network.weights.take_if(|weights| !weights.path(cache).is_file()) {
            say(format!("networks.{name}: {} is not there; this smoke run does without", weights.file));
            config::smoke::untrained(network, categories);
        }
    }
}

/// An experiment by name or path.
fn find(given: &Path, folder: &Path) -> Result<Loaded> {
    if given.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        return config::load::load(given);
    }
    let name = &*given.to_string_lossy();
    let path = folder.join(format!("{name}.yaml"));
    if path.is_file() {
        return config::load::load(&path);
    }
    let names = experiment_names(folder)?;
    let near = did_you_mean(name, names.iter().map(String::as_str));
    Err(Error::input(format!("no experiment \"{name}\" in {}{near}", folder.display())).hint(match names.is_empty() {
        true => "start oodkit in the repository's root folder, or give --experiments DIR".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    }))
}

pub(super) fn experiment_names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Error::input(format!("cannot read the experiments folder {}: {error}", folder.display()))
            .hint("start oodkit in the repository's root folder, or give --experiments DIR")
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
