//! Failures the coordinator has not heard of yet, as it will hear them.

use lamplight_proto::{
    cause::Told,
    ids::{Lease, RoundId},
};
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
    /// What is sent.
    pub told: Told,
}

/// How a row holds what is told.
pub(super) fn to_json(told: Told) -> String {
    // Numbers and closed words: there is nothing JSON could refuse.
    serde_json::to_string(&told).unwrap_or_else(|_| "\"other\"".to_owned())
}

impl Store {
    /// Everything not yet delivered, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn outbox(&self) -> Result<Vec<Letter>, StoreError> {
        let mut query = self
            .sql
            .prepare("SELECT id, round, lease, told FROM outbox ORDER BY id")
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
            let (id, round, lease, told) = row.map_err(|e| self.fail(e))?;
            letters.push(Letter {
                id,
                round: RoundId(u64::try_from(round).map_err(|e| self.damaged("the outbox", e))?),
                lease: Lease::try_from(lease.as_slice())
                    .map_err(|e| self.damaged("the outbox", e))?,
                told: serde_json::from_str(&told).map_err(|e| self.damaged("the outbox", e))?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn free_words_of_an_older_agent_are_not_sent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        let sql = Connection::open(&path).expect("opened");
        sql.execute_batch(include_str!("sql/0001_node.sql"))
            .expect("made");
        sql.pragma_update(None, "user_version", 1).expect("set");
        sql.execute(
            "INSERT INTO outbox (round, lease, reason) VALUES (3, ?1, 'cannot read kitchen.csv')",
            params![[7_u8; 16]],
        )
        .expect("kept");
        drop(sql);
        let store = Store::open(&path).expect("brought up to date");
        let letters = store.outbox().expect("read");
        let want = Letter {
            id: 1,
            round: RoundId(3),
            lease: Lease([7; 16]),
            told: Told::Other,
        };
        assert_eq!(letters, [want]);
    }
}
