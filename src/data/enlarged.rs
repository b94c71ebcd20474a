//! A train set that is repeated, and of which a share is turned into outliers: pseudo-anomalies, with masks.
//!
//! Entry e of the repeated set is image e modulo N. Which entries are turned is the beginning of one permutation, drawn from the stream
//! (seed, `turned`): exactly the share of an epoch, and every larger share turns the same entries and more. What is made of an entry
//! depends on (seed, maker, entry) alone, so that all shares and all epochs draw from one pool of made images.
//!
//! - Paper: Tang et al., J. NUDT 2025, section 3: every category is repeated 10 times, and half of that turned.

use std::sync::Arc;

use garde::Validate;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ImageSet,
    pseudo::{self, Foreground, Marks, Pseudo},
};
use crate::{Result, rng};

/// Repetitions, at most. Ours: more than any paper's.
const MOST_REPEATS: usize = 1000;

/// Outliers that are made of train images and take their place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// What makes them: a list of makers, each equally often unless they give a `weight`.
    #[garde(length(min = 1), dive)]
    pub make: Vec<Pseudo>,
    /// The share of an epoch that is turned into outliers: exactly so many images, to the next whole one. The fusion paper's: 0.5.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "half")]
    pub share: f64,
    /// How often each train image comes in an epoch, normal or turned in its own way. The fusion paper's (and FCDD's): 10.
    #[garde(range(min = 1, max = MOST_REPEATS))]
    #[serde(default = "ten")]
    pub repeat: usize,
    /// Which pixels of a made image are anomalous.
    #[garde(dive)]
    #[serde(default)]
    pub mask: Marks,
    /// A position of a coarser grid is anomalous if this share of its pixels is, or more. Ours, since the paper does not say: 0.25.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default = "quarter")]
    pub cell: f64,
    /// Where anomalies may lie. Default: anywhere.
    #[garde(dive)]
    #[serde(default)]
    pub foreground: Foreground,
}

fn half() -> f64 {
    0.5
}

fn ten() -> usize {
    10
}

fn quarter() -> f64 {
    0.25
}

/// The images of an epoch of `images` train images, of which outliers may be `made`.
pub fn an_epoch(images: usize, made: Option<&Outliers>) -> usize {
    images * made.map_or(1, |made| made.repeat)
}

/// Which pixels of a batch of images are anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct Marked {
    /// (N, H, W), 1 where a pixel is anomalous and 0 elsewhere.
    pub pixels: Vec<u8>,
    /// Rows and columns.
    pub size: [usize; 2],
    /// [`Outliers::cell`].
    pub cell: f64,
    /// (N), what changed each image: 0 if nothing did, else one more than the place of its maker in [`Outliers::make`].
    pub makers: Vec<u32>,
}

impl Marked {
    /// N.
    pub fn images(&self) -> usize {
        self.pixels.len() / self.size.iter().product::<usize>().max(1)
    }
}

/// The repeated set.
#[derive(Debug)]
pub(super) struct Enlarged {
    outliers: Outliers,
    images: Arc<ImageSet>,
    seed: u64,
    turned: Vec<bool>,
}

impl Enlarged {
    pub(super) fn new(outliers: Outliers, images: Arc<ImageSet>, seed: u64) -> Self {
        let entries = an_epoch(images.len(), Some(&outliers));
        let mut order: Vec<usize> = (0..entries).collect();
        order.shuffle(&mut rng::stream(seed, "turned", ""));
        let count = (outliers.share * entries as f64).round() as usize;
        let mut turned = vec![false; entries];
        order[..count.min(entries)].iter().for_each(|entry| turned[*entry] = true);
        Self { outliers, images, seed, turned }
    }

    /// The same entries, those that stay normal first, and how many these are.
    pub(super) fn parted(&self, entries: &[usize]) -> (Vec<usize>, usize) {
        let (made, normal): (Vec<usize>, Vec<usize>) = entries.iter().partition(|entry| self.turned[**entry]);
        let count = normal.len();
        (normal.into_iter().chain(made).collect(), count)
    }

