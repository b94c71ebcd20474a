//! The command line: parse, call, print. Data goes to stdout, everything else to stderr.

mod export;
mod predict;

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

use oodkit::{
    Error, Result,
    config::{self, load::Loaded, overrides},
    data,
    detectors::{self, DetectorConfig, feature_file},
    did_you_mean, metrics, nn, report,
    run::{
        device::Wanted,
        execute::{Context, execute},
        layers, merge,
        plan::{Places, Plan, fingerprint, plan},
        results::Results,
        store::{Lock, Store, lock, write_json},
    },
    say,
    watch::interrupt::Interrupt,
    yaml::problems::first_repeated,
};

/// Train, fine-tune, score and compare out-of-distribution methods from YAML.
#[derive(Debug, Parser)]
#[command(name = "oodkit", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OODKIT_COMMIT"), ")"))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do what is missing of an experiment, then print its tables and where they are
    Run(Run),
    /// Print an experiment's graph of networks and what of it is done; computes nothing
    Plan(Experiment),
    /// Print an experiment's tables again from its results, and write them beside it where that can be written; trains and
    /// scores nothing
    Table(Experiment),
    /// List experiments, data sets, detectors and architectures
    List(Folders),
    /// List detectors with what each needs, or show one with its paper and settings
    Detectors {
        /// A detector of the list
        name: Option<String>,
    },
    /// Score new images with a method of an experiment that was run: class, score and decision of each
    Predict(predict::Predict),
    /// Join results of one experiment that were measured on different machines: their cells and seeds
    Merge(Merge),
    /// Write a trained network for other programs: safetensors, and what they must know as JSON
    Export(export::Export),
    /// Score features of your own, exported from any framework as safetensors
    Score(Score),
    /// Download data sets from the hub into the data folder
    Data(Download),
    /// Measure scores of your own: larger means more anomalous
    Metrics(Measure),
    /// Print the JSON schema of an experiment file, for editors
    Schema,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    experiment: Experiment,
    /// What to compute on: cpu, cuda (the first GPU), cuda:1, auto (a GPU if there is one)
    #[arg(long, default_value = "cpu", env = "OODKIT_DEVICE")]
    device: String,
    #[command(flatten)]
    memory: Memory,
}

#[derive(Debug, Clone, Args)]
struct Memory {
    /// MiB that decoded images may take; larger sets of image files are decoded each time they are needed, with the same results.
    /// Half of the free memory if not given
    #[arg(long = "memory", value_name = "MIB", env = "OODKIT_MEMORY")]
    mib: Option<u32>,
}

impl Memory {
    fn wanted(&self) -> data::Memory {
        self.mib.map_or_else(data::Memory::half_of_free, data::Memory::mib)
    }
}

#[derive(Debug, Args)]
struct Experiment {
    /// A name in the experiments folder, or a path to a YAML file
    experiment: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, Clone, Args)]
struct Changes {
    /// Change keys: "networks.tuned.loss.sparsity.weight=0.05 seeds=[0, 1]" (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Try several values of keys: "networks.tuned.loss.sparsity.weight=[0, 0.1]" (repeatable)
    #[arg(long = "sweep", value_name = "KEY=[VALUES]")]
    sweep: Vec<String>,
    /// A few steps on tiny synthetic data through the very same path; the numbers mean nothing
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    folders: Folders,
}

#[derive(Debug, Clone, Args)]
struct Folders {
    /// Where experiment files are
    #[arg(long, value_name = "DIR", default_value = "experiments", env = "OODKIT_EXPERIMENTS")]
    experiments: PathBuf,
    /// Where data sets are
    #[arg(long, value_name = "DIR", default_value = "data", env = "OODKIT_DATA")]
    data: PathBuf,
    /// Where everything produced goes
    #[arg(long, value_name = "DIR", default_value = "runs", env = "OODKIT_RUNS")]
    runs: PathBuf,
}

