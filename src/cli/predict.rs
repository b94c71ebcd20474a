//! `oodkit predict`: a trained method on new images.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use indexmap::IndexMap;
use oodkit::{
    Error, Result,
    data::{self, Fit, ImageSet},
    report::figures::sheet,
    run::{
        device::Wanted,
        execute::Context,
        predict::{Answers, predict},
        results::Results,
    },
    say,
    watch::interrupt::Interrupt,
};

use super::{Changes, Experiment, Memory, Opened, print};

mod chosen;
mod files;
mod maps;

use chosen::{Chosen, Decision, Rule};

/// Images on the sheet.
const SHOWN: usize = 10;
/// Unreadable images that an error lists.
const LISTED: usize = 20;
/// The share of ID test images that the threshold accepts, if nothing else is said: the field's.
const TPR: f64 = 0.95;
/// The share of held-out images, of methods that give maps. Ours: one in 200 normal images is called anomalous.
const QUANTILE: f64 = 0.995;

/// Score new images with a method of an experiment that was run.
#[derive(Debug, Args)]
pub struct Predict {
    /// A name in the experiments folder, or a path to a YAML file
    #[arg(long, value_name = "NAME")]
    experiment: PathBuf,
    /// A method of the experiment, as its table names it: EBD, "Sparsity (weight=0.01)"
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// Images: files, folders (with all below them), patterns such as "new/*.png"
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// Where predictions.csv, predictions.caption.txt and most_anomalous.png go, and masks and overlays of a method that gives maps;
    /// without it the CSV is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write raw maps too, at the size of the files
    #[arg(long, value_enum, value_delimiter = ',', requires = "out")]
    maps: Vec<maps::Format>,
    /// The share of ID test images that the threshold accepts, at least [default: 0.95]
    #[arg(long, conflicts_with_all = ["threshold", "quantile"])]
    tpr: Option<f64>,
    /// The same share of train images that are held out, from a fit to the others: no test image is looked at [default of methods that
    /// give maps: 0.995]
    #[arg(long, conflicts_with = "threshold")]
    quantile: Option<f64>,
    /// The threshold itself: images with a larger score are OOD
    #[arg(long, allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// A seed of the experiment; the first if not given
    #[arg(long)]
    seed: Option<u64>,
    /// A cell of the sweep: weight=0.01; the one with the file's own values if not given
    #[arg(long)]
    cell: Option<String>,
    /// A task of the experiment: a category, needed where there are several
    #[arg(long)]
    task: Option<String>,
    /// What to do with images that cannot be read
    #[arg(long, value_enum, default_value_t = Damaged::Refuse)]
    damaged: Damaged,
    /// What to compute on: cpu, cuda (the first GPU), cuda:1, auto (a GPU if there is one)
    #[arg(long, default_value = "cpu", env = "OODKIT_DEVICE")]
    device: String,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    changes: Changes,
}

/// What happens to images that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Damaged {
    /// List them and stop, with exit code 2
    Refuse,
    /// List them and go on without them
    Skip,
}

