//! From a map at the grid that it was computed on to one at the size of the images, and to the image's score.
//!
//! The map is resized bilinearly (half-pixel centres, PyTorch's `align_corners=False`) and smoothed by a Gaussian, as
//! `scipy.ndimage.gaussian_filter` does it: cut off at 4 σ, the image mirrored at its edges with the edge repeated. The official code
//! of PaDiM and PatchCore does both. anomalib's kernel mirrors without the edge, which differs near the border. Both steps are
//! linear and work on each axis by itself, so that one matrix of each axis does them at once, in f64.

use rayon::prelude::*;

use super::{
    Maps, Scores,
    resample::{Axis, at_place, linear, resample},
};
use crate::{Result, data::Frame, nn::receptive::Receptive};

/// What a map's image is scored by.
#[derive(
    Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageScore {
    /// The largest value of the full map, as PaDiM's official code has it.
    #[default]
    Max,
    /// The largest value at the grid, neither resized nor smoothed, as PatchCore's official code has it.
    Patch,
    /// The mean of the values at the grid, as FCDD's code has it.
    Mean,
    /// The mean of this share of the full map's values, the largest, in 0..1: one value at least.
    Top(#[garde(range(min = 1e-9, max = 1.0))] f64),
}

/// What is done with a map on reading it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Post {
    /// σ of the Gaussian, in pixels of the network's input; 0: none.
    pub smooth: f64,
    /// How an image is scored.
    pub score: ImageScore,
    /// The Gaussian by which it is enlarged, in the place of bilinear interpolation.
    pub enlarge: Option<Receptive>,
}

impl Post {
    /// A map of `grid` (rows, columns) at `size` (rows, columns), resized and smoothed.
    ///
    /// # Panics
    /// When the map is not of this grid, or a size is 0.
    pub fn full(&self, map: &[f32], grid: [usize; 2], size: [usize; 2]) -> Vec<f32> {
        assert_eq!(map.len(), grid[0] * grid[1], "a map of {grid:?}");
        let [down, across] = [0, 1].map(|axis| {
            let larger = match &self.enlarge {
                None => linear(grid[axis], size[axis]),
                Some(enlarge) => enlarge.weights(grid[axis], size[axis]).into_iter().map(|row| (0, row)).collect(),
            };
            smoothed(&larger, grid[axis], self.smooth)
        });
        resample(map, grid[1], &down, &across)
    }

    /// An image's score, of its map at `grid` and the `size` of the images.
    ///
    /// # Panics
    /// As [`Post::full`].
    pub fn image(&self, map: &[f32], grid: [usize; 2], size: [usize; 2]) -> f32 {
        let largest = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match self.score {
            ImageScore::Patch => largest(map),
            ImageScore::Mean => (map.iter().copied().map(f64::from).sum::<f64>() / map.len() as f64) as f32,
            ImageScore::Max => largest(&self.full(map, grid, size)),
            ImageScore::Top(share) => {
                let mut full = self.full(map, grid, size);
                let count = ((share * full.len() as f64).ceil() as usize).clamp(1, full.len());
                full.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
                // In order, lest the sum depend on how they were selected.
                full[..count].sort_unstable_by(f32::total_cmp);
                (full[..count].iter().copied().map(f64::from).sum::<f64>() / count as f64) as f32
            }
        }
    }

    /// The scores of images of this `size` with these maps.
    ///
    /// # Errors
    /// As [`Scores::new`].
    pub fn scores(&self, maps: Maps, size: [usize; 2]) -> Result<Scores> {
        let images = 0..maps.images();
        let image = images.into_par_iter().map(|image| self.image(maps.map(image), maps.grid(), size));
        Scores::with_maps(image.collect(), maps)
    }
}

/// A full map, of images of `size`, at the size of the `picture` that the image was made of, as its [`Frame`] says: bilinear.
/// What the network did not see of the picture has the map's smallest value.
///
/// # Panics
/// When the map is not of this size, or a size is 0.
pub fn in_picture(full: &[f32], size: [usize; 2], frame: Frame, picture: [usize; 2]) -> Vec<f32> {
    assert_eq!(full.len(), size[0] * size[1], "a map of {size:?}");
    let [down, across] = [0, 1].map(|axis| {
        let place = |at: usize| {
            let source = (at as f64 + 0.5) * frame.scaled[axis] as f64 / picture[axis] as f64;
            let source = source - 0.5 - frame.corner[axis] as f64;
            if source < -0.5 || source > size[axis] as f64 - 0.5 {
                (0, Vec::new())
            } else {
                at_place(size[axis], source)
            }
        };
        (0..picture[axis]).map(place).collect::<Axis>()
    });
    let least = full.iter().copied().fold(f32::INFINITY, f32::min);
    let above: Vec<f32> = full.iter().map(|value| value - least).collect();
    resample(&above, size[1], &down, &across).into_iter().map(|value| value + least).collect()
}

