//! Somebody else's XDP program on an interface.

use crate::{Netns, cmd};

/// Attaches a program named `name`, which passes every frame to the kernel, to `dev`; returns its id.
///
/// # Panics
/// If clang, ip or the kernel refuses.
#[track_caller]
pub fn foreign_xdp(ns: &Netns, dev: &str, name: &str) -> u64 {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder: {e}"));
    let (source, object) = (dir.path().join("x.bpf.c"), dir.path().join("x.bpf.o"));
    // 2 is XDP_PASS, linux/bpf.h.
    let text = format!("__attribute__((section(\"xdp\"))) int {name}(void *ctx) {{ return 2; }}\n");
    std::fs::write(&source, text).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    cmd::command(&format!(
        "clang -O2 -g -target bpf -c {} -o {}",
        source.display(),
        object.display()
    ))
    .ok();
    ns.run(&format!(
        "ip link set dev {dev} xdpdrv obj {} sec xdp",
        object.display()
    ));
    let link = ns
        .link(dev)
        .unwrap_or_else(|| panic!("no {dev} in {}", ns.name()));
    link["xdp"]["prog"]["id"]
        .as_u64()
        .unwrap_or_else(|| panic!("no program on {dev}: {link}"))
}
