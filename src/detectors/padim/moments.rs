//! A Gaussian for each position: sums of what the images have there, factored, and the distances to them.

use std::ops::Range;

use rayon::prelude::*;

use crate::{Error, Result, linalg::triangles, ops::wide};

/// Neighbouring positions that are treated together: their values share cache lines.
const TILE: usize = 16;
/// Positions whose covariances are factored side by side.
const LANES: usize = 8;
/// Images that a position's factor is applied to at a time, where there are so many.
const MANY: usize = 32;
/// And where there are fewer.
const FEW: usize = 8;

/// The drawn channels of a batch, (N, d, P).
pub(super) struct Read {
    pub images: usize,
    pub values: Vec<f32>,
}

impl Read {
    /// The value of each image in turn, of a dimension, at positions that follow each other.
    fn at(&self, dimensions: usize, dimension: usize, positions: usize, first: usize) -> impl Iterator<Item = &[f32]> {
        let plane = move |image: usize| (image * dimensions + dimension) * positions + first;
        (0..self.images).map(move |image| &self.values[plane(image)..])
    }
}

/// Of each position, one after another: d values of a first image, the d sums of the images' differences to it, and of the products of
/// these the lower triangle, row after row. After the fit: the mean, the inverses of the factor's diagonal, and the factor.
pub(super) struct Moments {
    dimensions: usize,
    images: usize,
    numbers: Vec<f64>,
}

impl Moments {
    /// Numbers of a position.
    pub fn numbers(dimensions: usize) -> usize {
        2 * dimensions + dimensions * (dimensions + 1) / 2
    }

    pub fn new(dimensions: usize, positions: usize) -> Self {
        Self { dimensions, images: 0, numbers: vec![0.0; positions * Self::numbers(dimensions)] }
    }

    /// Images that were added.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Adds the images of a batch. No bit depends on which images come together.
    pub fn add(&mut self, read: &Read) {
        let (size, each) = (self.dimensions, Self::numbers(self.dimensions));
        let positions = self.numbers.len() / each;
        let first_of_all = self.images == 0;
        self.numbers.par_chunks_mut(TILE * each).enumerate().for_each_init(Vec::new, |rows, (tile, numbers)| {
            let count = numbers.len() / each;
            rows.clear();
            rows.resize(count * read.images * size, 0.0_f64);
            for dimension in 0..size {
                for (image, values) in read.at(size, dimension, positions, tile * TILE).enumerate() {
                    for (place, value) in values[..count].iter().enumerate() {
                        rows[(place * read.images + image) * size + dimension] = f64::from(*value);
                    }
                }
            }
            let places = numbers.chunks_exact_mut(each).zip(rows.chunks_exact_mut(read.images * size));
            for (numbers, rows) in places {
                let (shift, rest) = numbers.split_at_mut(size);
                let (sums, products) = rest.split_at_mut(size);
                if first_of_all {
                    shift.copy_from_slice(&rows[..size]);
                }
                wide!({
                    for row in rows.chunks_exact_mut(size) {
                        row.iter_mut().zip(&*shift).for_each(|(value, shift)| *value -= shift);
                        sums.iter_mut().zip(&*row).for_each(|(sum, value)| *sum += value);
                    }
                    add_products(products, rows, size);
                });
            }
        });
        self.images += read.images;
    }

    /// Groups of positions that are factored side by side.
    pub fn groups(&self) -> usize {
        (self.numbers.len() / Self::numbers(self.dimensions)).div_ceil(LANES)
    }

    /// From sums to means and factors, of some groups.
    ///
    /// # Errors
    /// [`Error::Failed`] if a covariance has no factor.
    pub fn factor(&mut self, epsilon: f64, groups: Range<usize>) -> Result<()> {
        let (size, each, images) = (self.dimensions, Self::numbers(self.dimensions), self.images as f64);
        let end = (groups.end * LANES * each).min(self.numbers.len());
        let numbers = &mut self.numbers[groups.start * LANES * each..end];
        let factor = |triangles: &mut Vec<[f64; LANES]>, (group, numbers): (usize, &mut [f64])| {
            triangles.clear();
            triangles.resize(size * (size + 1) / 2, [0.0; LANES]);
            let count = numbers.len() / each;
            for lane in 0..LANES {
                // The last group may be short: it has its last position again.
                let numbers = &mut numbers[lane.min(count - 1) * each..][..each];
                let (sums, products) = numbers[size..].split_at_mut(size);
                for row in 0..size {
                    let start = row * (row + 1) / 2;
                    for column in 0..=row {
                        let product = products[start + column] - sums[row] * sums[column] / images;
                        let ridge = if row == column { epsilon } else { 0.0 };
                        triangles[start + column][lane] = product / (images - 1.0) + ridge;
                    }
                }
            }
            triangles::cholesky(triangles, size).map_err(|lane| {
                let place = (groups.start + group) * LANES + lane.min(count - 1);
                Error::Failed(format!(
                    "the covariance at position {place} has no factor: epsilon {epsilon} is too small"
                ))
            })?;
            for (lane, numbers) in numbers.chunks_exact_mut(each).enumerate() {
                let (mean, rest) = numbers.split_at_mut(size);
                let (sums, products) = rest.split_at_mut(size);
                mean.iter_mut().zip(&*sums).for_each(|(mean, sum)| *mean += sum / images);
                products.iter_mut().zip(&*triangles).for_each(|(product, lanes)| *product = lanes[lane]);
                for (row, inverse) in sums.iter_mut().enumerate() {
                    *inverse = 1.0 / triangles[row * (row + 3) / 2][lane];
                }
            }
            Ok(())
        };
        numbers.par_chunks_mut(LANES * each).enumerate().try_for_each_init(Vec::new, factor)
    }

