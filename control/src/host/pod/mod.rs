//! A pod's network namespace: its interface is made, given its settings, looked at, repaired, announced, and deleted.
//!
//! ```text
//!   PodNetns::open ─┬─► Host::create_veth ─► both ends, the far one born in the pod      Host::delete_veth
//!   (path, inode)   ├─► Host::move_to_pod ─► a device's interface                      Pod::give_device
//!                   └─► PodNetns::enter ─► Pod: a socket from there ─► set_up · look · repair · announce
//! ```
//!
//! Guarantees: no thread but one that ends at once is ever in the pod's namespace; each step can be done again, or says
//! that something else is there; what others did in the pod is left alone. A pod may be hostile: its tables are listed
//! by interface and up to a limit, and nothing here waits for its programs.
//!
//! Left to the caller: a journal before the steps, and to drop a [`Pod`] soon, because its socket holds the namespace.

pub(crate) mod announce;
mod device;
mod interface;
mod settings;
#[cfg(test)]
pub(crate) mod testbed;
#[cfg(test)]
mod tests;
mod veth;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use super::netns::Netns;
use super::{HostError, NetnsInode, hint};

pub(crate) use device::DEVICE;
pub(crate) use interface::{Pod, PodInterface};
pub(crate) use settings::{Difference, PodRoute, Wanted, differences};
pub(crate) use veth::Veth;

/// The network namespace of a pod: the path of its file, and which one was found there.
///
/// The kernel gives the inode of a namespace that has ended to the next one, so it tells two apart only while both are
/// there. The cookie tells any two apart; it takes a socket in the namespace, and is known once it was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodNetns {
    path: PathBuf,
    inode: NetnsInode,
    /// Absent before it was entered first, with kernels before 5.14, and in what older releases wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
}

impl PodNetns {
    /// The namespace at a path like `/run/netns/blue` or `/proc/4711/ns/net`. The calling thread's own is refused.
    pub(crate) fn open(path: &Path) -> Result<Self, PodError> {
        let netns = open(path)?;
        let inode = inode(&netns, path)?;
        let own = fs::metadata("/proc/thread-self/ns/net").map_err(HostError::Socket)?;
        if inode.0 == own.ino() {
            return Err(PodError::Own(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            inode,
            cookie: None,
        })
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which one it is.
    pub(crate) fn inode(&self) -> NetnsInode {
        self.inode
    }

    /// Why it is not there any more; `Ok`: it is, or one that was given its inode. [`PodNetns::enter`] tells these apart.
    pub(crate) fn still_there(&self) -> Result<(), PodError> {
        self.netns().map(drop)
    }

    /// Whether this is what the path of `other` led to before.
    pub(crate) fn was_before(&self, other: &Self) -> bool {
        let known = self.cookie.zip(other.cookie);
        self.path == other.path
            && (self.inode != other.inode || known.is_some_and(|(mine, theirs)| mine != theirs))
    }

    /// Whether both are one namespace, whatever path each was found at.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.inode == other.inode
            && match self.cookie.zip(other.cookie) {
                Some((mine, theirs)) => mine == theirs,
                // One that has ended may have left its inode to the other.
                None => self.still_there().is_ok(),
            }
    }

    /// Its file, opened anew.
    pub(super) fn netns(&self) -> Result<Netns, PodError> {
        let netns = open(&self.path)?;
        if inode(&netns, &self.path)? != self.inode {
            return Err(PodError::Replaced(self.path.clone()));
        }
        Ok(netns)
    }

    /// Does something that brings errors of its own in this namespace; see [`Netns::run`].
    fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, PodError> + Send) -> Result<T, PodError> {
        self.netns()?.run(|| Ok(work()))?
    }
}

fn open(path: &Path) -> Result<Netns, PodError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        // ESRCH: the process of /proc/PID/ns/net is gone.
        Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR) => PodError::Gone(path.to_owned()),
        _ => PodError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    // Opening a FIFO would wait for its other end. A namespace is a regular file.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(PodError::NoNetns(path.to_owned()));
    }
    let netns = Netns::open(path).map_err(failed)?;
    let fd = netns.as_fd();
    let magic = fstatfs(fd)
        .map_err(|errno| failed(errno.into()))?
        .filesystem_type();
    // The link of a process names the kind, as net:[NUMBER] (namespaces(7)). A name as in `ip netns` is a mount point: of
    // another kind, that is refused when it is entered.
    let link = fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd())).map_err(failed)?;
    let link = link.to_string_lossy();
    match magic == NSFS_MAGIC && (link.starts_with("net:[") || link.starts_with('/')) {
        true => Ok(netns),
        false => Err(PodError::NoNetns(path.to_owned())),
    }
}

