//! Images of folders and lists, decoded.
//!
//! A limit takes the first of every class or folder in turn, so that it leaves no class out while there are images for all, and
//! keeps their order. Images are brought to one shape one by one; where none is asked for, all must have one size.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use super::{
    ImageSet, Split, damaged,
    form::{Damaged, Fit, Wanted},
    image_set::TOGETHER,
    listing::name,
    picture,
    pixels::Pixels,
};
use crate::{Error, Result};

/// New images: these files at `shape` (channels, rows, columns) by `fit`, as those of a data set are read, without labels; and which of
/// the files they are. `problem` is told of each file that is no image, and may go on. They are held if they fit `memory` bytes.
///
/// # Errors
/// Those of `problem`, and of a file that vanishes.
pub fn new_images(
    files: &[PathBuf],
    shape: [usize; 3],
    fit: Fit,
    memory: u64,
    problem: impl FnMut(Error) -> Result<()>,
) -> Result<(ImageSet, Vec<usize>)> {
    let (pixels, kept) = decode_all(files, (shape, fit), fits(files.len(), shape, Some(memory)), problem)?;
    Ok((ImageSet::unlabelled("new images", Split::Test, shape, pixels), kept))
}

/// The rows and columns of an image file, without decoding its pixels.
///
/// # Errors
/// [`Error::Input`] naming the file, if it is no image.
pub fn picture_size(file: &Path) -> Result<[usize; 2]> {
    let [_, height, width] = picture::header(file)?;
    Ok([height, width])
}

/// The set with one more note.
pub(super) fn with_note(mut images: ImageSet, note: String) -> ImageSet {
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
    images.files = Some(Arc::new(kept.iter().map(|&place| name(root, &chosen_files[place])).collect()));
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

/// Reads `files` at one shape, and says which of them: all, unless damaged ones are to be skipped.
fn read_all(root: &Path, files: &[PathBuf], split: Split, wanted: &Wanted) -> Result<(ImageSet, Vec<usize>)> {
    if files.is_empty() {
        return Err(Error::input(format!("{} holds no images", root.display())).hint(picture::READ));
    }
    let shape = picture::shape(files, wanted)?;
    let held = fits(files.len(), shape, wanted.memory);
    let fitted = (shape, wanted.fit);
    let (pixels, kept) = match wanted.damaged {
        // The digest of the set, which is taken before any work, reads all images.
        Damaged::Refuse if !held => {
            (Pixels::of_files(files.iter().cloned(), shape, wanted.fit)?, (0..files.len()).collect())
        }
        Damaged::Refuse => decode_all(files, fitted, held, Err)?,
        Damaged::Skip => decode_all(files, fitted, held, |error| match error {
            Error::Input { .. } => Ok(()),
            error => Err(error),
        })?,
    };
    if kept.is_empty() {
        return Err(damaged(root, format!("all {} images are damaged", files.len())));
    }
    Ok((ImageSet::unlabelled("", split, shape, pixels), kept))
}

/// Whether so many images are held.
fn fits(images: usize, shape: [usize; 3], memory: Option<u64>) -> bool {
    let bytes = shape.iter().fold(images as u64, |bytes, &side| bytes.saturating_mul(side as u64));
    memory.is_none_or(|memory| bytes <= memory)
}

/// Decodes these files at `shape`, and says which of them could be. `problem` is told of the others and may end it.
fn decode_all(
    files: &[PathBuf],
    (shape, fit): ([usize; 3], Fit),
    held: bool,
    mut problem: impl FnMut(Error) -> Result<()>,
) -> Result<(Pixels, Vec<usize>)> {
    let (mut pixels, mut kept) = (Vec::new(), Vec::new());
    if held {
        // At once: a vector that grows takes twice its bytes at times.
        let _ = pixels.try_reserve_exact(files.len().saturating_mul(shape.iter().product()));
    }
    let decode = |file: &PathBuf| picture::at(file, shape, fit).map(|image| if held { image } else { Vec::new() });
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
        false => Pixels::of_files(kept.iter().map(|&place| files[place].clone()), shape, fit)?,
    };
    Ok((pixels, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_turns() {
        assert_eq!(in_turn(&['a', 'a', 'a', 'b', 'c', 'c'], 4), [0, 1, 3, 4]);
        assert_eq!(in_turn(&['a', 'a', 'a', 'b', 'c', 'c'], 2), [0, 3]);
        assert_eq!(in_turn(&['a', 'b', 'a'], 9), [0, 1, 2]);
        assert_eq!(in_turn(&['a', 'b'], 0), [0; 0]);
    }
}
