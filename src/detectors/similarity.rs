//! Inner products with every train image: the largest of them, found without computing most.
//!
//! Rows are rounded to eight bits, whose products a processor takes four times as fast as those of f32. How far such a product can be
//! from the true one is known for every pair (Cauchy and Schwarz); only rows that can be among the largest are multiplied in full, in
//! f64. What is found does not depend on the rounding.

use std::{cmp::Reverse, collections::BinaryHeap};

use candle_core::Tensor;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::{Peak, map_rows};
use crate::{Error, Result, ops::wide};

/// Train images that are multiplied at a time: 4 MiB of products with [`TOGETHER`] images, for the cache.
const TILE: usize = 4096;
/// Images that are multiplied at a time.
const TOGETHER: usize = 256;
/// 255 · 127 · this many products are no more than 31 bits.
const MOST_COLUMNS: usize = 66_000;
/// Rounding of the f32 in a bound, relative to the sizes of what it adds; ten roundings of 2⁻²⁴ are 6·10⁻⁷.
const SLACK: f32 = 2e-6;

/// What an image is compared with.
pub(super) struct Neighbours {
    /// (M, D)
    rows: Vec<f32>,
    columns: usize,
    /// What is added to each row's products.
    offsets: Vec<f64>,
    rounded: Rounded,
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
        Self::new(rows, columns, offsets)
    }

    /// The same, close when their Euclidean distance d from an image x is small: the closeness is (‖x‖² − d²) / 2.
    ///
    /// # Errors
    /// As [`Neighbours::by_product`].
    pub fn by_distance(rows: Vec<f32>, columns: usize) -> Result<Self> {
        let offsets = rows.par_chunks_exact(columns).map(|row| -0.5 * product(row, row)).collect();
        Self::new(rows, columns, offsets)
    }

    fn new(rows: Vec<f32>, columns: usize, offsets: Vec<f64>) -> Result<Self> {
        if columns > MOST_COLUMNS {
            let message = format!("{columns} features are too many to look for neighbours; {MOST_COLUMNS} are not");
            return Err(Error::input(message));
        }
        Ok(Self { rounded: Rounded::new(&rows, columns, &offsets), rows, columns, offsets })
    }

    /// A row's values.
    pub fn row(&self, row: u32) -> &[f32] {
        &self.rows[row as usize * self.columns..][..self.columns]
    }

    /// The `k` closest rows to each of (B, D) finite `images`, the closest first; 1 ≤ k ≤ M.
    ///
    /// # Errors
    /// Those of the matrix product.
    pub fn closest(&self, images: &[f32], k: usize) -> Result<Vec<Vec<Near>>> {
        let count = images.len() / self.columns;
        let mut closest = Vec::with_capacity(count);
        let mut products = vec![0; TOGETHER.min(count) * TILE.min(self.offsets.len())];
        for block in images.chunks(TOGETHER * self.columns) {
            let (integers, rounded) = self.rounded.images(block, self.columns);
            let mut candidates = vec![Candidates::new(k); rounded.len()];
            for (tile, packed) in self.rounded.tiles.iter().enumerate() {
                let (start, width) = (tile * TILE, TILE.min(self.offsets.len() - tile * TILE));
                let products = &mut products[..rounded.len() * width];
                self.rounded.multiply(&integers, packed, products)?;
                let each = candidates.par_iter_mut().zip(&rounded).zip(products.par_chunks_exact(width));
                each.for_each_init(
                    || vec![0.0; width],
                    |bounds, ((candidates, image), products)| {
                        wide(|| self.rounded.bounds(image, start, products, bounds));
                        candidates.add(start, bounds, |row| self.rounded.margin(image, row));
                    },
                );
            }
            let each = block.par_chunks_exact(self.columns).zip(candidates);
            closest.par_extend(each.map(|(image, candidates)| self.exactly(image, candidates.found, k)));
        }
        Ok(closest)
    }

    /// The `k` closest of the candidates, by f64.
    fn exactly(&self, image: &[f32], mut candidates: Vec<Candidate>, k: usize) -> Vec<Near> {
        candidates.sort_unstable_by(|a, b| b.upper.total_cmp(&a.upper));
        let mut closest = BinaryHeap::with_capacity(k + 1);
        for candidate in candidates {
            if closest.len() == k
                && closest
                    .peek()
                    .is_some_and(|Reverse(last): &Reverse<Near>| f64::from(candidate.upper) < last.closeness)
            {
                break;
            }
            let closeness = product(image, self.row(candidate.row)) + self.offsets[candidate.row as usize];
            closest.push(Reverse(Near { closeness, row: candidate.row }));
            if closest.len() > k {
                closest.pop();
            }
        }
        closest.into_sorted_vec().into_iter().map(|Reverse(near)| near).collect()
    }
}

