//! `results.json` of schema 1, brought to schema 2.
//!
//! Schema 1 had one task without a name, accuracy as a field of its own, and of each OOD set `full` (seven numbers) beside
//! `gap`. Nothing is computed anew.

use serde_json::{Map, Value, json};

use super::results::SCHEMA;

/// The same record as schema 2 writes it. What is not as schema 1 had it stays, and is refused when the record is read.
pub(super) fn converted(mut results: Value) -> Value {
    let id = results
        .get("datasets")
        .and_then(Value::as_object)
        .and_then(|sets| sets.keys().next())
        .cloned()
        .unwrap_or_default();
    results["schema"] = json!(SCHEMA);
    for cell in each(results.get_mut("cells")) {
        for seed in each(cell.get_mut("seeds")) {
            let Some(fields) = seed.as_object_mut() else { continue };
            let mut task = Map::new();
            for key in ["networks", "methods"] {
                task.extend(fields.shift_remove(key).map(|value| (key.to_owned(), value)));
            }
            for network in each(task.get_mut("networks")) {
                rename(network, "accuracy", |accuracy| ("measures", json!({ "accuracy": accuracy })));
            }
            for method in each(task.get_mut("methods")) {
                rename(method, "ood", |sets| ("sets", sets));
                each(method.get_mut("sets")).for_each(set);
            }
            fields.insert("tasks".to_owned(), json!({ id.clone(): task }));
        }
    }
    results
}

/// The measures of an OOD set, the gap among them.
fn set(set: &mut Value) {
    rename(set, "full", |measures| ("measures", measures));
    let gap = set.as_object_mut().and_then(|set| set.shift_remove("gap"));
    let Some(measures) = set.get_mut("measures").and_then(Value::as_object_mut) else { return };
    for (old, new) in [("mean", "gap"), ("in_sd", "gap_sd")] {
        let value = gap.as_ref().map(|gap| &gap[old]).filter(|value| !value.is_null());
        measures.extend(value.map(|value| (new.to_owned(), value.clone())));
    }
}

/// Puts what `change` makes of a field in its place.
fn rename(map: &mut Value, key: &str, change: impl FnOnce(Value) -> (&'static str, Value)) {
    let Some(map) = map.as_object_mut() else { return };
    if let Some(value) = map.shift_remove(key) {
        let (key, value) = change(value);
        map.insert(key.to_owned(), value);
    }
}

/// The entries of a list or a map; none of anything else.
fn each(value: Option<&mut Value>) -> Box<dyn Iterator<Item = &mut Value> + '_> {
    match value {
        Some(Value::Array(entries)) => Box::new(entries.iter_mut()),
        Some(Value::Object(entries)) => Box::new(entries.values_mut()),
        _ => Box::new(std::iter::empty()),
    }
}