impl Predict {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        for (name, given, usual) in [("--tpr", self.tpr, TPR), ("--quantile", self.quantile, QUANTILE)] {
            if let Some(given) = given.filter(|given| !(*given > 0.0 && *given <= 1.0)) {
                let message = format!("{name} {given}: not a share above 0 and up to 1");
                return Err(Error::input(message).hint(format!("{name} {usual}")));
            }
        }
        if let Some(threshold) = self.threshold.filter(|threshold| !threshold.is_finite()) {
            return Err(Error::input(format!("--threshold {threshold}: not a finite number")));
        }
        if let Some(out) = &self.out {
            maps::check_unused(out)?;
        }
        let device: Wanted = self.device.parse()?;
        let opened = Opened::new(&Experiment { experiment: self.experiment.clone(), changes: self.changes.clone() })?;
        let results = opened.results()?;
        let chosen = Chosen::of(&results, &opened, &self)?;
        let files = files::of(&self.input)?;
        let post = chosen.method.detector.post();
        if post.is_none() && !self.maps.is_empty() {
            let message = format!("--maps: {} gives no maps", chosen.method.detector.name());
            return Err(Error::input(message).hint("padim and patchcore do"));
        }
        if post.is_some() && self.out.is_some() {
            maps::check_names(&files)?;
        }
        let context = Context {
            data: opened.data.clone(),
            store: opened.store.clone(),
            device: device.open(|reason| say(reason))?,
            smoke: self.changes.smoke,
            overrides: Vec::new(),
            interrupt: Interrupt::on_signals()?,
            memory: self.memory.wanted(),
        };
        let id = &chosen.task.experiment.data.id;
        let fit = Fit::of(id);
        let mut read = None;
        let which = (chosen.variant.cell.name.as_str(), chosen.task.name(), chosen.seed);
        let quantile = match chosen.rule {
            Rule::HeldOut(quantile) => Some(quantile),
            Rule::Known { .. } => None,
        };
        let answers = predict(&opened.plan, &context, which, &chosen.method, quantile, |shape| {
            let (images, names, skipped) = self.read(&files, (shape, fit), context.memory.bytes)?;
            read = Some((names, skipped));
            Ok(images)
        })?;
        let Some((names, skipped)) = read else { return Ok(()) };
        let predictions = Predictions {
            names: &names,
            answers: &answers,
            classes: data::class_names(id, &opened.data).filter(|classes| classes.len() == answers.known),
            classifies: !opened.plan.experiment.data.has_categories(),
            decision: chosen.rule.decision(&answers),
        };
        let mut caption = predictions.caption(&opened, &results, &chosen, skipped);
        let Some(out) = &self.out else {
            say(caption.trim_end());
            return print(&predictions.csv()?);
        };
        let written = match post {
            Some(post) => {
                let maps = maps::Maps { answers: &answers, post, pixel: predictions.decision.pixel, fit };
                let relative = names.iter().map(|name| files[name].as_path()).collect::<Vec<_>>();
                Some(maps.write(out, (&names, &relative), &self.maps)?)
            }
            None => None,
        };
        if let Some((about, _)) = &written {
            caption.push_str(about);
        }
        let mut paths = Vec::new();
        let sheet = predictions.sheet(&results, &chosen)?;
        for (name, bytes) in [
            ("predictions.csv", predictions.csv()?.as_bytes()),
            ("predictions.caption.txt", caption.as_bytes()),
            ("most_anomalous.png", &sheet),
        ] {
            let path = out.join(name);
            oodkit::write_atomic(&path, |file| file.write_all(bytes))?;
            paths.push(format!("  {}\n", path.display()));
        }
        paths
            .extend(written.into_iter().flat_map(|(_, folders)| folders).map(|path| format!("  {}\n", path.display())));
        print(&format!("{caption}\nfiles\n{}", paths.concat()))
    }

    /// The images at a shape, their files, and how many could not be read and were left out.
    fn read(
        &self,
        files: &IndexMap<PathBuf, PathBuf>,
        (shape, fit): ([usize; 3], Fit),
        memory: u64,
    ) -> Result<(ImageSet, Vec<PathBuf>, usize)> {
        let files: Vec<PathBuf> = files.keys().cloned().collect();
        let mut problems = Vec::new();
        let (images, kept) = data::new_images(&files, shape, fit, memory, |error| {
            problems.push(error.to_string());
            Ok(())
        })?;
        let names: Vec<PathBuf> = kept.iter().map(|&place| files[place].clone()).collect();
        let skipped = problems.len();
        if skipped > 0 {
            let more = skipped.saturating_sub(LISTED);
            problems.truncate(LISTED);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            let listed =
                format!("{skipped} of {} images cannot be read:\n  {}{more}", files.len(), problems.join("\n  "));
            if self.damaged == Damaged::Refuse || names.is_empty() {
                let hint = "take them away, or leave them out with --damaged skip";
                return Err(Error::input(listed).hint(if names.is_empty() {
                    "give at least one image: PNG, JPEG, WebP, BMP, TIFF, PNM or GIF"
                } else {
                    hint
                }));
            }
            say(listed);
        }
        Ok((images, names, skipped))
    }
}

/// What was answered of which file.
struct Predictions<'a> {
    names: &'a [PathBuf],
    answers: &'a Answers,
    /// The classes' names, if they have any.
    classes: Option<Vec<String>>,
    /// Whether the network's classes are the images': those of categories have none.
    classifies: bool,
    decision: Decision,
}

