//! A table as LaTeX for the `booktabs` package; the best numbers are bold.

use crate::report::table::{self, Header, Rendered};

/// A `table` environment with caption, label `tab:<name>` and notes.
pub fn text(table: &Rendered) -> String {
    let numbers: usize = table.columns.iter().map(width).sum();
    let mut text = String::from("% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n");
    let warning = table.warning.iter().map(|warning| format!("\\textbf{{{}}}. ", escape(warning)));
    let caption: Vec<String> = table.caption.iter().map(|line| escape(line)).collect();
    let title = table.title.trim_end_matches('.');
    text.push_str(&format!(
        "\\caption{{{}{}. {}}}\n\\label{{tab:{}}}\n",
        warning.collect::<String>(),
        escape(title),
        caption.join(" "),
        table.name
    ));
    text.push_str(&format!(
        "\\begin{{tabular}}{{{}{}}}\n\\toprule\n",
        "l".repeat(table.labels.len()),
        "r".repeat(numbers)
    ));
    text.push_str(&header(table));
    text.push_str("\\midrule\n");
    for row in &table.rows {
        if row.summary {
            text.push_str("\\midrule\n");
        }
        let mut line: Vec<String> = row.labels.iter().map(|label| escape(label)).collect();
        if let Some(last) = line.last_mut() {
            last.push_str(&marks(&row.marks));
        }
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let ours = cell.ours("$\\pm$", "--");
            let ours = if cell.best { format!("\\textbf{{{ours}}}") } else { ours };
            if column.paper {
                line.push(cell.paper.map_or("--".to_owned(), table::two_decimals));
                line.push(ours);
                line.push(cell.difference.map_or("--".to_owned(), |number| format!("${}$", table::signed(number))));
            } else {
                line.push(ours);
            }
        }
        text.push_str(&format!("{} \\\\\n", line.join(" & ")));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
    for (index, note) in table.notes.iter().enumerate() {
        text.push_str(&format!("\\par\\footnotesize{} {}\n", marks(&[index]), escape(note)));
    }
    text.push_str("\\end{table}\n");
    text
}

fn width(column: &Header) -> usize {
    if column.paper { 3 } else { 1 }
}

/// One line of groups, one of metrics, and one of paper, ours, difference: each only if something stands in it.
fn header(table: &Rendered) -> String {
    let labels: Vec<String> = table.labels.iter().map(|label| escape(label)).collect();
    let empty = vec![String::new(); labels.len()];
    let paper = table.columns.iter().any(|column| column.paper);
    let mut lines = Vec::new();
    if table.columns.iter().any(|column| column.group.is_some()) {
        let mut line = empty.clone();
        let mut rules = String::new();
        let mut at = labels.len() + 1;
        for same in table.columns.chunk_by(|left, right| left.group == right.group) {
            let span: usize = same.iter().map(width).sum();
            match same.first().and_then(|first| first.group.as_ref()) {
                Some(group) => {
                    let mut notes: Vec<usize> = same.iter().flat_map(|column| column.marks.iter().copied()).collect();
                    notes.sort_unstable();
                    notes.dedup();
                    line.push(format!("\\multicolumn{{{span}}}{{c}}{{{}{}}}", escape(group), marks(&notes)));
                    rules.push_str(&format!("\\cmidrule(lr){{{at}-{}}}", at + span - 1));
                }
                None => line.extend(vec![String::new(); span]),
            }
            at += span;
        }
        lines.push(format!("{} \\\\\n{rules}\n", line.join(" & ")));
    }
    let mut metrics = if paper { empty } else { labels.clone() };
    for column in &table.columns {
        let own = if column.group.is_none() { marks(&column.marks) } else { String::new() };
        let title = format!("{}{own}", escape(&column.title()));
        metrics.push(if column.paper { format!("\\multicolumn{{3}}{{c}}{{{title}}}") } else { title });
    }
    lines.push(format!("{} \\\\\n", metrics.join(" & ")));
    if paper {
        let kinds = table.columns.iter().flat_map(|column| match column.paper {
            true => ["paper", "ours", "difference"].as_slice(),
            false => &[""],
        });
        let line: Vec<String> = labels.into_iter().chain(kinds.map(|kind| (*kind).to_owned())).collect();
        lines.push(format!("{} \\\\\n", line.join(" & ")));
    }
    lines.concat()
}

fn marks(marks: &[usize]) -> String {
    if marks.is_empty() {
        return String::new();
    }
    let numbers: Vec<String> = marks.iter().map(|mark| (mark + 1).to_string()).collect();
    format!("$^{{{}}}$", numbers.join(","))
}

/// Characters that LaTeX would take for commands, and those that its fonts lack in text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' | '>' | '|' => escaped.push_str(&format!("${character}$")),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            '↑' => escaped.push_str("$\\uparrow$"),
            '↓' => escaped.push_str("$\\downarrow$"),
            '±' => escaped.push_str("$\\pm$"),
            '×' => escaped.push_str("$\\times$"),
            '−' => escaped.push_str("$-$"),
            '≤' => escaped.push_str("$\\leq$"),
            '≥' => escaped.push_str("$\\geq$"),
            '–' => escaped.push_str("--"),
            'α' => escaped.push_str("$\\alpha$"),
            'β' => escaped.push_str("$\\beta$"),
            'γ' => escaped.push_str("$\\gamma$"),
            'ε' => escaped.push_str("$\\varepsilon$"),
            'λ' => escaped.push_str("$\\lambda$"),
            'μ' => escaped.push_str("$\\mu$"),
            'σ' => escaped.push_str("$\\sigma$"),
            'τ' => escaped.push_str("$\\tau$"),
            other => escaped.push(other),
        }
    }
    escaped
}
