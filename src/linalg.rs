//! Linear algebra of statistics, in f64. Every sum has an order that depends on sizes only.

mod eigen;
mod ledoit_wolf;
mod mixture;
pub mod triangles;

use rayon::prelude::*;

pub use eigen::Eigen;
pub use ledoit_wolf::LedoitWolf;
pub use mixture::{Covariance, Mixture};

use crate::ops::gemm::{Matrix, matmul_f64};

/// Rows or columns that are treated together.
const BLOCK: usize = 64;
/// Vectors that one task solves for; always so many, so that a vector's result does not depend on its company.
const TOGETHER: usize = 256;

/// Adds the products of the columns of `rows` (N, size) to `sum` (size, size): sum += rowsᵀ·rows.
///
/// # Panics
/// When the lengths do not fit.
pub fn add_gram(sum: &mut [f64], rows: &[f64], size: usize) {
    let rows = Matrix::new(rows, rows.len() / size, size);
    sum.par_chunks_mut(BLOCK * size).enumerate().for_each(|(block, sum)| {
        let start = block * BLOCK;
        matmul_f64(sum, true, rows.columns(start..start + sum.len() / size).transposed(), rows);
    });
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
        if rows.len() == TOGETHER * size {
            matmul_f64(products, false, Matrix::new(rows, TOGETHER, size), columns);
            return;
        }
        let mut padded = rows.to_vec();
        padded.resize(TOGETHER * size, 0.0);
        let mut all = vec![0.0; TOGETHER * count];
        matmul_f64(&mut all, false, Matrix::new(&padded, TOGETHER, size), columns);
        products.copy_from_slice(&all[..products.len()]);
    });
    products
}

/// The lower triangular L with L·Lᵀ = A.
#[derive(Debug, Clone)]
pub struct Cholesky {
    size: usize,
    /// Row after row, zeros above the diagonal.
    lower: Vec<f64>,
}

impl Cholesky {
    /// Of the symmetric A (size, size), whose lower triangle is read. `None` when A is not positive definite to working precision:
    /// when a pivot is lost in the rounding of what it was computed from, or not a number.
    ///
    /// # Panics
    /// When `matrix` does not have size² elements.
    pub fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        assert_eq!(matrix.len(), size * size, "a {size}x{size} matrix");
        let rounding = size as f64 * f64::EPSILON;
        for row in 0..size {
            let (above, this) = matrix.split_at_mut(row * size);
            let this = &mut this[..size];
            for column in 0..row {
                let other = &above[column * size..][..size];
                this[column] = (this[column] - dot(&this[..column], &other[..column])) / other[column];
            }
            let pivot = this[row] - dot(&this[..row], &this[..row]);
            if pivot.is_nan() || pivot <= rounding * this[row] {
                return None;
            }
            this[row] = pivot.sqrt();
            this[row + 1..].fill(0.0);
        }
        Some(Self { size, lower: matrix })
    }

    /// L, row after row, with zeros above the diagonal.
    #[cfg(test)]
    fn lower(&self) -> &[f64] {
        &self.lower
    }

    /// ln det A
    pub fn log_determinant(&self) -> f64 {
        2.0 * self.lower.iter().step_by(self.size + 1).map(|pivot| pivot.ln()).sum::<f64>()
    }

    /// xᵀA⁻¹x = ‖L⁻¹x‖² of each row x of `rows` (N, size).
    ///
    /// # Panics
    /// When `rows` are not whole rows.
    pub fn inverse_forms(&self, rows: &[f64]) -> Vec<f64> {
        assert_eq!(rows.len() % self.size, 0, "rows of {} elements", self.size);
        let mut forms = vec![0.0; rows.len() / self.size];
        forms.par_chunks_mut(TOGETHER).zip(rows.par_chunks(TOGETHER * self.size)).for_each(|(forms, rows)| {
            let mut columns = vec![0.0; self.size * TOGETHER];
            for (vector, row) in rows.chunks_exact(self.size).enumerate() {
                row.iter().zip(columns.chunks_exact_mut(TOGETHER)).for_each(|(x, column)| column[vector] = *x);
            }
            self.solve_lower(&mut columns);
            for column in columns.chunks_exact(TOGETHER) {
                forms.iter_mut().zip(column).for_each(|(form, y)| *form += y * y);
            }
        });
        forms
    }

    /// L⁻¹X in the place of X (size, TOGETHER), by forward substitution, block of rows after block.
    fn solve_lower(&self, x: &mut [f64]) {
        let mut known = vec![0.0; BLOCK * TOGETHER];
        for start in (0..self.size).step_by(BLOCK) {
            let count = BLOCK.min(self.size - start);
            let (solved, rest) = x.split_at_mut(start * TOGETHER);
            let block = &mut rest[..count * TOGETHER];
            if start > 0 {
                let rows = Matrix::new(&self.lower[start * self.size..][..count * self.size], count, self.size);
                let known = &mut known[..count * TOGETHER];
                matmul_f64(known, false, rows.columns(0..start), Matrix::new(solved, start, TOGETHER));
                block.iter_mut().zip(known).for_each(|(x, known)| *x -= *known);
            }
            for row in 0..count {
                let (before, this) = block.split_at_mut(row * TOGETHER);
                let this = &mut this[..TOGETHER];
                let factors = &self.lower[(start + row) * self.size + start..][..=row];
                for (factor, y) in factors.iter().zip(before.chunks_exact(TOGETHER)) {
                    this.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
                }
                let pivot = factors[row];
                this.iter_mut().for_each(|x| *x /= pivot);
            }
        }
    }
}

