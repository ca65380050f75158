//! The command line: what a person and a script see.

use clearway_tests::frame::Mac;
use clearway_tests::{Daemon, Netns, Ping, Pods, clearway, ready, wait_for};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NOUNS: [&str; 8] = [
    "ports",
    "workers",
    "bridge-domains",
    "fdb",
    "tunnels",
    "objects",
    "drops",
    "counters",
];

const LAN: &str = "
ports:
  a: {kind: af-xdp, interface: p0, access: lan}
  b: {kind: af-xdp, interface: p1, access: lan}
bridge-domains:
  lan: {vlan: 10}
  spare: {}
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new()
        .suffix(".yaml")
        .tempfile()
        .expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn every_command_explains_itself() {
    let help = clearway("--help").ok();
    for command in [
        "run",
        "apply",
        "validate",
        "schema",
        "get",
        "fdb",
        "doctor",
        "demo",
        "completions",
        "man",
    ] {
        assert!(
            help.lines().any(|l| l.trim_start().starts_with(command)),
            "{command} is not in:\n{help}"
        );
        assert!(
            clearway(&format!("{command} --help")).ok().contains("Usage"),
            "{command} --help"
        );
    }
    let version = clearway("--version").ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            clearway(&format!("completions {shell}"))
                .ok()
                .contains("clearway")
        );
    }
    assert!(
        clearway("man").ok().starts_with('.'),
        "troff begins with a request"
    );
    let wrong = clearway("aply ports");
    assert!(
        wrong.code == 2 && wrong.stderr.contains("apply"),
        "the nearest command: {}",
        wrong.text()
    );
    let wrong = clearway("get prots");
    assert!(
        wrong.code == 2 && wrong.stderr.contains("ports"),
        "the nearest noun: {}",
        wrong.text()
    );
}

#[test]
fn the_examples_are_valid() {
    let mut seen = 0;
    for folder in ["config/examples", "config/deploy"] {
        let Ok(dir) = std::fs::read_dir(root().join(folder)) else {
            continue;
        };
        for entry in dir
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "yaml"))
        {
            clearway(&format!("validate {}", entry.path().display())).ok();
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} examples");
}

#[test]
fn everything_wrong_is_said_at_once() {
    // What does not decode, then what decodes and makes no sense: each time all of it, with its line.
    let decode = "ports:
  a: {kind: af-xdp, interfase: p0, access: lan}
  b: {kind: af-xpd, interface: p1, access: lan}
bridge-domains:
  lan: {vlan: 5000}
";
    let sense = "ports:
  a: {kind: af-xdp, interface: p0, access: nowhere}
  b: {kind: af-xdp, interface: p0, access: lan}
bridge-domains:
  lan: {vlan: 10}
  other: {vlan: 10}
";
    for (text, findings) in [
        (decode, [(2, "interface"), (3, "af-xdp"), (5, "4094")]),
        (sense, [(2, "nowhere"), (3, "p0"), (6, "10")]),
    ] {
        let wrong = file(text);
        let out = clearway(&format!("validate {}", wrong.path().display()));
        assert!(out.code != 0, "{}", out.text());
        let name = wrong.path().display().to_string();
        for (line, says) in findings {
            let found = out
                .text()
                .lines()
                .any(|l| l.contains(&format!("{name}:{line}")) && l.contains(says));
            assert!(found, "nothing about line {line} with '{says}':\n{}", out.text());
        }
    }
    let missing = clearway("validate /nonexistent/clearway.yaml");
    assert!(
        missing.code != 0 && missing.stderr.contains("/nonexistent/clearway.yaml"),
        "{}",
        missing.text()
    );
}

#[test]
fn the_schema_is_one() {
    let schema: Value = serde_json::from_str(&clearway("schema").ok()).expect("JSON");
    assert!(schema["$schema"].is_string(), "{schema}");
    for key in ["ports", "bridge-domains", "vteps", "engine", "api"] {
        assert!(schema["properties"][key].is_object(), "no {key} in the schema");
    }
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let out = clearway("--socket /nonexistent/clearway.sock get ports");
    assert!(out.code != 0 && out.stdout.is_empty());
    assert!(
        out.stderr.contains("/nonexistent/clearway.sock") && out.stderr.contains("clearway run"),
        "{}",
        out.stderr
    );
}

