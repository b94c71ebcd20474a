//! How well scores rank OOD above ID: areas under the ROC and precision-recall curves, FPR at 95 % TPR.
//!
//! Two conventions are in use and differ; each has its own key (see [`measures`](super::measures)):
//!
//! - *ID positive, closest*: energy_ood `utils/display_results.py` (`get_measures`, `fpr_and_fdr_at_recall`), after
//!   Hendrycks' outlier-exposure. An image is accepted when −score ≥ threshold.
//! - *OOD positive, first*: OpenOOD `evaluators/metrics.py`. An image is caught when score ≥ threshold. Every distinct
//!   score is a threshold here; OpenOOD lets scikit-learn's `roc_curve` drop those on straight stretches of the curve,
//!   which moves its value when scores are tied in equal groups.
//!
//! Scores are sorted once, ID and OOD apart, and walked together. Equal scores form one step of each curve. The walk is
//! cut into pieces whose bounds depend on the scores only, so the bits do not depend on the number of threads.

use rand::Rng;
use rayon::prelude::*;

use crate::{Error, Result};

/// Sorted scores from each list per piece of the walk: large enough to drown a piece's cost, small enough to share out.
const PIECE: usize = 1 << 18;

/// The areas under the curves, fractions of 1; [`measures`](super::measures) says what each is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the table of measures describes them")]
pub struct Areas {
    pub auroc: f64,
    pub aupr_in_ap: f64,
    pub aupr_out_ap: f64,
    pub aupr_in_trapezoid: f64,
    pub aupr_out_trapezoid: f64,
}

/// A number that scores may be.
pub trait Score: Copy + Send + Sync + Into<f64> {
    /// An integer in the order of the numbers; −0 and 0 are one.
    type Key: Copy + Ord + Send + Sync;
    /// The key of a finite number.
    fn key(self) -> Self::Key;
}

/// Implements [`Score`] by the order of IEEE 754 bit patterns: flip all bits of negative numbers, the sign of others.
macro_rules! impl_score {
    ($float:ty, $key:ty) => {
        impl Score for $float {
            type Key = $key;
            fn key(self) -> $key {
                const SIGN: $key = 1 << (<$key>::BITS - 1);
                // −0 + 0 = 0
                let bits = (self + 0.0).to_bits();
                if bits & SIGN == 0 { bits | SIGN } else { !bits }
            }
        }
    };
}

impl_score!(f32, u32);
impl_score!(f64, u64);

/// Which class a precision-recall curve is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positive {
    /// Small scores are to find ID images.
    Id,
    /// Large scores are to find OOD images.
    Ood,
}

/// ID and OOD scores, sorted: what every metric starts from.
#[derive(Debug, Clone)]
pub struct Ranking<K> {
    /// Ascending, never empty.
    id: Vec<K>,
    /// Ascending, never empty.
    ood: Vec<K>,
}

impl<K: Copy + Ord + Send + Sync> Ranking<K> {
    /// Sorts the scores; larger means more anomalous.
    ///
    /// # Errors
    /// [`Error::Input`] if a list is empty or holds NaN or an infinity, with its index.
    pub fn new<S: Score<Key = K>>(id: &[S], ood: &[S]) -> Result<Self> {
        let (id, ood) = rayon::join(|| sorted_keys(id, "ID"), || sorted_keys(ood, "OOD"));
        Ok(Self { id: id?, ood: ood? })
    }

    /// Every area, in one walk.
    pub fn areas(&self) -> Areas {
        let [auroc, aupr_in_ap, aupr_out_ap, aupr_in_trapezoid, aupr_out_trapezoid] = self.sum(|step| {
            let (id_precision, ood_precision) = (step.precision(Positive::Id), step.precision(Positive::Ood));
            [
                step.concordant_pairs(),
                step.positives(Positive::Id) * id_precision,
                step.positives(Positive::Ood) * ood_precision,
                step.positives(Positive::Id) * (step.precision_before(Positive::Id) + id_precision) / 2.0,
                step.positives(Positive::Ood) * (step.precision_before(Positive::Ood) + ood_precision) / 2.0,
            ]
        });
        let (ids, oods) = (self.id.len() as f64, self.ood.len() as f64);
        Areas {
            auroc: auroc / ids / oods,
            aupr_in_ap: aupr_in_ap / ids,
            aupr_out_ap: aupr_out_ap / oods,
            aupr_in_trapezoid: aupr_in_trapezoid / ids,
            aupr_out_trapezoid: aupr_out_trapezoid / oods,
        }
    }

