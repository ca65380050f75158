//! How redb's pages reach the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

/// How much of a commit must be done when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The kernel has it: it outlives the process, kill -9 included, and ends with the machine.
    Kernel,
    /// The disk has it: it outlives a power cut.
    Disk,
}

/// A file as redb's storage. Locking is the store's own affair: redb is told that there is none.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    durability: Durability,
    left: Left,
}

/// Set before a database is closed: from then on its file is not written.
///
/// redb marks a file that was closed properly, believes it at the next opening, and panics (4.4.0) where its pages are
/// damaged all the same. A file without the mark has every checksum verified, and damage is an error: so none of ours
/// has the mark. That costs some 5 ms for each megabyte, once.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<AtomicBool>);

impl Left {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Backend {
    pub(super) fn new(file: File, durability: Durability, left: Left) -> Self {
        Self {
            file,
            durability,
            left,
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.left.is_set() {
            return Ok(());
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.left.is_set() || self.durability == Durability::Kernel {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.left.is_set() {
            return Ok(());
        }
        self.file.write_all_at(data, offset)
    }
}
