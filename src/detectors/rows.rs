//! What detectors read of tensors, row by row.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::{
    Error, Result,
    nn::pass::Layer,
    ops::{self, Activation},
};

/// Rows that are converted at a time.
const BLOCK: usize = 4096;

/// The values of (N, D) features, row after row.
///
/// # Errors
/// [`Error::Failed`] naming the first that is NaN or infinite.
pub(super) fn finite(features: &Tensor) -> Result<Vec<f32>> {
    finite_from(features, 0)
}

/// The same of a batch whose first image is at position `start`.
pub(super) fn finite_from(features: &Tensor, start: usize) -> Result<Vec<f32>> {
    let (images, size) = features.dims2()?;
    if images == 0 || size == 0 {
        return Err(Error::Failed(format!("there is nothing to score: the features are {images} × {size}")));
    }
    let values = features.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => {
            let (feature, image, value) = (at % size, start + at / size, values[at]);
            Err(Error::Failed(format!("feature {feature} of image {image} is {value}")))
        }
        None => Ok(values),
    }
}

/// Calls `body` with the elements of a tensor as f32, in order, on the CPU; where they are, if they are there: to copy a batch's
/// layers takes as long as the work on them.
pub(super) fn with_values<R>(tensor: &Tensor, body: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(stored)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::Failed(format!("{:?} of {:?} are not f32 in a row", tensor.shape(), tensor.dtype())));
    };
    Ok(body(&stored[start..end]))
}

/// Of each image of a batch, whose first is at position `start`, what `of` makes of its place in the batch and a layer's neurons after
/// their non-linearity.
///
/// # Errors
/// [`Error::Failed`] naming the first image with a value that is NaN or infinite.
pub(super) fn of_each<R: Send>(layer: &Layer, start: usize, of: impl Fn(usize, &[f32]) -> R + Sync) -> Result<Vec<R>> {
    let size: usize = layer.values.dims()[1..].iter().product();
    let each = |room: &mut Vec<f32>, (image, values): (usize, &[f32])| {
        // Image by image: what comes of one stays in the cache.
        let after = match layer.activation {
            Activation::Identity => values,
            activation => {
                ops::activate_into(values, activation, room);
                &room[..]
            }
        };
        match first_not_finite(after) {
            None => Ok(of(image, after)),
            Some(value) => {
                let (name, image) = (&layer.name, start + image);
                Err(Error::Failed(format!("a neuron of the layer {name} is {value} on image {image}")))
            }
        }
    };
    // All, so that the image that an error names does not depend on threads.
    let all = |values: &[f32]| -> Vec<Result<R>> {
        values.par_chunks_exact(size).enumerate().map_init(Vec::new, each).collect()
    };
    with_values(&layer.values, all)?.into_iter().collect()
}

/// The first value that is NaN or infinite.
pub(super) fn first_not_finite(values: &[f32]) -> Option<f32> {
    // Twice as quick as to look for it, and it is hardly ever there.
    let finite = ops::wide!(values.iter().fold(true, |finite, value| finite & value.is_finite()));
    if finite { None } else { values.iter().copied().find(|value| !value.is_finite()) }
}

/// Refuses features of another size than those that a detector learned from, and other counts of images and labels.
pub(super) fn same(what: &str, found: usize, learned: usize) -> Result<()> {
    if found == learned { Ok(()) } else { Err(Error::Failed(format!("{found} {what} where there must be {learned}"))) }
}

pub(super) fn in_f64(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Rows of `size` values in f64, each divided by its length; one of zeros stays as it is.
pub(super) fn normalised(values: &[f32], size: usize) -> Vec<f64> {
    let mut rows = in_f64(values);
    for row in rows.chunks_exact_mut(size) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    rows
}

/// Refuses a fit that needs more bytes than it may use: `AFDU needs at least 4626 MiB for the neurons, and may use 2048 MiB`.
pub(super) fn check_memory(who: &str, of: &str, [needed, allowed]: [usize; 2]) -> Result<()> {
    if needed <= allowed {
        return Ok(());
    }
    let (needed, allowed) = (needed.div_ceil(1 << 20), allowed >> 20);
    Err(Error::input(format!("{who} {needed} MiB for {of}, and may use {allowed} MiB")))
}

/// The elements of a tensor, in order.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::F64 => Ok(flat.to_vec1()?),
        // By loops: candle's elementwise operations on tensors as large as images wait spinning.
        _ => Ok(in_f64(&flat.to_dtype(DType::F32)?.to_vec1::<f32>()?)),
    }
}

/// ‖a − b‖₂
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Rows relative to `mean`, one after another.
pub(super) fn centred<'a>(rows: impl Iterator<Item = &'a [f32]>, mean: &[f64]) -> Vec<f64> {
    relative(rows.map(|row| (row, mean)), mean.len())
}

/// Rows of `size` values, each relative to its own mean, one after another.
pub(super) fn relative<'a, 'b>(rows: impl Iterator<Item = (&'a [f32], &'b [f64])>, size: usize) -> Vec<f64> {
    // Row by row, in room that is known: as one iterator of all values this takes three times as long.
    let mut values = Vec::with_capacity(rows.size_hint().0 * size);
    rows.for_each(|(row, mean)| values.extend(row.iter().zip(mean).map(|(x, mean)| f64::from(*x) - mean)));
    values
}

