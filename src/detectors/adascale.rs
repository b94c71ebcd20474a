//! AdaSCALE: features or logits are scaled as in SCALE, and the more, the less a small change of the image moves its largest features.
//!
//! score = −logsumexp(e^r · W·z + b) (`variant: a`) or −logsumexp(r²·(W·z + b)) (`l`) with r = Σz / Σ of the k largest z, for the features z
//! of an image and the last layer W, b. k = n − round(n·p/100) of n features, where p is another percentage for each image:
//!
//! p = p_min + (1 − F(Q′))·(p_max − p_min) with Q′ = Σ_{i in A} max(z̃_i, 0) + λ·Σ_{i in B} |z_i − z̃_i|, where A are the largest k₁ percent
//! of z, B the largest k₂ percent, and F(q) is the share of the train images whose Q′ is at most q. z̃ are the features of the image after a
//! step of ε·sign(∂ max_c f_c / ∂x) in those of its values x where the gradient is smallest.
//!
//! - Paper: Regmi, *AdaSCALE: Adaptive Scaling for OOD Detection*, 2025, <https://arxiv.org/abs/2503.08023>.
//! - Reference code: `sudarshanregmi/AdaSCALE`; OpenOOD `adascale_postprocessor.py` and `adascale_net.py`. pytorch-ood does not have it.
//! - ε is in units of the normalised image, as there: one step for all channels.
//! - Deviations: F is of train images, where OpenOOD takes ID validation images; they are drawn by name (`rng`). At least one value of
//!   the image moves, at least one feature is in A and in B, and k is at least 1: with fewer than 100 features the reference leaves B empty.
//!   Where gradients or features are equal, the first are taken; the reference leaves it open.
//! - Features may be negative: as in SCALE, sums are over positive features only, r is 1 where none is positive, and in e^r at most 80.

use candle_core::{Tensor, Var};
use rand::seq::index;
use rayon::prelude::*;

use super::{
    Bank, Detector, Fit, Inputs, Learns, Output, Scorer, Scores, argmax, finite, finite_from, in_f64, inputs,
    map_rows_from, numbers, same,
    shaping::{energy, largest, last_layer, sharpening, spread, top},
};
use crate::{
    Error, Result,
    nn::{Head, Pass},
    rng,
};

/// What the pass over train images is called.
const FITTING: &str = "fitting AdaSCALE";

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Adascale")]
pub struct Config {
    /// What is scaled: the paper has both, and OpenOOD's board lists them as AdaSCALE-A and AdaSCALE-L.
    #[garde(skip)]
    pub variant: Variant,
    /// p_min, at most `high`: 75 in OpenOOD, which searches 60 to 95. Its comment recommends 80 for ResNet-50.
    #[garde(range(min = 0.0, max = 99.99), custom(at_most(&self.high)))]
    pub low: f64,
    /// p_max: 85 in OpenOOD, which searches 65 to 99.
    #[garde(range(min = 0.0, max = 99.99))]
    pub high: f64,
    /// k₁, the percentage of the largest features whose moved values are added up: 5 in OpenOOD.
    #[garde(range(min = 0.0, max = 100.0))]
    pub features: f64,
    /// k₂, the percentage of the largest features whose shifts are added up: 1 in OpenOOD.
    #[garde(range(min = 0.0, max = 100.0))]
    pub shifts: f64,
    /// λ, the weight of the shifts: 10 in OpenOOD.
    #[garde(range(min = 0.0, max = 1e6))]
    pub weight: f64,
    /// The share of an image's values that move: 0.05 in OpenOOD.
    #[garde(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// ε, by how much they move: 0.5 in OpenOOD, whose code has no setting for it.
    #[garde(range(min = 0.0, max = 1e3))]
    pub step: f64,
    /// Train images that F is of: 5000 in OpenOOD.
    #[garde(range(min = 1, max = 1_000_000_000))]
    pub images: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            variant: Variant::A,
            low: 75.0,
            high: 85.0,
            features: 5.0,
            shifts: 1.0,
            weight: 10.0,
            share: 0.05,
            step: 0.5,
            images: 5000,
        }
    }
}

fn at_most(high: &f64) -> impl FnOnce(&f64, &()) -> garde::Result {
    let high = *high;
    move |low, ()| match *low <= high {
        true => Ok(()),
        false => Err(garde::Error::new(format!("greater than `high`, {high}"))),
    }
}

/// What is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AdascaleVariant")]
pub enum Variant {
    /// The features, by e^r.
    A,
    /// The logits, by r².
    L,
}

/// The features of (N, C, H, W) `images`, which begin at position `start` of their set, and ∂ max_c f_c / ∂x.
///
/// # Errors
/// Those of the network; [`Error::Failed`] naming the first image with a logit that is NaN or infinite.
pub fn gradient(inputs: &dyn Inputs, images: &Tensor, start: usize) -> Result<(Tensor, Tensor)> {
    let images = Var::from_tensor(&images.detach())?.into_inner();
    let shown = inputs.network().show(&images, &Pass::eval())?;
    let logits = shown.logits()?;
    let likeliest = map_rows_from(&logits.detach(), start, |row| {
        let mut slopes = vec![0.0; row.len()];
        slopes[argmax(row)] = 1.0;
        slopes
    })?;
    Ok((shown.features()?.detach(), inputs::pull_back(logits, likeliest.concat(), &images)?))
}

