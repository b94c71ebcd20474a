//! A method's scores on image sets, kept on disk with what they cost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Error, Result, checksum,
    config::Method,
    detectors::{Bank, Scorer, Scores},
    digest,
    fs::remove_folder_if_there,
    metrics::files,
    run::{
        evaluation::Subject,
        execute::LoadedSet,
        plan::{short_hash, to_json},
        results::Environment,
        store::{read_json, write_json},
    },
};

/// Changes when a detector's scores change their meaning or their bits, so that stored ones of an earlier version are not taken for
/// new ones.
const SCORES_VERSION: u32 = 7;

/// What scoring with one detector cost, kept beside the scores. Seconds are the detector's own: of a forward pass that it shares, only
/// those that it looks at what comes of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoringRecord {
    /// What did it: another build each, if it was interrupted or sets were added.
    environments: Vec<Environment>,
    fit_seconds: f64,
    /// What the detector says about its fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fit: Option<serde_json::Value>,
    /// By score file.
    score_seconds: BTreeMap<String, f64>,
    /// SHA-256 of each score file; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sha256: BTreeMap<String, String>,
    /// SHA-256 of the weights that the scores are of, one a member; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weights: Vec<String>,
}

impl ScoringRecord {
    /// That of scores in this folder, an empty one where there are none, or scores of other weights.
    fn read(folder: &Path, weights: &[String]) -> Result<Self> {
        let path = folder.join("record.json");
        let record = if path.exists() { read_json(&path)? } else { Self::default() };
        let other = !record.weights.is_empty() && record.weights != weights;
        Ok(Self { weights: weights.to_vec(), ..if other { Self::default() } else { record } })
    }

    /// The seconds that the scores of this file took, if they are there.
    fn stored(&self, folder: &Path, file: &str) -> Option<f64> {
        self.score_seconds.get(file).copied().filter(|_| folder.join(file).exists())
    }

    /// The scores in this file; `None` if it is not as it was written, which is said.
    fn scores(&self, path: &Path, file: &str, images: usize) -> Result<Option<Scores>> {
        let again = |reason: &str| {
            crate::say(format!("{} is made again: {reason}", path.display()));
            Ok(None)
        };
        match self.sha256.get(file) {
            Some(sha256) if *sha256 != digest::of_file(path)? => return again(checksum::BROKEN),
            Some(_) => {}
            None => checksum::note_missing(path),
        }
        let scores: Vec<f32> = files::read_scores(path)?.into_iter().map(|score| score as f32).collect();
        if scores.len() != images {
            return again(&format!("it holds {} scores for {images} images", scores.len()));
        }
        Ok(Some(Scores::new(scores)?))
    }
}

/// A method's scores on some sets.
#[derive(Default)]
pub(super) struct Scored {
    pub(super) scores: Vec<Scores>,
    /// Score files by set, relative to the runs root.
    pub(super) paths: IndexMap<String, PathBuf>,
    pub(super) fit_seconds: f64,
    /// As [`ScoringRecord::fit`].
    pub(super) fit: Option<serde_json::Value>,
    pub(super) score_seconds: f64,
    /// Where the scores are.
    pub(super) folder: PathBuf,
    /// What made them, if that was in this run.
    pub(super) scorer: Option<Box<dyn Scorer>>,
    /// As [`ScoringRecord::environments`].
    pub(super) environments: Vec<Environment>,
}

/// A method on a network.
pub(super) struct Place {
    method: String,
    network: String,
    /// Of its scores, relative to the runs root.
    pub(super) folder: PathBuf,
    /// SHA-256 of the weights' files, one a member.
    weights: Vec<String>,
}

