//! How far OOD scores lie above ID scores on average: of the energy, the gap that energy-based fine-tuning widens (Liu et al. 2020).

use serde::{Deserialize, Serialize};

use super::MeanStd;

/// The distance of two sets' mean scores. Unlike [`Metrics`](super::Metrics) it depends on the scores' unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The mean OOD score minus the mean ID score, in the score's own unit.
    pub mean: f64,
    /// The same in population standard deviations of the ID scores, so that logits twice as large do not count as twice the gap; `None`
    /// if ID scores are all equal.
    pub in_sd: Option<f64>,
}

impl Gap {
    /// The gap between scores of which larger ones mean more anomalous; `None` if either list is empty.
    pub fn of(id: &[f32], ood: &[f32]) -> Option<Self> {
        let statistics = |scores: &[f32]| {
            let wide: Vec<f64> = scores.iter().copied().map(f64::from).collect();
            (!wide.is_empty()).then(|| MeanStd::of(&wide))
        };
        let (id, ood) = (statistics(id)?, statistics(ood)?);
        let mean = ood.mean - id.mean;
        Some(Self { mean, in_sd: (id.std > 0.0).then(|| mean / id.std) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_in_units_and_in_deviations() {
        // Means 2 and 5; ID scores 1, 3 deviate by 1.
        assert_eq!(Gap::of(&[1.0, 3.0], &[4.0, 6.0]), Some(Gap { mean: 3.0, in_sd: Some(3.0) }));
        assert_eq!(Gap::of(&[2.0, 6.0], &[8.0, 12.0]), Some(Gap { mean: 6.0, in_sd: Some(3.0) }));
        assert_eq!(Gap::of(&[1.0, 1.0], &[0.0]), Some(Gap { mean: -1.0, in_sd: None }));
        assert_eq!(Gap::of(&[], &[0.0]), None);
    }
}
