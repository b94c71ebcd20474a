//! What a split of a folder or a list has: which images, in which order, of which classes, before any is decoded.
//!
//! Images are listed in the order of their paths. Hidden files are passed over, files that are no images are counted. A symbolic
//! link inside the folder is refused unless the configuration says otherwise, so that a downloaded archive cannot make us read what is
//! elsewhere; the folder itself may be a link.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    ImageSet, Split, classes,
    files::{read_files, with_note},
    form::Wanted,
    links::Followed,
    picture,
};
use crate::{Error, Result, data::Dataset, printable};

/// Deepest nesting of folders. Ours.
const MAX_DEPTH: usize = 32;

/// The images of a split before they are read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// What messages name: a folder or a list.
    pub(super) place: PathBuf,
    /// Images' names are relative to it.
    pub(super) root: PathBuf,
    pub(super) files: Vec<PathBuf>,
    pub(super) labels: Option<Vec<u32>>,
    /// How many there are; 0 without labels.
    pub(super) classes: usize,
    /// The names of the classes, where they are folders.
    pub(super) names: Vec<String>,
    /// Files that are no images.
    pub(super) others: usize,
    pub(super) notes: Vec<String>,
}

impl Listing {
    /// Of a list: files below `root`, and labels below `classes`.
    pub(super) fn of_list(
        (list, root): (&Path, &Path),
        files: Vec<PathBuf>,
        labels: Option<Vec<u32>>,
        classes: usize,
    ) -> Self {
        Self { place: list.to_owned(), root: root.to_owned(), files, labels, classes, ..Self::default() }
    }

    /// Of images of one class, at a place in a folder, with how many other files are there.
    pub(super) fn of_one_class((place, root): (&Path, &Path), files: Vec<PathBuf>, class: &str, others: usize) -> Self {
        let labels = Some(vec![0; files.len()]);
        let (place, root, names) = (place.to_owned(), root.to_owned(), vec![class.to_owned()]);
        Self { place, root, files, labels, classes: 1, names, others, notes: Vec::new() }
    }

    /// The files, in the order that they are read in.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The labels, if there are any.
    pub(super) fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Only the images of the classes that are wanted, numbered in their order, of a set with `all` classes. Their names are
    /// numbers.
    pub(super) fn of_classes(mut self, dataset: &Dataset, all: usize) -> Result<Self> {
        if !classes::are_chosen(dataset) {
            return Ok(self);
        }
        let chosen = classes::Numbered::of(dataset, all)?;
        let Some(labels) = self.labels.take() else { return Err(classes::without_labels(dataset)) };
        let new: Vec<Option<u32>> = labels.iter().map(|label| chosen.renumbered(*label)).collect();
        let mut kept = new.iter().map(Option::is_some);
        self.files.retain(|_| kept.next() == Some(true));
        self.labels = Some(new.into_iter().flatten().collect());
        self.notes.extend(chosen.in_words());
        self.classes = chosen.names.len();
        self.names = chosen.names;
        Ok(self)
    }

    /// Only the images that the configuration gives to `split`, where it divides the set.
    pub(super) fn part(mut self, dataset: &Dataset, split: Split) -> Result<Self> {
        let Some(division) = &dataset.split else { return Ok(self) };
        let names: Vec<String> = self.files.iter().map(|file| name(&self.root, file)).collect();
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("{}: {} is listed twice", self.place.display(), printable(twice[0]));
            return Err(Error::input(message).hint("it could be learned from and tested on: list it once"));
        }
        let kept = division.of(&names, self.labels.as_deref(), split).map_err(|few| {
            let class =
                self.names.get(few.class as usize).map_or_else(|| few.class.to_string(), |name| printable(name));
            let images = if few.found == 1 { "1 image" } else { &format!("{} images", few.found) };
            let of = if self.labels.is_some() { format!("class \"{class}\" has") } else { "there is".to_owned() };
            let message = format!("{}: {of} {images}, and `split` needs {} of each", self.place.display(), few.needed);
            Error::input(message).hint("add images of this class, or leave it out with `held_out`")
        })?;
        let mut keep = kept.iter();
        self.files.retain(|_| keep.next() == Some(&true));
        if let Some(labels) = &mut self.labels {
            let mut keep = kept.iter();
            labels.retain(|_| keep.next() == Some(&true));
        }
        self.notes.push(division.in_words());
        Ok(self)
    }

    /// The images themselves, or a limited number of them.
    pub(super) fn read(self, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        let images = read_files((&self.place, &self.root), &self.files, self.labels, split, wanted)?;
        let mut images = ImageSet { classes: self.classes, ..images };
        let others = match self.others {
            0 => None,
            1 => Some("1 file that is no image left out".to_owned()),
            others => Some(format!("{others} files that are no images left out")),
        };
        for note in self.notes.into_iter().chain(others) {
            images = with_note(images, note);
        }
        Ok(images)
    }
}

/// The name of an image: its path from `root`, with `/`.
pub(super) fn name(root: &Path, file: &Path) -> String {
    let parts = file.strip_prefix(root).unwrap_or(file).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The pictures anywhere in a folder, in the order of their paths (that of a test part of class folders), and how many other
/// files are there. Hidden files are not counted.
///
/// # Errors
/// A folder that cannot be read, a symbolic link, or folders nested too deeply.
pub fn list_pictures(folder: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let mut found = Found::default();
    walk(folder, 0, &mut found)?;
    Ok((found.images, found.others))
}

/// The images anywhere below `place` in the `folder` of a set, and how many other files are there.
pub(super) fn images_below(dataset: &Dataset, folder: &Path, place: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let mut found = Found::of(dataset, folder)?;
    walk(place, 0, &mut found)?;
    Ok((found.images, found.others))
}

/// The folders in a folder, by name; links to folders are among them.
pub(super) fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    subfolders(folder, &mut Followed::anywhere())
}

/// The files below a folder.
#[derive(Default)]
pub(super) struct Found {
    pub(super) images: Vec<PathBuf>,
    /// Files that are no images.
    pub(super) others: usize,
    pub(super) followed: Followed,
}

impl Found {
    /// Nothing yet, of a set whose files are in `folder`.
    pub(super) fn of(dataset: &Dataset, folder: &Path) -> Result<Self> {
        Ok(Self { followed: Followed::of(dataset, folder)?, ..Self::default() })
    }
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folders in `folder`, by name.
pub(super) fn subfolders(folder: &Path, followed: &mut Followed) -> Result<Vec<PathBuf>> {
    let mut folders = entries(folder, followed)?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

/// What is in `folder`, by name, hidden files left out, links as `followed` says.
fn entries(folder: &Path, followed: &mut Followed) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(Error::io("read", &path))?.is_symlink() {
            followed.target(&path)?;
        }
        paths.push(path);
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Adds the files under `folder`, in the order of their paths.
pub(super) fn walk(folder: &Path, depth: usize, found: &mut Found) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::input(format!("{} is nested deeper than {MAX_DEPTH} folders", folder.display())));
    }
    for path in entries(folder, &mut found.followed)? {
        if path.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if !path.is_file() {
            return Err(Error::input(format!("{} is not a regular file", path.display())));
        } else if picture::is_named(&path) {
            found.images.push(path);
        } else {
            found.others += 1;
        }
    }
    Ok(())
}
