//! CIFAR-10 and CIFAR-100 as their authors give them: the binary versions, and those for Python.
//!
//! A binary file is records of labels (CIFAR-10: one byte; CIFAR-100: coarse, fine) and 3072 bytes, the planes red, green, blue of
//! 32×32 (Krizhevsky: the CIFAR home page). torchvision reads the Python versions: pickles of a dictionary with `data`, a NumPy
//! array (N, 3072) of the same planes, and `labels` or `fine_labels`. They are read as data; nothing in them is run.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{Layout, Paint, Painter, Site, Wanted, splits};
use crate::{
    Result,
    data::{ImageSet, Split, damaged, synthetic::save},
    fs::read_regular,
    pickle::{Pickle, Value},
};

/// Bytes of an image.
const IMAGE: usize = 3 * 32 * 32;
/// Most bytes of a file. Ours: 1 GiB, thirty times that of a CIFAR-10 file.
const MAX_BYTES: u64 = 1 << 30;

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

    /// Where the labels are in a pickle.
    fn key(self) -> &'static str {
        match self {
            Self::Cifar10 => "labels",
            Self::Cifar100 => "fine_labels",
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// The folders inside the official archives: the binary one, and that for Python.
    fn archives(self) -> [&'static str; 2] {
        match self {
            Self::Cifar10 => ["cifar-10-batches-bin", "cifar-10-batches-py"],
            Self::Cifar100 => ["cifar-100-binary", "cifar-100-python"],
        }
    }

    fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Cifar10, Split::Train) => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            (Self::Cifar10, Split::Test) => &["test_batch.bin"],
            (Self::Cifar100, Split::Train) => &["train.bin"],
            (Self::Cifar100, Split::Test) => &["test.bin"],
            (_, Split::Val) => &["val.bin"],
        }
    }
}

impl Layout for Kind {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, split, *self)
    }

    fn read(&self, site: &Site, split: Split, _: &Wanted) -> Result<ImageSet> {
        read(&site.folder, split, *self)
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, 32, 32], classes: self.classes(), free: false }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            let files = self.files(split);
            let each = n.div_ceil(files.len());
            files.iter().enumerate().try_for_each(|(k, file)| {
                let mut records = Vec::new();
                for i in k * each..n.min((k + 1) * each) {
                    // CIFAR-100's coarse label comes first; it is not used.
                    records.extend((*self == Self::Cifar100).then_some(0));
                    records.push(painter.class(i) as u8);
                    records.extend(painter.image(i));
                }
                save(&folder.join(file), &records)
            })
        })
    }
}

/// Finds the files of a split, in the folder or in an archive's own folder inside it, or says which is missing. Binary files have
/// the extension `.bin`, pickles none.
fn locate(folder: &Path, split: Split, kind: Kind) -> Result<Vec<PathBuf>, String> {
    let [binary, python] = kind.archives();
    let within = |archive: &str| Some(folder.join(archive)).filter(|inner| inner.is_dir());
    let all = |folder: &Path, extension: bool| -> Result<Vec<PathBuf>, String> {
        let file = |file: &&str| {
            let name = if extension { file } else { file.trim_end_matches(".bin") };
            Some(folder.join(name)).filter(|path| path.is_file()).ok_or_else(|| name.to_owned())
        };
        kind.files(split).iter().map(file).collect()
    };
    let found = all(&within(binary).unwrap_or_else(|| folder.to_owned()), true);
    found.or_else(|missing| all(&within(python).unwrap_or_else(|| folder.to_owned()), false).map_err(|_| missing))
}

/// Reads a split.
fn read(folder: &Path, split: Split, kind: Kind) -> Result<ImageSet> {
    let files = locate(folder, split, kind).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in &files {
        let bytes = read_regular(path, MAX_BYTES)?;
        let read = match path.extension() {
            Some(_) => records(&bytes, kind),
            None => pickled(&bytes, kind),
        };
        let (images, classes) = read.map_err(|what| damaged(path, what))?;
        if let Some(image) = classes.iter().position(|label| *label as usize >= kind.classes()) {
            let what = format!("label {} of record {image} is not below {}", classes[image], kind.classes());
            return Err(damaged(path, what));
        }
        pixels.extend(images);
        labels.extend(classes);
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
        masks: None,
        note: None,
    })
}

