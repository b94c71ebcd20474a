//! The images of one split, and how they become tensors.

use std::{borrow::Cow, collections::HashSet, ops::Range, sync::Arc};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Split,
    ahead::ahead,
    form::Fit,
    masks::Masks,
    pixels::{self, Pixels},
};
use crate::{Error, Result, digest::hex};

/// Images that are decoded together where all of a set are looked at. Ours: bounds what is held.
pub(super) const TOGETHER: usize = 512;

/// The images of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSet {
    /// The data set's name.
    pub name: String,
    /// Which part of it.
    pub split: Split,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Columns of a picture.
    pub width: usize,
    /// (N, C, H, W), 0..=255.
    pub pixels: Pixels,
    /// One class per image, from 0; `None` for unlabelled sets.
    pub labels: Option<Vec<u32>>,
    /// How many classes the set has; 0 without labels.
    pub classes: usize,
    /// How many images the complete split has, if known: fewer here means "subset" in every caption.
    pub full_size: Option<usize>,
    /// Where each image is, relative to the set's folder and with `/`; `None` where images are no files of their own.
    pub files: Option<Arc<Vec<String>>>,
    /// Which of their pixels are anomalous, if that is known.
    pub masks: Option<Masks>,
    /// What a reader of a table must know of these images: `JPEG-recompressed`, `synthetic`.
    pub note: Option<String>,
}

/// Per-channel mean and standard deviation of pixels in 0..1, by which images are normalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel; positive.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// That brings pixels in 0..1 to -1..1, as diffusion models take them.
    pub fn signed(channels: usize) -> Self {
        Self { mean: vec![0.5; channels], std: vec![0.5; channels] }
    }

    /// For captions: `mean 0.48, 0.45, 0.40 and std 0.23, 0.22, 0.23`.
    pub fn in_words(&self) -> String {
        let list = |values: &[f32]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(", ");
        format!("mean {} and std {}", list(&self.mean), list(&self.std))
    }

    /// For each channel the normalised value of every byte: (p / 255 − mean) / std in f32, in torchvision's order.
    ///
    /// # Errors
    /// `Error::Input` when there are not `channels` means and standard deviations, or one is unusable.
    pub(super) fn tables(&self, channels: usize) -> Result<Vec<[f32; 256]>> {
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                let what = format!("`{key}` has {} values but the images have {channels} channels", values.len());
                return Err(Error::input(what).hint(format!("give {channels} values under `{key}` of the ID data set")));
            }
        }
        let pairs = self.mean.iter().zip(&self.std);
        pairs
            .map(|(&mean, &std)| {
                if !mean.is_finite() || !std.is_finite() || std <= 0.0 {
                    return Err(Error::input(format!("mean {mean} and std {std} cannot normalise images")));
                }
                Ok(std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std))
            })
            .collect()
    }
}

