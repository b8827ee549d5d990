//! What must survive: one SQLite file.
//!
//! One function per question asked; no other room writes SQL. Functions answer what the database
//! says and never judge it: [`StoreError`] means the store broke, refusals are the callers'.
//! Everything here blocks and runs off the async threads.

pub mod checkup;
pub mod history;
pub mod nodes;
pub mod participants;
pub mod releases;
pub mod rounds;
pub mod tasks;
pub mod tokens;
pub mod uploads;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use rusqlite_migration::{M, Migrations};
use serde::{Serialize, de::DeserializeOwned};

use lamplight_proto::ids::{Deployment, Digest, UnixMillis};

/// Numbered migrations; a released one is never edited.
const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_tasks.sql"),
    include_str!("migrations/0003_nodes.sql"),
    include_str!("migrations/0004_aside.sql"),
];

/// How long a statement waits for another process' lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer program wrote the database.
    #[error(
        "{path} has schema version {found}, this program ({program}) knows up to {known}; run the \
         newer program, or restore the backup made before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest known here.
        known: usize,
        /// This program's version.
        program: &'static str,
    },
    /// The schema could not be brought up to date.
    #[error("{path}: migration failed: {source}")]
    Migration {
        /// The file.
        path: PathBuf,
        /// What the migrator says.
        source: rusqlite_migration::Error,
    },
    /// The file could not be opened.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A statement failed, e.g. because the disk is full.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row holds what no program of ours writes.
    #[error("database: column {column} holds {fault}")]
    Damaged {
        /// The column.
        column: &'static str,
        /// What is wrong.
        fault: String,
    },
}

/// The database, one connection.
pub struct Store {
    // A plain mutex: statements are short, and callers are on blocking threads anyway.
    connection: Mutex<Connection>,
}

fn connect(path: &Path, may_create: bool) -> Result<Connection, rusqlite::Error> {
    use rusqlite::OpenFlags as F;
    let mut flags = F::SQLITE_OPEN_READ_WRITE | F::SQLITE_OPEN_NO_MUTEX;
    if may_create {
        flags |= F::SQLITE_OPEN_CREATE;
    }
    let c = Connection::open_with_flags(path, flags)?;
    c.busy_timeout(BUSY_TIMEOUT)?;
    c.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a receipt must never outlive the row it speaks of.
    c.pragma_update(None, "synchronous", "FULL")?;
    c.pragma_update(None, "foreign_keys", true)?;
    Ok(c)
}

impl Store {
    /// Makes the database of a new deployment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create(path: &Path, name: &Deployment, now: UnixMillis) -> Result<Self, StoreError> {
        let store = Self::at(path, true)?;
        store.write(|tx| {
            tx.execute(
                "INSERT INTO deployment (one, name, created_unix_ms) VALUES (1, ?1, ?2)",
                params![name.as_str(), now.0],
            )?;
            Ok::<_, StoreError>(())
        })?;
        Ok(store)
    }

    /// Opens an existing database, bringing its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Newer`] when a newer program wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::at(path, false)
    }

    fn at(path: &Path, may_create: bool) -> Result<Self, StoreError> {
        let opening = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let mut connection = connect(path, may_create).map_err(opening)?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(opening)?;
        if usize::try_from(found).map_or(true, |f| f > MIGRATIONS.len()) {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known: MIGRATIONS.len(),
                program: env!("CARGO_PKG_VERSION"),
            });
        }
        Migrations::new(MIGRATIONS.map(M::up).to_vec())
            .to_latest(&mut connection)
            .map_err(|source| StoreError::Migration {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere rolled its transaction back; the connection itself is sound.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn read<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        f(&self.lock())
    }

    /// Changes all or nothing: commits when `f` succeeds.
    ///
    /// # Errors
    /// Those of `f`, and [`StoreError`] when the commit fails.
    pub fn write<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let out = f(&tx)?;
        tx.commit().map_err(StoreError::from)?;
        Ok(out)
    }

    /// The deployment's name.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] when there is none.
    pub fn deployment(&self) -> Result<Deployment, StoreError> {
        let name: Option<String> = self
            .lock()
            .query_row("SELECT name FROM deployment", [], |r| r.get(0))
            .optional()?;
        parse(
            "deployment.name",
            &name.ok_or(StoreError::Damaged {
                column: "deployment.name",
                fault: "nothing; run `lamplight init`".into(),
            })?,
        )
    }
}

