//! Other network namespaces: how to find the one that our kernel only gives a number, and how to work in it.
//!
//! A veth names its peer's namespace by a number that means something in our namespace alone
//! (`IFLA_LINK_NETNSID`). The kernel tells the number of a given namespace file (`RTM_GETNSID`), so the files in
//! question are asked in turn: named namespaces first, then those of all processes. With a namespace for every pod
//! that would be as many questions for every pod, so what was learnt is remembered, and made sure of when it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::Message;
use super::pod::{PodError, PodNetns};
use super::{Host, HostError};

const RTM_GETNSID: u16 = 90;
/// `NETNSA_NSID`, `NETNSA_FD`.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`.
const RTGEN_LEN: usize = 1;
/// Where iproute2 and container runtimes keep namespaces that have a name.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Where namespaces were found. Not held open: a pod's namespace goes when the pod does.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// A file of the namespace that we know by a number.
    paths: BTreeMap<i32, PathBuf>,
    /// The inodes of all these.
    inodes: BTreeSet<u64>,
}

impl Known {
    /// Takes down where a pod's namespace is, which we know by this number.
    pub(super) fn remember(&mut self, netnsid: i32, pod: &PodNetns) {
        self.paths.insert(netnsid, pod.path().to_owned());
        self.inodes.insert(pod.inode().0);
    }

    /// How many namespaces are known.
    #[cfg(test)]
    pub(super) fn learnt(&self) -> usize {
        self.paths.len()
    }
}

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

    /// Makes one that has no name and no process: it goes when this is dropped. `lo` is all there is, and is down.
    pub(super) fn unnamed() -> Result<Self, HostError> {
        const WHAT: &str = "that has no name";
        let failed = |source| HostError::Enter {
            namespace: WHAT.to_owned(),
            source,
        };
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        let maker = thread::Builder::new().name("netns".into()).spawn(make);
        match maker.map_err(failed)?.join() {
            Ok(file) => Ok(Self {
                file: file.map_err(failed)?,
                path: WHAT.into(),
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Which one it is.
    pub(super) fn inode(&self) -> io::Result<u64> {
        self.file.metadata().map(|file| file.ino())
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

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Host {
    /// Remembers where the namespace of a pod is, if one of our interfaces has its peer there: then it need not be searched
    /// for among those of all processes. For pods of an earlier run of ours; [`Host::create_veth`] does it by itself.
    pub(crate) fn remember_netns(&mut self, pod: &PodNetns) -> Result<(), PodError> {
        let netns = pod.netns()?;
        if let Some(netnsid) = self.netnsid_of(&netns)? {
            self.namespaces.remember(netnsid, pod);
        }
        Ok(())
    }

    /// The namespace that ours knows by this number; `None` if no file of it can be found or opened.
    pub(crate) fn find_netns(&mut self, netnsid: i32) -> Result<Option<Netns>, HostError> {
        if let Some(netns) = self.known_netns(netnsid)? {
            return Ok(Some(netns));
        }
        self.learn_netns()?;
        if let Some(netns) = self.known_netns(netnsid)? {
            return Ok(Some(netns));
        }
        // An inode or a name may have been given to another namespace since.
        self.namespaces = Known::default();
        self.learn_netns()?;
        self.known_netns(netnsid)
    }

    /// The namespace of this number, if it is still where it was found.
    fn known_netns(&mut self, netnsid: i32) -> Result<Option<Netns>, HostError> {
        let Some(netns) = self.namespaces.paths.get(&netnsid).map(|path| Netns::open(path)) else {
            return Ok(None);
        };
        let Ok(netns) = netns else { return Ok(None) };
        let is_it = self.netnsid_of(&netns)? == Some(netnsid);
        Ok(is_it.then_some(netns))
    }

    /// Asks for the numbers of all namespaces that are not known yet.
    fn learn_netns(&mut self) -> Result<(), HostError> {
        let mut asked = BTreeSet::new();
        for path in candidates() {
            let Ok(inode) = fs::metadata(&path).map(|file| file.ino()) else {
                continue;
            };
            if self.namespaces.inodes.contains(&inode) || !asked.insert(inode) {
                continue;
            }
            let Ok(netns) = Netns::open(&path) else { continue };
            if let Some(netnsid) = self.netnsid_of(&netns)? {
                self.namespaces.paths.insert(netnsid, path);
                self.namespaces.inodes.insert(inode);
            }
        }
        Ok(())
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
