//! The relative Mahalanobis distance: how much farther an image is from every class than from the train images as a whole.
//!
//! score = min_c d_c² − d_0² with d_c² = (z − μ_c)ᵀ·Σ⁻¹·(z − μ_c) for the penultimate features z, the mean μ_c of the train images of
//! class c and the covariance Σ of all train images around their own class's mean; d_0² is the same with the mean and the covariance
//! of all train images, whatever their class. With `normalise`, z is divided by its length before all of this: RMDS++.
//!
//! - Paper: Ren et al., *A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection*, 2021,
//!   <https://arxiv.org/abs/2106.09022>. RMDS++: Mueller, Hein, *Mahalanobis++: Improving OOD Detection via Feature Normalization*, ICML
//!   2025, <https://arxiv.org/abs/2505.18032>.
//! - Reference code: OpenOOD `rmds_postprocessor.py`; pytorch-ood `RMD`, whose scores are these divided by N. RMDS++:
//!   `mueller-mp/maha-norm`, `rmdsn_postprocessor.py`, which gives the negative of these scores.
//! - Deviations: none but f64 inside. Where both covariances have their full rank, what both distances have in common is not computed.
//!   With `normalise`, features of zeros stay as they are, where the reference has NaN.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Learns, Output, Scorer, Scores, finite,
    mahalanobis::{Distances, Moments, away},
    same,
};
use crate::{
    Result,
    linalg::{Cholesky, dot, project},
};

/// Images whose features are converted at a time.
const BLOCK: usize = 4096;

/// Settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Rmds")]
pub struct Config {
    /// Whether features are divided by their length. false: Ren et al.'s and OpenOOD v1.5's; true is RMDS++.
    #[garde(skip)]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    #[schemars(extend("default" = false))]
    pub normalise: bool,
}

/// The difference, without what both distances have in common.
///
/// With the shares p_c of the classes, the mean μ of all images, δ_c = μ_c − μ and y_c = δ_cᵀ·Σ⁻¹·(z − μ), the second covariance is
/// Σ + Σ_c p_c·δ_c·δ_cᵀ, and the difference is min_c (δ_cᵀ·Σ⁻¹·δ_c − 2·y_c) + gᵀ·(I + G)⁻¹·g with g_c = √p_c·y_c and
/// G_cd = √(p_c·p_d)·δ_cᵀ·Σ⁻¹·δ_d (Woodbury's identity). So an image costs K products of features, not D.
struct Discriminants {
    /// Whether features are divided by their length.
    normalise: bool,
    mean: Vec<f64>,
    /// Σ⁻¹·δ_c of each class.
    directions: Vec<f64>,
    /// δ_cᵀ·Σ⁻¹·δ_c
    lengths: Vec<f64>,
    /// √p_c
    roots: Vec<f64>,
    /// Of I + G.
    between: Cholesky,
}

impl Discriminants {
    /// `None` if a covariance does not have its full rank, or there are as many classes as features.
    fn of(moments: &Moments) -> Option<Self> {
        let (size, classes, mean) = (moments.size, moments.classes.len(), moments.mean());
        if classes >= size {
            return None;
        }
        let away =
            moments.classes.iter().flat_map(|(_, of_class)| of_class.iter().zip(&mean).map(|(x, mean)| x - mean));
        let mut directions: Vec<f64> = away.collect();
        let roots: Vec<f64> = moments.classes.iter().map(|(share, _)| share.sqrt()).collect();
        let spread = directions.chunks_exact(size).zip(&roots).map(|(away, root)| root * root * dot(away, away));
        let factor = moments.factor(spread.sum())?;
        factor.solve(&mut directions);
        let mut between = project(&directions, &directions, size);
        let lengths = between.iter().step_by(classes + 1).copied().collect();
        for (row, first) in between.chunks_exact_mut(classes).zip(&roots) {
            row.iter_mut().zip(&roots).for_each(|(x, second)| *x *= first * second);
        }
        between.iter_mut().step_by(classes + 1).for_each(|x| *x += 1.0);
        factor.solve_transposed(&mut directions);
        Some(Self {
            normalise: moments.normalise,
            mean,
            directions,
            lengths,
            roots,
            between: Cholesky::new(between, classes)?,
        })
    }

