//! Gram matrices: how strongly the channels of each layer go together, against what is usual for the class that is predicted.
//!
//! Of a layer's feature maps F (C channels × pixels) and each power p = 1, …, P, with powers and roots by element and sign(x)·|x|^(1/p)
//! as the root: g_p = (row sums of F^p · (F^p)ᵀ)^(1/p), C numbers. The fit keeps the least λ and the largest Λ of each number over the
//! train images that are predicted as each class. An image of the predicted class c deviates by
//! δ_l = Σ_p Σ_i relu(λ − g)/|λ + 10⁻⁶| + relu(g − Λ)/|Λ + 10⁻⁶| in layer l, and score = Σ_l δ_l / E[δ_l].
//!
//! - Paper: Sastry, Oore, *Detecting Out-of-Distribution Examples with Gram Matrices*, ICML 2020, <https://arxiv.org/abs/1912.12510>.
//! - Reference code: `VectorInstitute/gram-ood-detection`; pytorch-ood `Gram`, to which this is equal given the same images held out.
//!   OpenOOD's `gram_postprocessor.py` has compared every number with the sum over channels and taken the largest of the least for Λ.
//! - E[δ_l] is the mean over every tenth train image of each class, which λ and Λ do not see; 1 where no such image deviates. The
//!   reference takes a tenth of the *test* images, and divides deviations by the confidence of the prediction, which neither the
//!   paper nor pytorch-ood does.
//! - All layers that the network shows, after their non-linearity, count; a layer without pixels has one.
//! - A class that no train image is predicted as takes the bounds over all classes; the record names it.
//! - Row sums are taken as F^p · (Σ of the rows of F^p), without the C × C matrix. Activations may be negative: odd powers keep the
//!   sign.

use rayon::prelude::*;

use super::{
    Bank, Batches, Check, Detector, Fit, Fitting, LayerShape, Learner, Learns, Output, Pushed, Scorer, Scores, Scoring,
    argmax, check_memory, map_rows_from, of_each, pushed,
};
use crate::{
    Error, Result,
    nn::{Shown, pass::Layer},
    ops::wide,
};

/// Of the train images of a class, one in so many is held out: a tenth in the reference and in pytorch-ood.
const HELD_OUT: usize = 10;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Gram")]
pub struct Config {
    /// The largest power P: 5 in OpenOOD since its rewrite, 10 in the reference.
    #[garde(range(min = 1, max = 32))]
    pub powers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { powers: 5 }
    }
}

impl Config {
    /// Refuses a fit to these layers in less memory than the bounds take.
    ///
    /// # Errors
    /// [`Error::Input`] with both numbers.
    pub fn check_memory(&self, layers: &[LayerShape], classes: usize, memory: usize) -> Result<()> {
        let entries: usize = layers.iter().map(|layer| self.powers * layer.dims[0]).sum();
        let bytes = 2 * classes * entries * size_of::<f64>();
        check_memory("Gram needs", &format!("the bounds of {classes} classes"), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take fewer powers"))
    }
}

/// Pixels that are taken together: a vector of f64. Of two, the sums of all powers do not fit into registers any more.
const LANES: usize = 4;
/// Powers that are taken together: their sums, over channels or over a tile's pixels, stay in the processor's registers.
const GROUP: usize = 5;
/// Pixels whose values, of some dozens of channels, stay in the first cache.
const TILE: usize = 32;

/// g_1, …, g_P of an image's feature maps (`channels`, pixels), C numbers each; `channels` ≥ 1 divides the values' number.
pub fn gram_sums(maps: &[f32], channels: usize, powers: usize) -> Vec<f64> {
    wide!({
        let largest = f64::from(maps.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())));
        let mut sums = vec![0.0; powers * channels];
        if largest == 0.0 {
            return sums;
        }
        // Of values scaled into −1..1, powers are finite; the scale is put back after the root.
        let scale = 1.0 / largest;
        for (group, sums) in sums.chunks_mut(GROUP * channels).enumerate() {
            let below = group * GROUP;
            match sums.len() / channels {
                1 => row_sums::<1>(maps, channels, scale, below, sums),
                2 => row_sums::<2>(maps, channels, scale, below, sums),
                3 => row_sums::<3>(maps, channels, scale, below, sums),
                4 => row_sums::<4>(maps, channels, scale, below, sums),
                _ => row_sums::<GROUP>(maps, channels, scale, below, sums),
            }
        }
        for (exponent, sums) in (1..).zip(sums.chunks_exact_mut(channels)) {
            sums.iter_mut().for_each(|sum| *sum = sum.signum() * root(sum.abs(), exponent) * largest * largest);
        }
        sums
    })
}

