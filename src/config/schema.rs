//! The JSON schema of an experiment file, for editors.

use crate::config::Experiment;

/// The JSON schema (draft 2020-12) of an experiment file: keys, types, ranges and their descriptions.
///
/// It describes the file after `!include` and `<<` are resolved; references between keys are checked by
/// [`check`](fn@crate::config::check) only.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Experiment).to_value()
}
