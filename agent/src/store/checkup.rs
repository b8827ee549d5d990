//! What `doctor` asks of the file.

use lamplight_proto::ids::UnixMillis;

use super::{SQL, Store, StoreError};

impl Store {
    /// Whether the file is whole, and not of a newer agent's making. Reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Newer`]; [`StoreError::Damaged`] with what SQLite found.
    pub fn checkup(&self) -> Result<(), StoreError> {
        let fail = |e| self.fail(e);
        let version: i64 = self
            .sql
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if usize::try_from(version).map_or(true, |version| version > SQL.len()) {
            return Err(StoreError::Newer {
                path: self.path.clone(),
                version: lamplight_proto::version::VERSION,
            });
        }
        let verdict: String = self
            .sql
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(fail)?;
        if verdict == "ok" {
            Ok(())
        } else {
            Err(self.damaged("the database", verdict))
        }
    }

    /// The newest time this node's clock has shown when something was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest_time(&self) -> Result<Option<UnixMillis>, StoreError> {
        let newest: Option<i64> = self
            .sql
            .query_row(
                "SELECT max(at) FROM (
                     SELECT enrolled_unix_ms AS at FROM node
                     UNION ALL SELECT max(started_unix_ms, coalesce(ended_unix_ms, 0)) FROM tasks)",
                [],
                |row| row.get(0),
            )
            .map_err(|e| self.fail(e))?;
        Ok(newest.map(UnixMillis))
    }
}