/// The rows to eight bits: about scale · integer + middle.
struct Rounded {
    executor: GemmExecutor<u8, i8, i32>,
    /// Of [`TILE`] rows each.
    tiles: Vec<PackedBMatrix<i8>>,
    scales: Vec<f32>,
    middles: Vec<f32>,
    /// Of the rounded values of a row.
    sums: Vec<f32>,
    /// How far the rounded row is from the row.
    errors: Vec<f32>,
    /// Norms of the rounded rows.
    lengths: Vec<f32>,
    offsets: Vec<f32>,
    /// The most that a row's terms in a bound can be, and the largest offset: what the slack is relative to.
    sizes: [f32; 2],
}

/// An image to eight bits: about scale · integer + least.
struct Image {
    scale: f32,
    least: f32,
    /// Of scale · integer.
    sum: f32,
    /// The image's own norm.
    length: f32,
    /// How far the rounded image is from the image.
    error: f32,
    /// [`SLACK`] of all that is added.
    slack: f32,
}

/// Numbers in steps of `step` from `base`: [the sum, ‖rounded‖, ‖values − rounded‖, ‖steps‖ + ‖base‖].
fn rounding(values: &[f32], integers: impl Iterator<Item = f64>, step: f32, base: f32) -> [f64; 4] {
    let (step, base) = (f64::from(step), f64::from(base));
    let [mut sum, mut length, mut error, mut steps] = [0.0; 4];
    for (value, integer) in values.iter().zip(integers) {
        let rounded = step * integer + base;
        sum += rounded;
        length += rounded * rounded;
        error += (f64::from(*value) - rounded).powi(2);
        steps += (step * integer).powi(2);
    }
    [sum, length.sqrt(), error.sqrt(), steps.sqrt() + (values.len() as f64).sqrt() * base.abs()]
}

fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
}

impl Rounded {
    fn new(rows: &[f32], columns: usize, offsets: &[f64]) -> Self {
        let executor = GemmExecutor::new();
        let mut rounded = Self {
            tiles: Vec::with_capacity(offsets.len().div_ceil(TILE)),
            executor,
            scales: Vec::with_capacity(offsets.len()),
            middles: Vec::with_capacity(offsets.len()),
            sums: Vec::with_capacity(offsets.len()),
            errors: Vec::with_capacity(offsets.len()),
            lengths: Vec::with_capacity(offsets.len()),
            offsets: offsets.iter().map(|offset| *offset as f32).collect(),
            sizes: [0.0, offsets.iter().fold(0.0, |largest: f64, offset| largest.max(offset.abs())) as f32],
        };
        let mut integers = vec![0; TILE * columns];
        for tile in rows.chunks(TILE * columns) {
            let integers = &mut integers[..tile.len()];
            let each = tile.par_chunks_exact(columns).zip(integers.par_chunks_exact_mut(columns));
            let each: Vec<_> = each
                .map(|(row, integers)| {
                    let (least, most) = range(row);
                    let (scale, middle) = ((most - least) / 254.0, least + (most - least) / 2.0);
                    for (integer, value) in integers.iter_mut().zip(row) {
                        *integer = ((value - middle) / scale).round() as i8;
                    }
                    (scale, middle, rounding(row, integers.iter().map(|integer| f64::from(*integer)), scale, middle))
                })
                .collect();
            for (scale, middle, [sum, length, error, size]) in each {
                rounded.scales.push(scale);
                rounded.middles.push(middle);
                rounded.sums.push(sum as f32);
                rounded.errors.push(error as f32);
                rounded.lengths.push(length as f32);
                rounded.sizes[0] = rounded.sizes[0].max(size as f32);
            }
            let matrix = NdTensorView::from_data([tile.len() / columns, columns], &*integers);
            rounded.tiles.push(rounded.executor.prepack_b(matrix.transposed()));
        }
        rounded
    }

