//! The JSON schema of a configuration, for editors and for `clearway schema`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::Spec;

/// The JSON schema (draft 2020-12) of a configuration file: every key with its meaning, default and range.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Spec);
    schema.insert("title".into(), "Clearway configuration".into());
    schema.to_value()
}

/// The schema of a [`MacAddr`](clearway_wire::MacAddr), whose crate knows nothing of schemas.
pub(crate) struct Mac;

impl JsonSchema for Mac {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A MAC address such as `02:00:5e:10:00:01`.",
            "type": "string",
            "format": "mac",
            "pattern": "^([0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(-[0-9A-Fa-f]{2}){5})$"
        })
    }
}
