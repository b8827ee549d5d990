//! What the node remembers: one SQLite file.
//!
//! Reading order: `sql/` (the tables, commented), [`phase`] (the writer of tasks: one
//! transaction per step), [`outbox`], [`aside`] (samples that wait for their class), [`view`] (what
//! `status` shows).
//!
//! The file is in WAL mode with full syncs: what a function here has returned from survives a power
//! cut. Only `status` opens it beside a running agent, and only to read.

pub mod aside;
mod checkup;
pub mod outbox;
pub mod phase;
pub mod view;

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lamplight_models::train::Precision;
use lamplight_proto::{
    Malformed,
    envelope::VerifyError,
    ids::{Deployment, Lease, NodeId, UnixMillis},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use rusqlite_migration::{Error as MigrationError, M, MigrationDefinitionError, Migrations};

use crate::lock::DirLock;

/// Numbered, only ever appended to.
const SQL: &[M<'static>] = &[
    M::up(include_str!("sql/0001_node.sql")),
    M::up(include_str!("sql/0002_outbox.sql")),
    M::up(include_str!("sql/0003_aside.sql")),
    M::up(include_str!("sql/0004_precision.sql")),
];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(SQL);

/// How long `status` waits for a running agent's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store cannot be read or written. Nothing is half written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("{path}: {source}")]
    Sql {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The tables could not be made or brought up to date.
    #[error("{path}: its tables cannot be brought up to date: {fault}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        fault: String,
    },
    /// A newer agent wrote the file.
    #[error(
        "{path} was written by a newer agent than {version}; upgrade this agent, or give it another \
         directory"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// This agent's version.
        version: &'static str,
    },
    /// An older agent wrote the file, and nobody has brought it up to date.
    #[error(
        "{path} was written by an older agent than {version}; it is brought up to date when this \
         version's agent runs"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// This agent's version.
        version: &'static str,
    },
    /// A row that no agent writes.
    #[error("{path}: {what} is damaged: {fault}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which row.
        what: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// A number too large for SQLite.
    #[error("{what} is {got}, more than {max} cannot be stored", max = i64::MAX)]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        got: u64,
    },
    /// The directory belongs to another node.
    #[error(
        "this directory belongs to {kept} of deployment {kept_deployment}, not to {got} of \
         {got_deployment}; enrol in an empty directory"
    )]
    OtherNode {
        /// The node that is here.
        kept: NodeId,
        /// Its deployment.
        kept_deployment: Deployment,
        /// The node that would be.
        got: NodeId,
        /// Its deployment.
        got_deployment: Deployment,
    },
    /// The thread that asked SQLite ended without an answer.
    #[error("a storage thread ended without an answer")]
    Thread,
}

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its id.
    pub node_id: NodeId,
    /// Its fleet.
    pub deployment: Deployment,
    /// The Ed25519 key that signs offers, receipts and releases.
    pub release_key: [u8; 32],
    /// When it enrolled, by its own clock.
    pub enrolled: UnixMillis,
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    sql: Connection,
    path: PathBuf,
}

/// SQLite's numbers are signed.
fn to_sql(what: &'static str, got: u64) -> Result<i64, StoreError> {
    i64::try_from(got).map_err(|_| StoreError::Range { what, got })
}