/// The row sums of F^p · (F^p)ᵀ for p = `below` + 1, …, `below` + P, of the scaled maps.
// With plain loops over the lanes: of iterators, the compiler leaves the sums in memory, and this takes twice as long.
#[inline(always)]
fn row_sums<const P: usize>(maps: &[f32], channels: usize, scale: f64, below: usize, sums: &mut [f64]) {
    let pixels = maps.len() / channels;
    let mut by_channel = vec![[[0.0; LANES]; P]; channels];
    // A tile's scaled values, channel after channel. In the maps, a channel's pixels may be so far from the next one's that they drive
    // each other out of the cache.
    let mut tile = vec![[[0.0; LANES]; TILE / LANES]; channels];
    for start in (0..pixels).step_by(TILE) {
        let end = pixels.min(start + TILE);
        let vectors = (end - start).div_ceil(LANES);
        for (values, row) in tile.iter_mut().zip(maps.chunks_exact(pixels)) {
            let values = values[..vectors].as_flattened_mut();
            let (values, beyond) = values.split_at_mut(end - start);
            values.iter_mut().zip(&row[start..end]).for_each(|(value, x)| *value = f64::from(*x) * scale);
            beyond.fill(0.0);
        }
        let mut over_channels = [[[0.0; LANES]; P]; TILE / LANES];
        for (at, over_channels) in over_channels[..vectors].iter_mut().enumerate() {
            let mut sums = [[0.0; LANES]; P];
            for values in &tile {
                let powers: [[f64; LANES]; P] = powers_of(&values[at], below);
                for power in 0..P {
                    for lane in 0..LANES {
                        sums[power][lane] += powers[power][lane];
                    }
                }
            }
            *over_channels = sums;
        }
        for (values, all) in tile.iter().zip(&mut by_channel) {
            let mut sums = *all;
            for (values, others) in values[..vectors].iter().zip(&over_channels) {
                let powers: [[f64; LANES]; P] = powers_of(values, below);
                for power in 0..P {
                    for lane in 0..LANES {
                        sums[power][lane] += powers[power][lane] * others[power][lane];
                    }
                }
            }
            *all = sums;
        }
    }
    for (power, sums) in sums.chunks_exact_mut(channels).enumerate() {
        sums.iter_mut().zip(&by_channel).for_each(|(sum, lanes)| *sum = lanes[power].iter().sum());
    }
}

/// Powers `below` + 1, …, `below` + P.
#[inline(always)]
fn powers_of<const P: usize>(values: &[f64; LANES], below: usize) -> [[f64; LANES]; P] {
    let mut powers = [*values; P];
    for _ in 0..below {
        for lane in 0..LANES {
            powers[0][lane] *= values[lane];
        }
    }
    for power in 1..P {
        for lane in 0..LANES {
            powers[power][lane] = powers[power - 1][lane] * values[lane];
        }
    }
    powers
}

/// x^(1/`exponent`) of x ≥ 0.
fn root(x: f64, exponent: u32) -> f64 {
    match exponent {
        1 => x,
        2 => x.sqrt(),
        3 => x.cbrt(),
        4 => x.sqrt().sqrt(),
        _ => x.powf(1.0 / f64::from(exponent)),
    }
}

/// The bounds of every class, and what is to be expected of each layer.
#[derive(Debug, Clone)]
pub struct Gram {
    powers: usize,
    layers: Vec<LayerShape>,
    classes: usize,
    /// λ and Λ: class after class, layer after layer, power after power, channel after channel.
    bounds: [Vec<f64>; 2],
    /// E[δ_l].
    expected: Vec<f64>,
    never_predicted: Vec<usize>,
    held_out: usize,
}

