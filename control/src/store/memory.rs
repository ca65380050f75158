//! A store in memory, for tests: it outlives the daemon that a test ends, and fails when it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Change, ObjectKind, Record, Store, StoreError};

/// Which commits fail, counted from the first one of the store, which is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None.
    #[default]
    None,
    /// This one; later ones do not.
    At(u64),
    /// This one and all later ones: as if the daemon had ended before it.
    From(u64),
}

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    records: BTreeMap<(ObjectKind, String), Record>,
    commits: u64,
    fault: Fault,
}

impl MemoryStore {
    /// Has commits fail from now on; one that fails changes nothing.
    pub(crate) fn fail(&self, fault: Fault) {
        self.memory().fault = fault;
    }

    /// How many commits were asked for, failed ones included.
    pub(crate) fn commits(&self) -> u64 {
        self.memory().commits
    }

    /// Drops what does not outlive a reboot.
    pub(crate) fn reboot(&self) {
        self.memory().records.retain(|(kind, _), _| kind.is_lasting());
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        Ok(self.memory().records.values().cloned().collect())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut memory = self.memory();
        memory.commits += 1;
        let n = memory.commits;
        match memory.fault {
            Fault::At(at) if at == n => return Err(StoreError::Injected(n)),
            Fault::From(from) if from <= n => return Err(StoreError::Injected(n)),
            _ => {}
        }
        for change in changes {
            let at = (change.kind(), change.key().to_owned());
            match change {
                Change::Put(record) => memory.records.insert(at, record.clone()),
                Change::Delete { .. } => memory.records.remove(&at),
            };
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
