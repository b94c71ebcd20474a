//! A method's scores on image sets, kept on disk with what they cost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Error, Result, checksum,
    config::Method,
    detectors::{Bank, Maps, Scorer, Scores},
    digest,
    fs::remove_folder_if_there,
    metrics::files,
    run::{
        plan::{short_hash, to_json},
        results::Environment,
        sets::LoadedSet,
        store::{read_json, write_json},
        subject::Subject,
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
    /// SHA-256 of each file of scores or maps; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sha256: BTreeMap<String, String>,
    /// SHA-256 of the weights that the scores are of, one a member, and one of a second network; empty in records of earlier versions.
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

    /// Whether these files were written and are there.
    fn is_stored(&self, folder: &Path, files: &Files) -> bool {
        self.score_seconds.contains_key(&files.scores) && files.all().all(|file| folder.join(file).exists())
    }

    /// The scores in these files, with the seconds that they took, if they were written; `None` too if one is gone or not as it was
    /// written, which is said.
    fn stored(&self, folder: &Path, files: &Files, images: usize) -> Result<Option<(Scores, f64)>> {
        let Some(seconds) = self.score_seconds.get(&files.scores) else { return Ok(None) };
        let again = |file: &str, reason: &str| {
            crate::say(format!("{} is made again: {reason}", folder.join(file).display()));
            Ok(None)
        };
        if let Some(gone) = files.all().find(|file| !folder.join(file).exists()) {
            return again(gone, "it is gone");
        }
        for file in files.all() {
            match self.sha256.get(file) {
                Some(sha256) if *sha256 != digest::of_file(&folder.join(file))? => {
                    return again(file, checksum::BROKEN);
                }
                Some(_) => {}
                None => checksum::note_missing(&folder.join(file)),
            }
        }
        let in_f32 = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
        let scores = in_f32(files::read_scores(&folder.join(&files.scores))?);
        if scores.len() != images {
            return again(&files.scores, &format!("it holds {} scores for {images} images", scores.len()));
        }
        let Some(file) = &files.maps else { return Ok(Some((Scores::new(scores)?, *seconds))) };
        match files::read_array(&folder.join(file))? {
            (shape, values) if shape.len() == 3 && shape[0] == images as u64 => {
                let maps = Maps::new([shape[1] as usize, shape[2] as usize], in_f32(values))?;
                Ok(Some((Scores::with_maps(scores, maps)?, *seconds)))
            }
            (shape, _) => again(file, &format!("its shape is {shape:?}, and there are {images} images")),
        }
    }
}

/// The names of a set's files in the folder of a method's scores.
struct Files {
    scores: String,
    /// (N, rows, columns) at the grid that they were computed on; of a detector without maps, none.
    maps: Option<String>,
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &String> {
        [&self.scores].into_iter().chain(&self.maps)
    }

    /// Writes what was scored and notes the files' digests. Each file is written whole or not at all.
    fn write(&self, folder: &Path, scores: &Scores, sha256: &mut BTreeMap<String, String>) -> Result<()> {
        files::write_npy(&folder.join(&self.scores), scores.as_slice())?;
        match (&self.maps, scores.maps()) {
            (Some(file), Some(maps)) => {
                let [rows, columns] = maps.grid();
                files::write_array(&folder.join(file), &[maps.images(), rows, columns], maps.values())?;
            }
            (None, None) => {}
            _ => return Err(Error::Failed("a detector gives maps and says that it gives none, or the reverse".into())),
        }
        for file in self.all() {
            sha256.insert(file.clone(), digest::of_file(&folder.join(file))?);
        }
        Ok(())
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
    /// SHA-256 of the weights' files, one a member, and one of a second network.
    weights: Vec<String>,
    /// Whether the detector gives maps.
    maps: bool,
}

impl Place {
    /// Of a method that a test makes up.
    #[cfg(test)]
    pub(super) fn named(method: &str, folder: &str) -> Self {
        Self {
            method: method.to_owned(),
            network: "net".to_owned(),
            folder: folder.into(),
            weights: vec!["w".to_owned()],
            maps: false,
        }
    }