    /// Of (B, `columns`) values, with their integers.
    fn images(&self, values: &[f32], columns: usize) -> (Vec<u8>, Vec<Image>) {
        // Where pairs of products are added up in 16 bits, seven bits of an image are all that fit.
        let steps = if self.executor.may_saturate() { 127.0 } else { 255.0 };
        let mut integers = vec![0; values.len()];
        let each = values.par_chunks_exact(columns).zip(integers.par_chunks_exact_mut(columns));
        let images = each.map(|(values, integers)| {
            let (least, most) = range(values);
            let scale = (most - least) / steps;
            for (integer, value) in integers.iter_mut().zip(values) {
                *integer = ((value - least) / scale).round() as u8;
            }
            let integers = integers.iter().map(|integer| f64::from(*integer));
            let [sum, _, error, size] = rounding(values, integers, scale, least);
            Image {
                scale,
                least,
                sum: (sum - columns as f64 * f64::from(least)) as f32,
                length: product(values, values).sqrt() as f32,
                error: error as f32,
                slack: SLACK * (size as f32 * self.sizes[0] + self.sizes[1]),
            }
        });
        let images = images.collect();
        (integers, images)
    }

    /// The products (B, rows) of the integers of B images with those of a tile.
    fn multiply(&self, images: &[u8], tile: &PackedBMatrix<i8>, products: &mut [i32]) -> Result<()> {
        let columns = tile.rows();
        let images = NdTensorView::from_data([images.len() / columns, columns], images);
        let (images, tile) = (GemmInputA::Unpacked(images), GemmInputB::Packed(tile));
        let multiplied = self.executor.gemm(products, images, tile, GemmOptions::default());
        multiplied.map_err(|error| Error::Failed(format!("a product of rounded features: {error}")))
    }

    /// Upper bounds of the closeness of the rows from `start` on, from their products with an image.
    #[inline(always)]
    fn bounds(&self, image: &Image, start: usize, products: &[i32], bounds: &mut [f32]) {
        let range = start..start + products.len();
        let (scales, middles, sums) =
            (&self.scales[range.clone()], &self.middles[range.clone()], &self.sums[range.clone()]);
        let (errors, lengths, offsets) =
            (&self.errors[range.clone()], &self.lengths[range.clone()], &self.offsets[range]);
        for index in 0..products.len().min(bounds.len()) {
            let scaled = scales[index] * (image.scale * products[index] as f32);
            let product = scaled + middles[index] * image.sum + sums[index] * image.least;
            let margin = image.length * errors[index] + image.error * lengths[index] + image.slack;
            bounds[index] = product + margin + offsets[index];
        }
    }

    /// How far a rounded product can be from the true one.
    fn margin(&self, image: &Image, row: usize) -> f32 {
        image.length * self.errors[row] + image.error * self.lengths[row] + image.slack
    }
}

/// A row that can be among the closest, and between what its closeness is.
#[derive(Clone, Copy)]
struct Candidate {
    lower: f32,
    upper: f32,
    row: u32,
}

