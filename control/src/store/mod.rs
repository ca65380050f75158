//! The embedded store: what the daemon must still know after it ended, however it ended.
//!
//! ```text
//!   control ── commit(changes) ──► FileStore ──┬─► store.BOOT.redb   attachments, leases; what waits for the other
//!           ◄── load() ────────────────────────┘        │ flush
//!                                                       └─► store.redb   objects of the configuration, sticky addresses
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `file` | the store in files: two of them, and why |
//! | `table` | one of the files: rows, written all or none |
//! | `schema` | versions of what is in them, and how an older one becomes this one |
//! | `backend` | how its bytes reach the file |
//! | `memory` | a store for tests, which fails when it is told to |
//!
//! Guarantees: the changes of one [`Store::commit`] are there all or none, whatever ends the process meanwhile, and
//! they are there when it returns. How long: [`ObjectKind::is_lasting`]. A file that is damaged, of a newer version or
//! in use is an error that says what to do and leaves it as it is. No bytes in it panic.
//!
//! Left to the caller: what the values mean, and to call it from one thread. A commit takes some 50 µs, one with a
//! configuration some milliseconds more (it waits for the disk): control's threads may call it, workers must not.

mod backend;
mod file;
#[cfg(test)]
mod memory;
mod schema;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::host::program::Holder;
pub(crate) use file::FileStore;
#[cfg(test)]
pub(crate) use memory::{Fault, MemoryStore};

/// Where it is kept when nobody says otherwise.
pub(crate) const STORE: &str = "/var/lib/clearway/store.redb";

/// Where records are kept.
pub(crate) trait Store: Send {
    /// All records, in the order of kind and key.
    fn load(&mut self) -> Result<Vec<Record>, StoreError>;

    /// Makes all of these changes, in this order, or none. They have been made when it returns, and are there after
    /// the end of the process, however it ends; after a reboot as [`ObjectKind::is_lasting`] says.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Brings to stable storage what still waits for it. To be called when there is time, a second after a commit
    /// say; without anything that waits it does nothing.
    fn flush(&mut self) -> Result<(), StoreError>;
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ObjectKind {
    /// The configuration in use as a whole, without its objects; and what its file said.
    Config,
    /// `engine`, `api` or `sriov` of the configuration.
    Setting,
    /// A port of the configuration; those of attachments follow from these.
    Port,
    /// A bridge domain.
    BridgeDomain,
    /// A local VXLAN tunnel endpoint.
    Vtep,
    /// An address pool.
    AddressPool,
    /// A pair of ports.
    CrossConnect,
    /// A pod's or a guest's port.
    Attachment,
    /// Addresses that an attachment has.
    Lease,
    /// Addresses that a pod had, and is to have again.
    Sticky,
}

impl ObjectKind {
    const ALL: [Self; 10] = [
        Self::Config,
        Self::Setting,
        Self::Port,
        Self::BridgeDomain,
        Self::Vtep,
        Self::AddressPool,
        Self::CrossConnect,
        Self::Attachment,
        Self::Lease,
        Self::Sticky,
    ];

    /// Those of which the API tells.
    pub(crate) const SHOWN: &[Self] = &[
        Self::Setting,
        Self::Port,
        Self::BridgeDomain,
        Self::Vtep,
        Self::AddressPool,
        Self::CrossConnect,
        Self::Attachment,
    ];

    /// Whether it is of the configuration, as a file or an `apply` has it.
    pub(crate) fn is_configured(self) -> bool {
        !matches!(self, Self::Attachment | Self::Lease | Self::Sticky)
    }

    /// Whether it outlives a reboot.
    ///
    /// Pods do not: neither do attachments and leases, which are dropped at the first start after it. The
    /// configuration does, and is on stable storage when `commit` returns. A sticky address does, from the next
    /// [`Store::flush`] on: what a power cut takes away before is the memory of an address, and no address is given
    /// twice for that.
    pub(crate) fn is_lasting(self) -> bool {
        self.is_configured() || self == Self::Sticky
    }

    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Setting => "setting",
            Self::Port => "port",
            Self::BridgeDomain => "bridge-domain",
            Self::Vtep => "vtep",
            Self::AddressPool => "address-pool",
            Self::CrossConnect => "cross-connect",
            Self::Attachment => "attachment",
            Self::Lease => "lease",
            Self::Sticky => "sticky",
        }
    }

    /// What a word is for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who wants a record to be there. What file and `apply` say of the configuration replaces what the other said before; what
