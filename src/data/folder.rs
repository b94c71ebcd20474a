//! Folders of images: a folder per class, or any images without labels.
//!
//! Images are taken in the order of their paths; a limit takes the first of every folder in turn, so that it leaves no
//! class out while there are images for all, and keeps that order. They are brought to one shape one by one; where none is
//! asked for, all must have one size. Hidden files are passed over, files that are no images are counted. A symbolic link inside
//! the folder is refused, so that a downloaded archive cannot make us read what is elsewhere; the folder itself may be a
//! link.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use super::{
    ImageSet, Split, damaged,
    form::{Damaged, Wanted},
    image_set::TOGETHER,
    picture,
    pixels::Pixels,
};
use crate::{Error, Result};

/// Deepest nesting of folders. Ours.
const MAX_DEPTH: usize = 32;

/// The folder of a split's class folders, or what was looked for.
pub(super) fn locate_classes(folder: &Path, split: Split) -> Result<PathBuf, String> {
    let pictures = folder.join(split.name());
    Some(pictures).filter(|path| path.is_dir()).ok_or_else(|| format!("folder {split}/ with a folder per class"))
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

/// Reads a split of class folders. Classes are the folders of `train/` (of `test/` when that is all there is), by name.
pub(super) fn read_classes(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
    let root = locate_classes(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let listed = locate_classes(folder, Split::Train).unwrap_or_else(|_| root.clone());
    let classes = subfolders(&listed)?;
    let (mut found, mut labels) = (Found::default(), Vec::new());
    for path in subfolders(&root)? {
        let class = classes.iter().position(|class| class.file_name() == path.file_name());
        let class = class.ok_or_else(|| damaged(&path, format!("is not a class of {}", listed.display())))?;
        let before = found.images.len();
        walk(&path, 0, &mut found)?;
        if found.images.len() == before {
            return Err(Error::input(format!("class folder {} holds no images", path.display())).hint(picture::READ));
        }
        labels.resize(found.images.len(), class as u32);
    }
    let images = read_files((&root, &root), &found.images, Some(labels), split, wanted)?;
    Ok(found.noted(ImageSet { classes: classes.len(), ..images }))
}

/// The names of the classes in their order: the folders of `train/`, or of `test/` when that is all there is.
pub(super) fn class_names(folder: &Path) -> Result<Vec<String>> {
    let root = locate_classes(folder, Split::Train).or_else(|_| locate_classes(folder, Split::Test));
    let classes = subfolders(&root.map_err(|missing| damaged(folder, format!("no {missing}")))?)?;
    Ok(classes.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
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

/// New images: these files at `shape` (channels, rows, columns), as those of a data set are read, without labels; and which of
/// the files they are. `problem` is told of each file that is no image, and may go on. They are held if they fit `memory` bytes.
///
/// # Errors
/// Those of `problem`, and of a file that vanishes.
pub fn new_images(
    files: &[PathBuf],
    shape: [usize; 3],
    memory: u64,
    problem: impl FnMut(Error) -> Result<()>,
) -> Result<(ImageSet, Vec<usize>)> {
    let (pixels, kept) = decode_all(files, shape, fits(files.len(), shape, Some(memory)), problem)?;
    Ok((unlabelled("new images".to_owned(), Split::Test, shape, pixels), kept))
}

/// Reads all images of a split, without labels.
pub(super) fn read_flat(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
    let root = locate_flat(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let mut found = Found::default();
    walk(&root, 0, &mut found)?;
    read_files((&root, &root), &found.images, None, split, wanted).map(|images| found.noted(images))
}

/// The files below a folder.
#[derive(Default)]
struct Found {
    images: Vec<PathBuf>,
    /// Files that are no images.
    others: usize,
}

impl Found {
    /// The set, with a note of the files that are left out.
    fn noted(&self, images: ImageSet) -> ImageSet {
        let note = match self.others {
            0 => return images,
            1 => "1 file that is no image left out".to_owned(),
            others => format!("{others} files that are no images left out"),
        };
        with_note(images, note)
    }
}

fn with_note(mut images: ImageSet, note: String) -> ImageSet {
    images.note = Some(images.note.map_or(note.clone(), |before| format!("{before}, {note}")));
    images
}

/// The images of these files, or of a limited number of them: of every label in turn, or else of every folder. Messages name
/// `place`; the images' names are relative to `root`.
pub(super) fn read_files(
    (place, root): (&Path, &Path),
    files: &[PathBuf],
    labels: Option<Vec<u32>>,
    split: Split,
    wanted: &Wanted,
) -> Result<ImageSet> {
    let limit = wanted.limit.unwrap_or(files.len());
    let chosen = match &labels {
        Some(labels) => in_turn(labels, limit),
        None => in_turn(&files.iter().map(|file| file.parent()).collect::<Vec<_>>(), limit),
    };
    let chosen_files: Vec<PathBuf> = chosen.iter().map(|&place| files[place].clone()).collect();
    let (mut images, kept) = read_all(place, &chosen_files, split, wanted)?;
    images.labels = labels.map(|labels| kept.iter().map(|&place| labels[chosen[place]]).collect());
    images.full_size = Some(files.len());
    let name = |file: &PathBuf| {
        let parts = file.strip_prefix(root).unwrap_or(file).components();
        parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    images.files = Some(Arc::new(kept.iter().map(|&place| name(&chosen_files[place])).collect()));
    Ok(match chosen.len() - kept.len() {
        0 => images,
        1 => with_note(images, "1 damaged image left out".to_owned()),
        left_out => with_note(images, format!("{left_out} damaged images left out")),
    })
}

/// The places of `limit` entries, rising, when the groups they belong to take turns: first the first of each group.
fn in_turn<G: Ord>(groups: &[G], limit: usize) -> Vec<usize> {
    let mut turns = BTreeMap::new();
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(groups.len());
    for (place, group) in groups.iter().enumerate() {
        let turn = turns.entry(group).or_insert(0);
        order.push((*turn, place));
        *turn += 1;
    }
    order.sort_unstable();
    let mut places: Vec<usize> = order.into_iter().take(limit).map(|(_, place)| place).collect();
    places.sort_unstable();
    places
}

/// The folders in `folder`, by name.
fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = entries(folder)?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

/// What is in `folder`, by name, hidden files left out, links refused.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(Error::io("read", &path))?.is_symlink() {
            return Err(Error::input(format!("{} is a symbolic link", path.display())).hint(
                "links inside a data set are not followed: put the picture there, or point `path` at its folder",
            ));
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
    for path in entries(folder)? {
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

/// Reads `files` at one shape, and says which of them: all, unless damaged ones are to be skipped.
fn read_all(root: &Path, files: &[PathBuf], split: Split, wanted: &Wanted) -> Result<(ImageSet, Vec<usize>)> {
    if files.is_empty() {
        return Err(Error::input(format!("{} holds no images", root.display())).hint(picture::READ));
    }
    let shape = picture::shape(files, wanted)?;
    let held = fits(files.len(), shape, wanted.memory);
    let (pixels, kept) = match wanted.damaged {
        // The digest of the set, which is taken before any work, reads all images.
        Damaged::Refuse if !held => (Pixels::of_files(files.iter().cloned(), shape)?, (0..files.len()).collect()),
        Damaged::Refuse => decode_all(files, shape, held, Err)?,
        Damaged::Skip => decode_all(files, shape, held, |error| match error {
            Error::Input { .. } => Ok(()),
            error => Err(error),
        })?,
    };
    if kept.is_empty() {
        return Err(damaged(root, format!("all {} images are damaged", files.len())));
    }
    Ok((unlabelled(String::new(), split, shape, pixels), kept))
}

/// Whether so many images are held.
fn fits(images: usize, shape: [usize; 3], memory: Option<u64>) -> bool {
    let bytes = shape.iter().fold(images as u64, |bytes, &side| bytes.saturating_mul(side as u64));
    memory.is_none_or(|memory| bytes <= memory)
}

/// Decodes these files at `shape`, and says which of them could be. `problem` is told of the others and may end it.
fn decode_all(
    files: &[PathBuf],
    shape: [usize; 3],
    held: bool,
    mut problem: impl FnMut(Error) -> Result<()>,
) -> Result<(Pixels, Vec<usize>)> {
    let (mut pixels, mut kept) = (Vec::new(), Vec::new());
    let decode = |file: &PathBuf| picture::at(file, shape).map(|image| if held { image } else { Vec::new() });
    for (chunk, files) in files.chunks(TOGETHER).enumerate() {
        // In order, so that the first damaged image by name is the one reported.
        let read: Vec<Result<Vec<u8>>> = files.par_iter().map(decode).collect();
        for (place, image) in read.into_iter().enumerate() {
            match image {
                Ok(image) => {
                    pixels.extend_from_slice(&image);
                    kept.push(chunk * TOGETHER + place);
                }
                Err(error) => problem(error)?,
            }
        }
    }
    let pixels = match held {
        true => Pixels::Held(pixels),
        false => Pixels::of_files(kept.iter().map(|&place| files[place].clone()), shape)?,
    };
    Ok((pixels, kept))
}

/// A set of these images.
fn unlabelled(name: String, split: Split, [channels, height, width]: [usize; 3], pixels: Pixels) -> ImageSet {
    ImageSet {
        name,
        split,
        channels,
        height,
        width,
        pixels,
        labels: None,
        classes: 0,
        full_size: None,
        files: None,
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::form::Form;

    fn wanted(shape: Option<[usize; 3]>, limit: Option<usize>) -> Wanted {
        Wanted { form: shape.map(Form::exact).unwrap_or_default(), limit, ..Wanted::default() }
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
        assert!(error.contains("dog: is not a class of"), "{error}");
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
        assert_eq!(in_turn(&['a', 'a', 'a', 'b', 'c', 'c'], 4), [0, 1, 3, 4]);
        assert_eq!(in_turn(&['a', 'a', 'a', 'b', 'c', 'c'], 2), [0, 3]);
        assert_eq!(in_turn(&['a', 'b', 'a'], 9), [0, 1, 2]);
        assert_eq!(in_turn(&['a', 'b'], 0), [0; 0]);

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
