//! `key=value` on a typed experiment.
//!
//! An override names a key of the resolved experiment, with all defaults filled in, by its path:
//! `networks.tuned.loss.sparsity.weight=0.05`, `data.ood.0=svhn`, `seeds=[0,1,2]`. The value is YAML. A key that may be
//! absent exists even where it is (`evaluation.redraw={draws: 5}`), but nothing below it does until it is set. A name of
//! the file's own choosing (a network, a swept path) must be in the file.

use serde_json::Value;

use crate::{
    Error, Result,
    config::{Experiment, check::check, methods::ALL},
    did_you_mean,
    yaml::explain::{Source, explain, type_words},
};

/// The overrides in a text: `seeds=[0, 1] title=Two words` is two. They are parted at spaces, outside brackets and quotes,
/// that a word of the form `key=` follows; so a value may have spaces as long as no such word is in it, or is in quotes.
///
/// There is at least one, which is empty if the text is.
pub fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quote) = (0usize, None);
    let mut before = '=';
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, _) if depth == 0 && c.is_whitespace() && starts_with_key(&text[at + c.len_utf8()..]) => {
                parts.push(String::new());
            }
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            // As in YAML, a quote opens only where a value starts (not in `title=Don't`), or again after `''`.
            (None, '"' | '\'') if before.is_whitespace() || "=[{,:".contains(before) => quote = Some(c),
            (None, '\'') if before == '\'' => quote = Some(c),
            (Some('"'), '"') if before == '\\' => {}
            (Some(open), _) if c == open => quote = None,
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        // A backslash that is escaped itself escapes nothing.
        before = if before == '\\' && c == '\\' { ' ' } else { c };
    }
    let parts: Vec<String> = parts.iter().map(|part| part.trim().to_owned()).collect();
    let first = parts.first().cloned().unwrap_or_default();
    if first.is_empty() && parts.len() > 1 { parts[1..].to_vec() } else { parts }
}

/// Whether a text starts with `key=`, a key being names with dots.
fn starts_with_key(text: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split_once('=').is_some_and(|(key, _)| {
        key.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && key.split('.').all(|name| !name.is_empty() && name.chars().all(is_name))
    })
}

/// The experiment with `key=value` overrides applied in order, checked as if the file had said so.
///
/// # Errors
/// [`Error::Input`] that quotes the override: no such key (with the nearest), not YAML, the wrong type, out of range, or a
/// name that refers to nothing.
pub fn apply(experiment: &Experiment, overrides: &[String]) -> Result<Experiment> {
    if overrides.is_empty() {
        return Ok(experiment.clone());
    }
    let mut tree = to_tree(experiment)?;
    for text in overrides {
        let quoted = |error: Error| error.at(&format!("override `{text}`"));
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| quoted(Error::input("there is no `=`")).hint("an override is key=value: seeds=[0,1,2]"))?;
        let value = parse_value(value).map_err(quoted)?;
        let before = tree.clone();
        set(&mut tree, key.trim(), value).map_err(quoted)?;
        // Typed after each one, so that a message names the right override.
        let typed = to_experiment(&tree).map_err(quoted)?;
        tree = to_tree(&typed)?;
        let named =
            |path: &str| overrides.iter().any(|other| other.split_once('=').is_some_and(|(key, _)| key.trim() == path));
        if let Some(index) = key.trim().strip_prefix("methods.").and_then(|rest| rest.strip_suffix(".detector"))
            && !named(&format!("methods.{index}.name"))
        {
            follow_detector(&mut tree, &before, index);
        }
    }
    let experiment = to_experiment(&tree)?;
    check(&experiment).map_err(|error| error.at(&format!("override {}", quote_all(overrides))))?;
    Ok(experiment)
}

