//! The command line: parse, call, print. Data goes to stdout, everything else to stderr.

mod export;
mod opened;
mod page;
mod predict;
mod speed;

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

use oodkit::{
    Error, Result, config, data,
    detectors::{self, DetectorConfig, feature_file},
    metrics, nn,
    run::{
        device::Wanted,
        execute::{Context, execute},
        layers, merge,
        store::{lock, write_json},
    },
    say,
    watch::interrupt::Interrupt,
    yaml::problems::first_repeated,
};

use opened::{Opened, experiment_names};

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
    /// Write one HTML file with the tables, figures, heat maps and images of an experiment that was run
    Report(page::Page),
    /// List experiments, data sets, detectors and architectures
    List(Folders),
    /// List detectors with what each needs, or show one with its paper and settings
    Detectors {
        /// A detector of the list
        name: Option<String>,
    },
    /// Score new images with a method of an experiment that was run: class, score and decision of each
    Predict(predict::Predict),
    /// Measure milliseconds an image of each method of an experiment that was run
    Speed(speed::Measured),
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
            Command::Report(arguments) => arguments.run(),
            Command::List(folders) => list(&folders),
            Command::Data(download) => data::download::download(&download.names, &download.data, true),
            Command::Metrics(measure) => {
                print(&(metrics::files::run_cli(&measure.id, &measure.ood, measure.json)? + "\n"))
            }
            Command::Detectors { name: None } => print(&detectors()),
            Command::Detectors { name: Some(name) } => print(&DetectorConfig::describe(&name)?),
            Command::Predict(arguments) => arguments.run(),
            Command::Speed(arguments) => arguments.run(),
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
        // A setting that the real run refuses may be one that a smoke run replaces.
        opened.real.as_ref().map_or(Ok(()), layers::refuse)?;
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
    text.push_str("\nmodels\n");
    for name in oodkit::models::ModelConfig::NAMES {
        text.push_str(&format!("  {name}\n"));
    }
    text.push_str("\narchitectures\n");
    for name in nn::Backbone::names() {
        text.push_str(&format!("  {name}\n"));
    }
    print(&text)
}

/// The detectors, a line each: name, what it needs by the names of a feature file, what it is.
fn detectors() -> String {
    let all = DetectorConfig::NAMES.iter().filter_map(|name| DetectorConfig::default_of(name).ok());
    let rows: Vec<[String; 3]> =
        all.map(|config| [config.name().to_owned(), config.wanted().join(", "), config.about().to_owned()]).collect();
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
