//! Kernel PCA: how far an image's mapped features lie off the main directions of the train images'.
//!
//! score = ‖(I − U·Uᵀ)·(φ(z) − φ̄)‖₂ for the features z and the mean φ̄ of the train images' φ. U holds the fewest eigenvectors of
//! Σ_i (φ(z_i) − φ̄)·(φ(z_i) − φ̄)ᵀ, those of the largest eigenvalues, that have the share `explained` of the eigenvalues' sum.
//!
//! - With `kernel: cosine`, φ(z) = z/‖z‖₂: CoP. With `kernel: cosine_gaussian`, φ(z)_m = √(2/M)·cos(w_m·z/‖z‖₂ + u_m) with w_m of
//!   N(0, 2γ·I) and u_m even in 0..2π: CoRP. Its products approach exp(−γ·‖z/‖z‖ − z′/‖z′‖‖²) as M grows.
//! - Paper: Fang et al., *Kernel PCA for Out-of-Distribution Detection*, NeurIPS 2024, <https://arxiv.org/abs/2402.02949>.
//! - Reference code: `fanghenshaometeor/ood-kernel-pca`, `CoP_CoRP_c10.py`, whose score is the negative of this one, and
//!   `run_detection.sh` for its settings; pytorch-ood 0.4.0 and OpenOOD v1.5 do not have it.
//! - Deviations: w and u are draws of ours. Features of zeros stay as they are; the reference adds 1e-10 to every length.
//! - At least one direction is left, however large the share, as in the reference. The fusion with other scores is not here.

use candle_core::Tensor;
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, Smoke, check_memory, finite, normalised, same,
};
use crate::{
    Error, Result,
    linalg::{Eigen, add_gram, project},
    rng,
};

/// Images that are mapped at a time.
const BLOCK: usize = 1024;
/// M in a smoke run.
const FEW: usize = 64;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Kpca")]
pub struct Config {
    /// What features are mapped by.
    #[garde(skip)]
    pub kernel: Kernel,
    /// The share of the variance that the main directions explain. Unless given 0.85 with `cosine` and 0.8 with `cosine_gaussian`: the
    /// authors' for ResNet-18 on CIFAR-10. For ResNet-50 on ImageNet they have 0.99 and 0.5.
    #[garde(range(min = 0.01, max = 0.999999))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explained: Option<f64>,
    /// With `kernel: cosine_gaussian`, γ. The authors' for ResNet-18 on CIFAR-10: 2; for ResNet-50 on ImageNet: 3.
    #[garde(range(min = 1e-6, max = 1e6))]
    pub gamma: f64,
    /// With `kernel: cosine_gaussian`, M, how many cosines there are. The authors' for CIFAR-10: 2048; for ImageNet: 4096.
    #[garde(range(min = 2, max = 100_000))]
    pub frequencies: usize,
    /// With `kernel: cosine_gaussian`, of the draws of w and u.
    #[garde(skip)]
    pub seed: u64,
}

/// What features are mapped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "KpcaKernel")]
pub enum Kernel {
    /// The cosine kernel, CoP: features at length 1.
    #[default]
    Cosine,
    /// A Gaussian kernel of features at length 1, CoRP: by random Fourier features.
    CosineGaussian,
}

impl Default for Config {
    fn default() -> Self {
        Self { kernel: Kernel::Cosine, explained: None, gamma: 2.0, frequencies: 2048, seed: 0 }
    }
}

