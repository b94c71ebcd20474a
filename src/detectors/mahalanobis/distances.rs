//! Distances to the means of classes that share a covariance.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::{
    Error, Result,
    detectors::{class_means, finite, in_f64, normalised, relative, same},
    linalg::{Cholesky, Eigen, add_gram, dot, project, square_distance},
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// The classes of train images, and the covariance of their features.
#[derive(Debug, Clone)]
pub struct Moments {
    pub(in crate::detectors) size: usize,
    /// Whether features are divided by their length.
    pub(in crate::detectors) normalise: bool,
    /// Of each class, its share of the images, and the mean of their features.
    pub(in crate::detectors) classes: Vec<(f64, Vec<f64>)>,
    /// About the means of the classes.
    covariance: Vec<f64>,
}

impl Moments {
    /// Of (N, D) features, divided by their length if they are to be, and the classes of the N images.
    ///
    /// # Errors
    /// If there are none, or one is NaN or infinite.
    pub fn of(features: &Tensor, labels: &[u32], normalise: bool) -> Result<Self> {
        let values = finite(features)?;
        let (images, size) = features.dims2()?;
        same("labels", labels.len(), images)?;
        let classes = class_means(&values, size, labels, normalise);
        let mut covariance = vec![0.0; size * size];
        for (block, labels) in values.chunks(BLOCK * size).zip(labels.chunks(BLOCK)) {
            add_gram(&mut covariance, &away(block, size, normalise, |at| &classes[&labels[at]].1), size);
        }
        covariance.iter_mut().for_each(|sum| *sum /= images as f64);
        let classes = classes.into_values().map(|(count, mean)| (count / images as f64, mean)).collect();
        Ok(Self { size, normalise, classes, covariance })
    }

    /// The mean of all images.
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.size];
        for (share, of_class) in &self.classes {
            mean.iter_mut().zip(of_class).for_each(|(sum, x)| *sum += share * x);
        }
        mean
    }

    /// The same images as one class: Σ + Σ_c p_c·(μ_c − μ)·(μ_c − μ)ᵀ with the shares p_c.
    pub fn together(&self) -> Self {
        let mean = self.mean();
        let away = self.classes.iter().flat_map(|(share, of_class)| {
            let root = share.sqrt();
            of_class.iter().zip(&mean).map(move |(x, mean)| root * (x - mean))
        });
        let mut covariance = self.covariance.clone();
        add_gram(&mut covariance, &away.collect::<Vec<_>>(), self.size);
        Self { size: self.size, normalise: self.normalise, classes: vec![(1.0, mean)], covariance }
    }

    /// The factor of the covariance, unless one of its eigenvalues is 0 up to rounding. `more` counts to the largest.
    pub fn factor(&self, more: f64) -> Option<Cholesky> {
        let most = dot(&self.covariance, &self.covariance).sqrt() + more;
        let factor = Cholesky::new(self.covariance.clone(), self.size)?;
        // The largest eigenvalue over the smallest, or more: what `Eigen::rank` compares.
        let condition = most * factor.inverse_trace();
        (condition * self.size as f64 * f64::EPSILON < 1.0).then_some(factor)
    }
}

/// What makes the covariance the identity.
#[derive(Debug, Clone)]
enum Whitening {
    /// By L⁻¹, of a covariance of full rank.
    Factor(Cholesky),
    /// v / √λ for each eigenvector whose λ is not 0 up to rounding.
    Directions(Vec<f64>),
}

impl Whitening {
    fn of(moments: &Moments) -> Result<Self> {
        if let Some(factor) = moments.factor(0.0) {
            return Ok(Self::Factor(factor));
        }
        let size = moments.size;
        let eigen = Eigen::new(moments.covariance.clone(), size)
            .ok_or_else(|| Error::Failed("the features' covariance has no finite eigenvalues".into()))?;
        let directions = eigen.whitening();
        if directions.is_empty() {
            return Err(Error::Failed("no feature varies among the train images of a class".into()));
        }
        Ok(Self::Directions(directions))
    }

    /// Each row of `size` as one of as many numbers as the rank.
    fn apply(&self, mut rows: Vec<f64>, size: usize) -> Vec<f64> {
        match self {
            Self::Factor(factor) => {
                factor.solve(&mut rows);
                rows
            }
            Self::Directions(directions) => project(&rows, directions, size),
        }
    }

    /// The transpose, of each row of as many numbers as the rank.
    fn transposed(&self, mut rows: Vec<f64>, size: usize) -> Vec<f64> {
        match self {
            Self::Factor(factor) => {
                factor.solve_transposed(&mut rows);
                rows
            }
            Self::Directions(directions) => {
                let of_row = |row: &[f64]| {
                    let mut sum = vec![0.0; size];
                    for (along, direction) in row.iter().zip(directions.chunks_exact(size)) {
                        sum.iter_mut().zip(direction).for_each(|(sum, x)| *sum += along * x);
                    }
                    sum
                };
                rows.chunks_exact(directions.len() / size).flat_map(of_row).collect()
            }
        }
    }
}

/// Class means and what makes the shared covariance the identity.
#[derive(Debug, Clone)]
pub struct Distances {
    size: usize,
    /// Whether features are divided by their length.
    normalise: bool,
    /// The mean of the class means: features are taken relative to it.
    origin: Vec<f64>,
    whitening: Whitening,
    /// The class means where the covariance is the identity, row after row.
    means: Vec<f64>,
    /// ‖m‖² of each.
    lengths: Vec<f64>,
}

