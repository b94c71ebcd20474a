//! Eigenvalues and eigenvectors of symmetric matrices: Householder reflections to a tridiagonal matrix, then implicit QL
//! steps with Wilkinson's shift (Golub & Van Loan, *Matrix Computations*, sections 8.3.1 and 8.3.3).

use rayon::prelude::*;

use super::dot;

/// Coordinates of the eigenvectors that are rotated together, while they stay in the cache.
const TOGETHER: usize = 64;
/// Rotations that are kept before they are applied.
const KEPT: usize = 1 << 15;
/// QL steps for one eigenvalue, before rounding is taken for nothing and after it; two are usual.
const STEPS: usize = 64;

/// A = Σ_i λ_i·v_i·v_iᵀ
#[derive(Debug, Clone)]
pub struct Eigen {
    /// λ, largest first.
    pub values: Vec<f64>,
    /// v, one after the other, in the order of their values: orthonormal, of arbitrary sign.
    pub vectors: Vec<f64>,
}

impl Eigen {
    /// Of the symmetric A (size, size), whose upper triangle is read where it matters. Errors are about the machine's precision
    /// times the largest |λ|. `None` when A holds NaN or infinity.
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
        let (mut diagonal, mut beside, reflections) = tridiagonal(&mut matrix, size);
        let mut parts = reflected(&matrix, &reflections, size);
        drop(matrix);
        let mut rotations = Vec::with_capacity(KEPT);
        for first in 0..size {
            diagonalise(first, &mut diagonal, &mut beside, &mut rotations)?;
            if rotations.len() >= KEPT || first + 1 == size {
                parts.par_iter_mut().for_each(|part| rotations.iter().for_each(|rotation| rotation.apply(part)));
                rotations.clear();
            }
        }
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
        let mut vectors = Vec::with_capacity(size * size);
        for index in &order {
            vectors.extend(parts.iter().flat_map(|part| &part[index * TOGETHER..][..TOGETHER]).take(size));
        }
        Some(Self { values: order.iter().map(|index| diagonal[*index] * scale).collect(), vectors })
    }

    /// How many eigenvalues of a matrix without negative ones are more than rounding: above size·ε times the largest, as in numpy's
    /// `pinv` of symmetric matrices and in scipy's `pinvh`.
    pub fn rank(&self) -> usize {
        let least = self.values[0] * self.values.len() as f64 * f64::EPSILON;
        self.values.iter().take_while(|value| **value > least).count()
    }
}

/// Turns A into QᵀAQ = T, and returns T's diagonal, the elements beside it and β for each reflection I − β·v·vᵀ, whose v is
/// left in A's row, right of the diagonal.
fn tridiagonal(matrix: &mut [f64], size: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside, mut reflections) = (vec![0.0; size], vec![0.0; size], vec![0.0; size]);
    for step in 0..size {
        let (above, below) = matrix.split_at_mut((step + 1) * size);
        let row = &mut above[step * size + step..];
        diagonal[step] = row[0];
        let v = &mut row[1..];
        if v.len() < 2 || v[1..].iter().all(|x| *x == 0.0) {
            beside[step] = v.first().copied().unwrap_or(0.0);
            continue;
        }
        let norm = dot(v, v).sqrt();
        beside[step] = -norm.copysign(v[0]);
        v[0] -= beside[step];
        let factor = 2.0 / dot(v, v);
        reflections[step] = factor;
        let v = &*v;
        let rest = step + 1..size;
        let mut w: Vec<f64> = below
            .par_chunks_exact(size)
            .with_min_len(TOGETHER)
            .map(|row| factor * dot(&row[rest.clone()], v))
            .collect();
        let half = 0.5 * factor * dot(&w, v);
        w.iter_mut().zip(v).for_each(|(w, v)| *w -= half * v);
        let rows = below.par_chunks_exact_mut(size).with_min_len(TOGETHER);
        rows.zip(v.par_iter().zip(&w)).for_each(|(row, (v_row, w_row))| {
            let columns = row[rest.clone()].iter_mut().zip(v.iter().zip(&w));
            columns.for_each(|(x, (v, w))| *x -= v_row * w + w_row * v);
        });
    }
    (diagonal, beside, reflections)
}

