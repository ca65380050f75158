//! The documentation and the examples say what the parser does.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clearway_cni::Code;
use clearway_cni::conf::{FIELDS, FOREIGN, Mode, Network};
use serde_json::Value;

fn docs() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cni.md")).unwrap()
}

/// The rows of tables, as the texts of their columns.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.map(|line| line.split(" | ").collect())
}

#[test]
fn every_field_is_documented_with_its_modes_and_no_other() {
    let docs = docs();
    let mut documented = BTreeMap::new();
    for row in rows(&docs) {
        if let [field, modes, _meaning] = row[..]
            && let Some(field) = field.strip_prefix('`').and_then(|field| field.strip_suffix('`'))
        {
            assert_eq!(documented.insert(field, modes.to_owned()), None, "{field} twice");
        }
    }
    let modes = |modes: &[Mode]| match modes.len() {
        4 => "all".to_owned(),
        _ => modes
            .iter()
            .map(|mode| mode.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    };
    let known: BTreeMap<_, _> = FIELDS
        .iter()
        .map(|field| (field.path, modes(field.modes)))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn what_other_plugins_have_and_we_have_not_is_said() {
    let docs = docs();
    for (path, _) in FOREIGN {
        let name = path.rsplit('.').next().unwrap();
        assert!(docs.contains(&format!("`{name}`")), "{path}");
    }
}

#[test]
fn every_code_is_documented() {
    let docs = docs();
    let documented: Vec<u32> = rows(&docs)
        .filter(|row| row.len() == 2)
        .filter_map(|row| row[0].parse().ok())
        .collect();
    assert_eq!(documented, Code::ALL.map(Code::number));
}

/// The plugins of a list, as the runtime hands them over.
fn check(list: &Value, what: &str) {
    let plugins = list["plugins"]
        .as_array()
        .unwrap_or_else(|| panic!("{what} has plugins"));
    for plugin in plugins {
        let mut conf = plugin.clone();
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        Network::read(conf.as_object().unwrap()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn the_examples_are_right() {
    let docs = docs();
    // Indented code: what begins with a brace, until the next text.
    let block: Vec<_> = docs
        .lines()
        .skip_while(|line| *line != "    {")
        .take_while(|line| line.starts_with("    "))
        .collect();
    check(&serde_json::from_str(&block.join("\n")).unwrap(), "docs/cni.md");
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let list = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        check(&list, &path.display().to_string());
        count += 1;
    }
    assert!(count >= 4, "only {count} examples");
}

/// Networks in docs/migrate.md: ours are right, those of other plugins do with another `type` what the table at its top says.
#[test]
fn the_networks_to_migrate_are_read_as_promised() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migrate.md");
    let docs = fs::read_to_string(path).unwrap();
    let mut count = BTreeMap::new();
    for block in docs.split("\n\n").filter(|block| block.starts_with("    {")) {
        let mut conf: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}:\n{block}"));
        let Some(theirs) = conf["type"].as_str().map(str::to_owned) else {
            assert!(
                conf["code"].is_number(),
                "neither a network nor an error:\n{block}"
            );
            continue;
        };
        conf["type"] = "clearway-cni".into();
        let read = Network::read(conf.as_object().unwrap());
        match theirs.as_str() {
            "clearway-cni" | "ovs" | "userspace" => assert!(read.unwrap().mode != Mode::Vf, "{block}"),
            "sriov" => assert_eq!(read.unwrap().mode, Mode::Vf, "{block}"),
            "afxdp" => assert!(read.is_err(), "{block}"),
            other => panic!("{other}:\n{block}"),
        }
        *count.entry(theirs).or_insert(0) += 1;
    }
    let count: Vec<_> = count
        .iter()
        .map(|(theirs, count)| (theirs.as_str(), *count))
        .collect();
    assert_eq!(
        count,
        [
            ("afxdp", 1),
            ("clearway-cni", 4),
            ("ovs", 2),
            ("sriov", 1),
            ("userspace", 1)
        ]
    );
}
