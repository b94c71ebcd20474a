//! The reference pages are those of the schema: `make reference` writes them, and here it is checked that they are current.

use std::{collections::BTreeMap, env, fs, path::Path};

use serde_json::Value;

/// The pages, the keys of the schema or definitions that each begins with, and what each is about.
const PAGES: [(&str, &[&str], &str); 6] = [
    ("data", &["Data"], "Which images are normal, which are not, and how files become images: the key `data`."),
    ("networks", &["Network"], "What is trained: the key `networks`, with models, backbones, heads and weights."),
    ("training", &["Train"], "How it is trained: the key `train` of a network."),
    ("losses", &["Loss"], "What it learns from: the key `loss` of a network."),
    ("detectors", &["DetectorConfig"], "What scores an image: the key `detector` of a method."),
    (
        "experiment",
        &[
            "title",
            "about",
            "seeds",
            "data",
            "networks",
            "methods",
            "evaluation",
            "search",
            "sweep",
            "tables",
            "figures",
        ],
        "The file as a whole: its keys, methods, tables and figures.",
    ),
];

/// All of the schema that a page tells of.
struct Reference<'a> {
    schema: &'a Value,
    /// The page of each definition.
    page_of: BTreeMap<String, &'static str>,
}

/// The name of the definition that a schema refers to.
fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The definitions that a schema names, in order.
fn names(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = referred(schema) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| names(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

impl<'a> Reference<'a> {
    /// Each definition stands on the page that reaches it first; none is reached through where another page begins.
    fn new(schema: &'a Value) -> Self {
        let mut page_of: BTreeMap<String, &'static str> = BTreeMap::new();
        for (page, starts, _) in PAGES {
            for start in starts.iter().filter(|start| schema["$defs"].get(**start).is_some()) {
                page_of.insert((*start).to_owned(), page);
            }
        }
        for (page, starts, _) in PAGES {
            let mut open: Vec<String> = Vec::new();
            for start in starts {
                let begin = schema["$defs"].get(*start).or_else(|| schema["properties"].get(*start));
                names(begin.unwrap_or(&Value::Null), &mut open);
            }
            open.reverse();
            while let Some(name) = open.pop() {
                if !page_of.contains_key(&name) {
                    page_of.insert(name.clone(), page);
                    let mut more = Vec::new();
                    names(&schema["$defs"][name.as_str()], &mut more);
                    open.extend(more.into_iter().rev());
                }
            }
        }
        Self { schema, page_of }
    }

    /// A link to a definition, from a page.
    fn link(&self, name: &str, page: &str) -> String {
        let there = self.page_of.get(name).copied().unwrap_or(page);
        let file = if there == page { String::new() } else { format!("{there}.md") };
        format!("[{}]({file}#{})", words(name), words(name).replace(' ', "-"))
    }

    /// What may be written, in words.
    fn value(&self, schema: &Value, page: &str) -> String {
        if let Some(name) = referred(schema) {
            return self.link(name, page);
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            if let Some(of) = schema.get(key).and_then(Value::as_array) {
                let mut parts: Vec<String> = Vec::new();
                for one in of.iter().filter(|one| text(one, "type") != "null") {
                    let part = self.value(one, page);
                    if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
                return parts.join(" or ");
            }
        }
        if let Some(only) = schema.get("const") {
            return format!("`{}`", yaml(only));
        }
        if let Some(of) = schema.get("enum").and_then(Value::as_array) {
            return of.iter().map(|one| format!("`{}`", yaml(one))).collect::<Vec<_>>().join(", ");
        }
        let bound = |key: &str| schema.get(key).map(yaml);
        let range = match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            (Some(least), None) => format!(" ≥ {least}"),
            (None, Some(most)) => format!(" ≤ {most}"),
            (None, None) => String::new(),
        };
        let of = |kind: &str| match kind {
            "integer" => format!("whole number{range}"),
            "number" => format!("number{range}"),
            "string" => "text".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" => {
                let of = match schema.get("items").filter(|items| items.is_object()) {
                    Some(items) => format!("list of {}", self.value(items, page)),
                    None => "list".to_owned(),
                };
                match (bound("minItems"), bound("maxItems")) {
                    (Some(least), Some(most)) if least == most => format!("{of}, {least} of them"),
                    _ => of,
                }
            }
            "object" => match schema.get("additionalProperties").filter(|inner| inner.is_object()) {
                Some(inner) => format!("map of names to {}", self.value(inner, page)),
                None => match schema.get("properties").and_then(Value::as_object) {
                    Some(keys) => {
                        let key = |(key, inner): (&String, &Value)| format!("{key}: {}", self.value(inner, page));
                        let keys: Vec<String> = keys.iter().map(key).collect();
                        format!("{{ {} }}", keys.join(", "))
                    }
                    None => "map".to_owned(),
                },
            },
            _ => String::new(),
        };
        match &schema["type"] {
            Value::String(kind) => of(kind),
            Value::Array(kinds) => {
                let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").map(of);
                kinds.collect::<Vec<_>>().join(" or ")
            }
            _ => "anything".to_owned(),
        }
    }

    /// The keys of a map, as a table; empty where it has none.
    fn keys(&self, schema: &Value, page: &str) -> String {
        let Some(keys) = schema.get("properties").and_then(Value::as_object) else { return String::new() };
        let needed: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut rows = String::new();
        for (key, inner) in keys {
            let default = match inner.get("default") {
                _ if needed.contains(&key.as_str()) => "must be given".to_owned(),
                Some(Value::Null) | None => String::new(),
                Some(default) => format!("`{}`", yaml(default)),
            };
            let about = match text(inner, "description") {
                "" => referred(inner).map_or("", |name| text(&self.schema["$defs"][name], "description")),
                about => about,
            };
            rows += &format!("| `{key}` | {} | {default} | {} |\n", cell(&self.value(inner, page)), cell(about));
        }
        if rows.is_empty() {
            return rows;
        }
        format!("| key | value | default | what it is |\n| --- | --- | --- | --- |\n{rows}")
    }

    /// The names of an enumeration, each with its own settings where it has some; empty of other definitions.
    fn choices(&self, schema: &Value, page: &str) -> String {
        let mut rows = String::new();
        let mut open: Vec<&Value> = vec![schema];
        while let Some(one) = open.pop() {
            for key in ["oneOf", "anyOf"] {
                let inner = one.get(key).and_then(Value::as_array).into_iter().flatten();
                open.extend(inner.collect::<Vec<_>>().into_iter().rev());
            }
            let about = cell(text(one, "description"));
            if let Some(only) = one.get("const").filter(|_| !about.is_empty()) {
                rows += &format!("| `{}` | | {about} |\n", yaml(only));
            } else if let (Some(keys), None) =
                (one.get("properties").and_then(Value::as_object), schema.get("properties"))
                && keys.len() == 1
            {
                for (key, inner) in keys {
                    let about = if about.is_empty() { cell(text(inner, "description")) } else { about.clone() };
                    let settings = match referred(inner) {
                        Some(name) if self.is_empty(name) => String::new(),
                        _ => self.value(inner, page),
                    };
                    rows += &format!("| `{key}` | {} | {about} |\n", cell(&settings));
                }
            }
        }
        if rows.is_empty() {
            return rows;
        }
        format!("| name | its settings | what it is |\n| --- | --- | --- |\n{rows}")
    }

    /// Whether a definition is a map in which nothing can be set.
    fn is_empty(&self, name: &str) -> bool {
        let schema = &self.schema["$defs"][name];
        let keys = schema.get("properties").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
        keys && text(schema, "type") == "object" && !schema.get("additionalProperties").is_some_and(Value::is_object)
    }

    /// The page of this name.
    fn page(&self, name: &str, starts: &[&str], about: &str) -> String {
        let mut page = format!("# {}\n\n{about}\n", capital(name));
        if starts.contains(&"title") {
            page += &format!("\n{}", self.keys(self.schema, name));
        }
        let all = self.schema["$defs"].as_object().into_iter().flatten();
        let here = |own: &str| self.page_of.get(own).copied() == Some(name) && !self.is_empty(own);
        for (own, schema) in all.filter(|(own, _)| here(own)) {
            page += &format!("\n## {}\n", words(own));
            // Many are told of where they are named.
            let about = text(schema, "description");
            if !["", "Settings."].contains(&about) {
                page += &format!("\n{}\n", plain(about));
            }
            let mut parts = vec![self.keys(schema, name), self.choices(schema, name)];
            // A map beside a name: a data set, or a file of weights.
            let beside = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key)?.as_array()).flatten();
            let of_several = |one: &Value| one["properties"].as_object().is_some_and(|keys| keys.len() > 1);
            let maps = beside.filter(|one| of_several(one));
            parts.extend(maps.map(|one| format!("A text, or a map of these keys:\n\n{}", self.keys(one, name))));
            parts.iter().filter(|part| !part.is_empty()).for_each(|part| page += &format!("\n{part}"));
            if parts.iter().all(String::is_empty) {
                page += &format!("\nWhat may be written: {}.\n", self.value(schema, name));
            }
        }
        page
    }
}

