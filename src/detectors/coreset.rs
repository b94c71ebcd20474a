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
/// Values after which a distance that is too large already is left.
const STRIDE: usize = 2 * LANES;
/// What a bound may be off by the rounding of the f32 in it.
const SLACK: f32 = 1.0 + 1e-5;

/// Rows that are taken one by one.
pub struct Greedy<'a> {
    rows: &'a [f32],
    columns: usize,
    /// Positions of the rows that were taken.
    taken: Vec<usize>,
    /// Of each row, the squared distance to the nearest that was taken.
    squares: Vec<f32>,
    /// And its place among them.
    nearest: Vec<u32>,
    /// The farthest row, the first of several, and its squared distance.
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
        let (squares, nearest) = (vec![f32::INFINITY; count], vec![0; count]);
        let mut greedy = Self { rows, columns, taken: Vec::new(), squares, nearest, farthest: (first, f32::INFINITY) };
        greedy.step();
        greedy
    }

    /// Takes one more; `false` if every row is equal to one that was taken.
    pub fn step(&mut self) -> bool {
        let (next, radius) = self.farthest;
        if radius <= 0.0 {
            return false;
        }
        let (rows, columns) = (self.rows, self.columns);
        let row = |at: usize| &rows[at * columns..][..columns];
        let (centre, place) = (row(next), self.taken.len() as u32);
        self.taken.push(next);
        // A row whose square is no more than this, for its own centre, is not nearer to the new one: half the distance, squared.
        let bound = |taken: &[usize]| -> Vec<f32> {
            let quarter = |taken: &usize| nearer(row(*taken), centre, f32::INFINITY).unwrap_or(0.0) / (4.0 * SLACK);
            wide!(taken.iter().map(quarter).collect())
        };
        let bounds: Vec<f32> = self.taken.par_chunks(TOGETHER).flat_map_iter(bound).collect();
        let first = place == 0;
        let together = self.squares.len().div_ceil(4 * rayon::current_num_threads()).max(TOGETHER);
        let parts = self.squares.par_chunks_mut(together).zip(self.nearest.par_chunks_mut(together)).enumerate();
        self.farthest = parts
            .map(|(part, (squares, nearest))| {
                wide!({
                    let mut farthest = (0, f32::NEG_INFINITY);
                    for (at, (least, nearest)) in squares.iter_mut().zip(nearest).enumerate() {
                        let at = part * together + at;
                        if (first || bounds[*nearest as usize] < *least)
                            && let Some(square) = nearer(row(at), centre, *least)
                        {
                            (*least, *nearest) = (square, place);
                        }
                        if *least > farthest.1 {
                            farthest = (at, *least);
                        }
                    }
                    farthest
                })
            })
            .reduce(|| (usize::MAX, f32::NEG_INFINITY), farther);
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

/// ‖a − b‖² if it is less than `limit`.
#[inline(always)]
fn nearer(a: &[f32], b: &[f32], limit: f32) -> Option<f32> {
    let mut sums = [0.0_f32; LANES];
    let whole = a.len() - a.len() % LANES;
    for (a, b) in a[..whole].chunks(STRIDE).zip(b[..whole].chunks(STRIDE)) {
        for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let difference = a[lane] - b[lane];
                sums[lane] += difference * difference;
            }
        }
        // Sums only grow, rounding included.
        if total(&sums) >= limit {
            return None;
        }
    }
    let mut rest = 0.0;
    for (a, b) in a[whole..].iter().zip(&b[whole..]) {
        rest += (a - b) * (a - b);
    }
    Some(total(&sums) + rest).filter(|square| *square < limit)
}

/// In pairs, which the processor's vectors do at once.
#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    let mut eight = [0.0; LANES / 2];
    for lane in 0..LANES / 2 {
        eight[lane] = sums[lane] + sums[lane + LANES / 2];
    }
    let [a, b, c, d, e, f, g, h] = eight;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
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
