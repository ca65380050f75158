//! The examples are right, the round trip holds for them, and the reference is up to date.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use clearway_config::Spec;

fn examples() -> Vec<(PathBuf, Spec)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |folder: &str| fs::read_dir(here.join(folder)).unwrap();
    let mut paths: Vec<_> = files("examples")
        .chain(files("../benches/configs"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let spec = Spec::from_yaml(&text, &path.display().to_string());
        (path, spec.unwrap_or_else(|errors| panic!("{errors}")))
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_example_is_valid_and_survives_the_round_trip() {
    let examples = examples();
    assert!(examples.len() >= 7, "only {} examples", examples.len());
    for (path, spec) in examples {
        let yaml = spec.to_yaml().unwrap();
        assert_eq!(
            Spec::from_yaml(&yaml, "again").as_ref(),
            Ok(&spec),
            "{}:\n{yaml}",
            path.display()
        );
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            serde_json::from_str::<Spec>(&json).unwrap(),
            spec,
            "{}",
            path.display()
        );
    }
}

/// `full.yaml` promises every key: each property of the schema's objects must occur in it as a key.
#[test]
fn the_full_example_has_every_key() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/full.yaml")).unwrap();
    let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let mut written = std::collections::BTreeSet::new();
    fn keys(value: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
                into.insert(key.clone());
                keys(value, into);
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
            _ => {}
        }
    }
    keys(&document, &mut written);
    let schema = clearway_config::json_schema();
    let objects = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    let missing: Vec<_> = objects
        .filter_map(|object| object["properties"].as_object())
        .flat_map(|properties| properties.keys())
        .filter(|key| !written.contains(*key))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// `UPDATE_DOCS=1 cargo test -p clearway-config` writes it.
#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let wanted = clearway_config::reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/config.md is out of date; run: UPDATE_DOCS=1 cargo test -p clearway-config"
    );
}
