//! The files that a split is read from, and what they hold: what tells one data set from another wherever it lies.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Split, check_split, format, formats::Site, listing, may_be_stored, store};
use crate::{Error, Result, data::Dataset, digest};

/// Files hashed together. Ours: between two steps of a progress bar.
const TOGETHER: usize = 256;

/// The files of a split, by names that do not depend on where the set lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Names and paths, in the order that they are read in.
    files: Vec<(String, PathBuf)>,
    /// The classes' folders: an empty one counts.
    classes: Vec<String>,
}

impl Contents {
    /// Of a split, without reading it; of images in folders and lists, every image that a limit might choose.
    ///
    /// # Errors
    /// Those of [`super::check`], and of listing folders.
    pub(crate) fn of(dataset: &Dataset, split: Split, root: &Path) -> Result<Self> {
        let (layout, site) = (format(dataset)?.layout(), Site::of(dataset, root));
        let stored = store::path(&site.folder, split);
        if may_be_stored(dataset) && stored.is_file() {
            return Ok(Self::named(&site.folder, vec![stored]));
        }
        check_split(&site, split)?;
        layout.contents(&site, split)
    }

    /// These files. Some formats lie in the folder or in one below it, which makes no difference.
    pub(super) fn of_files(files: Vec<PathBuf>) -> Self {
        let name = |path: PathBuf| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path);
        Self { files: files.into_iter().map(name).collect(), classes: Vec::new() }
    }

    /// The images below `part` of a set's folder: of all classes, and of all parts where the configuration divides them. What it says
    /// stands beside the digest.
    pub(super) fn of_folder(site: &Site, part: &Path, classes: Vec<String>) -> Result<Self> {
        let (images, _) = listing::images_below(site.dataset, &site.folder, part)?;
        Ok(Self { classes, ..Self::named(part, images) })
    }

    /// These images below a set's folder.
    pub(super) fn of_images(folder: &Path, images: Vec<PathBuf>) -> Self {
        Self::named(folder, images)
    }

    /// The images of a list below `place`, and the list.
    pub(super) fn of_list(place: &Path, images: Vec<PathBuf>, list: PathBuf) -> Self {
        let mut contents = Self::named(place, images);
        contents.files.push(("list".to_owned(), list));
        contents
    }

    fn named(place: &Path, files: Vec<PathBuf>) -> Self {
        Self { files: files.into_iter().map(|path| (listing::name(place, &path), path)).collect(), classes: Vec::new() }
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// What the files look like without reading them: while that is the same, so is [`Contents::sha256`].
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is gone.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        let known: Vec<_> = self
            .files
            .par_iter()
            .map(|(name, path)| {
                let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
                let changed = metadata.modified().map_err(Error::io("read", path))?;
                let changed = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Ok((name, metadata.len(), changed))
            })
            .collect::<Result<_>>()?;
        let mut hash = Sha256::new_with_prefix(format!("{:?}\n", self.classes));
        for (name, length, changed) in &known {
            hash.update(format!("{name:?} {length} {}\n", changed.as_nanos()));
        }
        let newest = known.iter().map(|(_, _, changed)| *changed).max().unwrap_or_default();
        Ok(Stamp { sha256: digest::hex(&hash.finalize()), newest })
    }

    /// SHA-256 of the files' names and of what they hold; `done` is told how many files were read.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Input`] for one that is no regular file.
    pub(crate) fn sha256(&self, mut done: impl FnMut(usize) -> Result<()>) -> Result<String> {
        let mut hash = Sha256::new_with_prefix(format!("{:?}\n", self.classes));
        for (chunk, files) in self.files.chunks(TOGETHER).enumerate() {
            let digests: Vec<String> =
                files.par_iter().map(|(_, path)| digest::of_file(path)).collect::<Result<_>>()?;
            for ((name, _), digest) in files.iter().zip(digests) {
                hash.update(format!("{name:?} {digest}\n"));
            }
            done(chunk * TOGETHER + files.len())?;
        }
        Ok(digest::hex(&hash.finalize()))
    }
}

/// What a look at files without reading them tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of names, sizes and times.
    pub(crate) sha256: String,
    /// When the newest file was changed, since 1970.
    pub(crate) newest: std::time::Duration,
}
