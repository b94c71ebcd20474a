//! Data sets: bytes of one shape, held or decoded as they are needed, augmented in batch.
//!
//! A format is one file with one function that reads a split into an [`ImageSet`]; [`registry`] lists the sets oodkit
//! knows by name; [`batches`] turns a set into shuffled, augmented train batches on a thread.

pub mod augment;
pub mod batches;
pub mod download;
pub mod made;
pub mod registry;
pub mod store;
pub mod synthetic;

mod ahead;
mod cifar;
mod classes;
mod conform;
pub(crate) mod contents;
mod dataset;
mod division;
mod fer2013;
mod folder;
mod form;
mod idx;
mod image_list;
mod image_set;
mod links;
mod listing;
mod masks;
mod mat;
mod memory;
pub mod mvtec;
mod picture;
mod pixels;
mod resample;
mod statistics;
mod svhn;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use conform::Frame;
pub use dataset::Dataset;
pub use division::Division;
pub use folder::{new_images, picture_size};
pub use form::{Brightness, Cut, Damaged, Fit, Links, Mode, Resize, Size, Uncropped};
pub(crate) use form::{BrightnessKey, brightness};
pub use image_set::{ImageSet, Normalisation};
pub use listing::list_pictures;
pub use masks::{MaskRule, Masks};
pub use memory::Memory;
pub(crate) use memory::size;
pub use pixels::Pixels;
pub use statistics::statistics;

use crate::{Error, Result, did_you_mean};
use form::{Form, Wanted};
use listing::Listing;
use registry::{Known, known};

/// How the files of a data set are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// MNIST's: `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, plain or `.gz`; images may be alone. In the folder, or as
    /// torchvision has them in `MNIST/raw`.
    Idx,
    /// CIFAR-10's binary version: `data_batch_{1..5}.bin`, `test_batch.bin`; or that for Python, which torchvision reads.
    Cifar10,
    /// CIFAR-100's binary version: `train.bin`, `test.bin`; or that for Python. The fine labels are used.
    Cifar100,
    /// SVHN's cropped digits: `train_32x32.mat`, `test_32x32.mat` (MATLAB v5; label 10 is the digit 0).
    Svhn,
    /// FER2013's `fer2013.csv` (emotion, pixels, Usage): train = Training, test = PrivateTest.
    Fer2013,
    /// `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png` with `split`; classes in alphabetical order.
    ClassFolders,
    /// Any pictures under `test/` if there is one, else under the folder itself, without labels: for OOD sets.
    Folder,
    /// A text file (`list:`) with a line `path label` for each picture; paths start at the data set's folder, and label −1 stands
    /// for none. OpenOOD's splits come so.
    ImageList,
    /// OpenOOD's data folder, with `images_classic`, `images_largescale` and `benchmark_imglist`: `list:` names a benchmark, and
    /// the set's name one of its lists, `{train,val,test}_<name>.txt`. `openood` unless `path` is given.
    Openood,
    /// MVTec AD's: `train/good`, `test/good`, `test/<kind>` and `ground_truth/<kind>/<name>_mask.png` in the folder of a category.
    Mvtec,
}