impl ImageSet {
    /// A set of these images of `shape` (C, H, W), of which nothing else is known.
    pub fn unlabelled(
        name: impl Into<String>,
        split: Split,
        [channels, height, width]: [usize; 3],
        pixels: impl Into<Pixels>,
    ) -> Self {
        Self {
            name: name.into(),
            split,
            channels,
            height,
            width,
            pixels: pixels.into(),
            labels: None,
            classes: 0,
            full_size: None,
            files: None,
            masks: None,
            note: None,
        }
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.pixels.count(self.image_len())
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many images each class has; empty without labels.
    pub fn class_sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.labels.as_ref().map_or(0, |_| self.classes)];
        for label in self.labels.iter().flatten() {
            // A label beyond the classes is refused when the set is read.
            if let Some(size) = sizes.get_mut(*label as usize) {
                *size += 1;
            }
        }
        sizes
    }

    /// Channels, rows, columns.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Bytes of one image: C·H·W.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Bytes of all images: N·C·H·W.
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * self.image_len() as u64
    }

    /// The bytes of image `i`: (C, H, W).
    ///
    /// # Errors
    /// Of images that are not held: a file that cannot be read, is damaged, or was changed since it was found.
    ///
    /// # Panics
    /// When `i` is not below [`ImageSet::len`].
    pub fn image(&self, i: usize) -> Result<Cow<'_, [u8]>> {
        self.pixels.image(i, self.image_len())
    }

    /// The bytes of the images at `places`, one after another: (n, C, H, W). Images that are not held are decoded on all threads.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`].
    ///
    /// # Panics
    /// When a place is not below [`ImageSet::len`].
    pub fn read(&self, places: &[usize]) -> Result<Vec<u8>> {
        let length = self.image_len();
        match self.pixels.held() {
            // Copied faster than other threads are woken.
            Some(bytes) => {
                Ok(places.iter().map(|&place| &bytes[place * length..][..length]).collect::<Vec<_>>().concat())
            }
            None => pixels::read(self, places.par_iter().copied()),
        }
    }

    /// The bytes of the images `range`: (n, C, H, W).
    fn range(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        match self.pixels.held() {
            Some(bytes) => Ok(Cow::Borrowed(&bytes[range.start * self.image_len()..range.end * self.image_len()])),
            None => pixels::read(self, range.into_par_iter()).map(Cow::Owned),
        }
    }

    /// The SHA-256 of each image's bytes.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`].
    pub fn digests(&self) -> Result<Vec<[u8; 32]>> {
        (0..self.len()).into_par_iter().map(|i| Ok(Sha256::digest(self.image(i)?).into())).collect()
    }

    /// The SHA-256 of its images' bytes, each once.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`].
    pub fn distinct(&self) -> Result<HashSet<[u8; 32]>> {
        Ok(self.digests()?.into_iter().collect())
    }

    /// How many of its images are among these.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`].
    pub fn among(&self, images: &HashSet<[u8; 32]>) -> Result<usize> {
        Ok(self.digests()?.iter().filter(|digest| images.contains(*digest)).count())
    }

    /// The first `n` images, or all if there are fewer.
    #[must_use]
    pub fn take(mut self, n: usize) -> Self {
        let n = n.min(self.len());
        self.pixels.truncate(n, self.image_len());
        if let Some(labels) = &mut self.labels {
            labels.truncate(n);
        }
        if let Some(files) = &mut self.files {
            Arc::make_mut(files).truncate(n);
        }
        if let Some(masks) = &mut self.masks {
            masks.truncate(n);
        }
        self
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// When an index is not below [`ImageSet::len`].
    #[must_use]
    pub fn subset(&self, indices: &[usize]) -> Self {
        let pixels = self.pixels.subset(indices, self.image_len());
        let labels = self.labels.as_ref().map(|labels| indices.iter().map(|&i| labels[i]).collect());
        let files = self.files.as_ref().map(|files| indices.iter().map(|&i| files[i].clone()).collect()).map(Arc::new);
        let masks = self.masks.as_ref().map(|masks| masks.subset(indices));
        Self { pixels, labels, files, masks, name: self.name.clone(), note: self.note.clone(), ..*self }
    }

    /// The same images at another shape, as torchvision's `Resize` and `CenterCrop` would make them.
    ///
    /// Grey becomes RGB by repetition, RGB becomes grey by luma (0.299, 0.587, 0.114); bilinear resizing (with
    /// anti-aliasing when it shrinks) brings the shorter side to fit, the longer is cropped about the centre. Images
    /// that already have the shape are returned as they are.
    ///
    /// # Errors
    /// `Error::Input` when `channels` is neither 1 nor 3, or a side is 0.
    pub fn conform(self, channels: usize, height: usize, width: usize) -> Result<Self> {
        self.conform_by(channels, height, width, Fit::default())
    }

    /// The same images at another shape, resized and cropped as `fit` says.
    pub(super) fn conform_by(mut self, channels: usize, height: usize, width: usize, fit: Fit) -> Result<Self> {
        let to = [channels, height, width];
        if to != self.shape() || !fit.keeps() {
            self.pixels.conform(self.shape(), to, fit)?;
            [self.channels, self.height, self.width] = to;
        }
        Ok(self)
    }

    /// SHA-256 of the shape, the pixels and the labels, in hexadecimal: what results depend on, whatever the file.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`].
    pub fn sha256(&self) -> Result<String> {
        self.sha256_telling(|_| Ok(()))
    }

    /// [`ImageSet::sha256`], which tells how many images it has looked at, time and again.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`] and of `told`.
    pub fn sha256_telling(&self, mut told: impl FnMut(usize) -> Result<()>) -> Result<String> {
        let mut hash = Sha256::new();
        for size in [self.len(), self.channels, self.height, self.width] {
            hash.update((size as u64).to_le_bytes());
        }
        ahead(
            self.len(),
            TOGETHER,
            |range| self.range(range),
            |range, bytes| {
                hash.update(bytes);
                told(range.end)
            },
        )?;
        // A count first, so that no labels and no images are told apart.
        hash.update((self.labels.as_ref().map_or(0, Vec::len) as u64).to_le_bytes());
        for label in self.labels.iter().flatten() {
            hash.update(label.to_le_bytes());
        }
        Ok(hex(&hash.finalize()))
    }

    /// Images `range`, normalised: (n, C, H, W) f32.
    ///
    /// # Errors
    /// `Error::Failed` when the range leaves the set; `Error::Input` when the normalisation is not for C channels;
    /// `Error::Candle` when the device refuses; those of [`ImageSet::image`].
    pub fn tensor(&self, range: Range<usize>, norm: &Normalisation, device: &Device) -> Result<Tensor> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::Failed(format!("images {range:?} of {}, which has {}", self.name, self.len())));
        }
        let tables = norm.tables(self.channels)?;
        let images = range.len();
        normalised(&self.range(range)?, images, self.shape(), &tables, device)
    }
}