/// A column that parses into a domain type.
fn parse<T>(column: &'static str, text: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| StoreError::Damaged {
        column,
        fault: e.to_string(),
    })
}

fn from_bytes<'a, T>(column: &'static str, bytes: &'a [u8]) -> Result<T, StoreError>
where
    T: TryFrom<&'a [u8]>,
    T::Error: std::fmt::Display,
{
    T::try_from(bytes).map_err(|e| StoreError::Damaged {
        column,
        fault: e.to_string(),
    })
}

fn optional_digest(
    column: &'static str,
    bytes: Option<Vec<u8>>,
) -> Result<Option<Digest>, StoreError> {
    bytes.map(|b| from_bytes(column, &b)).transpose()
}

fn from_json<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Damaged {
        column,
        fault: e.to_string(),
    })
}

fn to_json<T: Serialize>(column: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged {
        column,
        fault: e.to_string(),
    })
}

/// SQLite's integers are signed.
fn signed(column: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Damaged {
        column,
        fault: format!("{value}, above the largest integer SQLite holds"),
    })
}

fn unsigned(column: &'static str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged {
        column,
        fault: format!("{value}, below zero"),
    })
}

/// Reads rows whose columns parse, stopping at the first that does not.
fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// Reads at most one row.
fn first<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Deployment {
        "lamps".parse().unwrap()
    }

    #[test]
    fn a_database_reopens_with_its_deployment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        drop(Store::create(&path, &name(), UnixMillis(1)).unwrap());
        let store = Store::open(&path).unwrap();
        assert_eq!(store.deployment().unwrap(), name());
        let settings = store.read(|c| {
            let mode: String = c.query_row("PRAGMA journal_mode", [], |r| r.get(0))?;
            let sync: i64 = c.query_row("PRAGMA synchronous", [], |r| r.get(0))?;
            let keys: i64 = c.query_row("PRAGMA foreign_keys", [], |r| r.get(0))?;
            Ok::<_, rusqlite::Error>((mode, sync, keys)).map_err(StoreError::from)
        });
        assert_eq!(settings.unwrap(), ("wal".to_owned(), 2, 1));
    }

    #[test]
    fn a_database_newer_than_the_program_is_refused_naming_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let store = Store::create(&path, &name(), UnixMillis(1)).unwrap();
        store
            .read(|c| {
                c.pragma_update(None, "user_version", 777)
                    .map_err(StoreError::from)
            })
            .unwrap();
        drop(store);
        let e = Store::open(&path).err().expect("refused");
        assert!(
            matches!(
                e,
                StoreError::Newer {
                    found: 777,
                    known,
                    ..
                } if known == MIGRATIONS.len()
            ),
            "{e}"
        );
        assert!(e.to_string().contains("version 777"), "{e}");
        let known = format!("up to {}", MIGRATIONS.len());
        assert!(e.to_string().contains(&known), "{e}");
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_up_to_date_with_its_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let id = lamplight_proto::ids::NodeId::of_key(&[7; 32]);
        let mut c = connect(&path, true).unwrap();
        (Migrations::new(vec![M::up(MIGRATIONS[0])]).to_latest(&mut c)).unwrap();
        c.execute(
            "INSERT INTO nodes (id, signing_key, name, certificate, enrolled_unix_ms)
             VALUES (?1, ?2, 'a-post', x'00', 5)",
            params![id.as_str(), [7_u8; 32]],
        )
        .unwrap();
        drop(c);
        let store = Store::open(&path).unwrap();
        let node = store.read(|c| nodes::find(c, &id)).unwrap().unwrap();
        assert_eq!(node.state, nodes::NodeState::Active);
        assert_eq!((node.tags.len(), node.state_since), (0, None));
    }

    #[test]
    fn a_missing_database_is_an_error_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        assert!(matches!(Store::open(&path), Err(StoreError::Open { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_change_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("c.db"), &name(), UnixMillis(1)).unwrap();
        let r: Result<(), StoreError> = store.write(|tx| {
            tx.execute("DELETE FROM deployment", [])?;
            Err(StoreError::Damaged {
                column: "x",
                fault: "y".into(),
            })
        });
        assert!(r.is_err());
        assert_eq!(store.deployment().unwrap(), name());
    }
}