/// Refuses overrides of keys that the experiment sweeps: no cell would have their values.
///
/// # Errors
/// [`Error::Input`] that quotes the first.
pub fn refuse_swept(experiment: &Experiment, overrides: &[String]) -> Result<()> {
    for text in overrides {
        if let Some((key, value)) = text.split_once('=')
            && experiment.sweep.contains_key(key.trim())
        {
            let message = format!("override `{text}`: the file sweeps this key, with values of its own");
            return Err(
                Error::input(message).hint(format!("sweep this value alone: --sweep \"{}=[{value}]\"", key.trim()))
            );
        }
    }
    Ok(())
}

/// The experiment with `key=[values]` added to its sweep, replacing what the file sweeps over that key.
///
/// # Errors
/// [`Error::Input`] that quotes the text, if it is not `key=[values]`; the key and the values are checked by
/// [`sweep::cells`](super::sweep::cells).
pub fn apply_sweep(experiment: &Experiment, sweeps: &[String]) -> Result<Experiment> {
    let mut experiment = experiment.clone();
    for text in sweeps {
        let quoted = |error: Error| error.at(&format!("sweep `{text}`"));
        let (key, values) =
            text.split_once('=').ok_or_else(|| quoted(Error::input("there is no `=`")).hint(A_SWEEP))?;
        let Value::Array(values) = parse_value(values).map_err(quoted)? else {
            return Err(quoted(Error::input("the values are not a list")).hint("write them in brackets: key=[0, 0.1]"));
        };
        experiment.sweep.insert(key.trim().to_owned(), values);
    }
    Ok(experiment)
}

const A_SWEEP: &str = "a sweep is key=[values]: networks.tuned.loss.sparsity.weight=[0,0.1]";

fn quote_all(overrides: &[String]) -> String {
    overrides.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(" ")
}

/// The experiment as a tree of its keys, with all defaults.
pub(super) fn to_tree(experiment: &Experiment) -> Result<Value> {
    serde_json::to_value(experiment).map_err(|error| Error::Failed(format!("cannot write the experiment: {error}")))
}

/// The experiment that a tree says; its types are checked, its ranges and references are not.
pub(super) fn to_experiment(tree: &Value) -> Result<Experiment> {
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let path = error.path().to_string().replace('[', ".").replace(']', "");
        let reason = words(&error.inner().to_string());
        Error::input(if path == "." { reason } else { format!("{path}: {reason}") })
    })
}

/// serde's `invalid type: string "x", expected usize` in our words.
fn words(reason: &str) -> String {
    let found_and_expected = |rest: &str| {
        let (found, expected) = rest.split_once(", expected ")?;
        Some(format!("expected {}, found {}", type_words(expected), type_words(found)))
    };
    let invalid = reason.strip_prefix("invalid type: ").or_else(|| reason.strip_prefix("invalid value: "));
    if let Some(said) = invalid.and_then(found_and_expected) {
        return said;
    }
    for (kind, what) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        if let Some((given, expected)) = reason.strip_prefix(kind).and_then(|rest| rest.split_once('`')) {
            let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            let near = did_you_mean(given, names.iter().copied());
            return format!("unknown {what} `{given}`{near}; {what}s here: {}", names.join(", "));
        }
    }
    reason.replace("missing field", "missing key")
}

fn parse_value(text: &str) -> Result<Value> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    if text.trim().is_empty() {
        return Err(Error::input("there is no value after `=`").hint("`null` unsets a key, `\"\"` is empty text"));
    }
    let text = text.trim();
    if text.starts_with('!') || !text.starts_with(['"', '\'']) && text.contains("!include") {
        return Err(Error::input("a value here has no `!` tag, so nothing is included")
            .hint("write the value out, or put it in quotes if it is text"));
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let source = Source { name: "value".into(), text: text.to_owned(), included_at: None };
        // Any value may stand here, so no map lacks a key.
        explain(&error, &[source], |_, _| None)
    })
}