impl Format {
    /// Whether a text file lists the images.
    pub(crate) fn is_list(self) -> bool {
        matches!(self, Self::ImageList | Self::Openood)
    }
}

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
    let format = format(dataset)?;
    let folder = found(dataset, root);
    let form = shape.map_or_else(|| Form::of(dataset), Form::exact);
    let limit = limit(dataset, split);
    let fit = Fit::of(dataset);
    let wanted = Wanted { form, fit, limit, damaged: dataset.damaged.unwrap_or_default(), memory };
    // A folder of pictures may serve many lists.
    let listed = format.is_list() || dataset.split.is_some();
    let stored = if listed { None } else { store::read(&folder, dataset.source(), split)? };
    let stored_as_one = stored.is_some();
    let images = match stored {
        Some(images) => images,
        None => {
            check_split(dataset, format, split, root)?;
            match format {
                Format::Idx => idx::read(&folder, split)?,
                Format::Cifar10 => cifar::read(&folder, split, cifar::Kind::Cifar10)?,
                Format::Cifar100 => cifar::read(&folder, split, cifar::Kind::Cifar100)?,
                Format::Svhn => svhn::read(&folder, split)?,
                Format::Fer2013 => fer2013::read(&folder, split)?,
                Format::ClassFolders | Format::Folder | Format::ImageList | Format::Openood => {
                    listing(dataset, format, split, root)?.read(split, &wanted)?
                }
                Format::Mvtec => {
                    let images = listing(dataset, format, split, root)?.read(split, &wanted)?;
                    mvtec::with_masks(images, &folder, dataset, fit)?
                }
            }
        }
    };
    if images.is_empty() {
        return Err(damaged(&folder, format!("its {split} files hold no images")));
    }
    // Class folders have images, and lists look at all of their lines; classes were chosen there.
    let looked = !stored_as_one && (format == Format::ClassFolders || format.is_list());
    let from_files = looked || (!stored_as_one && matches!(format, Format::Folder | Format::Mvtec));
    let mut images = match looked && classes::are_chosen(dataset) {
        true => images,
        false => {
            let full_size = complete_size(dataset, split).or(images.full_size);
            classes::only(dataset, from_class_zero(ImageSet { full_size, ..images }, known, &folder)?)?
        }
    };
    if split == Split::Train && !looked && known.is_none_or(|known| known.classes == 0) {
        no_gaps(images.labels.iter().flatten().copied(), &folder)?;
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
    let format = format(dataset)?;
    let folder = found(dataset, root);
    for &split in splits {
        if format.is_list() || dataset.split.is_some() || !store::path(&folder, split).is_file() {
            check_split(dataset, format, split, root)?;
            // Whether the classes are there and can be divided.
            if classes::are_chosen(dataset) || dataset.split.is_some() {
                listing(dataset, format, split, root)?;
            }
        }
    }
    Ok(())
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
    let format = format(dataset).ok()?;
    if !matches!(format, Format::ClassFolders | Format::Folder | Format::Mvtec) && !format.is_list() {
        return None;
    }
    let listing = listing(dataset, format, split, root).ok()?;
    let first = listing.files().first()?;
    Some((listing.files().len(), picture::header(first).ok()))
}

/// The images of a split that lie in files of their own.
fn listing(dataset: &Dataset, format: Format, split: Split, root: &Path) -> Result<Listing> {
    let folder = found(dataset, root);
    match format {
        Format::ClassFolders => listing::of_class_folders(&folder, dataset, split),
        Format::ImageList | Format::Openood => {
            let list = list(dataset, split, root);
            let others = [Split::Train, Split::Test].map(|split| self::list(dataset, split, root));
            let other = others.iter().find(|other| **other != list && other.is_file());
            image_list::entries_of(&images_of(dataset, &list, root), &list, other.map(PathBuf::as_path), dataset, split)
        }
        Format::Folder => listing::of_folder(&folder, dataset, split),
        Format::Mvtec => mvtec::listing(&folder, dataset, split),
        _ => Ok(Listing::default()),
    }
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
        None if dataset.format == Some(Format::Openood) => root.join("openood"),
        None => root.join(known(dataset.source()).map_or(dataset.source(), |known| known.folder)),
    }
}

/// A path of the configuration: `~/` is the home folder, other relative ones start at the root.
fn under(path: &Path, root: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => root.join(path),
    }
}

/// The file that lists a split's pictures.
fn list(dataset: &Dataset, split: Split, root: &Path) -> PathBuf {
    if dataset.format == Some(Format::Openood) {
        let benchmark =
            folder(dataset, root).join("benchmark_imglist").join(dataset.list.as_deref().unwrap_or_default());
        return benchmark.join(format!("{split}_{}.txt", dataset.source()));
    }
    under(Path::new(&dataset.list.clone().unwrap_or_default().replace("{split}", split.name())), root)
}

