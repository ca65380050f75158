//! The journal that gives every interface back as it was found, after a clean end and after kill -9 alike.
//!
//! ```text
//!   begin ─► set_*: read original ─► journal to disk (fsync) ─► change       restore ─► write back ─► remove journal
//!     ▲                                                             │
//!     └──────── kill -9: the journal stays; the next begin takes its originals for the truth
//! ```
//!
//! One file per interface, `<netns inode>-<name>.json` in the state directory (default [`STATE_DIR`]), valid for
//! this namespace, name and number: an interface that was deleted and made anew is another one, and its
//! predecessor's journal is dropped. Each open journal has a file beside it that is locked (flock(2)) and holds the
//! daemon's pid, so a second daemon on the same interface is told who has it, and a living daemon's journal is never
//! mistaken for a dead one's.
//!
//! Guarantees: a change is never made before its original value is on stable storage; a value is journaled once,
//! so changing a knob twice still restores what was there before Clearway; a knob that already has the wanted
//! value is neither written nor restored.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clearway_wire::MacAddr;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::ethtool::Feature;
use super::links::{IfIndex, Link};
use super::napi::NapiKnobs;
use super::offload::VethPeer;
use super::program::Holder;
use super::{Host, HostError, NetnsInode};

/// Where journals are kept: on a tmpfs, because a reboot undoes every change by itself.
pub(crate) const STATE_DIR: &str = "/run/clearway/restore";

/// The values that an interface had before Clearway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Originals {
    interface: String,
    ifindex: IfIndex,
    netns: NetnsInode,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    features: BTreeMap<String, bool>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    peer_features: BTreeMap<String, bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    napi: Option<NapiKnobs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    napi_threaded: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
}

impl Originals {
    fn none(link: &Link, netns: NetnsInode) -> Self {
        Self {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            netns,
            features: BTreeMap::new(),
            peer_features: BTreeMap::new(),
            napi: None,
            napi_threaded: None,
            mtu: None,
            mac: None,
        }
    }

    fn is_of(&self, link: &Link, netns: NetnsInode) -> bool {
        self.netns == netns && self.ifindex == link.ifindex && self.interface == link.name
    }

    fn is_empty(&self) -> bool {
        self.features.is_empty()
            && self.peer_features.is_empty()
            && self.napi.is_none()
            && self.napi_threaded.is_none()
            && self.mtu.is_none()
            && self.mac.is_none()
    }
}

/// The changes that we make to one interface: the only way to make any.
///
/// Dropped without [`Changes::restore`], it leaves interface and journal as they are, as a crash would.
pub(crate) struct Changes {
    link: Link,
    journal: Journal,
    originals: Originals,
}

impl Changes {
    /// Takes an interface on. The journal of a daemon that died with it is continued.
    pub(crate) fn begin(state_dir: &Path, host: &Host, link: &Link) -> Result<Self, HostError> {
        let journal = match Journal::lock(state_dir, host.netns(), &link.name)? {
            Lock::Ours(journal) => journal,
            Lock::Theirs { path, holder } => {
                return Err(HostError::InUse {
                    interface: link.name.clone(),
                    lock: path,
                    holder,
                });
            }
        };
        let originals = journal
            .read()?
            .filter(|found| found.is_of(link, host.netns()))
            .unwrap_or_else(|| Originals::none(link, host.netns()));
        Ok(Self {
            link: link.clone(),
            journal,
            originals,
        })
    }

    /// Turns features of the interface on or off, by the kernel's names.
    pub(crate) fn set_features(&mut self, host: &mut Host, wanted: &[(&str, bool)]) -> Result<(), HostError> {
        let wanted = differing(&self.link.name, &host.features(&self.link)?, wanted)?;
        if wanted.is_empty() {
            return Ok(());
        }
        self.record(|originals| note(&mut originals.features, &wanted))?;
        host.set_features(&self.link, &wanted)
    }