    fn scores(&self, features: &Tensor) -> Result<Vec<f64>> {
        let values = finite(features)?;
        let (size, classes) = (self.mean.len(), self.roots.len());
        same("features", features.dim(1)?, size)?;
        let mut scores = Vec::with_capacity(values.len() / size);
        for block in values.chunks(BLOCK * size) {
            let mut along = project(&away(block, size, self.normalise, |_| &self.mean), &self.directions, size);
            let first = scores.len();
            for row in along.chunks_exact_mut(classes) {
                let far = row.iter().zip(&self.lengths).map(|(y, length)| length - 2.0 * y);
                scores.push(far.fold(f64::INFINITY, f64::min));
                row.iter_mut().zip(&self.roots).for_each(|(y, root)| *y *= root);
            }
            let forms = self.between.inverse_forms(along);
            scores[first..].iter_mut().zip(forms).for_each(|(score, form)| *score += form);
        }
        Ok(scores)
    }
}

enum Fitted {
    /// Of covariances of full rank, so of `features`.
    Discriminants(Discriminants),
    /// Distances to the classes, and to all of them together.
    Pair(Distances, Distances),
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::LabelledImages
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, labels) = fit.labelled_train()?;
        let moments = Moments::of(&train.features, labels, self.normalise)?;
        Ok(Box::new(match Discriminants::of(&moments) {
            Some(discriminants) => Fitted::Discriminants(discriminants),
            None => Fitted::Pair(Distances::of(&moments)?, Distances::of(&moments.together())?),
        }))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let scores = match self {
            Self::Discriminants(discriminants) => discriminants.scores(&bank.features)?,
            Self::Pair(classes, all) => {
                let pairs = classes.nearest(&bank.features)?.into_iter().zip(all.nearest(&bank.features)?);
                pairs.map(|(class, all)| class - all).collect()
            }
        };
        Scores::new(scores.into_iter().map(|score| score as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let ranks = match self {
            Self::Discriminants(discriminants) => [discriminants.mean.len(); 2],
            Self::Pair(classes, all) => [classes.rank(), all.rank()],
        };
        Some(serde_json::json!({ "rank_within_classes": ranks[0], "rank_of_all": ranks[1] }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Both ways to the same scores: five classes of unequal shares, far from each other and near.
    #[test]
    fn what_both_distances_have_in_common_cancels() {
        const SIZE: usize = 40;
        for apart in [0.5, 20.0] {
            let mut stream = crate::rng::stream(0, "rmds test", "features");
            let labels: Vec<u32> = (0..400u32).map(|image| (image % 9).min(4)).collect();
            let mut features = |shifted: bool| {
                let value = |at: usize| {
                    let noise: f32 = StandardNormal.sample(&mut stream);
                    let (class, feature) = (labels[at / SIZE] as usize, at % SIZE);
                    let shift = if shifted && feature % 5 == class { apart } else { 0.0 };
                    noise * (1.0 + feature as f32) + shift
                };
                let values: Vec<f32> = (0..400 * SIZE).map(value).collect();
                Tensor::from_vec(values, (400, SIZE), &Device::Cpu).unwrap()
            };
            let moments = Moments::of(&features(true), &labels, false).unwrap();
            let test = features(false);
            let found = Discriminants::of(&moments).unwrap().scores(&test).unwrap();
            let [classes, all] =
                [&moments, &moments.together()].map(|of| Distances::of(of).unwrap().nearest(&test).unwrap());
            let pairs = classes.into_iter().zip(all);
            for (found, (class, all)) in found.into_iter().zip(pairs) {
                assert!((found - (class - all)).abs() < 1e-11 * class, "{found}, not {class} - {all}");
            }
        }
    }
}
