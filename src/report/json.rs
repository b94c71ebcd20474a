//! A table as JSON: everything that is in [`Rendered`], at full precision.

use crate::report::table::Rendered;

/// The table as indented JSON.
pub fn text(table: &Rendered) -> String {
    // Strings, finite numbers and lists: none of them can fail to serialise.
    let mut text = serde_json::to_string_pretty(table).unwrap_or_default();
    text.push('\n');
    text
}
