//! From measures to what tables show: means over repetitions, random subsets, accuracy, which measure a column means.

use candle_core::Tensor;
use indexmap::IndexMap;
use rand::seq::index;

use super::{MeanStd, Measure, Measures, Unit, measures};
use crate::{
    Error, Result,
    metrics::{Column, Protocol},
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
/// each without replacement; a smaller OOD set is used whole. The measures that are shares, by key: on average, a random
/// subset's gap is the whole set's.
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
    redraw_and(id, ood, draws, size, (seed, set), &[])
}

/// As [`redraw`], and these measures after the others.
///
/// # Errors
/// As [`redraw`].
pub fn redraw_and(
    id: &[f32],
    ood: &[f32],
    draws: usize,
    size: usize,
    (seed, set): (u64, &str),
    more: &[Measure],
) -> Result<IndexMap<String, MeanStd>> {
    if draws == 0 || size == 0 {
        return Err(Error::input(format!("cannot average over {draws} draws of {size} scores of `{set}`")));
    }
    let mut rng = rng::stream(seed, "redraw", set);
    let drawn = (0..draws)
        .map(|_| {
            let subset: Vec<f32> =
                index::sample(&mut rng, ood.len(), size.min(ood.len())).iter().map(|image| ood[image]).collect();
            measures::of_scores_and(id, &subset, more)
        })
        .collect::<Result<Vec<Measures>>>()?;
    let shares = measures::ALL.iter().chain(more).filter(|measure| measure.unit == Unit::Share);
    let over_draws = |measure: &Measure| {
        let values: Option<Vec<f64>> = drawn.iter().map(|draw| draw.get(&*measure.key).copied()).collect();
        Some((measure.key.to_string(), MeanStd::of(&values?)))
    };
    Ok(shares.filter_map(over_draws).collect())
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

/// The measure that a column means under a protocol.
pub fn measure_for(column: Column, protocol: Protocol) -> Option<Measure> {
    if let Column::FprAt(tpr) = column {
        return Some(measures::fpr_at(tpr, protocol));
    }
    if let Column::ProAt(limit) = column {
        return Some(measures::pro_at(limit));
    }
    let id_positive = protocol.convention() == Protocol::IdPositiveClosest;
    measures::find(match (column, id_positive) {
        (Column::Accuracy, _) => "accuracy",
        (Column::BalancedAccuracy, _) => "balanced_accuracy",
        (Column::WorstClassAccuracy, _) => "worst_class_accuracy",
        (Column::Gap, _) => "gap",
        (Column::GapSd, _) => "gap_sd",
        (Column::Auroc, _) => "auroc",
        (Column::Fpr95, true) => "fpr95_id_positive_closest",
        (Column::Fpr95, false) => "fpr95_ood_positive_first",
        (Column::Aupr | Column::AuprIn, true) => "aupr_in_ap",
        (Column::AuprOut, true) => "aupr_out_ap",
        (Column::AuprIn, false) => "aupr_in_trapezoid",
        (Column::Aupr | Column::AuprOut, false) => "aupr_out_trapezoid",
        (Column::Ap, _) => "aupr_out_ap",
        (Column::BestF1, _) => "best_f1_out",
        (Column::PixelAuroc, _) => "pixel_auroc",
        (Column::PixelAp, _) => "pixel_ap",
        (Column::PixelF1, _) => "pixel_best_f1",
        (Column::Pro, _) => measures::PRO,
        (Column::Aupimo, _) => "aupimo",
        (Column::FprAt(_) | Column::ProAt(_), _) => return None,
    })
    .cloned()
}

/// The smallest ID score at or below which at least the share `tpr` (in 0..=1) of the ID scores lie: who accepts scores up to it
/// accepts that share. `None` without scores.
pub fn threshold(id: &[f64], tpr: f64) -> Option<f64> {
    let mut sorted = id.to_vec();
    sorted.sort_by(f64::total_cmp);
    // 0.95 · 20 is 19 + 4e-15 in f64.
    let accepted = (tpr * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(accepted.min(sorted.len()).checked_sub(1)?).copied()
}