impl Place {
    pub(super) fn of(method: &Method, subject: &Subject<'_>) -> Result<Self> {
        let detector = json!([SCORES_VERSION, subject.batch_size, to_json(&method.detector)?]);
        let name = format!("{}-{}", method.detector.name(), short_hash(&detector));
        Ok(Self {
            method: method.name.clone(),
            network: subject.members[0].trained.folder.display().to_string(),
            folder: subject.folder.join("scores").join(name),
            weights: subject.members.iter().map(|member| member.trained.sha256.clone()).collect(),
        })
    }

    /// The error of a detector with the method and the network where it happened.
    pub(super) fn name(&self, error: Error) -> Error {
        let place = format!("method {} on the network {}", self.method, self.network);
        match error {
            cause @ (Error::Failed(_) | Error::Input { .. }) => Error::Unfit { place, cause: cause.into() },
            other => other,
        }
    }

    /// Whether all sets are scored.
    pub(super) fn is_complete(&self, root: &Path, sets: &[Arc<LoadedSet>]) -> Result<bool> {
        let folder = root.join(&self.folder);
        let record = ScoringRecord::read(&folder, &self.weights)?;
        Ok(sets.iter().all(|set| record.stored(&folder, &file_of(set)).is_some()))
    }
}

/// How to score with one method.
pub(super) struct Scoring<'a> {
    /// The runs root.
    pub(super) root: &'a Path,
    pub(super) place: &'a Place,
    pub(super) environment: &'a Environment,
    /// How long so far it has been others' forward passes that it waited for.
    pub(super) looked: &'a dyn Fn() -> Duration,
}

impl Scoring<'_> {
    /// Scores on these sets, from disk if they were computed before; `fit` is called once if some were not.
    ///
    /// # Errors
    /// Those of `fit`, of scoring, and of the files.
    pub(super) fn score(
        &self,
        sets: &[Arc<LoadedSet>],
        banks: &[Bank],
        mut fit: impl FnMut() -> Result<Box<dyn Scorer>>,
    ) -> Result<Scored> {
        let folder = self.root.join(&self.place.folder);
        let mut record = ScoringRecord::read(&folder, &self.place.weights)?;
        let mut scored = Scored { folder: folder.clone(), ..Scored::default() };
        for (set, bank) in sets.iter().zip(banks) {
            let file = file_of(set);
            let path = folder.join(&file);
            scored.paths.insert(set.images.name.clone(), self.place.folder.join(&file));
            if let Some(seconds) = record.stored(&folder, &file)
                && let Some(scores) = record.scores(&path, &file, set.images.len())?
            {
                scored.score_seconds += seconds;
                scored.scores.push(scores);
                continue;
            }
            let scorer = match &scored.scorer {
                Some(scorer) => scorer,
                None => {
                    let (fitted, seconds) = self.timed(&mut fit)?;
                    (record.fit_seconds, record.fit) = (seconds, fitted.record());
                    scored.scorer.insert(fitted)
                }
            };
            let (scores, seconds) = self.timed(|| scorer.score(bank).map_err(|error| self.place.name(error)))?;
            files::write_npy(&path, scores.as_slice())?;
            record.sha256.insert(file.clone(), digest::of_file(&path)?);
            record.score_seconds.insert(file, seconds);
            if !record.environments.contains(self.environment) {
                record.environments.push(self.environment.clone());
            }
            write_json(&folder.join("record.json"), &record)?;
            scored.score_seconds += seconds;
            scored.scores.push(scores);
        }
        // What a fit left for an interrupted run to go on from is of no use once everything is scored.
        remove_folder_if_there(&folder.join("fit"))?;
        (scored.fit_seconds, scored.fit) = (record.fit_seconds, record.fit);
        scored.environments = record.environments;
        Ok(scored)
    }

    fn timed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (begun, before) = (Instant::now(), (self.looked)());
        let result = work()?;
        let waited = (self.looked)() - before;
        Ok((result, begun.elapsed().saturating_sub(waited).as_secs_f64()))
    }
}

/// The name of a set's scores.
fn file_of(set: &LoadedSet) -> String {
    format!("{}.npy", set.file_stem())
}