/// An axis of `grid` values, and a Gaussian after it.
fn smoothed(larger: &Axis, grid: usize, sigma: f64) -> Axis {
    let size = larger.len();
    let radius = (4.0 * sigma + 0.5) as usize;
    let bell = |offset: usize| if radius == 0 { 1.0 } else { (-0.5 * (offset as f64 / sigma).powi(2)).exp() };
    let total = bell(0) + 2.0 * (1..=radius).map(bell).sum::<f64>();
    let row = |at: usize| {
        let mut weights = vec![0.0; grid];
        for step in 0..=2 * radius {
            // Mirrored, the edge repeated: the pattern repeats itself after 2 · size.
            let place = (at as i64 + step as i64 - radius as i64).rem_euclid(2 * size as i64) as usize;
            let (first, parts) = &larger[place.min(2 * size - 1 - place)];
            let weight = bell(step.abs_diff(radius)) / total;
            weights[*first..].iter_mut().zip(parts).for_each(|(sum, part)| *sum += weight * part);
        }
        let used = |weight: &f64| *weight != 0.0;
        let first = weights.iter().position(used).unwrap_or(0);
        let last = weights.iter().rposition(used).unwrap_or(first);
        (first, weights[first..=last].to_vec())
    };
    (0..size).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(smooth: f64, score: ImageScore) -> Post {
        Post { smooth, score, enlarge: None }
    }

    #[derive(serde::Deserialize)]
    struct Case {
        grid: [usize; 2],
        size: [usize; 2],
        sigma: f64,
        map: Vec<f32>,
        full: Vec<f32>,
    }

    /// Against PyTorch's `interpolate` and SciPy's `gaussian_filter`.
    #[test]
    fn maps_are_resized_and_smoothed_as_in_the_official_code() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/map.json")).unwrap();
        assert!(cases.len() >= 5);
        for case in cases {
            let full = post(case.sigma, ImageScore::Max).full(&case.map, case.grid, case.size);
            assert_eq!(full.len(), case.full.len());
            for (at, (found, expected)) in full.iter().zip(&case.full).enumerate() {
                let place = format!("{:?} to {:?}, σ {}, at {at}", case.grid, case.size, case.sigma);
                assert!((found - expected).abs() < 1e-5, "{place}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn an_image_is_scored_by_what_is_asked_for() {
        let map = [0.0, 1.0, 2.0, 3.0];
        let image = |score| post(0.0, score).image(&map, [2, 2], [2, 2]);
        assert_eq!(image(ImageScore::Max), 3.0);
        assert_eq!(image(ImageScore::Top(0.5)), 2.5);
        assert_eq!(image(ImageScore::Top(1e-9)), 3.0);
        // Twice as large, no pixel lies where the largest value does.
        let image = |score| post(1.0, score).image(&map, [2, 2], [4, 4]);
        assert_eq!(image(ImageScore::Patch), 3.0);
        assert!(image(ImageScore::Max) < 2.9);
        let yaml = |text: &str| serde_saphyr::from_str::<ImageScore>(text).unwrap();
        assert_eq!(
            [yaml("max"), yaml("patch"), yaml("{ top: 0.01 }")],
            [ImageScore::Max, ImageScore::Patch, ImageScore::Top(0.01)]
        );
    }

    /// A picture of 4 × 8 whose middle was seen at 2 × 2.
    #[test]
    fn a_map_lies_where_the_image_lay_in_the_picture() {
        let frame = Frame { scaled: [2, 4], corner: [0, 1] };
        let map = in_picture(&[1.0, 2.0, 3.0, 4.0], [2, 2], frame, [4, 8]);
        let rows: Vec<&[f32]> = map.chunks_exact(8).collect();
        assert_eq!(rows[0], [1.0, 1.0, 1.0, 1.25, 1.75, 2.0, 1.0, 1.0]);
        assert_eq!(rows[3], [1.0, 1.0, 3.0, 3.25, 3.75, 4.0, 1.0, 1.0]);
        let whole = Frame { scaled: [2, 2], corner: [0, 0] };
        assert_eq!(in_picture(&[1.5, 2.0, 3.0, 4.0], [2, 2], whole, [2, 2]), [1.5, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_constant_stays_what_it_is() {
        let full = post(4.0, ImageScore::Max).full(&[0.25; 12], [3, 4], [17, 9]);
        assert!(full.iter().all(|value| (value - 0.25).abs() < 1e-7), "{full:?}");
    }
}