    #[cfg(test)]
    /// Turns one feature of the interface on or off, by the kernel's name.
    pub(crate) fn set_feature(&mut self, host: &mut Host, name: &str, on: bool) -> Result<(), HostError> {
        self.set_features(host, &[(name, on)])
    }

    /// Turns features of the veth's peer on or off, by the kernel's names.
    pub(crate) fn set_peer_features(
        &mut self,
        peer: &mut VethPeer,
        wanted: &[(&str, bool)],
    ) -> Result<(), HostError> {
        let now = peer.features()?;
        let wanted = differing(peer.name(), &now, wanted)?;
        if wanted.is_empty() {
            return Ok(());
        }
        self.record(|originals| note(&mut originals.peer_features, &wanted))?;
        peer.set_features(&wanted)
    }

    /// Sets the interrupt mitigation.
    pub(crate) fn set_napi_knobs(&mut self, host: &mut Host, knobs: NapiKnobs) -> Result<(), HostError> {
        let now = host.napi_knobs(&self.link)?;
        if now == knobs {
            return Ok(());
        }
        self.record(|originals| {
            originals.napi.get_or_insert(now);
        })?;
        host.set_napi_knobs(&self.link, knobs)
    }

    #[cfg(test)]
    /// Has kernel threads poll the interface, or not.
    pub(crate) fn set_napi_threaded(&mut self, host: &mut Host, threaded: bool) -> Result<(), HostError> {
        let now = host.napi_threaded(&self.link)?;
        if now == u64::from(threaded) {
            return Ok(());
        }
        self.record(|originals| {
            originals.napi_threaded.get_or_insert(now);
        })?;
        host.set_napi_threaded(&self.link, u64::from(threaded))
    }

    #[cfg(test)]
    /// Sets the MTU.
    pub(crate) fn set_mtu(&mut self, host: &mut Host, mtu: u32) -> Result<(), HostError> {
        let now = self.current(host)?.mtu;
        if now == mtu {
            return Ok(());
        }
        self.record(|originals| {
            originals.mtu.get_or_insert(now);
        })?;
        host.set_mtu(self.link.ifindex, mtu)
    }

    #[cfg(test)]
    /// Sets the MAC address.
    pub(crate) fn set_mac(&mut self, host: &mut Host, mac: MacAddr) -> Result<(), HostError> {
        let now = self.current(host)?.mac;
        if now == Some(mac) {
            return Ok(());
        }
        self.record(|originals| originals.mac = originals.mac.or(now))?;
        host.set_mac(self.link.ifindex, mac)
    }

    /// Forgets what was changed: the interface is about to be deleted.
    pub(crate) fn discard(self) -> Result<(), HostError> {
        self.journal.remove()
    }

    /// Gives the interface back. What fails does not keep the rest from being restored; it stays in the journal
    /// and is returned. An interface that is gone needs nothing.
    pub(crate) fn restore(mut self, host: &mut Host) -> Vec<HostError> {
        let mut failures = Vec::new();
        match host.link_by_index(self.link.ifindex) {
            Ok(Some(link)) => {
                self.link = link;
                self.write_back(host, &mut failures);
            }
            Ok(None) => self.originals = Originals::none(&self.link, host.netns()),
            Err(error) => failures.push(error),
        }
        // It may have gone meanwhile.
        if !failures.is_empty() && matches!(host.link_by_index(self.link.ifindex), Ok(None)) {
            failures.clear();
            self.originals = Originals::none(&self.link, host.netns());
        }
        let outcome = if self.originals.is_empty() {
            self.journal.remove()
        } else {
            self.journal.write(&self.originals)
        };
        failures.extend(outcome.err());
        failures
    }

