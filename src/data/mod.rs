//! Data sets: bytes of one shape, held or decoded as they are needed, augmented in batch.
//!
//! A format is one file in `formats/`, which finds and reads a split as an [`ImageSet`]; [`registry`] lists the sets oodkit
//! knows by name; [`batches`] turns a set into shuffled, augmented train batches on a thread.

pub mod augment;
pub mod batches;
pub mod download;
pub mod enlarged;
pub mod made;
pub mod pseudo;
pub mod registry;
pub mod store;
pub mod synthetic;

mod ahead;
mod attack;
mod classes;
mod conform;
pub(crate) mod contents;
mod copies;
mod dataset;
mod division;
mod files;
mod form;
mod formats;
mod image_set;
mod links;
mod listing;
mod masks;
mod memory;
mod picture;
mod pixels;
mod resample;
mod rounds;
mod statistics;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use attack::Attack;
pub use conform::Frame;
pub use copies::{Copies, copies};
pub use dataset::Dataset;
pub use division::Division;
pub use files::{new_images, picture_size};
pub use form::{Brightness, Cut, Damaged, Fit, Links, Mode, Resize, Size, Uncropped};
pub(crate) use form::{BrightnessKey, brightness};
pub use formats::{Format, mvtec};
pub use image_set::{ImageSet, Normalisation};
pub use listing::list_pictures;
pub use masks::{MaskRule, Masks};
pub use memory::Memory;
pub(crate) use memory::size;
pub use picture::painted;
pub use pixels::Pixels;
pub use statistics::statistics;

use crate::{Error, Result, did_you_mean};
use form::{Form, Wanted};
use formats::Site;
use registry::{Known, known};

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What networks learn from.
    Train,
    /// What is reported on.
    Test,
    /// What settings may be chosen on: `val/` beside `train/` and `test/`.
    Val,
}

impl Split {
    /// `train`, `test` or `val`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::Val => "val",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The file that marks a folder whose images are synthetic: [`load`] says so in the set's note. It says how they were made.
const SYNTHETIC: &str = "SYNTHETIC";

/// Reads a split of `dataset` under the data root, at the shape of its files.
///
/// The set's `size` and `channels` (or its means) say what images are brought to; of what they leave open, all files must
/// agree. The data set's limit is applied: the first images of the
/// file or, of pictures in folders, the first of every folder in turn (in the order of their paths, so a limit keeps all
/// classes but not the order of turns). `full_size` is that of the complete known set (of the files found, for your own),
/// and the note holds the config's and `synthetic`.
///
/// # Errors
/// `Error::Input` when the name is unknown, files are missing, damaged or not what their format says; `Error::Io` when
/// the operating system refuses.
pub fn load(dataset: &Dataset, split: Split, root: &Path) -> Result<ImageSet> {
    load_as(dataset, split, root, None, None)
}

/// [`load`], with every image brought to `shape` (channels, rows, columns) by [`ImageSet::conform`]'s rules.
///
/// Pictures of a folder are brought to it one by one as they are read, so large originals are never held together. Image files whose
/// decoded bytes exceed `memory` are not held: they are decoded whenever they are asked for, and a damaged one is found then.
///
/// # Errors
/// Those of [`load`].
pub fn load_as(
    dataset: &Dataset,
    split: Split,
    root: &Path,
    shape: Option<[usize; 3]>,
    memory: Option<u64>,
) -> Result<ImageSet> {
    let known = known(dataset.source());
    let (layout, site) = (format(dataset)?.layout(), Site::of(dataset, root));
    let folder = &site.folder;
    let form = shape.map_or_else(|| Form::of(dataset), Form::exact);
    let limit = limit(dataset, split);
    let fit = Fit::of(dataset);
    let wanted = Wanted { form, fit, limit, damaged: dataset.damaged.unwrap_or_default(), memory };
    let stored = if may_be_stored(dataset) { store::read(folder, dataset.source(), split)? } else { None };
    let from_files = stored.is_none() && layout.is_apart();
    let images = match stored {
        Some(images) => images,
        None => {
            check_split(&site, split)?;
            layout.read(&site, split, &wanted)?
        }
    };
    if images.is_empty() {
        return Err(damaged(folder, format!("its {split} files hold no images")));
    }
    // Class folders have images, and lists look at all of their lines; classes were chosen there.
    let looked = from_files && layout.chooses_classes();
    let mut images = match looked && classes::are_chosen(dataset) {
        true => images,
        false => {
            let full_size = complete_size(dataset, split).or(images.full_size);
            classes::only(dataset, from_class_zero(ImageSet { full_size, ..images }, known, folder)?)?
        }
    };
    if split == Split::Train && !looked && known.is_none_or(|known| known.classes == 0) {
        no_gaps(images.labels.iter().flatten().copied(), folder)?;
    }
    // Validation images stand beside those that are reported on.
    images.name = if split == Split::Val { format!("{}_val", dataset.name) } else { dataset.name.clone() };
    let synthetic = folder.join(SYNTHETIC).is_file().then(|| "synthetic".to_owned());
    let shifted = dataset.brightness.map(Brightness::in_words);
    let notes: Vec<String> =
        dataset.note.iter().cloned().chain(synthetic).chain(shifted).chain(images.note.take()).collect();
    images.note = (!notes.is_empty()).then(|| notes.join(", "));
    if let Some(limit) = limit {
        images = images.take(limit);
    }
    let [channels, height, width] = form.or(images.shape());
    // Those of files are at their size already.
    let fit = if from_files { Fit::default() } else { fit };
    images.conform_by(channels, height, width, fit)
}

/// Whether the files of `splits` are there, without reading them.
///
/// # Errors
/// `Error::Input` when the name is unknown and no format is given, or a file is missing: names the set, where it was
/// looked for, and how to get it.
pub fn check(dataset: &Dataset, splits: &[Split], root: &Path) -> Result<()> {
    let (layout, site) = (format(dataset)?.layout(), Site::of(dataset, root));
    for &split in splits {
        if !may_be_stored(dataset) || !store::path(&site.folder, split).is_file() {
            check_split(&site, split)?;
            // Whether the classes are there and can be divided.
            if classes::are_chosen(dataset) || dataset.split.is_some() {
                layout.listing(&site, split)?;
            }
            if split == Split::Test {
                layout.check_masks(&site)?;
            }
        }
    }
    Ok(())
}

/// What lies beside the test images of a set and is not read, a line each, with why.
///
/// # Errors
/// A folder that cannot be listed.
pub fn unread(dataset: &Dataset, root: &Path) -> Result<Vec<String>> {
    format(dataset)?.layout().unread(&Site::of(dataset, root))
}

/// The folder below the data root in which a known set is that is not in its own: one whose name starts as the set's does.
pub fn elsewhere(known: &registry::Known, root: &Path) -> Option<String> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let mut folders: Vec<String> = std::fs::read_dir(root)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| plain(name).starts_with(&plain(known.name)))
        // What is another set's own folder is that set.
        .filter(|name| registry::all().iter().all(|other| other.folder != name))
        .collect();
    folders.sort_unstable();
    folders.into_iter().find(|folder| {
        let set = Dataset { path: Some(folder.into()), ..Dataset::named(known.name) };
        check(&set, &[Split::Test], root).is_ok()
    })
}

