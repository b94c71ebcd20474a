//! Test images that are train images as well, byte for byte.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{Split, format, formats::Site, listing::name};
use crate::{Error, Result, data::Dataset, digest};

/// The copies among the test images of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The set's name.
    pub set: String,
    /// How many there are, at least 1.
    pub count: usize,
    /// The first of them, and the train image that it is a copy of: paths below the folders of their sets.
    pub first: [String; 2],
}

/// An image file: its name, its path, its bytes.
struct File {
    name: String,
    path: PathBuf,
    bytes: u64,
}

/// The copies of `trained`'s train images among the test images of each set that has some. Only files that have the size of another are
/// read. Limits do not matter; images without files of their own are passed over, and so is what is not there.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn copies(trained: &Dataset, tested: &[&Dataset], root: &Path) -> Result<Vec<Copies>> {
    let train = files(trained, Split::Train, root)?;
    let tests = tested.iter().map(|set| files(set, Split::Test, root)).collect::<Result<Vec<_>>>()?;
    let sizes = |files: &[File]| files.iter().map(|file| file.bytes).collect::<BTreeSet<u64>>();
    let learned = sizes(&train);
    let both: BTreeSet<u64> =
        tests.iter().flat_map(|files| sizes(files)).filter(|size| learned.contains(size)).collect();
    let read = |files: Vec<File>| -> Result<Vec<(String, String)>> {
        let files = files.into_par_iter().filter(|file| both.contains(&file.bytes));
        files.map(|file| Ok((digest::of_file(&file.path)?, file.name))).collect()
    };
    let mut known: HashMap<String, String> = HashMap::new();
    for (digest, name) in read(train)? {
        known.entry(digest).or_insert(name);
    }
    let mut found = Vec::new();
    for (set, files) in tested.iter().zip(tests) {
        let read = read(files)?;
        let mut copies = read.iter().filter_map(|(digest, name)| Some([name, known.get(digest)?]));
        if let Some(first) = copies.next() {
            let (set, first) = (set.name.clone(), first.map(Clone::clone));
            found.push(Copies { set, count: 1 + copies.count(), first });
        }
    }
    Ok(found)
}

/// The files of a split; none where images have no files of their own, or are not there.
fn files(dataset: &Dataset, split: Split, root: &Path) -> Result<Vec<File>> {
    let (layout, site) = (format(dataset)?.layout(), Site::of(dataset, root));
    if !layout.is_apart() || layout.locate(&site, split).is_err() {
        return Ok(Vec::new());
    }
    let listing = layout.listing(&site, split)?;
    let file = |path: &PathBuf| {
        let bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
        Ok(File { name: name(&site.folder, path), path: path.clone(), bytes })
    };
    listing.files().iter().map(file).collect()
}