/// In eight sums, which fit the processor's vectors.
#[inline(always)]
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_parts, b_parts) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum::<f64>();
    for (a, b) in a_parts.zip(b_parts) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    fn normal(count: usize, name: &str) -> Vec<f64> {
        StandardNormal.sample_iter(&mut crate::rng::stream(0, "linalg test", name)).take(count).collect()
    }

    /// More than a block, and no multiple of one.
    const SIZE: usize = 150;

    fn positive() -> Vec<f64> {
        let mut matrix = vec![0.0; SIZE * SIZE];
        matrix.iter_mut().step_by(SIZE + 1).for_each(|diagonal| *diagonal = 0.1);
        add_gram(&mut matrix, &normal(2 * SIZE * SIZE, "rows"), SIZE);
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
    fn the_factor_gives_the_matrix_back() {
        let matrix = positive();
        let cholesky = Cholesky::new(matrix.clone(), SIZE).unwrap();
        for (row, expected) in matrix.chunks_exact(SIZE).enumerate() {
            for (column, expected) in expected.iter().enumerate() {
                let of = |row: usize| &cholesky.lower[row * SIZE..][..SIZE];
                let found: f64 = of(row).iter().zip(of(column)).map(|(a, b)| a * b).sum();
                assert!((found - expected).abs() < 1e-10, "{row}, {column}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn forms_and_determinants_of_known_matrices() {
        // [[4, 2], [2, 3]]: determinant 8, inverse [[3, -2], [-2, 4]] / 8.
        let cholesky = Cholesky::new(vec![4.0, 2.0, 2.0, 3.0], 2).unwrap();
        assert!((cholesky.log_determinant() - 8f64.ln()).abs() < 1e-15);
        let forms = cholesky.inverse_forms(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert!((forms[0] - 3.0 / 8.0).abs() < 1e-15 && (forms[1] - 3.0 / 8.0).abs() < 1e-15 && forms[2] == 0.0);
    }

    /// A·y has the form yᵀA·y.
    #[test]
    fn forms_invert_products() {
        let matrix = positive();
        let y = normal(SIZE, "y");
        let product: Vec<f64> = matrix.chunks_exact(SIZE).map(|row| dot(row, &y)).collect();
        let form = Cholesky::new(matrix, SIZE).unwrap().inverse_forms(&product)[0];
        assert!((form / dot(&y, &product) - 1.0).abs() < 1e-10);
    }

    #[test]
    fn company_does_not_change_a_bit() {
        let cholesky = Cholesky::new(positive(), SIZE).unwrap();
        let rows = normal(600 * SIZE, "company");
        let whole = cholesky.inverse_forms(&rows);
        let parts: Vec<f64> = rows.chunks(7 * SIZE).flat_map(|rows| cholesky.inverse_forms(rows)).collect();
        assert_eq!(whole, parts);
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
    fn what_is_not_positive_definite_has_no_factor() {
        for matrix in [
            vec![0.0],
            vec![-1.0],
            vec![f64::NAN],
            vec![1.0, 2.0, 2.0, 1.0],
            vec![1.0, 1.0, 1.0, 1.0],
            // Singular but for the rounding of 0.1 + 0.2.
            vec![0.3, 0.3, 0.3, 0.1 + 0.2],
        ] {
            let size = matrix.len().isqrt();
            assert!(Cholesky::new(matrix.clone(), size).is_none(), "{matrix:?}");
        }
    }
}
