//! PyTorch's zip archives (`.pth`, `.pt`; what `torch.save` writes since 1.6).
//!
//! An archive holds `<folder>/data.pkl`, the pickle that describes the tensors, and `<folder>/data/<key>`, the storages they
//! are views of. Nothing in it is compressed, so no entry is larger than the file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
};

use candle_core::Tensor;
use zip::ZipArchive;

use super::pth::{self, LARGEST_PICKLE};
use crate::pickle::Pickle;

/// The tensors of an archive by name; an error says what is wrong with it.
pub(super) fn read(file: File) -> Result<BTreeMap<String, Tensor>, String> {
    let mut archive = Archive::open(file)?;
    let pickle = Pickle::parse(&archive.entry("data.pkl", LARGEST_PICKLE)?)?;
    let length = archive.length;
    pth::tensors(&pickle, length, |key| archive.entry(&format!("data/{key}"), length))
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The archive's one folder, with its slash.
    folder: String,
    /// Bytes of the file, which no stored entry can exceed.
    length: u64,
}

impl Archive {
    fn open(file: File) -> Result<Self, String> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| format!("a broken zip archive: {error}"))?;
        let pickles: Vec<_> = zip
            .file_names()
            .filter_map(|name| name.ok()?.strip_suffix("data.pkl").map(str::to_owned))
            .filter(|folder| folder.is_empty() || folder.ends_with('/'))
            .collect();
        let [folder] = pickles.as_slice() else {
            return Err(format!("a zip archive with {} data.pkl, where PyTorch's have one", pickles.len()));
        };
        let folder = folder.clone();
        let mut archive = Self { zip, folder, length };
        if archive.zip.file_names().any(|name| name.is_ok_and(|name| name == format!("{}byteorder", archive.folder)))
            && archive.entry("byteorder", 16)? != b"little"
        {
            return Err("written on a big-endian machine".into());
        }
        Ok(archive)
    }

    /// The bytes of `<folder>/<name>`, at most `limit` of them.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let path = format!("{}{name}", self.folder);
        let entry = self.zip.by_name(&path).map_err(|error| format!("archive entry {path}: {error}"))?;
        let size = entry.size();
        if size > limit.min(self.length) {
            return Err(format!("archive entry {path} claims {size} bytes"));
        }
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(|error| format!("archive entry {path}: {error}"))?;
        if bytes.len() as u64 != size {
            return Err(format!("archive entry {path} has {} of its {size} bytes", bytes.len()));
        }
        Ok(bytes)
    }
}
