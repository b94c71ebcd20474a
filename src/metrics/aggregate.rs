//! From metrics to what tables show: means over repetitions, random subsets, accuracy, which metric a column means.

use candle_core::Tensor;
use indexmap::IndexMap;
use rand::seq::index;

use super::{MeanStd, Metrics, ranking};
use crate::{
    Error, Result,
    config::{Column, Protocol},
    rng,
};

impl MeanStd {
    /// Mean and population standard deviation; of no value NaN, of one value a deviation of 0.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        // Measured from the first value, so that the mean of equal values is that value and their deviation is 0.
        let first = values.first().copied().unwrap_or(f64::NAN);
        let mean = first + values.iter().map(|value| value - first).sum::<f64>() / n as f64;
        let std = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        Self { mean, std, n }
    }
}

/// The subset protocol of energy_ood (`CIFAR/test.py`): all ID scores against `draws` random subsets of `size` OOD scores,
/// each without replacement; a smaller OOD set is used whole. Keyed by [`Metrics::KEYS`], in their order.
///
/// The subsets are those of the random stream (`seed`, `redraw`, `set`), so every method is judged on the same images.
///
/// # Errors
/// [`Error::Input`] if `draws` or `size` is 0, or the scores are empty or not finite.
pub fn redraw(
    id: &[f32],
    ood: &[f32],
    draws: usize,
    size: usize,
    seed: u64,
    set: &str,
) -> Result<IndexMap<String, MeanStd>> {
    if draws == 0 || size == 0 {
        return Err(Error::input(format!("cannot average over {draws} draws of {size} scores of `{set}`")));
    }
    let mut rng = rng::stream(seed, "redraw", set);
    let drawn = (0..draws)
        .map(|_| {
            let subset: Vec<f32> =
                index::sample(&mut rng, ood.len(), size.min(ood.len())).iter().map(|image| ood[image]).collect();
            ranking::metrics(id, &subset)
        })
        .collect::<Result<Vec<Metrics>>>()?;
    let over_draws = |(place, key): (usize, &&str)| {
        let values: Vec<f64> = drawn.iter().map(|metrics| metrics.values()[place]).collect();
        ((*key).to_owned(), MeanStd::of(&values))
    };
    Ok(Metrics::KEYS.iter().enumerate().map(over_draws).collect())
}

/// The share of rows of (N, K) logits whose largest entry (the first of equal ones) is that of the label.
///
/// # Errors
/// [`Error::Input`] if there are no images, no classes or another number of labels; NaN logits are wrong predictions.
pub fn accuracy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let (images, classes) = logits.dims2()?;
    if images == 0 || classes == 0 || images != labels.len() {
        return Err(Error::input(format!(
            "cannot compare the classes of {images} × {classes} logits with {} labels",
            labels.len()
        )));
    }
    let logits = logits.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let right = logits.chunks_exact(classes).zip(labels).filter(|(row, label)| {
        let Some(own) = row.get(**label as usize) else { return false };
        let (before, after) = row.split_at(**label as usize);
        before.iter().all(|other| own > other) && after.iter().all(|other| own >= other)
    });
    Ok(right.count() as f64 / images as f64)
}

/// The key of [`Metrics`] that a column means under a protocol; `None` for the accuracy, which is not of scores, and for
/// gaps, which are no ranking.
pub fn metric_for(column: Column, protocol: Protocol) -> Option<&'static str> {
    let id_positive = protocol.convention() == Protocol::IdPositiveClosest;
    Some(match (column, id_positive) {
        (Column::Accuracy | Column::Gap | Column::GapSd, _) => return None,
        (Column::Auroc, _) => "auroc",
        (Column::Fpr95, true) => "fpr95_id_positive_closest",
        (Column::Fpr95, false) => "fpr95_ood_positive_first",
        (Column::Aupr | Column::AuprIn, true) => "aupr_in_ap",
        (Column::AuprOut, true) => "aupr_out_ap",
        (Column::AuprIn, false) => "aupr_in_trapezoid",
        (Column::Aupr | Column::AuprOut, false) => "aupr_out_trapezoid",
    })
}

/// The sign that makes the better of two numbers the larger: −1 for false positive rates; none for gaps, whose unit may differ
/// from row to row.
pub fn better(column: Column) -> Option<f64> {
    match column {
        Column::Fpr95 => Some(-1.0),
        Column::Gap => None,
        _ => Some(1.0),
    }
}

/// Whether a number is a share, which tables show in percent.
pub fn share(column: Column) -> bool {
    !matches!(column, Column::Gap | Column::GapSd)
}
