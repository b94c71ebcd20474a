//! A page as HTML: one pure function from what it shows to text.
//!
//! All text from outside goes through [`escape`]. Pictures are `data:` addresses of `<img>`, where a browser runs no script of an SVG and
//! loads nothing for it. The page's policy (a `<meta>`) allows its own style and script, by their digests, and no address of a network.

use std::fmt::Write as _;

use crate::report::{
    base64::{base64, length},
    page::parts::{Example, Gallery, Page, Picture, Ranking, Table},
};

/// The style sheet.
pub const STYLE: &str = include_str!("page.css");
/// The script.
pub const SCRIPT: &str = include_str!("page.js");

/// Bytes of the text around sections that is not counted piece by piece: head, contents, notes.
const AROUND: usize = 64 << 10;
/// Names of files that a note lists, at most.
const LISTED: usize = 20;

/// A page as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The HTML document.
    pub html: String,
    /// Pictures that did not fit.
    pub left_out: usize,
}

/// Makes the page, of at most so many bytes. `digests` are the SHA-256 in base64 of [`STYLE`] and [`SCRIPT`].
///
/// Tables, provenance and configuration are placed first, then figures, heat maps and small pictures as far as there is room. What does
/// not fit is named.
pub fn html(page: &Page, most: usize, digests: [&str; 2]) -> Built {
    let words =
        page.about.iter().chain(&page.absent).map(|text| size(text) + 16).sum::<usize>() + 2 * size(&page.title);
    let around = STYLE.len() + SCRIPT.len() + AROUND + words + size(&page.folder);
    let mut room = Room { left: most.saturating_sub(around), out: 0, notes: Vec::new() };
    let tables = tables(page, &mut room);
    let provenance = provenance(page, &mut room);
    let config = config(page, &mut room);
    let figures = figures(page, &mut room);
    let galleries = galleries(page, &mut room);
    let rankings = rankings(page, &mut room);
    let sections = [
        ("tables", "Tables", tables),
        ("figures", "Figures", figures),
        ("maps", "Heat maps", galleries),
        ("images", "Most anomalous and most wrongly judged images", rankings),
        ("provenance", "Provenance", provenance),
        ("configuration", "Configuration", config),
    ];
    let sections: Vec<_> = sections.into_iter().filter(|(_, _, text)| !text.is_empty()).collect();
    let title = escape(&page.title);
    let [style, script] = digests;
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'; \
         form-action 'none'\">\n<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<a class=\"skip\" href=\"#main\">Skip to the content</a>\n<header>\n<h1>{title}</h1>\n"
    );
    if let Some(warning) = &page.warning {
        let _ = writeln!(html, "<p class=\"warning\"><strong>{}</strong></p>", escape(warning));
    }
    for paragraph in page.about.iter().flat_map(|about| about.split("\n\n")).filter(|text| !text.trim().is_empty()) {
        let _ = writeln!(html, "<p>{}</p>", escape(paragraph.trim()));
    }
    html.push_str("</header>\n<nav aria-label=\"Contents\">\n<ul>\n");
    for (id, title, _) in &sections {
        let _ = writeln!(html, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    html.push_str("</ul>\n</nav>\n<main id=\"main\">\n");
    let notes: Vec<&String> = page.absent.iter().chain(&room.notes).collect();
    if !notes.is_empty() {
        html.push_str("<section class=\"absent\" aria-label=\"What is not shown\">\n<p>Not on this page:</p>\n<ul>\n");
        for note in notes {
            let _ = writeln!(html, "<li>{}</li>", escape(note));
        }
        let _ = writeln!(html, "</ul>\n<p>The folder is <code>{}</code>.</p>\n</section>", escape(&page.folder));
    }
    for (id, title, text) in &sections {
        let _ = writeln!(html, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{text}</section>");
    }
    let _ = writeln!(html, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>");
    Built { html, left_out: room.out }
}

/// Bytes that are left, and what had no room.
struct Room {
    left: usize,
    out: usize,
    notes: Vec<String>,
}

impl Room {
    /// The text, if there is room for it.
    fn text(&mut self, text: String) -> Option<String> {
        self.left = self.left.checked_sub(text.len())?;
        Some(text)
    }
}

/// Text as it may stand between tags and in quoted attributes. What steers a terminal or turns the direction of text is replaced.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}');
            }
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Bytes of a text once it is escaped.
fn size(text: &str) -> usize {
    escape(text).len()
}

/// `<img>` with the picture in it.
fn img(picture: &Picture) -> String {
    let size = picture.size.map(|[width, height]| format!(" width=\"{width}\" height=\"{height}\""));
    let (media, data, alt) = (picture.media, base64(&picture.bytes), escape(&picture.alt));
    format!("<img src=\"data:{media};base64,{data}\" alt=\"{alt}\"{}>", size.unwrap_or_default())
}

/// Bytes that a picture takes on the page, a little more than less.
fn weight(picture: &Picture) -> usize {
    length(picture.bytes.len()) + size(&picture.alt) + 256
}

/// Names, at most [`LISTED`], and how many more.
fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn tables(page: &Page, room: &mut Room) -> String {
    let mut text = String::new();
    for (at, table) in page.tables.iter().enumerate() {
        match room.text(one_table(table, at)) {
            Some(table) => text.push_str(&table),
            None => room.notes.push(format!("the table \"{}\", which is too large: {}", table.title, table.file)),
        }
    }
    text
}

fn one_table(table: &Table, at: usize) -> String {
    let title = escape(&table.title);
    let mut text = format!(
        "<div class=\"table\">\n<h3 id=\"t{at}\">{title}</h3>\n<div class=\"scroll\" role=\"region\" aria-labelledby=\"t{at}\" \
         tabindex=\"0\">\n<table class=\"sortable\" aria-labelledby=\"t{at}\">\n<thead>\n<tr>"
    );
    let grouped = table.columns.iter().any(|column| column.group.is_some());
    let label = |index: usize, label: &String| {
        let rows = if grouped { " rowspan=\"2\"" } else { "" };
        let first = first(index);
        format!("<th scope=\"col\"{rows}{first} data-column=\"{index}\"><span>{}</span></th>", escape(label))
    };
    text.extend(table.labels.iter().enumerate().map(|(index, text)| label(index, text)));
    if grouped {
        for columns in table.columns.chunk_by(|left, right| left.group == right.group) {
            let group = columns[0].group.as_deref().map(escape);
            let width = columns.len();
            match group {
                Some(group) => {
                    let marks = marks(&columns[0].marks, at);
                    let _ = write!(
                        text,
                        "<th scope=\"colgroup\" colspan=\"{width}\" class=\"group\"><span>{group}</span>{marks}</th>"
                    );
                }
                None => {
                    let _ = write!(text, "<td colspan=\"{width}\" class=\"group\"></td>");
                }
            }
        }
        text.push_str("</tr>\n<tr>");
    }
    for (index, column) in table.columns.iter().enumerate() {
        let (index, title) = (table.labels.len() + index, escape(&column.title));
        let kind = column.kind.map(|kind| format!("<small>{kind}</small> ")).unwrap_or_default();
        let marks = if column.group.is_none() { marks(&column.marks, at) } else { String::new() };
        let _ = write!(
            text,
            "<th scope=\"col\" class=\"number\" data-column=\"{index}\"><span>{kind}{title}</span>{marks}</th>"
        );
    }
    text.push_str("</tr>\n</thead>\n<tbody>\n");
    for row in &table.rows {
        text.push_str(if row.summary { "<tr class=\"summary\">" } else { "<tr>" });
        for (index, label) in row.labels.iter().enumerate() {
            let (marks, label) =
                (if index + 1 == row.labels.len() { marks(&row.marks, at) } else { String::new() }, escape(label));
            let first = first(index);
            let _ = write!(text, "<th scope=\"row\"{first}><span>{label}</span>{marks}</th>");
        }
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let value = cell.value.filter(|value| value.is_finite());
            let value = value.map(|value| format!(" data-value=\"{value}\"")).unwrap_or_default();
            let number = escape(&cell.text);
            let number = if cell.best { format!("<strong>{number} *</strong>") } else { number };
            let kind = column.kind.map(|kind| format!(" {kind}")).unwrap_or_default();
            let _ = write!(text, "<td class=\"number{kind}\"{value}>{number}</td>");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody>\n</table>\n</div>\n<p class=\"told\" role=\"status\"></p>\n<div class=\"caption\">\n");
    if table.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.best) {
        text.push_str("<p><strong>*</strong> best</p>\n");
    }
    for line in &table.caption {
        let _ = writeln!(text, "<p>{}</p>", escape(line));
    }
    for (index, note) in table.notes.iter().enumerate() {
        let _ = writeln!(text, "<p id=\"t{at}n{index}\"><sup>{}</sup> {}</p>", index + 1, escape(note));
    }
    text.push_str("</div>\n</div>\n");
    text
}

/// The column that stays where the others are moved.
fn first(index: usize) -> &'static str {
    if index == 0 { " class=\"first\"" } else { "" }
}

