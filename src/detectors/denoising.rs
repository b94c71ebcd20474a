//! What detectors that read a denoiser share: the denoiser, images in -1..1, noise that depends on the image alone, and z-scores.

pub mod equal_change;
pub(super) mod neighbours;

use std::borrow::Cow;

use candle_core::{DType, Tensor};
use rand::Rng as _;
use sha2::{Digest, Sha256};

use super::{Bank, Fit, Inputs, Output, Refusal, inputs::renormalised, numbers};
use crate::{
    Error, Result,
    data::Normalisation,
    nn::{
        Denoiser,
        denoiser::Place,
        sampler::{self, Guide},
    },
    rng,
};

/// What of a network is needed.
pub(super) const NEEDS: &[Output] = &[Output::Noise];

/// What is known of a denoiser before it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denoises {
    /// T, the steps of its schedule.
    pub steps: usize,
    /// The classes that it can be told; 0 of one that is told none.
    pub classes: usize,
    /// Whether it cannot go without a class.
    pub needs_class: bool,
}

impl Denoises {
    /// Of a denoiser.
    pub fn of(denoiser: &dyn Denoiser) -> Self {
        Self { steps: denoiser.schedule().steps(), classes: denoiser.classes(), needs_class: denoiser.needs_class() }
    }

    /// Refuses a denoiser that cannot go without a class, where none is told.
    pub(super) fn untold(&self) -> Result<(), Refusal> {
        if !self.needs_class {
            return Ok(());
        }
        let error = Error::input("the denoiser cannot go without a class (`drop: 0`), and it is told none here");
        Err(Refusal { key: None, error: error.hint("take weights without classes, or train a denoiser that can") })
    }

    /// Refuses a step that is not on the schedule.
    pub(super) fn check(&self, key: &'static str, step: usize) -> Result<(), Refusal> {
        if step < self.steps {
            return Ok(());
        }
        let error = Error::input(format!("there is no step {step}: the denoiser's schedule has {}", self.steps))
            .hint(format!("steps count from 0 to {}", self.steps - 1));
        Err(Refusal { key: Some(key), error })
    }
}

/// A denoiser and images, in batches.
#[derive(Clone, Copy)]
pub(super) struct Images<'a> {
    inputs: &'a dyn Inputs,
    /// The denoiser, without guidance.
    pub(super) guide: Guide<'a>,
}

impl<'a> Images<'a> {
    /// Of a network that is a denoiser.
    pub(super) fn of(inputs: &'a dyn Inputs) -> Result<Self> {
        let missing = || Error::Failed("the detector needs a denoiser, and the network is none".into());
        let denoiser = inputs.network().denoiser().ok_or_else(missing)?;
        Ok(Self { inputs, guide: Guide { denoiser, guidance: 0.0, together: inputs.at_a_time() } })
    }

    pub(super) fn count(&self) -> usize {
        self.inputs.images()
    }

    /// Calls `each` with images in -1..1 and the position of the first in its set. `rows` is how many noisy images of each are denoised
    /// together: so many images come at a time that these have room.
    pub(super) fn pass(
        &self,
        what: &str,
        rows: usize,
        each: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let group = (self.inputs.at_a_time() / rows.max(1)).max(1);
        self.inputs.pass(what, &mut |start, images| {
            let count = images.dim(0)?;
            let images = renormalised(images, self.inputs.normalisation(), &Normalisation::signed(images.dim(1)?))?;
            for at in (0..count).step_by(group) {
                self.inputs.check()?;
                each(start + at, &images.narrow(0, at, group.min(count - at))?)?;
            }
            Ok(())
        })
    }

    /// Statistics of every image, `size` of each, one image after another, by what `of` gives of a batch.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the first image whose statistics are NaN or infinite.
    pub(super) fn statistics(
        &self,
        what: &str,
        (rows, size): (usize, usize),
        of: &dyn Fn(&Tensor) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(self.count() * size);
        self.pass(what, rows, &mut |start, images| {
            let values = of(images)?;
            super::same("statistics", values.len(), size * images.dim(0)?)?;
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let message = format!("what is denoised of image {} is {}", start + at / size, values[at]);
                return Err(Error::Failed(message));
            }
            all.extend(values);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Standard normal noise for images in -1..1, one stream for each image and number. It is named by the image's pixels, so that a score
/// depends on no other image and no order.
pub(super) fn noise(images: &Tensor, name: (u64, &str, usize)) -> Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    let of = |mut stream| sampler::normal(&mut stream, [channels, height, width], images.device());
    let rows = streams(images, name)?.into_iter().map(of).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&rows, 0)?.to_dtype(images.dtype())?)
}

/// A number below `count` for each image, of the same kind of stream.
pub(super) fn drawn(images: &Tensor, name: (u64, &str, usize), count: usize) -> Result<Tensor> {
    let numbers = streams(images, name)?.into_iter().map(|mut stream| stream.random_range(0..count) as u32);
    Ok(Tensor::from_iter(numbers, images.device())?)
}