/// How many images of a split lie in files of their own, limits apart, and the shape (channels, rows, columns) of the first, without
/// decoding any. `None` where images have no files of their own, or these are not there.
pub fn glance(dataset: &Dataset, split: Split, root: &Path) -> Option<(usize, Option<[usize; 3]>)> {
    let layout = format(dataset).ok()?.layout();
    if !layout.is_apart() {
        return None;
    }
    let listing = layout.listing(&Site::of(dataset, root), split).ok()?;
    let first = listing.files().first()?;
    Some((listing.files().len(), picture::header(first).ok()))
}

/// Whether a split may lie in one file of ours in the folder of the set. A folder of pictures may serve many lists, and masks are of
/// files.
fn may_be_stored(dataset: &Dataset) -> bool {
    dataset.split.is_none() && dataset.masks.is_none() && !format(dataset).is_ok_and(Format::is_list)
}

/// The statistics by which images of an ID set are normalised: the config's, else the registry's.
///
/// # Errors
/// `Error::Input` when neither has them, or the config has only one of `mean` and `std` or not equally many values.
pub fn normalisation(dataset: &Dataset) -> Result<Normalisation> {
    let name = &dataset.name;
    given_normalisation(dataset)?.ok_or_else(|| {
        Error::input(format!(
            "data set \"{name}\" has no `mean` and `std`, which weights that are used as they are need"
        ))
        .hint(format!("{{ name: {name}, mean: [..], std: [..] }}: one value per channel, of pixels in 0..1"))
    })
}

