//! What `doctor` asks of the database.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use rusqlite::{Connection, OpenFlags};

use lamplight_proto::ids::{Digest, UnixMillis};

use super::{BUSY_TIMEOUT, MIGRATIONS, Store, StoreError, all, from_bytes, unsigned};

/// How large a round can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Nodes that are enrolled.
    pub nodes: u64,
    /// Values the largest model learns.
    pub parameters: u64,
}

impl Store {
    /// Opens the database to look at it, also beside a running coordinator; makes nothing.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let opening = |source| StoreError::Open {
            path: PathBuf::from(path),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(opening)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(opening)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// Whether the database at `path`, which this is, is whole and not of a newer program's making. Reads
    /// all of it.
    ///
    /// # Errors
    /// [`StoreError::Newer`]; [`StoreError::Damaged`] with what SQLite found.
    pub fn checkup(&self, path: &Path) -> Result<(), StoreError> {
        self.read(|c| {
            let found: i64 = c.query_row("PRAGMA user_version", [], |r| r.get(0))?;
            if usize::try_from(found).map_or(true, |found| found > MIGRATIONS.len()) {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                    known: MIGRATIONS.len(),
                    program: env!("CARGO_PKG_VERSION"),
                });
            }
            let verdict: String = c.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
            if verdict == "ok" {
                Ok(())
            } else {
                Err(StoreError::Damaged {
                    column: "(all)",
                    fault: verdict,
                })
            }
        })
    }
}

/// The newest time the clock has shown when something was written.
///
/// # Errors
/// [`StoreError`].
pub fn newest_time(c: &Connection) -> Result<Option<UnixMillis>, StoreError> {
    let newest: Option<i64> = c.query_row(
        "SELECT max(at) FROM (
             SELECT created_unix_ms AS at FROM deployment
             UNION ALL SELECT max(enrolled_unix_ms, last_seen_unix_ms) FROM nodes
             UNION ALL SELECT created_unix_ms FROM releases
             UNION ALL SELECT created_unix_ms FROM tasks
             UNION ALL SELECT max(started_unix_ms, coalesce(ended_unix_ms, 0)) FROM rounds)",
        [],
        |r| r.get(0),
    )?;
    Ok(newest.map(UnixMillis))
}

/// How large a round can be.
///
/// # Errors
/// [`StoreError`].
pub fn scale(c: &Connection) -> Result<Scale, StoreError> {
    let (nodes, parameters): (i64, i64) = c.query_row(
        "SELECT (SELECT count(*) FROM nodes),
                (SELECT coalesce(max(parameters), 0) FROM models)",
        [],
        |r| Ok((r.get(0)?, r.get(1)?)),
    )?;
    Ok(Scale {
        nodes: unsigned("nodes", nodes)?,
        parameters: unsigned("models.parameters", parameters)?,
    })
}

/// Model files and carries of all releases, newest first, each with whether it is a model's newest.
///
/// # Errors
/// [`StoreError`].
pub fn release_files(c: &Connection) -> Result<Vec<(Digest, bool)>, StoreError> {
    all(
        c,
        "SELECT r.digest, r.version = (SELECT max(version) FROM releases n WHERE n.model = r.model)
           FROM releases r
         UNION
         SELECT r.carry_digest,
                r.version = (SELECT max(version) FROM releases n WHERE n.model = r.model)
           FROM releases r WHERE r.carry_digest IS NOT NULL
         ORDER BY 2 DESC",
        [],
        |r| {
            let digest: Vec<u8> = r.get(0)?;
            Ok((from_bytes("releases.digest", &digest)?, r.get(1)?))
        },
    )
}
