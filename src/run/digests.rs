//! Digests of what networks learn from, so that the same data are the same wherever they lie.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Result,
    data::{Dataset, Split, contents::Contents, folder},
    run::{
        plan::{short_hash, to_json},
        store::{read_json, write_json},
    },
    watch::progress,
};

/// A file may be changed twice within the grain of its time. Ours: that of FAT, the coarsest.
const GRAIN: Duration = Duration::from_secs(2);

/// A digest on disk, and what the files looked like when it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Names, sizes and times of the files.
    stamp: String,
    /// When the newest file was changed.
    newest: Duration,
    /// Of names and contents.
    sha256: String,
}

/// What is known of a train split.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Of names and contents.
    pub(super) sha256: String,
    /// When the newest file was changed, since 1970.
    pub(super) newest: Duration,
}

/// The digests of train splits, each made once and kept below the runs root.
#[derive(Debug)]
pub(super) struct Digests<'a> {
    /// The data root.
    data: &'a Path,
    /// The folder of records.
    kept: PathBuf,
    known: BTreeMap<PathBuf, Option<Known>>,
}

impl<'a> Digests<'a> {
    pub(super) fn new(data: &'a Path, runs: &Path) -> Self {
        Self { data, kept: runs.join("digests"), known: BTreeMap::new() }
    }

    /// Of a set's train split; `None` if its files are not there and never were, or cannot be listed, which a run tells.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub(super) fn of(&mut self, dataset: &Dataset) -> Result<Option<Known>> {
        let place = folder(dataset, self.data);
        let place = std::path::absolute(&place).unwrap_or(place);
        // Limits do not matter: the digest is of all files. The name does: one folder of others' may hold many sets.
        let what = json!([place.display().to_string(), to_json(&dataset.format)?, dataset.list, dataset.source()]);
        let record = self.kept.join(format!("{}.json", short_hash(&what)));
        if let Some(known) = self.known.get(&record) {
            return Ok(known.clone());
        }
        let known = self.look(dataset, &record)?;
        self.known.insert(record, known.clone());
        Ok(known)
    }

    fn look(&self, dataset: &Dataset, path: &Path) -> Result<Option<Known>> {
        // A record that cannot be read is made again.
        let record: Option<Record> = path.exists().then(|| read_json(path).ok()).flatten();
        let known = |record: &Record| Known { sha256: record.sha256.clone(), newest: record.newest };
        let Ok(contents) = Contents::of(dataset, Split::Train, self.data) else {
            return Ok(record.as_ref().map(known));
        };
        let stamp = contents.stamp()?;
        if let Some(record) = record.filter(|record| record.stamp == stamp.sha256) {
            return Ok(Some(known(&record)));
        }
        let mut bar = progress::Pass::new(&format!("reading {}", dataset.name), contents.len(), "files");
        let sha256 = contents.sha256(|files| {
            bar.set(files);
            Ok(())
        })?;
        let record = Record { stamp: stamp.sha256, newest: stamp.newest, sha256 };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if record.newest + GRAIN < now {
            // Where nothing can be written, it is made again the next time.
            let _ = write_json(path, &record);
        }
        Ok(Some(known(&record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic;

    #[test]
    fn sets_in_one_folder_are_told_from_each_other() {
        let place = tempfile::tempdir().unwrap();
        for (name, folder) in [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")] {
            synthetic::write(&Dataset::named(name), place.path(), 4, 0, 0).unwrap();
            std::fs::create_dir(place.path().join(folder)).unwrap();
            std::fs::rename(place.path().join(name), place.path().join(folder).join("raw")).unwrap();
        }
        let mut digests = Digests::new(place.path(), place.path());
        let mut of = |name: &str| {
            let dataset = Dataset { path: Some(place.path().to_owned()), ..Dataset::named(name) };
            digests.of(&dataset).unwrap().unwrap().sha256
        };
        assert_ne!(of("mnist"), of("fashion_mnist"));
    }
}