/// Links to the footnotes of the table at this place.
fn marks(marks: &[usize], at: usize) -> String {
    if marks.is_empty() {
        return String::new();
    }
    let one = |mark: &usize| format!("<a href=\"#t{at}n{mark}\" aria-label=\"note {0}\">{0}</a>", mark + 1);
    format!("<sup>{}</sup>", marks.iter().map(one).collect::<Vec<_>>().join(","))
}

fn figures(page: &Page, room: &mut Room) -> String {
    let mut text = String::new();
    let mut out = Vec::new();
    for (at, figure) in page.figures.iter().enumerate() {
        if weight(&figure.picture) + size(&figure.title) + size(&figure.file) + 512 > room.left {
            out.push(figure.file.clone());
            continue;
        }
        let (title, file) = (escape(&figure.title), escape(&figure.file));
        let shown = format!(
            "<figure>\n<div class=\"scroll\" role=\"region\" aria-labelledby=\"f{at}\" tabindex=\"0\">{}</div>\n<figcaption id=\"f{at}\">{title} \
             <code>{file}</code></figcaption>\n</figure>\n",
            img(&figure.picture)
        );
        text.extend(room.text(shown));
    }
    if !out.is_empty() {
        room.out += out.len();
        room.notes.push(format!("{} of {} figures, for want of room: {}", out.len(), page.figures.len(), listed(&out)));
    }
    text
}

