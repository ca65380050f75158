//! The test bed: hosts are network namespaces, wires are veth pairs, and the peers of Clearway are programs that
//! we did not write (the kernel's stack and its VXLAN device, iperf3, libpcap, Open vSwitch, xsk-rs).
//!
//! ```text
//!   Netns ── Veth ── Netns          traffic: ping · iperf · tcp · flow (counted) · raw (exact bytes)
//!     │                │            peers:   Vxlan · Ovs · XskPeer · Testpmd
//!   Daemon           peer           processes: Proc (log, process group, dies with the test)
//! ```
//!
//! Guarantees: everything that a test starts ends with the test, also when it panics or is killed: processes carry
//! a parent-death signal and are killed by group on drop, namespaces are deleted on drop, and what a killed run
//! left behind is swept by the next one (its process id is part of the name).
//!
//! Left to the caller: every test makes its own namespaces (so tests run in parallel), and a process must be started
//! from a thread that outlives it (the parent-death signal follows the thread, see prctl(2)).
//!
//! A helper that cannot do its part panics at the caller's line: a test bed that is not there is a failed test.
#![forbid(unsafe_code)]

mod cmd;
mod cni;
mod daemon;
mod flow;
pub mod frame;
mod guest;
mod iperf;
mod ledger;
mod netns;
mod node;
mod overlay;
mod ovs;
mod ping;
mod pods;
mod proc;
mod qmp;
mod raw;
mod runtime;
mod tcp;
mod testpmd;
mod vxlan;
mod xdp;
mod xsk_peer;

pub use cmd::{Output, command};
pub use cni::{CniFailure, CniNetwork, CniOutcome, Container, cni_binary};
pub use daemon::{Daemon, DaemonBuilder, binary, clearway};
pub use flow::{Flow, FlowReport};
pub use frame::Mac;
pub use guest::Guest;
pub use iperf::{TcpRate, UdpRate, iperf_tcp, iperf_udp};
pub use ledger::Ledger;
pub use netns::{Netns, Veth};
pub use node::Node;
pub use overlay::{Overlay, Underlay};
pub use ovs::Ovs;
pub use ping::{Ping, PingProbe, PingReport};
pub use pods::{Pods, numbered};
pub use proc::Proc;
pub use qmp::Qmp;
pub use raw::RawPort;
pub use runtime::{Containerd, Podman};
pub use tcp::{TcpProbe, TcpProbeReport, tcp_echo, tcp_refused};
pub use testpmd::{PortStats, Testpmd};
pub use vxlan::Vxlan;
pub use xdp::foreign_xdp;
pub use xsk_peer::XskPeer;

use std::time::{Duration, Instant};

/// Whether end-to-end tests can run here: as root. `make test` sets `CLEARWAY_TESTS_STRICT=1`, and then it panics
/// instead of answering no; on a developer's plain `cargo test` the test says what is missing and passes over.
///
/// # Panics
/// In strict mode, when the process is not root.
#[track_caller]
pub fn ready() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CLEARWAY_TESTS_STRICT").is_none(),
        "end-to-end tests need root (network namespaces, AF_XDP): run make test as root"
    );
    eprintln!("passed over: end-to-end tests need root (network namespaces, AF_XDP)");
    false
}

/// Polls `check` until it says `Some`, and returns that.
///
/// # Panics
/// When it has not within `limit`; the message names `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
