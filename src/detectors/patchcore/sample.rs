//! The patches of images, and a random sample of those of the train images.

use rand::seq::index;
use rayon::prelude::*;

use super::Counts;
use crate::{
    detectors::{
        patches::{Layout, Stage, means},
        resample::{Axis, Grow, axis, resample},
    },
    rng,
};

/// Channels whose planes are written into the rows together: their values share cache lines.
const CHANNELS: usize = 16;

/// How a batch becomes patches.
pub(super) struct Patches {
    pub layout: Layout,
    neighbourhood: usize,
    /// Of each stage, to the grid.
    axes: Vec<[Axis; 2]>,
}

impl Patches {
    pub fn new(layout: Layout, neighbourhood: usize) -> Self {
        let to = |stage: &Stage| [0, 1].map(|at| axis(stage.size[at], layout.grid[at], Grow::Linear));
        Self { axes: layout.stages.iter().map(to).collect(), neighbourhood, layout }
    }

    /// The (P, D) patches of one image of a batch.
    pub fn of(&self, values: &[Vec<f32>], image: usize) -> Vec<f32> {
        let (positions, columns) = (self.layout.positions(), self.layout.channels());
        let mut rows = vec![0.0; positions * columns];
        let mut offset = 0;
        for ((stage, values), [down, across]) in self.layout.stages.iter().zip(values).zip(&self.axes) {
            let size = stage.size[0] * stage.size[1];
            let maps = &values[image * stage.channels * size..][..stage.channels * size];
            for maps in maps.chunks(CHANNELS * size) {
                let planes: Vec<Vec<f32>> = maps
                    .chunks_exact(size)
                    .map(|map| {
                        let mean = means(map, stage.size, self.neighbourhood);
                        if stage.size == self.layout.grid { mean } else { resample(&mean, stage.size[1], down, across) }
                    })
                    .collect();
                for (position, row) in rows.chunks_exact_mut(columns).enumerate() {
                    for (value, plane) in row[offset..].iter_mut().zip(&planes) {
                        *value = plane[position];
                    }
                }
                offset += planes.len();
            }
        }
        rows
    }
}

/// The sampled patches of the train images, gathered batch by batch.
pub(super) struct Sample {
    /// Their places among all patches, rising.
    places: Vec<usize>,
    /// Rows that are there.
    filled: usize,
    pub rows: Vec<f32>,
}

impl Sample {
    pub fn new(counts: &Counts, columns: usize, seed: u64) -> Self {
        let places = if counts.sampled == counts.patches {
            (0..counts.patches).collect()
        } else {
            let mut stream = rng::stream(seed, "PatchCore's sample", &counts.patches.to_string());
            let mut places = index::sample(&mut stream, counts.patches, counts.sampled).into_vec();
            places.sort_unstable();
            places
        };
        Self { filled: 0, rows: vec![0.0; places.len() * columns], places }
    }

    /// Takes what is sampled of a batch whose first image is at position `start`.
    pub fn add(&mut self, patches: &Patches, values: &[Vec<f32>], start: usize) {
        let (positions, columns) = (patches.layout.positions(), patches.layout.channels());
        let mut rest = &mut self.rows[self.filled * columns..];
        let mut wanted = Vec::new();
        for image in 0..patches.layout.images(values) {
            let first = (start + image) * positions;
            let places = &self.places[self.filled..];
            let places = &places[..places.partition_point(|place| *place < first + positions)];
            let (rows, others) = rest.split_at_mut(places.len() * columns);
            rest = others;
            self.filled += places.len();
            wanted.push((image, first, places, rows));
        }
        wanted.into_par_iter().filter(|(_, _, places, _)| !places.is_empty()).for_each(
            |(image, first, places, rows)| {
                let all = patches.of(values, image);
                for (row, place) in rows.chunks_exact_mut(columns).zip(places) {
                    row.copy_from_slice(&all[(place - first) * columns..][..columns]);
                }
            },
        );
    }
}
