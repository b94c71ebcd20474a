//! What a fit met, in words.

use serde_json::Value;

/// Entries of a list that are written out.
const LISTED: usize = 5;

/// A record of [`Scorer::record`](super::Scorer::record) as `neurons 4694, with atoms 2994, mean table error 0.0042`. What is 0,
/// empty or of no plain kind is left out, and of long lists all but their length; fractions have two digits.
pub fn in_words(record: &Value) -> String {
    let entries = record.as_object().into_iter().flatten();
    let words = entries.filter_map(|(key, value)| Some(format!("{} {}", key.replace('_', " "), plain(value)?)));
    words.collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| *number != 0.0)?;
            let whole = number.fract() == 0.0;
            // Rounded to two digits, in the shortest form that reads as the same number.
            Some(if whole {
                format!("{number}")
            } else {
                format!("{:?}", format!("{number:.1e}").parse::<f64>().ok()?)
            })
        }
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Array(values) if values.len() > LISTED => Some(format!("({} of them)", values.len())),
        Value::Array(values) if !values.is_empty() => {
            Some(values.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    }
}
