//! Folders of PNG and JPEG pictures: a folder per class, or any pictures without labels.
//!
//! Pictures are taken in the order of their paths; a limit takes the first of every folder in turn, so that it leaves no
//! class out while there are images for all, and keeps that order. They are brought to one shape one by one: the shape asked for, else that of
//! the first picture. Hidden files are passed over. A symbolic link inside the folder is refused, so that a downloaded
//! archive cannot make us read what is elsewhere; the folder itself may be a link.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};
use rayon::prelude::*;

use super::{ImageSet, Split, conform, damaged, idx::MAX_DEFLATE_RATIO, unreadable};
use crate::{Error, Result};

/// Longest side of a picture that is decoded. Ours: beyond every set in the registry, bounded memory.
const MAX_SIDE: u32 = 16_384;
/// Most memory to decode a picture. Ours: 512 MiB, image's own default.
const MAX_MEMORY: u64 = 512 << 20;
/// Most times that one side of a picture may exceed the other. Ours: resizing a thinner strip needs absurd memory.
const MAX_ASPECT: usize = 100;
/// Most bytes of a set. Ours: 16 GiB, a hundred times CIFAR-10.
const MAX_SET: usize = 16 << 30;
/// Deepest nesting of folders. Ours.
const MAX_DEPTH: usize = 32;
/// Pictures decoded together. Ours: bounds what is held beside the result.
const TOGETHER: usize = 512;

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
pub(super) fn read_classes(
    folder: &Path,
    split: Split,
    shape: Option<[usize; 3]>,
    limit: Option<usize>,
) -> Result<ImageSet> {
    let root = locate_classes(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let listed = locate_classes(folder, Split::Train).unwrap_or_else(|_| root.clone());
    let classes = subfolders(&listed)?;
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    for path in subfolders(&root)? {
        let class = classes.iter().position(|class| class.file_name() == path.file_name());
        let class = class.ok_or_else(|| damaged(&path, format!("is not a class of {}", listed.display())))?;
        let before = files.len();
        walk(&path, 0, &mut files)?;
        if files.len() == before {
            return Err(Error::input(format!("class folder {} holds no PNG or JPEG pictures", path.display())));
        }
        labels.resize(files.len(), class as u32);
    }
    let images = read_files(&root, &files, Some(&labels), split, shape, limit)?;
    Ok(ImageSet { classes: classes.len(), ..images })
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
    fn others(folder: &Path) -> Result<usize> {
        let count = |path: PathBuf| if path.is_dir() { others(&path) } else { Ok(usize::from(!is_picture(&path))) };
        entries(folder)?.into_iter().map(count).sum()
    }
    let mut files = Vec::new();
    walk(folder, 0, &mut files)?;
    Ok((files, others(folder)?))
}

/// Each of these pictures at `shape` (channels, rows, columns), as those of a data set are read; or why it cannot be.
pub fn read_pictures(files: &[PathBuf], shape: [usize; 3]) -> Vec<Result<Vec<u8>>> {
    let read = |file: &PathBuf| {
        // A pipe would never end.
        let metadata = fs::metadata(file).map_err(Error::io("read", file))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{} is not a file", file.display())));
        }
        decode(file)?.at(shape)
    };
    files.par_iter().map(read).collect()
}

