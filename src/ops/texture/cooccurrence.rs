//! The two-dimensional quantisation and counting operator.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Hits, Quantiser, of_counts, plain};
use crate::ops::{
    Float,
    op::{self, Array, Op},
};

/// Which levels neighbouring pixels have, in each of `scale`² equal cells of `similarities` (N, H, W): (N, 3, scale², levels²).
///
/// Neighbours are a pixel and the one below it to the right, of the same cell, as in STLNet's code. Element i·levels + j of the last axis is
/// about pixels of level i whose neighbour has level j. Channel 0 holds level j, channel 1 level i, channel 2 their share of the cell's
/// pairs, weighted by both hits; see [`Quantiser`]. Shares are 0 in a constant cell, and in one of a single row or column.
///
/// The gradient passes through the weights of the hits and through the levels, not through which levels are hit.
///
/// # Errors
/// When there are no similarities or levels, or the scale does not divide rows and columns.
pub fn cooccurrence(similarities: &Tensor, scale: usize, quantiser: Quantiser) -> Result<Tensor> {
    let (_, height, width) = similarities.dims3()?;
    quantiser.check(Cooccurrence::NAME)?;
    if similarities.elem_count() == 0 || scale == 0 || height % scale != 0 || width % scale != 0 {
        bail!("cooccurrence: {:?} has no {scale}×{scale} equal cells", similarities.dims());
    }
    match op::is_on_gpu(similarities) {
        true => plain::cooccurrence(similarities, scale, quantiser),
        false => op::apply(Cooccurrence(Cells { size: [height, width], scale, quantiser }), [similarities]),
    }
}

#[derive(Debug, Clone, Copy)]
struct Cells {
    size: [usize; 2],
    scale: usize,
    quantiser: Quantiser,
}

impl Cells {
    /// Rows and columns of a cell.
    fn cell(self) -> [usize; 2] {
        self.size.map(|size| size / self.scale)
    }

    fn count(self) -> usize {
        self.scale * self.scale
    }

    fn pixels(self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Level pairs.
    fn pairs(self) -> usize {
        self.quantiser.levels * self.quantiser.levels
    }

    /// The places in an image of a cell's pixels, row after row.
    fn places(self, cell: usize) -> impl Iterator<Item = usize> + Clone {
        let ([rows, columns], width) = (self.cell(), self.size[1]);
        let first = cell / self.scale * rows * width + cell % self.scale * columns;
        (0..rows).flat_map(move |row| (0..columns).map(move |column| first + row * width + column))
    }

    fn hits<T: Float>(self, cell: usize, image: &[T]) -> Hits<T> {
        Hits::new(self.quantiser, self.places(cell).map(|place| image[place]))
    }

    /// The places in a cell of each pixel that has a neighbour, and of the neighbour.
    fn neighbours(self) -> impl Iterator<Item = (usize, usize)> {
        let [rows, columns] = self.cell();
        let pixels = (0..rows - 1).flat_map(move |row| (0..columns - 1).map(move |column| row * columns + column));
        pixels.map(move |at| (at, at + columns + 1))
    }

    /// The weights of the pairs, in a square with places around it, and their sum.
    fn counts<T: Float>(self, hits: &Hits<T>) -> (Vec<f64>, f64) {
        let row = hits.row();
        let mut counts = vec![0.0; row * row];
        for (at, next) in self.neighbours() {
            let [left, right] = [at, next].map(|i| hits.pair(i));
            let first = hits.below[at] as usize * row + hits.below[next] as usize;
            for (side, left) in left.into_iter().enumerate() {
                for (count, right) in counts[first + side * row..].iter_mut().zip(right) {
                    *count += left * right;
                }
            }
        }
        let total = counts.iter().sum();
        (counts, total)
    }
}

/// Each count divided by the sum; 0 where there is none.
fn shares(counts: &[f64], total: f64) -> Vec<f64> {
    counts.iter().map(|count| if total == 0.0 { 0.0 } else { count / total }).collect()
}

struct Cooccurrence(Cells);

impl Op<1> for Cooccurrence {
    const NAME: &'static str = "cooccurrence";

