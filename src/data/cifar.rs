//! The binary versions of CIFAR-10 and CIFAR-100.
//!
//! A file is records of labels (CIFAR-10: one byte; CIFAR-100: coarse, fine) and 3072 bytes, the planes red, green, blue of
//! 32×32 (Krizhevsky: the CIFAR home page).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ImageSet, Split, damaged};
use crate::{Error, Result};

/// Bytes of an image.
const IMAGE: usize = 3 * 32 * 32;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ten classes, one label.
    Cifar10,
    /// A hundred classes; the second label, the fine one, is used.
    Cifar100,
}

impl Kind {
    /// Label bytes of a record; the last is the one used.
    fn labels(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// The folder inside the official archive.
    fn archive(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    pub(super) fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Cifar10, Split::Train) => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            (Self::Cifar10, Split::Test) => &["test_batch.bin"],
            (Self::Cifar100, Split::Train) => &["train.bin"],
            (Self::Cifar100, Split::Test) => &["test.bin"],
        }
    }
}

/// Finds the files of a split, in the folder or in the archive's own folder inside it, or says which is missing.
pub(super) fn locate(folder: &Path, split: Split, kind: Kind) -> Result<Vec<PathBuf>, String> {
    let inner = folder.join(kind.archive());
    let folder = if inner.is_dir() { &inner } else { folder };
    kind.files(split)
        .iter()
        .map(|file| Some(folder.join(file)).filter(|path| path.is_file()).ok_or_else(|| (*file).to_owned()))
        .collect()
}

/// Reads a split.
pub(super) fn read(folder: &Path, split: Split, kind: Kind) -> Result<ImageSet> {
    let files = locate(folder, split, kind).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let record = kind.labels() + IMAGE;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in &files {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        if bytes.len() % record != 0 {
            let what = format!("its {} bytes are not a whole number of records of {record} bytes", bytes.len());
            return Err(damaged(path, what));
        }
        for (i, record) in bytes.chunks_exact(record).enumerate() {
            let (label, image) = record.split_at(kind.labels());
            let label = label[kind.labels() - 1];
            if usize::from(label) >= kind.classes() {
                return Err(damaged(path, format!("label {label} of record {i} is not below {}", kind.classes())));
            }
            labels.push(u32::from(label));
            pixels.extend_from_slice(image);
        }
    }
    Ok(ImageSet {
        name: String::new(),
        split,
        channels: 3,
        height: 32,
        width: 32,
        full_size: Some(labels.len()),
        pixels: pixels.into(),
        labels: Some(labels),
        classes: kind.classes(),
        files: None,
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the test file of `kind`.
    fn folder(kind: Kind, inner: &str, bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(inner)).unwrap();
        fs::write(folder.path().join(inner).join(kind.files(Split::Test)[0]), bytes).unwrap();
        folder
    }

    fn record(labels: &[u8]) -> Vec<u8> {
        labels.iter().copied().chain((0..IMAGE).map(|i| (i / 1024 * 100 + i % 1024 / 32) as u8)).collect()
    }

    #[test]
    fn reads_labels_and_planes() {
        let bytes = [record(&[3]), record(&[9])].concat();
        let set = read(folder(Kind::Cifar10, "", &bytes).path(), Split::Test, Kind::Cifar10).unwrap();
        assert_eq!((set.labels, set.classes, set.full_size), (Some(vec![3, 9]), 10, Some(2)));
        // Plane 1, row 2, any column.
        assert_eq!(set.pixels.held().unwrap()[IMAGE + 1024 + 2 * 32 + 5], 102);
        let bytes = record(&[19, 99]);
        let set = read(folder(Kind::Cifar100, "cifar-100-binary", &bytes).path(), Split::Test, Kind::Cifar100).unwrap();
        assert_eq!((set.labels, set.classes), (Some(vec![99]), 100));
    }

    #[test]
    fn malformed_files_are_named() {
        let error = |bytes: &[u8]| {
            let folder = folder(Kind::Cifar10, "", bytes);
            let message = read(folder.path(), Split::Test, Kind::Cifar10).unwrap_err().to_string();
            message.replace(&folder.path().display().to_string(), "FOLDER")
        };
        assert_eq!(
            error(&[0; 3074]),
            "FOLDER/test_batch.bin: its 3074 bytes are not a whole number of records of 3073 bytes"
        );
        assert_eq!(error(&record(&[10])), "FOLDER/test_batch.bin: label 10 of record 0 is not below 10");
    }
}
