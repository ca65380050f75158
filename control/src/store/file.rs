//! The store in files.
//!
//! Two of them, because a write that only has to outlive the process is done when the kernel has it (23 µs, measured on
//! ext4 on a virtual disk), and one that has to outlive a power cut when the disk has it (4 ms). Attachments and leases
//! end with the machine's uptime anyway. They are in `store.BOOT.redb`, which is never synced: BOOT is the kernel's
//! boot_id, and the file of another boot is removed unread, so what a power cut made of it does not matter.
//!
//! Every commit is one transaction of that file, lasting records included: for these it is the write-ahead record, and
//! a flush brings them to `store.redb`, with fsync, and takes them off again. So a commit is atomic over both files,
//! and one that was interrupted between them goes on at the next opening. A configuration is flushed at once, sticky
//! addresses when the caller has time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::backend::Durability;
use super::table::{Row, Table, Tables};
use super::{Change, ObjectKind, Record, Store, StoreError};
use crate::host::program::Holder;

/// The kernel's identifier of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// What is between the store's name and the boot's.
const BOOT_MARK: &str = ".boot-";

/// A store in files beside each other.
pub(crate) struct FileStore {
    pub(super) lasting: Tables,
    /// Of this boot.
    pub(super) passing: Tables,
    _lock: Flock<File>,
}

impl FileStore {
    /// Opens the store whose lasting file is `path`, as in `/var/lib/clearway/store.redb`; makes it and its folder if
    /// there is none. Its folder should outlive reboots. Beside it are the file of this boot and a lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let boot = fs::read_to_string(BOOT_ID).map_err(|source| StoreError::File {
            attempt: "reading",
            path: BOOT_ID.into(),
            source,
        })?;
        Self::open_at(path, boot.trim())
    }

    /// [`FileStore::open`], at this boot.
    pub(super) fn open_at(path: &Path, boot: &str) -> Result<Self, StoreError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|source| StoreError::File {
            attempt: "making the folder",
            path: folder.to_owned(),
            source,
        })?;
        let lock = lock(path)?;
        // Both are looked at before either is changed.
        let mut lasting = Tables::open(path, Durability::Disk)?;
        let mut passing = Tables::open(&of_boot(path, boot), Durability::Kernel)?;
        // What waits is of the version in which it was written: it is brought over before that becomes another.
        if lasting.version()? == passing.version()? {
            let brought = bring(&mut lasting, &mut passing)?;
            if !brought.is_empty() {
                passing.write(&brought)?;
            }
        }
        lasting.migrate()?;
        passing.migrate()?;
        remove_other_boots(path, passing.path())?;
        let mut store = Self {
            lasting,
            passing,
            _lock: lock,
        };
        store.load()?;
        store.flush()?;
        Ok(store)
    }
}

impl Store for FileStore {
    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut records = BTreeMap::new();
        for row in self.lasting.rows()? {
            let record = record_of(&row, self.lasting.path())?;
            records.insert((row.kind, row.key), record);
        }
        for row in self.passing.rows()? {
            let record = record_of(&row, self.passing.path())?;
            records.insert((row.kind, row.key), record);
        }
        // Kinds by their own order, not by that of their words.
        let mut records: Vec<_> = records.into_values().flatten().collect();
        records.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        Ok(records)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let rows = changes.iter().map(row_of).collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|reason| StoreError::Refused {
            attempt: "writing",
            path: self.passing.path().to_owned(),
            reason: reason.to_string(),
        })?;
        let before = self.passing.write(&rows)?;
        if changes.iter().any(|change| change.kind().is_configured())
            && let Err(error) = self.flush()
        {
            // None of it, then. If this fails as well, both files are out of reach: the next opening makes all of it.
            self.passing.write(&before)?;
            return Err(error);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let brought = bring(&mut self.lasting, &mut self.passing)?;
        if brought.is_empty() {
            return Ok(());
        }
        // What waits on is what is there already: the next flush writes it once more.
        if let Err(error) = self.passing.write(&brought) {
            tracing::warn!(%error, "the store keeps a note of what it has written");
        }
        Ok(())
    }
}

