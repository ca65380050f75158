//! Versions of what is in the store's files.
//!
//! A version is that of the rows' meaning, not of redb's own format. A change that an older release would misread, or
//! that this one needs made to old rows, is a new version: a [`Step`] more in [`STEPS`].
//!
//! | version | what |
//! | --- | --- |
//! | 1 | the configuration is one record, with what its file said |
//! | 2 | each object of it is a record, with owner, generation and time |
//!
//! A step knows the rows of its two versions alone, as JSON: types of later releases have no part in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::table::Row;

/// From the rows of one version to those of the next. An error is about rows that no release wrote.
pub(super) type Step = fn(Vec<Row>) -> Result<Vec<Row>, String>;

/// From version 1 to 2, from 2 to 3, and so on.
pub(super) const STEPS: &[Step] = &[objects];

/// The version that this release writes, and the latest that it reads.
pub(super) const VERSION: u64 = STEPS.len() as u64 + 1;

/// The rows of version `from` as those of the version that the last of the steps leads to.
pub(super) fn migrated(mut rows: Vec<Row>, from: u64, steps: &[Step]) -> Result<Vec<Row>, String> {
    let done = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
    for (step, from) in steps.iter().zip(1..).skip(done) {
        rows = step(rows)
            .map_err(|reason| format!("its format {from} cannot be brought to {}: {reason}", from + 1))?;
    }
    Ok(rows)
}

/// From 1 to 2: the configuration's record becomes one for each object, and one for what the file said.
fn objects(rows: Vec<Row>) -> Result<Vec<Row>, String> {
    let mut next = Vec::with_capacity(rows.len());
    for row in rows {
        match row.kind.as_str() {
            "config" => next.extend(objects_of(&row)?),
            _ => next.push(row),
        }
    }
    Ok(next)
}

fn objects_of(row: &Row) -> Result<Vec<Row>, String> {
    let bytes = row.value.as_deref().unwrap_or_default();
    let record: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("the configuration: {error}"))?;
    let (file, used) = (&record["value"]["file"], &record["value"]["used"]);
    if !file.is_object() || !used.is_object() {
        return Err("the configuration is not there as a whole".to_owned());
    }
    let record_of = |kind: &str, key: &str, owner: &Value, generation: &Value, value: &Value| {
        Row {
        table: row.table,
        kind: kind.to_owned(),
        key: key.to_owned(),
        value: Some(
            json!({"kind": kind, "key": key, "owner": owner, "generation": generation, "changed_s": 0, "value": value})
                .to_string()
                .into_bytes(),
        ),
    }
    };
    let (owner, generation) = (&record["owner"], &record["generation"]);
    let mut rows = vec![
        record_of("config", "configuration", owner, generation, &Value::Null),
        record_of("config", "file", &json!("file"), generation, file),
    ];
    let (in_file, in_use) = (parts(file)?, parts(used)?);
    rows.extend(in_use.iter().map(|(at, value)| {
        // Who has said it like that: the file, if it is in there.
        let owner = if in_file.get(at) == Some(value) {
            "file"
        } else {
            "apply"
        };
        record_of(at.0, &at.1, &json!(owner), &json!(1), value)
    }));
    Ok(rows)
}

/// The objects of a configuration of version 1, by kind and key.
fn parts(spec: &Value) -> Result<BTreeMap<(&'static str, String), Value>, String> {
    let settings = ["engine", "api"].map(|key| (("setting", key.to_owned()), spec[key].clone()));
    let mut parts = BTreeMap::from(settings);
    for (section, kind) in [
        ("ports", "port"),
        ("bridge-domains", "bridge-domain"),
        ("vteps", "vtep"),
        ("address-pools", "address-pool"),
    ] {
        let section = spec[section].as_object().into_iter().flatten();
        parts.extend(section.map(|(name, value)| ((kind, name.clone()), value.clone())));
    }
    for pair in spec["cross-connects"].as_array().into_iter().flatten() {
        let (Some(a), Some(b)) = (pair[0].as_str(), pair[1].as_str()) else {
            return Err(format!("{pair} is no pair of ports"));
        };
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        parts.insert(("cross-connect", format!("{a}/{b}")), json!([a, b]));
    }
    Ok(parts)
}
