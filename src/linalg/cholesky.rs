//! Cholesky factors, by faer.

use faer::{
    MatMut, MatRef, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::{
        cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch},
        triangular_inverse::invert_lower_triangular,
        triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place},
    },
};
use rayon::prelude::*;

use super::{TOGETHER, dot, filled};

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
        let diagonal: Vec<f64> = matrix.iter().step_by(size + 1).copied().collect();
        let mut room = MemBuffer::new(cholesky_in_place_scratch::<f64>(size, Par::Seq, Default::default()));
        let (view, room) = (MatMut::from_row_major_slice_mut(&mut matrix, size, size), MemStack::new(&mut room));
        cholesky_in_place(view, LltRegularization::default(), Par::Seq, room, Default::default()).ok()?;
        let pivots = matrix.iter().step_by(size + 1).map(|root| root * root);
        if !pivots.zip(&diagonal).all(|(pivot, of)| pivot > rounding * of) {
            return None;
        }
        for (row, values) in matrix.chunks_exact_mut(size).enumerate() {
            values[row + 1..].fill(0.0);
        }
        Some(Self { size, lower: matrix })
    }

    /// L, row after row, with zeros above the diagonal.
    #[cfg(test)]
    pub(super) fn lower(&self) -> &[f64] {
        &self.lower
    }

    fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.lower, self.size, self.size)
    }

    /// ln det A
    pub fn log_determinant(&self) -> f64 {
        2.0 * self.lower.iter().step_by(self.size + 1).map(|pivot| pivot.ln()).sum::<f64>()
    }

    /// tr A⁻¹ = ‖L⁻¹‖²: no less than 1/λ of A's least eigenvalue λ, and at most `size` times that.
    pub fn inverse_trace(&self) -> f64 {
        let mut inverse = vec![0.0; self.lower.len()];
        let view = MatMut::from_row_major_slice_mut(&mut inverse, self.size, self.size);
        invert_lower_triangular(view, self.view(), Par::Seq);
        dot(&inverse, &inverse)
    }

    /// Puts L⁻¹x in the place of each row x of `rows` (N, size).
    ///
    /// # Panics
    /// When `rows` are not whole rows.
    pub fn solve(&self, rows: &mut [f64]) {
        self.in_blocks(rows, |rows| solve_lower_triangular_in_place(self.view(), rows, Par::Seq));
    }

    /// Puts L⁻ᵀx in the place of each row x of `rows` (N, size).
    ///
    /// # Panics
    /// When `rows` are not whole rows.
    pub fn solve_transposed(&self, rows: &mut [f64]) {
        self.in_blocks(rows, |rows| solve_upper_triangular_in_place(self.view().transpose(), rows, Par::Seq));
    }

    /// Calls `solve` with some rows at a time, as columns.
    fn in_blocks(&self, rows: &mut [f64], solve: impl Fn(MatMut<'_, f64>) + Sync) {
        assert_eq!(rows.len() % self.size, 0, "rows of {} elements", self.size);
        rows.par_chunks_mut(TOGETHER * self.size).for_each(|rows| {
            if rows.len() == TOGETHER * self.size {
                return solve(MatMut::from_column_major_slice_mut(rows, self.size, TOGETHER));
            }
            let mut all = filled(rows, self.size);
            solve(MatMut::from_column_major_slice_mut(&mut all, self.size, TOGETHER));
            rows.copy_from_slice(&all[..rows.len()]);
        });
    }

    /// xᵀA⁻¹x = ‖L⁻¹x‖² of each row x of `rows` (N, size).
    ///
    /// # Panics
    /// When `rows` are not whole rows.
    pub fn inverse_forms(&self, mut rows: Vec<f64>) -> Vec<f64> {
        self.solve(&mut rows);
        rows.chunks_exact(self.size).map(|y| dot(y, y)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{
        project,
        tests::{SIZE, normal, positive},
    };

    /// Small ones, one that no block fits, and one of many blocks.
    #[test]
    fn the_factor_gives_the_matrix_back() {
        for size in [1, 2, 3, SIZE, 640] {
            let matrix = positive(size);
            let cholesky = Cholesky::new(matrix.clone(), size).unwrap();
            let most = matrix.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let product = project(cholesky.lower(), cholesky.lower(), size);
            for (at, (found, expected)) in product.iter().zip(&matrix).enumerate() {
                assert!((found - expected).abs() < 1e-13 * most, "{size}, {at}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn forms_and_determinants_of_known_matrices() {
        // [[4, 2], [2, 3]]: determinant 8, inverse [[3, -2], [-2, 4]] / 8.
        let cholesky = Cholesky::new(vec![4.0, 2.0, 2.0, 3.0], 2).unwrap();
        assert!((cholesky.log_determinant() - 8f64.ln()).abs() < 1e-15);
        assert!((cholesky.inverse_trace() - 7.0 / 8.0).abs() < 1e-15);
        let forms = cholesky.inverse_forms(vec![1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert!((forms[0] - 3.0 / 8.0).abs() < 1e-15 && (forms[1] - 3.0 / 8.0).abs() < 1e-15 && forms[2] == 0.0);
    }

    /// A·y has the form yᵀA·y, and both solves of A·y are y.
    #[test]
    fn solves_invert_products() {
        for size in [SIZE, 640] {
            let matrix = positive(size);
            let y = normal(size, "y");
            let mut product = project(&y, &matrix, size);
            let expected = dot(&y, &product);
            let cholesky = Cholesky::new(matrix, size).unwrap();
            let form = cholesky.inverse_forms(product.clone())[0];
            assert!((form / expected - 1.0).abs() < 1e-10, "{form}, not {expected}");
            cholesky.solve(&mut product);
            cholesky.solve_transposed(&mut product);
            assert!(product.iter().zip(&y).all(|(found, y)| (found - y).abs() < 1e-8), "{size}");
        }
    }

    #[test]
    fn company_and_threads_do_not_change_a_bit() {
        let cholesky = Cholesky::new(positive(SIZE), SIZE).unwrap();
        let rows = normal(600 * SIZE, "company");
        let whole = cholesky.inverse_forms(rows.clone());
        let parts: Vec<f64> = rows.chunks(7 * SIZE).flat_map(|rows| cholesky.inverse_forms(rows.to_vec())).collect();
        assert_eq!(whole, parts);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, alone.install(|| Cholesky::new(positive(SIZE), SIZE).unwrap().inverse_forms(rows)));
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        for matrix in [
            vec![0.0],
            vec![-1.0],
            vec![f64::NAN],
            vec![1.0, 2.0, 2.0, 1.0],
            vec![1.0, 1.0, 1.0, 1.0],
            vec![1.0, 0.0, 0.0, f64::NAN],
            // Singular but for the rounding of 0.1 + 0.2.
            vec![0.3, 0.3, 0.3, 0.1 + 0.2],
        ] {
            let size = matrix.len().isqrt();
            assert!(Cholesky::new(matrix.clone(), size).is_none(), "{matrix:?}");
        }
    }
}
