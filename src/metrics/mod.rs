//! Numbers from scores. All in f64, all fractions of 1.

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