    /// The best F1 over all thresholds, OOD positive: 2·TP / (OOD + TP + FP).
    pub fn best_f1(&self) -> f64 {
        let total = self.ood.len();
        let mut best = 0.0_f64;
        let mut below = 0;
        for tied in self.ood.chunk_by(|a, b| a == b) {
            // All scores from this one on are called OOD.
            let hits = total - below;
            let false_hits = self.id.len() - self.id.partition_point(|key| *key < tied[0]);
            best = best.max(2.0 * hits as f64 / (total + hits + false_hits) as f64);
            below += tied.len();
        }
        best
    }

    /// The share of (ID, OOD) pairs in which the OOD score is larger; equal scores count one half.
    pub fn auroc(&self) -> f64 {
        let [pairs] = self.sum(|step| [step.concordant_pairs()]);
        pairs / self.id.len() as f64 / self.ood.len() as f64
    }

    /// Average precision: Σ over thresholds of (gain in recall) × precision, scikit-learn's `average_precision_score`.
    pub fn average_precision(&self, positive: Positive) -> f64 {
        let [area] = self.sum(|step| [step.positives(positive) * step.precision(positive)]);
        area / self.count(positive) as f64
    }

    /// The trapezoid under the precision-recall curve, which starts at recall 0 with precision 1: scikit-learn's `auc`
    /// of `precision_recall_curve`.
    pub fn trapezoid(&self, positive: Positive) -> f64 {
        let [area] = self.sum(|step| {
            [step.positives(positive) * (step.precision_before(positive) + step.precision(positive)) / 2.0]
        });
        area / self.count(positive) as f64
    }

    /// The share of OOD images accepted at the threshold where the share of ID images accepted is closest to `tpr` (0..1).
    ///
    /// energy_ood's `fpr_and_fdr_at_recall` walks the distinct thresholds from the first that accepts all ID images
    /// towards stricter ones and keeps the first of equally close ones. So of two recalls equally close the larger wins,
    /// and of thresholds with the same recall the loosest (which accepts most OOD images), except at recall 1, where
    /// the walk starts at the strictest.
    pub fn fpr_id_positive_closest(&self, tpr: f64) -> f64 {
        let total = self.id.len();
        let distance = |accepted: usize| (accepted as f64 / total as f64 - tpr).abs();
        // The thresholds on either side of `tpr`: all ID images scored below `at`, and those scored up to it.
        let at = self.id[first_reaching(tpr, total) - 1];
        let fewer = self.id.partition_point(|key| *key < at);
        let more = fewer + self.id[fewer..].partition_point(|key| *key <= at);
        let accepted_ood = if distance(fewer) < distance(more) {
            self.ood.partition_point(|key| *key < at)
        } else if let Some(next) = self.id.get(more) {
            self.ood.partition_point(|key| key < next)
        } else {
            self.ood.partition_point(|key| *key <= at)
        };
        accepted_ood as f64 / self.ood.len() as f64
    }

    /// The share of ID images rejected at the strictest threshold where at least `tpr` (0..1) of the OOD images are caught.
    pub fn fpr_ood_positive_first(&self, tpr: f64) -> f64 {
        let at = self.ood[self.ood.len() - first_reaching(tpr, self.ood.len())];
        let accepted = self.id.partition_point(|key| *key < at);
        (self.id.len() - accepted) as f64 / self.id.len() as f64
    }

