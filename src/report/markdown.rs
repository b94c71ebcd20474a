//! A table as GitHub-flavoured Markdown; the best numbers are bold.

use crate::report::table::Rendered;

/// The table with its title, caption and notes.
pub fn text(table: &Rendered) -> String {
    let mut text = format!("**{}**\n\n", escape(&table.title));
    if let Some(warning) = &table.warning {
        text.push_str(&format!("> **{}**\n\n", escape(warning)));
    }
    let mut header: Vec<String> = table.labels.iter().map(|label| escape(label)).collect();
    for column in &table.columns {
        let group = column.group.as_ref().map(|group| format!("{}{}<br>", escape(group), marks(&column.marks)));
        let own = if column.group.is_none() { marks(&column.marks) } else { String::new() };
        let title = format!("{}{}{own}", group.unwrap_or_default(), column.title());
        if column.paper {
            header.extend(["paper", "ours", "difference"].iter().map(|kind| format!("{title}<br>{kind}")));
        } else {
            header.push(title);
        }
    }
    let left = table.labels.len();
    let rules: Vec<String> = (0..header.len()).map(|index| if index < left { ":--" } else { "--:" }.into()).collect();
    let rows = table.rows.iter().map(|row| {
        let mut line: Vec<String> = row.labels.iter().map(|label| escape(label)).collect();
        if let Some(last) = line.last_mut() {
            last.push_str(&marks(&row.marks));
        }
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let ours = cell.ours("±", "–");
            let ours = if cell.best { format!("**{ours}**") } else { ours };
            line.extend(cell.plain(column.paper, ours));
        }
        line
    });
    for line in [header, rules].into_iter().chain(rows) {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    text.push('\n');
    for line in table
        .caption
        .iter()
        .map(|line| escape(line))
        .chain(table.notes.iter().enumerate().map(|(index, note)| format!("{} {}", marks(&[index]), escape(note))))
    {
        // Two spaces end a line.
        text.push_str(&format!("{line}  \n"));
    }
    text
}

fn marks(marks: &[usize]) -> String {
    if marks.is_empty() {
        return String::new();
    }
    let numbers: Vec<String> = marks.iter().map(|mark| (mark + 1).to_string()).collect();
    format!("<sup>{}</sup>", numbers.join(","))
}

/// Characters that Markdown would take for markup, in one line. Underscores inside words are left: GitHub does so too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '*' | '`' | '<' | '>' | '[' | ']' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