    pub(super) fn of(method: &Method, subject: &Subject<'_>) -> Result<Self> {
        let mut settings = to_json(&method.detector)?;
        let second = subject.second(method)?;
        if let Some((key, member)) = second {
            // What it is, and not what it is called here.
            settings[method.detector.name()][key] = json!([member.node.hash, member.node.seed]);
        }
        let detector = json!([SCORES_VERSION, subject.batch_size, settings]);
        let name = format!("{}-{}", method.detector.name(), short_hash(&detector));
        Ok(Self {
            method: method.name.clone(),
            network: subject.members[0].trained.folder.display().to_string(),
            folder: subject.folder.join("scores").join(name),
            weights: {
                let members = subject.members.iter().chain(second.map(|(_, member)| member));
                members.map(|member| member.trained.sha256.clone()).collect()
            },
            maps: method.detector.post().is_some(),
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
        Ok(sets.iter().all(|set| record.is_stored(&folder, &self.files(set))))
    }

    /// The files of a set.
    fn files(&self, set: &LoadedSet) -> Files {
        let of = |kind: &str| format!("{}{kind}.npy", set.file_stem());
        Files { scores: of(""), maps: self.maps.then(|| of(".maps")) }
    }
}

/// The scores of a method that are on disk, and what they cost.
pub(super) struct Keeper<'a> {
    pub(super) place: &'a Place,
    environment: &'a Environment,
    folder: PathBuf,
    record: ScoringRecord,
}

impl<'a> Keeper<'a> {
    /// Below the runs root.
    ///
    /// # Errors
    /// Those of the record's file.
    pub(super) fn open(root: &Path, place: &'a Place, environment: &'a Environment) -> Result<Self> {
        let folder = root.join(&place.folder);
        let record = ScoringRecord::read(&folder, &place.weights)?;
        Ok(Self { place, environment, folder, record })
    }

    /// Whether a set's scores were written and are there. What is in the files is seen when they are read.
    pub(super) fn has(&self, set: &LoadedSet) -> bool {
        self.record.is_stored(&self.folder, &self.place.files(set))
    }

    /// A set's scores and the seconds that they took, if they were written and are what they were.
    ///
    /// # Errors
    /// Those of the files.
    pub(super) fn stored(&self, set: &LoadedSet) -> Result<Option<(Scores, f64)>> {
        self.record.stored(&self.folder, &self.place.files(set), set.images.len())
    }

    /// Notes what a fit says of itself, and its seconds.
    pub(super) fn fitted(&mut self, scorer: &dyn Scorer, seconds: f64) {
        (self.record.fit_seconds, self.record.fit) = (seconds, scorer.record());
    }

    /// Writes a set's scores.
    ///
    /// # Errors
    /// Those of the files.
    pub(super) fn keep(&mut self, set: &LoadedSet, scores: &Scores, seconds: f64) -> Result<()> {
        let files = self.place.files(set);
        files.write(&self.folder, scores, &mut self.record.sha256)?;
        self.record.score_seconds.insert(files.scores, seconds);
        if !self.record.environments.contains(self.environment) {
            self.record.environments.push(self.environment.clone());
        }
        write_json(&self.folder.join("record.json"), &self.record)
    }

    /// Scores on these sets, from disk if they were computed before; `fit` is called once if some were not.
    ///
    /// # Errors
    /// Those of `fit`, of scoring, and of the files.
    pub(super) fn score(
        mut self,
        sets: &[Arc<LoadedSet>],
        banks: &[Bank],
        mut fit: impl FnMut() -> Result<Box<dyn Scorer>>,
    ) -> Result<Scored> {
        let mut scored = Scored { folder: self.folder.clone(), ..Scored::default() };
        for (set, bank) in sets.iter().zip(banks) {
            let file = self.place.folder.join(self.place.files(set).scores);
            scored.paths.insert(set.images.name.clone(), file);
            if let Some((scores, seconds)) = self.stored(set)? {
                scored.score_seconds += seconds;
                scored.scores.push(scores);
                continue;
            }
            let scorer = match &scored.scorer {
                Some(scorer) => scorer,
                None => {
                    let begun = Instant::now();
                    let fitted = fit()?;
                    self.fitted(&*fitted, begun.elapsed().as_secs_f64());
                    scored.scorer.insert(fitted)
                }
            };
            let begun = Instant::now();
            let scores = scorer.score(bank).map_err(|error| self.place.name(error))?;
            let seconds = begun.elapsed().as_secs_f64();
            self.keep(set, &scores, seconds)?;
            scored.score_seconds += seconds;
            scored.scores.push(scores);
        }
        // What a fit left for an interrupted run to go on from is of no use once everything is scored.
        remove_folder_if_there(&self.folder.join("fit"))?;
        let record = self.record;
        (scored.fit_seconds, scored.fit, scored.environments) = (record.fit_seconds, record.fit, record.environments);
        Ok(scored)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        data::{ImageSet, Split},
        watch::interrupt::Interrupt,
    };

