//! An interface that nobody sees.

use std::os::fd::AsRawFd;
use std::time::Instant;

use super::{SOON, isolate, sh};
use crate::host::Host;
use crate::host::spare::SpareVeth;

#[test]
fn nobody_sees_it_and_nothing_is_left() {
    isolate();
    let before = (sh("ip -o link"), sh("ip netns list-id"), sh("ip netns list"));
    let mut host = Host::open().expect("root can open a host");
    let spare = SpareVeth::make().expect("root can make one");
    let after = (sh("ip -o link"), sh("ip netns list-id"), sh("ip netns list"));
    assert_eq!(before, after);
    let (kind, names) = spare
        .run(|link| {
            let mut there = Host::open().expect("root can open a host");
            assert_ne!(there.netns(), host.netns());
            let links = there.links().expect("interfaces can be listed");
            assert!(links.iter().all(|link| !link.up), "{links:?}");
            let names = links.into_iter().map(|link| link.name);
            (link.kind.clone(), names.collect::<Vec<_>>())
        })
        .expect("it can be entered");
    assert_eq!(kind.as_deref(), Some("veth"));
    assert_eq!(names, ["lo", "veth0", "veth1"]);

    // An interface of ours goes when its other end does, and that goes with the namespace.
    let path = format!("/proc/{}/fd/{}", std::process::id(), spare.netns().as_raw_fd());
    sh(&format!("ip link add near type veth peer name far netns {path}"));
    drop(spare);
    let started = Instant::now();
    while host.link("near").is_ok() {
        assert!(started.elapsed() < SOON, "the namespace is still there");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
