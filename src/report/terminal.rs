//! A table for the terminal, readable without colour: the best numbers carry a star.

use comfy_table::{CellAlignment, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};

use crate::report::table::{Header, Rendered};

/// The table with its title, caption and notes. One that is wider than `width` columns continues below itself, number by
/// number, never in the middle of one.
pub fn text(table: &Rendered, width: Option<u16>) -> String {
    let mut text = String::new();
    if let Some(warning) = &table.warning {
        text.push_str(&format!("!!! {warning} !!!\n"));
    }
    text.push_str(&format!("{}\n", table.title));
    let mut rest = 0..table.columns.len();
    while !rest.is_empty() {
        // As many columns as fit, but always one.
        let mut end = rest.start + 1;
        let mut block = draw(table, rest.start..end);
        while end < rest.end {
            let wider = draw(table, rest.start..end + 1);
            if width.is_some_and(|width| longest_line(&wider) > usize::from(width)) {
                break;
            }
            (block, end) = (wider, end + 1);
        }
        text.push_str(&format!("{block}\n"));
        rest.start = end;
    }
    if table.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.best) {
        text.push_str("* best\n");
    }
    for line in &table.caption {
        text.push_str(&format!("{line}\n"));
    }
    for (index, note) in table.notes.iter().enumerate() {
        text.push_str(&format!("{} {note}\n", marks(&[index])));
    }
    text
}

fn draw(table: &Rendered, shown: std::ops::Range<usize>) -> String {
    let columns = || table.columns.iter().enumerate().filter(|(index, _)| shown.contains(index));
    let mut drawn = Table::new();
    drawn.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    let mut header = table.labels.clone();
    for (_, column) in columns() {
        if column.paper {
            header.extend(["paper", "ours", "difference"].iter().map(|kind| format!("{}\n{kind}", title(column))));
        } else {
            header.push(title(column));
        }
    }
    drawn.set_header(header);
    for row in &table.rows {
        let mut line = row.labels.clone();
        if let Some(last) = line.last_mut() {
            last.push_str(&marks(&row.marks));
        }
        for (index, column) in columns() {
            let Some(cell) = row.cells.get(index) else { continue };
            let star = if cell.best { "*" } else { "" };
            line.extend(cell.plain(column.paper, format!("{star}{}", cell.ours("±", "–"))));
        }
        drawn.add_row(line);
    }
    for column in drawn.column_iter_mut().skip(table.labels.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    drawn.trim_fmt()
}

fn title(column: &Header) -> String {
    match &column.group {
        Some(group) => format!("{group}{}\n{}", marks(&column.marks), column.title()),
        None => format!("{}{}", column.title(), marks(&column.marks)),
    }
}

fn longest_line(text: &str) -> usize {
    text.lines().map(console::measure_text_width).max().unwrap_or(0)
}

/// `¹`, `¹˒²`.
fn marks(marks: &[usize]) -> String {
    let one = |mark: &usize| {
        let digits = (mark + 1).to_string();
        digits.chars().filter_map(|digit| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10)? as usize)).collect::<String>()
    };
    marks.iter().map(one).collect::<Vec<_>>().join("˒")
}