    fn write_back(&mut self, host: &mut Host, failures: &mut Vec<HostError>) {
        let Self { link, originals, .. } = self;
        let mut done = |result: Result<(), HostError>| match result {
            Ok(()) => true,
            Err(error) => {
                failures.push(error);
                false
            }
        };
        let peer = originals.peer_features.clone();
        // A peer that is not found any more went away with its namespace, or will when that ends.
        let mut restore_peer = || match host.veth_peer(link)? {
            Some(mut end) => end.set_features(&borrowed(&peer)),
            None => Ok(()),
        };
        if !peer.is_empty() && done(restore_peer()) {
            originals.peer_features.clear();
        }
        let own = originals.features.clone();
        if !own.is_empty() && done(host.set_features(link, &borrowed(&own))) {
            originals.features.clear();
        }
        // A knob that could not be set in the first place (a veth without NAPIs refuses `threaded`) is as it was.
        originals.napi.take_if(|knobs| {
            host.napi_knobs(link).is_ok_and(|now| now == *knobs) || done(host.set_napi_knobs(link, *knobs))
        });
        originals.napi_threaded.take_if(|threaded| {
            host.napi_threaded(link).is_ok_and(|now| now == *threaded)
                || done(host.set_napi_threaded(link, *threaded))
        });
        originals
            .mtu
            .take_if(|mtu| done(host.set_mtu(link.ifindex, *mtu)));
        originals
            .mac
            .take_if(|mac| done(host.set_mac(link.ifindex, *mac)));
    }

    #[cfg(test)]
    fn current(&self, host: &mut Host) -> Result<Link, HostError> {
        host.link_by_index(self.link.ifindex)?
            .ok_or_else(|| HostError::NoInterface(self.link.name.clone()))
    }

    fn record(&mut self, add: impl FnOnce(&mut Originals)) -> Result<(), HostError> {
        let before = self.originals.clone();
        add(&mut self.originals);
        if self.originals == before {
            return Ok(());
        }
        let written = self.journal.write(&self.originals);
        if written.is_err() {
            self.originals = before;
        }
        written
    }
}

/// What became of the journal of a daemon that died.
#[derive(Debug)]
pub(crate) enum Leftover {
    /// Its interface is still a port: [`Changes::begin`] goes on with it.
    Kept(String),
    /// Its interface has its values back.
    Restored(String),
    /// Its interface no longer exists.
    Dropped(String),
    /// Its interface could not be given back entirely.
    Failed(String, Vec<HostError>),
}

/// Goes through the journals that dead daemons left in this namespace: gives back the interfaces that are not
/// `wanted` as ports any more. Journals of living daemons and of other namespaces are left alone.
pub(crate) fn restore_leftovers(
    state_dir: &Path,
    host: &mut Host,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Leftover>, HostError> {
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(HostError::Journal {
                attempt: "reading",
                path: state_dir.to_owned(),
                source,
            });
        }
    };
    let prefix = format!("{}-", host.netns().0);
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            Some(file.strip_prefix(&prefix)?.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort();
    let mut outcomes = Vec::new();
    for name in names {
        outcomes.extend(settle(state_dir, host, name, &wanted)?);
    }
    Ok(outcomes)
}

