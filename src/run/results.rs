//! `results.json`: everything that tables and figures are made from.

use std::path::{Path, PathBuf};

use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, Result,
    config::{ALL_KINDS, Experiment, search::By},
    fs::write_atomic,
    metrics::{Confusion, Intervals, MeanStd, Measures},
    nn::Tta,
    run::{
        plan::to_json,
        schema_1,
        store::{no_record, read_json, write_json},
    },
};

/// The version of the format. Files of version 1 are read as well ([`schema_1`](super::schema_1)); others are refused.
pub const SCHEMA: u32 = 2;

/// The record of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`SCHEMA`] when it was written.
    pub schema: u32,
    /// The experiment's name: its file's stem.
    pub experiment: String,
    /// Its title.
    pub title: String,
    /// Whether this was `smoke=1`: a few steps on tiny synthetic data, worthless as numbers.
    pub smoke: bool,
    /// The sets in use, by name; the first is the ID set.
    pub datasets: IndexMap<String, DatasetRecord>,
    /// Covariate-shifted ID sets, by name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub shifted: IndexMap<String, DatasetRecord>,
    /// The auxiliary outliers that networks learned from, if some did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<OutliersRecord>,
    /// The sets that settings were chosen on, by name, the ID set first; empty without a search.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub validation: IndexMap<String, DatasetRecord>,
    /// One per cell of the sweep, in order; a single one without a sweep.
    pub cells: Vec<Cell>,
    /// What it was scored on, also by earlier runs whose scores were used again.
    pub environment: Environment,
    /// What the command line changed in the experiment's file, as it was written there: `data.id.train_limit=1000`.
    pub overrides: Vec<String>,
    /// The resolved experiment (all defaults filled in, overrides applied).
    pub config: Value,
}

impl Results {
    /// Writes `results.json`, and beside it the resolved experiment as `config.yaml`, into a folder.
    pub fn write(&self, experiment: &Experiment, folder: &Path) -> Result<()> {
        let config = serde_saphyr::to_string(experiment)
            .map_err(|error| Error::Failed(format!("cannot serialise the configuration: {error}")))?;
        write_atomic(&folder.join("config.yaml"), |file| file.write_all(config.as_bytes()))?;
        write_json(&folder.join("results.json"), self)
    }

    /// What was measured, cell by cell and seed by seed.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskResult> {
        self.cells.iter().flat_map(|cell| &cell.seeds).flat_map(|seed| seed.tasks.values())
    }

    /// Whether each category of a folder is a task of its own.
    pub fn has_categories(&self) -> bool {
        self.datasets.values().any(|record| !record.kinds.is_empty())
    }

    /// The sets that a method is measured on, by name: the OOD sets, or the categories.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &DatasetRecord)> {
        let id = usize::from(!self.has_categories());
        self.datasets.iter().skip(id).map(|(name, record)| (name.as_str(), record))
    }

    /// What is of one category alone, as of an experiment whose ID set are the category's normal images and whose OOD sets are its kinds of
    /// anomalies.
    pub fn of_category(&self, category: &str) -> Self {
        let mut results = self.clone();
        let record = results.datasets.swap_remove(category);
        let kinds = record.iter().flat_map(|record| {
            let alone = DatasetRecord { kinds: IndexMap::new(), ..record.clone() };
            record.kinds.keys().map(move |kind| (kind.clone(), alone.clone()))
        });
        results.datasets = kinds.collect();
        for seed in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds) {
            seed.tasks.retain(|task, _| task == category);
        }
        // A sweep may be over categories.
        results.cells.retain(|cell| cell.seeds.iter().any(|seed| !seed.tasks.is_empty()));
        results
    }

    /// The tasks whose maps can be shown.
    pub fn mapped(&self) -> Vec<Mapped<'_>> {
        if self.has_categories() {
            let tasks = self.datasets.iter().map(|(name, record)| {
                let sets = record.kinds.iter().map(|(name, kind)| (name.as_str(), kind.content()));
                Mapped { name, sets: sets.collect(), note: record.note.as_deref() }
            });
            return tasks.collect();
        }
        let Some((id, record)) = self.datasets.first() else { return Vec::new() };
        let of = |record: &DatasetRecord| content(&record.sha256, record.masks_sha256.as_deref());
        let sets = self.datasets.iter().map(|(name, record)| (name.as_str(), of(record)));
        vec![Mapped { name: id, sets: sets.collect(), note: record.note.as_deref() }]
    }

    /// The names of the methods, in the order of the file; with those that could not be fitted, which come last.
    pub fn methods(&self) -> IndexSet<&str> {
        let scored = self.tasks().flat_map(|task| &task.methods).filter(|(_, method)| !method.control);
        scored
            .map(|(name, _)| name)
            .chain(self.tasks().flat_map(|task| task.unfit.keys()))
            .map(String::as_str)
            .collect()
    }

    /// The names of the control rows.
    pub fn controls(&self) -> IndexSet<&str> {
        let controls = self.tasks().flat_map(|task| &task.methods).filter(|(_, method)| method.control);
        controls.map(|(name, _)| name.as_str()).collect()
    }

    /// Whether these are the results of `experiment`, whatever its title, tables and figures are now.
    pub fn are_of(&self, experiment: &Experiment) -> Result<bool> {
        let without_presentation = |mut config: Value| {
            if let Some(config) = config.as_object_mut() {
                for key in ["title", "about", "tables", "figures"] {
                    config.remove(key);
                }
            }
            config
        };
        Ok(without_presentation(self.config.clone()) == without_presentation(to_json(experiment)?))
    }

    /// Reads `results.json` from a folder, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of another version or is something else.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("results.json");
        if !path.exists() {
            return Ok(None);
        }
        Self::read_file(&path).map(Some)
    }

    /// Reads a file of results.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of another version or is something else.
    pub fn read_file(path: &Path) -> Result<Self> {
        // The schema first: what else a file of another version holds is unknown.
        let value: Value = read_json(path)?;
        let value = match value.get("schema").map(Value::as_u64) {
            Some(Some(schema)) if schema == u64::from(SCHEMA) => value,
            Some(Some(1)) => schema_1::converted(value),
            Some(Some(schema)) => {
                let message = format!("{} is of schema {schema}, this program reads 1 and {SCHEMA}", path.display());
                return Err(Error::input(message).hint(
                    "use the oodkit that wrote it, or run the experiment again: networks and scores are used again",
                ));
            }
            _ => return Err(no_record(path, "missing field `schema`")),
        };
        serde_json::from_value(value).map_err(|error| no_record(path, error))
    }
}

