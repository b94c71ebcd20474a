//! Masks: which pixels of an image are anomalous, at the size that networks are fed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dataset, Fit, conform, listing, picture};
use crate::{Error, Result, digest::hex};

/// When a pixel of the resized image counts as anomalous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskRule {
    /// If the mask's pixel at its centre is. anomalib and most papers resize so.
    #[default]
    Nearest,
    /// If half of its area is, or more.
    Half,
    /// If any part of its area is: nothing small gets lost.
    Any,
}

/// The masks of a set's images, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Masks {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    of: Vec<Mask>,
}

/// What is known of one image's pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mask {
    /// None is anomalous.
    Normal,
    /// These are, eight to a byte.
    Marked(Arc<[u8]>),
    /// The image is anomalous, and its mask marks nothing at this size.
    Empty,
}

impl Masks {
    /// Of `count` normal images.
    pub fn normal([height, width]: [usize; 2], count: usize) -> Self {
        Self { height, width, of: vec![Mask::Normal; count] }
    }

    pub(super) fn of([height, width]: [usize; 2], of: Vec<Mask>) -> Self {
        Self { height, width, of }
    }

    /// Those of these images, which are brought to `size` by `fit`; `found` are the files of the masks of all images of their folder.
    ///
    /// # Errors
    /// [`Error::Input`] naming the mask that is unreadable, or of another size than its image.
    pub(super) fn read(
        dataset: &Dataset,
        (images, found): (&[PathBuf], &Found),
        size: [usize; 2],
        fit: Fit,
    ) -> Result<Self> {
        let masks = images.iter().map(|image| {
            let mask = found.get(image).ok_or_else(|| Error::Failed(format!("{} is not listed", image.display())))?;
            read_mask(mask, image, size, fit, dataset.mask_rule.unwrap_or_default())
        });
        Ok(Self::of(size, masks.collect::<Result<Vec<Mask>>>()?))
    }

    /// H·W bytes of image `i`, 1 where it is anomalous; `None` if it is anomalous and nobody marked where.
    ///
    /// # Panics
    /// When `i` is not below the number of images.
    pub fn image(&self, i: usize) -> Option<Vec<u8>> {
        let pixels = self.height * self.width;
        match &self.of[i] {
            Mask::Normal => Some(vec![0; pixels]),
            Mask::Marked(bits) => Some((0..pixels).map(|at| bits[at / 8] >> (at % 8) & 1).collect()),
            Mask::Empty => None,
        }
    }

    /// How many images are anomalous without a marked pixel at this size: they have no part in pixel measures.
    pub fn empty(&self) -> usize {
        self.of.iter().filter(|mask| **mask == Mask::Empty).count()
    }

    /// SHA-256 of the masks, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new_with_prefix(format!("{}×{}\n", self.height, self.width));
        for mask in &self.of {
            match mask {
                Mask::Normal => hash.update(b"normal\n"),
                Mask::Empty => hash.update(b"empty\n"),
                Mask::Marked(bits) => {
                    hash.update(b"marked\n");
                    hash.update(bits);
                }
            }
        }
        hex(&hash.finalize())
    }

    pub(super) fn subset(&self, indices: &[usize]) -> Self {
        Self { of: indices.iter().map(|&i| self.of[i].clone()).collect(), ..*self }
    }

    pub(super) fn truncate(&mut self, count: usize) {
        self.of.truncate(count);
    }
}

/// The file of each image's mask.
pub(super) type Found = BTreeMap<PathBuf, PathBuf>;

/// Masks in files below a folder, under the paths that their images have below another.
pub(super) struct Mirror<'a> {
    /// The folder of the images.
    pub(super) images: &'a Path,
    /// The folder of the masks.
    pub(super) masks: &'a Path,
    /// The folder that holds both, or that of the masks: links stay in it.
    pub(super) folder: &'a Path,
    /// What else may be done about an image without a mask.
    pub(super) without: &'static str,
}