/// Writes what waits to the lasting file. Gives the rows that say in the other that nothing waits any more.
fn bring(lasting: &mut Tables, passing: &mut Tables) -> Result<Vec<Row>, StoreError> {
    let waiting = passing.rows_of(&[Table::Waiting])?;
    if waiting.is_empty() {
        return Ok(waiting);
    }
    let records: Vec<_> = waiting
        .iter()
        .map(|row| Row {
            table: Table::Records,
            value: row.value.clone().filter(|value| !value.is_empty()),
            ..row.clone()
        })
        .collect();
    lasting.write(&records)?;
    Ok(waiting
        .into_iter()
        .map(|row| Row { value: None, ..row })
        .collect())
}

impl Drop for FileStore {
    fn drop(&mut self) {
        // What fails here waits for the next opening.
        let _ = self.flush();
    }
}

/// The row that a change makes in the file of this boot.
fn row_of(change: &Change) -> Result<Row, serde_json::Error> {
    let kind = change.kind();
    let value = match change {
        Change::Put(record) => Some(serde_json::to_vec(record)?),
        // Nothing here says nothing of what is in the other file.
        Change::Delete { .. } if kind.is_lasting() => Some(Vec::new()),
        Change::Delete { .. } => None,
    };
    Ok(Row {
        table: if kind.is_lasting() {
            Table::Waiting
        } else {
            Table::Records
        },
        kind: kind.as_str().to_owned(),
        key: change.key().to_owned(),
        value,
    })
}

/// The record of a row; none, if it waits to be deleted.
fn record_of(row: &Row, path: &Path) -> Result<Option<Record>, StoreError> {
    let damaged = |reason: String| StoreError::Damaged {
        path: path.to_owned(),
        reason: format!("its record {} {:?}: {reason}", row.kind, row.key),
    };
    let kind = ObjectKind::of(&row.kind).ok_or_else(|| damaged("there is no such kind".to_owned()))?;
    let value = row.value.as_deref().unwrap_or_default();
    if value.is_empty() && row.table == Table::Waiting {
        return Ok(None);
    }
    let record: Record = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
    if record.kind != kind || record.key != row.key {
        return Err(damaged(format!(
            "it says that it is {} {:?}",
            record.kind, record.key
        )));
    }
    Ok(Some(record))
}

/// `store.boot-BOOT.redb`, beside `store.redb`.
fn of_boot(path: &Path, boot: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}{BOOT_MARK}{boot}.redb"))
}

/// Whether a file is that of a boot.
pub(super) fn is_of_a_boot(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().contains(BOOT_MARK))
}

/// Removes what earlier boots left.
fn remove_other_boots(path: &Path, ours: &Path) -> Result<(), StoreError> {
    let failed = |attempt, path: &Path, source| StoreError::File {
        attempt,
        path: path.to_owned(),
        source,
    };
    let prefix = format!(
        "{}{BOOT_MARK}",
        path.file_stem().unwrap_or_default().to_string_lossy()
    );
    let folder = path.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(folder).map_err(|source| failed("reading the folder", folder, source))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = entry.path();
        if name.starts_with(&prefix) && name.ends_with(".redb") && file != ours {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("removing", &file, error));
                }
                _ => {
                    tracing::info!(file = %file.display(), "what was attached before the reboot is forgotten")
                }
            }
        }
    }
    Ok(())
}

/// The lock that says that somebody has the store, with its pid in it.
fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| StoreError::File {
        attempt: "locking",
        path: lock_path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed)?;
    // Whoever may read it can take the lock, and no daemon would start. Older releases let everybody.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(failed)?;
    // The file stays for ever: removing it would take the lock away from under who comes next.
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => StoreError::InUse {
            path: path.to_owned(),
            holder: io::read_to_string(file)
                .ok()
                .and_then(|pid| pid.trim().parse().ok())
                .map(Holder::new),
        },
        errno => failed(errno.into()),
    })?;
    // For the error of whoever comes second: without it the lock holds as well.
    let _ = lock
        .set_len(0)
        .and_then(|()| writeln!(&*lock, "{}", std::process::id()));
    Ok(lock)
}