/// The pictures of these files, or of a limited number of them: of every label in turn, or else of every folder.
pub(super) fn read_files(
    place: &Path,
    files: &[PathBuf],
    labels: Option<&[u32]>,
    split: Split,
    shape: Option<[usize; 3]>,
    limit: Option<usize>,
) -> Result<ImageSet> {
    let limit = limit.unwrap_or(files.len());
    let chosen = match labels {
        Some(labels) => in_turn(labels, limit),
        None => in_turn(&files.iter().map(|file| file.parent()).collect::<Vec<_>>(), limit),
    };
    let pictures_of: Vec<PathBuf> = chosen.iter().map(|&place| files[place].clone()).collect();
    let images = pictures(place, &pictures_of, split, shape)?;
    let labels = labels.map(|labels| chosen.iter().map(|&place| labels[place]).collect());
    Ok(ImageSet { labels, full_size: Some(files.len()), ..images })
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

/// Reads all pictures of a split, without labels.
pub(super) fn read_flat(
    folder: &Path,
    split: Split,
    shape: Option<[usize; 3]>,
    limit: Option<usize>,
) -> Result<ImageSet> {
    let root = locate_flat(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let mut files = Vec::new();
    walk(&root, 0, &mut files)?;
    read_files(&root, &files, None, split, shape, limit)
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

/// Adds the pictures under `folder`, in the order of their paths.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::input(format!("{} is nested deeper than {MAX_DEPTH} folders", folder.display())));
    }
    for path in entries(folder)? {
        if path.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if is_picture(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether the name says PNG or JPEG.
fn is_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Reads `files` at one shape.
fn pictures(root: &Path, files: &[PathBuf], split: Split, shape: Option<[usize; 3]>) -> Result<ImageSet> {
    let Some(first) = files.first() else {
        return Err(Error::input(format!("{} holds no PNG or JPEG pictures", root.display())));
    };
    let [channels, height, width] = match shape {
        Some(shape) => shape,
        None => decode(first)?.shape,
    };
    let shape = [channels, height, width];
    let bytes = shape.iter().try_fold(files.len(), |bytes, &side| bytes.checked_mul(side));
    if bytes.is_none_or(|bytes| bytes > MAX_SET) {
        let (root, n) = (root.display(), files.len());
        let what = format!("{root} holds {n} pictures, which at {height}×{width} pixels are more than 16 GiB");
        return Err(Error::input(what).hint("shrink them: the first picture by name sets the size of all"));
    }
    let mut pixels = Vec::new();
    for files in files.chunks(TOGETHER) {
        // In order, so that the first damaged picture by name is the one reported.
        let read: Vec<Result<Vec<u8>>> = files.par_iter().map(|file| decode(file)?.at(shape)).collect();
        for image in read {
            pixels.extend_from_slice(&image?);
        }
    }
    Ok(ImageSet {
        name: String::new(),
        split,
        channels,
        height,
        width,
        pixels,
        labels: None,
        classes: 0,
        full_size: None,
        note: None,
    })
}

/// A picture at its own size.
struct Picture {
    pixels: Vec<u8>,
    shape: [usize; 3],
}

impl Picture {
    fn at(self, shape: [usize; 3]) -> Result<Vec<u8>> {
        if self.shape == shape {
            return Ok(self.pixels);
        }
        conform::images(&self.pixels, self.shape, shape)
    }
}

/// Decodes a picture, whatever its extension says: planes of grey, or red, green and blue.
fn decode(path: &Path) -> Result<Picture> {
    let reader = ImageReader::open(path).map_err(Error::io("read", path))?;
    let mut reader = reader.with_guessed_format().map_err(unreadable(path))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let broken = |error| match error {
        image::ImageError::IoError(error) => unreadable(path)(error),
        error => damaged(path, error),
    };
    // What a byte can hold at most: of a JPEG 8 blocks of 64 pixels, a bit each; of a PNG what deflate makes of it.
    let pixels_per_byte = if reader.format() == Some(ImageFormat::Jpeg) { 512 } else { 8 * MAX_DEFLATE_RATIO };
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > length.saturating_mul(pixels_per_byte) {
        let what = format!("claims {height}×{width} pixels, more than its {length} bytes can hold");
        return Err(damaged(path, what));
    }
    if decoder.total_bytes() > MAX_MEMORY {
        return Err(damaged(path, format!("a picture of {height}×{width} pixels is too large")));
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    if height == 0 || width == 0 || height > MAX_ASPECT * width || width > MAX_ASPECT * height {
        return Err(damaged(path, format!("a picture of {height}×{width} pixels cannot be brought to a common shape")));
    }
    let (pixels, channels) = match picture {
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageLumaA8(_)
        | DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_) => (picture.into_luma8().into_raw(), 1),
        _ => {
            let interleaved = picture.into_rgb8().into_raw();
            let plane = |channel| interleaved.iter().skip(channel).step_by(3).copied();
            ((0..3).flat_map(plane).collect(), 3)
        }
    };
    Ok(Picture { pixels, shape: [channels, height, width] })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        save(&root.join("train/ant/deep/1.png"), (8, 4), [1, 2, 3]);
        fs::write(root.join("train/ant/readme.txt"), "no picture").unwrap();
        fs::write(root.join("train/ant/._2.png"), "no picture either").unwrap();
        // The test part lacks the first class: labels still mean the same.
        save(&root.join("test/cat/9.png"), (4, 4), [0, 0, 0]);

        let train = read_classes(root, Split::Train, None, None).unwrap();
        assert_eq!((train.labels.clone(), train.classes, train.shape()), (Some(vec![0, 0, 1]), 2, [3, 4, 4]));
        assert_eq!(train.image(2)[..16], [10; 16]);
        assert_eq!(train.image(1)[32..], [3; 16]);
        let test = read_classes(root, Split::Test, Some([1, 2, 2]), None).unwrap();
        assert_eq!((test.shape(), test.classes, test.labels), ([1, 2, 2], 2, Some(vec![1])));
        // Two pictures are one of each class, though two of the first come before.
        let two = read_classes(root, Split::Train, None, Some(2)).unwrap();
        assert_eq!((two.labels.clone(), two.full_size), (Some(vec![0, 1]), Some(3)));
        assert_eq!([two.image(0), two.image(1)], [train.image(0), train.image(2)]);
        let one = read_classes(root, Split::Train, None, Some(1)).unwrap();
        assert_eq!((one.len(), one.labels, one.full_size), (1, Some(vec![0]), Some(3)));

        save(&root.join("test/dog/1.png"), (4, 4), [0, 0, 0]);
        let error = read_classes(root, Split::Test, None, None).unwrap_err().to_string();
        assert!(error.contains("dog: is not a class of"), "{error}");
    }

    #[test]
    fn unlabelled_pictures_come_from_the_split_or_from_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(&root.join("b/1.png"), (4, 4), [1, 1, 1]);
        save(&root.join("a.png"), (6, 6), [2, 2, 2]);
        let all = read_flat(root, Split::Test, Some([3, 4, 4]), None).unwrap();
        assert_eq!((all.len(), all.image(0)[0], all.image(1)[0], all.labels.clone()), (2, 2, 1, None));
        assert_eq!(read_flat(root, Split::Train, Some([3, 4, 4]), None).unwrap().pixels, all.pixels);
        save(&root.join("test/1.png"), (4, 4), [7, 7, 7]);
        let test = read_flat(root, Split::Test, None, None).unwrap();
        assert_eq!((test.len(), test.pixels[0]), (1, 7));
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
            let set = read_flat(folder.path(), Split::Test, None, Some(limit)).unwrap();
            (0..set.len()).map(|image| set.image(image)[0]).collect::<Vec<u8>>()
        };
        assert_eq!(firsts(3), [1, 3, 5]);
        assert_eq!(firsts(4), [1, 2, 3, 5]);
    }

    #[test]
    fn grey_pictures_stay_grey() {
        let folder = tempfile::tempdir().unwrap();
        image::GrayImage::from_pixel(2, 2, image::Luma([9])).save(folder.path().join("1.png")).unwrap();
        image::ImageBuffer::from_pixel(2, 2, image::Luma([0x0900_u16])).save(folder.path().join("2.png")).unwrap();
        let set = read_flat(folder.path(), Split::Test, None, None).unwrap();
        assert_eq!((set.channels, set.pixels), (1, vec![9; 8]));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_elsewhere_are_refused() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        save(&elsewhere.path().join("1.png"), (4, 4), [0, 0, 0]);
        for (target, link) in [(elsewhere.path().to_owned(), "link"), (elsewhere.path().join("1.png"), "1.png")] {
            std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
            let error = read_flat(folder.path(), Split::Test, None, None).unwrap_err().to_string();
            assert!(error.ends_with("is a symbolic link"), "{error}");
            fs::remove_file(folder.path().join(link)).unwrap();
        }
        // The folder itself may be one.
        let link = folder.path().join("set");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        assert_eq!(read_flat(&link, Split::Test, None, None).unwrap().len(), 1);
    }

    #[test]
    fn unusable_folders_and_pictures_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = || {
            let message = read_flat(folder.path(), Split::Test, None, None).unwrap_err().to_string();
            message.replace(&folder.path().display().to_string(), "FOLDER")
        };
        assert_eq!(error(), "FOLDER holds no PNG or JPEG pictures");
        fs::write(folder.path().join("a.png"), "not a picture").unwrap();
        assert!(error().starts_with("FOLDER/a.png: "), "{}", error());
        save(&folder.path().join("a.png"), (300, 2), [0; 3]);
        assert_eq!(error(), "FOLDER/a.png: a picture of 2×300 pixels cannot be brought to a common shape");
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