    /// The distance of each image at each position: (N, P).
    pub fn distances(&self, read: &Read) -> Vec<f32> {
        let (size, each) = (self.dimensions, Self::numbers(self.dimensions));
        let positions = self.numbers.len() / each;
        let tiles = self.numbers.par_chunks(TILE * each).enumerate().map_init(Vec::new, |columns, (tile, numbers)| {
            let count = numbers.len() / each;
            let width = if read.images < MANY { FEW } else { MANY };
            let padded = read.images.next_multiple_of(width);
            columns.clear();
            // By position, block of images, dimension and image.
            columns.resize(count * padded * size, 0.0_f64);
            for dimension in 0..size {
                for (image, values) in read.at(size, dimension, positions, tile * TILE).enumerate() {
                    let (block, lane) = (image / width, image % width);
                    for (place, value) in values[..count].iter().enumerate() {
                        let mean = numbers[place * each + dimension];
                        let at = (place * padded + block * width) * size + dimension * width + lane;
                        columns[at] = f64::from(*value) - mean;
                    }
                }
            }
            let mut found = Vec::with_capacity(count * padded);
            let places = numbers.chunks_exact(each).zip(columns.chunks_exact_mut(padded * size));
            for (numbers, columns) in places {
                let (inverses, factor) = numbers[size..].split_at(size);
                for block in columns.chunks_exact_mut(width * size) {
                    match width {
                        MANY => found.extend(wide!(lengths::<MANY>(inverses, factor, block))),
                        _ => found.extend(wide!(lengths::<FEW>(inverses, factor, block))),
                    }
                }
            }
            (padded, found)
        });
        let tiles: Vec<(usize, Vec<f32>)> = tiles.collect();
        let mut maps = vec![0.0; read.images * positions];
        for (tile, (padded, found)) in tiles.iter().enumerate() {
            for (place, found) in found.chunks_exact(*padded).enumerate() {
                for (image, distance) in found[..read.images].iter().enumerate() {
                    maps[image * positions + tile * TILE + place] = *distance;
                }
            }
        }
        maps
    }
}

/// Adds the products of the columns of `rows` (N, size) to the lower triangle `sums`, row after row of it; image after image, so that
/// no bit depends on how many come together.
#[inline(always)]
fn add_products(sums: &mut [f64], rows: &[f64], size: usize) {
    let mut start = 0;
    for row in 0..size {
        let sums = &mut sums[start..][..=row];
        start += row + 1;
        let mut four = rows.chunks_exact(4 * size);
        for images in &mut four {
            let [a, b, c, d] = [0, 1, 2, 3].map(|image| &images[image * size..][..=row]);
            let [x, y, z, w] = [a[row], b[row], c[row], d[row]];
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum = (((*sum + x * a) + y * b) + z * c) + w * d;
            }
        }
        for image in four.remainder().chunks_exact(size) {
            let by = image[row];
            sums.iter_mut().zip(&image[..=row]).for_each(|(sum, value)| *sum += by * value);
        }
    }
}

/// ‖L⁻¹x‖ of W vectors x side by side, (size, W), which are replaced by L⁻¹x. L: its lower triangle, row after row.
#[inline(always)]
fn lengths<const W: usize>(inverses: &[f64], factor: &[f64], columns: &mut [f64]) -> [f32; W] {
    let (columns, _) = columns.as_chunks_mut::<W>();
    let mut squares = [0.0; W];
    let mut start = 0;
    for row in 0..inverses.len() {
        let (known, rest) = columns.split_at_mut(row);
        let this = &mut rest[0];
        for (weight, known) in factor[start..][..row].iter().zip(known) {
            this.iter_mut().zip(known).for_each(|(x, known)| *x -= weight * *known);
        }
        for (x, square) in this.iter_mut().zip(&mut squares) {
            *x *= inverses[row];
            *square += *x * *x;
        }
        start += row + 1;
    }
    squares.map(|square| square.sqrt() as f32)
}
