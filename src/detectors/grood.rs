//! GROOD: an image is known as far as a prototype of strange images would move for it as it would for train images.
//!
//! L = −ln softmax(−‖z − p_1‖, …, −‖z − p_K‖, −‖z − p_o‖)_ŷ for the features z of an image, the mean features p_c of the train images of
//! class c, and the mean features p_o of images of noise. Its gradient g = ∂L/∂p_o = π·(z − p_o)/‖z − p_o‖ has the softmax π of −‖z − p_o‖
//! among all K + 1, whatever the class ŷ. score = min_i ‖g − g_i‖₂ over the train images that are classified correctly
//! (`by: neighbour`), or ‖g‖₁ (`norm`).
//!
//! - Paper: ElAraby, Sahoo, Pequignot, Novello, Paull, *GROOD: GRadient-Aware Out-of-Distribution Detection*, 2023,
//!   <https://arxiv.org/abs/2312.14427>.
//! - Reference code: OpenOOD `grood.py`, which has other prototypes, too, one of them of validation OOD images. pytorch-ood does not have it.
//!   Which of them the scores on OpenOOD's board are of is not said there.
//! - As there, noise is uniform in 0..1, blurred by a Gaussian of 7 × 5 pixels with a σ of 0.2 to 5, and shown to the network as it is, not
//!   normalised; of every hundred images the ten count whose logits have the least logsumexp.
//! - Deviations: the nearest gradient is found exactly, where the reference looks in four of many cells; the distance is not squared. A class
//!   without train images has no prototype, where the reference's is zero. Noise is drawn by name (`rng`).

use candle_core::Tensor;
use rand::Rng as _;

use super::{
    Bank, Check, Detector, Fit, Inputs, Learns, Output, Peak, Scorer, Scores, argmax, check_memory, class_means,
    distance, finite, in_f64, map_rows, same,
};
use crate::{
    Error, Result,
    linalg::project,
    nn::Pass,
    rng::{self, Rng},
};

/// Images of noise that are drawn and blurred together, and how many of them count.
const TOGETHER: usize = 100;
const COUNT: usize = 10;
/// Rows and columns of the blur.
const BLUR: [usize; 2] = [7, 5];
/// The least and the largest σ of the blur, in pixels.
const SIGMA: [f64; 2] = [0.2, 5.0];
/// Images whose neighbours are looked for at a time, and train images they are compared with.
const TILE: [usize; 2] = [256, 4096];

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Grood")]
pub struct Config {
    /// What the score is: `neighbour` in the paper; the author's later settings say `norm`.
    #[garde(skip)]
    pub by: By,
    /// Images of noise, rounded up to hundreds: 100 in the author's settings.
    #[garde(range(min = 1, max = 1_000_000))]
    pub noise_images: usize,
    /// Of the noise.
    #[garde(skip)]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { by: By::Neighbour, noise_images: 100, seed: 0 }
    }
}

/// What the score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GroodBy")]
pub enum By {
    /// The distance to the nearest gradient of a train image.
    Neighbour,
    /// The sum of the gradient's magnitudes.
    Norm,
}

/// Mean features of classes and of noise.
struct Prototypes {
    /// (K, D), row after row.
    classes: Vec<f64>,
    /// (D)
    outlier: Vec<f64>,
}

impl Prototypes {
    /// ∂L/∂p_o of an image's features; 0 where they are p_o.
    fn gradient(&self, features: &[f64]) -> Vec<f64> {
        let away = distance(features, &self.outlier);
        let rows = self.classes.chunks_exact(self.outlier.len());
        let nearness: Vec<f64> = rows.map(|row| -distance(features, row)).chain([-away]).collect();
        let factor = if away > 0.0 { (-away - Peak::of(&nearness).log_sum()).exp() / away } else { 0.0 };
        features.iter().zip(&self.outlier).map(|(z, outlier)| factor * (z - outlier)).collect()
    }
}

/// The prototypes, and the train images' gradients.
pub struct Fitted {
    prototypes: Prototypes,
    /// Row after row; none by the norm.
    known: Vec<f64>,
    by: By,
}

impl Fitted {
    /// Of the train images' (N, K) `logits`, (N, D) `features` and classes, and the prototype of strange images, D numbers.
    ///
    /// # Errors
    /// If there is nothing to learn from, a number is NaN or infinite, sizes differ, or no image is classified correctly.
    pub fn new(by: By, logits: &Tensor, features: &Tensor, labels: &[u32], outlier: Vec<f64>) -> Result<Self> {
        let predicted = map_rows(logits, argmax)?;
        let values = finite(features)?;
        let (images, size) = features.dims2()?;
        same("labels", labels.len(), predicted.len())?;
        same("rows of features", images, predicted.len())?;
        same("features of noise", outlier.len(), size)?;
        let classes = class_means(&values, size, labels, false).into_values().flat_map(|(_, mean)| mean);
        let prototypes = Prototypes { classes: classes.collect(), outlier };
        let correct = values.chunks_exact(size).zip(predicted.iter().zip(labels));
        let correct = correct.filter(|(_, (predicted, label))| **predicted == **label as usize);
        let known: Vec<f64> = match by {
            By::Neighbour => correct.flat_map(|(row, _)| prototypes.gradient(&in_f64(row))).collect(),
            By::Norm => Vec::new(),
        };
        if by == By::Neighbour && known.is_empty() {
            return Err(Error::Failed("grood: no train image is classified correctly".into()));
        }
        Ok(Self { prototypes, known, by })
    }