/// Lets a method whose detector became another be called by it, in the tables and figures that name it, too: "MSP" would not be
/// what its row shows.
fn follow_detector(tree: &mut Value, before: &Value, index: &str) {
    let Ok(index) = index.parse::<usize>() else { return };
    let kind = |tree: &Value| match &tree["methods"][index]["detector"] {
        Value::String(name) => Some(name.clone()),
        settings => settings.as_object()?.keys().next().cloned(),
    };
    let (Some(old), Some(new)) = (kind(before), kind(tree)) else { return };
    if old == new || new == ALL || old == ALL {
        return;
    }
    let Some(Value::String(name)) = tree["methods"][index].as_object_mut().and_then(|method| method.remove("name"))
    else {
        return;
    };
    let rename = |value: &mut Value| {
        if value.as_str() == Some(&name) {
            *value = Value::String(new.clone());
        }
    };
    let tables = tree["tables"].as_array_mut().into_iter().flatten();
    tables.filter_map(|table| table["methods"].as_array_mut()).flatten().for_each(rename);
    let figures = tree["figures"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    for figure in figures.flat_map(serde_json::Map::values_mut).filter_map(Value::as_object_mut) {
        figure.get_mut("methods").and_then(Value::as_array_mut).into_iter().flatten().for_each(rename);
        figure.get_mut("method").into_iter().for_each(rename);
    }
}

/// Replaces what stands at `path`, which must exist or be a key that is only written where it is set (`members`).
pub(super) fn set(tree: &mut Value, path: &str, value: Value) -> Result<()> {
    let error = match find(tree, path) {
        Ok(place) => {
            *place = value;
            return Ok(());
        }
        Err(error) => error,
    };
    let error = with_all_keys(tree, path).unwrap_or(error);
    let Some((parent, key)) = path.rsplit_once('.') else { return Err(error) };
    let with = |key: &str, value| {
        let mut tree = tree.clone();
        find(&mut tree, parent).ok()?.as_object_mut()?.insert(key.to_owned(), value);
        Some(tree)
    };
    let is_unknown = |key: &str| {
        let typed = with(key, Value::Null).map(|tree| to_experiment(&tree));
        matches!(typed, Some(Err(error)) if error.to_string().contains(&format!("unknown key `{key}`")))
    };
    // Where a file chooses names, none is unknown: a new one is a misspelt one.
    match with(key, value) {
        Some(with_key) if is_unknown("-") && !is_unknown(key) => *tree = with_key,
        _ => return Err(error),
    }
    Ok(())
}

/// The error of a key that is not there, with every key that may be, those among them that are only written where they are set.
/// `None` where the file chooses the keys, or something else is wrong.
fn with_all_keys(tree: &Value, path: &str) -> Option<Error> {
    if path.is_empty() {
        return None;
    }
    let mut tree = tree.clone();
    let dots = path.match_indices('.').map(|(dot, _)| dot).rev();
    // The innermost map that is there.
    let parent = dots.map(|dot| &path[..dot]).find(|parent| find(&mut tree, parent).is_ok()).unwrap_or_default();
    let missing = path[parent.len()..].trim_start_matches('.').split('.').next()?.to_owned();
    let map = if parent.is_empty() { &mut tree } else { find(&mut tree, parent).ok()? };
    map.as_object_mut()?.insert("-".to_owned(), Value::Null);
    let message = to_experiment(&tree).err()?.to_string();
    let keys: Vec<&str> = message.split_once("unknown key `-`")?.1.split_once("keys here: ")?.1.split(", ").collect();
    let place = if parent.is_empty() { "here".to_owned() } else { format!("in {parent}") };
    let near = did_you_mean(&missing, keys.iter().copied());
    Some(
        Error::input(format!("there is no key `{missing}` {place}{near}"))
            .hint(format!("keys {place}: {}", keys.join(", "))),
    )
}

/// What stands at a dotted path. A key may itself have dots (`sweep.networks.tuned.loss.sparsity.weight`): the longest
/// key that fits is taken.
fn find<'a>(tree: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    if path.is_empty() {
        return Err(Error::input("there is no key before `=`").hint("an override is key=value: seeds=[0,1,2]"));
    }
    let mut node = tree;
    let mut rest = path;
    while !rest.is_empty() {
        let done = path[..path.len() - rest.len()].trim_end_matches('.');
        let place = if done.is_empty() { "here".to_owned() } else { format!("in {done}") };
        let (first, after_first) = rest.split_once('.').unwrap_or((rest, ""));
        match node {
            Value::Object(map) => {
                let fits = |key: &&String| {
                    rest.strip_prefix(key.as_str()).is_some_and(|after| after.is_empty() || after.starts_with('.'))
                };
                let Some(key) = map.keys().filter(fits).max_by_key(|key| key.len()).cloned() else {
                    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
                    let near = did_you_mean(first, keys.iter().copied());
                    let error = Error::input(format!("there is no key `{first}` {place}{near}"));
                    return Err(if keys.is_empty() {
                        error
                    } else {
                        error.hint(format!("keys {place}: {}", keys.join(", ")))
                    });
                };
                rest = rest[key.len()..].trim_start_matches('.');
                node = map.get_mut(&key).ok_or_else(|| Error::Failed(format!("key {key} vanished")))?;
            }
            Value::Array(entries) => {
                let count = entries.len();
                let entry = first.parse::<usize>().ok().and_then(|index| entries.get_mut(index));
                node = entry.ok_or_else(|| {
                    let last = count.saturating_sub(1);
                    Error::input(match count {
                        0 => format!("there is no `{first}` {place}: the list is empty"),
                        1 => format!("there is no `{first}` {place}: the list has one entry, 0"),
                        _ => format!("there is no `{first}` {place}: the list has entries 0 to {last}"),
                    })
                })?;
                rest = after_first;
            }
            Value::Null => {
                return Err(Error::input(format!("`{done}` is not set, so it has no `{first}`"))
                    .hint(format!("set it whole: {done}={{{first}: …}}")));
            }
            other => return Err(Error::input(format!("`{done}` is {other}, so it has no `{first}`"))),
        }
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_not_taken_as_text() {
        for text in ["!include x.yaml", " !str 1", "{train: !include x.yaml}", "[!include x.yaml]"] {
            assert!(parse_value(text).unwrap_err().to_string().contains("no `!` tag"), "{text}");
        }
        assert_eq!(parse_value("'!include x'").unwrap(), "!include x");
        assert_eq!(parse_value("Stop! now").unwrap(), "Stop! now");
    }

    #[test]
    fn overrides_are_parted_where_a_key_follows_a_space() {
        for (text, parts) in [
            ("seeds=[0,1]", &["seeds=[0,1]"][..]),
            ("data.ood=[digits, textures_small]", &["data.ood=[digits, textures_small]"]),
            ("seeds=[0, 1]  networks.a-b.loss.x=0.05", &["seeds=[0, 1]", "networks.a-b.loss.x=0.05"]),
            (" \tseeds=[0]\n", &["seeds=[0]"]),
            ("a=1 b=2", &["a=1", "b=2"]),
            ("title=two words seeds=[0]", &["title=two words", "seeds=[0]"]),
            ("title=a=b c", &["title=a=b c"]),
            ("title=Don't seeds=[0]", &["title=Don't", "seeds=[0]"]),
            ("title='it''s x=1' seeds=[0]", &["title='it''s x=1'", "seeds=[0]"]),
            (r#"title="a \" x=1" b=2"#, &[r#"title="a \" x=1""#, "b=2"]),
            (r#"title="a \\" b=2"#, &[r#"title="a \\""#, "b=2"]),
            ("data.id={name: x, note: 'a ] b=c'} b=2", &["data.id={name: x, note: 'a ] b=c'}", "b=2"]),
            ("a=[{x: 1, y: [2, 3]}, b=2] c=3", &["a=[{x: 1, y: [2, 3]}, b=2]", "c=3"]),
            // What is not closed is for YAML to refuse, in one piece.
            ("a=[1, 2 b=2", &["a=[1, 2 b=2"]),
            ("a='x b=2", &["a='x b=2"]),
            ("a]=1 b=2", &["a]=1", "b=2"]),
            ("seeds", &["seeds"]),
            ("", &[""]),
            ("=3 é=4", &["=3 é=4"]),
        ] {
            assert_eq!(split(text), parts, "{text}");
        }
    }
}