/// The images and labels of a binary file.
fn records(bytes: &[u8], kind: Kind) -> Result<(Vec<u8>, Vec<u32>), String> {
    let record = kind.labels() + IMAGE;
    if !bytes.len().is_multiple_of(record) {
        return Err(format!("its {} bytes are not a whole number of records of {record} bytes", bytes.len()));
    }
    let (mut pixels, mut labels) = (Vec::with_capacity(bytes.len()), Vec::new());
    for record in bytes.chunks_exact(record) {
        let (label, image) = record.split_at(kind.labels());
        labels.push(u32::from(label[kind.labels() - 1]));
        pixels.extend_from_slice(image);
    }
    Ok((pixels, labels))
}

/// The images and labels of a pickle.
fn pickled(bytes: &[u8], kind: Kind) -> Result<(Vec<u8>, Vec<u32>), String> {
    let pickle = Pickle::parse(bytes)?;
    let Value::Dict(entries) = pickle.get(pickle.root()) else { return Err("a pickle of no dictionary".to_owned()) };
    let entry = |key: &str| {
        let found =
            entries.iter().find(|(known, _)| text_or_bytes(&pickle, *known, bytes).as_deref() == Some(key.as_bytes()));
        found.map(|(_, value)| *value).ok_or_else(|| format!("a pickle without `{key}`"))
    };
    let label = |id: &usize| {
        let label = pickle.size(*id).and_then(|label| u32::try_from(label).ok());
        label.ok_or_else(|| format!("`{}` holds what is no label", kind.key()))
    };
    let labels = pickle.items(entry(kind.key())?).ok_or_else(|| format!("`{}` is no list", kind.key()))?;
    let labels: Vec<u32> = labels.iter().map(label).collect::<Result<_, _>>()?;
    // An array is made empty and then given its state: version, shape, type, whether columns lie together, bytes.
    let data = entry("data")?;
    let state = pickle.built(data).and_then(|state| pickle.items(state)).unwrap_or_default();
    let &[_, shape, dtype, columns, data] = state else { return Err("`data` is no array".to_owned()) };
    let shape: Vec<_> = pickle.items(shape).unwrap_or_default().iter().map(|side| pickle.size(*side)).collect();
    let is_bytes = match pickle.get(dtype) {
        Value::Call(callable, arguments) => {
            let name =
                pickle.items(*arguments).and_then(|arguments| arguments.first()).and_then(|name| pickle.text(*name));
            pickle.global(*callable) == Some(("numpy", "dtype")) && name == Some("u1")
        }
        _ => false,
    };
    let data = text_or_bytes(&pickle, data, bytes).unwrap_or_default();
    if shape != [Some(labels.len()), Some(IMAGE)] || !is_bytes || data.len() != labels.len() * IMAGE {
        return Err(format!("`data` is not uint8 ({}, {IMAGE}), one row for each of `{}`", labels.len(), kind.key()));
    }
    let pixels = match pickle.get(columns) {
        Value::Bool(true) => {
            let images = labels.len();
            (0..data.len()).map(|at| data[at % IMAGE * images + at / IMAGE]).collect()
        }
        _ => data.to_vec(),
    };
    Ok((pixels, labels))
}

/// The bytes or the text at `id`. Python 3 writes bytes for Python 2 as `_codecs.encode(text, "latin1")`: a byte for each character.
fn text_or_bytes<'a>(pickle: &'a Pickle, id: usize, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if let Some(found) = pickle.bytes(id, bytes) {
        return Some(found.into());
    }
    let Value::Call(callable, arguments) = pickle.get(id) else { return None };
    if pickle.global(*callable) != Some(("_codecs", "encode")) {
        return None;
    }
    let &[text, encoding] = pickle.items(*arguments)? else { return None };
    let text = pickle.text(text).filter(|_| pickle.text(encoding) == Some("latin1"))?;
    text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