impl Predictions<'_> {
    /// The class of an image and its probability, where there are classes to tell.
    fn class(&self, image: usize) -> Option<(String, f64)> {
        let (class, probability) = self.answers.classes.as_ref().filter(|_| self.classifies)?[image];
        let name = self.classes.as_ref().and_then(|names| names.get(class).cloned());
        Some((name.unwrap_or_else(|| class.to_string()), probability))
    }

    fn score(&self, image: usize) -> f32 {
        self.answers.scores.as_slice()[image]
    }

    fn is_ood(&self, image: usize) -> bool {
        f64::from(self.score(image)) > self.decision.threshold
    }

    fn decision(&self, image: usize) -> &'static str {
        if self.is_ood(image) { "OOD" } else { "ID" }
    }

    /// A line for each image: file, class, probability, score, decision.
    fn csv(&self) -> Result<String> {
        let unwritable = |error: &dyn std::fmt::Display| Error::Failed(format!("cannot write the CSV: {error}"));
        let mut writer = csv::WriterBuilder::new().comment(Some(b'#')).from_writer(Vec::new());
        let mut write = |line: [&str; 5]| writer.write_record(line).map_err(|error| unwritable(&error));
        write(["file", "class", "probability", "score", "decision"])?;
        for (image, name) in self.names.iter().enumerate() {
            // Exact, so that it compares with the threshold as here.
            let score = f64::from(self.score(image)).to_string();
            let (class, probability) = self
                .class(image)
                .map_or_else(Default::default, |(class, probability)| (class, probability.to_string()));
            write([&name.to_string_lossy(), &class, &probability, &score, self.decision(image)])?;
        }
        let bytes = writer.into_inner().map_err(|error| unwritable(&error))?;
        String::from_utf8(bytes).map_err(|error| unwritable(&error))
    }

    /// What the CSV's reader must know.
    fn caption(&self, opened: &Opened, results: &Results, chosen: &Chosen<'_>, skipped: usize) -> String {
        let mut text = String::new();
        let ood = (0..self.names.len()).filter(|image| self.is_ood(*image)).count();
        let left_out =
            if skipped > 0 { format!("; {skipped} could not be read and are left out") } else { String::new() };
        let [channels, height, width] = self.answers.images.shape();
        let environment = &self.answers.environment;
        if results.smoke {
            text.push_str("SMOKE RUN on synthetic data: these answers mean nothing.\n");
        }
        let _ = writeln!(text, "{} images: {} ID, {ood} OOD{left_out}.", self.names.len(), self.names.len() - ood);
        let _ = writeln!(
            text,
            "Larger scores are more anomalous; a score above the threshold is OOD. {}.",
            self.decision.words
        );
        let _ = writeln!(
            text,
            "{} of {}, seed {}: detector {}, network {}, images of {channels}×{height}×{width} values.",
            chosen.variant.label(),
            opened.plan.name,
            chosen.seed,
            chosen.method.detector.name(),
            self.answers.network.display()
        );
        let _ = writeln!(text, "oodkit {}, commit {}, {}.", environment.oodkit, environment.commit, environment.device);
        text
    }

    /// The most anomalous images, as the network sees them.
    fn sheet(&self, results: &Results, chosen: &Chosen<'_>) -> Result<Vec<u8>> {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        order.sort_by(|left, right| self.score(*right).total_cmp(&self.score(*left)));
        order.truncate(SHOWN);
        let names = files::short_names(self.names);
        let line = |image: &usize| {
            let (file, score) = (&names[*image], self.score(*image));
            let class = self.class(*image).map_or_else(String::new, |(class, _)| format!("{class} · "));
            let words = format!("{file} · {class}{score} · {}", self.decision(*image));
            Ok((words, self.answers.images.image(*image)?))
        };
        let lines = order.iter().map(line).collect::<Result<Vec<_>>>()?;
        let smoke = if results.smoke { "SMOKE RUN, answers mean nothing: " } else { "" };
        let title = format!("{smoke}The {} most anomalous of {} images", lines.len(), self.names.len());
        let subtitle =
            format!("{} · {} · threshold {}", results.title, chosen.variant.label(), self.decision.threshold as f32);
        sheet::png(&title, &subtitle, self.answers.images.shape(), &lines)
    }
}