/// The energy of each row of (N, D) `features`, scaled by how much of the row's sum is left when the row's own percentage is left out.
///
/// # Errors
/// If there is nothing to score, there is not one percentage for each row, `head` takes another D, or a feature, weight or bias is NaN or
/// infinite.
pub fn adascale(features: &Tensor, head: &Head, variant: Variant, percentiles: &[f64]) -> Result<Vec<f32>> {
    let values = finite(features)?;
    let (images, size) = features.dims2()?;
    same("percentages", percentiles.len(), images)?;
    let (weight, bias) = last_layer(head, size)?;
    let score = |(row, percentile): (&[f32], &f64)| {
        let mut row = in_f64(row);
        let kept = largest(&row, *percentile);
        let [of_features, of_bias] = match variant {
            Variant::A => [sharpening(&row, &kept), 1.0],
            Variant::L => [spread(&row, &kept).powi(2); 2],
        };
        row.iter_mut().for_each(|z| *z *= of_features);
        energy(&row, &weight, &bias.iter().map(|bias| bias * of_bias).collect::<Vec<f64>>())
    };
    Ok(values.par_chunks_exact(size).zip(percentiles).map(score).collect())
}

/// `percent` percent of `count`, and at least one.
fn of(count: usize, percent: f64) -> usize {
    ((count as f64 * percent / 100.0) as usize).clamp(1, count)
}

impl Config {
    /// The images after a step up the gradient in the values where it is smallest.
    fn moved(&self, images: &Tensor, gradient: &Tensor, start: usize) -> Result<Tensor> {
        let (mut values, slopes) = (numbers(images)?, inputs::slopes(gradient, start)?);
        let size = values.len() / images.dim(0)?;
        let count = ((size as f64 * self.share) as usize).clamp(1, size);
        for (values, slopes) in values.chunks_exact_mut(size).zip(slopes.chunks_exact(size)) {
            let steepness: Vec<f64> = slopes.iter().map(|slope| -slope.abs()).collect();
            // A value that does not matter stays.
            let moving = top(&steepness, count).into_iter().filter(|at| slopes[*at] != 0.0);
            moving.for_each(|at| values[at] += self.step * slopes[at].signum());
        }
        Ok(Tensor::from_vec(values, images.shape(), images.device())?.to_dtype(images.dtype())?)
    }

    /// Q′ of an image's features, before and after.
    fn shift(&self, before: &[f64], after: &[f64]) -> f64 {
        let added: f64 = top(before, of(before.len(), self.features)).into_iter().map(|at| after[at].max(0.0)).sum();
        let shifts = top(before, of(before.len(), self.shifts)).into_iter().map(|at| (before[at] - after[at]).abs());
        added + self.weight * shifts.sum::<f64>()
    }

    /// Q′ of every image.
    fn all_shifts(&self, inputs: &dyn Inputs, what: &str) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(inputs.images());
        inputs.pass(what, &mut |start, images| {
            let (features, gradient) = gradient(inputs, images, start)?;
            let moved = self.moved(images, &gradient, start)?;
            let moved = inputs.network().show(&moved, &Pass::eval())?.features()?.detach();
            let rows = |features: &Tensor| -> Result<Vec<f64>> { Ok(in_f64(&finite_from(features, start)?)) };
            let (before, after) = (rows(&features)?, rows(&moved)?);
            let size = features.dim(1)?;
            let pairs = before.chunks_exact(size).zip(after.chunks_exact(size));
            all.extend(pairs.map(|(before, after)| self.shift(before, after)));
            Ok(())
        })?;
        Ok(all)
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features, Output::Head, Output::Gradients]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let (train, head) = (fit.train()?, fit.head()?);
        last_layer(head, train.features.dim(1)?)?;
        let inputs = train.inputs()?;
        let all = inputs.images();
        let mut known = if self.images < all {
            let mut stream = rng::stream(0, "AdaSCALE's train images", &all.to_string());
            let mut drawn = index::sample(&mut stream, all, self.images).into_vec();
            drawn.sort_unstable();
            self.all_shifts(&*inputs.subset(&drawn)?, FITTING)?
        } else {
            self.all_shifts(inputs, FITTING)?
        };
        if known.is_empty() {
            return Err(Error::Failed("there is no train image to learn from".into()));
        }
        known.sort_unstable_by(f64::total_cmp);
        Ok(Box::new(Fitted { config: self.clone(), head: head.clone(), known }))
    }
}

/// The last layer, and Q′ of the train images.
struct Fitted {
    config: Config,
    head: Head,
    /// Rising.
    known: Vec<f64>,
}

impl Fitted {
    /// p of an image.
    fn percentile(&self, shift: f64) -> f64 {
        let Config { low, high, .. } = self.config;
        let share = self.known.partition_point(|known| *known <= shift) as f64 / self.known.len() as f64;
        low + (1.0 - share) * (high - low)
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        // What is wrong with an image is told by its place in the set.
        finite(&bank.features)?;
        let inputs = bank.inputs()?;
        same("images", inputs.images(), bank.features.dim(0)?)?;
        let shifts = self.config.all_shifts(inputs, "scoring AdaSCALE")?;
        let percentiles: Vec<f64> = shifts.into_iter().map(|shift| self.percentile(shift)).collect();
        Scores::new(adascale(&bank.features, &self.head, self.config.variant, &percentiles)?)
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "images": self.known.len() }))
    }
}