/// A definition's name as words: `cut paste` of `CutPaste`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for (at, c) in name.char_indices() {
        if at > 0 && c.is_uppercase() && !name[..at].ends_with(char::is_uppercase) {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

fn capital(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

/// A value as YAML on one line.
fn yaml(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let part = |(key, value): (&String, &Value)| format!("{key}: {}", yaml(value));
            format!(
                "{{ {} }}",
                map.iter().filter(|(_, value)| !value.is_null()).map(part).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            text.strip_suffix(".0").unwrap_or(&text).to_owned()
        }
        other => other.to_string(),
    }
}

/// A text without the links that only Rust's documentation has: `[x](crate::y)` is x.
fn plain(text: &str) -> String {
    let mut parts = text.split('[');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((name, rest)) if name.starts_with('`') && !rest.starts_with('(') => plain += &format!("{name}{rest}"),
            Some((name, rest)) if rest.starts_with("(crate::") => {
                plain += &format!("{name}{}", rest.split_once(')').map_or("", |(_, rest)| rest));
            }
            _ => plain += &format!("[{part}"),
        }
    }
    plain
}

/// A text within a row of a table.
fn cell(text: &str) -> String {
    plain(text).replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every page of the reference: its file's name and its text.
fn reference(schema: &Value) -> Vec<(String, String)> {
    let reference = Reference::new(schema);
    let mut index = "# Reference\n\nEvery key of an experiment file: what may be written, its default, and what it is. Written by `make reference` from the schema;\na test checks that it is current. The [guide](../guide/README.md) tells what to use them for.\n\n| page | about |\n| --- | --- |\n".to_owned();
    let mut pages = Vec::new();
    for (name, starts, about) in PAGES {
        index += &format!("| [{}]({name}.md) | {about} |\n", capital(name));
        pages.push((format!("{name}.md"), reference.page(name, starts, about)));
    }
    index += "\nAny map may be a file, `!include ../configs/train/short.yaml`. `<<: !include …` merges one; keys beside it win.\n";
    pages.push(("README.md".to_owned(), index));
    pages
}

/// Every page equals what the types of the configuration say. With `OODKIT_WRITE_REFERENCE=1` (`make reference`) it is written instead.
#[test]
fn pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let pages = reference(&schemars::schema_for!(oodkit::config::Experiment).to_value());
    if env::var_os("OODKIT_WRITE_REFERENCE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        pages.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
        return;
    }
    for (name, text) in &pages {
        let stored = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            stored == *text,
            "docs/reference/{name} is not what the configuration's types say: run `make reference`"
        );
    }
    let stored = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let unknown: Vec<_> = stored.filter(|name| pages.iter().all(|(page, _)| *name != page.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Every definition stands on one page, every key of the configuration has a description, and links lead to headings.
#[test]
fn everything_is_told_of() {
    let schema = schemars::schema_for!(oodkit::config::Experiment).to_value();
    let pages: BTreeMap<String, String> = reference(&schema).into_iter().collect();
    for (page, text) in &pages {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let Some((file, heading)) = link.split_once('#').filter(|_| !link.contains(':')) else { continue };
            let there = &pages[if file.is_empty() { page } else { file }];
            assert!(there.contains(&format!("\n## {}\n", heading.replace('-', " "))), "{page}: {link}");
        }
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let bare: Vec<&str> = rows.filter(|row| row.trim_end().ends_with("|  |")).collect();
        assert!(bare.is_empty(), "{page} has rows without a description: {bare:?}");
    }
}