    /// Turns the images (n, C, H, W) of `entries` from the place `normal` on, and says which pixels that made anomalous. They are the set's
    /// images, or windows of them, of this shape.
    ///
    /// # Errors
    /// Those of reading an image; [`Error::Input`](crate::Error::Input) naming an image of which nothing can be made.
    pub(super) fn turn(&self, entries: &[usize], normal: usize, shape: [usize; 3], bytes: &mut [u8]) -> Result<Marked> {
        let [channels, height, width] = shape;
        let (length, pixels) = (channels * height * width, height * width);
        let Outliers { make, mask: marks, foreground, cell, .. } = &self.outliers;
        let mut masks = vec![0; entries.len() * pixels];
        let each = bytes.par_chunks_exact_mut(length).zip(masks.par_chunks_exact_mut(pixels)).zip(entries);
        each.skip(normal).try_for_each(|((image, mask), entry)| -> Result<()> {
            let made = pseudo::of(make, marks, foreground, (&self.images, shape), (*entry, image), self.seed)?;
            image.copy_from_slice(&made.image);
            mask.copy_from_slice(&made.mask);
            Ok(())
        })?;
        let maker = |(at, entry): (usize, &usize)| match at < normal {
            true => Ok(0),
            false => pseudo::place(make, *entry, self.seed).map(|place| place as u32 + 1),
        };
        let makers = entries.iter().enumerate().map(maker).collect::<Result<_>>()?;
        Ok(Marked { pixels: masks, size: [height, width], cell: *cell, makers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        Normalisation, Split,
        augment::Augment,
        batches::{Batch, Source, TrainBatches},
    };

    const SIDE: usize = 16;
    const IMAGES: usize = 5;

    /// Images of noise, so that a piece pasted elsewhere changes something.
    fn images() -> Arc<ImageSet> {
        let pixels: Vec<u8> = (0..IMAGES * 3 * SIDE * SIDE).map(|at| (at * 7919 % 251) as u8).collect();
        Arc::new(ImageSet::unlabelled("noise", Split::Train, [3, SIDE, SIDE], pixels))
    }

    fn batches(share: f64, steps: std::ops::Range<u64>) -> Vec<Batch> {
        windows(share, None, steps)
    }

    fn windows(share: f64, window: Option<usize>, steps: std::ops::Range<u64>) -> Vec<Batch> {
        let made = format!("{{ make: [cutpaste, {{ confetti: {{ weight: 2 }} }}], share: {share}, repeat: 4 }}");
        let source = Source {
            images: images(),
            labelled: false,
            round: None,
            outliers: None,
            made: Some(serde_saphyr::from_str(&made).unwrap()),
            normalisation: Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] },
            augment: Augment::default(),
            window,
            batch_size: 6,
            drop_last: false,
            seed: 3,
            device: candle_core::Device::Cpu,
        };
        TrainBatches::new(source, steps).unwrap().map(Result::unwrap).collect()
    }

    /// The pixels of each image of a batch, and whether it was turned.
    fn parts(batches: &[Batch]) -> Vec<(Vec<u32>, bool)> {
        let of = |batch: &Batch| {
            let pixels = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
            let normal = batch.normal;
            let bits =
                move |(at, image): (usize, Vec<f32>)| (image.iter().map(|p| p.to_bits()).collect(), at >= normal);
            pixels.into_iter().enumerate().map(bits).collect::<Vec<_>>()
        };
        batches.iter().flat_map(of).collect()
    }