impl Store {
    /// Opens or makes the file and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer agent wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Sql {
            path: path.to_owned(),
            source,
        };
        let mut sql = Connection::open(path).map_err(fail)?;
        sql.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
        sql.pragma_update(None, "journal_mode", "WAL")
            .map_err(fail)?;
        // A node loses power without warning; NORMAL may lose the last transactions then.
        sql.pragma_update(None, "synchronous", "FULL")
            .map_err(fail)?;
        sql.pragma_update(None, "foreign_keys", true)
            .map_err(fail)?;
        MIGRATIONS.to_latest(&mut sql).map_err(|e| match e {
            MigrationError::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
                StoreError::Newer {
                    path: path.to_owned(),
                    version: lamplight_proto::version::VERSION,
                }
            }
            other => StoreError::Migrate {
                path: path.to_owned(),
                fault: other.to_string(),
            },
        })?;
        Ok(Self {
            sql,
            path: path.to_owned(),
        })
    }

    /// Opens the file to look at it while an agent may be running; makes nothing.
    ///
    /// # Errors
    /// [`StoreError`] when it is not there, cannot be read, or is an older or a newer agent's.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Sql {
            path: path.to_owned(),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = Connection::open_with_flags(path, flags).map_err(fail)?;
        sql.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
        let found: i64 = sql
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fail)?;
        let version = lamplight_proto::version::VERSION;
        let path = path.to_owned();
        // A number no agent writes is as unknown as a newer one.
        match usize::try_from(found).map_or(Ordering::Greater, |f| f.cmp(&SQL.len())) {
            Ordering::Less => Err(StoreError::Older { path, version }),
            Ordering::Greater => Err(StoreError::Newer { path, version }),
            Ordering::Equal => Ok(Self { sql, path }),
        }
    }

    fn fail(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sql {
            path: self.path.clone(),
            source,
        }
    }

    fn damaged(&self, what: &'static str, fault: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            what,
            fault: fault.to_string(),
        }
    }

    /// Who this node is; `None` before enrolment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn node(&self) -> Result<Option<NodeRecord>, StoreError> {
        let row = self
            .sql
            .query_row(
                "SELECT node_id, deployment, release_key, enrolled_unix_ms FROM node WHERE id = 1",
                [],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, Vec<u8>>(2)?,
                        row.get::<_, i64>(3)?,
                    ))
                },
            )
            .optional()
            .map_err(|e| self.fail(e))?;
        let Some((node_id, deployment, release_key, enrolled)) = row else {
            return Ok(None);
        };
        let bad = |e: Malformed| self.damaged("the node's record", e);
        Ok(Some(NodeRecord {
            node_id: node_id.parse().map_err(bad)?,
            deployment: deployment.parse().map_err(bad)?,
            release_key: release_key
                .try_into()
                .map_err(|_| self.damaged("the node's record", "release_key is not 32 bytes"))?,
            enrolled: UnixMillis(enrolled),
        }))
    }

    /// Remembers who this node is. The same again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::OtherNode`] when the directory belongs to another node or deployment.
    pub fn set_node(&mut self, node: &NodeRecord) -> Result<(), StoreError> {
        if let Some(kept) = self.node()? {
            let same = kept.node_id == node.node_id
                && kept.deployment == node.deployment
                && kept.release_key == node.release_key;
            if same {
                return Ok(());
            }
            return Err(StoreError::OtherNode {
                kept: kept.node_id,
                kept_deployment: kept.deployment,
                got: node.node_id.clone(),
                got_deployment: node.deployment.clone(),
            });
        }
        self.sql
            .execute(
                "INSERT INTO node (id, node_id, deployment, release_key, enrolled_unix_ms)
                 VALUES (1, ?1, ?2, ?3, ?4)",
                params![
                    node.node_id.as_str(),
                    node.deployment.as_str(),
                    node.release_key,
                    node.enrolled.0
                ],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// Notes in which numbers a task was calculated.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written then.
    pub fn keep_precision(&mut self, lease: Lease, precision: Precision) -> Result<(), StoreError> {
        self.sql
            .execute(
                "UPDATE tasks SET precision = ?2 WHERE lease = ?1",
                params![lease.0, precision.name()],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }
}

impl From<VerifyError> for Damage {
    fn from(e: VerifyError) -> Self {
        Self(e.to_string())
    }
}

impl From<Malformed> for Damage {
    fn from(e: Malformed) -> Self {
        Self(e.to_string())
    }
}

/// What is wrong with a row, in words.
struct Damage(String);

/// The store as async code sees it: every question runs on a thread that may block.
///
/// Holds the directory's lock, so that the lock outlives the last write even when the agent itself
/// is dropped in the middle of one.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    store: Arc<Mutex<Store>>,
    _lock: Arc<DirLock>,
}

impl StoreHandle {
    /// Shares a store.
    #[must_use]
    pub fn new(store: Store, lock: Arc<DirLock>) -> Self {
        Self {
            store: Arc::new(Mutex::new(store)),
            _lock: lock,
        }
    }

    /// Asks the store something.
    ///
    /// # Errors
    /// What the question answers, or [`StoreError::Thread`].
    pub async fn call<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            // SQLite rolls back what a panicking thread left open.
            let mut store = this.store.lock().unwrap_or_else(PoisonError::into_inner);
            question(&mut store)
        })
        .await
        .map_err(|_| StoreError::Thread)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> NodeRecord {
        NodeRecord {
            node_id: NodeId::of_key(name.as_bytes()),
            deployment: "fleet".parse().expect("a name"),
            release_key: [7; 32],
            enrolled: UnixMillis(5),
        }
    }

    #[test]
    fn the_migrations_are_sound() {
        MIGRATIONS.validate().expect("valid");
    }

    #[test]
    fn a_node_is_remembered_and_another_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        {
            let mut s = Store::open(&path).expect("made");
            assert_eq!(s.node().expect("read"), None);
            s.set_node(&record("a")).expect("kept");
        }
        let mut s = Store::open(&path).expect("opened again");
        assert_eq!(s.node().expect("read"), Some(record("a")));
        s.set_node(&record("a")).expect("the same again");
        assert!(matches!(
            s.set_node(&record("b")),
            Err(StoreError::OtherNode { .. })
        ));
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        drop(Store::open(&path).expect("made"));
        let sql = Connection::open(&path).expect("opened");
        sql.pragma_update(None, "user_version", 99).expect("set");
        drop(sql);
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { .. })));
        let read = Store::open_to_read(&path);
        assert!(matches!(read, Err(StoreError::Newer { .. })));
    }

    #[test]
    fn an_older_file_is_brought_up_to_date_by_a_run_and_not_by_a_look() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        let mut sql = Connection::open(&path).expect("made");
        Migrations::from_slice(&SQL[..1])
            .to_latest(&mut sql)
            .expect("the first tables");
        drop(sql);
        let read = Store::open_to_read(&path);
        assert!(matches!(read, Err(StoreError::Older { .. })));
        let store = Store::open(&path).expect("brought up to date");
        assert_eq!(store.status(1).expect("read").phase, "idle");
        Store::open_to_read(&path).expect("as new");
    }
}