impl Config {
    /// Refuses so many features if they leave no direction, or do not fit into the memory.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers.
    pub fn check(&self, features: usize, memory: usize) -> Result<()> {
        let usual = Self { explained: self.explained, ..Self::default() };
        if self.kernel == Kernel::Cosine && *self != usual {
            let message = "kpca: gamma, frequencies and seed go with kernel: cosine_gaussian, and the kernel is cosine";
            return Err(Error::input(message).hint("leave them out, or give the kernel"));
        }
        let mapped = match self.kernel {
            Kernel::Cosine if features < 2 => {
                let message = "kpca: at length 1, one feature leaves no direction to lie off";
                return Err(Error::input(message).hint("take kernel: cosine_gaussian, or a network with more features"));
            }
            Kernel::Cosine => features,
            Kernel::CosineGaussian => self.frequencies,
        };
        // The covariance, its eigenvectors, and once more while they are found.
        let bytes = 3 * size_of::<f64>() * mapped * mapped;
        check_memory("kpca needs", &format!("the covariance of {mapped} features"), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or give it fewer frequencies"))
    }

    /// φ for so many features.
    fn map(&self, features: usize) -> Map {
        match self.kernel {
            Kernel::Cosine => Map::Cosine,
            Kernel::CosineGaussian => {
                let draws = |name| rng::stream(self.seed, "kernel PCA", name);
                let normal = StandardNormal.sample_iter(draws("frequencies")).take(self.frequencies * features);
                let frequencies = normal.map(|x: f64| (2.0 * self.gamma).sqrt() * x).collect();
                let mut even = draws("phases");
                let phase = || even.random::<f64>() * 2.0 * std::f64::consts::PI;
                Map::CosineGaussian {
                    frequencies,
                    phases: std::iter::repeat_with(phase).take(self.frequencies).collect(),
                }
            }
        }
    }

    fn share(&self) -> f64 {
        let usual = if self.kernel == Kernel::Cosine { 0.85 } else { 0.8 };
        self.explained.unwrap_or(usual)
    }
}

/// φ
#[derive(Debug, Clone)]
enum Map {
    /// z/‖z‖
    Cosine,
    /// √(2/M)·cos(w·z/‖z‖ + u)
    CosineGaussian {
        /// w, row after row (M, D).
        frequencies: Vec<f64>,
        /// u (M).
        phases: Vec<f64>,
    },
}

impl Map {
    /// How many numbers it makes of so many features.
    fn count(&self, features: usize) -> usize {
        match self {
            Self::Cosine => features,
            Self::CosineGaussian { phases, .. } => phases.len(),
        }
    }

    /// φ of each of the rows of `size` features.
    fn rows(&self, values: &[f32], size: usize) -> Vec<f64> {
        let rows = normalised(values, size);
        match self {
            Self::Cosine => rows,
            Self::CosineGaussian { frequencies, phases } => {
                let mut mapped = project(&rows, frequencies, size);
                let scale = (2.0 / phases.len() as f64).sqrt();
                for row in mapped.chunks_exact_mut(phases.len()) {
                    row.iter_mut().zip(phases).for_each(|(x, phase)| *x = scale * (*x + phase).cos());
                }
                mapped
            }
        }
    }
}

/// φ, and the directions that known images hardly leave their mean along.
struct Fitted {
    map: Map,
    /// D.
    size: usize,
    /// φ̄
    mean: Vec<f64>,
    /// Row after row: all eigenvectors but U's.
    rest: Vec<f64>,
    /// How many directions U holds.
    main: usize,
}

impl Fitted {
    fn new(map: Map, share: f64, features: &Tensor) -> Result<Self> {
        let values = finite(features)?;
        let size = features.dim(1)?;
        let count = map.count(size);
        let mut mean = vec![0.0; count];
        for block in values.chunks(BLOCK * size) {
            for row in map.rows(block, size).chunks_exact(count) {
                mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        let images = (values.len() / size) as f64;
        mean.iter_mut().for_each(|sum| *sum /= images);
        let mut fitted = Self { map, size, mean, rest: Vec::new(), main: 0 };
        let mut moments = vec![0.0; count * count];
        for block in values.chunks(BLOCK * size) {
            add_gram(&mut moments, &fitted.centred(block), count);
        }
        let eigen = Eigen::new(moments, count)
            .ok_or_else(|| Error::Failed("the features' second moments have no finite eigenvalues".into()))?;
        // Images that are alike differ by rounding.
        if eigen.values[0] <= images * f64::EPSILON {
            return Err(Error::Failed("no direction of the features varies among the train images".into()));
        }
        // Of a matrix without negative eigenvalues, negative ones are rounding.
        let values: Vec<f64> = eigen.values.iter().map(|value| value.max(0.0)).collect();
        let least = share * values.iter().sum::<f64>();
        let mut explained = 0.0;
        let enough = values.iter().position(|value| {
            explained += value;
            explained >= least
        });
        fitted.main = enough.map_or(count, |last| last + 1).min(count - 1);
        fitted.rest = eigen.vectors[fitted.main * count..].to_vec();
        Ok(fitted)
    }

    /// φ − φ̄ of each row.
    fn centred(&self, values: &[f32]) -> Vec<f64> {
        let mut rows = self.map.rows(values, self.size);
        for row in rows.chunks_exact_mut(self.mean.len()) {
            row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x -= mean);
        }
        rows
    }

    /// How far each row of (N, D) features lies off the main directions.
    fn errors(&self, features: &Tensor) -> Result<Vec<f64>> {
        let values = finite(features)?;
        same("features", features.dim(1)?, self.size)?;
        let count = self.mean.len();
        let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut errors = Vec::with_capacity(values.len() / self.size);
        for block in values.chunks(BLOCK * self.size) {
            let off = project(&self.centred(block), &self.rest, count);
            errors.extend(off.chunks_exact(count - self.main).map(length));
        }
        Ok(errors)
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let features = &fit.train()?.features;
        let size = features.dims2()?.1;
        self.check(size, fit.memory)?;
        Ok(Box::new(Fitted::new(self.map(size), self.share(), features)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| Ok(self.check(about.shown.features()?.dim(1)?, about.memory).map(|()| None)?)))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        if self.kernel == Kernel::CosineGaussian {
            smoke.set("frequencies", &mut self.frequencies, FEW);
        }
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.errors(&bank.features)?.into_iter().map(|error| error as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "mapped": self.mean.len(), "main_directions": self.main }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::pattern::{assert_close, uniform, values};

    #[derive(serde::Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        explained: f64,
        main: usize,
        expected: Vec<f64>,
    }

    fn rows(name: &str, count: usize) -> Tensor {
        uniform(name, &[count, 5]).to_dtype(DType::F32).unwrap()
    }

    /// Draws are ours, so that numpy gets w and u as a pattern.
    #[test]
    fn random_fourier_features_are_those_of_numpy() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/kpca.json")).unwrap();
        for Case { explained, main, expected } in &golden.cases {
            let map = Map::CosineGaussian {
                frequencies: values(&uniform("frequencies", &[12, 5])).into_iter().map(|w| 3.0 * w).collect(),
                phases: values(&uniform("phases", &[12])).into_iter().map(|u| std::f64::consts::PI * u).collect(),
            };
            let fitted = Fitted::new(map, *explained, &rows("train features", 40)).unwrap();
            assert_eq!(fitted.main, *main);
            let errors = fitted.errors(&rows("test features", 8)).unwrap();
            assert_close(&format!("explained {explained}"), &errors, expected, 1e-9);
        }
        assert_eq!(golden.cases.len(), 3);
    }

