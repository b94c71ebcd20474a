//! A table as every writer gets it.

use std::borrow::Cow;

use serde::Serialize;

use super::numbers::{mean_std, signed, two_decimals};
use crate::metrics::{self, Column, MeanStd, Protocol};

/// What every writer writes. All numbers but gaps are percent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rendered {
    /// Names the files.
    pub name: String,
    /// What stands above the table.
    pub title: String,
    /// Set for a smoke run: to be shown loudly.
    pub warning: Option<String>,
    /// Sentences a reader needs: unit, protocol, data, seeds, the paper, device and commit.
    pub caption: Vec<String>,
    /// Headers of the columns that name a row.
    pub labels: Vec<String>,
    /// Headers of the columns with numbers.
    pub columns: Vec<Header>,
    /// In order.
    pub rows: Vec<Row>,
    /// Footnotes; a mark is an index into them.
    pub notes: Vec<String>,
}

/// The header of a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Header {
    /// What neighbouring columns share: an OOD set, or a method with `rows: ood`.
    pub group: Option<String>,
    /// Which number.
    pub metric: Column,
    /// Whether the paper's number and the difference stand beside ours.
    pub paper: bool,
    /// Whether intervals stand beside ours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub intervals: bool,
    /// Footnotes to the group.
    pub marks: Vec<usize>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// One for each of [`Rendered::labels`].
    pub labels: Vec<String>,
    /// Whether it sums up the rows above it.
    pub summary: bool,
    /// Footnotes to the row.
    pub marks: Vec<usize>,
    /// One for each of [`Rendered::columns`].
    pub cells: Vec<Cell>,
}

/// A number, the paper's, and what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Cell {
    /// Ours, in percent; n counts seeds, or draws in a table of one seed with `sampling: redraw`.
    pub ours: Option<MeanStd>,
    /// The paper's, in percent.
    pub paper: Option<f64>,
    /// The 95 % interval of ours over test images, in percent; of several seeds, the mean of each end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Ours less the paper's, of the unrounded mean; none where the two are means over different sets.
    pub difference: Option<f64>,
    /// Whether ours is the best (or as good as the best, as printed) of those it competes with.
    pub best: bool,
}

impl Cell {
    /// `96.51 ± 0.19 [95.90, 97.10]`, as far as there is a spread and an interval; a dash if there is no number.
    pub(in crate::report) fn ours(&self, plus_minus: &str, dash: &str) -> String {
        let Some(ours) = &self.ours else { return dash.to_owned() };
        let interval = self.interval.map(|[low, high]| format!(" [{}, {}]", two_decimals(low), two_decimals(high)));
        mean_std(ours, plus_minus) + &interval.unwrap_or_default()
    }

    /// Its columns in a plain-text table: `ours` alone, or paper, ours and difference beside a paper's number.
    pub(in crate::report) fn plain(&self, paper: bool, ours: String) -> Vec<String> {
        if !paper {
            return vec![ours];
        }
        let dash = || "–".to_owned();
        vec![self.paper.map_or_else(dash, two_decimals), ours, self.difference.map_or_else(dash, signed)]
    }
}

impl Header {
    /// `FPR95 ↓`: the number and where better is.
    pub fn title(&self) -> Cow<'static, str> {
        match self.metric {
            // Of the protocol's positive class, which the caption names.
            Column::Aupr => Cow::Borrowed("AUPR ↑"),
            // Of images beside that of pixels, which has a title of its own.
            Column::Ap => Cow::Borrowed("AP ↑"),
            // Protocols change how a number is computed, not what it is called.
            column => {
                metrics::measure_for(column, Protocol::default()).map_or(Cow::Borrowed(""), |measure| measure.title)
            }
        }
    }
}
