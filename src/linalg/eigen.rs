//! Eigenvalues and eigenvectors of symmetric matrices, by faer: blocked reflections to a tridiagonal matrix, then divide and conquer.

use faer::{
    ColMut, MatMut, MatRef, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch},
};

/// A = Σ_i λ_i·v_i·v_iᵀ
#[derive(Debug, Clone)]
pub struct Eigen {
    /// λ, largest first.
    pub values: Vec<f64>,
    /// v, one after the other, in the order of their values: orthonormal, of arbitrary sign.
    pub vectors: Vec<f64>,
}

impl Eigen {
    /// Of the symmetric A (size, size), whose upper triangle is read. Errors are about the machine's precision times the
    /// largest |λ|. `None` when A holds NaN or infinity.
    ///
    /// # Panics
    /// When `matrix` does not have size² elements, or is empty.
    pub fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        assert!(size > 0 && matrix.len() == size * size, "a {size}x{size} matrix");
        if matrix.iter().any(|value| !value.is_finite()) {
            return None;
        }
        // So that no square overflows or vanishes.
        let scale = matrix.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        if scale > 0.0 {
            matrix.iter_mut().for_each(|value| *value /= scale);
        }
        let needed = self_adjoint_evd_scratch::<f64>(size, ComputeEigenvectors::Yes, Par::Seq, Default::default());
        let mut room = MemBuffer::new(needed);
        let (mut values, mut vectors) = (vec![0.0; size], vec![0.0; size * size]);
        self_adjoint_evd(
            MatRef::from_column_major_slice(&matrix, size, size),
            ColMut::from_slice_mut(&mut values).as_diagonal_mut(),
            Some(MatMut::from_column_major_slice_mut(&mut vectors, size, size)),
            Par::Seq,
            MemStack::new(&mut room),
            Default::default(),
        )
        .ok()?;
        // faer's are the smallest first.
        values.reverse();
        values.iter_mut().for_each(|value| *value *= scale);
        let (first, last) = vectors.split_at_mut(size / 2 * size);
        let pairs = first.chunks_exact_mut(size).zip(last.chunks_exact_mut(size).rev());
        pairs.for_each(|(one, other)| one.swap_with_slice(other));
        Some(Self { values, vectors })
    }

    /// How many eigenvalues of a matrix without negative ones are more than rounding: above size·ε times the largest, as in numpy's
    /// `pinv` of symmetric matrices and in scipy's `pinvh`.
    pub fn rank(&self) -> usize {
        let least = self.values[0] * self.values.len() as f64 * f64::EPSILON;
        self.values.iter().take_while(|value| **value > least).count()
    }

    /// v / √λ of each eigenvector whose λ is among those of the [rank](Eigen::rank), one after the other: products with them have A as the
    /// identity.
    pub fn whitening(&self) -> Vec<f64> {
        let vectors = self.vectors.chunks_exact(self.values.len()).zip(&self.values).take(self.rank());
        vectors.flat_map(|(vector, value)| vector.iter().map(|x| x / value.sqrt())).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::linalg::{add_gram, project};

    /// rowsᵀ·rows of `count` rows: of that rank, if there are fewer than `size`.
    fn gram(count: usize, size: usize) -> Vec<f64> {
        let mut rng = crate::rng::stream(0, "eigen test", "rows");
        let rows: Vec<f64> = StandardNormal.sample_iter(&mut rng).take(count * size).collect();
        let mut gram = vec![0.0; size * size];
        add_gram(&mut gram, &rows, size);
        gram
    }

    fn check(matrix: &[f64], size: usize) -> Eigen {
        let eigen = Eigen::new(matrix.to_vec(), size).unwrap();
        let most = eigen.values.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
        assert!(eigen.values.is_sorted_by(|a, b| a >= b));
        let (products, stretched) =
            (project(&eigen.vectors, &eigen.vectors, size), project(&eigen.vectors, matrix, size));
        for (at, (product, stretched)) in products.iter().zip(&stretched).enumerate() {
            let (index, other) = (at / size, at % size);
            let expected = if index == other { 1.0 } else { 0.0 };
            assert!((product - expected).abs() < 1e-13, "{index}, {other}: {product}");
            let error = stretched - eigen.values[index] * eigen.vectors[at];
            assert!(error.abs() < 1e-13 * most, "{index}: {error}");
        }
        eigen
    }

    #[test]
    fn vectors_are_orthonormal_and_stretched_by_their_values() {
        for size in [1, 2, 3, 63, 64, 65, 150, 640] {
            assert_eq!(check(&gram(2 * size, size), size).rank(), size);
        }
    }

    #[test]
    fn matrices_that_lack_rank() {
        assert_eq!(check(&gram(7, 100), 100).rank(), 7);
        assert_eq!(check(&[0.0; 16], 4).rank(), 0);
        assert_eq!(check(&[1.0; 25], 5).rank(), 1);
        let mut diagonal = vec![0.0; 100];
        diagonal.iter_mut().step_by(11).zip(1..).for_each(|(x, value)| *x = f64::from(value % 4));
        assert_eq!(check(&diagonal, 10).values, [3.0, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    /// Features of a network that hardly learned: a mean, and little beside it.
    #[test]
    fn a_large_direction_beside_few_small_ones() {
        for count in [24, 32] {
            let mut rng = crate::rng::stream(0, "eigen test", "mean");
            let mean: Vec<f64> = StandardNormal.sample_iter(&mut rng).take(512).collect();
            let noise = StandardNormal.sample_iter(&mut rng).take(count * 512);
            let values =
                noise.zip(mean.iter().cycle()).map(|(noise, mean): (f64, &f64)| (mean + 0.14 * noise).max(0.0));
            let mut moments = vec![0.0; 512 * 512];
            add_gram(&mut moments, &values.collect::<Vec<_>>(), 512);
            assert_eq!(check(&moments, 512).rank(), count);
        }
    }

    /// 1 / (row + column + 1), graded over ten powers of ten: numpy.linalg.eigvalsh, whose last digits are rounding too.
    #[test]
    fn values_of_a_hilbert_matrix() {
        let matrix: Vec<f64> = (0..64).map(|at| 1.0 / f64::from(at / 8 + at % 8 + 1)).collect();
        for (value, expected) in check(&matrix, 8).values.iter().zip(HILBERT) {
            assert!((value - expected).abs() < 3e-15, "{value}, expected {expected}");
        }
    }

    const HILBERT: [f64; 8] = [
        1.695938996921949,
        0.29812521131693065,
        0.026212843578118913,
        0.0014676881177417614,
        5.4369433697488384e-05,
        1.2943320918799866e-06,
        1.7988737458080757e-08,
        1.111539028751438e-10,
    ];

    #[test]
    fn scales_and_signs_do_not_matter_and_nonsense_has_none() {
        for scale in [1e-300, -1.0, 1e300] {
            let matrix = [2.0, 1.0, 1.0, 2.0].map(|x| x * scale);
            let values = Eigen::new(matrix.to_vec(), 2).unwrap().values;
            let expected = if scale > 0.0 { [3.0, 1.0] } else { [-1.0, -3.0] };
            assert!(
                values.iter().zip(expected).all(|(value, of)| (value / scale.abs() - of).abs() < 1e-14),
                "{values:?}"
            );
        }
        assert!(Eigen::new(vec![1.0, f64::NAN, 0.0, 1.0], 2).is_none());
        assert!(Eigen::new(vec![f64::INFINITY], 1).is_none());
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let matrix = gram(400, 300);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let found = alone.install(|| Eigen::new(gram(400, 300), 300).unwrap());
        assert_eq!(found.vectors, Eigen::new(matrix, 300).unwrap().vectors);
    }
}