#[derive(Debug, Args)]
struct Download {
    /// Data sets, such as cifar10 (see `oodkit list`)
    #[arg(required = true)]
    names: Vec<String>,
    /// Where data sets are
    #[arg(long, value_name = "DIR", default_value = "data", env = "OODKIT_DATA")]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct Merge {
    /// Files of results: A/results.json B/results.json. Title, tables and figures are those of the first
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    files: Vec<PathBuf>,
    /// Where the joined results go, such as runs/experiments/NAME/results.json for `oodkit table`; stdout if not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Measure {
    /// Scores of in-distribution images: .npy, or .csv with one number a line or a column `score`
    #[arg(long)]
    id: PathBuf,
    /// Scores of out-of-distribution images
    #[arg(long)]
    ood: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Score {
    /// A detector, bare or with settings: 'knn: {k: 50}'
    #[arg(long)]
    detector: String,
    /// Features of the in-distribution train set, for detectors that learn from it. A fit shows no progress, and an interrupted
    /// one begins again: for afdu of many neurons and images, minutes
    #[arg(long, value_name = "FILE")]
    fit: Option<PathBuf>,
    /// Features of the images to score; several files are scored by one fit
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// Where the scores of each input go: .npy, one number per image, larger means more anomalous
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    out: Vec<PathBuf>,
    /// MiB that a fit may hold at a time
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    memory: u32,
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Run(arguments) => run(&arguments.experiment, arguments.device.parse()?, arguments.memory.wanted()),
            Command::Plan(experiment) => {
                let opened = Opened::new(&experiment)?;
                // A smoke run makes its own.
                let data = (!experiment.changes.smoke).then_some(opened.data.as_path());
                let held: String = layers::check(&opened.plan, data)?.iter().map(|line| format!("{line}\n")).collect();
                print(&(opened.plan.describe(&opened.store, data) + &held))
            }
            Command::Table(experiment) => table(&experiment),
            Command::List(folders) => list(&folders),
            Command::Data(download) => data::download::download(&download.names, &download.data, true),
            Command::Metrics(measure) => {
                print(&(metrics::files::run_cli(&measure.id, &measure.ood, measure.json)? + "\n"))
            }
            Command::Detectors { name: None } => print(&detectors()),
            Command::Detectors { name: Some(name) } => print(&DetectorConfig::describe(&name)?),
            Command::Predict(arguments) => arguments.run(),
            Command::Merge(arguments) => merge(&arguments),
            Command::Export(arguments) => arguments.run(),
            Command::Score(arguments) => score(&arguments),
            Command::Schema => {
                let schema = serde_json::to_string_pretty(&config::schema())
                    .map_err(|error| Error::Failed(format!("cannot serialise the schema: {error}")))?;
                print(&(schema + "\n"))
            }
        }
    }
}

/// Bytes of the name of an experiment's folder at most. Ours: file systems take 255.
const LONGEST_NAME: usize = 200;

/// An experiment, read and planned.
struct Opened {
    plan: Plan,
    store: Store,
    /// Where its results go.
    out: PathBuf,
    data: PathBuf,
    /// What to type to run it.
    command: String,
}

