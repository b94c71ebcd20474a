//! A table as CSV, at full precision, for other programs; the caption and the notes are `#` comment lines.
//!
//! A number is up to five columns: `svhn.fpr95` (percent), `_std`, `_n`, `_paper` and `_difference`.

use crate::{config::expect::column_name, report::table::Rendered};

/// The table as CSV; a missing number is an empty field.
pub fn text(table: &Rendered) -> String {
    let mut text = String::new();
    let notes = table.notes.iter().enumerate().map(|(index, note)| format!("[{}] {note}", index + 1));
    let comments = std::iter::once(table.title.clone())
        .chain(table.warning.clone())
        .chain(table.caption.iter().cloned())
        .chain(notes);
    for comment in comments {
        text.push_str(&format!("# {}\n", comment.replace(['\n', '\r'], " ")));
    }
    let mut lines = vec![header(table)];
    for row in &table.rows {
        let mut line = row.labels.clone();
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
            line.push(number(cell.ours.map(|ours| ours.mean)));
            // One value has no deviation; 0 would claim that it was measured.
            line.push(number(cell.ours.filter(|ours| ours.n > 1).map(|ours| ours.std)));
            line.push(cell.ours.map(|ours| ours.n.to_string()).unwrap_or_default());
            if column.paper {
                line.push(number(cell.paper));
                line.push(number(cell.difference));
            }
        }
        line.push(row.marks.iter().map(|mark| format!("[{}]", mark + 1)).collect());
        lines.push(line);
    }
    for line in lines {
        text.push_str(&line.iter().map(|field| quote(field)).collect::<Vec<_>>().join(","));
        text.push('\n');
    }
    text
}

fn header(table: &Rendered) -> Vec<String> {
    let mut header: Vec<String> = table.labels.iter().map(|label| label.to_lowercase().replace(' ', "_")).collect();
    for column in &table.columns {
        let metric = column_name(column.metric);
        let name = column.group.as_ref().map_or(metric.to_owned(), |group| format!("{group}.{metric}"));
        header.push(name.clone());
        let paper = if column.paper { ["_paper", "_difference"].as_slice() } else { &[] };
        header.extend(["_std", "_n"].iter().chain(paper).map(|suffix| format!("{name}{suffix}")));
    }
    header.push("notes".to_owned());
    header
}

/// Quoted where RFC 4180 asks for it, and where a reader could take the line for a comment.
fn quote(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) || field.starts_with('#') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