    /// w·w/D is 2γ on average, and products of mapped features approach the kernel.
    #[test]
    fn products_of_many_cosines_are_the_kernel() {
        let config = Config { kernel: Kernel::CosineGaussian, frequencies: 50_000, ..Config::default() };
        let map = config.map(2);
        let mapped = map.rows(&[1.0, 0.0, 0.6, 0.8], 2);
        let (one, other) = mapped.split_at(50_000);
        let product: f64 = one.iter().zip(other).map(|(a, b)| a * b).sum();
        let square: f64 = 0.4 * 0.4 + 0.8 * 0.8;
        assert!((product - (-2.0 * square).exp()).abs() < 0.02, "{product}");
        let other_seed = Config { seed: 1, ..config.clone() }.map(2);
        assert_ne!(other_seed.rows(&[1.0, 0.0], 2), map.rows(&[1.0, 0.0], 2));
    }

    #[test]
    fn features_that_leave_nothing_are_refused() {
        let of = |kernel| Config { kernel, ..Config::default() };
        let ignored = Config { gamma: 3.0, ..Config::default() }.check(6, 1 << 30).unwrap_err();
        assert!(ignored.to_string().contains("go with kernel: cosine_gaussian") && ignored.exit_code() == 2);
        assert!(of(Kernel::Cosine).check(1, 1 << 30).is_err() && of(Kernel::CosineGaussian).check(1, 1 << 30).is_ok());
        let error = of(Kernel::CosineGaussian).check(6, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("kpca needs 96 MiB for the covariance of 2048 features, and may use 1 MiB"), "{error}");
        let same = Tensor::ones((4, 3), DType::F32, &Device::Cpu).unwrap();
        let error = Fitted::new(Map::Cosine, 0.85, &same).err().unwrap().to_string();
        assert_eq!(error, "no direction of the features varies among the train images");
    }
}