fn galleries(page: &Page, room: &mut Room) -> String {
    let mut text = String::new();
    let (mut out, mut files) = (0, Vec::new());
    for (at, gallery) in page.galleries.iter().enumerate() {
        // Those that come later have their share.
        let share = room.left / (page.galleries.len() - at);
        let scales = gallery.scales.iter().map(|(name, ..)| size(name) + 256).sum::<usize>();
        let mut taken = 2048 + size(&gallery.title) + size(&gallery.subtitle) + scales;
        let fits = |example: &&Example| {
            let cells = example.cells.iter().map(|(name, picture)| weight(picture) + size(name) + 128);
            taken += cells.sum::<usize>() + size(&example.label) + 256;
            taken <= share
        };
        let shown: Vec<&Example> = gallery.examples.iter().take_while(fits).collect();
        let missing = gallery.examples[shown.len()..].iter().map(|example| example.cells.len()).sum::<usize>();
        if missing > 0 {
            out += missing;
            files.push(gallery.file.clone());
        }
        if !shown.is_empty() {
            text.extend(room.text(one_gallery(gallery, &shown, at)));
        }
    }
    if out > 0 {
        room.out += out;
        room.notes.push(format!("{out} pictures of heat maps, for want of room: {}", listed(&files)));
    }
    text
}

