//! A coreset: few rows that leave no other row far from all of them (greedy k-centre, farthest first).
//!
//! Each step takes the row that is farthest from all that were taken (Gonzalez 1985), which is within twice the best radius. Of the
//! distances to the new row only those are computed that can be smaller than what a row has: where a row's own centre lies at least
//! twice as far from the new row as from the row, the triangle inequality says that none is. The rows that are taken are those of the
//! plain computation, up to rounding.

use rayon::prelude::*;

use crate::ops::wide;

/// Rows that a thread looks at together, at least.
const TOGETHER: usize = 512;
/// Values that a loop takes together.
const LANES: usize = 16;
/// What a bound may be off by the rounding of the f32 in it.
const SLACK: f32 = 1.0 + 1e-5;

/// Rows that are taken one by one.
pub struct Greedy<'a> {
    rows: &'a [f32],
    columns: usize,
    /// Positions of the rows that were taken.
    taken: Vec<usize>,
    /// Of each row, the distance to the nearest that was taken.
    distances: Vec<f32>,
    /// And its place among them.
    nearest: Vec<u32>,
    /// The farthest row, the first of several, and its distance.
    farthest: (usize, f32),
}

impl<'a> Greedy<'a> {
    /// Of (N, D) finite `rows`; the row at `first` is taken.
    ///
    /// # Panics
    /// When there is no such row, or the rows are not whole.
    pub fn new(rows: &'a [f32], columns: usize, first: usize) -> Self {
        assert!(columns > 0 && rows.len().is_multiple_of(columns), "rows of {columns}");
        let count = rows.len() / columns;
        assert!(first < count, "row {first} of {count}");
        let centre = &rows[first * columns..][..columns];
        let distances: Vec<f32> = rows.par_chunks_exact(columns).map(|row| distance(row, centre)).collect();
        let farthest = distances.par_iter().copied().enumerate().reduce(|| (0, f32::NEG_INFINITY), farther);
        Self { rows, columns, taken: vec![first], distances, nearest: vec![0; count], farthest }
    }

    /// Takes one more; `false` if every row is equal to one that was taken.
    pub fn step(&mut self) -> bool {
        let (next, radius) = self.farthest;
        if radius <= 0.0 {
            return false;
        }
        let (rows, columns) = (self.rows, self.columns);
        let row = |at: usize| &rows[at * columns..][..columns];
        let centre = row(next);
        let place = self.taken.len() as u32;
        // A row that is nearer than this to its own centre is not nearer to the new one.
        let bound = |taken: &usize| distance(row(*taken), centre) / (2.0 * SLACK);
        let bounds: Vec<f32> = self.taken.par_iter().with_min_len(TOGETHER).map(bound).collect();
        self.taken.push(next);
        let together = self.distances.len().div_ceil(4 * rayon::current_num_threads()).max(TOGETHER);
        let parts = self.distances.par_chunks_mut(together).zip(self.nearest.par_chunks_mut(together)).enumerate();
        self.farthest = parts
            .map(|(part, (distances, nearest))| {
                let mut farthest = (0, f32::NEG_INFINITY);
                for (at, (least, nearest)) in distances.iter_mut().zip(nearest).enumerate() {
                    let at = part * together + at;
                    if bounds[*nearest as usize] < *least {
                        let distance = distance(row(at), centre);
                        if distance < *least {
                            (*least, *nearest) = (distance, place);
                        }
                    }
                    farthest = farther(farthest, (at, *least));
                }
                farthest
            })
            .reduce(|| (0, f32::NEG_INFINITY), farther);
        true
    }

    /// The positions of the rows that were taken, in the order in which they were.
    pub fn taken(&self) -> &[usize] {
        &self.taken
    }
}

/// The farther of two rows, the first of equals.
fn farther(a: (usize, f32), b: (usize, f32)) -> (usize, f32) {
    if b.1 > a.1 || b.1 == a.1 && b.0 < a.0 { b } else { a }
}

/// ‖a − b‖₂
fn distance(a: &[f32], b: &[f32]) -> f32 {
    wide!({
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut sums = [0.0_f32; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                let difference = a[lane] - b[lane];
                sums[lane] += difference * difference;
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
        (sums.into_iter().sum::<f32>() + rest).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Against every distance, with no bound.
    #[test]
    fn the_rows_are_those_of_the_plain_computation() {
        for (count, columns, groups) in [(700, 5, 1), (900, 33, 12), (40, 1, 3)] {
            let mut stream = crate::rng::stream(0, "coreset test", &count.to_string());
            let mut rows: Vec<f32> = StandardNormal.sample_iter(&mut stream).take(count * columns).collect();
            for (at, row) in rows.chunks_exact_mut(columns).enumerate() {
                row.iter_mut().for_each(|value| *value += (20 * (at % groups)) as f32);
            }
            let size = count / 3;
            let mut greedy = Greedy::new(&rows, columns, 3);
            while greedy.taken().len() < size {
                assert!(greedy.step());
            }
            let row = |at: usize| &rows[at * columns..][..columns];
            let (mut taken, mut distances) = (vec![3], vec![f64::INFINITY; count]);
            while taken.len() < size {
                let last = row(*taken.last().unwrap());
                for (at, least) in distances.iter_mut().enumerate() {
                    let square: f64 =
                        row(at).iter().zip(last).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
                    *least = least.min(square);
                }
                taken.push((1..count).fold(0, |far, at| if distances[at] > distances[far] { at } else { far }));
            }
            assert_eq!(greedy.taken(), taken, "{count} × {columns}");
        }
    }

    #[test]
    fn equal_rows_are_taken_once() {
        let rows = [1.0, 2.0, 1.0, 2.0, 5.0, 6.0, 1.0, 2.0];
        let mut greedy = Greedy::new(&rows, 2, 1);
        assert!(greedy.step());
        assert!(!greedy.step());
        assert_eq!(greedy.taken(), [1, 2]);
    }
}