fn settle(
    state_dir: &Path,
    host: &mut Host,
    name: String,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<Leftover>, HostError> {
    let Lock::Ours(journal) = Journal::lock(state_dir, host.netns(), &name)? else {
        return Ok(None);
    };
    let Some(originals) = journal.read()? else {
        journal.remove()?;
        return Ok(None);
    };
    let link = host
        .link_by_index(originals.ifindex)?
        .filter(|link| originals.is_of(link, host.netns()));
    let Some(link) = link else {
        journal.remove()?;
        return Ok(Some(Leftover::Dropped(name)));
    };
    if wanted(&name) {
        return Ok(Some(Leftover::Kept(name)));
    }
    let failures = Changes {
        link,
        journal,
        originals,
    }
    .restore(host);
    Ok(Some(if failures.is_empty() {
        Leftover::Restored(name)
    } else {
        Leftover::Failed(name, failures)
    }))
}

/// A journal file and the lock that says that somebody lives who minds it.
struct Journal {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

/// What came of asking for the lock.
enum Lock {
    Ours(Journal),
    /// Another daemon's: the file, and who it is.
    Theirs {
        path: PathBuf,
        holder: Option<Holder>,
    },
}

impl Journal {
    fn lock(state_dir: &Path, netns: NetnsInode, interface: &str) -> Result<Lock, HostError> {
        let path = state_dir.join(format!("{}-{interface}.json", netns.0));
        let lock_path = path.with_extension("json.lock");
        let failed = |source| HostError::Journal {
            attempt: "locking",
            path: lock_path.clone(),
            source,
        };
        fs::create_dir_all(state_dir).map_err(failed)?;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&lock_path)
                .map_err(failed)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                    return Ok(Lock::Theirs {
                        holder: io::read_to_string(file).ok().and_then(holder_of),
                        path: lock_path,
                    });
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            // Its last holder may have removed the file between our open and our lock: then it locks nothing.
            let ours = lock.metadata().map_err(failed)?.ino();
            if fs::metadata(&lock_path).is_ok_and(|there| there.ino() == ours) {
                // For the error of whoever comes second: without it the lock holds as well.
                let _ = lock
                    .set_len(0)
                    .and_then(|()| writeln!(&*lock, "{}", std::process::id()));
                return Ok(Lock::Ours(Self {
                    path,
                    lock_path,
                    _lock: lock,
                }));
            }
        }
    }

    fn failed(&self, attempt: &'static str) -> impl Fn(io::Error) -> HostError {
        let path = self.path.clone();
        move |source| HostError::Journal {
            attempt,
            path: path.clone(),
            source,
        }
    }

    fn read(&self) -> Result<Option<Originals>, HostError> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|source| HostError::JournalFormat {
                        path: self.path.clone(),
                        source,
                    })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("reading")(source)),
        }
    }

    /// Replaces the file as a whole: a crash leaves the old one or the new one.
    fn write(&self, originals: &Originals) -> Result<(), HostError> {
        let text = serde_json::to_vec_pretty(originals).map_err(|source| HostError::JournalFormat {
            path: self.path.clone(),
            source,
        })?;
        let replace = || -> io::Result<()> {
            let scratch = self.path.with_extension("json.new");
            let mut file = File::create(&scratch)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&scratch, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        replace().map_err(self.failed("writing"))
    }

    fn remove(self) -> Result<(), HostError> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("removing")(e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Journal {
    /// While it is still locked: a lock file without a journal says nothing.
    fn drop(&mut self) {
        if !self.path.exists() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Reads what the holder of a lock wrote into it.
fn holder_of(text: String) -> Option<Holder> {
    text.trim().parse().ok().map(Holder::new)
}

/// Those that are not yet as wanted.
fn differing<'a>(
    interface: &str,
    now: &BTreeMap<String, Feature>,
    wanted: &[(&'a str, bool)],
) -> Result<Vec<(&'a str, bool)>, HostError> {
    let mut differing = Vec::new();
    for (name, on) in wanted {
        let unknown = || HostError::Feature {
            interface: interface.to_owned(),
            feature: (*name).to_owned(),
            on: *on,
            why: "this kernel knows no such feature",
        };
        if now.get(*name).ok_or_else(unknown)?.wanted != *on {
            differing.push((*name, *on));
        }
    }
    Ok(differing)
}

/// The originals of features that are about to change: the opposite of what is wanted.
fn note(originals: &mut BTreeMap<String, bool>, wanted: &[(&str, bool)]) {
    for (name, on) in wanted {
        originals.entry((*name).to_owned()).or_insert(!on);
    }
}

fn borrowed(map: &BTreeMap<String, bool>) -> Vec<(&str, bool)> {
    map.iter().map(|(name, on)| (name.as_str(), *on)).collect()
}