impl Mirror<'_> {
    /// The file of each image's mask, for all images of the folder, without reading any. It is `000_mask`, or `000` as some sets have
    /// it, with any ending of an image.
    ///
    /// # Errors
    /// [`Error::Input`] naming the image that has no mask or two, or the mask that has no image or two.
    pub(super) fn find(&self, dataset: &Dataset, images: &[PathBuf]) -> Result<Found> {
        let known = self.known(dataset)?;
        // Of each mask, its image.
        let mut used: BTreeMap<&Path, &Path> = BTreeMap::new();
        let mut without = None;
        for image in images {
            let name = without_ending(image, self.images);
            let Some(masks) = names_of_mask(&name).iter().find_map(|name| known.get(name)) else {
                without = without.or(Some((image, name)));
                continue;
            };
            if let [one, two, ..] = &masks[..] {
                return Err(two_masks(image, [one, two]));
            }
            if let Some(other) = used.insert(&masks[0], image) {
                let [mask, other, image] = [&masks[0], other, image].map(Path::display);
                return Err(Error::input(format!("{mask} would be the mask of two images: {other} and {image}"))
                    .hint("a mask has the path of one image, without the ending: rename an image, or take it away"));
            }
        }
        if let Some(mask) = known.values().flatten().find(|mask| !used.contains_key(mask.as_path())) {
            let name = without_ending(mask, self.masks);
            let image = images.iter().find(|image| names_of_mask(&without_ending(image, self.images)).contains(&name));
            let taken = image.and_then(|image| Some((image, used.iter().find(|(_, of)| *of == image)?.0)));
            return Err(match taken {
                Some((image, other)) => two_masks(image, [other, mask]),
                None => {
                    Error::input(format!("{} is a mask without an image in {}", mask.display(), self.images.display()))
                        .hint("a mask has the path of its image: rename it, or take it away")
                }
            });
        }
        if let Some((image, name)) = without {
            let wanted = self.masks.join(format!("{}_mask.png", name.display()));
            let message = format!("{} has no mask: no {}", image.display(), wanted.display());
            return Err(Error::input(message).hint(self.without));
        }
        Ok(used.into_iter().map(|(mask, image)| (image.to_owned(), mask.to_owned())).collect())
    }

    /// The masks by their paths below their folder, without the ending.
    fn known(&self, dataset: &Dataset) -> Result<BTreeMap<PathBuf, Vec<PathBuf>>> {
        let mut known: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        if self.masks.is_dir() {
            for mask in listing::images_below(dataset, self.folder, self.masks)?.0 {
                known.entry(without_ending(&mask, self.masks)).or_default().push(mask);
            }
        }
        Ok(known)
    }
}

/// A file's path below a folder, without the ending.
fn without_ending(file: &Path, folder: &Path) -> PathBuf {
    file.strip_prefix(folder).unwrap_or(file).with_extension("")
}

/// What the mask of an image of this name may be called.
fn names_of_mask(name: &Path) -> [PathBuf; 2] {
    let mut marked = name.file_name().unwrap_or_default().to_owned();
    marked.push("_mask");
    [name.with_file_name(marked), name.to_owned()]
}

/// The error of an image with two masks.
fn two_masks(image: &Path, masks: [&Path; 2]) -> Error {
    let [image, one, two] = [image, masks[0], masks[1]].map(Path::display);
    Error::input(format!("{image} has two masks: {one} and {two}")).hint("leave the right one and take the other away")
}

/// The mask in a file, of an image that is brought to `size` by `fit`.
///
/// # Errors
/// [`Error::Input`] naming the file if it is damaged or its size is not the image's.
fn read_mask(path: &Path, image: &Path, size: [usize; 2], fit: Fit, rule: MaskRule) -> Result<Mask> {
    let [_, rows, columns] = picture::header(image)?;
    let (marked, [height, width]) = picture::marks(path).map_err(|error| match error {
        // Only images are left out.
        Error::Input { message, .. } => {
            Error::input(message).hint("make the mask again, or take it and its image away")
        }
        other => other,
    })?;
    if [height, width] != [rows, columns] {
        return Err(Error::input(format!(
            "{} has {height}×{width} pixels, its image {} has {rows}×{columns}",
            path.display(),
            image.display()
        ))
        .hint("a mask has the size of its image: make it again from the original, or resize both alike"));
    }
    let fitted = fitted(&marked, [height, width], size, fit, rule);
    Ok(match fitted.iter().any(|marked| *marked) {
        true => Mask::Marked(packed(&fitted)),
        false => Mask::Empty,
    })
}