/// The same, or `None` where neither has them: they are then [`statistics`] of the train images.
///
/// # Errors
/// `Error::Input` when the config has only one of `mean` and `std`, or not equally many values.
pub fn given_normalisation(dataset: &Dataset) -> Result<Option<Normalisation>> {
    let name = &dataset.name;
    match (&dataset.mean, &dataset.std) {
        (Some(mean), Some(std)) if mean.len() == std.len() => {
            Ok(Some(Normalisation { mean: mean.clone(), std: std.clone() }))
        }
        (Some(mean), Some(std)) => {
            let (means, stds) = (mean.len(), std.len());
            Err(Error::input(format!("data set \"{name}\" has {means} values under `mean` but {stds} under `std`")))
        }
        (None, None) => {
            let known = known(dataset.source()).filter(|known| !known.mean.is_empty());
            Ok(known.map(|known| Normalisation { mean: known.mean.to_vec(), std: known.std.to_vec() }))
        }
        (mean, _) => {
            let (given, missing) = if mean.is_some() { ("mean", "std") } else { ("std", "mean") };
            Err(Error::input(format!("data set \"{name}\" has `{given}` but no `{missing}`")))
        }
    }
}

/// Channels, rows and columns that images are brought to, as far as the configuration and the registry say: `None` where
/// the images of a set vary or are your own, and it has no `size`.
pub fn shape(dataset: &Dataset) -> Option<[usize; 3]> {
    let form = Form::of(dataset);
    let known = known(dataset.source()).filter(|known| dataset.format.is_none_or(|format| format == known.format));
    match (form.channels, form.size) {
        (Some(channels), Some([height, width])) => Some([channels, height, width]),
        _ => known.and_then(|known| known.shape).map(|shape| form.or(shape)),
    }
}

/// How many classes the labels of a known set have; `None` where its files are laid out in another way than is known, its images
/// vary, or the set is your own.
pub fn classes(dataset: &Dataset) -> Option<usize> {
    let known = known(dataset.source()).filter(|known| dataset.format.is_none_or(|format| format == known.format))?;
    known.shape.map(|_| match &dataset.classes {
        Some(classes) => classes.iter().filter(|class| !dataset.held_out.contains(class)).count(),
        None => known.classes.saturating_sub(dataset.held_out.len()),
    })
}

/// How many images a split of the complete set has; `None` for your own sets, for lists (which are sets of their own, whatever
/// the name), where some classes are chosen, and where no one set is the complete one.
pub fn full_size(dataset: &Dataset, split: Split) -> Option<usize> {
    complete_size(dataset, split).filter(|_| !classes::are_chosen(dataset))
}

/// The same with all classes.
fn complete_size(dataset: &Dataset, split: Split) -> Option<usize> {
    let known = known(dataset.source()).filter(|_| !dataset.format.is_some_and(Format::is_list));
    known.and_then(|known| known.size(split))
}

/// Whether it lies in the repository, maybe as a part of the complete set.
pub fn embedded(dataset: &Dataset) -> bool {
    known(dataset.source()).is_some_and(|known| known.folder.starts_with("embedded/"))
}

/// How the data set's files are laid out: as the config says, else as is known.
fn format(dataset: &Dataset) -> Result<Format> {
    let name = dataset.source();
    dataset.format.or_else(|| known(name).map(|known| known.format)).ok_or_else(|| {
        let suggestion = did_you_mean(name, registry::all().iter().map(|known| known.name));
        Error::input(format!("unknown data set \"{name}\"{suggestion}")).hint(
            "`oodkit list` shows the known ones; a set of your own needs a `format`, and a `path` if it is elsewhere",
        )
    })
}

/// Where the data set's files are: `path` (relative paths start at the root, `~/` at the home folder), else the known
/// folder, else its name.
pub fn folder(dataset: &Dataset, root: &Path) -> PathBuf {
    match &dataset.path {
        Some(path) => under(path, root),
        None => {
            let home = dataset.format.and_then(|format| format.layout().home());
            let known = || known(dataset.source()).map(|known| known.folder);
            root.join(home.or_else(known).unwrap_or(dataset.source()))
        }
    }
}

/// A path of the configuration: `~/` is the home folder, other relative ones start at the root.
fn under(path: &Path, root: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => root.join(path),
    }
}

/// [`folder`], or for a set that the repository carries, if it is not there, the repository's own: wherever the other data
/// are, a program started in the repository finds it.
pub(crate) fn found(dataset: &Dataset, root: &Path) -> PathBuf {
    let layout = format(dataset).ok().map(Format::layout);
    if let Some(inner) = layout.and_then(|layout| layout.within(&folder(dataset, root), dataset, root)) {
        return inner;
    }
    let (own, carried) = (folder(dataset, root), folder(dataset, Path::new("data")));
    let elsewhere = carried.starts_with("data/embedded") && !own.is_dir() && carried.is_dir();
    if elsewhere { carried } else { own }
}

