//! What there is to know of a detector, in words: the head of its file, what it needs, and its settings from the schema.

use std::fmt::Write as _;

use serde_json::Value;

use super::DetectorConfig;
use crate::{Error, Result};

impl DetectorConfig {
    /// What the detector of this name computes, its paper and reference code, what it needs, and each setting with its values, its
    /// default and where that comes from.
    ///
    /// # Errors
    /// [`Error::Input`] with the nearest name, if there is no such detector.
    pub fn describe(name: &str) -> Result<String> {
        let config = Self::default_of(name)?;
        let schema = schemars::schema_for!(Self).to_value();
        let mut text = format!("{name}: {}\n\n", config.about());
        for line in config.source().lines().map_while(|line| line.strip_prefix("//!")) {
            let _ = writeln!(text, "{}", without_links(line.strip_prefix(' ').unwrap_or(line)));
        }
        let _ = write!(text, "\nneeds     {}\nsettings  ", config.wanted().join(", "));
        let settings = settings_schema(&schema, name).ok_or_else(|| Error::Failed(format!("{name} has no schema")))?;
        match settings["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
            true => text.push_str(&format!("of `{name}: {{ … }}`\n")),
            false => text.push_str("none\n"),
        }
        list(&mut text, settings, &schema, "  ");
        Ok(text)
    }
}

/// The schema of a detector's settings.
fn settings_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let long = schema["anyOf"].as_array()?.iter().find_map(|either| either["oneOf"].as_array())?;
    let settings = long.iter().find_map(|detector| detector["properties"].get(name))?;
    Some(followed(settings, schema))
}

/// What a reference refers to.
fn followed<'a>(value: &'a Value, schema: &'a Value) -> &'a Value {
    let name = value["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    name.map_or(value, |name| &schema["$defs"][name])
}

/// Each setting of an object, its kind, its default and what it means.
fn list(text: &mut String, object: &Value, schema: &Value, indent: &str) {
    for (key, setting) in object["properties"].as_object().into_iter().flatten() {
        let kind = followed(setting, schema);
        let default = match setting.get("default") {
            // Its description says which, for an option that files leave out.
            None => String::new(),
            Some(Value::Null) => "; no default".to_owned(),
            Some(Value::String(text)) => format!("; default {text}"),
            Some(Value::Number(number)) => {
                number.as_f64().map(|number| format!("; default {}", plain(number))).unwrap_or_default()
            }
            Some(other) => format!("; default {other}"),
        };
        let _ = writeln!(text, "{indent}{key}: {}{default}", in_words(kind));
        describe_lines(text, &setting["description"], indent);
        for option in kind["oneOf"].as_array().into_iter().flatten() {
            let meaning = option["description"].as_str().unwrap_or_default();
            let _ =
                writeln!(text, "{indent}    {}: {}", option_name(option).unwrap_or_default(), without_links(meaning));
        }
        if kind["properties"].is_object() {
            list(text, kind, schema, &format!("{indent}    "));
        }
        list(text, followed(&kind["additionalProperties"], schema), schema, &format!("{indent}    "));
    }
}

/// `max`, or `{ top: … }` of one that has a value.
fn option_name(option: &Value) -> Option<String> {
    let key = || Some(format!("{{ {}: … }}", option["properties"].as_object()?.keys().next()?));
    option["const"].as_str().map(str::to_owned).or_else(key)
}

fn describe_lines(text: &mut String, description: &Value, indent: &str) {
    for line in description.as_str().unwrap_or_default().lines() {
        let _ = writeln!(text, "{indent}    {}", without_links(line));
    }
}

/// `a whole number from 1 to 32`, `s, b or p`.
fn in_words(kind: &Value) -> String {
    if let Some(options) = kind["oneOf"].as_array() {
        return or(&options.iter().filter_map(option_name).collect::<Vec<_>>());
    }
    if let Some(options) = kind["anyOf"].as_array() {
        return options.iter().map(in_words).collect::<Vec<_>>().join(", or ");
    }
    if let Some(names) = kind["enum"].as_array() {
        return or(&names.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    }
    if let Some(name) = kind["const"].as_str() {
        return name.to_owned();
    }
    let types = kind["type"].as_array().map_or_else(|| vec![&kind["type"]], |types| types.iter().collect());
    let range = match (kind["minimum"].as_f64(), kind["maximum"].as_f64()) {
        (Some(least), Some(most)) => format!(" from {} to {}", plain(least), plain(most)),
        _ => String::new(),
    };
    let names: Vec<String> = types
        .into_iter()
        .map(|name| match name.as_str().unwrap_or_default() {
            "integer" => format!("a whole number{range}"),
            "number" => format!("a number{range}"),
            "boolean" => "true or false".to_owned(),
            "string" => "text".to_owned(),
            "array" => "a list".to_owned(),
            "object" if kind["properties"].is_object() => "settings".to_owned(),
            "object" => "a map of names to settings".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    or(&names)
}

/// `a, b or c`
fn or(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match &names[..] {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A number as a person would write it: `1000000`, `0.001`, `1e-9`.
fn plain(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number}") } else { format!("{number:?}") }
}

/// Without the brackets that make links of a line in the documentation of the code.
fn without_links(line: &str) -> String {
    let mut text = line.replace("[`", "`").replace("`]", "`");
    while let Some((open, end)) = text.find("](").and_then(|at| Some((text[..at].rfind('[')?, at)))
        && let Some(close) = text[end..].find(')')
    {
        text = format!("{}{}{}", &text[..open], &text[open + 1..end], &text[end + close + 1..]);
    }
    text
}
