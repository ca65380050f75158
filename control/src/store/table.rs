//! One file of the store: rows of bytes, written all or none.
//!
//! redb keeps the commit before the last one. Where the last one does not verify it takes that, as after a power cut
//! in the middle of it; damage to just these pages cannot be told from that. All other damage is an error.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition, TableError,
};

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
    /// Has everything fail.
    #[cfg(test)]
    pub(super) broken: bool,
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
        let mut tables = Self::at(path, durability);
        if !path.exists() {
            tables.make()?;
        }
        // Opening a file writes to it. Until it is known to be ours and whole, a copy is opened.
        tables.open = Some(tables.opened_copy()?);
        let found = tables.version()?;
        if found > schema::VERSION {
            return Err(StoreError::Newer {
                path: tables.path.clone(),
                found,
                known: schema::VERSION,
            });
        }
        tables.rows()?;
        tables.open = None;
        Ok(tables)
    }

    fn at(path: &Path, durability: Durability) -> Self {
        Self {
            path: path.to_owned(),
            durability,
            open: None,
            #[cfg(test)]
            broken: false,
        }
    }

    /// Makes the file beside its place and moves it there when it is whole: one that is not whole is damaged.
    fn make(&self) -> Result<(), StoreError> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        File::create(&new)
            .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
            .map_err(|source| self.io("making", source))?;
        let mut tables = Self::at(&new, self.durability);
        tables.put(schema::VERSION, &[])?;
        drop(tables);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::rename(&new, &self.path)
            .and_then(|()| match self.durability {
                Durability::Disk => File::open(folder)?.sync_all(),
                Durability::Kernel => Ok(()),
            })
            .map_err(|source| self.io("making", source))
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
        self.rows_of(&Table::ALL)
    }

    /// All rows of these tables, in the order of these, kind and key.
    pub(super) fn rows_of(&mut self, tables: &[Table]) -> Result<Vec<Row>, StoreError> {
        self.attempt("reading", |database| {
            let read = database.begin_read()?;
            let mut rows = Vec::new();
            for table in tables.iter().copied() {
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

    /// The version of what is in the file.
    pub(super) fn version(&mut self) -> Result<u64, StoreError> {
        let found = self.attempt("reading", |database| {
            match database.begin_read()?.open_table(META) {
                Ok(meta) => Ok(meta.get(VERSION_KEY)?.map(|version| version.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        found
            .filter(|version| *version > 0)
            .ok_or_else(|| self.damaged("there is no version of its format in it"))
    }

    pub(super) fn migrate_by(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let from = self.version()?;
        let version = steps.len() as u64 + 1;
        if from == version {
            return Ok(());
        }
        let rows = schema::migrated(self.rows()?, from, steps).map_err(|reason| self.damaged(reason))?;
        self.put(version, &rows)?;
        tracing::info!(store = %self.path.display(), from, to = version, "brought the store to this version's format");
        Ok(())
    }

    /// These rows, of this version, instead of all that is there.
    pub(super) fn put(&mut self, version: u64, rows: &[Row]) -> Result<(), StoreError> {
        self.attempt("writing", |database| {
            let write = database.begin_write()?;
            write.open_table(META)?.insert(VERSION_KEY, version)?;
            for table in Table::ALL {
                let mut open = write.open_table(table.definition())?;
                open.retain(|_, _| false)?;
                for row in rows.iter().filter(|row| row.table == table) {
                    if let Some(value) = &row.value {
                        open.insert((row.kind.as_str(), row.key.as_str()), value.as_slice())?;
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
        #[cfg(test)]
        if self.broken {
            return Err(self.failed(attempt, redb::Error::PreviousIo));
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => self.opened()?,
        };
        let done = work(&open.database).map_err(|error| self.failed(attempt, error));
        if done.is_ok() {
            self.open = Some(open);
        }
        done
    }

    fn opened(&self) -> Result<Open, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = file.map_err(|source| self.io("opening", source))?;
        let left = Left::default();
        let backend = Backend::new(file, self.durability, left.clone());
        let database = self.database(backend)?;
        Ok(Open { database, left })
    }

    /// What is in the file, in memory.
    fn opened_copy(&self) -> Result<Open, StoreError> {
        let bytes = fs::read(&self.path).map_err(|source| self.io("reading", source))?;
        if bytes.is_empty() {
            // redb would take it for a new one.
            return Err(self.damaged("it is empty"));
        }
        let copy = InMemoryBackend::new();
        copy.set_len(bytes.len() as u64)
            .and_then(|()| copy.write(0, &bytes))
            .map_err(|source| self.io("copying", source))?;
        let database = self.database(copy)?;
        Ok(Open {
            database,
            left: Left::default(),
        })
    }

    fn database(&self, backend: impl StorageBackend) -> Result<Database, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create_with_backend(backend);
        database.map_err(|error| self.failed("opening", error.into()))
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
