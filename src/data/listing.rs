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
    ImageSet, Split, classes, damaged,
    folder::{read_files, with_note},
    form::Wanted,
    links::Followed,
    picture,
};
use crate::{Error, Result, data::Dataset, printable};

/// Deepest nesting of folders. Ours.
const MAX_DEPTH: usize = 32;
/// Names of folders that hold parts of a set, in lower case, and not a class.
const PARTS: [&str; 7] = ["train", "training", "test", "testing", "val", "valid", "validation"];

/// The images of a split before they are read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// What messages name: a folder or a list.
    place: PathBuf,
    /// Images' names are relative to it.
    root: PathBuf,
    files: Vec<PathBuf>,
    labels: Option<Vec<u32>>,
    /// How many there are; 0 without labels.
    classes: usize,
    /// The names of the classes, where they are folders.
    names: Vec<String>,
    /// Files that are no images.
    others: usize,
    notes: Vec<String>,
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

/// The folder of a split's class folders, or what was looked for. A folder without parts is tested on as a whole, and is divided
/// where the configuration says how. Where there is no `test/`, as in ImageNet, `val/` is tested on.
pub(super) fn locate_classes(folder: &Path, dataset: &Dataset, split: Split) -> Result<PathBuf, String> {
    let own = folder.join(split.name());
    let has = |part: &str| folder.join(part).is_dir();
    if split == Split::Val && has("val") && !has("test") {
        return Err("folder test/ beside val/, so val/ is what is tested on".to_owned());
    }
    if own.is_dir() {
        return Ok(own);
    }
    if split == Split::Test && has("val") {
        return Ok(folder.join("val"));
    }
    let undivided = is_undivided(folder);
    if undivided && (dataset.split.is_some() || split == Split::Test) {
        return Ok(folder.to_owned());
    }
    let wanted = format!("folder {split}/ with a folder per class");
    Err(if undivided {
        format!("{wanted}; its class folders can be divided: `split: {{ test: 0.2 }}`")
    } else {
        wanted
    })
}

/// Whether there are class folders without parts above them.
fn is_undivided(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    !["train", "test", "val"].iter().any(|part| folder.join(part).is_dir())
        && entries.any(|entry| entry.path().is_dir())
}

/// The folder of a split's unlabelled pictures, or what was looked for.
pub(super) fn locate_flat(folder: &Path, split: Split) -> Result<PathBuf, String> {
    let own = folder.join(split.name());
    // A folder without parts serves as either; one with a test part only has nothing to train on.
    let undivided = split == Split::Test || !folder.join("test").is_dir();
    if own.is_dir() {
        Ok(own)
    } else if folder.is_dir() && undivided {
        Ok(folder.to_owned())
    } else {
        Err(if undivided { "such folder".into() } else { format!("folder {split}/") })
    }
}