    /// The variance of the AUROC over test images, by DeLong, DeLong and Clarke-Pearson (1988); none of a single ID or OOD image.
    ///
    /// It is the sample variance, over OOD images, of the share of ID images below each, by their number, and the same of ID images
    /// and the share of OOD images above; equal scores count one half.
    pub fn auroc_variance(&self) -> Option<f64> {
        let (ids, oods) = (self.id.len() as f64, self.ood.len() as f64);
        if self.id.len().min(self.ood.len()) < 2 {
            return None;
        }
        let auroc = self.auroc();
        let [of_ood, of_id] = self.sum(|step| {
            let below = (step.id_below as f64 + step.id as f64 / 2.0) / ids;
            let above = 1.0 - (step.ood_below as f64 + step.ood as f64 / 2.0) / oods;
            [step.ood as f64 * (below - auroc).powi(2), step.id as f64 * (above - auroc).powi(2)]
        });
        Some(of_ood / (oods - 1.0) / oods + of_id / (ids - 1.0) / ids)
    }

    /// As many ID and as many OOD scores, each drawn from its own with replacement.
    pub(super) fn resampled(&self, rng: &mut impl Rng) -> Self {
        let mut draw = |keys: &[K]| {
            // Counted, so that they are sorted as they come.
            let mut counts = vec![0_u32; keys.len()];
            (0..keys.len()).for_each(|_| counts[rng.random_range(0..keys.len())] += 1);
            keys.iter().zip(counts).flat_map(|(key, count)| std::iter::repeat_n(*key, count as usize)).collect()
        };
        Self { id: draw(&self.id), ood: draw(&self.ood) }
    }

    fn count(&self, positive: Positive) -> usize {
        match positive {
            Positive::Id => self.id.len(),
            Positive::Ood => self.ood.len(),
        }
    }

    /// Sums each of `terms` over the distinct scores, in an order that depends on the scores only.
    fn sum<const N: usize>(&self, terms: impl Fn(&Step) -> [f64; N] + Sync) -> [f64; N] {
        let bounds = self.bounds();
        let pieces: Vec<[Sum; N]> = bounds
            .par_windows(2)
            .map(|bounds| {
                let mut sums = [Sum::default(); N];
                self.walk(bounds[0], bounds[1], |step| {
                    for (sum, term) in sums.iter_mut().zip(terms(step)) {
                        sum.add(term);
                    }
                });
                sums
            })
            .collect();
        let mut sums = [Sum::default(); N];
        for piece in &pieces {
            for (sum, part) in sums.iter_mut().zip(piece) {
                sum.add(part.total);
                sum.add(part.lost);
            }
        }
        sums.map(|sum| sum.total + sum.lost)
    }

    /// Positions (in `id`, in `ood`) that cut the walk into pieces; none cuts through equal scores.
    fn bounds(&self) -> Vec<(usize, usize)> {
        let mut cuts: Vec<K> =
            [&self.id, &self.ood].iter().flat_map(|keys| keys.iter().step_by(PIECE).skip(1)).copied().collect();
        cuts.sort_unstable();
        cuts.dedup();
        let position = |cut: &K| (self.id.partition_point(|key| key < cut), self.ood.partition_point(|key| key < cut));
        let mut bounds = vec![(0, 0)];
        bounds.extend(cuts.iter().map(position));
        bounds.push((self.id.len(), self.ood.len()));
        bounds
    }

    /// Visits the distinct scores between two bounds, ascending.
    fn walk(&self, (mut id, mut ood): (usize, usize), end: (usize, usize), mut visit: impl FnMut(&Step)) {
        let equal = |keys: &[K], key: K| keys.iter().take_while(|other| **other == key).count();
        let (ids, oods) = (&self.id[..end.0], &self.ood[..end.1]);
        loop {
            let key = match (ids.get(id), oods.get(ood)) {
                (None, None) => return,
                (Some(key), None) | (None, Some(key)) => *key,
                (Some(a), Some(b)) => *a.min(b),
            };
            let step = Step {
                id_below: id,
                id: equal(&ids[id..], key),
                ood_below: ood,
                ood: equal(&oods[ood..], key),
                ids: self.id.len(),
                oods: self.ood.len(),
            };
            visit(&step);
            id += step.id;
            ood += step.ood;
        }
    }
}

/// One distinct score: a step of every curve. Counts of images.
struct Step {
    id_below: usize,
    id: usize,
    ood_below: usize,
    ood: usize,
    ids: usize,
    oods: usize,
}