    fn cpu<T: Float>(&self, [similarities]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (cells, levels, pairs) = (self.0, self.0.quantiser.levels, self.0.pairs());
        let channel = cells.count() * pairs;
        let mut y = vec![T::zero(); similarities.shape.dims3()?.0 * 3 * channel];
        y.par_chunks_mut(3 * channel).zip(similarities.data.par_chunks(cells.pixels())).for_each(|(y, image)| {
            for cell in 0..cells.count() {
                let hits = cells.hits(cell, image);
                let (counts, total) = cells.counts(&hits);
                let shares = shares(&counts, total);
                let values: Vec<T> = hits.levels().map(T::from_f64).collect();
                for (i, row) in shares.chunks(hits.row()).skip(1).take(levels).enumerate() {
                    for (j, share) in row[1..=levels].iter().enumerate() {
                        let at = cell * pairs + i * levels + j;
                        y[at] = values[j];
                        y[channel + at] = values[i];
                        y[2 * channel + at] = T::from_f64(*share);
                    }
                }
            }
        });
        Ok((y, (similarities.shape.dims3()?.0, 3, cells.count(), pairs).into()))
    }

    fn gradients(&self, [similarities]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&CooccurrenceGradient(self.0), [similarities, dy])?)])
    }
}

/// (similarities, dY) to their gradient.
struct CooccurrenceGradient(Cells);

impl Op<2> for CooccurrenceGradient {
    const NAME: &'static str = "cooccurrence's gradient";

    fn cpu<T: Float>(&self, [similarities, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let cells = self.0;
        let channel = cells.count() * cells.pairs();
        let mut dx = vec![T::zero(); similarities.data.len()];
        let images = dx.par_chunks_mut(cells.pixels()).zip(similarities.data.par_chunks(cells.pixels()));
        images.zip(dy.data.par_chunks(3 * channel)).for_each(|((dx, image), dy)| {
            for cell in 0..cells.count() {
                let at = cell * cells.pairs();
                let dy = [0, 1, 2].map(|part: usize| &dy[part * channel + at..][..cells.pairs()]);
                let gradient = of_cell(cells, &cells.hits(cell, image), dy);
                for (place, gradient) in cells.places(cell).zip(gradient) {
                    dx[place] = gradient;
                }
            }
        });
        Ok((dx, similarities.shape.clone()))
    }
}

/// The gradient of a cell's similarities from that of its three channels.
fn of_cell<T: Float>(cells: Cells, hits: &Hits<T>, [of_right, of_left, of_shares]: [&[T]; 3]) -> Vec<T> {
    let (levels, row) = (cells.quantiser.levels, hits.row());
    let mut of_levels = vec![0.0; row];
    let mut dy = vec![0.0; row * row];
    for i in 0..levels {
        for j in 0..levels {
            let at = i * levels + j;
            of_levels[j + 1] += of_right[at].to_f64();
            of_levels[i + 1] += of_left[at].to_f64();
            dy[(i + 1) * row + j + 1] = of_shares[at].to_f64();
        }
    }
    let (counts, total) = cells.counts(hits);
    let of_counts = of_counts(&shares(&counts, total), &dy, total);
    let mut of_weights = [vec![T::zero(); hits.below.len()], vec![T::zero(); hits.below.len()]];
    for (at, next) in cells.neighbours() {
        let [left, right] = [at, next].map(|i| hits.pair(i));
        let first = hits.below[at] as usize * row + hits.below[next] as usize;
        for i in 0..2 {
            for j in 0..2 {
                // Beyond the ends the weights are 0, so that what stands there does not count.
                let gradient = of_counts[first + i * row + j];
                of_weights[i][at] += T::from_f64(gradient * right[j]);
                of_weights[j][next] += T::from_f64(gradient * left[i]);
            }
        }
    }
    hits.gradient(of_weights.each_ref().map(Vec::as_slice), of_levels)
}
