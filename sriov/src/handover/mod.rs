//! The hand-over of AF_XDP devices to pods without privileges: the server that DPDK's `net_af_xdp` (`use_cni=1`,
//! `dp_path=…`) and CNDP ask for a device's XSKMAP.
//!
//! ```text
//!   pod                                          daemon
//!   connect ── unix SOCK_SEQPACKET ───────────► Handover: one socket and one thread a pod
//!   /connect,<host> ──────────────────────────►   Peer: SO_PEERCRED, /proc/PID/cgroup → pod
//!   /xsk_map_fd,<device> ─────────────────────►   Authorize: does this pod hold that device?
//!   ◄──────────────── /fd_ack + XSKMAP (SCM_RIGHTS)
//! ```
//!
//! docs/af-xdp-handover.md has every request and answer, and what pod and daemon need.
//!
//! Guarantees: a device goes only to the pod that the kernel says the client is in; what the client says of itself
//! decides nothing. Clients are bounded ([`Limits`]) and can't stop one another across sockets: each has its own
//! thread, because merely closing a descriptor that a hostile client sent may take as long as that client likes
//! (SO_LINGER, a FUSE file).
//!
//! Left to the caller: which pod holds what, to load the XDP program and make the map ([`Authorize`]); to keep the
//! socket's folder from the pods' hands (mounted read-only); to listen again after its own restart.

pub mod cgroup;
mod connection;
mod listener;
pub mod peer;
pub mod protocol;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use self::cgroup::Workload;
pub use self::listener::{Handover, ListenError};
pub use self::peer::{Peer, PeerError};
pub use self::protocol::BusyPoll;

/// Who may have what. Called from the threads of all sockets; what it waits for, the clients of that socket wait for.
/// An error is answered with `/error` and shows in the log: it is for what the client has no part in.
pub trait Authorize: Send + Sync + 'static {
    /// Whether this client's pod holds any AF_XDP device.
    fn admit(&self, peer: &Peer) -> io::Result<bool>;

    /// The XSKMAP of a device, named as the pod knows it; `None` unless this client's pod holds it **now**. The
    /// map has to belong to that device alone: who has it can put a socket at any of its queues.
    fn xskmap(&self, peer: &Peer, device: &str) -> io::Result<Option<OwnedFd>>;

    /// Sets up a client's AF_XDP socket for busy polling: SO_PREFER_BUSY_POLL, SO_BUSY_POLL and
    /// SO_BUSY_POLL_BUDGET, which the kernel gives only to CAP_NET_ADMIN. The values are within [`Limits`].
    fn busy_poll(&self, peer: &Peer, socket: BorrowedFd<'_>, how: BusyPoll) -> io::Result<()>;
}

/// What the clients of one socket may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. A further one takes the place of that which was silent for longest.
    pub connections: usize,
    /// A connection that asks nothing for this long is closed.
    pub idle: Duration,
    /// Refused requests after which a connection is closed.
    pub refusals: u32,
    /// Connections and requests that are taken at once; further ones wait.
    pub burst: u32,
    /// Connections and requests a second after a burst.
    pub per_second: u32,
    /// The most that a client may ask for.
    pub busy_poll: BusyPoll,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            idle: Duration::from_secs(30),
            refusals: 16,
            burst: 256,
            per_second: 64,
            // One NAPI pass (NAPI_POLL_WEIGHT): above it, epoll's twin of this option wants a privilege as well
            // (ioctl_eventpoll(2)).
            busy_poll: BusyPoll {
                micros: 1_000_000,
                budget: 64,
            },
        }
    }
}

/// What the clients of a socket did since it listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub accepted: u64,
    /// Connections of clients that are in no pod or container.
    pub unknown: u64,
    /// Devices handed over.
    pub handed: u64,
    /// Sockets set up for busy polling.
    pub busy_polled: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests that failed through no fault of the client.
    pub failed: u64,
    /// Connections that we closed: idle, refused too often, not reading, or in the way of a new one.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counters {
    accepted: Counter,
    unknown: Counter,
    handed: Counter,
    busy_polled: Counter,
    refused: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Counters {
    fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted.get(),
            unknown: self.unknown.get(),
            handed: self.handed.get(),
            busy_polled: self.busy_polled.get(),
            refused: self.refused.get(),
            failed: self.failed.get(),
            dropped: self.dropped.get(),
        }
    }
}

#[cfg(test)]
mod tests;