/// What can be among the `k` closest rows.
#[derive(Clone)]
struct Candidates {
    k: usize,
    found: Vec<Candidate>,
    /// So close are `k` rows at least.
    least: f32,
    /// When to look through them again.
    full: usize,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::new(), least: f32::NEG_INFINITY, full: 4 * k.max(64) }
    }

    /// Those of the rows from `start` on whose upper bounds are not too small.
    fn add(&mut self, start: usize, bounds: &[f32], margin: impl Fn(usize) -> f32) {
        const LANES: usize = 16;
        for (part, bounds) in bounds.chunks(LANES).enumerate() {
            // Most parts hold none, which is soon told of all together.
            if bounds.iter().fold(false, |any, upper| any | (*upper >= self.least)) {
                for (index, upper) in bounds.iter().enumerate() {
                    if *upper >= self.least {
                        let row = start + part * LANES + index;
                        self.found.push(Candidate { lower: upper - 2.0 * margin(row), upper: *upper, row: row as u32 });
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

/// Σ a·b in f64.
fn product(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    wide(|| {
        let mut sums = [0.0; LANES];
        let (a_parts, b_parts) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = a_parts.remainder().iter().zip(b_parts.remainder());
        let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        for (a, b) in a_parts.zip(b_parts) {
            for lane in 0..LANES {
                sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
            }
        }
        sums.iter().sum::<f64>() + rest
    })
}

/// ln Σ_c exp f_c of each row of (N, K) logits; errors as [`map_rows`].
pub(super) fn log_sums(logits: &Tensor) -> Result<Vec<f64>> {
    map_rows(logits, |row| Peak::of(row).log_sum())
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    fn normal(count: usize, name: &str) -> Vec<f32> {
        StandardNormal.sample_iter(crate::rng::stream(0, "similarity test", name)).take(count).collect()
    }

    /// Rows that are easy and hard to round: as after a ReLU, negative, constant, zero, with one element that outweighs the rest,
    /// many that are nearly the same, and exact doubles.
    fn rows(count: usize, columns: usize, name: &str) -> Vec<f32> {
        let mut values = normal(count * columns, name);
        for (index, row) in values.chunks_exact_mut(columns).enumerate() {
            match index % 8 {
                0 | 1 => row.iter_mut().for_each(|value| *value = value.max(0.0)),
                2 => row.iter_mut().for_each(|value| *value -= 3.0),
                3 => row.fill(0.25 * (index % 5) as f32),
                4 => row[index % columns] = -1e4,
                5 => row.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32 + *value * 1e-6),
                6 => row.iter_mut().enumerate().for_each(|(at, value)| *value = (at % 3) as f32),
                _ => {}
            }
        }
        values
    }

    #[test]
    fn the_closest_are_those_of_all_products() {
        for (count, columns, k) in [(TILE + 700, 13, 7), (300, 40, 300), (1, 5, 1), (2000, 1, 50)] {
            let (known, images) = (rows(count, columns, "known"), rows(TOGETHER + 9, columns, "images"));
            let by_product = Neighbours::by_product(known.clone(), columns).unwrap();
            let by_distance = Neighbours::by_distance(known.clone(), columns).unwrap();
            for (neighbours, of_squares) in [(by_product, 0.0), (by_distance, 0.5)] {
                let found = neighbours.closest(&images, k).unwrap();
                for (image, found) in images.chunks_exact(columns).zip(&found) {
                    let all = known.chunks_exact(columns).zip(0..).map(|(known, row)| {
                        let closeness = product(image, known) - of_squares * product(known, known);
                        Near { closeness, row }
                    });
                    let mut all: Vec<Near> = all.collect();
                    all.sort_by(|a, b| b.cmp(a));
                    assert_eq!(found, &all[..k], "{count} rows of {columns}");
                }
            }
        }
    }

    /// The point of it: of many rows, few are multiplied in full.
    #[test]
    fn few_rows_are_candidates() {
        let columns = 64;
        let (known, images) = (normal(TILE * columns, "known"), normal(columns, "images"));
        let neighbours = Neighbours::by_product(known, columns).unwrap();
        let (integers, rounded) = neighbours.rounded.images(&images, columns);
        let (mut products, mut bounds) = (vec![0; TILE], vec![0.0; TILE]);
        neighbours.rounded.multiply(&integers, &neighbours.rounded.tiles[0], &mut products).unwrap();
        neighbours.rounded.bounds(&rounded[0], 0, &products, &mut bounds);
        let mut candidates = Candidates::new(10);
        candidates.add(0, &bounds, |row| neighbours.rounded.margin(&rounded[0], row));
        candidates.sift();
        assert!((10..100).contains(&candidates.found.len()), "{}", candidates.found.len());
    }

    #[test]
    fn too_many_columns_are_refused() {
        let error = Neighbours::by_product(vec![0.0; MOST_COLUMNS + 1], MOST_COLUMNS + 1).err().unwrap();
        assert!(error.to_string().starts_with("66001 features are too many"), "{error}");
    }
}
