//! The JSON schema of a configuration, for editors and for `clearway schema`.

use crate::Spec;

/// The JSON schema (draft 2020-12) of a configuration file: every key with its meaning, default and range.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Spec);
    schema.insert("title".into(), "Clearway configuration".into());
    schema.to_value()
}