impl Opened {
    fn new(arguments: &Experiment) -> Result<Self> {
        let folders = &arguments.changes.folders;
        let mut loaded = find(&arguments.experiment, &folders.experiments)?;
        let plain = loaded.experiment.clone();
        let parts = |texts: &[String]| texts.iter().flat_map(|text| overrides::split(text)).collect::<Vec<_>>();
        loaded.experiment = overrides::apply(&loaded.experiment, &parts(&arguments.changes.set))?;
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
        let is_text = loaded.path.file_name().is_some_and(|name| name.to_str().is_some());
        if loaded.path.parent() != Some(&folders.experiments) || !is_text {
            // Nor may a file of the same name from elsewhere, or of one that looks the same because it is no text.
            let path = std::path::absolute(&loaded.path).map_err(Error::io("read", &loaded.path))?;
            let fingerprint = match path.to_str() {
                Some(text) => fingerprint(&text)?,
                None => fingerprint(&path.as_os_str().as_encoded_bytes())?,
            };
            name = format!("{name}-{fingerprint}");
        }
        if name.len() > LONGEST_NAME {
            let message =
                format!("the experiment's name has {} bytes: folders with at most {LONGEST_NAME} are made", name.len());
            return Err(Error::input(message).hint("give its file a shorter name"));
        }
        let (mut runs, mut data) = (folders.runs.clone(), folders.data.clone());
        // A smoke run makes its data, but weights are what they are.
        let weights = data.join(data::download::WEIGHTS);
        if arguments.changes.smoke {
            // First, so that the networks without weights are narrow.
            without_absent_weights(&mut loaded.experiment, &weights);
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
        Ok(Self { command, plan, out, store, data })
    }

    /// The results on disk, if they are those of the experiment as it stands now.
    fn results(&self) -> Result<Results> {
        let hint = self.command.clone();
        let Some(results) = Results::read(&self.out)? else {
            let missing = self.out.join("results.json");
            let message = format!("no results of {} yet: {} does not exist", self.plan.name, missing.display());
            return Err(Error::input(message).hint(hint));
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
    fn report(&self, results: &Results, folders: &Folders, lock: impl FnOnce() -> Result<Lock>) -> Result<()> {
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
}

/// Prints tables again. Files that cannot be written, as in the folder of another user, are told and are no error.
fn table(arguments: &Experiment) -> Result<()> {
    let opened = Opened::new(arguments)?;
    let results = opened.results()?;
    match opened.report(&results, &arguments.changes.folders, || lock(&opened.out, &Interrupt::default())) {
        Err(error @ Error::Io { action: "create" | "write" | "lock" | "remove", .. }) => {
            say(format!("files were not written: {error}"));
            Ok(())
        }
        other => other,
    }
}

fn run(arguments: &Experiment, device: Wanted, memory: data::Memory) -> Result<()> {
    let opened = Opened::new(arguments)?;
    let device = device.open(|reason| say(reason))?;
    if arguments.changes.smoke {
        say("smoke run: tiny synthetic data, numbers mean nothing");
        let data = &opened.plan.experiment.data;
        let categories = opened.plan.cells.iter().flat_map(|cell| &cell.tasks).map(|task| &task.experiment.data.id);
        let categories = categories.filter(|_| data.has_categories());
        let sets = std::iter::once(&data.id)
            .filter(|_| !data.has_categories())
            .chain(categories)
            .chain(&data.ood)
            .chain(&data.shifted)
            .chain(&data.outliers)
            .chain(data.validation_sets())
            .chain(opened.plan.experiment.networks.values().filter_map(|network| network.data.as_ref()));
        for dataset in sets {
            let (train, test) = (dataset.train_limit.unwrap_or(0), dataset.test_limit.unwrap_or(0));
            data::synthetic::write(dataset, &opened.data, train, test, 0)?;
        }
    }
    let context = Context {
        data: opened.data.clone(),
        store: opened.store.clone(),
        device,
        smoke: arguments.changes.smoke,
        overrides: arguments.changes.set.iter().chain(&arguments.changes.sweep).cloned().collect(),
        interrupt: Interrupt::on_signals()?,
        memory,
    };
    let results = execute(&opened.plan, &context)?;
    for (cell, seed, task) in results.cells.iter().flat_map(|cell| {
        cell.seeds.iter().flat_map(move |seed| seed.tasks.values().map(move |task| (cell, seed.seed, task)))
    }) {
        for (name, why) in &task.unfit {
            say(format!("note: method {name} (cell {}, seed {seed}) is not scored: {why}", cell.name));
        }
    }
    let held = lock(&opened.out, &context.interrupt)?;
    results.write(&opened.plan.experiment, &opened.out)?;
    opened.report(&results, &arguments.changes.folders, || Ok(held))
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

fn merge(arguments: &Merge) -> Result<()> {
    let merged = merge::merge(&arguments.files)?;
    match &arguments.out {
        Some(path) => write_json(path, &merged),
        None => {
            let text = serde_json::to_string_pretty(&merged)
                .map_err(|error| Error::Failed(format!("cannot serialise the results: {error}")))?;
            print(&(text + "\n"))
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

fn experiment_names(folder: &Path) -> Result<Vec<String>> {
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

fn list(folders: &Folders) -> Result<()> {
    let mut text = String::from("experiments (make exp=NAME)\n");
    for name in experiment_names(&folders.experiments)? {
        match config::load::load(&folders.experiments.join(format!("{name}.yaml"))) {
            Ok(loaded) => text.push_str(&format!("  {name:<24} {}\n", loaded.experiment.title)),
            Err(_) => text.push_str(&format!("  {name:<24} cannot be read: oodkit plan {name} says why\n")),
        }
    }
    text.push_str("\ndata sets\n");
    for known in data::registry::all() {
        let set = data::Dataset::named(known.name);
        let here = data::check(&set, &[data::Split::Test], &folders.data).is_ok();
        let elsewhere = if here { None } else { data::elsewhere(known, &folders.data) };
        let state = if here || elsewhere.is_some() { "here" } else { "-" };
        let path = elsewhere.map(|folder| format!(" (in {folder}: write {{ name: {}, path: {folder} }})", known.name));
        text.push_str(&format!("  {:<24} {state:<6} {}{}\n", known.name, known.title, path.unwrap_or_default()));
    }
    text.push_str("\ndetectors\n");
    text.push_str(&detectors());
    text.push_str("\narchitectures\n");
    for name in nn::Backbone::names() {
        text.push_str(&format!("  {name}\n"));
    }
    print(&text)
}

/// The detectors, a line each: name, what it needs by the names of a feature file, what it is.
fn detectors() -> String {
    let all = DetectorConfig::NAMES.iter().filter_map(|name| DetectorConfig::default_of(name).ok());
    let rows: Vec<[String; 3]> = all
        .map(|config| {
            let needs: Vec<&str> = config.build().needs().iter().map(|need| need.wanted()).collect();
            [config.name().to_owned(), needs.join(", "), config.about().to_owned()]
        })
        .collect();
    let [names, needs] = [0, 1].map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    rows.iter().map(|[name, need, about]| format!("  {name:<names$}  {need:<needs$}  {about}\n")).collect()
}

fn score(arguments: &Score) -> Result<()> {
    let is_npy = |out: &Path| out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let config = config::load::parse_detector(&arguments.detector)?;
    if let Some(out) = arguments.out.iter().find(|out| !is_npy(out)) {
        return Err(Error::input(format!("--out {}: scores are written as .npy", out.display())));
    }
    if arguments.out.len() != arguments.input.len() {
        let (inputs, outs) = (arguments.input.len(), arguments.out.len());
        return Err(Error::input(format!("{inputs} files to score and {outs} for their scores"))
            .hint("give one --out for each --input, in the same order"));
    }
    if let Some(index) = first_repeated(&arguments.out) {
        return Err(Error::input(format!("--out {} stands twice", arguments.out[index].display())));
    }
    let (fit, memory) = (arguments.fit.as_deref(), (arguments.memory as usize) << 20);
    let inputs: Vec<&Path> = arguments.input.iter().map(PathBuf::as_path).collect();
    let record = feature_file::score(&config, fit, &inputs, memory, &mut |index, scores| {
        let out = &arguments.out[index];
        metrics::files::write_npy(out, scores.as_slice())?;
        say(format!("{} scores in {}", scores.as_slice().len(), out.display()));
        if let Some(maps) = scores.maps() {
            let (path, [rows, columns]) = (out.with_extension("maps.npy"), maps.grid());
            metrics::files::write_array(&path, &[maps.images(), rows, columns], maps.values())?;
            say(format!("{rows}×{columns} maps in {}", path.display()));
        }
        Ok(())
    })?;
    if let Some(fit) = record.map(|record| detectors::in_words(&record)).filter(|fit| !fit.is_empty()) {
        say(format!("fit, what is 0 left out: {fit}"));
    }
    Ok(())
}

/// Writes to stdout; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    // A file or another program gets the names as they are.
    let text = if stdout.is_terminal() { &oodkit::for_terminal(text) } else { text };
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write", "stdout")(error)),
        _ => Ok(()),
    }
}
