//! The network and the images, for detectors that run it again: the step down a gradient that two of them take, and what a second
//! network makes of the images.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{Tensor, backprop::GradStore};

use super::numbers;
use crate::{Error, Result, data::Normalisation, nn::Model};

/// A network for inference, and the images of one set in batches that leave memory for a graph.
pub trait Inputs: fmt::Debug + Send + Sync {
    /// N.
    fn images(&self) -> usize;
    /// What gave the outputs of the bank; gradients with respect to images are those of [`Mode::Eval`](crate::nn::Mode::Eval).
    fn network(&self) -> &dyn Model;
    /// What the pixels, in 0..1, were normalised by.
    fn normalisation(&self) -> &Normalisation;
    /// Calls `each` with the position of a batch's first image and the batch as the network takes it, (n, C, H, W), in order of the
    /// images. `what` names the pass on its progress bar.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Interrupted`] between batches when the user asks to stop.
    fn pass(&self, what: &str, each: &mut dyn FnMut(usize, &Tensor) -> Result<()>) -> Result<()>;
    /// The images at these positions, in this order.
    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Inputs>>;
    /// How many images there is room for at a time without a graph; any number unless it is known.
    fn at_a_time(&self) -> usize {
        usize::MAX
    }
    /// To be called between pieces of long work on a batch.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user asks to stop.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Σ ⟨v, y⟩'s gradients with respect to all variables: what a gradient v with respect to (N, D) `outputs` y becomes on its way back.
/// `v`: N·D numbers, row after row.
///
/// # Errors
/// As the backward pass.
pub fn gradients(outputs: &Tensor, v: Vec<f64>) -> Result<GradStore> {
    let v = Tensor::from_vec(v, outputs.shape(), outputs.device())?.to_dtype(outputs.dtype())?;
    Ok((outputs * v)?.sum_all()?.backward()?)
}

/// That of [`gradients`] with respect to `x`.
///
/// # Errors
/// [`Error::Failed`] if the outputs do not depend on `x`, or as the backward pass.
pub fn pull_back(outputs: &Tensor, v: Vec<f64>, x: &Tensor) -> Result<Tensor> {
    let gradients = gradients(outputs, v)?;
    let missing = || Error::Failed("the network's outputs do not depend on what they are differentiated by".into());
    gradients.get(x).cloned().ok_or_else(missing)
}

/// The numbers of a gradient with respect to images; `start` is the position of the first in its set.
///
/// # Errors
/// [`Error::Failed`] naming the first image with a gradient that is NaN or infinite.
pub(super) fn slopes(gradient: &Tensor, start: usize) -> Result<Vec<f64>> {
    let slopes = numbers(gradient)?;
    if let Some(at) = slopes.iter().position(|slope| !slope.is_finite()) {
        let (image, slope) = (start + at / (slopes.len() / gradient.dim(0)?), slopes[at]);
        return Err(Error::Failed(format!("the gradient with respect to image {image} is {slope}")));
    }
    Ok(slopes)
}

/// x − ε·sign(g)/σ of images x, (N, C, H, W), with their `gradient` g and the C `deviations` σ: a step of ε, in units of pixels in
/// 0..1, down the gradient. sign(0) is 1, as in the reference code of ODIN, Mahalanobis, energy_ood and OpenOOD; pytorch-ood leaves
/// such pixels as they are. `start` is the position of the first image in its set.
///
/// # Errors
/// [`Error::Failed`] naming the first image with a gradient that is NaN or infinite, or if the deviations are of other channels.
pub fn step_down(images: &Tensor, gradient: &Tensor, noise: f64, deviations: &[f32], start: usize) -> Result<Tensor> {
    step_down_in(images, gradient, noise, deviations, start, |slopes| 0..slopes.len())
}

/// The same in those places alone that `places` gives of the slopes of an image's values.
///
/// # Errors
/// As [`step_down`].
pub(super) fn step_down_in(
    images: &Tensor,
    gradient: &Tensor,
    noise: f64,
    deviations: &[f32],
    start: usize,
    places: impl Fn(&[f64]) -> Range<usize>,
) -> Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    super::same("deviations", deviations.len(), channels)?;
    // By loops: candle's elementwise operations on tensors of this size wait spinning.
    let (mut values, slopes) = (numbers(images)?, slopes(gradient, start)?);
    let plane = height * width;
    let steps: Vec<f64> = deviations.iter().map(|deviation| noise / f64::from(*deviation)).collect();
    for (values, slopes) in values.chunks_exact_mut(channels * plane).zip(slopes.chunks_exact(channels * plane)) {
        for at in places(slopes) {
            let step = steps[at / plane];
            values[at] -= if slopes[at] >= 0.0 { step } else { -step };
        }
    }
    Ok(Tensor::from_vec(values, images.shape(), images.device())?.to_dtype(images.dtype())?)
}

/// (N, C, H, W) images of one normalisation in another, with pixels clamped to 0..1, which all images have.
///
/// # Errors
/// [`Error::Failed`] if one of them is of other channels.
pub fn renormalised(images: &Tensor, from: &Normalisation, to: &Normalisation) -> Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    for of in [from, to].map(|normalisation| normalisation.std.len()) {
        super::same("deviations", of, channels)?;
    }
    let mut values = numbers(images)?;
    for (at, plane) in values.chunks_exact_mut(height * width).enumerate() {
        let of = |normalisation: &Normalisation| {
            let channel = at % channels;
            [normalisation.mean[channel], normalisation.std[channel]].map(f64::from)
        };
        let ([from_mean, from_std], [to_mean, to_std]) = (of(from), of(to));
        plane.iter_mut().for_each(|x| *x = ((*x * from_std + from_mean).clamp(0.0, 1.0) - to_mean) / to_std);
    }
    Ok(Tensor::from_vec(values, images.shape(), images.device())?.to_dtype(images.dtype())?)
}