/// The folder that the paths of a list start at.
fn images_of(dataset: &Dataset, list: &Path, root: &Path) -> PathBuf {
    let folder = found(dataset, root);
    if dataset.format != Some(Format::Openood) {
        return folder;
    }
    let [classic, large] = ["images_classic", "images_largescale"].map(|images| folder.join(images));
    let first = image_list::first(list);
    if first.is_some_and(|first| large.join(&first).exists() && !classic.join(&first).exists()) {
        large
    } else {
        classic
    }
}

/// [`folder`], or for a set that the repository carries, if it is not there, the repository's own: wherever the other data
/// are, a program started in the repository finds it.
pub(crate) fn found(dataset: &Dataset, root: &Path) -> PathBuf {
    if format(dataset).is_ok_and(|format| format == Format::Idx)
        && let Some(raw) =
            idx::torchvision(&folder(dataset, root), dataset.source(), dataset.path.is_none().then_some(root))
    {
        return raw;
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
    let folder = found(dataset, root);
    let pictures = match format(dataset).ok()? {
        Format::ImageList | Format::Openood => Ok(list(dataset, split, root)),
        _ if store::path(&folder, split).is_file() => return None,
        Format::ClassFolders => listing::locate_classes(&folder, dataset, split),
        Format::Folder => listing::locate_flat(&folder, split),
        Format::Mvtec => mvtec::locate(&folder, dataset, split),
        _ => return None,
    };
    pictures.ok()?.canonicalize().ok()
}

/// Bytes of each image's file; `None` where images have no files of their own, or one of them is gone.
pub fn file_sizes(dataset: &Dataset, images: &ImageSet, root: &Path) -> Option<Vec<u64>> {
    let folder = found(dataset, root);
    let size = |file: &String| std::fs::metadata(folder.join(file)).ok().map(|metadata| metadata.len());
    images.files.as_ref()?.iter().map(size).collect()
}

/// The names of a set's classes in their order, where classes are folders and these are there.
pub fn class_names(dataset: &Dataset, root: &Path) -> Option<Vec<String>> {
    let folders = format(dataset).ok()? == Format::ClassFolders;
    folders.then(|| listing::class_names(&found(dataset, root), dataset).ok()).flatten()
}

/// The most images that the config wants of a split.
fn limit(dataset: &Dataset, split: Split) -> Option<usize> {
    match split {
        Split::Train => dataset.train_limit,
        Split::Test | Split::Val => dataset.test_limit,
    }
}

/// Refuses a split whose files are not there.
fn check_split(dataset: &Dataset, format: Format, split: Split, root: &Path) -> Result<()> {
    let folder = &found(dataset, root);
    let missing = match format {
        Format::Idx => idx::locate(folder, split).err(),
        Format::Cifar10 => cifar::locate(folder, split, cifar::Kind::Cifar10).err(),
        Format::Cifar100 => cifar::locate(folder, split, cifar::Kind::Cifar100).err(),
        Format::Svhn => svhn::locate(folder, split).err(),
        Format::Fer2013 => fer2013::locate(folder).err(),
        Format::ClassFolders => listing::locate_classes(folder, dataset, split).err(),
        Format::Folder => listing::locate_flat(folder, split).err(),
        Format::Mvtec => mvtec::locate(folder, dataset, split).err(),
        Format::ImageList | Format::Openood => image_list::locate(folder, &list(dataset, split, root)).err(),
    };
    let Some(missing) = missing else { return Ok(()) };
    let error =
        Error::input(format!("data set \"{}\" ({split}) is not in {}: no {missing}", dataset.name, folder.display()));
    Err(match known(dataset.source()) {
        _ if format == Format::Openood => error.hint(
            "`path` is OpenOOD's data folder, with benchmark_imglist/, and `list` a benchmark there: cifar10, cifar100, imagenet",
        ),
        _ if format == Format::ImageList => {
            error.hint("`path` is the folder of the pictures, `list` the file that lists them (data/README.md says where OpenOOD's are)")
        }
        Some(known) if known.how_to_get.starts_with("make ") => error.hint(known.how_to_get_into(root)),
        Some(known) => error.hint(format!("{} (data/README.md says more)", known.how_to_get_into(root))),
        None => error
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
