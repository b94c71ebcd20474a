//! Measures of maps against masks, over all pixels of all test images: exact, on raw scores, without thresholds chosen in between.
//!
//! Pixels are gathered image by image, eight bytes each, sorted once, and walked once from the highest score. Pixels of one score
//! change sides together. Counts are u64 and sums f64, so the numbers do not depend on the order of images.

use rayon::prelude::*;

use crate::{Error, Result};

/// What [`Pixels`] gives; fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelMeasures {
    /// Area under the ROC curve of pixels; ties count one half.
    pub auroc: f64,
    /// Average precision, anomalous positive (scikit-learn's `average_precision_score`).
    pub ap: f64,
    /// The best F1 over all thresholds, anomalous positive: an upper bound that looks at the masks.
    pub best_f1: f64,
    /// The area under the per-region overlap up to a false positive rate, divided by that rate (Bergmann et al. 2021, MVTec's
    /// official evaluation): regions are 8-connected and count alike; the false positive rate is over the normal pixels of all images.
    pub pro: f64,
    /// The mean over anomalous images of the area under their recall by the logarithm of the false positive rate on normal images,
    /// from 1e-5 to 1e-4 (AUPIMO, Bertoldo et al. 2024); `None` without normal images, or with too few pixels of them.
    pub aupimo: Option<f64>,
}

/// AUPIMO's bounds of the false positive rate (Bertoldo et al. 2024).
pub const AUPIMO_FROM: f64 = 1e-5;
const AUPIMO_TO: f64 = 1e-4;

/// What a pixel is: of a normal image, a normal one of an anomalous image, or of the region with this number less [`FIRST`].
const NORMAL_IMAGE: u32 = 0;
const NORMAL_PIXEL: u32 = 1;
const FIRST: u32 = 2;

/// Pixels of test images, their scores and what they are.
#[derive(Debug, Clone, Default)]
pub struct Pixels {
    /// The score, such that larger integers are lower scores, and then what the pixel is.
    pixels: Vec<u64>,
    /// Of each region, its image's number among the anomalous ones, and its pixels.
    regions: Vec<(u32, u64)>,
    /// Anomalous pixels of each anomalous image.
    images: Vec<u64>,
}

impl Pixels {
    /// With room for so many pixels, 8 bytes each. Without it, what grows is copied, and takes three times as much for a moment.
    pub fn with_capacity(pixels: usize) -> Self {
        Self { pixels: Vec::with_capacity(pixels), ..Self::default() }
    }

    /// Adds an image: the scores of `sides` rows and columns, row by row, and its mask; `None` for a normal image. A mask without a
    /// pixel is that of a normal image here: leave an anomalous one of unknown place out.
    ///
    /// # Errors
    /// [`Error::Input`] if the scores or the mask have another size, or a score is not finite; nothing is added then.
    pub fn add(&mut self, scores: &[f32], mask: Option<&[bool]>, sides: [usize; 2]) -> Result<()> {
        let [rows, columns] = sides;
        for (what, length) in [("map", Some(scores.len())), ("mask", mask.map(<[bool]>::len))] {
            if length.is_some_and(|length| Some(length) != rows.checked_mul(columns)) {
                let length = length.unwrap_or_default();
                return Err(Error::input(format!("a {what} of {length} pixels for an image of {rows}×{columns}")));
            }
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let (row, column) = (at / columns.max(1), at % columns.max(1));
            return Err(Error::input(format!("score {} of row {row}, column {column} is not finite", scores[at])));
        }
        let mask = mask.filter(|mask| mask.contains(&true));
        let Some(mask) = mask else {
            self.pixels.extend(scores.iter().map(|score| key(*score, NORMAL_IMAGE)));
            return Ok(());
        };
        let (labels, areas) = regions(mask, columns);
        let first = u32::try_from(self.regions.len()).ok().and_then(|first| first.checked_add(FIRST));
        let first = first
            .filter(|first| first.checked_add(areas.len() as u32).is_some())
            .ok_or_else(|| Error::Failed("more regions than are counted".into()))?;
        let what = labels.iter().map(|label| label.checked_sub(1).map_or(NORMAL_PIXEL, |region| first + region));
        self.pixels.extend(scores.iter().zip(what).map(|(score, what)| key(*score, what)));
        let image = self.images.len() as u32;
        self.images.push(areas.iter().sum());
        self.regions.extend(areas.into_iter().map(|area| (image, area)));
        Ok(())
    }