/// Of each class that rows of `size` values are of, how many there are and their mean; of rows divided by their length if they are to be.
pub(super) fn class_means(
    values: &[f32],
    size: usize,
    labels: &[u32],
    normalise: bool,
) -> BTreeMap<u32, (f64, Vec<f64>)> {
    let mut classes: BTreeMap<u32, (f64, Vec<f64>)> = BTreeMap::new();
    for (block, labels) in values.chunks(BLOCK * size).zip(labels.chunks(BLOCK)) {
        let rows = if normalise { normalised(block, size) } else { in_f64(block) };
        for (row, label) in rows.chunks_exact(size).zip(labels) {
            let (count, sum) = classes.entry(*label).or_insert_with(|| (0.0, vec![0.0; size]));
            *count += 1.0;
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    for (count, sum) in classes.values_mut() {
        sum.iter_mut().for_each(|sum| *sum /= *count);
    }
    classes
}

/// The mean of rows of `size` values.
pub(super) fn mean_row(values: &[f32], size: usize) -> Vec<f64> {
    let mut mean = vec![0.0; size];
    for row in values.chunks_exact(size) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let rows = (values.len() / size) as f64;
    mean.iter_mut().for_each(|sum| *sum /= rows);
    mean
}

/// What `each` makes of every image's logits and features, in f64; errors as [`score_rows`] and [`finite`].
pub(super) fn map_both<T>(logits: &Tensor, features: &Tensor, each: impl Fn(&[f64], &[f64]) -> T) -> Result<Vec<T>> {
    let logits = map_rows(logits, <[f64]>::to_vec)?;
    let values = finite(features)?;
    same("rows of features", features.dim(0)?, logits.len())?;
    let rows = values.chunks_exact(values.len() / logits.len());
    Ok(logits.iter().zip(rows).map(|(logits, features)| each(logits, &in_f64(features))).collect())
}

/// Applies `score` to each row of (N, K) logits, which it gets in f64.
///
/// # Errors
/// If there is no image or no class, or a logit is NaN or infinite.
pub(super) fn score_rows(logits: &Tensor, score: impl Fn(&[f64]) -> f64) -> Result<Vec<f32>> {
    map_rows(logits, |row| score(row) as f32)
}

/// What `each` makes of the rows, as [`score_rows`].
pub(super) fn map_rows<T>(logits: &Tensor, each: impl Fn(&[f64]) -> T) -> Result<Vec<T>> {
    map_rows_from(logits, 0, each)
}

/// The same of a batch whose first image is at position `start`.
pub(super) fn map_rows_from<T>(logits: &Tensor, start: usize, each: impl Fn(&[f64]) -> T) -> Result<Vec<T>> {
    let (images, classes) = logits.dims2()?;
    if images == 0 || classes == 0 {
        return Err(Error::Failed(format!("there is nothing to score: the logits are {images} × {classes}")));
    }
    let logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut row = Vec::with_capacity(classes);
    let mut results = Vec::with_capacity(images);
    for (image, logits) in logits.chunks_exact(classes).enumerate() {
        if let Some((class, logit)) = logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()) {
            return Err(Error::Failed(format!("logit {class} of image {} is {logit}", start + image)));
        }
        row.clear();
        row.extend(logits.iter().copied().map(f64::from));
        results.push(each(&row));
    }
    Ok(results)
}

/// The class of each image of (N, K) logits, the first of equals, and its softmax probability.
///
/// # Errors
/// If there is no image or no class, or a logit is NaN or infinite.
pub fn classified(logits: &Tensor) -> Result<Vec<(usize, f64)>> {
    map_rows(logits, |row| {
        let class = argmax(row);
        (class, log_softmax(row)[class].exp())
    })
}

/// The position of the largest value, the first of several.
pub(super) fn argmax(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

/// ln softmax(f) of each logit f.
pub(super) fn log_softmax(row: &[f64]) -> Vec<f64> {
    let peak = Peak::of(row);
    let log_sum = peak.rest.ln_1p();
    row.iter().map(|logit| logit - peak.max - log_sum).collect()
}

/// A row of logits as its largest value m, and r = Σ exp(f − m) over the *other* classes.
///
/// logsumexp(f) = m + ln(1 + r), and 1 + r never overflows; keeping the 1 apart keeps the digits of a tiny r.
pub(super) struct Peak {
    pub(super) max: f64,
    pub(super) rest: f64,
}

impl Peak {
    pub(super) fn of(row: &[f64]) -> Self {
        let argmax = argmax(row);
        let max = row[argmax];
        let others = row.iter().enumerate().filter(|(class, _)| *class != argmax);
        Self { max, rest: others.map(|(_, logit)| (logit - max).exp()).sum() }
    }

    /// ln Σ exp f
    pub(super) fn log_sum(&self) -> f64 {
        self.max + self.rest.ln_1p()
    }
}
