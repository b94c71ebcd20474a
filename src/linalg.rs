//! Linear algebra of statistics, in f64. Every sum has an order that depends on sizes only.

mod cholesky;
mod eigen;
mod ledoit_wolf;
mod mixture;
pub mod triangles;

use rayon::prelude::*;

pub use cholesky::Cholesky;
pub use eigen::Eigen;
pub use ledoit_wolf::LedoitWolf;
pub use mixture::{Covariance, Mixture};

use crate::ops::gemm::{Matrix, matmul_f64, matmul_f64_apart};

/// Rows of a symmetric product that one task computes. Smaller blocks copy more, larger ones compute more above the diagonal.
const BLOCK: usize = 128;
/// Numbers that a line of the cache holds.
const LINE: usize = 8;
/// Vectors that one task treats; always so many, so that a vector's result does not depend on its company.
const TOGETHER: usize = 256;

/// Adds the products of the columns of `rows` (N, size) to the symmetric `sum` (size, size): sum += rowsᵀ·rows.
///
/// # Panics
/// When the lengths do not fit.
pub fn add_gram(sum: &mut [f64], rows: &[f64], size: usize) {
    assert!(sum.len() == size * size, "a {size}x{size} sum");
    let rows = Matrix::new(rows, rows.len() / size, size);
    // What lies below the diagonal and on it. The longest blocks come first: none is left when others are done.
    sum.par_chunks_mut(BLOCK * size).enumerate().rev().for_each(|(block, sum)| {
        let start = block * BLOCK;
        let end = start + sum.len() / size;
        matmul_f64_apart(sum, size, true, rows.columns(start..end).transposed(), rows.columns(0..end));
    });
    mirror(sum, size);
}

/// Copies what lies below the diagonal to its place above.
fn mirror(matrix: &mut [f64], size: usize) {
    for start in (0..size).step_by(LINE) {
        let end = size.min(start + LINE);
        for column in 0..end {
            for row in start.max(column + 1)..end {
                matrix[column * size + row] = matrix[row * size + column];
            }
        }
    }
}

/// The products of each row of `rows` (N, size) with each of `directions` (M, size): (N, M).
///
/// # Panics
/// When the rows are not whole.
pub fn project(rows: &[f64], directions: &[f64], size: usize) -> Vec<f64> {
    assert!(rows.len().is_multiple_of(size) && directions.len().is_multiple_of(size), "rows of {size}");
    let count = directions.len() / size;
    let mut products = vec![0.0; rows.len() / size * count];
    if count == 0 {
        return products;
    }
    let columns = Matrix::new(directions, count, size).transposed();
    let blocks = products.par_chunks_mut(TOGETHER * count).zip(rows.par_chunks(TOGETHER * size));
    blocks.for_each(|(products, rows)| {
        let multiply = |rows: &[f64], products: &mut [f64]| {
            matmul_f64(products, false, Matrix::new(rows, TOGETHER, size), columns);
        };
        if rows.len() == TOGETHER * size {
            return multiply(rows, products);
        }
        let mut all = vec![0.0; TOGETHER * count];
        multiply(&filled(rows, size), &mut all);
        products.copy_from_slice(&all[..products.len()]);
    });
    products
}

/// As many rows as are treated together, of which the rest are zeros.
fn filled(rows: &[f64], size: usize) -> Vec<f64> {
    let mut all = vec![0.0; TOGETHER * size];
    all[..rows.len()].copy_from_slice(rows);
    all
}

/// ‖a − b‖²
pub fn square_distance(a: &[f64], b: &[f64]) -> f64 {
    in_eight_sums(a, b, |a, b| (a - b) * (a - b))
}

/// a·b
#[inline(always)]
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    in_eight_sums(a, b, |a, b| a * b)
}

/// Eight fit the processor's vectors.
#[inline(always)]
fn in_eight_sums(a: &[f64], b: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; LINE];
    let (a_parts, b_parts) = (a.chunks_exact(LINE), b.chunks_exact(LINE));
    let rest = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| of(*a, *b)).sum::<f64>();
    for (a, b) in a_parts.zip(b_parts) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += of(*a, *b));
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    pub(super) fn normal(count: usize, name: &str) -> Vec<f64> {
        StandardNormal.sample_iter(&mut crate::rng::stream(0, "linalg test", name)).take(count).collect()
    }

    /// More than a block, and no multiple of one.
    pub(super) const SIZE: usize = 150;

    pub(super) fn positive(size: usize) -> Vec<f64> {
        let mut matrix = vec![0.0; size * size];
        matrix.iter_mut().step_by(size + 1).for_each(|diagonal| *diagonal = 0.1);
        add_gram(&mut matrix, &normal(2 * size * size, "rows"), size);
        matrix
    }

    #[test]
    fn a_gram_matrix_is_all_products_of_columns() {
        let rows = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0];
        let mut sum = vec![1.0; 9];
        add_gram(&mut sum, &rows, 3);
        assert_eq!(sum, [3.0, 2.5, 0.0, 2.5, 5.25, 9.0, 0.0, 9.0, 26.0]);
    }

    #[test]
    fn a_gram_matrix_of_many_blocks_is_symmetric_and_no_thread_changes_a_bit() {
        const SIZE: usize = 3 * BLOCK + 5;
        let rows = normal(20 * SIZE, "gram");
        let gram = || {
            let mut sum = vec![0.0; SIZE * SIZE];
            add_gram(&mut sum, &rows, SIZE);
            sum
        };
        let found = gram();
        for at in 0..SIZE * SIZE {
            let (row, column) = (at / SIZE, at % SIZE);
            assert_eq!(found[at].to_bits(), found[column * SIZE + row].to_bits(), "{row}, {column}");
            let expected: f64 = rows.chunks_exact(SIZE).map(|values| values[row] * values[column]).sum();
            assert!((found[at] - expected).abs() < 1e-12, "{row}, {column}: {}, not {expected}", found[at]);
        }
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(found, alone.install(gram));
    }

    #[test]
    fn projections_are_products_and_company_does_not_change_a_bit() {
        assert_eq!(project(&[1.0, 2.0, 3.0, 4.0], &[1.0, 1.0, 0.0, 2.0, 5.0, 0.0], 2), [3.0, 4.0, 5.0, 7.0, 8.0, 15.0]);
        assert!(project(&[1.0, 2.0], &[], 2).is_empty());
        let (rows, directions) = (normal(600 * SIZE, "rows"), normal(7 * SIZE, "directions"));
        let whole = project(&rows, &directions, SIZE);
        let parts: Vec<f64> = rows.chunks(7 * SIZE).flat_map(|rows| project(rows, &directions, SIZE)).collect();
        assert_eq!(whole, parts);
    }

    #[test]
    fn sums_of_any_length() {
        for size in [0, 1, 7, 8, 9, 16, 19] {
            let (a, b): (Vec<f64>, Vec<f64>) = (0..size).map(|x| (f64::from(x), f64::from(x * x))).unzip();
            let of = |f: fn(f64, f64) -> f64| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).sum::<f64>();
            assert_eq!(
                (dot(&a, &b), square_distance(&a, &b)),
                (of(|a, b| a * b), of(|a, b| (a - b).powi(2))),
                "{size}"
            );
        }
    }
}
