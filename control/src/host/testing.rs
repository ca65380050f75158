//! Tests of this module against the kernel, in network namespaces of their own and without any outside traffic.
//!
//! They need root, as `make test` has; without it they fail. The test's thread moves into a namespace that dies
//! with it ([`isolate`]); a second host is a named namespace ([`Far`]), as a container runtime would make it.

mod changes;
mod facts;
mod links;
mod next_hops;
mod spare;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clearway_wire::MacAddr;
use nix::sched::{CloneFlags, unshare};

use crate::host::routes::Wanted;

const SOON: Duration = Duration::from_secs(5);

/// Moves this test's thread into a network namespace of its own.
pub(crate) fn isolate() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: run them as `make test` does");
    sh("ip link set lo up");
}

/// Runs a command line in this thread's network namespace.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("sh exists");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("tools print UTF-8")
}

/// A named network namespace, deleted when the test ends, also by a panic.
pub(super) struct Far(String);

impl Far {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "host-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        sh(&format!("ip netns add {name}"));
        Self(name)
    }

    pub(super) fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.0))
    }

    /// A veth pair between us (`near`, 10.9.0.1, fd09::1) and here (`far`, 10.9.0.2, fd09::2).
    pub(super) fn attach(&self) {
        sh(&format!(
            "ip link add near type veth peer name far netns {}",
            self.0
        ));
        for (run, interface, number) in [
            ("", "near", 1),
            (&*format!("ip netns exec {} ", self.0), "far", 2),
        ] {
            sh(&format!("{run}ip address add 10.9.0.{number}/24 dev {interface}"));
            sh(&format!(
                "{run}ip address add fd09::{number}/64 dev {interface} nodad"
            ));
            sh(&format!("{run}ip link set {interface} up"));
        }
    }

    /// Another namespace of the same name; the interfaces in this one are gone.
    fn replaced(self) -> Self {
        sh(&format!("ip netns delete {0} && ip netns add {0}", self.0));
        self
    }

    fn mac(&self) -> MacAddr {
        self.sh("cat /sys/class/net/far/address")
            .trim()
            .parse()
            .expect("sysfs prints a MAC address")
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn vtep(remote: &str) -> Wanted {
    Wanted {
        remote: ip(remote),
        local: None,
        udp_port: 4789,
    }
}

/// `ethtool -k`, by its own names.
fn ethtool(run: &str, interface: &str) -> BTreeMap<String, String> {
    sh(&format!("{run} ethtool -k {interface}"))
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect()
}
