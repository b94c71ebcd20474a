//! A safe matrix product over slices.

use super::Float;

/// A matrix stored row after row, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` read as `rows` rows of `columns` elements.
    ///
    /// # Panics
    /// When `data` has another length.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a {rows}x{columns} matrix needs as many elements");
        Self { data, rows, columns, row_stride: columns as isize, column_stride: 1 }
    }

    /// Some of the columns, without moving anything.
    ///
    /// # Panics
    /// When there are no such columns.
    pub(crate) fn columns(self, columns: std::ops::Range<usize>) -> Self {
        assert!(columns.start < columns.end && columns.end <= self.columns, "{columns:?} of {} columns", self.columns);
        let data = self.data.get(columns.start * self.column_stride as usize..).unwrap_or_default();
        Self { data, columns: columns.len(), ..self }
    }

    /// The transpose, without moving anything.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// result = left · right, or result += left · right when `accumulate`. On the calling thread.
///
/// # Panics
/// When the shapes do not fit: (m, k) · (k, n) into m·n elements, row after row.
pub(super) fn matmul<T: Float>(result: &mut [T], accumulate: bool, left: Matrix<T>, right: Matrix<T>) {
    let (m, n) = (left.rows, right.columns);
    assert_eq!(result.len(), m * n, "a {m}x{n} result needs as many elements");
    matmul_apart(result, n, accumulate, left, right);
}

/// The same into rows that begin `stride` elements apart; what lies between them stays.
fn matmul_apart<T: Float>(result: &mut [T], stride: usize, accumulate: bool, left: Matrix<T>, right: Matrix<T>) {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(right.rows, k, "inner sizes differ");
    assert!(n <= stride && result.len() + stride >= m * stride + n, "a {m}x{n} result in rows of {stride}");
    let one = T::from_f64(1.0);
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    // SAFETY: `Matrix` guarantees that each of its elements lies in its slice: all rows·columns, asserted when it was made, or
    // some of their columns, counted from the first of them. `result` reaches from the first row to the n-th element of the last,
    // and rows do not overlap (asserted above). It is borrowed mutably and therefore overlaps neither operand. `Float` is f32 or
    // f64, which gemm supports. With `read_dst` false gemm only writes `result`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            result.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride,
            left.row_stride,
            right.data.as_ptr(),
            right.column_stride,
            right.row_stride,
            one,
            one,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// [`matmul`] in f64, for all of the library.
///
/// # Panics
/// As it.
pub(crate) fn matmul_f64(result: &mut [f64], accumulate: bool, left: Matrix<f64>, right: Matrix<f64>) {
    matmul(result, accumulate, left, right);
}

/// [`matmul_f64`] into rows that begin `stride` elements apart; what lies between them stays.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn matmul_f64_apart(
    result: &mut [f64],
    stride: usize,
    accumulate: bool,
    left: Matrix<f64>,
    right: Matrix<f64>,
) {
    matmul_apart(result, stride, accumulate, left, right);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes() {
        let (a, b) = ([1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0f64, -1.0, 2.0, 0.5, 0.0, 1.0]);
        let mut result = [100.0; 4];
        matmul(&mut result, false, Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2));
        assert_eq!(result, [5.0, 3.0, 14.0, 4.5]);
        matmul(&mut result, true, Matrix::new(&a, 2, 3), Matrix::new(&a, 2, 3).transposed());
        assert_eq!(result, [19.0, 35.0, 46.0, 81.5]);
        let last = Matrix::new(&a, 2, 3).columns(1..3);
        matmul(&mut result, false, last, last.transposed());
        assert_eq!(result, [13.0, 28.0, 28.0, 61.0]);
        matmul(&mut result, false, last.transposed(), Matrix::new(&a[..4], 2, 2));
        assert_eq!(result, [17.0, 24.0, 21.0, 30.0]);
    }

    #[test]
    fn what_lies_between_rows_stays() {
        let a = [1.0f64, 2.0, 3.0, 4.0];
        let mut result = [9.0; 5];
        matmul_f64_apart(&mut result, 3, false, Matrix::new(&a, 2, 2), Matrix::new(&a, 2, 2));
        assert_eq!(result, [7.0, 10.0, 9.0, 15.0, 22.0]);
        matmul_f64_apart(&mut result, 3, true, Matrix::new(&a, 2, 2), Matrix::new(&a, 2, 2));
        assert_eq!(result, [14.0, 20.0, 9.0, 30.0, 44.0]);
    }

    #[test]
    #[should_panic(expected = "in rows of 3")]
    fn a_result_that_is_too_short_is_refused() {
        let a = [1.0f64, 2.0, 3.0, 4.0];
        matmul_f64_apart(&mut [0.0; 4], 3, false, Matrix::new(&a, 2, 2), Matrix::new(&a, 2, 2));
    }
}