impl Gram {
    /// δ_l of each image of a batch and each layer.
    fn deviations(&self, batch: &Sums) -> Result<Vec<Vec<f64>>> {
        let entries = self.start(self.layers.len());
        if batch.classes != self.classes {
            let message = format!("gram: {} logits, and {} in the train set", batch.classes, self.classes);
            return Err(Error::Failed(message));
        }
        let of_layer = |image: usize, layer: usize| {
            let first = batch.predicted[image] * entries + self.start(layer);
            let bounds = self.bounds[0][first..].iter().zip(&self.bounds[1][first..]);
            // A bound of exactly −10⁻⁶ would divide by zero.
            let size = |bound: f64| (bound + 1e-6).abs().max(1e-12);
            let each = batch.layers[layer][image].iter().zip(bounds).map(|(sum, (least, most))| {
                (least - sum).max(0.0) / size(*least) + (sum - most).max(0.0) / size(*most)
            });
            each.sum()
        };
        let of_image = |image| (0..self.layers.len()).map(|layer| of_layer(image, layer)).collect::<Vec<f64>>();
        Ok((0..batch.predicted.len()).into_par_iter().map(of_image).collect())
    }

    /// Where a layer's numbers start among those of a class.
    fn start(&self, layer: usize) -> usize {
        self.layers[..layer].iter().map(|layer| self.powers * layer.dims[0]).sum()
    }

    /// The [`gram_sums`] of a batch, whose first image is at position `start`.
    fn sums(&self, start: usize, batch: &Shown) -> Result<Sums> {
        let shown: Vec<LayerShape> = batch.layers.iter().map(LayerShape::from).collect();
        if shown != self.layers {
            return Err(other_layers(&self.layers, &shown));
        }
        let logits = batch.logits()?;
        let classes = logits.dims2()?.1;
        let predicted = map_rows_from(logits, start, argmax)?;
        let sums = |layer: &Layer| {
            let channels = layer.values.dims()[1];
            of_each(layer, start, |_, maps| gram_sums(maps, channels, self.powers))
        };
        Ok(Sums { classes, predicted, layers: batch.layers.iter().map(sums).collect::<Result<_>>()? })
    }
}

/// The first pass: every class's bounds.
struct Bounding {
    config: Config,
    memory: usize,
    gram: Gram,
    least: Vec<f64>,
    most: Vec<f64>,
    /// Images of each class so far.
    seen: Vec<usize>,
    /// Of each image, whether it is held out.
    held: Vec<bool>,
}

impl Learner for Bounding {
    fn what(&self) -> &'static str {
        "fitting Gram"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let batch = self.gram.sums(start, batch)?;
        let entries = self.gram.start(self.gram.layers.len());
        if self.seen.is_empty() {
            self.config.check_memory(&self.gram.layers, batch.classes, self.memory)?;
            self.seen = vec![0; batch.classes];
            self.least = vec![f64::INFINITY; batch.classes * entries];
            self.most = vec![f64::NEG_INFINITY; batch.classes * entries];
        }
        for (image, &class) in batch.predicted.iter().enumerate() {
            self.seen[class] += 1;
            self.held.push(self.seen[class].is_multiple_of(HELD_OUT));
            if self.held.last() == Some(&true) {
                continue;
            }
            let [least, most] =
                [&mut self.least, &mut self.most].map(|bounds| &mut bounds[class * entries..][..entries]);
            for ((sum, least), most) in batch.sums(image).zip(least).zip(most) {
                (*least, *most) = (least.min(*sum), most.max(*sum));
            }
        }
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        let Self { mut gram, mut least, mut most, seen, held, .. } = *self;
        let entries = gram.start(gram.layers.len());
        gram.classes = seen.len();
        gram.never_predicted = (0..gram.classes).filter(|class| seen[*class] == 0).collect();
        for (bounds, better) in [(&mut least, f64::min as fn(f64, f64) -> f64), (&mut most, f64::max)] {
            for entry in 0..entries {
                let overall = bounds[entry..].iter().step_by(entries).copied().reduce(better).unwrap_or(0.0);
                gram.never_predicted.iter().for_each(|class| bounds[class * entries + entry] = overall);
            }
        }
        gram.bounds = [least, most];
        gram.expected = vec![1.0; gram.layers.len()];
        let images: Vec<usize> = (0..held.len()).filter(|image| held[*image]).collect();
        gram.held_out = images.len();
        Ok(match images.is_empty() {
            true => Fitting::Ready(Box::new(gram)),
            false => Fitting::Learning(Box::new(Expecting { gram, images, deviations: Vec::new() })),
        })
    }
}

/// The second pass: what is to be expected of each layer, by the images that were held out.
struct Expecting {
    gram: Gram,
    images: Vec<usize>,
    deviations: Vec<Vec<f64>>,
}