    #[test]
    fn the_share_of_an_epoch_is_exact_and_normal_images_come_first() {
        // 20 images an epoch, in batches of 6, 6, 6 and 2.
        for (share, wanted) in [(0.0, 0), (0.05, 1), (0.5, 10), (0.52, 10), (0.53, 11), (1.0, 20)] {
            for epoch in [0, 1] {
                let batches = batches(share, 4 * epoch..4 * epoch + 4);
                assert_eq!(batches.iter().map(Batch::learned).collect::<Vec<_>>(), [6, 6, 6, 2]);
                let made: usize = batches.iter().map(|batch| batch.learned() - batch.normal).sum();
                assert_eq!(made, wanted, "share {share}");
                for batch in &batches {
                    let marked = batch.marked.as_ref().unwrap();
                    let of = marked.pixels.chunks(SIDE * SIDE).map(|mask| mask.contains(&1));
                    let expected = (0..batch.learned()).map(|at| at >= batch.normal);
                    assert_eq!(of.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                }
            }
        }
    }

    /// What an image says of its maker is what another mix, of that maker alone, makes of the same entry.
    #[test]
    fn an_image_knows_its_maker() {
        let entries = |batches: &[Batch]| -> Vec<(u32, Vec<u8>)> {
            let each = |batch: &Batch| {
                let marked = batch.marked.clone().unwrap();
                let masks: Vec<Vec<u8>> = marked.pixels.chunks(SIDE * SIDE).map(<[u8]>::to_vec).collect();
                marked.makers.into_iter().zip(masks)
            };
            batches.iter().flat_map(each).collect()
        };
        let half = entries(&batches(0.5, 0..4));
        let count = |maker| half.iter().filter(|(made, _)| *made == maker).count();
        assert_eq!((count(0), count(1) + count(2)), (10, 10));
        assert!(count(1) > 0 && count(2) > 0 && half.iter().all(|(maker, mask)| (*maker > 0) == mask.contains(&1)));
        // Confetti has squares that are turned and blurred: its masks are no rectangles.
        let all = entries(&batches(1.0, 0..4));
        let is_rectangle = |mask: &[u8]| {
            let rows: Vec<usize> = (0..SIDE).filter(|row| mask[row * SIDE..][..SIDE].contains(&1)).collect();
            let columns: Vec<usize> =
                (0..SIDE).filter(|column| (0..SIDE).any(|row| mask[row * SIDE + column] == 1)).collect();
            mask.iter().filter(|mark| **mark == 1).count() == rows.len() * columns.len()
        };
        let pasted = all.iter().filter(|(maker, _)| *maker == 1);
        assert!(pasted.clone().count() > 3 && pasted.filter(|(_, mask)| is_rectangle(mask)).count() > 3);
    }

    #[test]
    fn a_window_is_cut_before_an_outlier_is_made_of_it() {
        let side = 8;
        let [whole, seen] = [None, Some(side)].map(|window| windows(0.5, window, 0..8));
        let held = images();
        for (whole, seen) in whole.iter().zip(&seen) {
            assert_eq!(seen.images.dims(), [seen.learned(), 3, side, side]);
            assert_eq!((seen.normal, &seen.entries), (whole.normal, &None), "windows never come again");
            let (marked, before) = (seen.marked.as_ref().unwrap(), whole.marked.as_ref().unwrap());
            assert_eq!((marked.size, &marked.makers), ([side; 2], &before.makers));
            // Every outlier shows in its window, and a normal window is a part of an image.
            let masks = marked.pixels.chunks(side * side).enumerate();
            masks.for_each(|(at, mask)| assert_eq!(mask.contains(&1), at >= seen.normal));
            for window in 0..seen.normal {
                let pixels = seen.images.get(window).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let bytes: Vec<u8> = pixels.iter().map(|x| ((x * 0.25 + 0.5) * 255.0).round() as u8).collect();
                let found = (0..IMAGES).any(|image| {
                    let image = crate::data::augment::Image {
                        height: SIDE,
                        width: SIDE,
                        bytes: held.image(image).unwrap().into_owned(),
                    };
                    let places =
                        (0..=SIDE - side).flat_map(|top| (0..=SIDE - side).map(move |left| [top, left, side, side]));
                    places.into_iter().any(|place| crate::data::augment::crop::cut(&image, place).bytes == bytes)
                });
                assert!(found, "window {window}");
            }
        }
        let late = windows(0.5, Some(side), 5..8);
        assert_eq!(parts(&late), parts(&seen[5..]));
        assert_ne!(parts(&seen[..4]), parts(&seen[4..]), "another epoch has other windows");
    }

    #[test]
    fn all_shares_and_epochs_draw_from_one_pool() {
        let made = |share, steps| {
            let turned = parts(&batches(share, steps)).into_iter().filter(|(_, turned)| *turned);
            turned.map(|(pixels, _)| pixels).collect::<std::collections::BTreeSet<_>>()
        };
        let all = made(1.0, 0..4);
        assert_eq!(all.len(), 20);
        assert_eq!(made(1.0, 8..12), all);
        let (quarter, half) = (made(0.25, 0..4), made(0.5, 4..8));
        assert_eq!((quarter.len(), half.len()), (5, 10));
        assert!(quarter.is_subset(&half) && half.is_subset(&all));
    }

    #[test]
    fn every_image_comes_as_often_as_it_is_repeated() {
        let batches = parts(&batches(0.0, 0..4));
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        batches.into_iter().for_each(|(pixels, _)| *counts.entry(pixels).or_default() += 1);
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [4; IMAGES]);
    }

    #[test]
    fn a_run_that_goes_on_sees_what_it_would_have_seen() {
        let all = batches(0.5, 0..9);
        let late = batches(0.5, 5..9);
        assert_eq!(parts(&late), parts(&all[5..]));
        assert!(late.iter().zip(&all[5..]).all(|(one, other)| one.marked == other.marked));
    }
}