/// the CNI plugin has is taken away by it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Owner {
    /// The configuration file that the daemon was started with, or its command line.
    File,
    /// Whoever applied a configuration to the running daemon.
    Apply,
    /// A container runtime, through the CNI plugin.
    Cni,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Apply => "apply",
            Self::Cni => "cni",
        })
    }
}

/// One thing that is to be known again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it is about.
    pub(crate) kind: ObjectKind,
    /// Which of this kind.
    pub(crate) key: String,
    /// Who wants it.
    pub(crate) owner: Owner,
    /// Times that it was changed; counted by the caller.
    pub(crate) generation: u64,
    /// When it was changed last, in seconds since 1970-01-01 UTC; 0: before that was noted.
    #[serde(default)]
    pub(crate) changed_s: u64,
    /// What it says.
    pub(crate) value: serde_json::Value,
}

impl Record {
    /// One with a value of our own. Values are structs with names for keys, which JSON always takes.
    pub(crate) fn new(
        kind: ObjectKind,
        key: String,
        owner: Owner,
        generation: u64,
        value: &impl Serialize,
    ) -> Self {
        Self {
            kind,
            key,
            owner,
            generation,
            changed_s: now_s(),
            value: serde_json::to_value(value).unwrap_or_default(),
        }
    }

    /// Its value.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_value(self.value.clone()).map_err(|error| StoreError::Value {
            kind: self.kind,
            key: self.key.clone(),
            reason: error.to_string(),
        })
    }
}

/// Seconds since 1970-01-01 UTC.
pub(crate) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// This record instead of any of the same kind and key.
    Put(Record),
    /// No record of this kind and key; none was is fine.
    Delete {
        /// What it is about.
        kind: ObjectKind,
        /// Which of this kind.
        key: String,
    },
}

impl Change {
    /// What it is about.
    pub(crate) fn kind(&self) -> ObjectKind {
        match self {
            Self::Put(record) => record.kind,
            Self::Delete { kind, .. } => *kind,
        }
    }

    /// Which of this kind.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put(record) => &record.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// Why records could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file or folder of it.
    #[error("{attempt} {} failed: {source}{}", .path.display(), hint(.source))]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the store {} is in use by {}; one daemon has one store: end that one, or give this one another --state-dir",
        .path.display(), who(.holder)
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// Who has it, if that can be told.
        holder: Option<Holder>,
    },
    /// A later version wrote it.
    #[error(
        "the store {} has format {found}, which a later version of clearway wrote; this one knows formats up to {known} and has \
         changed nothing: start that version again, or move the file away: {}",
        .path.display(), lost(.path)
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The latest that is known here.
        known: u64,
    },
    /// Its bytes are not what was written, or were never ours.
    #[error(
        "the store {} is damaged or no store of clearway's: {reason}; nothing was changed in it: move it away and start again: {}",
        .path.display(), lost(.path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A record that is not what this version makes of it.
    #[error(
        "the store's {kind} {key} can't be read: {reason}; it was written by another version of clearway: start that one again, or move the store away"
    )]
    Value {
        /// What it is about.
        kind: ObjectKind,
        /// Which of this kind.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// Reading or writing it failed.
    #[error(
        "{attempt} the store {} failed: {reason}; nothing of this was changed. Is its disk full or broken? (df -h {0})",
        .path.display()
    )]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the library or the kernel said.
        reason: String,
    },
    /// A commit that was to fail.
    #[cfg(test)]
    #[error("commit {0} was told to fail")]
    Injected(u64),
}

fn who(holder: &Option<Holder>) -> String {
    holder
        .as_ref()
        .map_or_else(|| "another process".to_owned(), ToString::to_string)
}

/// What is not known any more without the file.
fn lost(path: &Path) -> &'static str {
    if file::is_of_a_boot(path) {
        "pods that run are then not known, and each is attached again when its runtime starts it anew"
    } else {
        "the configuration file counts again and addresses of pods that do not run are forgotten, pods that run stay"
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run clearway as root",
        io::ErrorKind::StorageFull => "; free some space on that file system",
        io::ErrorKind::ReadOnlyFilesystem => "; that file system is read-only: name another --state-dir",
        _ => "",
    }
}