    /// Sorts and walks the pixels; `limit` is the false positive rate up to which the overlap is integrated, 0.3 in MVTec's
    /// evaluation. `None` if there is no anomalous or no normal pixel.
    pub fn measure(&mut self, limit: f64) -> Option<PixelMeasures> {
        let anomalous: u64 = self.images.iter().sum();
        let normal = self.pixels.len() as u64 - anomalous;
        if anomalous == 0 || normal == 0 {
            return None;
        }
        self.pixels.par_sort_unstable();
        let of_normal_images = self.pixels.par_iter().filter(|pixel| what(**pixel) == NORMAL_IMAGE).count() as u64;
        let mut pro = Pro { limit, normal: normal as f64, x: 0.0, y: 0.0, area: 0.0 };
        let mut pimo = Pimo::new(&self.images, of_normal_images);
        let shares: Vec<f64> = self.regions.iter().map(|(_, area)| 1.0 / *area as f64).collect();
        let (mut hits, mut false_hits, mut overlap) = (0_u64, 0_u64, 0.0_f64);
        // Twice the pairs of an anomalous pixel and a lower normal one.
        let mut pairs = 0_u128;
        let (mut ap, mut best_f1) = (0.0_f64, 0.0_f64);
        for tied in self.pixels.chunk_by(|a, b| a >> 32 == b >> 32) {
            let (hits_before, false_before) = (hits, false_hits);
            for &pixel in tied {
                match what(pixel) {
                    NORMAL_IMAGE => {
                        false_hits += 1;
                        pimo.false_hits += 1;
                    }
                    NORMAL_PIXEL => false_hits += 1,
                    region => {
                        let region = (region - FIRST) as usize;
                        hits += 1;
                        overlap += shares[region];
                        pimo.hits[self.regions[region].0 as usize] += 1;
                    }
                }
            }
            let found = hits - hits_before;
            let lower = 2 * (normal - false_before) - (false_hits - false_before);
            pairs += u128::from(found) * u128::from(lower);
            let taken = (hits + false_hits) as f64;
            ap += found as f64 / anomalous as f64 * (hits as f64 / taken);
            best_f1 = best_f1.max(2.0 * hits as f64 / (anomalous as f64 + taken));
            pro.point(false_hits, overlap / self.regions.len() as f64);
            pimo.point();
        }
        Some(PixelMeasures {
            auroc: pairs as f64 / (2.0 * anomalous as f64 * normal as f64),
            ap,
            best_f1,
            pro: pro.area / limit,
            aupimo: pimo.mean(),
        })
    }
}

/// Curves as the threshold falls, each point a false positive rate over the normal pixels of all images and what is found there.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// Share of the anomalous pixels.
    pub roc: Vec<[f64; 2]>,
    /// Mean over regions of the share of their pixels.
    pub pro: Vec<[f64; 2]>,
}

/// Points closer than this in both directions are left out of a curve: the eye cannot tell them.
const NEAR: f64 = 0.002;

impl Pixels {
    /// Sorts and walks the pixels for curves to draw. `None` if there is no anomalous or no normal pixel.
    pub fn curves(&mut self) -> Option<Curves> {
        let anomalous: u64 = self.images.iter().sum();
        let normal = self.pixels.len() as u64 - anomalous;
        if anomalous == 0 || normal == 0 {
            return None;
        }
        self.pixels.par_sort_unstable();
        let (mut roc, mut pro) = (vec![[0.0; 2]], vec![[0.0; 2]]);
        let (mut hits, mut false_hits, mut overlap) = (0_u64, 0_u64, 0.0_f64);
        let regions = self.regions.len() as f64;
        for tied in self.pixels.chunk_by(|a, b| a >> 32 == b >> 32) {
            for &pixel in tied {
                match what(pixel) {
                    NORMAL_IMAGE | NORMAL_PIXEL => false_hits += 1,
                    region => {
                        hits += 1;
                        overlap += 1.0 / self.regions[(region - FIRST) as usize].1 as f64;
                    }
                }
            }
            let x = false_hits as f64 / normal as f64;
            let last = hits == anomalous && false_hits == normal;
            for (curve, y) in [(&mut roc, hits as f64 / anomalous as f64), (&mut pro, overlap / regions)] {
                let far = curve.last().is_none_or(|point| x - point[0] > NEAR || y - point[1] > NEAR);
                if far || last {
                    curve.push([x, y]);
                }
            }
        }
        Some(Curves { roc, pro })
    }
}

/// The trapezoid under the overlap, as its points come.
struct Pro {
    limit: f64,
    /// Normal pixels.
    normal: f64,
    x: f64,
    y: f64,
    area: f64,
}