fn packed(marked: &[bool]) -> Arc<[u8]> {
    let byte = |bits: &[bool]| bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at);
    marked.chunks(8).map(byte).collect()
}

/// A mask of `from` rows and columns at the size that its image is brought to.
fn fitted(marked: &[bool], from: [usize; 2], to: [usize; 2], fit: Fit, rule: MaskRule) -> Vec<bool> {
    let frame = conform::Frame::of(from, to, fit);
    let [[scaled_rows, scaled_columns], [top, left]] = [frame.scaled, frame.corner];
    let scale = [from[0] as f64 / scaled_rows as f64, from[1] as f64 / scaled_columns as f64];
    // The rows, or columns, that a pixel of the result covers, with the share of each.
    let covered = |axis: usize, at: usize| -> Vec<(usize, f64)> {
        let (begin, end) = (at as f64 * scale[axis], (at + 1) as f64 * scale[axis]);
        let last = (end.ceil() as usize).min(from[axis]);
        let share = |place: usize| (end.min(place as f64 + 1.0) - begin.max(place as f64)) / (end - begin);
        (begin.floor() as usize..last).map(|place| (place, share(place))).filter(|(_, share)| *share > 1e-9).collect()
    };
    let nearest = |axis: usize, at: usize| (((at as f64 + 0.5) * scale[axis]) as usize).min(from[axis] - 1);
    let columns: Vec<_> = (0..to[1]).map(|column| (nearest(1, left + column), covered(1, left + column))).collect();
    let mut result = Vec::with_capacity(to[0] * to[1]);
    for row in 0..to[0] {
        let (nearest_row, rows) = (nearest(0, top + row), covered(0, top + row));
        for (nearest_column, columns) in &columns {
            let area = || -> f64 {
                let of_row = |row: usize| {
                    columns
                        .iter()
                        .filter(|(column, _)| marked[row * from[1] + column])
                        .map(|(_, share)| share)
                        .sum::<f64>()
                };
                rows.iter().map(|(row, share)| share * of_row(*row)).sum()
            };
            result.push(match rule {
                MaskRule::Nearest => marked[nearest_row * from[1] + nearest_column],
                MaskRule::Half => area() >= 0.5 - 1e-9,
                MaskRule::Any => area() > 0.0,
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Vec<bool> {
        rows.concat().chars().map(|c| c == '#').collect()
    }

    #[test]
    fn each_rule_marks_what_it_says() {
        // Of 4×4 to 2×2: nothing, a corner away from the centre, a half, all.
        let marked = mask(&["...#", "....", "##..", "..##"]);
        let of = |rule| fitted(&marked, [4, 4], [2, 2], Fit::default(), rule);
        assert_eq!(of(MaskRule::Any), [false, true, true, true]);
        assert_eq!(of(MaskRule::Half), [false, false, true, true]);
        // The pixel at the centre, which belongs to the lower right of the four, as Pillow takes it.
        assert_eq!(of(MaskRule::Nearest), [false, false, false, true]);
        for rule in [MaskRule::Nearest, MaskRule::Half, MaskRule::Any] {
            assert_eq!(fitted(&marked, [4, 4], [4, 4], Fit::default(), rule), marked, "{rule:?}");
        }
    }

    #[test]
    fn a_mask_is_cropped_as_its_image_is() {
        // The longer side is cropped about its centre.
        let marked = mask(&["#....#", ".#..#."]);
        assert_eq!(fitted(&marked, [2, 6], [2, 2], Fit::default(), MaskRule::Any), [false; 4]);
        let marked = mask(&["..##..", "......"]);
        assert_eq!(fitted(&marked, [2, 6], [2, 2], Fit::default(), MaskRule::Half), [true, true, false, false]);
    }

    #[test]
    fn bits_are_kept_and_counted() {
        let marked = mask(&["#.#", ".##", "..#"]);
        let masks = Masks::of([3, 3], vec![Mask::Normal, Mask::Marked(packed(&marked)), Mask::Empty]);
        assert_eq!(masks.image(0).unwrap(), [0; 9]);
        assert_eq!(masks.image(1).unwrap(), [1, 0, 1, 0, 1, 1, 0, 0, 1]);
        assert_eq!((masks.image(2), masks.empty()), (None, 1));
        assert_eq!(masks.subset(&[2, 1]).image(1), masks.image(1));
    }
}
