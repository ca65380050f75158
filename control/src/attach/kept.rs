//! The configuration that was applied, kept over restarts: what a crash of the daemon must not undo.
//!
//! Kept with it is what the configuration file said when the daemon was started with it. As long as the file says the
//! same, what was applied since counts; a file that says something else is newer, and counts itself.

use clearway_config::Spec;
use serde::{Deserialize, Serialize};

use super::manager::Manager;
use crate::store::{Change, ObjectKind, Owner, Record, StoreError};

/// The key of the only record of its kind.
const KEY: &str = "configuration";

/// A record's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    /// What the file said.
    file: Spec,
    /// What counts.
    used: Spec,
}

impl Manager {
    /// What a daemon that is started with this file is to use: that, or what was applied to its predecessor since.
    pub(crate) fn resume(&self, file: &Spec) -> Result<Spec, StoreError> {
        let record = self.record(ObjectKind::Config, KEY)?;
        let kept = record.as_ref().map(Record::read::<Kept>).transpose();
        match kept {
            Ok(Some(kept)) if kept.file == *file => return Ok(kept.used),
            Ok(_) => {}
            // An older version's, with keys that this one does not have.
            Err(error) => tracing::warn!(%error, "what was applied before is not used, the file is"),
        }
        let generation = record.map_or(0, |record| record.generation);
        let kept = Kept {
            file: file.clone(),
            used: file.clone(),
        };
        self.keep(&kept, Owner::File, generation)?;
        Ok(kept.used)
    }

    /// This one was applied, and counts until the file says something else.
    pub(crate) fn applied(&self, used: Spec) -> Result<(), StoreError> {
        let Some(record) = self.record(ObjectKind::Config, KEY)? else {
            // A daemon without a file: there is nothing to go on from at its next start.
            return Ok(());
        };
        let kept = Kept {
            file: record.read::<Kept>()?.file,
            used,
        };
        self.keep(&kept, Owner::Apply, record.generation)
    }

    fn keep(&self, kept: &Kept, owner: Owner, before: u64) -> Result<(), StoreError> {
        let record = Record::new(ObjectKind::Config, KEY.to_owned(), owner, before + 1, kept);
        self.write(&[Change::Put(record)])
    }
}