#[test]
fn tables_and_documents_agree() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let daemon = Daemon::start(&pods.fwd, LAN);
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    for noun in NOUNS {
        let json = daemon.get(noun);
        assert!(json.is_array() || json.is_object(), "{noun}: {json}");
        let yaml = daemon.cli(&format!("get {noun} -o yaml"));
        let table = daemon.cli(&format!("get {noun}"));
        assert!(!yaml.trim().is_empty() && !table.trim().is_empty(), "{noun}");
        let asked = daemon.cli(&format!("get {noun} -o table"));
        let heading = |text: &str| {
            text.lines()
                .next()
                .map(|l| l.split_whitespace().collect::<String>())
        };
        assert_eq!(heading(&asked), heading(&table), "{noun}");
    }
    let table = daemon.cli("get ports");
    for word in ["a", "b", "p0", "p1", "up"] {
        assert!(
            table.split_whitespace().any(|w| w == word),
            "no {word} in\n{table}"
        );
    }
    let one = daemon.get("ports a");
    assert!(
        one.to_string().contains("p0") && !one.to_string().contains("p1"),
        "{one}"
    );
    let none = daemon.try_cli("get ports nobody");
    assert!(
        none.code != 0 && none.stderr.contains("nobody"),
        "{}",
        none.text()
    );
    // It goes on until it is stopped, and shows what is new.
    let watched = daemon.ns().try_run(&format!(
        "timeout -s INT 3 {} --socket {} get ports --watch",
        clearway_tests::binary().display(),
        daemon.socket().display()
    ));
    assert!(watched.stdout.matches("p0").count() >= 2, "{}", watched.text());
}

#[test]
fn stations_are_added_and_removed() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let daemon = Daemon::start(&pods.fwd, LAN);
    let station = Mac::local(42);
    daemon.cli(&format!("fdb add lan {station} --port b"));
    assert_eq!(daemon.fdb_port("lan", station).as_deref(), Some("b"));
    daemon.cli(&format!("fdb del lan {station}"));
    assert_eq!(daemon.fdb_port("lan", station), None);
    let wrong = daemon.try_cli(&format!("fdb add lan {station} --port nobody"));
    assert!(
        wrong.code != 0 && wrong.stderr.contains("nobody"),
        "{}",
        wrong.text()
    );

    let mut wire = pods.raw().remove(0);
    wire.send(&clearway_tests::numbered(1, 0, Mac::BROADCAST, &[]));
    wait_for("it is learned", Duration::from_secs(5), || {
        daemon.fdb_port("lan", Pods::mac(0))
    });
    daemon.cli("fdb flush lan");
    assert_eq!(daemon.fdb_port("lan", Pods::mac(0)), None);
}

#[test]
fn the_socket_is_roots_alone() {
    if !ready() {
        return;
    }
    let ns = Netns::quiet("fwd");
    let daemon = Daemon::start(&ns, "bridge-domains:\n  lan: {}\n");
    let meta = std::fs::metadata(daemon.socket()).expect("the socket");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (0, 0o600));
    let mut daemon = daemon;
    assert!(daemon.terminate().success());
    assert!(!daemon.socket().exists(), "a clean end removes the socket");
}

#[test]
fn the_api_describes_itself() {
    if !ready() {
        return;
    }
    let ns = Netns::quiet("fwd");
    let daemon = Daemon::start(&ns, "bridge-domains:\n  lan: {}\n");
    let (status, body) = daemon.api("GET", "/openapi.json", "");
    assert_eq!(status, 200, "{body}");
    let description: Value = serde_json::from_str(&body).expect("JSON");
    assert!(
        description["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.")),
        "{description}"
    );
    // Every path that needs no argument answers as described.
    let paths = description["paths"].as_object().expect("paths");
    let mut asked = 0;
    for (path, item) in paths {
        if item["get"].is_object() && !path.contains('{') {
            let (status, body) = daemon.api("GET", path, "");
            assert_eq!(status, 200, "{path}: {body}");
            asked += 1;
        }
    }
    assert!(asked >= NOUNS.len(), "only {asked} paths: {description}");
    let (status, _) = daemon.api("GET", "/nonsense", "");
    assert_eq!(status, 404);
    let (status, body) = daemon.api("PUT", "/v1/config", "{\"ports\": 3}");
    assert!((400..500).contains(&status), "{status} {body}");
}

#[test]
fn the_doctor_looks_at_this_host() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(1);
    let text = pods
        .fwd
        .run(&format!("{} doctor", clearway_tests::binary().display()));
    for word in ["p0", "kernel", "huge", "AF_XDP"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    // A port of a daemon that runs is nothing to worry about.
    let mut daemon = Daemon::start(
        &pods.fwd,
        "ports: {a: {kind: af-xdp, interface: p0, access: lan}}\nbridge-domains: {lan: {}}\n",
    );
    let text = daemon.cli("doctor p0");
    let ours = format!(
        "ok    p0: it is a port of Clearway, by clearway, pid {}",
        daemon.proc().pid()
    );
    assert!(text.contains(&ours), "{text}");
    assert!(!text.contains("XDP program clearway"), "no warning of it: {text}");
    daemon.stop();
}
