//! Train images to eight bits, a tile at a time, and how far products with them can be from the true ones.

use rayon::prelude::*;
use rten_gemm::PackedBMatrix;
use rten_tensor::NdTensorView;

use super::{Kernel, LANES, TILE, product, squared_distance};
use crate::ops::wide;

/// Enough for the classes of most data sets.
const MOST_CENTRES: usize = 128;
/// Train images for each centre that they are grouped around: more centres are nearer, and each costs a rounding of every image.
const PER_CENTRE: usize = 2048;
/// Train images that centres are chosen from.
const SAMPLE: usize = 2048;
/// Rounding of the f32 in a bound, relative to the sizes of what it adds; ten roundings of 2⁻²⁴ are 6·10⁻⁷.
const SLACK: f32 = 2e-6;

/// Rows that are near to each other, to eight bits: about mean + scale · integer + middle. Far less is lost of what lies around the mean
/// than of the rows themselves, which in a good network are nearly the same within a class.
pub(super) struct Tile {
    /// Which rows.
    pub(super) rows: Vec<u32>,
    pub(super) mean: Vec<f32>,
    pub(super) integers: PackedBMatrix<i8>,
    pub(super) scales: Vec<f32>,
    pub(super) middles: Vec<f32>,
    /// Of the rounded values of a row.
    pub(super) sums: Vec<f32>,
    /// How far the rounded row is from the row.
    pub(super) errors: Vec<f32>,
    /// Norms of the rounded rows, without the mean.
    pub(super) lengths: Vec<f32>,
    /// Products of the rows, without the mean, with the mean.
    pub(super) along: Vec<f32>,
    /// What is added to the rows' products.
    pub(super) offsets: Vec<f32>,
    /// The mean of these.
    pub(super) offset: f64,
    /// What the slack is relative to: the largest of the rows and of the offsets.
    pub(super) sizes: [f32; 2],
    /// ‖mean‖
    pub(super) mean_length: f64,
    /// How far a row is from the mean, at most.
    pub(super) radius: f64,
}

/// An image to eight bits, for one tile: about share · mean + scale · integer + least. What lies across the mean is never longer than the image,
/// whose length may be another than that of rows.
pub(super) struct Image {
    pub(super) share: f32,
    pub(super) scale: f32,
    pub(super) least: f32,
    /// Of scale · integer.
    pub(super) sum: f32,
    /// The norm of the image without the mean.
    pub(super) length: f32,
    /// How far the rounded image is from the image.
    pub(super) error: f32,
    /// [`SLACK`] of all that is added.
    pub(super) slack: f32,
    /// The product with the mean.
    pub(super) offset: f32,
}

/// Values to eight bits: scale · integer + base.
pub(super) struct Rounding {
    pub(super) scale: f32,
    pub(super) base: f32,
    pub(super) integers: f32,
    /// ‖scale · integer + base‖
    pub(super) length: f32,
    pub(super) error: f32,
    /// The most that the parts of a product with these can be: ‖scale · integer‖ + ‖base‖.
    pub(super) size: f32,
}

/// Rounds to the `steps` + 1 integers from `least` on.
pub(super) fn round<T: Copy + Default>(
    values: &[f32],
    steps: f32,
    least: f32,
    integers: &mut [T],
    to: impl Fn(f32) -> T,
) -> Rounding {
    wide!({
        let [mut low, mut high] = [[f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]];
        let (parts, rest) = values.as_chunks::<LANES>();
        // Of the rest, its first value again and again: no extreme changes.
        let last = rest.first().map(|first| padded(rest, *first));
        for part in parts.iter().chain(&last) {
            for lane in 0..LANES {
                low[lane] = low[lane].min(part[lane]);
                high[lane] = high[lane].max(part[lane]);
            }
        }
        let (low, high) = (low.into_iter().fold(low[0], f32::min), high.into_iter().fold(high[0], f32::max));
        let scale = (high - low) / steps;
        let (inverse, base) = (if scale > 0.0 { 1.0 / scale } else { 0.0 }, low - least * scale);
        let nearest = |value: f32| ((value - low) * inverse + 0.5).min(steps).trunc() + least;
        let [mut sums, mut lengths, mut errors, mut sizes] = [[0.0_f32; LANES]; 4];
        let mut of = |values: &[f32; LANES], integers: &mut [T; LANES]| {
            for lane in 0..LANES {
                let step = nearest(values[lane]);
                let scaled = scale * step;
                let error = values[lane] - (scaled + base);
                integers[lane] = to(step);
                sums[lane] += step;
                lengths[lane] += (scaled + base) * (scaled + base);
                errors[lane] += error * error;
                sizes[lane] += scaled * scaled;
            }
        };
        let (integer_parts, integer_rest) = integers.as_chunks_mut::<LANES>();
        parts.iter().zip(integer_parts).for_each(|(values, integers)| of(values, integers));
        let mut beyond = 0.0;
        if let Some(last) = last {
            let mut integers = [T::default(); LANES];
            of(&last, &mut integers);
            integer_rest.copy_from_slice(&integers[..rest.len()]);
            // The values beyond the last are counted in all but the sum, where they would do harm.
            beyond = (LANES - rest.len()) as f32 * nearest(rest[0]);
        }
        let [sum, length, error, size] = [sums, lengths, errors, sizes].map(|lanes| lanes.into_iter().sum::<f32>());
        // Sums of f32 are true to less than a thousandth, of as many values as there may be.
        let [length, error, size] = [length, error, size].map(|squares| 1.001 * squares.sqrt());
        let size = size + (values.len() as f32).sqrt() * base.abs();
        Rounding { scale, base, integers: sum - beyond, length, error, size }
    })
}

