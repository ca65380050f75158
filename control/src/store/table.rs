//! One file of the store: rows of bytes, written all or none.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};

use super::StoreError;
use super::backend::{Backend, Durability, Left};
use super::schema::{self, Step};

type Rows = TableDefinition<'static, (&'static str, &'static str), &'static [u8]>;

/// What is kept: (kind, key) and a record's JSON.
const RECORDS: Rows = TableDefinition::new("records");
/// What waits for the other file: likewise, or nothing for a record that is to be deleted there.
const WAITING: Rows = TableDefinition::new("waiting");
/// `version`.
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// Which of a file's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Records,
    Waiting,
}

impl Table {
    const ALL: [Self; 2] = [Self::Records, Self::Waiting];

    fn definition(self) -> Rows {
        match self {
            Self::Records => RECORDS,
            Self::Waiting => WAITING,
        }
    }
}

/// One row as it is to be, and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) table: Table,
    pub(super) kind: String,
    pub(super) key: String,
    /// `None`: there is none.
    pub(super) value: Option<Vec<u8>>,
}

/// A file, open.
pub(super) struct Tables {
    path: PathBuf,
    durability: Durability,
    /// `None` after a failure: redb answers no more then, and the file is opened again.
    open: Option<Open>,
}

struct Open {
    database: Database,
    left: Left,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.left.set();
    }
}

impl Tables {
    /// Opens the file, or makes it. The version in it is looked at and nothing of it changed.
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        let mut tables = Self {
            path: path.to_owned(),
            durability,
            open: None,
        };
        let found = tables.version()?;
        if found > schema::VERSION {
            return Err(StoreError::Newer {
                path: tables.path,
                found,
                known: schema::VERSION,
            });
        }
        Ok(tables)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what is in the file to this version, in one transaction.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        self.migrate_by(schema::STEPS)
    }

    /// All rows, in the order of table, kind and key.
    pub(super) fn rows(&mut self) -> Result<Vec<Row>, StoreError> {
        self.attempt("reading", |database| {
            let read = database.begin_read()?;
            let mut rows = Vec::new();
            for table in Table::ALL {
                let open = match read.open_table(table.definition()) {
                    Ok(open) => open,
                    Err(TableError::TableDoesNotExist(_)) => continue,
                    Err(error) => return Err(error.into()),
                };
                collect(&open, table, &mut rows)?;
            }
            Ok(rows)
        })
    }

    /// Makes rows be as they are here, all or none. Returns how they were, to be written if that is to be undone.
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<Vec<Row>, StoreError> {
        self.attempt("writing", |database| {
            let write = database.begin_write()?;
            let mut before = Vec::new();
            for table in Table::ALL {
                let mut open = write.open_table(table.definition())?;
                for row in rows.iter().filter(|row| row.table == table) {
                    let at = (row.kind.as_str(), row.key.as_str());
                    let old = match &row.value {
                        Some(value) => open.insert(at, value.as_slice())?,
                        None => open.remove(at)?,
                    };
                    before.push(Row {
                        value: old.map(|old| old.value().to_vec()),
                        ..row.clone()
                    });
                }
            }
            write.commit()?;
            // A row that is there twice: what it was at first is to be written last.
            before.reverse();
            Ok(before)
        })
    }

    /// The version of what is in the file; that of an empty one is ours.
    fn version(&mut self) -> Result<u64, StoreError> {
        let found = self.attempt("reading", |database| {
            let read = database.begin_read()?;
            match read.open_table(META) {
                Ok(meta) => Ok(meta.get(VERSION_KEY)?.map(|version| version.value())),
                // Made, and ended before anything was written; or somebody else's.
                Err(TableError::TableDoesNotExist(_)) if read.list_tables()?.next().is_none() => {
                    Ok(Some(schema::VERSION))
                }
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        match found {
            None | Some(0) => Err(self.damaged("there is no version of its format in it")),
            Some(version) => Ok(version),
        }
    }

    fn migrate_by(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let from = self.version()?;
        let rows = self.rows()?;
        let after = schema::migrated(rows.clone(), from, steps).map_err(|reason| self.damaged(reason))?;
        let version = steps.len() as u64 + 1;
        self.attempt("migrating", |database| {
            let write = database.begin_write()?;
            {
                let mut meta = write.open_table(META)?;
                if meta
                    .get(VERSION_KEY)?
                    .is_some_and(|found| found.value() == version)
                {
                    return Ok(());
                }
                meta.insert(VERSION_KEY, version)?;
                for table in Table::ALL {
                    let mut open = write.open_table(table.definition())?;
                    open.retain(|_, _| false)?;
                    for row in after.iter().filter(|row| row.table == table) {
                        if let Some(value) = &row.value {
                            open.insert((row.kind.as_str(), row.key.as_str()), value.as_slice())?;
                        }
                    }
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    fn damaged(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// Does something with the database. After a failure it is opened anew.
    fn attempt<T>(
        &mut self,
        attempt: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.reopened()?,
        };
        let done = work(&open.database).map_err(|error| self.failed(attempt, error));
        if done.is_ok() {
            self.open = Some(open);
        }
        done
    }

    fn reopened(&self) -> Result<Open, StoreError> {
        let there = self.path.exists();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(|source| self.io("opening", source))?;
        if !there && self.durability == Durability::Disk {
            let folder = self.path.parent().unwrap_or(Path::new("/"));
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| self.io("making", source))?;
        }
        let left = Left::default();
        let backend = Backend::new(file, self.durability, left.clone());
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(backend)
            .map_err(|error| self.failed("opening", error.into()))?;
        Ok(Open { database, left })
    }

    fn io(&self, attempt: &'static str, source: std::io::Error) -> StoreError {
        StoreError::File {
            attempt,
            path: self.path.clone(),
            source,
        }
    }

    fn failed(&self, attempt: &'static str, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(reason) => self.damaged(reason),
            redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::UpgradeRequired(_) => self.damaged(error.to_string()),
            // What redb says of a file that is too short, or does not begin as its files do.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData
                ) =>
            {
                self.damaged(error.to_string())
            }
            other => StoreError::Refused {
                attempt,
                path: self.path.clone(),
                reason: other.to_string(),
            },
        }
    }
}

const VERSION_KEY: &str = "version";
/// redb's cache, in bytes: records are read once, at the start.
const CACHE: usize = 4 << 20;

fn collect(
    open: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    table: Table,
    rows: &mut Vec<Row>,
) -> Result<(), StorageError> {
    for row in open.iter()? {
        let (at, value) = row?;
        let (kind, key) = at.value();
        rows.push(Row {
            table,
            kind: kind.to_owned(),
            key: key.to_owned(),
            value: Some(value.value().to_vec()),
        });
    }
    Ok(())
}
