//! Numbers from scores. All in f64, all but the [gap] fractions of 1.
//!
//! [`ranking`] computes them, [`aggregate`] averages them and says which one a table's column means, [`files`] reads and
//! writes the scores.

pub mod aggregate;
pub mod files;
pub mod gap;
pub mod ranking;

pub use aggregate::{accuracy, better, metric_for, redraw, share};
pub use files::{read_scores, run_cli, write_npy};
pub use gap::Gap;
pub use ranking::{Ranking, metrics};

use serde::{Deserialize, Serialize};

/// How well scores tell out-of-distribution (OOD) from in-distribution (ID) images; larger scores mean more anomalous.
///
/// The names say which class is positive, which threshold is taken and how the precision-recall curve is integrated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Area under the ROC curve; ties count one half. The same whichever class is positive.
    pub auroc: f64,
    /// Share of OOD images accepted at the threshold where the share of ID images accepted is closest to 95 %
    /// (energy_ood, the sparsity paper).
    pub fpr95_id_positive_closest: f64,
    /// Share of ID images rejected at the first threshold where at least 95 % of OOD images are caught (OpenOOD).
    pub fpr95_ood_positive_first: f64,
    /// Average precision, ID positive (scikit-learn's `average_precision_score`; energy_ood).
    pub aupr_in_ap: f64,
    /// Average precision, OOD positive.
    pub aupr_out_ap: f64,
    /// Trapezoid under the precision-recall curve, ID positive (OpenOOD's AUPR_IN).
    pub aupr_in_trapezoid: f64,
    /// Trapezoid under the precision-recall curve, OOD positive (OpenOOD's AUPR_OUT).
    pub aupr_out_trapezoid: f64,
}

impl Metrics {
    /// The fields' names, in order.
    pub const KEYS: [&str; 7] = [
        "auroc",
        "fpr95_id_positive_closest",
        "fpr95_ood_positive_first",
        "aupr_in_ap",
        "aupr_out_ap",
        "aupr_in_trapezoid",
        "aupr_out_trapezoid",
    ];

    /// The values, in the order of [`Metrics::KEYS`].
    pub fn values(&self) -> [f64; 7] {
        [
            self.auroc,
            self.fpr95_id_positive_closest,
            self.fpr95_ood_positive_first,
            self.aupr_in_ap,
            self.aupr_out_ap,
            self.aupr_in_trapezoid,
            self.aupr_out_trapezoid,
        ]
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        Self::KEYS.into_iter().zip(self.values())
    }

    /// The value of the field `key`, if there is such a field.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// A mean, its population standard deviation, and over how many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanStd {
    /// The mean.
    pub mean: f64,
    /// The population standard deviation (divided by n), as energy_ood and OpenOOD report it; 0 for n = 1.
    pub std: f64,
    /// How many.
    pub n: usize,
}
