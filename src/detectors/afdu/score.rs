//! Scores of images: every neuron's factor, averaged over layers' neurons, summed over layers.

use rayon::prelude::*;

use super::{
    Aggregate,
    fit::{Curves, Fitted},
    layers::{self, Chosen},
    table::exponentials,
};
use crate::{Error, Result, detectors::Batches, ops::wide};

/// Neurons whose factors one thread adds up. Their number is part of the order of the sum, and so of its last bits.
const CHUNK: usize = 64;

/// Neurons whose values are taken out of the batch together: a cache line of each image.
const TILE: usize = 16;

/// One score per image.
///
/// # Errors
/// [`Error::Failed`] naming the first image with an activation that is NaN or infinite, and the layer; those of the pass.
pub fn scores(fitted: &Fitted, batches: &dyn Batches) -> Result<Vec<f32>> {
    let mut scores = vec![0.0; batches.images()];
    #[cfg(any(feature = "cuda", test))]
    let mut curves_on_gpu = super::on_gpu::OnGpu::default();
    batches.pass("scoring AFDU", true, &mut |start, batch| {
        for layer in &fitted.layers {
            let neurons = layer.chosen.neurons.clone();
            #[cfg(any(feature = "cuda", test))]
            let on_gpu = curves_on_gpu.sums(fitted, &layer.chosen, &batch.layers)?;
            #[cfg(not(any(feature = "cuda", test)))]
            let on_gpu = None;
            let sums = match on_gpu {
                Some(sums) => sums,
                None => {
                    let sums = |rows: &[f32]| {
                        sums(&fitted.curves, neurons.start, rows, neurons.len(), fitted.config.aggregate)
                    };
                    layers::with_rows(&fitted.config, &layer.chosen, &batch.layers, sums)?
                }
            };
            for (image, (score, sum)) in scores[start..].iter_mut().zip(sums).enumerate() {
                if !sum.is_finite() {
                    let (name, image) = (&layer.chosen.shape.name, start + image);
                    return Err(Error::Failed(format!(
                        "a neuron of the layer {name} is NaN or infinite on image {image}"
                    )));
                }
                let mean = sum / neurons.len() as f64;
                *score += match (fitted.config.aggregate, layer.train) {
                    (Aggregate::Standardised, Some([centre, deviation])) => (mean - centre) / deviation,
                    _ => mean,
                };
            }
        }
        Ok(())
    })?;
    Ok(scores.into_iter().map(|score| score as f32).collect())
}

/// Each image's sum over the neurons `first..first + count` of factors or, if not by the paper, of log factors; NaN if one of its
/// activations is not finite. `rows` is (N, count).
pub fn sums(curves: &Curves, first: usize, rows: &[f32], count: usize, aggregate: Aggregate) -> Vec<f64> {
    let images = rows.len() / count;
    let parts: Vec<Vec<f64>> = (0..count.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let mut sums = vec![0.0; images];
            let mut factors = vec![0.0; images];
            let mut columns = vec![0.0; TILE * images];
            let neurons = chunk * CHUNK..((chunk + 1) * CHUNK).min(count);
            wide!({
                for tile in neurons.clone().step_by(TILE) {
                    let width = TILE.min(neurons.end - tile);
                    transpose(rows, count, tile, width, &mut columns);
                    for (neuron, column) in columns.chunks_exact(images).take(width).enumerate() {
                        curves.log_factors(first + tile + neuron, column, &mut factors);
                        if aggregate == Aggregate::Paper {
                            exponentials(&mut factors);
                        }
                        for ((sum, factor), value) in sums.iter_mut().zip(&factors).zip(column) {
                            // 0·x is 0, or NaN where x is not finite: finding those costs next to nothing here.
                            *sum += f64::from(factor + value * 0.0);
                        }
                    }
                }
            });
            sums
        })
        .collect();
    let mut sums = vec![0.0; images];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

/// Columns `first..first + width` of (N, count) `rows`, one after the other.
#[inline(always)]
pub(super) fn transpose(rows: &[f32], count: usize, first: usize, width: usize, columns: &mut [f32]) {
    let images = rows.len() / count;
    for (image, row) in rows.chunks_exact(count).enumerate() {
        for (neuron, value) in row[first..first + width].iter().enumerate() {
            columns[neuron * images + image] = *value;
        }
    }
}

/// Log factors of a layer's neurons on some images.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// Its neurons' activations: (N, neurons), row by row.
    pub activations: Vec<f32>,
    /// Their log factors, likewise.
    pub log_factors: Vec<f32>,
}

/// Every neuron's log factor on the images at these positions, of one of the [`Fitted::layers`]: what heat maps show.
///
/// # Errors
/// Those of the pass.
pub fn factors(fitted: &Fitted, layer: &Chosen, batches: &dyn Batches, images: &[usize]) -> Result<Factors> {
    let mut found = Factors { activations: Vec::new(), log_factors: Vec::new() };
    batches.subset(images)?.pass("drawing AFDU", true, &mut |_, batch| {
        let rows = layers::with_rows(&fitted.config, layer, &batch.layers, <[f32]>::to_vec)?;
        let count = layer.neurons.len();
        let images = rows.len() / count;
        let [mut columns, mut factors, mut back] = std::array::from_fn(|_| vec![0.0; rows.len()]);
        transpose(&rows, count, 0, count, &mut columns);
        let by_neuron = columns.chunks_exact(images).zip(factors.chunks_exact_mut(images));
        for (neuron, (column, factors)) in layer.neurons.clone().zip(by_neuron) {
            fitted.curves.log_factors(neuron, column, factors);
        }
        transpose(&factors, images, 0, images, &mut back);
        found.log_factors.extend(back);
        found.activations.extend(rows);
        Ok(())
    })?;
    Ok(found)
}