fn one_gallery(gallery: &Gallery, shown: &[&Example], at: usize) -> String {
    let (title, subtitle, count) = (escape(&gallery.title), escape(&gallery.subtitle), shown.len());
    let mut text = format!(
        "<section class=\"gallery\" aria-labelledby=\"g{at}\">\n<h3 id=\"g{at}\">{title}</h3>\n<p>{subtitle}</p>\n<p class=\"controls\" \
         hidden><label for=\"g{at}s\">Image</label> <input type=\"range\" id=\"g{at}s\" min=\"1\" max=\"{count}\" step=\"1\" value=\"1\"> \
         <output for=\"g{at}s\">1 of {count}</output></p>\n"
    );
    for example in shown {
        let _ = writeln!(
            text,
            "<figure class=\"example\">\n<figcaption>{}</figcaption>\n<div class=\"cells\">",
            escape(&example.label)
        );
        for (name, picture) in &example.cells {
            let _ = writeln!(text, "<figure>{}<figcaption>{}</figcaption></figure>", img(picture), escape(name));
        }
        text.push_str("</div>\n</figure>\n");
    }
    if !gallery.scales.is_empty() {
        text.push_str("<ul class=\"scales\">\n");
        for (name, low, high) in &gallery.scales {
            let _ = writeln!(
                text,
                "<li>{}: ≤ {} <span class=\"viridis\" role=\"img\" aria-label=\"dark blue to yellow\"></span> ≥ {}</li>",
                escape(name),
                short(*low),
                short(*high)
            );
        }
        text.push_str("</ul>\n");
    }
    text.push_str("</section>\n");
    text
}

fn rankings(page: &Page, room: &mut Room) -> String {
    let mut text = String::new();
    let (mut out, mut cut) = (0, 0);
    let mut rest = page.rankings.len();
    for (at, task) in page.rankings.chunk_by(|left, right| left.task == right.task).enumerate() {
        let mut of_task = String::new();
        for (index, ranking) in task.iter().enumerate() {
            let share = room.left / rest.max(1);
            rest -= 1;
            let images = ranking.lists.iter().flat_map(|(_, list)| list);
            let words: usize = images.clone().map(|ranked| size(&ranked.name) + size(&ranked.score) + 160).sum();
            let titles: usize = ranking.lists.iter().map(|(title, _)| size(title) + 64).sum();
            let words = words + titles + size(&ranking.method) + size(&ranking.summary) + 256;
            if words > share {
                cut += 1;
                continue;
            }
            let mut left = share - words;
            let one = one_ranking(ranking, index == 0 && at == 0, &mut left, &mut out);
            of_task.extend(room.text(one));
        }
        let name = &task[0].task;
        if name.is_empty() || of_task.is_empty() {
            text.push_str(&of_task);
        } else {
            let open = if at == 0 { " open" } else { "" };
            let _ = writeln!(text, "<details{open}>\n<summary>{}</summary>\n{of_task}</details>", escape(name));
            room.left = room.left.saturating_sub(64 + size(name));
        }
    }
    if cut > 0 {
        room.notes.push(format!("the images of {cut} of {} methods and tasks, for want of room", page.rankings.len()));
    }
    if out > 0 {
        room.out += out;
        room.notes.push(format!("{out} small pictures, for want of room; their names are there"));
    }
    text
}

fn one_ranking(ranking: &Ranking, open: bool, left: &mut usize, out: &mut usize) -> String {
    let open = if open { " open" } else { "" };
    let (method, summary) = (escape(&ranking.method), escape(&ranking.summary));
    let mut text = format!(
        "<details class=\"ranking\"{open}>\n<summary>{method}</summary>\n<p>{summary}</p>\n<div class=\"lists\">\n"
    );
    for (title, list) in &ranking.lists {
        let _ = writeln!(text, "<div>\n<h4>{}</h4>", escape(title));
        if list.is_empty() {
            text.push_str("<p>none</p>\n");
        } else {
            text.push_str("<ol>\n");
            for ranked in list {
                let picture = ranked.picture.as_ref().and_then(|picture| match left.checked_sub(weight(picture)) {
                    Some(rest) => {
                        *left = rest;
                        Some(img(picture))
                    }
                    None => {
                        *out += 1;
                        None
                    }
                });
                let (name, score) = (escape(&ranked.name), escape(&ranked.score));
                let picture = picture.unwrap_or_default();
                let _ = writeln!(text, "<li>{picture}<span>{name}</span> <span class=\"score\">{score}</span></li>");
            }
            text.push_str("</ol>\n");
        }
        text.push_str("</div>\n");
    }
    text.push_str("</div>\n</details>\n");
    text
}

