//! RankFeat: the strongest pattern of the last feature maps, which images of unknown kinds have too, is taken away.
//!
//! With an image's last feature maps X (C channels × pixels), their largest singular value σ and its singular vectors u and v:
//! score = −logsumexp(W · mean over pixels of (X − σ·u·vᵀ) + b) by the last layer W, b.
//!
//! - Paper: Song, Sebe, Wang, *RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection*, NeurIPS 2022,
//!   <https://arxiv.org/abs/2209.08590>.
//! - Reference code: `KingJamesSong/RankFeat`; OpenOOD `rankfeat_postprocessor.py`; pytorch-ood `RankFeat`, to which this is equal.
//! - Deviations: this is the paper's RankFeat of block 4 alone. The one of block 3, with whose logits OpenOOD averages them, needs a
//!   forward pass from the middle of the network, which oodkit has not. The singular vectors are found by power iteration in f64 until
//!   it stands still to 10⁻¹² (1,000 steps at most), where the reference has an exact decomposition or 20 steps; where two singular
//!   values are equal, no one pattern is strongest, and which is taken is open.
//! - It needs a network whose features are the means of its last feature maps (ResNets, EfficientNet): what leaves the last
//!   convolution, after its non-linearity, is compared with the features of each image. LeNet and VGG are refused. Of a feature file
//!   they are the last `taps.<layer>` with pixels, by name.
//! - Maps may be negative; nothing changes.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Bank, Batches, Detector, Fit, Fitting, Output, Pushed, Scorer, Scores, Scoring, finite, finite_from, of_each,
    pushed,
    shaping::{energy, last_layer},
};
use crate::{
    Error, Result,
    linalg::dot,
    nn::{Head, Shown},
    ops::wide,
};

/// Steps of the power iteration, at most.
const STEPS: usize = 1000;

/// RankFeat has no settings.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RankFeat")]
pub struct Config {}

/// Means over the pixels of an image's feature maps (`channels`, pixels), before and after the strongest pattern is taken away:
/// X̄ and X̄ − σ·u·v̄. Values are finite; `channels` ≥ 1 divides their number.
pub fn means(maps: &[f32], channels: usize) -> [Vec<f64>; 2] {
    wide!({
        let pixels = maps.len() / channels;
        let maps: Vec<f64> = maps.iter().copied().map(f64::from).collect();
        let times = |v: &[f64]| -> Vec<f64> { maps.chunks_exact(pixels).map(|row| dot(row, v)).collect() };
        let before: Vec<f64> = times(&vec![1.0 / pixels as f64; pixels]);
        // Not at right angles to the pattern, by any likely accident.
        let mut v: Vec<f64> = (0..pixels).map(|pixel| 1.0 + 0.5 * (pixel as f64).sin()).collect();
        for _ in 0..STEPS {
            let mut next = vec![0.0; pixels];
            for (row, weight) in maps.chunks_exact(pixels).zip(times(&v)) {
                next.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * weight);
            }
            let norm = dot(&next, &next).sqrt();
            if norm == 0.0 {
                return [before.clone(), before];
            }
            next.iter_mut().for_each(|x| *x /= norm);
            let moved = next.iter().zip(&v).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            v = next;
            if moved < 1e-12 {
                break;
            }
        }
        let mean = v.iter().sum::<f64>() / pixels as f64;
        let after = before.iter().zip(times(&v)).map(|(before, along)| before - along * mean).collect();
        [before, after]
    })
}

/// The energy of each image of (N, C, H, W) `maps` without their strongest pattern.
///
/// # Errors
/// If there is nothing to score, `head` takes other than C features, or a number is NaN or infinite.
pub fn rankfeat(maps: &Tensor, head: &Head) -> Result<Vec<f32>> {
    let (images, channels, height, width) = maps.dims4()?;
    let (weight, bias) = last_layer(head, channels)?;
    let values = finite(&maps.reshape((images, channels * height * width))?)?;
    let score = |maps: &[f32]| energy(&means(maps, channels)[1], &weight, &bias);
    Ok(values.par_chunks_exact(channels * height * width).map(score).collect())
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::LastMaps, Output::Head]
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        Some(self)
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        pushed::fit(self, fit)
    }
}

impl Pushed for Config {
    fn reads_layers(&self) -> bool {
        true
    }

    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        Ok(Fitting::Ready(Box::new(Fitted { head: fit.head()?.clone() })))
    }
}

/// The last layer.
struct Fitted {
    head: Head,
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring RankFeat", true)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        Ok(Box::new(Scored { head: &self.head, scores: Vec::with_capacity(images.images()) }))
    }
}

/// The images so far.
struct Scored<'a> {
    head: &'a Head,
    scores: Vec<f32>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let features = batch.features()?;
        let size = features.dims2()?.1;
        let features = finite_from(features, start)?;
        let (weight, bias) = last_layer(self.head, size)?;
        let Some(layer) = batch.layers.iter().rev().find(|layer| layer.values.rank() == 4) else {
            return Err(Error::input("rankfeat needs feature maps, and the network shows none"));
        };
        let (images, channels, _, _) = layer.values.dims4()?;
        let rows: Vec<&[f32]> = features.chunks_exact(size).collect();
        if channels != size || rows.len() != images {
            return Err(not_means(&layer.name));
        }
        let score = |image: usize, maps: &[f32]| {
            let features = rows[image];
            let [before, after] = means(maps, channels);
            let length = features.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>();
            let apart = features.iter().zip(&before).map(|(z, mean)| (f64::from(*z) - mean).powi(2)).sum::<f64>();
            // A hundredth: passes that differ by rounding are the same, other pools are not.
            (apart <= 1e-4 * length).then(|| energy(&after, &weight, &bias))
        };
        let batch: Option<Vec<f32>> = of_each(layer, start, score)?.into_iter().collect();
        self.scores.extend(batch.ok_or_else(|| not_means(&layer.name))?);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        Scores::new(self.scores)
    }
}

fn not_means(layer: &str) -> Error {
    let message = format!("rankfeat: the features are not the means of the last feature maps, those of \"{layer}\"");
    Error::input(message).hint("take a network that averages its last maps: a ResNet, a Wide ResNet, EfficientNet")
}
