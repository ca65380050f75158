//! Everything that Clearway asks of the Linux host's interfaces, and everything that it changes on them.
//!
//! ```text
//!              ┌ links    who is there, what they are, live           ┐
//!              │ routes   which next hop the kernel would take        │
//!   control ──►│ watch    the same, followed live and kept alive      │──► netlink · genl ──► kernel
//!              │ offload  tags and checksums back into the frame      │    sysfs (our own)
//!              │ napi, promisc  knobs of busy polling and reception   │
//!              │ tap      TAPs made, found and followed               │
//!              │ pod      what is done to and in a pod's namespace    │
//!              │ label    SELinux labels of files                     │
//!              │ unlink   interfaces deleted, without waiting for RCU │
//!              │ spare    an interface that nobody sees               │
//!              │ restore  the journal that gives all of it back       │
//!              └ facts, doctor  what this host can do, and what to do ┘
//! ```
//!
//! Guarantees: a knob is changed through [`restore::Changes`] alone, which has its original value on stable storage
//! first; questions go to the network namespace of the thread that opened the [`Host`], also if `/sys` shows
//! another one; a missing privilege or an old kernel is an error or a warning that says what to do, not a panic.
//!
//! Left to the caller: to run all of this on control's threads, never on a worker (every call here is a system
//! call that may wait for the kernel's RTNL lock), and to use a `Host` from one thread at a time.

pub(crate) mod accounts;
pub(crate) mod doctor;
pub(crate) mod ethtool;
pub(crate) mod facts;
mod genl;
pub(crate) mod label;
pub(crate) mod links;
pub(crate) mod napi;
pub(crate) mod netdev;
mod netlink;
pub(crate) mod netns;
pub(crate) mod offload;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod promisc;
pub(crate) mod restore;
pub(crate) mod routes;
pub(crate) mod spare;
pub(crate) mod sysfs;
pub(crate) mod tap;
#[cfg(test)]
pub(crate) mod testing;
mod unlink;
pub(crate) mod watch;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ethtool::Ethtool;
use netdev::Netdev;
use netlink::Netlink;
use sysfs::NetSysfs;

/// Open handles to the kernel of one network namespace: that of the thread that opened them.
pub(crate) struct Host {
    rtnl: Netlink,
    ethtool: Ethtool,
    /// `None` before Linux 6.3.
    netdev: Option<Netdev>,
    /// `None` without CAP_SYS_ADMIN.
    sysfs: Option<NetSysfs>,
    netns: NetnsInode,
    namespaces: netns::Known,
}

/// The inode of a network namespace: its identity while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct NetnsInode(pub(crate) u64);

impl Host {
    /// Opens the handles. Fails only without netlink itself: what needs more privilege fails where it is used.
    pub(crate) fn open() -> Result<Self, HostError> {
        let netns = std::fs::metadata("/proc/thread-self/ns/net")
            .map_err(HostError::Socket)?
            .ino();
        Ok(Self {
            rtnl: Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?,
            ethtool: Ethtool::open()?,
            netdev: Netdev::open().ok(),
            sysfs: NetSysfs::open().ok(),
            netns: NetnsInode(netns),
            namespaces: netns::Known::default(),
        })
    }

    /// The network namespace that this `Host` speaks of.
    pub(crate) fn netns(&self) -> NetnsInode {
        self.netns
    }
}

