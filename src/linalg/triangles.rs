//! The same triangular factors of several matrices side by side, one to a lane of the processor's vectors.

use crate::ops::wide;

/// From the lower triangles of W symmetric matrices, row after row and the W numbers of each element together, to those of L with
/// L·Lᵀ = A, as [`Cholesky`](super::Cholesky).
///
/// # Errors
/// The first matrix that is not positive definite to working precision.
///
/// # Panics
/// When `matrices` does not have size·(size + 1)/2 elements.
pub fn cholesky<const W: usize>(matrices: &mut [[f64; W]], size: usize) -> Result<(), usize> {
    assert_eq!(matrices.len(), size * (size + 1) / 2, "a triangle of {size}");
    wide!({
        let rounding = size as f64 * f64::EPSILON;
        let mut lost = None;
        for row in 0..size {
            let (above, rest) = matrices.split_at_mut(row * (row + 1) / 2);
            let this = &mut rest[..=row];
            for column in 0..row {
                let other = &above[column * (column + 1) / 2..][..=column];
                let mut sum = this[column];
                for (a, b) in this[..column].iter().zip(other) {
                    for lane in 0..W {
                        sum[lane] -= a[lane] * b[lane];
                    }
                }
                for lane in 0..W {
                    this[column][lane] = sum[lane] / other[column][lane];
                }
            }
            let mut pivot = this[row];
            for a in &this[..row] {
                for lane in 0..W {
                    pivot[lane] -= a[lane] * a[lane];
                }
            }
            let bad = |lane: &usize| pivot[*lane].is_nan() || pivot[*lane] <= rounding * this[row][*lane];
            lost = lost.or((0..W).find(bad));
            this[row] = pivot.map(f64::sqrt);
        }
        lost.map_or(Ok(()), Err)
    })
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::linalg::{Cholesky, add_gram};

    #[test]
    fn each_factor_is_that_of_its_matrix_alone() {
        const SIZE: usize = 37;
        let matrix = |lane: usize| {
            let mut stream = crate::rng::stream(0, "triangles test", &lane.to_string());
            let rows: Vec<f64> = StandardNormal.sample_iter(&mut stream).take(2 * SIZE * SIZE).collect();
            let mut matrix = vec![0.0; SIZE * SIZE];
            matrix.iter_mut().step_by(SIZE + 1).for_each(|diagonal| *diagonal = 0.1);
            add_gram(&mut matrix, &rows, SIZE);
            matrix
        };
        let all: Vec<Vec<f64>> = (0..4).map(matrix).collect();
        let places = || (0..SIZE).flat_map(|row| (0..=row).map(move |column| row * SIZE + column));
        let mut side_by_side: Vec<[f64; 4]> = places().map(|at| [0, 1, 2, 3].map(|lane| all[lane][at])).collect();
        cholesky(&mut side_by_side, SIZE).unwrap();
        for (lane, matrix) in all.into_iter().enumerate() {
            let alone = Cholesky::new(matrix, SIZE).unwrap();
            for (found, at) in side_by_side.iter().zip(places()) {
                let expected = alone.lower()[at];
                assert!((found[lane] - expected).abs() < 1e-10, "{lane}, {at}: {}, not {expected}", found[lane]);
            }
        }
    }

    #[test]
    fn a_matrix_that_has_no_factor_is_told() {
        for (bad, lane) in [([2.0, 2.0, 1.0], 1), ([0.0, 0.0, 0.0], 0), ([1.0, f64::NAN, 1.0], 1)] {
            let mut both: Vec<[f64; 2]> = bad.iter().zip([4.0, 2.0, 3.0]).map(|(bad, good)| [*bad, good]).collect();
            if lane == 1 {
                both.iter_mut().for_each(|pair| pair.reverse());
            }
            assert_eq!(cholesky(&mut both, 2), Err(lane));
        }
    }
}
