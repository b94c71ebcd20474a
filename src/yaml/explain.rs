//! A YAML error in our words: file, line, column, what is wrong, the line itself, and what to write instead.

use serde_saphyr::{Location, MessageFormatter, UserMessageFormatter};

use crate::{Error, did_you_mean, for_terminal};

/// Columns of a line that an excerpt shows at most.
const EXCERPT_WIDTH: usize = 160;

const TOO_LARGE: &str = "too large for an experiment file: too deep, too long, or too many aliases (`*name`)";

/// A text that took part in reading an experiment, in the order of reading: the file itself, then its includes.
#[derive(Debug, Clone)]
pub struct Source {
    /// How messages call it.
    pub name: String,
    /// What it says.
    pub text: String,
    /// Where it was included.
    pub included_at: Option<Location>,
}

/// As [`Document::required`](super::load::Document::required).
pub type Required = fn(Option<&str>, &str) -> Option<Vec<String>>;

/// What is wrong at one place.
struct Finding {
    location: Option<Location>,
    /// Line and column of what it is about in that file, where that is not the place at which the reading ended.
    instead: Option<(u64, u64)>,
    message: String,
    hint: Option<String>,
}

impl Finding {
    fn new(location: Option<Location>, message: impl Into<String>) -> Self {
        Self { location, instead: None, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `error` as [`Error::Input`] with the offending line of one of `sources` (there is at least the experiment's own).
pub fn explain(error: &serde_saphyr::Error, sources: &[Source], required: Required) -> Error {
    let findings = findings(error, sources, required);
    let hint = findings.iter().find_map(|finding| finding.hint.clone());
    let blocks: Vec<String> = findings.iter().map(|finding| block(finding, sources)).collect();
    let explained = Error::input(blocks.join("\n"));
    match hint {
        Some(hint) => explained.hint(hint),
        None => explained,
    }
}

fn source(location: Location, sources: &[Source]) -> Option<&Source> {
    sources.get((location.source_id() as usize).saturating_sub(1))
}

/// `file:line:column: message`, the line with a mark below the column, and the includes that led there.
fn block(finding: &Finding, sources: &[Source]) -> String {
    // A message must not drive the terminal.
    let message = for_terminal(&finding.message);
    let known = finding.location.filter(|location| *location != Location::UNKNOWN);
    let Some((location, from)) = known.and_then(|location| Some((location, source(location, sources)?))) else {
        return match sources.first() {
            Some(root) => format!("{}: {message}", root.name),
            None => message,
        };
    };
    let (line, column) = finding.instead.unwrap_or((location.line(), location.column()));
    let mut block = format!("{}:{line}:{column}: {message}", from.name);
    block.push_str(&excerpt(&from.text, line, column));
    let mut included = from.included_at;
    while let Some((at, parent)) = included.and_then(|at| Some((at, source(at, sources)?))) {
        block.push_str(&format!("\nincluded from {}:{}:{}", parent.name, at.line(), at.column()));
        included = parent.included_at;
    }
    block
}

fn excerpt(text: &str, line: u64, column: u64) -> String {
    let Some(shown) = line_of(text, line) else { return String::new() };
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    let before = usize::try_from(column).unwrap_or(1).saturating_sub(1);
    if before >= EXCERPT_WIDTH {
        return String::new();
    }
    let shown: String = shown.chars().take(EXCERPT_WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mark = " ".repeat(before);
    format!("\n{gutter} |\n{number} | {}\n{gutter} | {mark}^", shown.trim_end())
}

fn line_of(text: &str, line: u64) -> Option<&str> {
    text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)
}

fn findings(error: &serde_saphyr::Error, sources: &[Source], required: Required) -> Vec<Finding> {
    use serde_saphyr::Error as E;
    let error = error.without_snippet();
    let at = error.location();
    let finding = match error {
        E::AliasError { error, .. } => return findings(error, sources, required),
        E::ValidationError { issues, locations, .. } => {
            return issues
                .iter()
                .map(|issue| {
                    let steps: Vec<&str> = issue.path.segments().map(|(_, name)| name).collect();
                    let located = locations.locations_for(&issue.path);
                    let at = located.and_then(|locations| locations.primary_location());
                    let message = issue.message.as_deref().unwrap_or(&issue.code);
                    Finding::new(at, format!("{}: {message}", steps.join(".")))
                })
                .collect();
        }
        E::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected).locate(at),
        E::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected).locate(at),
        E::SerdeMissingField { field, .. } => missing_key(field, at, sources, required),
        E::SerdeInvalidType { unexpected, expected, .. } | E::SerdeInvalidValue { unexpected, expected, .. } => {
            Finding::new(at, format!("expected {}, found {}", type_words(expected), type_words(unexpected)))
        }
        E::InvalidScalar { ty, .. } => Finding::new(at, expected(type_words(ty), at, sources)),
        E::InvalidBooleanStrict { .. } => Finding::new(at, expected("true or false".into(), at, sources)),
        E::Unexpected { expected: "mapping end", .. } | E::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            Finding::new(at, "only one name may stand here, and this is the second")
        }
        E::Unexpected { expected: what, .. } => {
            let what = type_words(what);
            let lacks = (what == "a map").then(|| lacks_settings(at, sources)).flatten();
            lacks.unwrap_or_else(|| Finding::new(at, expected(what, at, sources)))
        }
        E::ExternallyTaggedEnumExpectedScalarOrMapping { .. } | E::ExpectedStringKeyForExternallyTaggedEnum { .. } => {
            Finding::new(at, expected("a name, or a map of a name and its settings".into(), at, sources))
        }
        E::NullIntoString { .. } => Finding::new(at, "expected text, found nothing"),
        E::DuplicateMappingKey { key: Some(key), .. } => Finding::new(at, format!("key `{key}` is given twice")),
        E::UnknownAnchor { .. } => Finding::new(at, "no anchor (`&name`) of this name stands above")
            .hint("text that starts with `*` must be in quotes"),
        E::MergeValueNotMapOrSeqOfMaps { .. } => Finding::new(at, "`<<` needs a map, or a list of maps"),
        E::MultipleDocuments { .. } => {
            Finding::new(at, "a second document (`---`) starts; an experiment file is one document")
        }
        E::UnsupportedIncludeForm { .. } => {
            Finding::new(at, "`!include` takes a file name: `!include ../configs/train/sgd_100.yaml`")
        }
        E::CyclicInclude { .. } => Finding::new(at, "this file is being read already: the includes go in a circle"),
        E::ResolverError { error: serde_saphyr::IncludeResolveError::Message(message), .. } => {
            match message.split_once("\nhint: ") {
                Some((message, hint)) => Finding::new(at, message).hint(hint),
                None => Finding::new(at, message),
            }
        }
        E::Budget { .. } | E::AliasReplayLimitExceeded { .. } | E::AliasReplayStackDepthExceeded { .. } => {
            Finding::new(at, TOO_LARGE)
        }
        E::Eof { .. } if sources.first().is_some_and(|root| is_empty(&root.text)) => {
            Finding::new(None, "the file is empty").hint("see experiments/quickstart.yaml for what belongs in one")
        }
        other => {
            let message = UserMessageFormatter.format_message(other);
            // Our own lines say what was included where.
            let message = message.split("\nwhile parsing").next().unwrap_or_default();
            if message.contains("recursion limit") {
                Finding::new(at, TOO_LARGE)
            } else if message.contains("tab") {
                Finding::new(at, message).hint("YAML indents with spaces; this line has a tab")
            } else {
                Finding::new(at, message)
            }
        }
    };
    vec![finding]
}

/// A name that needs a map of settings and has none, or a key without its value. The reading ends at what comes next.
fn lacks_settings(at: Option<Location>, sources: &[Source]) -> Option<Finding> {
    let end = at.filter(|location| *location != Location::UNKNOWN)?;
    let (row, column) = (usize::try_from(end.line()).ok()?, usize::try_from(end.column()).ok()?);
    let lines: Vec<&str> = source(end, sources)?.text.lines().collect();
    // The place may be behind the last line.
    let last = lines.get(row.checked_sub(1)?).copied().unwrap_or_default();
    let same: String = last.chars().take(column.checked_sub(1)?).collect();
    let same = same.trim_end();
    let found = |line: usize, word: &str, before: usize| {
        let word = word.trim_matches(['"', '\'']);
        let mut finding = Finding::new(at, format!("`{word}` needs its settings, a map"));
        finding.instead = Some((line as u64, before as u64 + 1));
        finding
            .hint(format!("write `{{ {word}: {{}} }}` for its defaults, with its settings inside of the inner braces"))
    };
    let without_value = |line: usize, text: &str| {
        let key = text.trim().trim_start_matches("- ");
        let mut finding = Finding::new(at, format!("`{key}` has no value"));
        finding.instead = Some((line as u64, (text.trim_end().chars().count() - key.chars().count()) as u64 + 1));
        finding.hint("it takes a map of settings; `{}` has the defaults")
    };
    // The colon of the key itself.
    if !same.is_empty() && last.chars().skip(same.chars().count()).collect::<String>().trim() == ":" {
        return Some(without_value(row, same));
    }
    if let Some(before) = same.strip_suffix(',') {
        // Within braces: the word before the comma, unless it ends a map or a list of its own.
        let start = before.rfind([' ', ':', '{', '[', ',']).map_or(0, |at| at + 1);
        let word = &before[start..];
        return (!word.is_empty() && !word.ends_with(['}', ']']))
            .then(|| found(row, word, before[..start].chars().count()));
    }
    if !same.is_empty() {
        return None;
    }
    // At the start of a line: the last word of what stands above.
    let content = |line: &str| line.split(" #").next().unwrap_or_default().trim_end().to_owned();
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let above = lines.iter().take(row - 1).rposition(|line| says(line))?;
    let text = content(lines[above]);
    let text = text.trim_end_matches(',');
    let indent = text.len() - text.trim_start().len();
    let start = text.rfind([' ', ':']).map_or(0, |at| at + 1);
    match &text[start..] {
        // A key without a value, and not one whose value starts here.
        "" if text.ends_with(':') && column <= indent + 1 => Some(without_value(above + 1, &text[..text.len() - 1])),
        word if !word.is_empty()
            && !word.ends_with(['}', ']', '|', '>'])
            && text[..start].trim_end().ends_with(':') =>
        {
            Some(found(above + 1, word, text[..start].chars().count()))
        }
        _ => None,
    }
}

/// A key that a map lacks, with all that the map must have; the place is that of the map's last key.
fn missing_key(field: &str, at: Option<Location>, sources: &[Source], required: Required) -> Finding {
    let mut finding = Finding::new(at, format!("this map lacks the key `{field}`"));
    let Some(at) = at.filter(|location| *location != Location::UNKNOWN) else { return finding };
    let Some(from) = source(at, sources) else { return finding };
    let whole_file = at.column() == 1;
    finding.instead = whole_file.then_some((1, 1));
    let parent = if whole_file {
        // An included file is the value of the key that includes it.
        from.included_at.and_then(|at| Some((at, source(at, sources)?))).map(|(at, parent)| key_above(&parent.text, at))
    } else {
        Some(key_above(&from.text, at))
    };
    let needed = match parent {
        None => required(None, field),
        Some(Some(key)) => required(Some(&key), field),
        Some(None) => None,
    };
    match needed {
        Some(needed) if needed.len() > 1 => finding.hint(format!("it must have: {}", needed.join(", "))),
        _ => finding,
    }
}

/// The key whose value is the map, or the list of maps, that has something at this place: `sweep` of `sweep: { method: X }`.
fn key_above(text: &str, at: Location) -> Option<String> {
    let (row, column) = (usize::try_from(at.line()).ok()?, usize::try_from(at.column()).ok()?);
    let lines: Vec<&str> = text.lines().collect();
    let before: String = lines.get(row.checked_sub(1)?)?.chars().take(column.checked_sub(1)?).collect();
    // What is included stands for its key's value; what is merged, for the map that it is merged into.
    let before = before.trim_end().strip_suffix("!include").map_or(&*before, str::trim_end);
    let before = before.strip_suffix("<<:").unwrap_or(before);
    let key = |text: &str| {
        let text = text.trim_end().strip_suffix(':')?;
        Some(text.rsplit([' ', '{', ',', '[']).next()?.to_owned())
    };
    // Within braces, what stands before the one that is open.
    let mut open = 0;
    for (place, c) in before.char_indices().rev() {
        match c {
            '}' | ']' => open += 1,
            '{' if open == 0 => return key(&before[..place]),
            '{' | '[' => open -= 1,
            _ => {}
        }
    }
    if let Some(key) = key(before) {
        return Some(key);
    }
    // Else the nearest line above that stands farther left and opens something; a dash is farther left than its item.
    let mut indent = if before.trim().is_empty() { before.chars().count() } else { before.find('-')? + 1 };
    for line in lines[..row - 1].iter().rev() {
        let (own, content) = (line.len() - line.trim_start().len(), line.trim_start());
        if content.is_empty() || content.starts_with('#') || own >= indent {
            continue;
        }
        if let Some(key) = key(content.trim_start_matches("- ")) {
            return Some(key);
        }
        // The first line of an item of a list: the list's key stands no farther right than the dash.
        indent = if content.starts_with("- ") { own + 1 } else { own };
    }
    None
}

/// Whether a YAML text has no content.
pub fn is_empty(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

impl Finding {
    fn locate(mut self, location: Option<Location>) -> Self {
        self.location = location;
        self
    }
}

fn unknown(what: &str, given: &str, expected: &[&str]) -> Finding {
    let near = did_you_mean(given, expected.iter().copied());
    let finding = Finding::new(None, format!("unknown {what} `{given}`{near}"));
    match expected {
        [] => finding.hint("nothing can be set here"),
        [only] => finding.hint(format!("the only {what} here is {only}")),
        _ => finding.hint(format!("{what}s here: {}", expected.join(", "))),
    }
}

fn expected(what: String, location: Option<Location>, sources: &[Source]) -> String {
    match token(location, sources) {
        Some(found) => format!("expected {what}, found {found}"),
        None => format!("expected {what}"),
    }
}

/// What stands at a location, as a reader of the file would call it.
fn token(location: Option<Location>, sources: &[Source]) -> Option<String> {
    let location = location.filter(|location| *location != Location::UNKNOWN)?;
    let line = line_of(&source(location, sources)?.text, location.line())?;
    let skip = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let rest: String = line.chars().skip(skip).collect();
    match rest.chars().next() {
        None | Some('#') => Some("nothing".into()),
        Some('[') => Some("a list".into()),
        Some('-') if rest.starts_with("- ") => Some("a list".into()),
        Some('{') => Some("a map".into()),
        Some('!' | '&' | '*' | '|' | '>') => None,
        Some('"' | '\'') => Some(format!("the text {}", rest.split([',', '}', ']']).next()?.trim_end())),
        Some(_) if rest.contains(": ") && !rest.contains('}') || rest.ends_with(':') => Some("a map".into()),
        Some(_) => {
            let word = rest.split([',', '}', ']']).next()?.split(" #").next()?.trim_end();
            Some(format!("`{word}`"))
        }
    }
}

/// Rust's and YAML's names of types in words: `a whole number ≥ 0` for `usize`.
pub fn type_words(technical: &str) -> String {
    match technical.trim() {
        "usize" | "u64" | "u32" | "u16" | "u8" | "invalid u64" => "a whole number ≥ 0".into(),
        "i64" | "i32" => "a whole number".into(),
        "f64" | "f32" | "float" | "invalid floating point" => "a number".into(),
        "bool" | "boolean" | "a boolean" => "true or false".into(),
        "string" | "a string" | "str" | "string scalar" | "path string" => "text".into(),
        "sequence" | "a sequence" | "sequence start" => "a list".into(),
        "map" | "a map" | "mapping start" | "mapping" => "a map".into(),
        "unit value" | "null" => "nothing".into(),
        other if other.starts_with("struct ") => "a map".into(),
        other if other.starts_with("enum ") || other.contains("enum variant") => "one of the known names".into(),
        other => {
            let quoted = |prefix: &str| other.strip_prefix(prefix).map(|value| value.replace('`', ""));
            if let Some(value) = quoted("integer ").or_else(|| quoted("floating point ")).or_else(|| quoted("boolean "))
            {
                format!("`{value}`")
            } else if let Some(value) = other.strip_prefix("string ") {
                format!("the text {value}")
            } else {
                other.to_owned()
            }
        }
    }
}
