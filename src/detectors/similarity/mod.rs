//! Inner products with every train image: the largest of them, found without computing most.
//!
//! Rows are rounded to eight bits around the mean of those near to them; a processor takes products of such integers four times as fast as
//! those of f32. How far a product can be from the true one is known for every pair (Cauchy and Schwarz); only rows that can be among
//! the largest are multiplied in full, in f64. Of distances, groups of rows that are too far away are not looked at (triangle inequality).
//! What is found does not depend on the rounding, for rows and images whose lengths are between 1e-10 and 1e10 (or 0), as those of unit vectors
//! times a confidence are: bounds are f32, which products of others leave.
//!
//! On a GPU (`on_gpu`) the products with all rows are f32, and how far these can be off is known as well. What is found is the same to the bit.

mod on_gpu;
#[cfg(test)]
mod tests;
mod tile;

use std::{cmp::Reverse, collections::BinaryHeap};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use on_gpu::OnGpu;
use tile::{Image, Tile, groups};

use super::{Peak, map_rows};
use crate::{Error, Result, ops::wide};

/// Train images that are multiplied at a time, at most: 1 MiB of products with [`TOGETHER`] images.
const TILE: usize = 4096;
/// Images that a thread compares at a time. A tile's products with so many stay in its cache.
const TOGETHER: usize = 64;
/// Candidates of an image, at most but for a tile's: 12 bytes each. More are multiplied in full before the next tile.
const MOST_CANDIDATES: usize = 1 << 14;
/// Rows that are multiplied in full side by side: memory is slower than the processor, and four rows come sooner together.
const IN_FULL: usize = 4;
/// Values that a loop takes together.
const LANES: usize = 16;
/// The same of f64.
const DOUBLES: usize = 8;
/// 255 · 127 · this many products are no more than 31 bits.
const MOST_COLUMNS: usize = 66_000;

type Kernel = GemmExecutor<u8, i8, i32>;

/// What an image is compared with.
pub(super) struct Neighbours {
    /// (M, D)
    rows: Vec<f32>,
    columns: usize,
    /// What is added to each row's products.
    offsets: Vec<f64>,
    kernel: Kernel,
    tiles: Vec<Tile>,
    /// Whether closeness is by distance, so that tiles too far away need not be looked at.
    by_distance: bool,
    on_gpu: Option<OnGpu>,
}