/// A task whose maps can be shown.
#[derive(Debug)]
pub struct Mapped<'a> {
    /// The task's name.
    pub name: &'a str,
    /// Its test sets, the normal one first, with what tells their images and masks from others.
    pub sets: Vec<(&'a str, String)>,
    /// What a reader must know of them.
    pub note: Option<&'a str>,
}

/// What a table's reader must know of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRecord {
    /// Train images used, for the ID set.
    pub train: Option<usize>,
    /// Train images in the complete set, if known.
    pub train_full: Option<usize>,
    /// Test images used.
    pub test: usize,
    /// Test images in the complete set, if known.
    pub test_full: Option<usize>,
    /// Such as `JPEG-recompressed`.
    pub note: Option<String>,
    /// SHA-256 of the test images as read.
    pub sha256: String,
    /// Test images of each class, in the classes' order; empty without labels, and in records that are older than this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_sizes: Vec<usize>,
    /// Names of the ID set's classes, where they have any, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Of an OOD set: which sets it is averaged with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Of a validation set: the set of whose images it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<String>,
    /// Of a set with masks: how many images are anomalous without a marked pixel, which leaves them out of pixel measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmarked: Option<usize>,
    /// Of a set with masks: their SHA-256 at the size that networks are fed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks_sha256: Option<String>,
    /// Of a category: its normal test images by its own name, and then each kind of anomaly. The counts above are of all of them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub kinds: IndexMap<String, KindRecord>,
}

/// The test images of a category that are of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindRecord {
    /// Images used.
    pub images: usize,
    /// Images there are, if known.
    pub full: Option<usize>,
    /// How many are anomalous without a marked pixel, which leaves them out of pixel measures; `None` without masks.
    pub unmarked: Option<usize>,
    /// SHA-256 of the images as read.
    pub sha256: String,
    /// SHA-256 of their masks at the size that networks are fed; `None` without masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks_sha256: Option<String>,
}

impl KindRecord {
    /// What tells images and masks from others.
    pub fn content(&self) -> String {
        content(&self.sha256, self.masks_sha256.as_deref())
    }
}

/// The digests of a set's images and masks in one.
pub(super) fn content(images: &str, masks: Option<&str>) -> String {
    format!("{images}{}", masks.unwrap_or_default())
}

/// What a table's reader must know of auxiliary outliers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutliersRecord {
    /// The set's name.
    pub name: String,
    /// Images used.
    pub images: usize,
    /// Train images of the complete set, if known.
    pub full: Option<usize>,
    /// Such as `JPEG-recompressed`.
    pub note: Option<String>,
    /// SHA-256 of the images as they were learned from: at the shape of the ID images.
    pub sha256: String,
}

/// One cell of the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// `weight=0.01`, or `default` without a sweep. Readable, unique, a valid file name.
    pub name: String,
    /// The swept paths and their values here; empty without a sweep.
    pub values: IndexMap<String, Value>,
    /// One per seed.
    pub seeds: Vec<SeedResult>,
}

/// One repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// By task, which has the name of its ID set.
    pub tasks: IndexMap<String, TaskResult>,
}

impl SeedResult {
    /// The task of an experiment that has one.
    pub fn task(&self) -> Option<&TaskResult> {
        self.tasks.values().next()
    }

