//! Other network namespaces: how to find the one that our kernel only gives a number, and how to work in it.
//!
//! A veth names its peer's namespace by a number that means something in our namespace alone
//! (`IFLA_LINK_NETNSID`). The kernel tells whether a given namespace file has that number (`RTM_GETNSID`), so the
//! files in question are asked in turn: named namespaces first, then those of all processes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::netlink::Message;
use super::{Host, HostError};

const RTM_GETNSID: u16 = 90;
/// `NETNSA_NSID`, `NETNSA_FD`.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`.
const RTGEN_LEN: usize = 1;
/// Where iproute2 and container runtimes keep namespaces that have a name.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A network namespace that was found; held open, so that it stays while we work in it.
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens a namespace file, e.g. `/run/netns/blue` or `/proc/1/ns/net`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            path: path.to_owned(),
        })
    }

    /// Runs `work` on a thread of its own that is in this namespace and ends with it, so that no other thread is
    /// ever in a foreign namespace.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, HostError> + Send,
    ) -> Result<T, HostError> {
        let failed = |source| HostError::Enter {
            namespace: self.path.display().to_string(),
            source,
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                    work()
                });
            match worker.map_err(failed)?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Host {
    /// The namespace that ours knows by this number; `None` if no file of it can be found or opened.
    pub(crate) fn find_netns(&mut self, netnsid: i32) -> Result<Option<Netns>, HostError> {
        let mut asked = BTreeSet::new();
        for path in candidates() {
            let Ok(netns) = Netns::open(&path) else { continue };
            let Ok(inode) = netns.file.metadata().map(|m| m.ino()) else {
                continue;
            };
            if asked.insert(inode) && self.netnsid_of(&netns)? == Some(netnsid) {
                return Ok(Some(netns));
            }
        }
        Ok(None)
    }

    /// Our number for a namespace; `None` if it has none, or the file is no namespace.
    fn netnsid_of(&mut self, netns: &Netns) -> Result<Option<i32>, HostError> {
        let message = Message::new(RTM_GETNSID, 0, &[0; RTGEN_LEN])
            .attr(NETNSA_FD, &netns.file.as_raw_fd().to_ne_bytes());
        match self.rtnl.transact(message) {
            Ok(replies) => Ok(replies
                .iter()
                .find_map(|r| r.attrs(RTGEN_LEN).i32(NETNSA_NSID))
                .filter(|id| *id >= 0)),
            Err(refusal) if refusal.is(nix::errno::Errno::EINVAL) => Ok(None),
            Err(refusal) => Err(refusal.during(format!("asking for the number of {}", netns.path.display()))),
        }
    }
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let entries = |dir: &str| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let named = NAMED.into_iter().flat_map(entries);
    let processes = entries("/proc").map(|path| path.join("ns/net"));
    named.chain(processes)
}