/// The values, and `value` up to a full vector.
pub(super) fn padded(values: &[f32], value: f32) -> [f32; LANES] {
    std::array::from_fn(|lane| values.get(lane).copied().unwrap_or(value))
}

impl Tile {
    /// Of these rows of (M, `columns`) values.
    pub(super) fn new(kernel: &Kernel, values: &[f32], columns: usize, offsets: &[f64], rows: &[u32]) -> Self {
        let row = |row: u32| &values[row as usize * columns..][..columns];
        let mut mean = vec![0.0_f64; columns];
        for index in rows {
            mean.iter_mut().zip(row(*index)).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / rows.len() as f64) as f32).collect();
        let mut integers = vec![0; rows.len() * columns];
        let each = rows.par_iter().zip(integers.par_chunks_exact_mut(columns));
        let each: Vec<(Rounding, f32)> = each
            .map(|(index, integers)| {
                let rest: Vec<f32> = row(*index).iter().zip(&mean).map(|(value, mean)| value - mean).collect();
                let rounding = round(&rest, 254.0, -127.0, integers, |step| step as i8);
                (rounding, product(&mean, &rest) as f32)
            })
            .collect();
        let far = |index: &u32| {
            let squares =
                row(*index).iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - f64::from(*mean)).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let radius = rows.par_iter().map(far).reduce(|| 0.0, f64::max);
        let of = |value: fn(&Rounding) -> f32| each.iter().map(|(rounding, _)| value(rounding)).collect::<Vec<f32>>();
        let largest = |values: &[f32]| values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let offsets: Vec<f64> = rows.iter().map(|row| offsets[*row as usize]).collect();
        let offset = offsets.iter().sum::<f64>() / rows.len() as f64;
        let offsets: Vec<f32> = offsets.into_iter().map(|offset| offset as f32).collect();
        let matrix = NdTensorView::from_data([rows.len(), columns], &*integers);
        Self {
            rows: rows.to_vec(),
            integers: kernel.prepack_b(matrix.transposed()),
            scales: of(|rounding| rounding.scale),
            middles: of(|rounding| rounding.base),
            sums: each.iter().map(|(r, _)| r.scale * r.integers + columns as f32 * r.base).collect(),
            errors: of(|rounding| rounding.error),
            lengths: of(|rounding| rounding.length),
            along: each.iter().map(|(_, along)| *along).collect(),
            sizes: [largest(&of(|rounding| rounding.size)), largest(&offsets)],
            mean_length: product(&mean, &mean).sqrt(),
            radius,
            offset,
            offsets,
            mean,
        }
    }

    /// The closeness by distance that a row can have at most to an image: of its product with the mean, and of its squared length.
    pub(super) fn reach(&self, along: f64, squares: f64) -> f64 {
        let from_mean = (squares - 2.0 * along + self.mean_length.powi(2)).max(0.0).sqrt();
        let least = (from_mean - self.radius).max(0.0);
        // Rounding of f64 is far below this.
        let slack = 1e-10 * (squares + self.mean_length.powi(2) + self.radius.powi(2));
        0.5 * (squares - least * least) + slack
    }

    /// An image of the tile, with its integers.
    pub(super) fn image(&self, values: &[f32], steps: f32, rest: &mut Vec<f32>, integers: &mut [u8]) -> Image {
        let offset = product(values, &self.mean);
        let share = (offset / self.mean_length.powi(2)) as f32;
        let share = if share.is_finite() { share } else { 0.0 };
        rest.clear();
        wide!(rest.extend(values.iter().zip(&self.mean).map(|(value, mean)| value - share * mean)));
        let rounding = round(rest, steps, 0.0, integers, |step| step as u8);
        let mean_length = self.mean_length as f32;
        let size = (rounding.size + share.abs() * mean_length) * (self.sizes[0] + mean_length) + self.sizes[1];
        Image {
            share,
            scale: rounding.scale,
            least: rounding.base,
            sum: rounding.scale * rounding.integers,
            // ‖x‖ ≤ ‖rounded‖ + ‖x − rounded‖
            length: rounding.length + rounding.error,
            error: rounding.error,
            slack: SLACK * size,
            offset: offset as f32,
        }
    }

    /// Upper bounds of the rows' closeness, from their products with an image.
    #[inline(always)]
    pub(super) fn bounds(&self, image: &Image, products: &[i32], bounds: &mut [f32]) {
        let (scales, middles, sums) = (&self.scales[..], &self.middles[..], &self.sums[..]);
        let (errors, lengths) = (&self.errors[..], &self.lengths[..]);
        let (along, offsets) = (&self.along[..], &self.offsets[..]);
        let count = products.len();
        let all = [scales, middles, sums, errors, lengths, along, offsets];
        assert!(bounds.len() == count && all.iter().all(|values| values.len() == count), "one of each row");
        for index in 0..count {
            let scaled = scales[index] * (image.scale * products[index] as f32);
            let product = scaled + middles[index] * image.sum + sums[index] * image.least;
            let margin = image.length * errors[index] + image.error * lengths[index] + image.slack;
            bounds[index] = product + margin + (image.share * along[index] + offsets[index] + image.offset);
        }
    }

    /// How far a bound can be from the true closeness of the tile's row at this place, and twice that from the lower bound.
    pub(super) fn margin(&self, image: &Image, place: usize) -> f32 {
        image.length * self.errors[place] + image.error * self.lengths[place] + image.slack
    }
}