    /// The score of each row of (N, D) features.
    ///
    /// # Errors
    /// If there is nothing to score, D is another, or a feature is NaN or infinite.
    pub fn scores(&self, features: &Tensor) -> Result<Vec<f32>> {
        let values = finite(features)?;
        let size = self.prototypes.outlier.len();
        same("features", features.dim(1)?, size)?;
        let mut scores = Vec::with_capacity(values.len() / size);
        for rows in values.chunks(TILE[0] * size) {
            let gradients: Vec<f64> =
                rows.chunks_exact(size).flat_map(|row| self.prototypes.gradient(&in_f64(row))).collect();
            match self.by {
                By::Norm => {
                    scores.extend(gradients.chunks_exact(size).map(|row| row.iter().map(|g| g.abs()).sum::<f64>()))
                }
                By::Neighbour => scores.extend(self.nearest(&gradients, size)),
            }
        }
        Ok(scores.into_iter().map(|score: f64| score as f32).collect())
    }

    /// The distance of each gradient to the nearest of the train images'.
    fn nearest(&self, gradients: &[f64], size: usize) -> Vec<f64> {
        // ‖g − k‖² − ‖g‖², and where it is least: good enough to find the place, not the distance.
        let mut best = vec![(f64::INFINITY, 0); gradients.len() / size];
        for (tile, known) in self.known.chunks(TILE[1] * size).enumerate() {
            let squares: Vec<f64> =
                known.chunks_exact(size).map(|row| row.iter().map(|g| g * g).sum::<f64>()).collect();
            let products = project(gradients, known, size);
            for (best, products) in best.iter_mut().zip(products.chunks_exact(squares.len())) {
                for (at, (product, square)) in products.iter().zip(&squares).enumerate() {
                    let beyond = square - 2.0 * product;
                    if beyond < best.0 {
                        *best = (beyond, tile * TILE[1] + at);
                    }
                }
            }
        }
        let pairs = gradients.chunks_exact(size).zip(best);
        pairs.map(|(row, (_, at))| distance(row, &self.known[at * size..(at + 1) * size])).collect()
    }
}

/// The mean of rows about each place of (`rows`, `columns`) values, which Gaussian weights of `sigma` pixels have. Beyond an edge, what is
/// before it comes again.
fn blurred(values: &[f32], [rows, columns]: [usize; 2], sigma: f64) -> Vec<f32> {
    let [down, across] = BLUR.map(|size| weights(size, sigma));
    let mirrored = |at: isize, size: usize| {
        let period = (2 * (size as isize - 1)).max(1);
        let at = at.rem_euclid(period);
        at.min(period - at).min(size as isize - 1) as usize
    };
    let at = |row: usize, column: usize| {
        let mut sum = 0.0;
        for (step, down) in (-(BLUR[0] as isize / 2)..).zip(&down) {
            for (aside, across) in (-(BLUR[1] as isize / 2)..).zip(&across) {
                let [row, column] = [mirrored(row as isize + step, rows), mirrored(column as isize + aside, columns)];
                sum += down * across * f64::from(values[row * columns + column]);
            }
        }
        sum as f32
    };
    (0..rows * columns).map(|place| at(place / columns, place % columns)).collect()
}

/// exp(−x²/2σ²) at whole numbers x about 0, divided by their sum.
fn weights(size: usize, sigma: f64) -> Vec<f64> {
    let half = (size / 2) as f64;
    let all: Vec<f64> = (0..size).map(|at| (-0.5 * ((at as f64 - half) / sigma).powi(2)).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|weight| weight / sum).collect()
}

