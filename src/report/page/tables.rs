//! A table as the page gets it.

use crate::report::{
    page::parts::{Cell, Column, Row, Table},
    table::{self, Rendered, signed, two_decimals},
};

/// What stands side by side where there is a paper's number.
const KINDS: [&str; 3] = ["paper", "ours", "difference"];

/// The table with a column for each number.
pub(super) fn table(rendered: &Rendered) -> Table {
    let mut columns = Vec::new();
    for header in &rendered.columns {
        let kinds = if header.paper { KINDS.map(Some).to_vec() } else { vec![None] };
        columns.extend(kinds.into_iter().map(|kind| Column {
            group: header.group.clone(),
            title: header.title().into_owned(),
            kind,
            marks: header.marks.clone(),
        }));
    }
    let row = |row: &table::Row| Row {
        labels: row.labels.clone(),
        summary: row.summary,
        marks: row.marks.clone(),
        cells: row.cells.iter().zip(&rendered.columns).flat_map(|(cell, header)| cells(cell, header.paper)).collect(),
    };
    Table {
        title: rendered.title.clone(),
        file: format!("table_{}.csv", rendered.name),
        caption: rendered.warning.iter().chain(&rendered.caption).cloned().collect(),
        notes: rendered.notes.clone(),
        labels: rendered.labels.clone(),
        rows: rendered.rows.iter().map(row).collect(),
        columns,
    }
}

fn cells(cell: &table::Cell, paper: bool) -> Vec<Cell> {
    let mean = cell.ours.map(|ours| ours.mean);
    let ours = Cell { text: cell.ours("±", "–"), value: mean, best: cell.best };
    if !paper {
        return vec![ours];
    }
    let plain = |value: Option<f64>, text: fn(f64) -> String| Cell {
        text: value.map_or_else(|| "–".to_owned(), text),
        value,
        best: false,
    };
    vec![plain(cell.paper, two_decimals), ours, plain(cell.difference, signed)]
}
