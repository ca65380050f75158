//! Who is at the other end of a connection, as the kernel tells it.
//!
//! ```text
//!   socket ── SO_PEERCRED ──► pid, uid, gid ── /proc/PID/cgroup ──► workload (pod, container)
//!          └─ SO_PEERPIDFD ─► does that process still run? then what was read was its own
//! ```
//!
//! Guarantees: nothing that the client sends has a part in it. On Linux 6.5 and later a process number that was given
//! to another process since is noticed ([`PeerError::Gone`]); before, the time between a client's connect and our
//! accept is open to it.
//!
//! The daemon has to share the host's pid namespace: in another one the kernel gives no number for a pod's process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::cgroup::{self, CgroupError, Workload};

/// The client of a connection, as of its `connect(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process, in our pid namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// The pod or container that it is in.
    pub workload: Workload,
}

/// Why a client is not known.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel does not tell.
    #[error("reading the credentials of the client's socket: {0}")]
    Credentials(#[source] Errno),
    /// It is in a pid namespace that we don't see.
    #[error(
        "the client's process is not in our pid namespace or below it; \
         run the daemon on the host, or its pod with hostPID: true"
    )]
    OtherPidNamespace,
    /// It ended since it connected.
    #[error("the client's process {pid} ended")]
    Gone {
        /// Its number.
        pid: i32,
    },
    /// /proc is not what it should be.
    #[error("reading /proc/{pid}/cgroup: {source}; is /proc mounted with hidepid?")]
    Cgroup {
        /// Its number.
        pid: i32,
        /// The system's refusal.
        source: io::Error,
    },
    /// It is no pod's and no container's.
    #[error("process {pid}: {source}")]
    Workload {
        /// Its number.
        pid: i32,
        /// What its cgroups say.
        source: CgroupError,
    },
}

impl Peer {
    /// The client of a connection that was accepted just now.
    pub fn of(socket: impl AsFd) -> Result<Self, PeerError> {
        let credentials =
            getsockopt(&socket.as_fd(), sockopt::PeerCredentials).map_err(PeerError::Credentials)?;
        let pid = credentials.pid();
        if pid <= 0 {
            return Err(PeerError::OtherPidNamespace);
        }
        let process = match getsockopt(&socket.as_fd(), sockopt::PeerPidfd) {
            Ok(process) => Some(process),
            Err(Errno::ENOPROTOOPT) => None,
            Err(_) => return Err(PeerError::Gone { pid }),
        };
        let text = match std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            Ok(text) => text,
            Err(error) if is_gone(&error) => return Err(PeerError::Gone { pid }),
            Err(source) => return Err(PeerError::Cgroup { pid, source }),
        };
        if process.is_some_and(|process| has_ended(&process)) {
            return Err(PeerError::Gone { pid });
        }
        let workload = cgroup::workload(&text).map_err(|source| PeerError::Workload { pid, source })?;
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            workload,
        })
    }
}

/// No such process: before the file was opened, or since.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// A pidfd is readable once its process ended (pidfd_open(2)). What can't be asked counts as ended.
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(0))
}
