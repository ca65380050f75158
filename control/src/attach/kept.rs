//! The configuration in use, kept over restarts: what a crash of the daemon must not undo.
//!
//! Each object is a record, and only those that changed are written. Kept with them is what the configuration file said
//! when it was read last: as long as the file says the same, what was applied since counts; a file that says something else
//! is newer, and counts itself.
//!
//! A configuration is written when the engine has it, all of it in one commit. Whoever ends the daemon between the two
//! ends the request as well: the next start goes on with the configuration before, which is whole, too.

use std::collections::BTreeMap;

use clearway_config::Spec;

use super::manager::{Manager, State};
use crate::objects::{self, Key, Objects, Version};
use crate::store::{Change, ObjectKind, Owner, Record, StoreError, now_s};

#[cfg(test)]
mod tests;

/// The key of the record of the whole, whose generation and owner say all.
const WHOLE: &str = "configuration";
/// The key of the record of what the file said.
const FILE: &str = "file";

/// What the store has of the configuration.
#[derive(Default)]
pub(super) struct Kept {
    /// As it was read at the start, until it is used.
    found: Vec<Record>,
    /// Which objects have records, and of which versions; none: that is not known, as writing them failed.
    written: BTreeMap<Key, Option<Version>>,
    /// The configuration's that was written last; none: this daemon has no file, so there is nothing to go on from.
    generation: Option<u64>,
    /// What the file said, where it is not written yet.
    file: Option<Spec>,
}

/// A configuration that was kept.
struct Before {
    /// What the file said.
    file: Spec,
    /// What counts.
    used: Spec,
}

impl Kept {
    /// What a store has.
    pub(super) fn found(records: Vec<Record>) -> Self {
        Self {
            found: records,
            ..Self::default()
        }
    }

    /// The versions that were found.
    fn versions(&self) -> Option<Objects> {
        let version = |record: &Record| Version {
            owner: record.owner,
            generation: record.generation,
            changed_s: record.changed_s,
        };
        let whole = self.found.iter().find(|record| is(record, WHOLE))?;
        let all = self.found.iter().filter(|record| !of_whole(record));
        let all = all.map(|record| (key_of(record), version(record))).collect();
        Some(Objects::of(version(whole), all))
    }

    /// The configuration that was found.
    fn before(&self) -> Result<Option<Before>, StoreError> {
        let Some(file) = self.found.iter().find(|record| is(record, FILE)) else {
            return Ok(None);
        };
        let values = self.found.iter().filter(|record| !of_whole(record));
        let values = values.map(|record| (key_of(record), record.value.clone()));
        let used = objects::whole(values).map_err(|error| StoreError::Value {
            kind: ObjectKind::Config,
            key: WHOLE.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(Before {
            file: file.read()?,
            used,
        }))
    }
}

fn is(record: &Record, key: &str) -> bool {
    of_whole(record) && record.key == key
}

/// It is no object's.
fn of_whole(record: &Record) -> bool {
    record.kind == ObjectKind::Config
}

fn key_of(record: &Record) -> Key {
    (record.kind, record.key.clone())
}

impl State {
    /// Has the store be of this configuration: in one commit, and without what it has already.
    fn keep(&mut self, spec: &Spec, objects: &Objects, read: Option<&Spec>) -> Result<(), StoreError> {
        if let Some(file) = read {
            self.kept.file = Some(file.clone());
        }
        let written = &self.kept.written;
        let parts = objects::parts(spec);
        let changed = parts.iter().filter_map(|(key, part)| {
            let version = objects.get(key.0, &key.1)?;
            let is_there = written.get(key) == Some(&Some(version));
            (!is_there).then(|| put(key, version, part))
        });
        let gone = written.keys().filter(|key| !parts.contains_key(*key));
        let gone = gone.map(|(kind, key)| Change::Delete {
            kind: *kind,
            key: key.clone(),
        });
        let mut changes: Vec<_> = changed.chain(gone).collect();
        let of_whole = |key: &str| (ObjectKind::Config, key.to_owned());
        if let Some(file) = &self.kept.file {
            changes.push(put(&of_whole(FILE), objects.configuration, file));
        }
        changes.push(put(&of_whole(WHOLE), objects.configuration, &()));
        match self.store.commit(&changes) {
            Ok(()) => {
                self.kept.written = objects
                    .iter()
                    .map(|(key, version)| (key.clone(), Some(*version)))
                    .collect();
                self.kept.generation = Some(objects.configuration.generation);
                self.kept.file = None;
                Ok(())
            }
            Err(error) => {
                let touched = changes
                    .iter()
                    .filter(|change| change.kind() != ObjectKind::Config);
                let touched = touched.map(|change| ((change.kind(), change.key().to_owned()), None));
                self.kept.written.extend(touched);
                Err(error)
            }
        }
    }
}

fn put(key: &Key, version: Version, value: &impl serde::Serialize) -> Change {
    let record = Record::new(key.0, key.1.clone(), version.owner, version.generation, value);
    Change::Put(Record {
        changed_s: version.changed_s,
        ..record
    })
}

impl Manager {
    /// What a daemon that is started with this file is to use: that, or what was applied to its predecessor since, if
    /// `fits` says that this host can do it.
    pub(crate) fn resume(
        &self,
        file: &Spec,
        fits: impl FnOnce(&Spec) -> Result<(), String>,
    ) -> (Spec, Objects) {
        let mut state = self.lock();
        let versions = state.kept.versions();
        let before = state.kept.before().unwrap_or_else(|error| {
            // An older version's, with keys that this one does not have.
            tracing::warn!(%error, "what was applied before is not used, the file is");
            None
        });
        let found = std::mem::take(&mut state.kept.found);
        let found = found.iter().filter(|record| !of_whole(record)).map(key_of);
        let written: BTreeMap<_, _> = found
            .map(|key| {
                let version = versions.as_ref().and_then(|all| all.get(key.0, &key.1));
                (key, version)
            })
            .collect();
        state.kept.written = written;
        state.kept.generation = Some(versions.as_ref().map_or(0, |all| all.configuration.generation));
        let same_file = before.as_ref().is_some_and(|before| before.file == *file);
        if let (Some(before), Some(versions), true) = (&before, &versions, same_file) {
            match fits(&before.used) {
                Ok(()) => return (before.used.clone(), versions.clone()),
                Err(error) => {
                    tracing::warn!(error, "what was applied can't be used: the configuration file is");
                    // It stays in the store: what this host lacks may be there at the next start.
                    let next = versions.next(&before.used, file, Owner::File, now_s());
                    return (file.clone(), next);
                }
            }
        }
        let used = before.map(|before| before.used).unwrap_or_default();
        let next = match versions {
            Some(versions) => versions.next(&used, file, Owner::File, now_s()),
            None => Objects::first(file, Owner::File, now_s()),
        };
        if let Err(error) = state.keep(file, &next, Some(file)) {
            tracing::warn!(%error, "the configuration is not kept: what is applied to this daemon may end with it");
        }
        (file.clone(), next)
    }

    /// This one is in use, and counts until the file says something else; by [`Owner::File`]: it is what the file says now.
    pub(crate) fn applied(&self, used: &Spec, objects: &Objects, by: Owner) -> Result<(), StoreError> {
        let mut state = self.lock();
        match state.kept.generation {
            // A later one was quicker, or nothing has changed.
            Some(generation) if generation < objects.configuration.generation => {
                state.keep(used, objects, (by == Owner::File).then_some(used))
            }
            _ => Ok(()),
        }
    }
}