    /// Scores `images` images with maps of 2 × 3.
    struct Mapping;

    impl Scorer for Mapping {
        fn score(&self, bank: &Bank) -> Result<Scores> {
            let images = bank.logits.dim(0)?;
            let maps = Maps::new([2, 3], (0..6 * images).map(|at| at as f32 / 4.0).collect())?;
            Scores::with_maps((0..images).map(|image| image as f32).collect(), maps)
        }
    }

    /// Two sets of 4 images.
    fn sets() -> Vec<Arc<LoadedSet>> {
        let set = |name: &str| {
            let images =
                ImageSet::unlabelled(name, Split::Test, [1, 2, 2], name.bytes().cycle().take(16).collect::<Vec<u8>>());
            Arc::new(LoadedSet::of(images, &Interrupt::default()).unwrap())
        };
        vec![set("good"), set("bent.lead")]
    }

    #[test]
    fn maps_are_kept_beside_the_scores_and_made_again_where_they_are_not_what_they_were() {
        let root = tempfile::tempdir().unwrap();
        let place = |maps| Place {
            method: "PaDiM".into(),
            network: "net".into(),
            folder: "scores/mapping".into(),
            weights: vec!["w".into()],
            maps,
        };
        let [oodkit, commit, device] = ["0", "unknown", "cpu"].map(str::to_owned);
        let (sets, environment) = (sets(), Environment { oodkit, commit, device });
        let none = candle_core::Tensor::zeros((4, 2), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let bank = Bank::new(none.clone(), none);
        let banks = vec![bank; 2];
        let fitted = std::cell::Cell::new(0);
        let score = |maps| {
            let place = place(maps);
            let scored = Keeper::open(root.path(), &place, &environment)?.score(&sets, &banks, || {
                fitted.set(fitted.get() + 1);
                Ok(Box::new(Mapping))
            })?;
            assert!(place.is_complete(root.path(), &sets)?);
            Ok::<_, Error>(scored.scores)
        };
        let first = score(true).unwrap();
        assert_eq!(first[1].maps().unwrap().map(1), [1.5, 1.75, 2.0, 2.25, 2.5, 2.75]);
        assert_eq!((score(true).unwrap(), fitted.get()), (first.clone(), 1));

        let file = |kind: &str| root.path().join("scores/mapping").join(format!("{}{kind}.npy", sets[1].file_stem()));
        let bytes = fs::read(file(".maps")).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("'shape': (4, 2, 3), }"));
        let record = fs::read_to_string(root.path().join("scores/mapping/record.json")).unwrap();
        assert!(record.contains(&digest::of_file(&file(".maps")).unwrap()), "{record}");
        let damaged = [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat();
        for damage in [Some(&damaged[..]), Some(&bytes[..200]), None] {
            match damage {
                Some(damage) => fs::write(file(".maps"), damage).unwrap(),
                None => fs::remove_file(file(".maps")).unwrap(),
            }
            let before = fitted.get();
            assert_eq!((score(true).unwrap(), fitted.get()), (first.clone(), before + 1));
            assert_eq!(fs::read(file(".maps")).unwrap(), bytes);
        }

        // Scores of a detector that gave no maps yet.
        for set in &sets {
            fs::remove_file(root.path().join("scores/mapping").join(format!("{}.maps.npy", set.file_stem()))).unwrap();
        }
        let plain = Scores::new(first[0].as_slice().to_vec()).unwrap();
        assert_eq!(score(false).unwrap(), [plain.clone(), plain]);
    }
}
