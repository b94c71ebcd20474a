//! Which numbers are the best of those they compete with.

use super::{
    Builder, Row,
    plan::{ColumnPlan, RowPlan},
};
use crate::{
    config::Rows,
    metrics::{self, Better},
};

impl Builder<'_> {
    /// Methods compete: down a column, or with `rows: ood` along a row with their other selves in the same metric.
    pub(super) fn mark_best(&self, rows: &mut [Row], plans: &[RowPlan<'_>], columns: &[ColumnPlan<'_>]) {
        for metric in &self.table.columns {
            let of_metric: Vec<usize> =
                (0..columns.len()).filter(|index| columns[*index].header.metric == *metric).collect();
            let contests: Vec<Vec<(usize, usize)>> = match self.table.rows {
                Rows::Ood | Rows::Task => {
                    (0..rows.len()).map(|row| of_metric.iter().map(|column| (row, *column)).collect()).collect()
                }
                Rows::Method | Rows::Sweep => {
                    of_metric.iter().map(|column| (0..rows.len()).map(|row| (row, *column)).collect()).collect()
                }
            };
            let sign = match metrics::measure_for(*metric, self.table.protocol).map(|measure| measure.better) {
                Some(Better::Larger) => 1.0,
                Some(Better::Smaller) => -1.0,
                Some(Better::Neither) | None => continue,
            };
            // A control is no method to be better than.
            let of_method = |(row, column): &(usize, usize)| {
                let variant = plans[*row].variant.or(columns[*column].variant);
                !variant.is_some_and(|variant| variant.is_control())
            };
            for contest in contests {
                let contest: Vec<_> = contest.into_iter().filter(of_method).collect();
                // As printed: what looks equal is equal.
                let printed = |(row, column): &(usize, usize), rows: &[Row]| {
                    let ours = rows[*row].cells[*column].ours?;
                    Some((ours.mean * sign * 100.0).round())
                };
                let values: Vec<f64> = contest.iter().filter_map(|place| printed(place, rows)).collect();
                // Nobody is best where all are equal, as in the accuracy of the one network that all methods read.
                let differ = values.iter().any(|value| *value != values[0]);
                let Some(best) = values.iter().copied().max_by(f64::total_cmp).filter(|_| differ) else { continue };
                for place in contest {
                    if printed(&place, rows) == Some(best) {
                        rows[place.0].cells[place.1].best = true;
                    }
                }
            }
        }
    }
}