impl Learner for Expecting {
    fn what(&self) -> &'static str {
        "fitting Gram: what is expected"
    }

    fn images(&self) -> Option<&[usize]> {
        Some(&self.images)
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        self.deviations.extend(self.gram.deviations(&self.gram.sums(start, batch)?)?);
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        let Self { mut gram, images, deviations } = *self;
        for (layer, expected) in gram.expected.iter_mut().enumerate() {
            let mean = deviations.iter().map(|image| image[layer]).sum::<f64>() / images.len() as f64;
            if mean > 0.0 {
                *expected = mean;
            }
        }
        Ok(Fitting::Ready(Box::new(gram)))
    }
}

/// Of a batch.
struct Sums {
    classes: usize,
    /// The class of each image, by its logits.
    predicted: Vec<usize>,
    /// By layer and image: power after power, channel after channel.
    layers: Vec<Vec<Vec<f64>>>,
}

impl Sums {
    /// All of an image.
    fn sums(&self, image: usize) -> impl Iterator<Item = &f64> {
        self.layers.iter().flat_map(move |layer| &layer[image])
    }
}

fn other_layers(fitted: &[LayerShape], shown: &[LayerShape]) -> Error {
    let in_words = |layer: Option<&LayerShape>| match layer {
        Some(layer) => format!("{} {:?}", layer.name, layer.dims),
        None => "none".to_owned(),
    };
    let first = (0..fitted.len().max(shown.len())).find(|index| fitted.get(*index) != shown.get(*index)).unwrap_or(0);
    let (fitted, shown) = (in_words(fitted.get(first)), in_words(shown.get(first)));
    Error::input(format!(
        "the layers are not those that Gram was fitted to: layer {} was {fitted} and is {shown}",
        first + 1
    ))
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits, Output::Layers]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        Some(self)
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        pushed::fit(self, fit)
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            Ok(self.check_memory(about.layers, about.shown.logits()?.dim(1)?, about.memory).map(|()| None)?)
        }))
    }
}

impl Pushed for Config {
    fn reads_layers(&self) -> bool {
        true
    }

    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        let train = fit.train()?.batches()?;
        let gram = Gram {
            powers: self.powers,
            layers: train.layers()?,
            classes: 0,
            bounds: [Vec::new(), Vec::new()],
            expected: Vec::new(),
            never_predicted: Vec::new(),
            held_out: 0,
        };
        let held = Vec::with_capacity(train.images());
        let [least, most] = [Vec::new(), Vec::new()];
        let (config, memory) = (self.clone(), fit.memory);
        Ok(Fitting::Learning(Box::new(Bounding { config, memory, gram, least, most, seen: Vec::new(), held })))
    }
}

impl Scorer for Gram {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring Gram", true)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        Ok(Box::new(Scored { gram: self, scores: Vec::with_capacity(images.images()) }))
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "held_out": self.held_out, "classes_never_predicted": self.never_predicted }))
    }
}

/// The images so far.
struct Scored<'a> {
    gram: &'a Gram,
    scores: Vec<f32>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let deviations = self.gram.deviations(&self.gram.sums(start, batch)?)?;
        let score = |image: &Vec<f64>| {
            let each = image.iter().zip(&self.gram.expected).map(|(deviation, expected)| deviation / expected);
            each.sum::<f64>() as f32
        };
        self.scores.extend(deviations.iter().map(score));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        Scores::new(self.scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels that fill no tile, some or several, powers of more than a group, and values of either sign.
    #[test]
    fn sums_are_those_of_whole_matrices() {
        for (channels, pixels, powers) in [(1, 1, 1), (3, 75, 7), (5, 64, 5), (2, 200, 11), (4, 7, 10)] {
            let maps: Vec<f32> = (0..channels * pixels).map(|at| (at as f32 * 0.7).sin() * 3.0 + 0.5).collect();
            let sums = gram_sums(&maps, channels, powers);
            for (at, sum) in sums.iter().enumerate() {
                let (power, channel) = ((at / channels + 1) as i32, at % channels);
                let value = |channel: usize, pixel: usize| f64::from(maps[channel * pixels + pixel]).powi(power);
                let product = |other| (0..pixels).map(|pixel| value(channel, pixel) * value(other, pixel)).sum::<f64>();
                let row: f64 = (0..channels).map(product).sum();
                let expected = row.signum() * row.abs().powf(1.0 / f64::from(power));
                assert!((sum - expected).abs() < 1e-9 * expected.abs(), "{channels} × {pixels}, power {power}");
            }
        }
    }
}
