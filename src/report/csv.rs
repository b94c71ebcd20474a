//! A table as plain CSV, at full precision: `pandas.read_csv(path)` and `csv.reader(file)` read it as it is.
//!
//! A number is up to seven columns: `svhn.fpr95` (percent), `_std`, `_n`, `_low` and `_high` (95 % interval), `_paper` and
//! `_difference`. Title, caption and notes are
//! lines of a text file beside the CSV ([`caption`]); its last column, `notes`, holds their marks.

use crate::{config::expect::column_name, report::table::Rendered};

/// The table as CSV, a header line first; a missing number is an empty field.
pub fn text(table: &Rendered) -> String {
    let mut lines = vec![header(table)];
    for row in &table.rows {
        let mut line = row.labels.clone();
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
            line.push(number(cell.ours.map(|ours| ours.mean)));
            // One value has no deviation; 0 would claim that it was measured.
            line.push(number(cell.ours.filter(|ours| ours.n > 1).map(|ours| ours.std)));
            line.push(cell.ours.map(|ours| ours.n.to_string()).unwrap_or_default());
            if column.intervals {
                line.extend([0, 1].map(|end| number(cell.interval.map(|interval| interval[end]))));
            }
            if column.paper {
                line.push(number(cell.paper));
                line.push(number(cell.difference));
            }
        }
        // In every row: the text beside the CSV may get lost.
        let smoke = table.warning.iter().map(|_| "SMOKE RUN".to_owned());
        line.push(smoke.chain(row.marks.iter().map(mark)).collect::<Vec<_>>().join(" "));
        lines.push(line);
    }
    let quoted = |line: &Vec<String>| line.iter().map(|field| quote(field)).collect::<Vec<_>>().join(",") + "\n";
    lines.iter().map(quoted).collect()
}

/// What stands around the table: title, warning, caption and notes, a line each.
pub fn caption(table: &Rendered) -> String {
    let title = std::iter::once(table.title.clone());
    let notes = table.notes.iter().enumerate().map(|(index, note)| format!("{} {note}", mark(&index)));
    let lines = title.chain(table.warning.clone()).chain(table.caption.iter().cloned()).chain(notes);
    lines.map(|line| line.replace(['\n', '\r'], " ") + "\n").collect()
}

fn mark(note: &usize) -> String {
    format!("[{}]", note + 1)
}

fn header(table: &Rendered) -> Vec<String> {
    let mut header: Vec<String> = table.labels.iter().map(|label| label.to_lowercase().replace(' ', "_")).collect();
    for column in &table.columns {
        let metric = column_name(column.metric);
        let name = column.group.as_ref().map_or(metric.to_string(), |group| format!("{group}.{metric}"));
        header.push(name.clone());
        let paper = if column.paper { ["_paper", "_difference"].as_slice() } else { &[] };
        let intervals = if column.intervals { ["_low", "_high"].as_slice() } else { &[] };
        header.extend(["_std", "_n"].iter().chain(intervals).chain(paper).map(|suffix| format!("{name}{suffix}")));
    }
    header.push("notes".to_owned());
    header
}

/// Quoted where RFC 4180 asks for it, and where a reader of comments (`comment="#"`) would cut the field.
fn quote(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r', '#']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