impl Pro {
    fn point(&mut self, false_hits: u64, overlap: f64) {
        let x = false_hits as f64 / self.normal;
        if self.x < self.limit {
            let end = x.min(self.limit);
            // Where the curve leaves the range, it is cut.
            let y = if x > self.x { self.y + (overlap - self.y) * (end - self.x) / (x - self.x) } else { overlap };
            self.area += (end - self.x) * (self.y + y) / 2.0;
        }
        (self.x, self.y) = (x, overlap);
    }
}

/// The areas under each anomalous image's recall by the logarithm of the false positive rate on normal images.
struct Pimo<'a> {
    /// Anomalous pixels of each image.
    images: &'a [u64],
    /// Pixels of normal images.
    normal: u64,
    false_hits: u64,
    /// Anomalous pixels of each image that were found so far.
    hits: Vec<u64>,
    /// The point before: the rate, and each image's recall there.
    x: f64,
    recall: Vec<f64>,
    areas: Vec<f64>,
}

impl<'a> Pimo<'a> {
    fn new(images: &'a [u64], normal: u64) -> Self {
        let none = vec![0.0; images.len()];
        Self { images, normal, false_hits: 0, hits: vec![0; images.len()], x: 0.0, recall: none.clone(), areas: none }
    }

    /// A point of the curve: linear in the logarithm of the rate between two points, level before the first.
    fn point(&mut self) {
        let x = self.false_hits as f64 / self.normal as f64;
        // Only where the rate moves is there something to integrate, and what is found at the old rate belongs to its end.
        if self.x >= AUPIMO_TO || self.normal == 0 {
            return;
        }
        let inside = x > AUPIMO_FROM && x > self.x;
        let (from, to) = (self.x.max(AUPIMO_FROM), x.min(AUPIMO_TO));
        for image in 0..self.images.len() {
            let recall = self.hits[image] as f64 / self.images[image] as f64;
            if inside {
                let at = |rate: f64| {
                    // The logarithm of no false positive has no end: up to the first one the recall is that before it.
                    if self.x == 0.0 {
                        self.recall[image]
                    } else {
                        let share = (rate / self.x).ln() / (x / self.x).ln();
                        self.recall[image] + (recall - self.recall[image]) * share
                    }
                };
                self.areas[image] += (to / from).ln() * (at(from) + at(to)) / 2.0;
            }
            self.recall[image] = recall;
        }
        self.x = x;
    }

    fn mean(&self) -> Option<f64> {
        // With fewer pixels the lower bound is no rate that they can have.
        let enough = self.normal as f64 * AUPIMO_FROM >= 1.0;
        let width = (AUPIMO_TO / AUPIMO_FROM).ln();
        enough.then(|| self.areas.iter().sum::<f64>() / width / self.areas.len() as f64)
    }
}

/// The high half falls as the score rises.
fn key(score: f32, what: u32) -> u64 {
    // −0.0 is 0.0.
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!rising) << 32 | u64::from(what)
}

fn what(pixel: u64) -> u32 {
    pixel as u32
}

/// The 8-connected regions of a mask: of each pixel 0 or its region's number from 1, in the order of their first pixels; and their
/// areas.
pub fn regions(mask: &[bool], columns: usize) -> (Vec<u32>, Vec<u64>) {
    let mut labels = vec![0_u32; mask.len()];
    let mut areas = Vec::new();
    let mut open = Vec::new();
    let rows = mask.len() / columns.max(1);
    for start in 0..mask.len() {
        if !mask[start] || labels[start] != 0 {
            continue;
        }
        let label = areas.len() as u32 + 1;
        let mut area = 0;
        labels[start] = label;
        open.push(start);
        while let Some(at) = open.pop() {
            area += 1;
            let (row, column) = (at / columns, at % columns);
            for row in row.saturating_sub(1)..=(row + 1).min(rows - 1) {
                for column in column.saturating_sub(1)..=(column + 1).min(columns - 1) {
                    let near = row * columns + column;
                    if mask[near] && labels[near] == 0 {
                        labels[near] = label;
                        open.push(near);
                    }
                }
            }
        }
        areas.push(area);
    }
    (labels, areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_that_were_announced_take_eight_bytes_each() {
        let (sides, images) = ([32, 32], 50);
        let mut pixels = Pixels::with_capacity(images * 32 * 32);
        let room = pixels.pixels.capacity();
        let mask: Vec<bool> = (0..32 * 32).map(|at| at % 7 == 0).collect();
        for _ in 0..images {
            pixels.add(&[0.5; 32 * 32], Some(&mask), sides).unwrap();
        }
        assert_eq!((pixels.pixels.len(), pixels.pixels.capacity()), (images * 32 * 32, room));
        assert!(room < images * 32 * 32 * 11 / 10);
    }
}