/// Qᵀ, some of its columns after the other: each part has `size` rows.
fn reflected(matrix: &[f64], reflections: &[f64], size: usize) -> Vec<Vec<f64>> {
    let part = |first: usize| {
        let mut part = vec![0.0; size * TOGETHER];
        for column in 0..TOGETHER.min(size - first) {
            part[(first + column) * TOGETHER + column] = 1.0;
        }
        for (step, factor) in reflections.iter().enumerate().filter(|(_, factor)| **factor != 0.0) {
            let v = &matrix[step * size..][step + 1..size];
            let rows = &mut part[(step + 1) * TOGETHER..];
            let mut sums = [0.0; TOGETHER];
            for (row, v) in rows.chunks_exact(TOGETHER).zip(v) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += v * x);
            }
            for (row, v) in rows.chunks_exact_mut(TOGETHER).zip(v) {
                row.iter_mut().zip(&sums).for_each(|(x, sum)| *x -= factor * v * sum);
            }
        }
        part
    };
    (0..size).into_par_iter().step_by(TOGETHER).map(part).collect()
}

/// Of the rows `index` and `index` + 1.
struct Rotation {
    index: usize,
    cosine: f64,
    sine: f64,
}

impl Rotation {
    fn apply(&self, part: &mut [f64]) {
        let (first, second) = part[self.index * TOGETHER..][..2 * TOGETHER].split_at_mut(TOGETHER);
        for (x, y) in first.iter_mut().zip(second) {
            (*x, *y) = (self.cosine * *x - self.sine * *y, self.sine * *x + self.cosine * *y);
        }
    }
}

fn largest(diagonal: &[f64], beside: &[f64]) -> f64 {
    diagonal.iter().zip(beside).fold(0.0, |most, (on, beside)| most.max(on.abs() + beside.abs()))
}

/// QL steps until the element beside the `first` of the diagonal has vanished.
fn diagonalise(first: usize, diagonal: &mut [f64], beside: &mut [f64], rotations: &mut Vec<Rotation>) -> Option<()> {
    for step in 0..2 * STEPS {
        // The largest element of the matrix is 1: what is below ε² is nothing beside it. Where rounding is all that is left of many
        // rows, as of features of few images, the steps may chase it for ever: then what is below ε beside the largest has vanished.
        let least = if step < STEPS { f64::EPSILON } else { largest(diagonal, beside) };
        let small = |at: &usize| {
            let neighbours = diagonal[*at].abs() + diagonal[at + 1].abs();
            beside[*at].abs() <= f64::EPSILON * (neighbours + least)
        };
        let last = (first..diagonal.len() - 1).find(small).unwrap_or(diagonal.len() - 1);
        if last == first {
            return Some(());
        }
        let gap = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
        let shift = diagonal[first] - beside[first] / (gap + gap.hypot(1.0).copysign(gap));
        let (mut bulge, mut sine, mut cosine, mut change) = (diagonal[last] - shift, 1.0, 1.0, 0.0);
        let mut split = false;
        for index in (first..last).rev() {
            let (out, along) = (sine * beside[index], cosine * beside[index]);
            let radius = out.hypot(bulge);
            beside[index + 1] = radius;
            if radius == 0.0 {
                diagonal[index + 1] -= change;
                split = true;
                break;
            }
            (sine, cosine) = (out / radius, bulge / radius);
            let before = diagonal[index + 1] - change;
            let turn = (diagonal[index] - before) * sine + 2.0 * cosine * along;
            change = sine * turn;
            diagonal[index + 1] = before + change;
            bulge = cosine * turn - along;
            rotations.push(Rotation { index, cosine, sine });
        }
        if !split {
            diagonal[first] -= change;
            beside[first] = bulge;
        }
        beside[last] = 0.0;
    }
    None
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::linalg::add_gram;

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
        let rows: Vec<&[f64]> = eigen.vectors.chunks_exact(size).collect();
        for (index, v) in rows.iter().enumerate() {
            for (other, w) in rows.iter().enumerate() {
                let expected = if index == other { 1.0 } else { 0.0 };
                assert!((dot(v, w) - expected).abs() < 1e-13, "{index}, {other}");
            }
            for (row, coordinate) in matrix.chunks_exact(size).zip(*v) {
                let error = dot(row, v) - eigen.values[index] * coordinate;
                assert!(error.abs() < 1e-13 * most, "{index}: {error}");
            }
        }
        eigen
    }

    #[test]
    fn vectors_are_orthonormal_and_stretched_by_their_values() {
        for size in [1, 2, 3, 63, 64, 65, 150] {
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
            assert!((value - expected).abs() < 1e-15, "{value}, expected {expected}");
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
        let matrix = gram(200, 150);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let found = alone.install(|| Eigen::new(matrix.clone(), 150).unwrap());
        assert_eq!(found.vectors, Eigen::new(matrix, 150).unwrap().vectors);
    }
}
