//! Where trained networks and their outputs are kept, and who may write there.
//!
//! What is read again is checked by a checksum, in the file itself or in the record beside it.
//!
//! ```text
//! runs/networks/<architecture>-<data>-<hash>/seed<k>/
//!     lock                     held by the process that works here
//!     checkpoint.safetensors   what is needed to continue; gone when training is done
//!     metrics.jsonl  events.out.tfevents.*
//!     model.safetensors
//!     network.json             written last: it exists if and only if the network is done
//!     outputs/<set>-<digest>.safetensors          logits and features
//!     scores/<detector>-<hash>/<set>-<digest>.npy
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use candle_core::Tensor;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Error, Result, checksum,
    data::Normalisation,
    digest,
    fs::{remove_if_there, write_atomic},
    nn::weights,
    run::{
        plan::Node,
        published::WeightsRecord,
        results::{Environment, OutliersRecord},
    },
    watch::interrupt::Interrupt,
};

/// The folder of everything produced.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Trained.
    Done,
    /// There is a checkpoint.
    Partial,
    /// Nothing there.
    Missing,
}

/// `network.json`: what was trained, from what, and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// [`NetworkRecord::SCHEMA`] when it was written.
    pub schema: u32,
    /// What the folder's hash was made from.
    pub identity: Value,
    /// The seed.
    pub seed: u64,
    /// Input channels, rows, columns, and classes.
    pub shape: [usize; 4],
    /// Optimiser steps of its own.
    pub steps: u64,
    /// Mean total loss over the last epoch; `null` if it was not trained here.
    pub final_loss: Option<f64>,
    /// Seconds of training.
    pub train_seconds: f64,
    /// Weights and biases.
    pub parameters: usize,
    /// Images it learned from; those held out for validation are not among them.
    pub train_images: usize,
    /// Train images of the complete set, if known.
    pub train_full: Option<usize>,
    /// SHA-256 of `model.safetensors`; `None` in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// SHA-256 of the train split as read, with those held out; `null` if it was not trained here.
    pub train_sha256: Option<String>,
    /// What its images are normalised by, where that was computed of the train images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<Normalisation>,
    /// The auxiliary outliers it learned from, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<OutliersRecord>,
    /// The published weights that it started from, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsRecord>,
    /// What it was trained on.
    pub environment: Environment,
}

impl NetworkRecord {
    /// The version of the format; records of another one are refused.
    pub const SCHEMA: u32 = 1;
}

impl Store {
    /// A store under `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The runs root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a node.
    pub fn folder(&self, node: &Node) -> PathBuf {
        self.root.join(node.folder())
    }

    /// How far a node is.
    pub fn progress(&self, node: &Node) -> Progress {
        let folder = self.folder(node);
        if folder.join("network.json").exists() {
            Progress::Done
        } else if folder.join("checkpoint.safetensors").exists() {
            Progress::Partial
        } else {
            Progress::Missing
        }
    }

    /// The record of a finished node.
    ///
    /// # Errors
    /// If the file is not such a record, is of another version, or belongs to another recipe.
    pub fn record(&self, node: &Node) -> Result<NetworkRecord> {
        let path = self.folder(node).join("network.json");
        let record: NetworkRecord = read_json(&path)?;
        if record.schema != NetworkRecord::SCHEMA || record.identity != node.identity {
            return Err(Error::input(format!("{} is the record of another network or version", path.display()))
                .hint(format!("remove the folder {} to train it anew", self.folder(node).display())));
        }
        Ok(record)
    }

    /// The weights of a finished node, and the SHA-256 of their file.
    ///
    /// # Errors
    /// If the file is damaged, or not the one that `record` tells of.
    pub fn model(&self, node: &Node, record: &NetworkRecord) -> Result<(BTreeMap<String, Tensor>, String)> {
        let path = self.folder(node).join("model.safetensors");
        let sha256 = digest::of_file(&path)?;
        let folder = path.with_file_name("");
        match &record.model_sha256 {
            Some(recorded) if *recorded != sha256 => {
                return Err(Error::input(format!(
                    "{} is not the file that was written after training: it was damaged or replaced",
                    path.display()
                ))
                .hint(format!("put it back, or remove the folder {} to train it anew", folder.display())));
            }
            Some(_) => {}
            None => checksum::note_missing(&path),
        }
        Ok((weights::read(&path)?, sha256))
    }

    /// Takes the node's folder for this process, waiting while another one holds it.
    ///
    /// The lock ends with the returned value or with the process, however that ends.
    pub fn lock(&self, node: &Node, interrupt: &Interrupt) -> Result<Lock> {
        lock(&self.folder(node), interrupt)
    }
}

/// Takes a folder, made if need be, for this process, waiting while another one holds it. What killed processes left half
/// written there is removed.
///
/// The lock ends with the returned value or with the process, however that ends.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written; [`Error::Interrupted`].
pub fn lock(folder: &Path, interrupt: &Interrupt) -> Result<Lock> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(&path)
        .map_err(Error::io("create", &path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => {
                remove_leftovers(folder)?;
                return Ok(Lock { _file: file });
            }
            Err(TryLockError::WouldBlock) => {
                if !told {
                    crate::say(format!("waiting: another process works on {}", folder.display()));
                    told = true;
                }
                interrupt.check()?;
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
    }
}

/// Removes the temporary files of processes that were killed while they held the folder.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        let name = entry.file_name();
        // Not through links, which may lead to files of others.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_leftovers(&path)?;
        } else if name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".tmp") {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Holds a node's folder.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The largest JSON file that is read. Ours: results of a thousand cells take a tenth.
const LARGEST_RECORD: u64 = 1 << 30;

/// Reads a JSON file that oodkit wrote. One without a checksum is read as well, which is said.
///
/// # Errors
/// [`Error::Input`] naming the file and the place if it is not what was written.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let mut bytes = crate::fs::read_regular(path, LARGEST_RECORD)?;
    let whole = checksum::take(&mut bytes);
    if whole == Some(false) {
        return Err(no_record(path, checksum::BROKEN));
    }
    let record = serde_json::from_slice(&bytes).map_err(|error| no_record(path, error))?;
    if whole.is_none() {
        checksum::note_missing(path);
    }
    Ok(record)
}

/// The error of a file that is not the record it stands for.
pub fn no_record(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::input(format!("{} is not a record that this version of oodkit wrote: {why}", path.display()))
        .hint("remove the file and run the experiment again: what is still good is not repeated")
}

/// Writes a record as JSON, with a checksum, whole or not at all.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("cannot serialise {}: {error}", path.display()));
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
    let rest = text.strip_prefix("{\n").ok_or_else(|| failed(&"it has no entries"))?;
    let mut bytes = format!("{{\n  \"{}\": \"{}\",\n{rest}\n", checksum::KEY, checksum::blank()).into_bytes();
    checksum::fill(&mut bytes, std::iter::empty());
    write_atomic(path, |file| file.write_all(&bytes))
}
