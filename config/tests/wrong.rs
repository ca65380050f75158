//! Wrong configurations, each with the complete message that a person gets for it: `wrong.txt` is the table.
//!
//! A case is `=== name`, the YAML, `---`, and the message. `UPDATE_EXPECT=1` writes the messages that come now, to be
//! read before they are committed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clearway_config::{HostFacts, Spec};

struct Case {
    name: String,
    yaml: String,
    message: String,
}

fn cases(text: &str) -> Vec<Case> {
    let parts = text.split("=== ").skip(1);
    parts
        .map(|part| {
            let (name, rest) = part.split_once('\n').unwrap();
            let (yaml, message) = rest.rsplit_once("---\n").unwrap();
            Case {
                name: name.into(),
                yaml: yaml.into(),
                message: message.trim_end().into(),
            }
        })
        .collect()
}

/// A host with four cores, so that cores can be wrong.
fn message(yaml: &str) -> String {
    let host = HostFacts {
        cores: Some(BTreeSet::from([0, 1, 2, 3])),
    };
    match Spec::from_yaml_on(yaml, "c.yaml", &host) {
        Ok(spec) => format!("accepted: {spec:?}"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn each_wrong_configuration_gets_its_message() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong.txt");
    let cases = cases(&fs::read_to_string(&path).unwrap());
    assert!(cases.len() >= 50, "only {} cases", cases.len());
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text: String = cases
            .iter()
            .map(|case| format!("=== {}\n{}---\n{}\n\n", case.name, case.yaml, message(&case.yaml)))
            .collect();
        fs::write(&path, text.trim_end().to_string() + "\n").unwrap();
        return;
    }
    for Case {
        name,
        yaml,
        message: wanted,
    } in cases
    {
        let found = message(&yaml);
        assert!(!found.starts_with("accepted"), "{name}: {found}");
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn nothing_is_configured_only_if_it_is_said() {
    for yaml in ["ports: {}", "ports:", "version: 1"] {
        assert_eq!(
            Spec::from_yaml(yaml, "c.yaml").unwrap(),
            Spec::default(),
            "{yaml}"
        );
    }
    let written = Spec::default().to_yaml().unwrap();
    assert_eq!(Spec::from_yaml(&written, "c.yaml").unwrap(), Spec::default());
}

#[test]
fn what_is_refused_is_not_repeated_whole() {
    let long = "x\\\"é".repeat(100_000);
    let plain = "x".repeat(400_000);
    for yaml in [
        plain.to_string(),
        format!("\"{}\"", long),
        format!("{plain}: 1"),
        format!("{plain}: 1\n{plain}: 2"),
        format!("ports: {{{plain}: {{kind: memory}}}}"),
        format!("ports: {{a: {{kind: \"{long}\"}}}}"),
        format!("ports: {{a: {{kind: memory, mtu: \"{long}\"}}}}"),
        format!("ports: {{a: {{kind: memory, trunk: [\"{long}\"]}}}}"),
        format!("ports: {{a: {{kind: memory, queues: \"{long}\"}}}}"),
        format!("ports: {{a: {{kind: memory, access: \"{long}\"}}}}"),
        format!("ports: {{a: {{kind: memory, allowed-macs: [\"{long}\"]}}}}"),
        format!(
            "ports: {{a: {{kind: af-xdp, interface: \"{long}\"}}, b: {{kind: af-xdp, interface: \"{long}\"}}}}"
        ),
        format!("ports: {{a: {{kind: pcapng, write: \"{long}\"}}, b: {{kind: pcapng, write: \"{long}\"}}}}"),
        format!("api: {{socket: \"{long}\"}}"),
        format!("vteps: {{a: {{local: \"{long}\"}}}}"),
        format!("bridge-domains: {{a: {{aging: \"{long}\"}}}}"),
        format!("ports: [{plain}"),
        format!("ports: *{plain}"),
    ] {
        let found = message(&yaml);
        let start: String = yaml.chars().take(60).collect();
        assert!(!found.starts_with("accepted"), "{start}");
        let longest = found.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest < 700, "{start}: {longest} characters: {}", &found[..200]);
    }
}
