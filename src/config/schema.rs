//! The JSON schema of an experiment file, for editors.

use serde_json::{Value, json};

use crate::config::Experiment;

/// The JSON schema (draft 2020-12) of an experiment file: keys, types, ranges and their descriptions.
///
/// A map, a list and what stands for one may be a file's name, because an editor takes `train: !include ../x.yaml` as text. A recipe
/// may lack any key: editors drop `<<: !include`, so they cannot know what it brings. References between keys are checked by
/// [`check`](fn@crate::config::check) only.
pub fn schema() -> Value {
    let mut schema = resolved();
    if let Some(recipe) = schema["$defs"]["Train"].as_object_mut() {
        recipe.remove("required");
    }
    allow_includes(&mut schema);
    schema
}

/// The schema of a file whose includes are resolved.
fn resolved() -> Value {
    schemars::schema_for!(Experiment).to_value()
}

/// The name of a file to include.
fn file_name() -> Value {
    json!({ "type": "string", "pattern": "\\.ya?ml$", "description": "A file to include: `!include ../configs/train/short.yaml`." })
}

/// Lets maps be merged and values be included, everywhere below.
fn allow_includes(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(allow_includes),
        Value::Object(object) => {
            object.values_mut().for_each(allow_includes);
            // A variant of an enum has one key, which names it.
            let is_struct = object
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|properties| properties.len() > 1 || object.get("required").is_none());
            if is_struct && let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
                properties.values_mut().for_each(include);
                properties.insert("<<".to_owned(), json!({ "description": "Maps to merge: keys beside it win." }));
            }
            for key in ["items", "additionalProperties"] {
                if let Some(value) = object.get_mut(key).filter(|value| value.is_object()) {
                    include(value);
                }
            }
        }
        _ => {}
    }
}

/// Lets a value that is a map or a list be a file's name.
fn include(value: &mut Value) {
    fn holds(value: &Value) -> bool {
        match value["type"].as_str() {
            Some("object") => true,
            // Numbers stand where they are.
            Some("array") => holds(&value["items"]),
            _ => value.get("$ref").is_some() || value.get("oneOf").is_some(),
        }
    }
    if holds(value) {
        let description = value.get("description").cloned();
        let own = std::mem::take(value);
        *value = json!({ "anyOf": [own, file_name()] });
        if let Some(description) = description {
            value["description"] = description;
        }
    } else if let Some(choices) = value.get_mut("anyOf").and_then(Value::as_array_mut)
        && choices.iter().any(holds)
    {
        choices.push(file_name());
    }
}

/// The keys that a map must have which is the value of `key`, or an item or an entry of it, if `field` is one of them; of the whole
/// file without a key. `None` where there are several such maps.
pub(super) fn required(key: Option<&str>, field: &str) -> Option<Vec<String>> {
    let schema = resolved();
    let mut found = Vec::new();
    match key {
        None => requirements(&schema, &schema, &mut found),
        Some(key) => values_of(key, &schema, &schema, &mut found),
    }
    found.retain(|keys: &Vec<String>| keys.iter().any(|key| key == field));
    found.dedup();
    match &mut found[..] {
        [only] => Some(std::mem::take(only)),
        _ => None,
    }
}

/// What the values of `key` must have, wherever it stands.
fn values_of(key: &str, schema: &Value, root: &Value, found: &mut Vec<Vec<String>>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| values_of(key, item, root, found)),
        Value::Object(object) => {
            if let Some(value) = object.get("properties").and_then(|properties| properties.get(key)) {
                requirements(value, root, found);
            }
            object.values().for_each(|value| values_of(key, value, root, found));
        }
        _ => {}
    }
}

/// What a value must have, or its choices, items and entries.
fn requirements(schema: &Value, root: &Value, found: &mut Vec<Vec<String>>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return requirements(&root["$defs"][name], root, found);
    }
    if let Some(keys) = schema["required"].as_array() {
        found.push(keys.iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect());
    }
    for choice in ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema[word].as_array()).flatten() {
        requirements(choice, root, found);
    }
    for inner in
        ["items", "additionalProperties"].iter().filter_map(|word| schema.get(word)).filter(|inner| inner.is_object())
    {
        requirements(inner, root, found);
    }
}