fn provenance(page: &Page, room: &mut Room) -> String {
    let mut text = String::new();
    for (at, facts) in page.facts.iter().enumerate() {
        let rows: String = facts
            .rows
            .iter()
            .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)))
            .collect();
        let title = escape(&facts.title);
        let one = match at {
            0 => format!("<dl>\n{rows}</dl>\n"),
            _ => format!("<details>\n<summary>{title}</summary>\n<dl>\n{rows}</dl>\n</details>\n"),
        };
        match room.text(one) {
            Some(one) => text.push_str(&one),
            None => room.notes.push(format!("\"{}\", for want of room: results.json", facts.title)),
        }
    }
    text
}

fn config(page: &Page, room: &mut Room) -> String {
    if page.config.is_empty() {
        return String::new();
    }
    let text = format!(
        "<details>\n<summary>The resolved experiment, with all defaults</summary>\n<pre class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"The resolved experiment\"><code>{}</code></pre>\n</details>\n",
        escape(&page.config)
    );
    room.text(text).unwrap_or_else(|| {
        room.notes.push("the configuration, for want of room: config.yaml".to_owned());
        String::new()
    })
}

/// A number in four digits that count.
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size == 0.0 => "0".to_owned(),
        _ if !(1e-3..1e6).contains(&size) => format!("{value:.3e}"),
        _ => {
            let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{value:.decimals$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::parts::{Figure, Ranked};

    #[test]
    fn no_character_leaves_its_place() {
        let hostile = "<script>alert('x')</script> & \" \u{0}\u{1b}[2J\u{202e}gnp.exe";
        let escaped = escape(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{0}', '\u{1b}', '\u{202e}']), "{escaped}");
        assert!(escaped.starts_with("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot; "), "{escaped}");
        assert_eq!(escape("a\n\té画"), "a\n\té画");
    }

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 1.0, -12.345_6, 0.012_345, 1e-7, 123_456.7, 1e9].map(short);
        assert_eq!(shown, ["0", "1.000", "-12.35", "0.01235", "1.000e-7", "123457", "1.000e9"]);
    }

    /// A page of pictures of so many bytes.
    fn heavy(count: usize, bytes: usize) -> Page {
        let picture =
            || Picture { media: "image/png", bytes: vec![7; bytes], size: Some([8, 8]), alt: "a picture".into() };
        let example = || Example { label: "one".into(), cells: vec![("PaDiM".into(), picture()); 3] };
        let ranked = || Ranked { name: "a".into(), score: "1".into(), picture: Some(picture()) };
        Page {
            title: "Heavy".into(),
            figures: (0..count)
                .map(|at| Figure { title: "F".into(), file: format!("f{at}.png"), picture: picture() })
                .collect(),
            galleries: vec![
                Gallery { title: "G".into(), examples: vec![example(); count], ..Gallery::default() };
                count
            ],
            rankings: vec![
                Ranking {
                    method: "M".into(),
                    lists: vec![("L".into(), vec![ranked(); 5])],
                    ..Ranking::default()
                };
                count
            ],
            ..Page::default()
        }
    }

    #[test]
    fn a_page_is_no_larger_than_it_may_be_and_tells_what_it_leaves_out() {
        let page = heavy(10, 20_000);
        let all = html(&page, 20 << 20, ["", ""]);
        assert_eq!((all.left_out, all.html.matches("<img ").count()), (0, 10 + 10 * 10 * 3 + 10 * 5));
        for most in [100_000, 300_000, 1 << 20, 4 << 20] {
            let built = html(&page, most, ["", ""]);
            assert!(built.html.len() <= most, "{} of {most}", built.html.len());
            let shown = built.html.matches("<img ").count();
            // Methods without room for their words are counted apart.
            assert!(built.left_out > 0 && shown + built.left_out <= 360, "{shown} and {}", built.left_out);
            assert!(built.html.contains("for want of room"));
        }
        let some = html(&page, 4 << 20, ["", ""]).html;
        assert!((0..10).all(|at| some.contains(&format!("id=\"g{at}\""))), "each gallery has a share");
    }
}