/// Where a split's pictures are or are listed, links followed, if they lie in folders and are there. Splits in one place are
/// the same images, unless they are divided or chosen by class; the other formats have files of their own for each.
pub fn pictures(dataset: &Dataset, split: Split, root: &Path) -> Option<PathBuf> {
    if dataset.split.is_some() || classes::are_chosen(dataset) {
        return None;
    }
    let (layout, site) = (format(dataset).ok()?.layout(), Site::of(dataset, root));
    if !layout.is_apart() || (may_be_stored(dataset) && store::path(&site.folder, split).is_file()) {
        return None;
    }
    layout.locate(&site, split).ok()?.first()?.canonicalize().ok()
}

/// Bytes of each image's file; `None` where images have no files of their own, or one of them is gone.
pub fn file_sizes(dataset: &Dataset, images: &ImageSet, root: &Path) -> Option<Vec<u64>> {
    let folder = found(dataset, root);
    let size = |file: &String| std::fs::metadata(folder.join(file)).ok().map(|metadata| metadata.len());
    images.files.as_ref()?.iter().map(size).collect()
}

/// The names of a set's classes in their order, where classes are folders and these are there.
pub fn class_names(dataset: &Dataset, root: &Path) -> Option<Vec<String>> {
    format(dataset).ok()?.layout().class_names(&Site::of(dataset, root))
}

/// The most images that the config wants of a split.
fn limit(dataset: &Dataset, split: Split) -> Option<usize> {
    match split {
        Split::Train => dataset.train_limit,
        Split::Test | Split::Val => dataset.test_limit,
    }
}

/// Refuses a split whose files are not there.
fn check_split(site: &Site, split: Split) -> Result<()> {
    let (dataset, layout) = (site.dataset, format(site.dataset)?.layout());
    let missing = layout.locate(site, split).err();
    let Some(missing) = missing else { return Ok(()) };
    let error = Error::input(format!(
        "data set \"{}\" ({split}) is not in {}: no {missing}",
        dataset.name,
        site.folder.display()
    ));
    let (root, hint) = (site.root, layout.hint());
    Err(match (hint, known(dataset.source())) {
        (Some(hint), _) => error.hint(hint),
        (_, Some(known)) if known.how_to_get.starts_with("make ") => error.hint(known.how_to_get_into(root)),
        (_, Some(known)) => error.hint(format!("{} (data/README.md says more)", known.how_to_get_into(root))),
        (_, None) => error
            .hint("put its files there, or say where they are with `path` (a relative one starts at the data folder)"),
    })
}

/// Labels moved to start at 0 and checked against the number of classes.
fn from_class_zero(mut images: ImageSet, known: Option<&Known>, folder: &Path) -> Result<ImageSet> {
    let Some(labels) = &mut images.labels else { return Ok(images) };
    let first = known.map_or(0, |known| known.first_label);
    let found = labels.iter().max().map_or(0, |label| *label as usize + 1).saturating_sub(first as usize);
    let classes = match known.map_or(0, |known| known.classes) {
        0 => images.classes.max(found),
        classes => classes,
    };
    for (i, label) in labels.iter_mut().enumerate() {
        let label_in_file = *label;
        *label = label_in_file.checked_sub(first).filter(|label| (*label as usize) < classes).ok_or_else(|| {
            let last = first as usize + classes - 1;
            damaged(folder, format!("label {label_in_file} of {} image {i} is not in {first}..={last}", images.split))
        })?;
    }
    images.classes = classes;
    Ok(images)
}

/// Refuses labels to learn of which some below the largest have no image: a network would have outputs for nothing.
fn no_gaps(labels: impl Iterator<Item = u32>, place: &Path) -> Result<()> {
    let found: BTreeSet<u32> = labels.collect();
    let Some(missing) = found.iter().zip(0..).map(|(_, class)| class).find(|class| !found.contains(class)) else {
        return Ok(());
    };
    let listed: Vec<String> = found.iter().take(5).map(u32::to_string).collect();
    let more = if found.len() > 5 { ", …" } else { "" };
    Err(Error::input(format!(
        "{}: no train image has label {missing}; the labels are {}{more}",
        place.display(),
        listed.join(", ")
    ))
    .hint("number the classes from 0 without gaps"))
}

/// The error of a file whose content is not what its format says.
fn damaged(path: &Path, what: impl fmt::Display) -> Error {
    Error::input(format!("{}: {what}", path.display()))
        .hint("the file is damaged or not the one meant: get it again (data/README.md says from where)")
}

/// For `map_err` on reads: truncated or malformed content is the file's fault, anything else the system's.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> Error + use<'_> {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, "ends too early"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => damaged(path, error),
        _ => Error::io("read", path)(error),
    }
}