/// Why something about the host could not be learnt or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// Neither sockets nor /proc: nothing works.
    #[error("opening a netlink socket failed: {0}; is a seccomp filter or a missing /proc in the way?")]
    Socket(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{attempt} failed: {source}{}{}", explained(.explanation), hint(.source))]
    Kernel {
        /// What was attempted, on what.
        attempt: String,
        /// The errno.
        source: io::Error,
        /// The kernel's own words.
        explanation: Option<String>,
    },
    /// The kernel acknowledged a question without answering it.
    #[error(
        "{attempt} brought no answer from the kernel; the interface may just have been deleted: try again"
    )]
    NoAnswer {
        /// What was attempted, on what.
        attempt: String,
    },
    /// No interface of this name.
    #[error(
        "interface {0} does not exist in this network namespace: create it or correct its name (`ip link` lists them)"
    )]
    NoInterface(String),
    /// The kernel lacks a generic netlink family.
    #[error(
        "this kernel has no netlink family {name}: ethtool needs Linux 5.6 with CONFIG_ETHTOOL_NETLINK, netdev 6.3"
    )]
    NoFamily {
        /// The family.
        name: &'static str,
    },
    /// No sysfs of our own.
    #[error("making a private sysfs failed: {source}{}", hint(.source))]
    Sysfs {
        /// The errno.
        source: io::Error,
    },
    /// Neither sysfs nor netlink can reach a NAPI knob.
    #[error(
        "the NAPI knobs of {interface} are out of reach: sysfs needs CAP_SYS_ADMIN, netlink Linux 6.13 and a NAPI that runs; run clearway as root or set them by hand"
    )]
    NoNapiKnob {
        /// The interface.
        interface: String,
    },
    /// An attribute in sysfs.
    #[error("{attempt} {attribute} of interface {interface} failed: {source}{}", hint(.source))]
    Attribute {
        /// "reading" or "writing".
        attempt: &'static str,
        /// The interface.
        interface: String,
        /// The attribute's path below the interface.
        attribute: String,
        /// The errno.
        source: io::Error,
    },
    /// An attribute holds something that is not what its documentation says.
    #[error(
        "{attribute} of interface {interface} reads {value:?}, which is no number: a kernel unlike any we know"
    )]
    NotANumber {
        /// The interface.
        interface: String,
        /// The attribute.
        attribute: String,
        /// What it reads.
        value: String,
    },
    /// The driver does not know a feature, or does not let go of it.
    #[error("feature {feature} of interface {interface} can't be turned {}: {why}", if *.on { "on" } else { "off" })]
    Feature {
        /// The interface.
        interface: String,
        /// The kernel's name of the feature.
        feature: String,
        /// What was asked for.
        on: bool,
        /// Fixed, unknown, or held by another feature.
        why: &'static str,
    },
    /// Another network namespace could not be entered or worked in.
    #[error("entering network namespace {namespace} failed: {source}{}", hint(.source))]
    Enter {
        /// Where it was found.
        namespace: String,
        /// The errno.
        source: io::Error,
    },
    /// The packet socket that holds promiscuous mode.
    #[error("turning on promiscuous mode of interface {ifindex} failed: {source}{}", hint(.source))]
    Promiscuous {
        /// The interface.
        ifindex: links::IfIndex,
        /// The errno.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "interface {interface} is in use by another clearway ({}), which has locked {}: stop that one, or give each its own interfaces",
        .holder.as_ref().map_or("its pid is not known".to_owned(), ToString::to_string), .lock.display()
    )]
    InUse {
        /// The interface.
        interface: String,
        /// What says so.
        lock: PathBuf,
        /// Who it is, as it wrote there.
        holder: Option<program::Holder>,
    },
    /// The journal of original values.
    #[error("{attempt} the journal {} failed: {source}; free some space or name a writable state directory", .path.display())]
    Journal {
        /// "reading", "writing", "locking", "removing".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A journal that cannot be understood.
    #[error("the journal {} can't be understood: {source}; give the interface its settings back by hand and remove the file", .path.display())]
    JournalFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

fn explained(explanation: &Option<String>) -> String {
    explanation
        .as_ref()
        .map(|text| format!(" (the kernel says: {text})"))
        .unwrap_or_default()
}

/// What to do about the errnos that a user can do something about.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => {
            "; run clearway as root, or give it CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN"
        }
        Some(nix::errno::Errno::ENODEV) => "; the interface is gone: it is picked up when it comes back",
        Some(nix::errno::Errno::EBUSY) => {
            "; something else uses it: `ip -d link` and `bpftool net` show what"
        }
        Some(nix::errno::Errno::EOPNOTSUPP) => "; the driver or this kernel can't do it",
        _ => "",
    }
}
