//! Numbers from scores, in f64.
//!
//! [`measures`] is the table of them, [`ranking`] sorts and integrates, [`aggregate`] averages and says which measure a
//! table's column means, [`files`] reads and writes the scores.

pub mod aggregate;
mod columns;
pub mod confusion;
pub mod files;
pub mod intervals;
pub mod measures;
pub mod pixel;
pub mod ranking;
mod score_csv;

pub use aggregate::{accuracy, measure_for, redraw, threshold};
pub use columns::{Column, Protocol, Tpr};
pub use confusion::Confusion;
pub use files::{read_scores, run_cli, write_npy};
pub use intervals::{Intervals, intervals};
pub use measures::{Better, Measure, Measures, Unit, of_logits, of_scores};
pub use ranking::Ranking;

use serde::{Deserialize, Serialize};

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
