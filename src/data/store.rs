//! Downloaded data sets on disk: one safetensors file per split, `<folder>/train.safetensors` and `test.safetensors`.
//!
//! Tensors: `images` (N, C, H, W) u8 and, for labelled sets, `labels` (N) u32 (i64 is read as well). The metadata say what
//! it is (`name`, `split`, `classes`, and `full_size` and `note` if there are any), where it came from (`source`), that
//! nothing has changed since (`sha256` of the images' bytes followed by the labels' as stored), and the format's `version`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::{ImageSet, Split};
use crate::{Error, Result, digest::hex, fs::read_if_there, tensor_file};

/// The version of the format; files of another version are refused.
const VERSION: &str = "1";

/// Where a split of the set in `folder` is stored.
pub fn path(folder: &Path, split: Split) -> PathBuf {
    folder.join(format!("{split}.safetensors"))
}

/// Reads a split of the set `name` from `folder`; `None` if it is not stored there.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Input`], naming the file and the field, if it is damaged, of another
/// version, another set's, or its tensors are not images and labels.
pub fn read(folder: &Path, name: &str, split: Split) -> Result<Option<ImageSet>> {
    let path = path(folder, split);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let set = parse(&bytes, name, split).map_err(|reason| {
        Error::input(format!("cannot use the stored data set {}: {reason}", path.display()))
            .hint(format!("delete the file and fetch the set again: make data set={name}"))
    })?;
    Ok(Some(set))
}

