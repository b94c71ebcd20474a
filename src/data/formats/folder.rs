//! Images anywhere in a folder, without labels.

use std::path::{Path, PathBuf};

use super::{Format, Layout, Paint, Painter, Site, Wanted, splits};
use crate::{
    Error, Result,
    data::{
        Dataset, ImageSet, Split, damaged,
        listing::{Found, Listing, walk},
        masks::{self, Masks, Mirror},
        synthetic::SPOT,
        under,
    },
};

/// This format.
pub(super) struct Folder;

impl Layout for Folder {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, split).map(|place| vec![place])
    }

    fn read(&self, site: &Site, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        let listing = self.listing(site, split)?;
        let Some(found) = found(site, split, &listing)? else { return listing.read(split, wanted) };
        let place = listing.place.clone();
        let images = listing.read(split, wanted)?;
        let files: Vec<PathBuf> =
            images.files.iter().flat_map(|files| files.iter()).map(|file| place.join(file)).collect();
        let masks = Masks::read(site.dataset, (&files, &found), [images.height, images.width], wanted.fit)?;
        Ok(ImageSet { masks: Some(masks), ..images })
    }

    fn check_masks(&self, site: &Site) -> Result<()> {
        if site.dataset.masks.is_some() {
            found(site, Split::Test, &self.listing(site, Split::Test)?)?;
        }
        Ok(())
    }

    fn is_apart(&self) -> bool {
        true
    }

    fn is_labelled(&self) -> bool {
        false
    }

    fn listing(&self, site: &Site, split: Split) -> Result<Listing> {
        listing(&site.folder, site.dataset, split)
    }

    fn keys(&self) -> &'static [&'static str] {
        &["masks", "mask_rule"]
    }

    fn problem(&self, dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
        if dataset.mask_rule.is_some() && dataset.masks.is_none() {
            return Some((Some("mask_rule"), "goes with `masks`, the folder of the masks".to_owned()));
        }
        super::no_split(dataset)
    }

    /// Images with masks are made up in MVTec's layout.
    fn smoke(&self, dataset: &mut Dataset) {
        if dataset.masks.take().is_some() {
            (dataset.format, dataset.kind) = (Some(Format::Mvtec), Some(SPOT.to_owned()));
        }
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, 32, 32], classes: 10, free: true }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            let place = folder.join(split.name());
            (0..n).try_for_each(|i| painter.save_picture(i, &place))
        })
    }
}

/// The folder of a split's unlabelled pictures, or what was looked for.
fn locate(folder: &Path, split: Split) -> Result<PathBuf, String> {
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

/// The file of each image's mask, where the configuration says where the masks are.
///
/// # Errors
/// Those of [`masks_of`] and [`Mirror::find`].
fn found(site: &Site, split: Split, listing: &Listing) -> Result<Option<masks::Found>> {
    let Some(masks) = site.dataset.masks.as_ref().filter(|_| split == Split::Test) else { return Ok(None) };
    let masks = masks_of(masks, &listing.place, site)?;
    let mirror = Mirror {
        images: &listing.place,
        masks: &masks,
        folder: &masks,
        without: "every image needs one, black where nobody knows; without `masks` the labels are of whole images",
    };
    mirror.find(site.dataset, listing.files()).map(Some)
}

/// The folder of the masks of the images in `place`.
fn masks_of(masks: &Path, place: &Path, site: &Site) -> Result<PathBuf> {
    let folder = under(masks, site.root);
    let refused = |what: String| Error::input(format!("data set \"{}\": masks: {what}", site.dataset.name));
    if !folder.is_dir() {
        return Err(refused(format!("{} is no folder", folder.display()))
            .hint("`masks` is the folder of the masks; a relative path starts at the data folder"));
    }
    let [inner, outer] = [&*folder, place].map(|path| path.canonicalize().map_err(Error::io("read", path)));
    if inner?.starts_with(outer?) {
        let message = format!("{} lies in the folder of the images, {}", folder.display(), place.display());
        return Err(
            refused(message).hint("masks would be images, too: put the images and the masks into folders of their own")
        );
    }
    Ok(folder)
}

/// The images of a split without labels.
fn listing(folder: &Path, dataset: &Dataset, split: Split) -> Result<Listing> {
    let root = locate(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let mut found = Found::of(dataset, folder)?;
    walk(&root, 0, &mut found)?;
    Ok(Listing { place: root.clone(), root, files: found.images, others: found.others, ..Listing::default() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{
        ImageSet,
        form::Wanted,
        formats::examples::{save, wanted},
    };

    fn read_flat(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        listing(folder, &Dataset::named("mine"), split)?.read(split, wanted)
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
        assert_eq!(locate(root, Split::Train).unwrap_err(), "folder train/");
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