    /// The measures of a method on one of [`Results::sets`]: an OOD set, or all anomalous images of a category.
    pub fn measured(&self, method: &str, set: &str) -> Option<&SetResult> {
        match self.tasks.get(set) {
            // An OOD set does not have the ID set's name, which a single task has.
            Some(category) => category.methods.get(method)?.sets.get(ALL_KINDS),
            None => self.task()?.methods.get(method)?.sets.get(set),
        }
    }
}

/// What was measured of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// By the experiment's network names.
    pub networks: IndexMap<String, NetworkResult>,
    /// By the experiment's method names.
    pub methods: IndexMap<String, MethodResult>,
    /// Methods of `detector: all` that have no scores, by name, and why: what the detector said.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub unfit: IndexMap<String, String>,
}

/// A trained network as this experiment used it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkResult {
    /// Where it is, relative to the runs root; of an ensemble, the first member.
    pub folder: PathBuf,
    /// Where the members of an ensemble are; the sums and means below are over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<PathBuf>,
    /// On the ID test images, by key: `accuracy`.
    pub measures: Measures,
    /// ID test images by class and the class they were taken for, of up to 100 classes; `None` in records that are older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
    /// Which views of each image these numbers are of; `None`: the image as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<Tta>,
    /// Optimiser steps of its own (without those of the network it started from); of an ensemble, their sum.
    pub steps: u64,
    /// Mean total loss over the last epoch; of an ensemble, the mean of theirs; `null` if it was not trained here.
    pub final_loss: Option<f64>,
    /// Seconds of training, its own, on whatever machine trained it; of an ensemble, their sum.
    pub train_seconds: f64,
    /// Weights and biases; of an ensemble, their sum.
    pub parameters: usize,
    /// What it was trained on; of an ensemble trained on several machines, all of them.
    pub environment: Environment,
}

/// A method's scores against each OOD set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodResult {
    /// The network it reads.
    pub network: String,
    /// By OOD set.
    pub sets: IndexMap<String, SetResult>,
    /// Score files (`.npy`, f32, one number per image) by set, the ID set included; relative to the runs root.
    pub scores: IndexMap<String, PathBuf>,
    /// By the share of ID test images, such as `0.95`, the score up to which an image must be accepted so that at least that
    /// share is ([`metrics::threshold`](crate::metrics::threshold)).
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub thresholds: IndexMap<String, f64>,
    /// Seconds to fit.
    pub fit_seconds: f64,
    /// What the detector says about its fit, such as how many neurons were constant; `None` if it has nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Value>,
    /// Seconds to score all sets, forward passes not included.
    pub score_seconds: f64,
    /// The detector and the settings that it scored with, all defaults filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<Value>,
    /// How they were chosen; `None` if they stand in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Whether it is a trivial statistic of the images, for tables with `controls`: it has no network and no score files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub control: bool,
}

impl MethodResult {
    /// A control row, of no set yet.
    pub(super) fn control() -> Self {
        Self {
            network: String::new(),
            sets: IndexMap::new(),
            scores: IndexMap::new(),
            thresholds: IndexMap::new(),
            fit_seconds: 0.0,
            fit: None,
            score_seconds: 0.0,
            detector: None,
            search: None,
            control: true,
        }
    }
}

/// Settings that were chosen on validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// What was best.
    pub by: By,
    /// The best, the first of equals.
    pub chosen: IndexMap<String, Value>,
    /// All that were tried, in order.
    pub grid: Vec<Combination>,
}

/// A combination of settings, and how it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combination {
    /// The settings.
    pub values: IndexMap<String, Value>,
    /// The mean over the validation OOD sets of [`Search::by`], a fraction of 1.
    pub mean: f64,
    /// By validation OOD set.
    pub ood: IndexMap<String, f64>,
    /// Seconds to fit and to score the validation sets.
    pub seconds: f64,
}

/// One OOD set against the ID test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetResult {
    /// On all images, by key.
    pub measures: Measures,
    /// 95 % intervals over test images, by key; if a table asks for them.
    #[serde(default, skip_serializing_if = "Intervals::is_empty")]
    pub intervals: Intervals,
    /// With the covariate-shifted ID images counted as ID, by key; if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_spectrum: Option<Measures>,
    /// Over random subsets, by key; if `evaluation.redraw` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redraw: Option<IndexMap<String, MeanStd>>,
}

/// What it ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// oodkit's version.
    pub oodkit: String,
    /// The commit it was built from, with `-dirty` if files had changed; `unknown` outside git.
    pub commit: String,
    /// `cpu (2 threads, AMD EPYC)`, `cuda:0 (NVIDIA H100)`.
    pub device: String,
}

impl Environment {
    /// Of what several together made: the different words of each, in order of first appearance.
    pub fn of<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let distinct = |of: fn(&Self) -> &str| all.clone().map(of).collect::<IndexSet<_>>();
        let joined = |of| distinct(of).into_iter().collect::<Vec<_>>().join(" and ");
        Self { oodkit: joined(|one| &one.oodkit), commit: joined(|one| &one.commit), device: joined(|one| &one.device) }
    }
}