impl Config {
    /// Refuses gradients of train images that there is no room for.
    ///
    /// # Errors
    /// [`Error::Input`] with what it needs.
    pub fn check(&self, images: usize, features: usize, memory: usize) -> Result<()> {
        let bytes = match self.by {
            By::Neighbour => images.saturating_mul(features).saturating_mul(size_of::<f64>()),
            By::Norm => 0,
        };
        check_memory("grood needs", "the train images' gradients", [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take `by: norm`"))
    }

    /// The mean features of images of noise.
    fn outlier(&self, inputs: &dyn Inputs) -> Result<Vec<f64>> {
        let mut sums: Vec<f64> = Vec::new();
        let draws = self.noise_images.div_ceil(TOGETHER);
        // To know what images are like.
        inputs.subset(&[0])?.pass("fitting GROOD", &mut |_, image| {
            for draw in 0..draws {
                inputs.check()?;
                let mut stream = rng::stream(self.seed, "GROOD's noise", &draw.to_string());
                let features = least_certain(inputs, image, &mut stream)?;
                sums.resize(features.len() / COUNT, 0.0);
                for row in features.chunks_exact(sums.len()) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
            Ok(())
        })?;
        Ok(sums.into_iter().map(|sum| sum / (draws * COUNT) as f64).collect())
    }
}

/// The features of the images of noise that the network is least certain of, as many pixels as `image`.
fn least_certain(inputs: &dyn Inputs, image: &Tensor, stream: &mut Rng) -> Result<Vec<f32>> {
    let (_, channels, height, width) = image.dims4()?;
    let sigma = stream.random_range(SIGMA[0]..SIGMA[1]);
    let plane = height * width;
    let noise: Vec<f32> = (0..TOGETHER * channels * plane).map(|_| stream.random::<f32>()).collect();
    let noise: Vec<f32> = noise.chunks_exact(plane).flat_map(|plane| blurred(plane, [height, width], sigma)).collect();
    let noise =
        Tensor::from_vec(noise, (TOGETHER, channels, height, width), image.device())?.to_dtype(image.dtype())?;
    let (mut certainties, mut features) = (Vec::new(), Vec::new());
    let together = inputs.at_a_time().clamp(1, TOGETHER);
    for start in (0..TOGETHER).step_by(together) {
        let shown = inputs.network().show(&noise.narrow(0, start, together.min(TOGETHER - start))?, &Pass::eval())?;
        certainties.extend(map_rows(shown.logits()?, |row| Peak::of(row).log_sum())?);
        features.extend(finite(shown.features()?)?);
    }
    let size = features.len() / TOGETHER;
    let mut order: Vec<usize> = (0..TOGETHER).collect();
    order.sort_by(|a, b| certainties[*a].total_cmp(&certainties[*b]));
    Ok(order[..COUNT].iter().flat_map(|at| &features[at * size..(at + 1) * size]).copied().collect())
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::RawLogits, Output::Features, Output::Gradients]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        let (images, features) = train.features.dims2()?;
        same("labels", labels.len(), images)?;
        self.check(images, features, fit.memory)?;
        let outlier = self.outlier(train.inputs()?)?;
        Ok(Box::new(Fitted::new(self.by, &train.logits, &train.features, labels, outlier)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            Ok(self.check(about.least(), about.shown.features()?.dim(1)?, about.memory).map(|()| None)?)
        }))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.scores(&bank.features)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        let size = self.prototypes.outlier.len();
        Some(serde_json::json!({ "classes": self.prototypes.classes.len() / size, "images": self.known.len() / size }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One point becomes both kernels' product; at an edge, what lies beyond it comes back.
    #[test]
    fn points_become_gaussians() {
        let mut point = vec![0.0f32; 9 * 9];
        point[4 * 9 + 4] = 1.0;
        let found = blurred(&point, [9, 9], 1.5);
        let [down, across] = BLUR.map(|size| weights(size, 1.5));
        for (at, value) in found.iter().enumerate() {
            let weight = |size: usize, at: usize, weights: &[f64]| {
                (at + size / 2).checked_sub(4).and_then(|at| weights.get(at)).copied().unwrap_or(0.0)
            };
            let expected = weight(BLUR[0], at / 9, &down) * weight(BLUR[1], at % 9, &across);
            assert!((f64::from(*value) - expected).abs() < 1e-8, "{at}: {value}, not {expected}");
        }
        for size in [[9, 9], [1, 1], [2, 1], [3, 2]] {
            let even = blurred(&vec![0.25; size[0] * size[1]], size, 0.7);
            assert!(even.iter().all(|value| (value - 0.25).abs() < 1e-6), "{size:?}: {even:?}");
        }
        // 0 1 of a row of two is 1 0 1 0 1 0 with the mirrors.
        let [_, across] = BLUR.map(|size| weights(size, 1.0));
        let found = blurred(&[0.0, 1.0], [1, 2], 1.0);
        assert!((f64::from(found[0]) - (across[1] + across[3])).abs() < 1e-7, "{found:?}");
    }

    /// By central differences of L.
    #[test]
    fn gradients_are_those_of_differences() {
        let classes = vec![1.0, 0.0, -1.0, 0.5];
        let z = [0.25, -0.75];
        let loss = |outlier: &[f64], class: usize| {
            let away: Vec<f64> = classes.chunks_exact(2).chain([outlier]).map(|row| -distance(&z, row)).collect();
            Peak::of(&away).log_sum() - away[class]
        };
        let outlier = vec![0.5, 0.125];
        let gradient = Prototypes { classes: classes.clone(), outlier: outlier.clone() }.gradient(&z);
        for class in 0..2 {
            for (at, slope) in gradient.iter().enumerate() {
                let moved = |step: f64| {
                    let mut moved = outlier.clone();
                    moved[at] += step;
                    loss(&moved, class)
                };
                let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - difference).abs() < 1e-8, "{slope}, by differences {difference}");
            }
        }
    }
}
