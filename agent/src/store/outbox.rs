//! Failures the coordinator has not heard of yet.

use lamplight_proto::ids::{Lease, RoundId};
use rusqlite::params;

use super::{Store, StoreError};

/// A failure to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Place in the outbox.
    pub id: i64,
    /// Round of the task.
    pub round: RoundId,
    /// Lease of the task.
    pub lease: Lease,
    /// What went wrong.
    pub reason: String,
}

impl Store {
    /// Everything not yet delivered, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn outbox(&self) -> Result<Vec<Letter>, StoreError> {
        let mut query = self
            .sql
            .prepare("SELECT id, round, lease, reason FROM outbox ORDER BY id")
            .map_err(|e| self.fail(e))?;
        let rows = query
            .query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Vec<u8>>(2)?,
                    row.get::<_, String>(3)?,
                ))
            })
            .map_err(|e| self.fail(e))?;
        let mut letters = Vec::new();
        for row in rows {
            let (id, round, lease, reason) = row.map_err(|e| self.fail(e))?;
            letters.push(Letter {
                id,
                round: RoundId(u64::try_from(round).map_err(|e| self.damaged("the outbox", e))?),
                lease: Lease::try_from(lease.as_slice())
                    .map_err(|e| self.damaged("the outbox", e))?,
                reason,
            });
        }
        Ok(letters)
    }

    /// Takes a delivered letter out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn delivered(&mut self, id: i64) -> Result<(), StoreError> {
        self.sql
            .execute("DELETE FROM outbox WHERE id = ?1", params![id])
            .map(drop)
            .map_err(|e| self.fail(e))
    }
}