/// Groups of rows that are near to each other, [`TILE`] at most.
pub(super) fn groups(values: &[f32], columns: usize) -> Vec<Vec<u32>> {
    let all: Vec<u32> = (0..(values.len() / columns) as u32).collect();
    let mut groups = Vec::new();
    let mut large = vec![all];
    while let Some(rows) = large.pop() {
        let parts = around_centres(values, columns, &rows);
        // Where a few outliers alone were parted from the rest, more of the same would leave a tile for each.
        let stuck = parts.iter().any(|part| 2 * part.len() > rows.len());
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            if part.len() <= TILE {
                groups.push(part);
            } else if stuck {
                groups.extend(part.chunks(TILE).map(<[u32]>::to_vec));
            } else {
                large.push(part);
            }
        }
    }
    groups
}

/// The rows that are nearest to each of some of them, which are far apart.
fn around_centres(values: &[f32], columns: usize, rows: &[u32]) -> Vec<Vec<u32>> {
    let row = |row: u32| &values[row as usize * columns..][..columns];
    let size = rows.len().min(SAMPLE);
    let sample: Vec<u32> = (0..size).map(|index| rows[index * rows.len() / size]).collect();
    let mut distances = vec![f64::INFINITY; sample.len()];
    let mut centres: Vec<u32> = Vec::new();
    for _ in 0..(rows.len() / PER_CENTRE).clamp(1, MOST_CENTRES) {
        let far = (0..sample.len()).max_by(|a, b| distances[*a].total_cmp(&distances[*b])).unwrap_or(0);
        centres.push(sample[far]);
        distances.par_iter_mut().zip(&sample).for_each(|(least, other)| {
            *least = least.min(squared_distance(row(sample[far]), row(*other)));
        });
    }
    let nearest = |index: &u32| {
        let distances = centres.iter().map(|centre| squared_distance(row(*centre), row(*index)));
        distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(centre, _)| centre)
    };
    let nearest: Vec<usize> = rows.par_iter().map(nearest).collect();
    let mut groups = vec![Vec::new(); centres.len()];
    rows.iter().zip(nearest).for_each(|(row, centre)| groups[centre].push(*row));
    groups
}