impl Step {
    /// Pairs of an ID and an OOD image in which the OOD image has this score and the ID image a smaller one, or, counted
    /// half, the same.
    fn concordant_pairs(&self) -> f64 {
        self.ood as f64 * (self.id_below as f64 + self.id as f64 / 2.0)
    }

    /// Positive images with this score.
    fn positives(&self, positive: Positive) -> f64 {
        match positive {
            Positive::Id => self.id as f64,
            Positive::Ood => self.ood as f64,
        }
    }

    /// The precision when this score is the threshold.
    fn precision(&self, positive: Positive) -> f64 {
        match positive {
            Positive::Id => precision(self.id_below + self.id, self.ood_below + self.ood),
            Positive::Ood => precision(self.oods - self.ood_below, self.ids - self.id_below),
        }
    }

    /// The precision at the next stricter threshold; 1 where nothing is found.
    fn precision_before(&self, positive: Positive) -> f64 {
        match positive {
            Positive::Id => precision(self.id_below, self.ood_below),
            Positive::Ood => precision(self.oods - self.ood_below - self.ood, self.ids - self.id_below - self.id),
        }
    }
}

fn precision(right: usize, wrong: usize) -> f64 {
    if right + wrong == 0 { 1.0 } else { right as f64 / (right + wrong) as f64 }
}

/// A sum with Neumaier's compensation: 10⁸ terms without losing the twelfth digit.
#[derive(Clone, Copy, Default)]
struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        let total = self.total + term;
        self.lost +=
            if self.total.abs() >= term.abs() { (self.total - total) + term } else { (term - total) + self.total };
        self.total = total;
    }
}

/// The smallest count whose share of `total` is, in f64, at least `share`: in 1..=total for 0 < share ≤ 1.
fn first_reaching(share: f64, total: usize) -> usize {
    let (mut least, mut most) = (1, total);
    while least < most {
        let middle = least + (most - least) / 2;
        if middle as f64 / total as f64 >= share { most = middle } else { least = middle + 1 }
    }
    least
}

fn sorted_keys<S: Score>(scores: &[S], class: &str) -> Result<Vec<S::Key>> {
    if scores.is_empty() {
        return Err(Error::input(format!("there are no {class} scores")));
    }
    if let Some(index) = scores.par_iter().position_first(|score| !(*score).into().is_finite()) {
        return Err(Error::input(format!("{class} score {index} is {}", scores[index].into())));
    }
    let mut keys: Vec<S::Key> = scores.par_iter().map(|score| score.key()).collect();
    // ID and OOD are sorted at the same time; on two cores the standard sort of each beats rayon's.
    keys.sort_unstable();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_the_numbers() {
        let rising = [f32::MIN, -1.0, -f32::MIN_POSITIVE, -1e-45, 0.0, 1e-45, 1.0, f32::MAX];
        assert!(rising.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        assert!(rising.windows(2).all(|pair| f64::from(pair[0]).key() < f64::from(pair[1]).key()));
        assert_eq!((-0.0f32).key(), 0.0f32.key());
        assert_eq!((-0.0f64).key(), 0.0f64.key());
    }

    #[test]
    fn a_share_is_reached_as_in_floating_point() {
        for total in 1..2000 {
            let first = (1..=total).find(|count| *count as f64 / total as f64 >= 0.95);
            assert_eq!(Some(first_reaching(0.95, total)), first);
        }
    }

    #[test]
    fn pieces_change_nothing() {
        // Long enough for several pieces, with ties that straddle every multiple of PIECE.
        let id: Vec<f32> = (0..PIECE * 2 + 17).map(|i| ((i * 7919) % 1000) as f32).collect();
        let ood: Vec<f32> = (0..PIECE + 5).map(|i| ((i * 104_729) % 1300) as f32).collect();
        let ranking = Ranking::new(&id, &ood).unwrap();
        assert!(ranking.bounds().len() > 3);
        let mut whole = 0.0;
        ranking.walk((0, 0), (id.len(), ood.len()), |step| whole += step.concordant_pairs());
        assert_eq!(ranking.auroc(), whole / id.len() as f64 / ood.len() as f64);
    }
}
