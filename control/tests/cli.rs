//! The command line as a script sees it, as far as it needs no daemon.
#![allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.

use std::path::Path;
use std::process::{Command, Output};

fn clearway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clearway"))
        .args(args)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Standard output of a command that must succeed quietly.
#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = clearway(args);
    assert_eq!((code(&output), err(&output).as_str()), (0, ""), "{args:?}");
    out(&output)
}

const COMMANDS: [&str; 11] = [
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
    "version",
];

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = ok(&["--help"]);
    for command in COMMANDS {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(command)),
            "{command}:\n{help}"
        );
        assert!(ok(&[command, "--help"]).contains("Usage: clearway"), "{command}");
    }
    assert!(help.contains("Exit status"), "{help}");
    assert!(ok(&["fdb", "add", "--help"]).contains("--remote"));
}

#[test]
fn a_wrong_command_line_is_2_and_names_the_nearest() {
    for (args, nearest) in [
        (&["gte", "ports"][..], "a similar subcommand exists: 'get'"),
        (&["doctr"], "'doctor'"),
        (&["get", "prots"], "ports"),
        (&["run", "--confg", "x"], "--config"),
        (&["get", "ports", "-o", "jsno"], "json"),
    ] {
        let output = clearway(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(err(&output).contains(nearest), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
    // Nothing said at all: the help, and 2.
    let output = clearway(&[]);
    assert!(code(&output) == 2 && err(&output).contains("Usage"));
}

#[test]
fn completions_know_the_nouns() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&["completions", shell]);
        assert!(script.contains("cross-connect"), "{shell}");
        // The generators for the other shells leave out the values of arguments without a flag.
        assert!(
            script.contains("bridge-domains") || !["bash", "zsh"].contains(&shell),
            "{shell}"
        );
    }
}

#[test]
fn manual_pages() {
    let page = ok(&["man"]);
    assert!(page.starts_with('.') && page.contains("clearway"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    ok(&["man", "--dir", folder.to_str().unwrap()]);
    for page in ["clearway.1", "clearway-run.1", "clearway-fdb-add.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn the_schema_is_that_of_the_configuration() {
    let schema: serde_json::Value = serde_json::from_str(&ok(&["schema"])).unwrap();
    assert_eq!(schema["title"], "Clearway configuration");
    assert!(schema["properties"]["ports"].is_object());
}

#[test]
fn validate_tells_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(&path, text).unwrap();
        path
    };
    let wrong = write(
        "wrong.yaml",
        "ports:\n  a: {kind: af-xdp, interfase: p0}\n  b: {kind: af-xpd, interface: p1}\n",
    );
    let output = clearway(&["validate", &wrong]);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    // Lines that an editor can follow: file, line and column come first.
    let lines: Vec<_> = err(&output).lines().map(str::to_owned).collect();
    assert!(
        lines[0].starts_with(&format!("{wrong}:2:")) && lines[0].contains("did you mean `interface`?"),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with(&format!("{wrong}:3:")) && l.contains("did you mean `af-xdp`?")),
        "{lines:?}"
    );

    let right = write("right.yaml", "bridge-domains: {lan: {}}\n");
    assert_eq!(ok(&["validate", &right]), format!("{right}: valid\n"));
    // Several files: those that are right are named, the others told, and it has failed.
    let output = clearway(&["validate", &right, &wrong, "/nonexistent.yaml"]);
    assert_eq!((code(&output), out(&output)), (1, format!("{right}: valid\n")));
    for part in [
        format!("{wrong}:2:"),
        "/nonexistent.yaml failed: No such file".into(),
        "2 of 3 files wrong".into(),
    ] {
        assert!(err(&output).contains(&part), "{part}: {}", err(&output));
    }
}

#[test]
fn the_examples_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let mut files: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let args: Vec<_> = std::iter::once("validate")
        .chain(files.iter().map(String::as_str))
        .collect();
    assert_eq!(ok(&args).lines().count(), files.len());
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    for args in [
        &["get", "ports"][..],
        &["fdb", "flush"],
        &["version"],
        &["get", "drops", "-o", "json"],
    ] {
        let all: Vec<_> = ["--socket", "/nonexistent/clearway.sock"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let output = clearway(&all);
        assert_eq!(code(&output), 1, "{args:?}");
        let text = err(&output);
        assert!(
            text.starts_with(
                "clearway: asking the daemon at /nonexistent/clearway.sock failed: No such file"
            ) && text.contains("is the daemon running?")
                && text.contains("clearway run"),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_daemon_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
    });
    let output = clearway(&["--socket", path.to_str().unwrap(), "get", "ports"]);
    answer.join().unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).starts_with(&format!(
            "clearway: talking to the daemon at {} failed: ",
            path.display()
        )),
        "{}",
        err(&output)
    );
}

#[test]
fn run_refuses_what_is_wrong_before_it_touches_anything() {
    let output = clearway(&["run", "--port", "eth1"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("KIND:ARG"), "{}", err(&output));
    let output = clearway(&["run", "--config", "/nonexistent.yaml"]);
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).contains("reading the configuration /nonexistent.yaml failed: No such file"),
        "{}",
        err(&output)
    );
    assert_eq!(code(&clearway(&["run"])), 2);
}

#[test]
fn the_doctor_speaks_json() {
    let output = clearway(&["doctor", "lo", "-o", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let bad = findings
        .as_array()
        .unwrap()
        .iter()
        .any(|f| f["severity"] == "bad");
    assert_eq!(code(&output), i32::from(bad));
    assert!(
        findings
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["subject"] == "kernel")
    );
}

#[test]
fn output_may_be_cut_off() {
    // As `clearway schema | head -1`: no panic, no complaint.
    let output = Command::new("sh")
        .args(["-c", "\"$0\" schema | head -c 1", env!("CARGO_BIN_EXE_clearway")])
        .output()
        .unwrap();
    assert_eq!((out(&output).as_str(), err(&output).as_str()), ("{", ""));
}
