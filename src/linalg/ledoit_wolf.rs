//! Ledoit and Wolf's estimate of a covariance, of rows that come in parts.

use super::{add_gram, dot};

/// Rows whose products are added at a time; always so many, so that no bit depends on how the rows come.
const BLOCK: usize = 1024;

/// Sums of rows relative to the first of them, from which the estimate follows: of x − a = y, and of ‖y‖².
#[derive(Debug, Clone)]
pub struct LedoitWolf {
    size: usize,
    count: usize,
    /// a.
    shift: Vec<f64>,
    /// Rows that wait for a block.
    waiting: Vec<f64>,
    sum: Vec<f64>,
    /// Σ y·yᵀ
    products: Vec<f64>,
    /// Σ ‖y‖²·y
    weighted: Vec<f64>,
    /// Σ ‖y‖⁴
    fourth: f64,
}

impl LedoitWolf {
    /// Of no rows of `size` values.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            count: 0,
            shift: Vec::new(),
            waiting: Vec::new(),
            sum: vec![0.0; size],
            products: vec![0.0; size * size],
            weighted: vec![0.0; size],
            fourth: 0.0,
        }
    }

    /// Rows that were added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds the rows of (N, size) finite values.
    ///
    /// # Panics
    /// When the rows are not whole.
    pub fn add(&mut self, rows: &[f64]) {
        assert!(rows.len().is_multiple_of(self.size), "rows of {}", self.size);
        if self.count == 0 {
            self.shift = rows[..self.size.min(rows.len())].to_vec();
        }
        self.count += rows.len() / self.size;
        for row in rows.chunks_exact(self.size) {
            self.waiting.extend(row.iter().zip(&self.shift).map(|(x, shift)| x - shift));
            if self.waiting.len() == BLOCK * self.size {
                self.take_in();
            }
        }
    }

    fn take_in(&mut self) {
        add_gram(&mut self.products, &self.waiting, self.size);
        for row in self.waiting.chunks_exact(self.size) {
            let square = dot(row, row);
            self.fourth += square * square;
            self.sum.iter_mut().zip(row).for_each(|(sum, y)| *sum += y);
            self.weighted.iter_mut().zip(row).for_each(|(sum, y)| *sum += square * y);
        }
        self.waiting.clear();
    }

    /// The mean, the covariance (size, size) and how far it is shrunk towards a multiple of the identity, in 0..=1.
    ///
    /// As scikit-learn's `LedoitWolf`: Σ = (1 − ρ)·S + ρ·μ·I with S divided by N, μ = tr(S)/D, and ρ = min(β, δ)/δ with
    /// β = (Σᵢ ‖xᵢ‖⁴ / N − ‖S‖²) / (N·D) of centred rows and δ = (‖S‖² − D·μ²) / D.
    ///
    /// # Panics
    /// When there are no rows.
    pub fn estimate(mut self) -> (Vec<f64>, Vec<f64>, f64) {
        assert!(self.count > 0, "a covariance of no rows");
        self.take_in();
        let (size, rows, dimensions) = (self.size, self.count as f64, self.size as f64);
        // Of the centred rows y − m: S, and Σ ‖y − m‖⁴ from the sums of y.
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / rows).collect();
        let along: Vec<f64> = self.products.chunks_exact(size).map(|row| dot(row, &mean)).collect();
        let (length, squares) = (dot(&mean, &mean), self.products.iter().step_by(size + 1).sum::<f64>());
        let fourth = self.fourth + 4.0 * dot(&mean, &along) - 4.0 * dot(&mean, &self.weighted) + 2.0 * length * squares
            - 3.0 * rows * length * length;
        let mut covariance = self.products;
        for (row, first) in covariance.chunks_exact_mut(size).zip(&mean) {
            row.iter_mut().zip(&mean).for_each(|(sum, second)| *sum = *sum / rows - first * second);
        }
        let trace = covariance.iter().step_by(size + 1).sum::<f64>();
        let (mu, norm) = (trace / dimensions, dot(&covariance, &covariance));
        let delta = (norm - dimensions * mu * mu) / dimensions;
        let beta = ((fourth / rows - norm) / (rows * dimensions)).min(delta);
        let shrinkage = if beta > 0.0 { beta / delta } else { 0.0 };
        covariance.iter_mut().for_each(|value| *value *= 1.0 - shrinkage);
        covariance.iter_mut().step_by(size + 1).for_each(|variance| *variance += shrinkage * mu);
        let mean = mean.iter().zip(&self.shift).map(|(mean, shift)| mean + shift).collect();
        (mean, covariance, shrinkage)
    }
}
