//! How data sets lie in files: a format is one file here, which finds, reads and, for tests and smoke runs, writes them.

mod cifar;
mod class_folders;
mod fer2013;
mod folder;
mod idx;
mod image_list;
mod mat;
pub mod mvtec;
mod openood;
mod svhn;

pub(super) use idx::MAX_DEFLATE_RATIO;

use std::path::{Path, PathBuf};

use super::{Dataset, ImageSet, Split, contents::Contents, form::Wanted, found, listing::Listing, synthetic::Painter};
use crate::{Error, Result, yaml::words::words};

words! {
    /// How the files of a data set are laid out.
    pub enum Format as pub(super) layout: Layout {
        /// MNIST's: `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, plain or `.gz`; images may be alone. In the folder, or as
        /// torchvision has them in `MNIST/raw`.
        Idx = "idx" in idx::Idx,
        /// CIFAR-10's binary version: `data_batch_{1..5}.bin`, `test_batch.bin`; or that for Python, which torchvision reads.
        Cifar10 = "cifar10" in cifar::Kind::Cifar10,
        /// CIFAR-100's binary version: `train.bin`, `test.bin`; or that for Python. The fine labels are used.
        Cifar100 = "cifar100" in cifar::Kind::Cifar100,
        /// SVHN's cropped digits: `train_32x32.mat`, `test_32x32.mat` (MATLAB v5; label 10 is the digit 0).
        Svhn = "svhn" in svhn::Svhn,
        /// FER2013's `fer2013.csv` (emotion, pixels, Usage): train = Training, test = PrivateTest.
        Fer2013 = "fer2013" in fer2013::Fer2013,
        /// `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png` with `split`; classes in alphabetical order.
        ClassFolders = "class_folders" in class_folders::ClassFolders,
        /// Any pictures under `test/` if there is one, else under the folder itself, without labels: for OOD sets.
        Folder = "folder" in folder::Folder,
        /// A text file (`list:`) with a line `path label` for each picture; paths start at the data set's folder, and label −1 stands
        /// for none. OpenOOD's splits come so.
        ImageList = "image_list" in image_list::ImageList,
        /// OpenOOD's data folder, with `images_classic`, `images_largescale` and `benchmark_imglist`: `list:` names a benchmark, and
        /// the set's name one of its lists, `{train,val,test}_<name>.txt`. `openood` unless `path` is given.
        Openood = "openood" in openood::Openood,
        /// MVTec AD's: `train/good`, `test/good`, `test/<kind>` and `ground_truth/<kind>/<name>_mask.png` in the folder of a category. A
        /// folder of categories has the train images of all of them.
        Mvtec = "mvtec" in mvtec::Mvtec,
    }
}

/// A data set, and where its files are.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) dataset: &'a Dataset,
    /// The data root.
    pub(super) root: &'a Path,
    /// The set's own folder.
    pub(super) folder: PathBuf,
}

impl<'a> Site<'a> {
    pub(super) fn of(dataset: &'a Dataset, root: &'a Path) -> Self {
        Self { dataset, root, folder: found(dataset, root) }
    }

    /// The error of files that are not there.
    fn lacks(&self, missing: String) -> Error {
        Error::input(format!("{}: no {missing}", self.folder.display()))
    }
}

/// What made-up images in a format's own files look like.
pub(super) struct Paint {
    /// Channels, rows, columns.
    pub(super) shape: [usize; 3],
    pub(super) classes: usize,
    /// Whether images of known sets have the shape and the classes of these.
    pub(super) free: bool,
}

/// A way in which data sets lie in files.
pub(super) trait Layout: Sync {
    /// What a split is read from: its files, or the folder of its images, or their list. Otherwise what was looked for.
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String>;

    /// The images of a split; labels as in the file.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file that is missing, or damaged, and in what.
    fn read(&self, site: &Site, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        self.listing(site, split)?.read(split, wanted)
    }

    /// Whether every image lies in a file of its own, as those of a list do.
    fn is_apart(&self) -> bool {
        self.is_list()
    }

    /// Whether a text file lists the images.
    fn is_list(&self) -> bool {
        false
    }

    /// Whether its listing has only the classes that the configuration wants, as that of a list has.
    fn chooses_classes(&self) -> bool {
        self.is_list()
    }

    /// Whether it has labels, which a network can learn.
    fn is_labelled(&self) -> bool {
        true
    }

    /// Whether a folder in this format may hold categories, each a task of its own.
    fn has_categories(&self) -> bool {
        false
    }

    /// The images of a split, where they lie in files of their own.
    ///
    /// # Errors
    /// [`Error::Input`] for files that are missing, or a link that is not followed.
    fn listing(&self, _site: &Site, _split: Split) -> Result<Listing> {
        Ok(Listing::default())
    }

