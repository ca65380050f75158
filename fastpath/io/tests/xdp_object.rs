//! The committed XDP object is what its source compiles to.

use std::process::Command;

#[test]
fn the_committed_object_is_what_the_source_compiles_to() {
    let runs = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let headers = std::path::Path::new("/usr/include/bpf/bpf_helpers.h").exists();
    let needed = [
        ("clang", runs("clang")),
        ("llvm-strip", runs("llvm-strip")),
        ("libbpf-dev", headers),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "missing: {missing:?}");
        eprintln!("skipped: needs {missing:?}");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/xdp/build.sh");
    let output = Command::new(script)
        .arg("--check")
        .output()
        .expect("the script runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