/// A row's closeness to an image, larger being closer; the index settles ties, so that the same rows are found every time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Near {
    pub closeness: f64,
    pub row: u32,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.closeness.total_cmp(&other.closeness).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Neighbours {
    /// The rows of (M, D) finite values, close when their inner product with an image is large.
    ///
    /// # Errors
    /// [`Error::Input`] if D is more than 66,000.
    pub fn by_product(rows: Vec<f32>, columns: usize) -> Result<Self> {
        let offsets = vec![0.0; rows.len() / columns];
        Self::new(rows, columns, offsets, false)
    }

    /// The same, close when their Euclidean distance d from an image x is small: the closeness is (‖x‖² − d²) / 2.
    ///
    /// # Errors
    /// As [`Neighbours::by_product`].
    pub fn by_distance(rows: Vec<f32>, columns: usize) -> Result<Self> {
        let offsets = rows.par_chunks_exact(columns).map(|row| -0.5 * product(row, row)).collect();
        Self::new(rows, columns, offsets, true)
    }

    fn new(rows: Vec<f32>, columns: usize, offsets: Vec<f64>, by_distance: bool) -> Result<Self> {
        if columns > MOST_COLUMNS {
            let message = format!("{columns} features are too many to look for neighbours; {MOST_COLUMNS} are not");
            return Err(Error::input(message));
        }
        let kernel = GemmExecutor::new();
        let groups = groups(&rows, columns);
        let tiles = groups.iter().map(|group| Tile::new(&kernel, &rows, columns, &offsets, group)).collect();
        Ok(Self { rows, columns, offsets, kernel, tiles, by_distance, on_gpu: None })
    }

    /// The same, looked for on this device if it is a GPU that has room for the rows. What is found stays the same, to the bit.
    pub fn on(self, device: Option<&Device>) -> Self {
        let on_gpu = device.and_then(|device| OnGpu::new(&self, device));
        Self { on_gpu, ..self }
    }

    /// D.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// M.
    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes that are held of a row of so many columns: the row, its place, and a quarter for what neighbours are screened by.
    pub fn bytes_of_a_row(columns: usize) -> usize {
        (4 * columns + 16) * 5 / 4
    }

    /// The Euclidean distance of an image (D) to a row.
    pub fn distance(&self, image: &[f32], row: u32) -> f64 {
        let squares = image.iter().zip(self.row(row)).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// A row's values.
    pub fn row(&self, row: u32) -> &[f32] {
        &self.rows[row as usize * self.columns..][..self.columns]
    }

    /// The `k` closest rows to each of (B, D) finite `images`, the closest first; 1 ≤ k ≤ M.
    ///
    /// # Errors
    /// [`Error::Failed`] if numbers leave the range of f32.
    pub fn closest(&self, images: &[f32], k: usize) -> Result<Vec<Vec<Near>>> {
        match &self.on_gpu {
            Some(on_gpu) => on_gpu.closest(self, images, k),
            None => self.closest_on_cpu(images, k),
        }
    }

    /// [`Neighbours::closest`] without a GPU.
    fn closest_on_cpu(&self, images: &[f32], k: usize) -> Result<Vec<Vec<Near>>> {
        let image = |index: usize| &images[index * self.columns..][..self.columns];
        // Images of the same tile together: then what is close to one of them is soon found for all.
        let tile_of = |image: &[f32]| self.by_closeness(&[image])[0];
        let tiles: Vec<usize> = images.par_chunks_exact(self.columns).map(tile_of).collect();
        let mut order: Vec<usize> = (0..tiles.len()).collect();
        order.sort_by_key(|index| tiles[*index]);
        let together = order.len().div_ceil(rayon::current_num_threads()).clamp(1, TOGETHER);
        let found = order.par_chunks(together).map_init(Room::default, |room, block| {
            let block: Vec<&[f32]> = block.iter().map(|index| image(*index)).collect();
            self.closest_to(&block, k, room)
        });
        let found: Vec<Vec<Vec<Near>>> = found.collect::<Result<_>>()?;
        let mut closest = vec![Vec::new(); order.len()];
        order.into_iter().zip(found.into_iter().flatten()).for_each(|(index, found)| closest[index] = found);
        match closest.iter().all(|found| found.len() == k) {
            true => Ok(closest),
            false => Err(Error::Failed("features are too large to be compared in f32".into())),
        }
    }

    /// The tiles, those first whose rows are close to these images on average.
    fn by_closeness(&self, images: &[&[f32]]) -> Vec<usize> {
        let closeness = |tile: &Tile| images.iter().map(|image| product(image, &tile.mean) + tile.offset).sum::<f64>();
        let closeness: Vec<f64> = self.tiles.iter().map(closeness).collect();
        let mut tiles: Vec<usize> = (0..self.tiles.len()).collect();
        tiles.sort_by(|a, b| closeness[*b].total_cmp(&closeness[*a]));
        tiles
    }

    /// [`Neighbours::closest`] of a block of images.
    fn closest_to(&self, images: &[&[f32]], k: usize, room: &mut Room) -> Result<Vec<Vec<Near>>> {
        let mut all: Vec<(&[f32], f64, Candidates)> =
            images.iter().map(|image| (*image, product(image, image), Candidates::new(k))).collect();
        for tile in self.by_closeness(images) {
            let tile = &self.tiles[tile];
            let reached = |(image, squares, candidates): &&mut (&[f32], f64, Candidates)| {
                !self.by_distance || tile.reach(product(image, &tile.mean), *squares) >= f64::from(candidates.least)
            };
            let reached = all.iter_mut().filter(reached).map(|(image, _, candidates)| (*image, candidates));
            let mut reached: Vec<_> = reached.collect();
            if !reached.is_empty() {
                self.look_at(tile, &mut reached, room)?;
            }
            if self.by_distance {
                // How close the closest are rules out tiles, and must be known exactly: rounding may be more than their distance.
                reached.into_iter().for_each(|(image, candidates)| candidates.settle(self, image));
            }
        }
        let closest = |(image, _, mut candidates): (&[f32], f64, Candidates)| {
            candidates.settle(self, image);
            candidates.into_closest()
        };
        Ok(all.into_iter().map(closest).collect())
    }

    /// Adds a tile's candidates to those of each of these images.
    fn look_at(&self, tile: &Tile, images: &mut [(&[f32], &mut Candidates)], room: &mut Room) -> Result<()> {
        // Where pairs of products are added up in 16 bits, seven bits of an image are all that fit.
        let steps = if self.kernel.may_saturate() { 127.0 } else { 255.0 };
        let width = tile.rows.len();
        room.integers.resize(images.len() * self.columns, 0);
        room.products.resize(images.len() * width, 0);
        room.bounds.resize(width, 0.0);
        let each = images.iter().zip(room.integers.chunks_exact_mut(self.columns));
        let rounded: Vec<Image> =
            each.map(|((image, _), integers)| tile.image(image, steps, &mut room.rest, integers)).collect();
        let matrix = NdTensorView::from_data([rounded.len(), self.columns], &*room.integers);
        let (matrix, packed) = (GemmInputA::Unpacked(matrix), GemmInputB::Packed(&tile.integers));
        let multiplied = self.kernel.gemm(&mut room.products, matrix, packed, GemmOptions::default());
        multiplied.map_err(|error| Error::Failed(format!("a product of rounded features: {error}")))?;
        let each = images.iter_mut().zip(&rounded).zip(room.products.chunks_exact(width));
        for (((image, candidates), rounded), products) in each {
            wide!(tile.bounds(rounded, products, &mut room.bounds));
            candidates.add(&tile.rows, &room.bounds, |place| tile.margin(rounded, place));
            if candidates.found.len() > MOST_CANDIDATES {
                candidates.settle(self, image);
            }
        }
        Ok(())
    }
}

/// What a block of images is computed in.
#[derive(Default)]
struct Room {
    rest: Vec<f32>,
    integers: Vec<u8>,
    products: Vec<i32>,
    bounds: Vec<f32>,
}

/// A row that can be among the closest, and between what its closeness is.
#[derive(Clone, Copy)]
struct Candidate {
    lower: f32,
    upper: f32,
    row: u32,
}

/// What can be among the `k` closest rows.
struct Candidates {
    k: usize,
    found: Vec<Candidate>,
    /// So close are `k` rows at least.
    least: f32,
    /// When to look through them again.
    full: usize,
    /// The closest of those that were multiplied in full, `k` at most.
    closest: BinaryHeap<Reverse<Near>>,
}

impl Candidates {
    fn new(k: usize) -> Self {
        let closest = BinaryHeap::with_capacity(k + 1);
        Self { k, found: Vec::new(), least: f32::NEG_INFINITY, full: 4 * k.max(64), closest }
    }

    /// Multiplies them in full, by f64, and keeps the closest.
    fn settle(&mut self, neighbours: &Neighbours, image: &[f32]) {
        self.found.sort_unstable_by(|a, b| b.upper.total_cmp(&a.upper));
        for several in self.found.chunks(IN_FULL) {
            if self.last().is_some_and(|last| f64::from(several[0].upper) < last) {
                break;
            }
            let row = |at: usize| several.get(at).unwrap_or(&several[0]).row;
            let rows: [&[f32]; IN_FULL] = std::array::from_fn(|at| neighbours.row(row(at)));
            for (candidate, product) in several.iter().zip(products(image, rows)) {
                let closeness = product + neighbours.offsets[candidate.row as usize];
                self.closest.push(Reverse(Near { closeness, row: candidate.row }));
                if self.closest.len() > self.k {
                    self.closest.pop();
                }
            }
        }
        self.found.clear();
        if let Some(last) = self.last() {
            self.least = self.least.max((last as f32).next_down());
        }
    }

    /// Those that were settled, the closest first.
    fn into_closest(self) -> Vec<Near> {
        self.closest.into_sorted_vec().into_iter().map(|Reverse(near)| near).collect()
    }

    /// The closeness of the `k`-th, if there are so many.
    fn last(&self) -> Option<f64> {
        let last = if self.closest.len() == self.k { self.closest.peek() } else { None };
        last.map(|Reverse(last)| last.closeness)
    }

    /// Those of the rows whose upper bounds are not too small.
    fn add(&mut self, rows: &[u32], bounds: &[f32], margin: impl Fn(usize) -> f32) {
        for (part, bounds) in bounds.chunks(LANES).enumerate() {
            // Most parts hold none, which is soon told of all together.
            if bounds.iter().fold(false, |any, upper| any | (*upper >= self.least)) {
                for (index, upper) in bounds.iter().enumerate() {
                    if *upper >= self.least {
                        let place = part * LANES + index;
                        let lower = upper - 2.0 * margin(place);
                        self.found.push(Candidate { lower, upper: *upper, row: rows[place] });
                    }
                }
                if self.found.len() >= self.full {
                    self.sift();
                }
            }
        }
    }

    /// Drops those that `k` others are surely closer than.
    fn sift(&mut self) {
        let (_, last, _) = self.found.select_nth_unstable_by(self.k - 1, |a, b| b.lower.total_cmp(&a.lower));
        self.least = self.least.max(last.lower);
        self.found.retain(|candidate| candidate.upper >= self.least);
        self.full = self.full.max(2 * self.found.len());
    }
}

/// Σ (a − b)², roughly.
fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    wide!({
        let mut sums = [0.0_f32; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += (a[lane] - b[lane]) * (a[lane] - b[lane]);
            }
        }
        let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        f64::from(sums.iter().sum::<f32>() + rest)
    })
}

/// Σ a·b in f64.
fn product(a: &[f32], b: &[f32]) -> f64 {
    let [product] = products(a, [b]);
    product
}

/// Σ a·b in f64 with each of several b, which come from memory side by side.
fn products<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    wide!({
        let mut sums = [[0.0; DOUBLES]; N];
        let (parts, rest) = a.as_chunks::<DOUBLES>();
        let others = b.map(|b| b[..a.len()].as_chunks::<DOUBLES>());
        for (at, a) in parts.iter().enumerate() {
            for (sums, (b, _)) in sums.iter_mut().zip(&others) {
                for lane in 0..DOUBLES {
                    sums[lane] += f64::from(a[lane]) * f64::from(b[at][lane]);
                }
            }
        }
        std::array::from_fn(|index| {
            let rest = rest.iter().zip(others[index].1).map(|(a, b)| f64::from(*a) * f64::from(*b));
            sums[index].iter().sum::<f64>() + rest.sum::<f64>()
        })
    })
}

/// ln Σ_c exp f_c of each row of (N, K) logits; errors as [`map_rows`].
pub(super) fn log_sums(logits: &Tensor) -> Result<Vec<f64>> {
    map_rows(logits, |row| Peak::of(row).log_sum())
}
