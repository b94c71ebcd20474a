//! 95 % intervals of AUROC and of false positive rates: how far numbers would lie apart on other test images of the same kind.
//!
//! AUROC: DeLong's variance (DeLong, DeLong and Clarke-Pearson 1988) and the normal distribution, as pROC's default, cut to 0..=1.
//! False positive rates at a true positive rate: the percentile bootstrap (Efron 1979) over [`RESAMPLES`] resamples, in which ID and
//! OOD images are drawn anew with replacement, as many of each as there are; the threshold is taken anew each time.
//!
//! Both are about the test images. What another training gives is the spread over seeds.

use indexmap::IndexMap;
use rayon::prelude::*;

use super::{
    Measure,
    measures::{self, Needs},
    ranking::{Ranking, Score},
};
use crate::{Result, rng};

/// Low and high ends by [`Measure::key`], in the unit of the measure.
pub type Intervals = IndexMap<String, [f64; 2]>;

/// Resamples of the bootstrap. Ours: they move the ends by a fifth of a standard error.
pub const RESAMPLES: usize = 1000;

/// Images of a class at most that are resampled. Ours: more take minutes, and their interval is narrower than a hundredth of a point
/// matters.
pub const MOST_RESAMPLED: usize = 100_000;

/// The standard normal distribution's 97.5 % quantile.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// The intervals of the AUROC and of every measure at a true positive rate, `more` included; larger scores mean more anomalous.
///
/// The resamples are those of the random stream (`seed`, `bootstrap`, `set`), so every method is judged on the same images. Intervals
/// without width are left out, because they are no certainty: of scores without overlap, or of few images. So is the AUROC's of a
/// single ID or OOD image, and a rate's of more than [`MOST_RESAMPLED`] images.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) if a list is empty or holds NaN or an infinity, with its index.
pub fn intervals<S: Score>(id: &[S], ood: &[S], (seed, set): (u64, &str), more: &[Measure]) -> Result<Intervals> {
    let ranking = Ranking::new(id, ood)?;
    let mut found = Intervals::new();
    if let Some(variance) = ranking.auroc_variance().filter(|variance| *variance > 0.0) {
        let (auroc, reach) = (ranking.auroc(), QUANTILE * variance.sqrt());
        found.insert("auroc".to_owned(), [(auroc - reach).max(0.0), (auroc + reach).min(1.0)]);
    }
    if id.len().max(ood.len()) > MOST_RESAMPLED {
        return Ok(found);
    }
    let rates: Vec<_> = measures::ALL
        .iter()
        .chain(more)
        .filter_map(|measure| if let Needs::Rate(tpr, of) = measure.needs { Some((measure, tpr, of)) } else { None })
        .collect();
    let drawn: Vec<Vec<f64>> = (0..RESAMPLES)
        .into_par_iter()
        .map(|draw| {
            let resampled = ranking.resampled(&mut rng::stream(seed, "bootstrap", &format!("{set} {draw}")));
            rates.iter().map(|(_, tpr, of)| of(&resampled, *tpr)).collect()
        })
        .collect();
    for (place, (measure, ..)) in rates.iter().enumerate() {
        let mut values: Vec<f64> = drawn.iter().map(|draw| draw[place]).collect();
        values.sort_by(f64::total_cmp);
        let ends = [0.025, 0.975].map(|share| quantile(&values, share));
        if ends[0] < ends[1] {
            found.insert(measure.key.to_string(), ends);
        }
    }
    Ok(found)
}

/// Between the two nearest of sorted values, linearly: numpy's default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8, 16], [0.025, 0.5, 0.975])
        let quantiles = [0.025, 0.5, 0.975].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0, 16.0], share));
        assert_eq!(quantiles, [1.1, 4.0, 15.2]);
    }
}