/// Bytes (n, C, H, W) through the channels' tables onto the device as f32.
pub(super) fn normalised(
    bytes: &[u8],
    n: usize,
    [channels, height, width]: [usize; 3],
    tables: &[[f32; 256]],
    device: &Device,
) -> Result<Tensor> {
    let mut values = Vec::with_capacity(bytes.len());
    for (plane, table) in bytes.chunks_exact(height * width).zip(tables.iter().cycle()) {
        values.extend(plane.iter().map(|&byte| table[usize::from(byte)]));
    }
    Ok(Tensor::from_vec(values, (n, channels, height, width), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        ImageSet {
            name: "three".into(),
            split: Split::Test,
            channels: 1,
            height: 2,
            width: 2,
            pixels: (0..12).collect(),
            labels: Some(vec![0, 1, 2]),
            classes: 3,
            full_size: Some(3),
            files: None,
            masks: None,
            note: None,
        }
    }

    #[test]
    fn takes_and_picks_images_with_their_labels() {
        assert_eq!(set().len(), 3);
        assert_eq!(set().take(2).labels, Some(vec![0, 1]));
        assert_eq!(set().take(2).class_sizes(), [1, 1, 0]);
        assert_eq!(ImageSet { labels: None, ..set() }.class_sizes(), [0; 0]);
        assert_eq!(set().take(9), set());
        let picked = set().subset(&[2, 0]);
        assert_eq!(picked.pixels.held().unwrap(), [8, 9, 10, 11, 0, 1, 2, 3]);
        assert_eq!(picked.labels, Some(vec![2, 0]));
        assert_eq!(picked.full_size, Some(3));
    }

    #[test]
    fn the_digest_sees_shape_pixels_and_labels_only() {
        let sha256 = |set: ImageSet| set.sha256().unwrap();
        let digest = sha256(set());
        assert_eq!(sha256(ImageSet { name: "other".into(), note: Some("synthetic".into()), ..set() }), digest);
        assert_ne!(sha256(ImageSet { height: 1, width: 4, ..set() }), digest);
        assert_ne!(sha256(ImageSet { labels: None, ..set() }), digest);
        assert_ne!(sha256(ImageSet { labels: Some(vec![0, 1, 1]), ..set() }), digest);
        assert_ne!(sha256(ImageSet { pixels: (1..13).collect(), ..set() }), digest);
    }

    #[test]
    fn pixels_are_normalised_as_torchvision_does() {
        let norm = Normalisation { mean: vec![0.5], std: vec![0.25] };
        let tensor = set().tensor(1..3, &norm, &Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [2, 1, 2, 2]);
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values[0], (4.0f32 / 255.0 - 0.5) / 0.25);
        assert_eq!(values[7], (11.0f32 / 255.0 - 0.5) / 0.25);
    }

    #[test]
    fn wrong_ranges_and_statistics_are_errors() {
        let norm = |mean: &[f32], std: &[f32]| Normalisation { mean: mean.into(), std: std.into() };
        let message = |range, norm| set().tensor(range, &norm, &Device::Cpu).unwrap_err().to_string();
        assert_eq!(message(0..4, norm(&[0.0], &[1.0])), "images 0..4 of three, which has 3");
        assert_eq!(message(0..1, norm(&[0.0; 3], &[1.0; 3])), "`mean` has 3 values but the images have 1 channels");
        assert_eq!(message(0..1, norm(&[0.0], &[0.0])), "mean 0 and std 0 cannot normalise images");
    }
}