fn inode(netns: &Netns, path: &Path) -> Result<NetnsInode, PodError> {
    let inode = netns.inode().map_err(|source| PodError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(NetnsInode(inode))
}

/// Why something in a pod could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The kernel, or the way into the namespace.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No file, or no process any more.
    #[error("network namespace {} does not exist (any more): its pod has ended, or the path is wrong", .0.display())]
    Gone(PathBuf),
    /// There is one, but not the one that we know.
    #[error("network namespace {} is another one now: the pod that had it has ended", .0.display())]
    Replaced(PathBuf),
    /// A file of another kind.
    #[error("{} is no network namespace: give the path of one, like /run/netns/NAME or /proc/PID/ns/net", .0.display())]
    NoNetns(PathBuf),
    /// It may not be opened.
    #[error("opening network namespace {} failed: {source}{}", .path.display(), hint(.source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The daemon's.
    #[error(
        "{} is the network namespace of clearway itself, not of a pod (does the pod use the host's network?): give the path of the pod's own",
        .0.display()
    )]
    Own(PathBuf),
    /// Our end's name is taken.
    #[error(
        "an interface {name} exists on the host{}: delete it if nothing uses it (`ip link delete {name}`)",
        .alias.as_ref().map_or(String::new(), |alias| format!(", it is called {alias:?}"))
    )]
    HostNameTaken {
        /// The interface.
        name: String,
        /// Its alias, which of ours is the name of its attachment.
        alias: Option<String>,
    },
    /// The pod's end's name is taken.
    #[error("an interface {name} exists in network namespace {}: choose another name, or detach that one first", .netns.display())]
    PodNameTaken {
        /// The interface.
        name: String,
        /// The pod.
        netns: PathBuf,
    },
    /// The name is an interface of another kind: not ours to delete.
    #[error("the interface {name} is no veth but a {kind}: it is left alone; delete it if nothing uses it")]
    NotVeth {
        /// The interface.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// It is not in the pod.
    #[error("network namespace {} has no interface {name}: detach the pod and attach it again", .netns.display())]
    NoInterface {
        /// The interface.
        name: String,
        /// The pod.
        netns: PathBuf,
    },
    /// Another interface of the name is in the pod.
    #[error("interface {name} in network namespace {} is a {found}, not the {wanted} that it was: detach the pod and attach it again", .netns.display())]
    OtherKind {
        /// The interface.
        name: String,
        /// The pod.
        netns: PathBuf,
        /// Its kind.
        found: String,
        /// The kind it should be.
        wanted: String,
    },
    /// The interface has the address with another prefix.
    #[error("interface {interface} in network namespace {} has {found}, so it can't have {wanted}: delete the one or don't ask for the other", .netns.display())]
    AddressTaken {
        /// The interface.
        interface: String,
        /// The pod.
        netns: PathBuf,
        /// What is there.
        found: IpNet,
        /// What was wanted.
        wanted: IpNet,
    },
    /// A route of the same destination, metric and table leads elsewhere.
    #[error("the route {wanted} can't be added in network namespace {}: there is {found}; delete that one, or give this one another priority or table", .netns.display())]
    RouteTaken {
        /// The pod.
        netns: PathBuf,
        /// What is there.
        found: String,
        /// What was wanted.
        wanted: String,
    },
    /// A sysctl of the pod's.
    #[error("IPv6 is off on interface {interface} in network namespace {}, and turning it on failed: {source}; write 0 to {sysctl} there", .netns.display())]
    Ipv6Off {
        /// The interface.
        interface: String,
        /// The pod.
        netns: PathBuf,
        /// The file.
        sysctl: String,
        /// The errno.
        source: io::Error,
    },
    /// The neighbours were not told.
    #[error("announcing {address} on interface {interface} in network namespace {} failed: {source}; its neighbours learn of it when their caches expire", .netns.display())]
    Announce {
        /// The interface.
        interface: String,
        /// The pod.
        netns: PathBuf,
        /// The address.
        address: IpAddr,
        /// The errno.
        source: io::Error,
    },
}

impl PodError {
    /// Whether the path is not that of a pod's namespace, or not any more.
    pub(crate) fn is_of_netns(&self) -> bool {
        matches!(
            self,
            Self::Gone(_) | Self::Replaced(_) | Self::NoNetns(_) | Self::Own(_)
        )
    }

    /// Whether something else has the place of what was asked for.
    pub(crate) fn is_in_the_way(&self) -> bool {
        matches!(
            self,
            Self::HostNameTaken { .. }
                | Self::PodNameTaken { .. }
                | Self::AddressTaken { .. }
                | Self::RouteTaken { .. }
        )
    }
}