/// A stream for each image.
fn streams(images: &Tensor, (seed, purpose, number): (u64, &str, usize)) -> Result<Vec<rng::Rng>> {
    let size = images.elem_count() / images.dim(0)?;
    let of = |pixels: &[f64]| {
        let mut hash = Sha256::new();
        // Coarser than the last bits, which processors may differ in.
        pixels.iter().for_each(|x| hash.update(((x + 1.0) * 32_767.5).round().to_le_bytes()));
        rng::stream(seed, purpose, &format!("{} {number}", crate::digest::hex(&hash.finalize())))
    };
    Ok(numbers(images)?.chunks_exact(size).map(of).collect())
}

/// a·x₀ + s·ε
pub(super) fn noisy(images: &Tensor, noise: &Tensor, place: Place) -> Result<Tensor> {
    Ok(((images * place.signal)? + (noise * place.noise)?)?)
}

/// The mean over everything of an image of the squares of a − b, in f64.
pub(super) fn mean_squares(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let size = a.elem_count() / a.dim(0)?;
    let (a, b) = (numbers(a)?, numbers(b)?);
    let rows = a.chunks_exact(size).zip(b.chunks_exact(size));
    Ok(rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / size as f64).collect())
}

/// Images of the rows of a tensor, `parts` one after another, each of all images: of (parts·N, …) the (N) of part `part`.
pub(super) fn part(all: &Tensor, part: usize, images: usize) -> Result<Tensor> {
    Ok(all.narrow(0, part * images, images)?)
}

/// All of a set's images in -1..1, (N, C, H, W). `begin` is called with the first of them.
pub(super) fn read(inputs: &dyn Inputs, what: &str, begin: &dyn Fn(&Tensor) -> Result<()>) -> Result<Tensor> {
    let mut all = Vec::new();
    inputs.pass(what, &mut |_, images| {
        if all.is_empty() {
            begin(images)?;
        }
        all.push(renormalised(images, inputs.normalisation(), &Normalisation::signed(images.dim(1)?))?);
        Ok(())
    })?;
    Ok(Tensor::cat(&all, 0)?)
}

/// The places of `some` of `all` images, at even distances.
pub(super) fn evenly(some: usize, all: usize) -> Vec<usize> {
    (0..some).map(|at| at * all / some).collect()
}

/// No more than so many of a bank's images, at even distances.
///
/// # Errors
/// [`Error::Input`] if there is none.
pub(super) fn some(bank: &Bank, most: Option<usize>) -> Result<Cow<'_, Bank>> {
    let count = bank.inputs()?.images();
    if count == 0 {
        return Err(Error::input("there is no train image to learn from"));
    }
    match most {
        Some(most) if most < count => {
            let inputs = Some(bank.inputs()?.subset(&evenly(most, count))?);
            let none = Tensor::zeros((0, 0), DType::F32, bank.logits.device())?;
            Ok(Cow::Owned(Bank { inputs, ..Bank::new(none.clone(), none) }))
        }
        _ => Ok(Cow::Borrowed(bank)),
    }
}

/// What statistics of train images are like: the mean and the deviation of each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Usual {
    pub(super) mean: Vec<f64>,
    /// 1 where nothing varies.
    pub(super) deviation: Vec<f64>,
    pub(super) images: usize,
}

impl Usual {
    /// Of `rows` (N, size); deviations divide by N.
    pub(super) fn of(rows: &[f64], size: usize) -> Self {
        let images = rows.len() / size;
        let column = |at: usize| rows.iter().skip(at).step_by(size);
        let mean: Vec<f64> = (0..size).map(|at| column(at).sum::<f64>() / images as f64).collect();
        let deviation = |at: usize| {
            let square = column(at).map(|x| (x - mean[at]).powi(2)).sum::<f64>() / images as f64;
            // What is left of a constant by rounding is no deviation.
            let least = 1e-12 * mean[at].abs();
            Some(square.sqrt()).filter(|deviation| *deviation > least).unwrap_or(1.0)
        };
        let deviation = (0..size).map(deviation).collect();
        Self { mean, deviation, images }
    }

    /// Of `size` statistics of a fit's train images, `most` of them at most, which `all` gives.
    ///
    /// # Errors
    /// Those of `all`; if there is no train image.
    pub(super) fn learned(
        fit: &Fit<'_>,
        most: usize,
        size: usize,
        all: impl Fn(&Images<'_>) -> Result<Vec<f64>>,
    ) -> Result<Self> {
        let train = some(fit.train()?, Some(most))?;
        Ok(Self::of(&all(&Images::of(train.inputs()?)?)?, size))
    }

    /// (x − μ)/σ of every number of `rows` (N, size).
    pub(super) fn standardised(&self, rows: &[f64]) -> Vec<f64> {
        let usual = self.mean.iter().zip(&self.deviation).cycle();
        rows.iter().zip(usual).map(|(x, (mean, deviation))| (x - mean) / deviation).collect()
    }

    /// Kept beside the scores.
    pub(super) fn record(&self) -> serde_json::Value {
        serde_json::json!({ "train_images": self.images, "mean": self.mean, "deviation": self.deviation })
    }
}

/// The means of rows of so many numbers.
pub(super) fn row_means(rows: &[f64], size: usize) -> Vec<f32> {
    rows.chunks_exact(size).map(|row| (row.iter().sum::<f64>() / size as f64) as f32).collect()
}

#[cfg(test)]
mod tests;