/// The images of a split of class folders. Classes are the folders of `train/` (of what there is, where that is not there), by
/// name, unless the configuration says which.
pub(super) fn of_class_folders(folder: &Path, dataset: &Dataset, split: Split) -> Result<Listing> {
    let root = locate_classes(folder, dataset, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    if dataset.split.is_some() && root != folder {
        return Err(Error::input(format!(
            "{}: `split` divides class folders, and this set has parts",
            folder.display()
        ))
        .hint(format!("leave `split` out, or point `path` at one of them: {}", root.display())));
    }
    let (all, names) = class_folders(folder, dataset)?;
    let mut found = Found::of(dataset, folder)?;
    let mut labels = Vec::new();
    let mut listing = Listing::default();
    for path in subfolders(&root, &mut found.followed)? {
        let class = file_name(&path);
        if root == folder && PARTS.contains(&class.to_lowercase().as_str()) {
            return Err(Error::input(format!("{} looks like a part of a set, not like a class", path.display()))
                .hint("the parts are called train/, test/ and val/: rename them, or rename the class"));
        }
        let Some(label) = names.iter().position(|name| *name == class) else {
            if classes::are_chosen(dataset) && all.contains(&class) {
                continue;
            }
            return Err(Error::input(format!("{}: no class of the train images", path.display())).hint(
                "what is not learned is out-of-distribution: name the class under `held_out`, or move it into an OOD set",
            ));
        };
        let before = found.images.len();
        walk(&path, 0, &mut found)?;
        if found.images.len() == before {
            return Err(Error::input(format!("class folder {} holds no images", path.display())).hint(picture::READ));
        }
        labels.resize(found.images.len(), label as u32);
    }
    listing.notes.extend(classes::in_words(&names, all.len()));
    if split == Split::Test && file_name(&root) == "val" && root != folder {
        listing.notes.push("the images of val/, as there is no test/".to_owned());
    }
    Listing {
        place: root.clone(),
        root,
        files: found.images,
        labels: Some(labels),
        classes: names.len(),
        names,
        others: found.others,
        ..listing
    }
    .part(dataset, split)
}

/// The images of a split without labels.
pub(super) fn of_folder(folder: &Path, dataset: &Dataset, split: Split) -> Result<Listing> {
    let root = locate_flat(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let mut found = Found::of(dataset, folder)?;
    walk(&root, 0, &mut found)?;
    Ok(Listing { place: root.clone(), root, files: found.images, others: found.others, ..Listing::default() })
}

/// The names of the classes in their order.
pub(super) fn class_names(folder: &Path, dataset: &Dataset) -> Result<Vec<String>> {
    class_folders(folder, dataset).map(|(_, names)| names)
}

/// The names of all class folders of all parts, and of those that are wanted in the order of their labels.
fn class_folders(folder: &Path, dataset: &Dataset) -> Result<(Vec<String>, Vec<String>)> {
    let mut parts = Vec::new();
    for split in [Split::Train, Split::Test, Split::Val] {
        if let Ok(part) = locate_classes(folder, dataset, split) {
            let mut followed = Followed::of(dataset, folder)?;
            let names: Vec<String> = subfolders(&part, &mut followed)?.iter().map(|path| file_name(path)).collect();
            parts.push(names);
        }
    }
    let usual = parts.first().cloned().unwrap_or_default();
    let mut all: Vec<String> = parts.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    let chosen = if classes::are_chosen(dataset) { classes::chosen(dataset, &all, &usual)? } else { usual };
    Ok((all, chosen))
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

/// The images anywhere below `place` in the `folder` of a set.
pub(super) fn all_images(dataset: &Dataset, folder: &Path, place: &Path) -> Result<Vec<PathBuf>> {
    Ok(images_below(dataset, folder, place)?.0)
}

/// The same, and how many other files are there.
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
struct Found {
    images: Vec<PathBuf>,
    /// Files that are no images.
    others: usize,
    followed: Followed,
}

impl Found {
    /// Nothing yet, of a set whose files are in `folder`.
    fn of(dataset: &Dataset, folder: &Path) -> Result<Self> {
        Ok(Self { followed: Followed::of(dataset, folder)?, ..Self::default() })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folders in `folder`, by name.
fn subfolders(folder: &Path, followed: &mut Followed) -> Result<Vec<PathBuf>> {
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
fn walk(folder: &Path, depth: usize, found: &mut Found) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::form::Form;

    fn wanted(shape: Option<[usize; 3]>, limit: Option<usize>) -> Wanted {
        Wanted { form: shape.map(Form::exact).unwrap_or_default(), limit, ..Wanted::default() }
    }

    fn read_classes(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        of_class_folders(folder, &Dataset::named("mine"), split)?.read(split, wanted)
    }

    fn read_flat(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        of_folder(folder, &Dataset::named("mine"), split)?.read(split, wanted)
    }

    /// Saves a picture of one colour.
    fn save(path: &Path, (width, height): (u32, u32), colour: [u8; 3]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, height, image::Rgb(colour)).save(path).unwrap();
    }

    #[test]
    fn classes_are_the_train_folders_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(&root.join("train/cat/1.png"), (4, 4), [10, 20, 30]);
        save(&root.join("train/ant/2.JPEG"), (4, 4), [200, 200, 200]);
        save(&root.join("train/ant/deep/1.png"), (4, 4), [1, 2, 3]);
        fs::write(root.join("train/ant/readme.txt"), "no picture").unwrap();
        fs::write(root.join("train/ant/._2.png"), "no picture either").unwrap();
        // The test part lacks the first class: labels still mean the same.
        save(&root.join("test/cat/9.png"), (4, 4), [0, 0, 0]);

        let train = read_classes(root, Split::Train, &wanted(None, None)).unwrap();
        assert_eq!((train.labels.clone(), train.classes, train.shape()), (Some(vec![0, 0, 1]), 2, [3, 4, 4]));
        assert_eq!(train.image(2).unwrap()[..16], [10; 16]);
        assert_eq!(train.image(1).unwrap()[32..], [3; 16]);
        let test = read_classes(root, Split::Test, &wanted(Some([1, 2, 2]), None)).unwrap();
        assert_eq!((test.shape(), test.classes, test.labels), ([1, 2, 2], 2, Some(vec![1])));
        // Two pictures are one of each class, though two of the first come before.
        let two = read_classes(root, Split::Train, &wanted(None, Some(2))).unwrap();
        assert_eq!((two.labels.clone(), two.full_size), (Some(vec![0, 1]), Some(3)));
        assert_eq!([0, 1].map(|image| two.image(image).unwrap()), [0, 2].map(|image| train.image(image).unwrap()));
        let one = read_classes(root, Split::Train, &wanted(None, Some(1))).unwrap();
        assert_eq!((one.len(), one.labels, one.full_size), (1, Some(vec![0]), Some(3)));

        save(&root.join("test/dog/1.png"), (4, 4), [0, 0, 0]);
        let error = read_classes(root, Split::Test, &wanted(None, None)).unwrap_err().to_string();
        assert!(error.contains("dog: no class of the train images"), "{error}");
    }

    #[test]
    fn unlabelled_pictures_come_from_the_split_or_from_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(&root.join("b/1.png"), (4, 4), [1, 1, 1]);
        save(&root.join("a.png"), (6, 6), [2, 2, 2]);
        let all = read_flat(root, Split::Test, &wanted(Some([3, 4, 4]), None)).unwrap();
        assert_eq!(
            (all.len(), all.image(0).unwrap()[0], all.image(1).unwrap()[0], all.labels.clone()),
            (2, 2, 1, None)
        );
        assert_eq!(read_flat(root, Split::Train, &wanted(Some([3, 4, 4]), None)).unwrap().pixels, all.pixels);
        save(&root.join("test/1.png"), (4, 4), [7, 7, 7]);
        let test = read_flat(root, Split::Test, &wanted(None, None)).unwrap();
        assert_eq!((test.len(), test.image(0).unwrap()[0]), (1, 7));
        assert_eq!(locate_flat(root, Split::Train).unwrap_err(), "folder train/");
    }

    #[test]
    fn a_limit_takes_from_every_folder_in_turn() {
        // As the DTD comes: a folder of categories.
        let folder = tempfile::tempdir().unwrap();
        for (value, name) in (1..).zip(["banded/1", "banded/2", "dotted/1", "dotted/2", "woven/1"]) {
            save(&folder.path().join(format!("images/{name}.png")), (4, 4), [value; 3]);
        }
        let firsts = |limit| {
            let set = read_flat(folder.path(), Split::Test, &wanted(None, Some(limit))).unwrap();
            (0..set.len()).map(|image| set.image(image).unwrap()[0]).collect::<Vec<u8>>()
        };
        assert_eq!(firsts(3), [1, 3, 5]);
        assert_eq!(firsts(4), [1, 2, 3, 5]);
    }

    #[test]
    fn grey_pictures_stay_grey() {
        let folder = tempfile::tempdir().unwrap();
        image::GrayImage::from_pixel(2, 2, image::Luma([9])).save(folder.path().join("1.png")).unwrap();
        image::ImageBuffer::from_pixel(2, 2, image::Luma([0x0900_u16])).save(folder.path().join("2.png")).unwrap();
        let set = read_flat(folder.path(), Split::Test, &wanted(None, None)).unwrap();
        assert_eq!((set.channels, set.pixels), (1, vec![9; 8].into()));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_elsewhere_are_refused() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        save(&elsewhere.path().join("1.png"), (4, 4), [0, 0, 0]);
        for (target, link) in [(elsewhere.path().to_owned(), "link"), (elsewhere.path().join("1.png"), "1.png")] {
            std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
            let error = read_flat(folder.path(), Split::Test, &wanted(None, None)).unwrap_err().to_string();
            assert!(error.ends_with("is a symbolic link"), "{error}");
            fs::remove_file(folder.path().join(link)).unwrap();
        }
        // The folder itself may be one.
        let link = folder.path().join("set");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        assert_eq!(read_flat(&link, Split::Test, &wanted(None, None)).unwrap().len(), 1);
    }

    #[test]
    fn unusable_folders_and_pictures_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = || {
            let message = read_flat(folder.path(), Split::Test, &wanted(None, None)).unwrap_err().to_string();
            message.replace(&folder.path().display().to_string(), "FOLDER")
        };
        assert_eq!(error(), "FOLDER holds no images");
        fs::write(folder.path().join("a.png"), "not a picture").unwrap();
        assert!(error().starts_with("FOLDER/a.png: "), "{}", error());
        save(&folder.path().join("a.png"), (300, 2), [0; 3]);
        assert_eq!(error(), "FOLDER/a.png: an image of 2×300 pixels cannot be brought to a common shape");
        // A header that claims 4 billion pixels.
        save(&folder.path().join("a.png"), (4, 4), [0; 3]);
        let mut png = fs::read(folder.path().join("a.png")).unwrap();
        png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        fs::write(folder.path().join("a.png"), png).unwrap();
        assert!(error().starts_with("FOLDER/a.png: "), "{}", error());
        // A JPEG of 30 times 40 pixels that claims 8192 times 8192: it would decode, to grey, in seconds.
        let jpeg = folder.path().join("a.jpg");
        fs::remove_file(folder.path().join("a.png")).unwrap();
        save(&jpeg, (40, 30), [0; 3]);
        let mut bytes = fs::read(&jpeg).unwrap();
        let sizes = bytes.windows(4).position(|window| window == [0, 30, 0, 40]).unwrap();
        bytes[sizes..sizes + 4].copy_from_slice(&[32, 0, 32, 0]);
        fs::write(&jpeg, &bytes).unwrap();
        let claim = format!("claims 8192×8192 pixels, more than its {} bytes can hold", bytes.len());
        assert_eq!(error(), format!("FOLDER/a.jpg: {claim}"));
    }
}