impl Distances {
    /// Of (N, D) features, divided by their length if they are to be, and the classes of the N images.
    ///
    /// # Errors
    /// If there are none, one is NaN or infinite, or nothing varies within a class.
    pub fn fit(features: &Tensor, labels: &[u32], normalise: bool) -> Result<Self> {
        Self::of(&Moments::of(features, labels, normalise)?)
    }

    /// Of images whose moments are known.
    ///
    /// # Errors
    /// If nothing varies within a class.
    pub fn of(moments: &Moments) -> Result<Self> {
        let Moments { size, normalise, classes, .. } = moments;
        let whitening = Whitening::of(moments)?;
        let mut origin = vec![0.0; *size];
        for (_, mean) in classes {
            origin.iter_mut().zip(mean).for_each(|(origin, mean)| *origin += mean / classes.len() as f64);
        }
        let offsets = classes.iter().flat_map(|(_, mean)| mean.iter().zip(&origin).map(|(mean, origin)| mean - origin));
        let means = whitening.apply(offsets.collect(), *size);
        let lengths = means.chunks_exact(means.len() / classes.len()).map(|mean| dot(mean, mean)).collect();
        Ok(Self { size: *size, normalise: *normalise, origin, whitening, means, lengths })
    }

    /// The squared distance of each row of (N, D) features to the nearest class mean.
    ///
    /// # Errors
    /// If they have another D, or one is NaN or infinite.
    pub fn nearest(&self, features: &Tensor) -> Result<Vec<f64>> {
        let mut distances = Vec::with_capacity(features.dim(0)?);
        self.whiten(features, |rows| {
            let nearest = self.classes(&rows).into_iter().zip(rows.chunks_exact(self.rank()));
            distances.extend(nearest.map(|(mean, row)| square_distance(row, mean)));
        })?;
        Ok(distances)
    }

    /// The gradient of each row's squared distance with respect to the row: N·D numbers, row after row.
    ///
    /// # Errors
    /// As [`Distances::nearest`].
    pub fn gradients(&self, features: &Tensor) -> Result<Vec<f64>> {
        let mut gradients: Vec<f64> = Vec::with_capacity(features.elem_count());
        self.whiten(features, |mut rows| {
            let means = self.classes(&rows);
            for (row, mean) in rows.chunks_exact_mut(self.rank()).zip(means) {
                row.iter_mut().zip(mean).for_each(|(x, mean)| *x = 2.0 * (*x - mean));
            }
            gradients.extend(self.whitening.transposed(rows, self.size));
        })?;
        if self.normalise {
            let rows = in_f64(&finite(features)?);
            gradients.chunks_exact_mut(self.size).zip(rows.chunks_exact(self.size)).for_each(through_length);
        }
        Ok(gradients)
    }

    /// The mean of the nearest class, of each row where the covariance is the identity.
    fn classes(&self, rows: &[f64]) -> Vec<&[f64]> {
        let products = project(rows, &self.means, self.rank());
        let of_row = |products: &[f64]| {
            // ‖x − m‖² but for ‖x‖².
            let far = |class: usize| self.lengths[class] - 2.0 * products[class];
            let nearer = |best, class| if far(class) < far(best) { class } else { best };
            let class = (1..products.len()).fold(0, nearer);
            &self.means[class * self.rank()..][..self.rank()]
        };
        products.par_chunks_exact(self.lengths.len()).map(of_row).collect()
    }

    /// Calls `each` with some rows of (N, D) features at a time, where the covariance is the identity.
    fn whiten(&self, features: &Tensor, mut each: impl FnMut(Vec<f64>)) -> Result<()> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        for block in values.chunks(BLOCK * self.size) {
            let rows = away(block, self.size, self.normalise, |_| &self.origin);
            each(self.whitening.apply(rows, self.size));
        }
        Ok(())
    }

    /// How many features each image has.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The rank of the covariance.
    pub fn rank(&self) -> usize {
        self.means.len() / self.lengths.len()
    }
}

/// The rows of a block, divided by their length if they are to be, each relative to the mean for its place.
pub(in crate::detectors) fn away<'a>(
    block: &[f32],
    size: usize,
    normalise: bool,
    mean: impl Fn(usize) -> &'a [f64],
) -> Vec<f64> {
    if !normalise {
        return relative(block.chunks_exact(size).enumerate().map(|(at, row)| (row, mean(at))), size);
    }
    let mut rows = normalised(block, size);
    for (at, row) in rows.chunks_exact_mut(size).enumerate() {
        row.iter_mut().zip(mean(at)).for_each(|(x, mean)| *x -= mean);
    }
    rows
}

/// Turns the gradient g with respect to u = z/‖z‖ into that with respect to z: (g − (g·u)·u)/‖z‖. Zeros z are their own u.
fn through_length((gradient, z): (&mut [f64], &[f64])) {
    let square = dot(z, z);
    if square > 0.0 {
        let along = dot(gradient, z) / square;
        gradient.iter_mut().zip(z).for_each(|(g, x)| *g = (*g - along * x) / square.sqrt());
    }
}