    /// All files that a limit or a choice of classes might take of a split.
    ///
    /// # Errors
    /// As [`Layout::listing`].
    fn contents(&self, site: &Site, split: Split) -> Result<Contents> {
        let place = self.locate(site, split).map_err(|missing| site.lacks(missing))?;
        match &place[..] {
            [part] if self.is_apart() => Contents::of_folder(site, part, self.class_names(site).unwrap_or_default()),
            _ => Ok(Contents::of_files(place)),
        }
    }

    /// The names of the classes in their order, where they are folders and these are there.
    fn class_names(&self, _site: &Site) -> Option<Vec<String>> {
        None
    }

    /// The folder in the data root, unless `path` is given; the set's name unless the format has one.
    fn home(&self) -> Option<&'static str> {
        None
    }

    /// The folder that the files lie in, if not in `folder` itself.
    fn within(&self, _folder: &Path, _dataset: &Dataset, _root: &Path) -> Option<PathBuf> {
        None
    }

    /// What belongs where, for those whose files are not there.
    fn hint(&self) -> Option<&'static str> {
        None
    }

    /// Which of the keys that only some formats have it has: those of [`OWN_KEYS`].
    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// What is wrong with a set's keys, and with which of them unless one is missing.
    fn problem(&self, dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
        no_split(dataset)
    }

    /// Whether every test image has a mask and every mask an image, if it has masks; none is read.
    ///
    /// # Errors
    /// [`Error::Input`] naming the mask, or the image that has none.
    fn check_masks(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    /// What lies beside the test images and is not read, a line each, with why.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    fn unread(&self, _site: &Site) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether its train and its test images are the same.
    fn is_one_for_all(&self, _dataset: &Dataset) -> bool {
        false
    }

    /// Makes a set one that can be made up, for a smoke run.
    fn smoke(&self, _dataset: &mut Dataset) {}

    /// What made-up images look like.
    fn paint(&self) -> Paint;

    /// Whether a made-up set can be written below the data root.
    ///
    /// # Errors
    /// [`Error::Input`] saying why not.
    fn check_write(&self, _dataset: &Dataset, _root: &Path) -> Result<()> {
        Ok(())
    }

    /// Writes so many made-up train and test images into `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()>;
}

/// What is wrong with a set that is to be divided, of a format that is not.
fn no_split(dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
    let message = "goes with class_folders or image_list: this format has its train and test images";
    dataset.split.as_ref().map(|_| (Some("split"), message.to_owned()))
}

/// The splits that have images, and how many.
fn splits([train, test]: [usize; 2]) -> impl Iterator<Item = (Split, usize)> {
    [(Split::Train, train), (Split::Test, test)].into_iter().filter(|(_, images)| *images > 0)
}

/// Keys of a data set that only some formats have.
const OWN_KEYS: [&str; 4] = ["list", "kind", "masks", "mask_rule"];

impl Format {
    /// Whether a text file lists the images.
    pub(crate) fn is_list(self) -> bool {
        self.layout().is_list()
    }

    /// Whether it has labels, which a network can learn.
    pub(crate) fn is_labelled(self) -> bool {
        self.layout().is_labelled()
    }

    /// Whether a folder in this format may hold categories, each a task of its own.
    pub(crate) fn has_categories(self) -> bool {
        self.layout().has_categories()
    }

    /// Makes a set in this format one that can be made up, for a smoke run.
    pub(crate) fn smoke(self, dataset: &mut Dataset) {
        self.layout().smoke(dataset);
    }

    /// What is wrong with the keys of a data set in this format, and with which of them unless one is missing.
    pub(crate) fn problems(self, dataset: &Dataset) -> Vec<(Option<&'static str>, String)> {
        let given = |key: &str| match key {
            "list" => dataset.list.is_some(),
            "kind" => dataset.kind.is_some(),
            "masks" => dataset.masks.is_some(),
            _ => dataset.mask_rule.is_some(),
        };
        let foreign = OWN_KEYS.into_iter().filter(|key| given(key) && !self.layout().keys().contains(key));
        let mut problems: Vec<_> = foreign.map(|key| (Some(key), goes_with(key))).collect();
        problems.extend(self.layout().problem(dataset));
        problems
    }
}

/// ``goes with `format: image_list` or `openood` ``
fn goes_with(key: &str) -> String {
    let formats = Format::ALL.into_iter().filter(|format| format.layout().keys().contains(&key));
    let formats: Vec<String> = formats.map(|format| format!("`{format}`")).collect();
    format!("goes with `format: {}", formats.join(" or ").trim_start_matches('`'))
}

/// What the tests of several formats read.
#[cfg(test)]
mod examples {
    use std::{fs, path::Path};

    use crate::data::form::{Form, Wanted};

    pub fn wanted(shape: Option<[usize; 3]>, limit: Option<usize>) -> Wanted {
        Wanted { form: shape.map(Form::exact).unwrap_or_default(), limit, ..Wanted::default() }
    }

    /// Saves a picture of one colour.
    pub fn save(path: &Path, (width, height): (u32, u32), colour: [u8; 3]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, height, image::Rgb(colour)).save(path).unwrap();
    }
}