/// Writes `set` to its split's file in `folder` (created if missing), all or nothing; `source` says where it came from.
///
/// # Errors
/// [`Error::Failed`] if the set contradicts itself, [`Error::Io`] if the file cannot be written.
pub fn write(folder: &Path, set: &ImageSet, source: &str) -> Result<()> {
    let count = set.len();
    let label_count = set.labels.as_ref().map_or(count, Vec::len);
    if label_count != count {
        return Err(Error::Failed(format!("{count} images of \"{}\" have {label_count} labels", set.name)));
    }
    let pixels = match set.pixels.held() {
        Some(bytes) => Cow::Borrowed(bytes),
        None => Cow::Owned(set.read(&(0..count).collect::<Vec<_>>())?),
    };
    let labels: Option<Vec<u8>> =
        set.labels.as_ref().map(|labels| labels.iter().flat_map(|label| label.to_le_bytes()).collect());
    let mut metadata: BTreeMap<String, String> = [
        ("version", VERSION.to_owned()),
        ("name", set.name.clone()),
        ("split", set.split.to_string()),
        ("classes", set.classes.to_string()),
        ("source", source.to_owned()),
        ("sha256", digest(&pixels, labels.as_deref().unwrap_or_default())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    metadata.extend(set.full_size.map(|size| ("full_size".to_owned(), size.to_string())));
    metadata.extend(set.note.clone().map(|note| ("note".to_owned(), note)));
    let (images_shape, labels_shape) = ([count, set.channels, set.height, set.width], [count]);
    // Labels first: four bytes wide, they would not be aligned after an odd number of pixels.
    let mut entries = Vec::new();
    if let Some(bytes) = &labels {
        entries.push(tensor_file::Entry { name: "labels", dtype: Dtype::U32, shape: &labels_shape, bytes });
    }
    entries.push(tensor_file::Entry { name: "images", dtype: Dtype::U8, shape: &images_shape, bytes: &pixels });
    tensor_file::write(&path(folder, set.split), &entries, &metadata)
}

/// SHA-256 of both, in hexadecimal digits.
fn digest(images: &[u8], labels: &[u8]) -> String {
    hex(&Sha256::new().chain_update(images).chain_update(labels).finalize())
}

/// The images in the bytes of a file; an error names the field that is wrong.
fn parse(bytes: &[u8], name: &str, split: Split) -> Result<ImageSet, String> {
    // Checks that all sizes fit the file, so nothing below can ask for more memory than the file has bytes.
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |key: &str| metadata.get(key).map(String::as_str).ok_or_else(|| format!("{key}: missing"));
    let number = |key: &str| -> Result<Option<usize>, String> {
        let Some(text) = metadata.get(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{key}: {text:?} is no number"))
    };
    for (key, wanted) in [("version", VERSION), ("name", name), ("split", split.name())] {
        let found = field(key)?;
        if found != wanted {
            return Err(format!("{key}: {found:?} where {wanted:?} is wanted"));
        }
    }
    let classes = number("classes")?.ok_or("classes: missing")?;
    let images = file.tensor("images").map_err(|_| "images: missing")?;
    let [count, channels, height, width] = *images.shape() else {
        return Err(format!("images: {:?} where (N, C, H, W) is wanted", images.shape()));
    };
    if images.dtype() != Dtype::U8 || !matches!(channels, 1 | 3) || count == 0 || height == 0 || width == 0 {
        let (dtype, shape) = (images.dtype(), images.shape());
        return Err(format!("images: {dtype:?} {shape:?} where u8 (N, 1 or 3, H, W) is wanted"));
    }
    let (labels, label_bytes) = match file.tensor("labels") {
        Err(_) if classes == 0 => (None, Default::default()),
        Err(_) => return Err(format!("labels: missing in a set of {classes} classes")),
        Ok(found) if found.shape() != [count] => {
            return Err(format!("labels: {:?} for {count} images", found.shape()));
        }
        Ok(found) => (Some(labels(found.dtype(), found.data(), classes)?), found.data()),
    };
    if field("sha256")? != digest(images.data(), label_bytes) {
        return Err("sha256: its images or labels have changed since it was written".into());
    }
    let (full_size, note, pixels) =
        (number("full_size")?, metadata.get("note").cloned(), images.data().to_vec().into());
    Ok(ImageSet {
        name: name.into(),
        split,
        channels,
        height,
        width,
        pixels,
        labels,
        classes,
        full_size,
        files: None,
        masks: None,
        note,
    })
}

/// Labels of either type, each checked to be one of `classes`.
fn labels(dtype: Dtype, bytes: &[u8], classes: usize) -> Result<Vec<u32>, String> {
    let values: Vec<i64> = match dtype {
        Dtype::U32 => bytes.as_chunks().0.iter().map(|bytes| i64::from(u32::from_le_bytes(*bytes))).collect(),
        Dtype::I64 => bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        other => return Err(format!("labels: {other:?} where u32 or i64 is wanted")),
    };
    let checked = values.iter().enumerate().map(|(image, label)| {
        u32::try_from(*label)
            .ok()
            .filter(|label| (*label as usize) < classes)
            .ok_or_else(|| format!("labels: {label} of image {image} in a set of {classes} classes"))
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        ImageSet {
            name: "small".into(),
            split: Split::Test,
            channels: 3,
            height: 2,
            width: 3,
            pixels: (0..54).collect(),
            labels: Some(vec![0, 6, 2]),
            classes: 7,
            full_size: Some(10),
            files: None,
            masks: None,
            note: Some("for a test".into()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let unlabelled = ImageSet { labels: None, classes: 0, full_size: None, note: None, ..set() };
        for set in [set(), unlabelled] {
            write(folder.path(), &set, "a test").unwrap();
            assert_eq!(read(folder.path(), "small", Split::Test).unwrap(), Some(set));
        }
        assert_eq!(read(folder.path(), "small", Split::Train).unwrap(), None);
    }

    #[test]
    fn a_set_that_contradicts_itself_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        for set in [ImageSet { labels: Some(vec![0]), ..set() }, ImageSet { pixels: vec![0; 55].into(), ..set() }] {
            assert!(matches!(write(folder.path(), &set, ""), Err(Error::Failed(_))));
        }
        assert!(!path(folder.path(), Split::Test).exists());
    }

    #[test]
    fn labels_may_be_stored_as_i64() {
        let bytes: Vec<u8> = [3_i64, 0].iter().flat_map(|label| label.to_le_bytes()).collect();
        assert_eq!(labels(Dtype::I64, &bytes, 4).unwrap(), [3, 0]);
        assert_eq!(labels(Dtype::I64, &bytes, 3).unwrap_err(), "labels: 3 of image 0 in a set of 3 classes");
        let negative = (-1_i64).to_le_bytes();
        assert_eq!(labels(Dtype::I64, &negative, 3).unwrap_err(), "labels: -1 of image 0 in a set of 3 classes");
    }

    /// A file with this header and so many bytes of zeros.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn damaged_and_lying_files_are_refused_with_the_field() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &set(), "a test").unwrap();
        let path = path(folder.path(), Split::Test);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let metadata = r#""__metadata__":{"version":"1","name":"small","split":"test","classes":"2"}"#;
        let tensor = |name: &str, dtype: &str, shape: &str, start: usize, end: usize| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
        };
        let with = |tensors: &[String], data| file(&format!("{{{metadata},{}}}", tensors.join(",")), data);
        let images = tensor("images", "U8", "[1,1,2,2]", 0, 4);
        for (bytes, reason) in [
            (whole[..5].to_vec(), "header too small"),
            (whole[..whole.len() - 1].to_vec(), "file not fully covered"),
            (flipped, "sha256: its images or labels have changed since it was written"),
            (file("{}", 0), "version: missing"),
            (file("not JSON", 0), "invalid JSON in header"),
            ((u64::MAX / 2).to_le_bytes().to_vec(), "header too large"),
            (
                // 20-odd bytes of data that claim a million million images.
                with(&[tensor("images", "U8", "[1000000000000,1,1,1]", 0, 1_000_000_000_000)], 4),
                "file not fully covered",
            ),
            (with(&[tensor("images", "U8", "[4]", 0, 4)], 4), "images: [4] where (N, C, H, W) is wanted"),
            (with(&[tensor("images", "U8", "[1,2,2,1]", 0, 4)], 4), "images: U8 [1, 2, 2, 1] where u8 (N, 1 or 3"),
            (with(&[tensor("images", "F32", "[1,1,1,1]", 0, 4)], 4), "images: F32 [1, 1, 1, 1] where u8"),
            (with(&[tensor("images", "U8", "[0,1,2,2]", 0, 0)], 0), "images: U8 [0, 1, 2, 2] where u8"),
            (with(std::slice::from_ref(&images), 4), "labels: missing in a set of 2 classes"),
            (with(&[images.clone(), tensor("labels", "U32", "[2]", 4, 12)], 12), "labels: [2] for 1 images"),
            (with(&[images, tensor("labels", "F32", "[1]", 4, 8)], 8), "labels: F32 where u32 or i64 is wanted"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let message = read(folder.path(), "small", Split::Test).unwrap_err().to_string();
            assert!(message.contains(&format!("{}: ", path.display())) && message.contains(reason), "{message}");
        }
        std::fs::write(&path, whole).unwrap();
        let message = read(folder.path(), "large", Split::Test).unwrap_err().to_string();
        assert!(message.ends_with("name: \"small\" where \"large\" is wanted"), "{message}");
    }
}
