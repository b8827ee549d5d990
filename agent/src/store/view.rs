//! What `status` shows.

use lamplight_proto::{
    delta::Receipt,
    envelope::{Payload as _, Signed},
    ids::{Digest, Lease},
};
use rusqlite::{OptionalExtension as _, Row, params, types::ValueRef};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Store, StoreError, aside::AsideView};

/// Everything `status` shows, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Status {
    /// Who this node is; absent before enrolment.
    pub node_id: Option<String>,
    /// Its fleet.
    pub deployment: Option<String>,
    /// What it is doing: idle, preparing, training, uploading.
    pub phase: String,
    /// The round it works on.
    pub round: Option<u64>,
    /// The newest tasks, newest first.
    pub tasks: Vec<TaskView>,
    /// Highest release believed, by model.
    pub versions: Vec<VersionView>,
    /// Deltas the coordinator has signed for.
    pub receipts: u64,
    /// Failures it has not heard of yet.
    pub undelivered: u64,
    /// Samples that wait for a release with their class.
    pub aside: Vec<AsideView>,
}

/// A task in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TaskView {
    /// Its round.
    pub round: u64,
    /// The model fine-tuned.
    pub model: String,
    /// The release it started from.
    pub base_version: u64,
    /// accepted, failed, refused, dropped, declined; absent while it runs.
    pub outcome: Option<String>,
    /// Why, when not accepted.
    pub reason: Option<String>,
    /// By this node's clock.
    pub started_unix_ms: i64,
    /// By this node's clock; absent while it runs.
    pub ended_unix_ms: Option<i64>,
    /// Windows trained on.
    pub samples: Option<u64>,
    /// Windows kept aside, because the base does not have their class.
    pub samples_aside: Option<u64>,
    /// Wall time of training.
    pub training_seconds: Option<f64>,
    /// In which numbers training calculated, f32 or bf16; absent before it is known.
    pub precision: Option<String>,
    /// On the held-out windows, before.
    pub before_accuracy: Option<f64>,
    /// On the held-out windows, after.
    pub after_accuracy: Option<f64>,
    /// Bytes of the delta.
    pub delta_bytes: Option<u64>,
    /// SHA-256 of the delta.
    pub delta_digest: Option<String>,
    /// What the coordinator signed.
    pub receipt: Option<ReceiptView>,
}

/// A receipt.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ReceiptView {
    /// Counter of the delta.
    pub counter: u64,
    /// SHA-256 of the manifest's payload.
    pub manifest_digest: Digest,
    /// By the coordinator's clock.
    pub accepted_unix_ms: i64,
}

/// The highest release of a model.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct VersionView {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its file.
    pub digest: String,
}

/// The payload of a stored receipt. It was verified before it was stored; this only shows it.
fn receipt_view(envelope: &[u8]) -> Option<ReceiptView> {
    let signed: Signed<Receipt> = Signed::from_bytes(envelope).ok()?;
    let receipt = Receipt::parse(&signed.to_wire().payload).ok()?;
    Some(ReceiptView {
        counter: receipt.counter,
        manifest_digest: receipt.manifest_digest,
        accepted_unix_ms: receipt.accepted.0,
    })
}

/// SQLite's numbers are signed; none of ours is.
pub(super) fn whole(row: &Row<'_>, place: usize) -> rusqlite::Result<u64> {
    let n: i64 = row.get(place)?;
    u64::try_from(n).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(place, n))
}

/// As [`whole`], where there may be none.
fn maybe(row: &Row<'_>, place: usize) -> rusqlite::Result<Option<u64>> {
    match row.get_ref(place)? {
        ValueRef::Null => Ok(None),
        _ => whole(row, place).map(Some),
    }
}

impl Store {
    /// Phase, newest `limit` tasks, versions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn status(&self, limit: u32) -> Result<Status, StoreError> {
        let node = self.node()?;
        let fail = |e| self.fail(e);
        let (phase, round): (String, Option<u64>) = self
            .sql
            .query_row(
                "SELECT phase.name, tasks.round FROM phase LEFT JOIN tasks USING (task)
                 WHERE phase.id = 1",
                [],
                |row| Ok((row.get(0)?, maybe(row, 1)?)),
            )
            .map_err(fail)?;
        let count = |sql: &str| {
            self.sql
                .query_row(sql, [], |row| whole(row, 0))
                .map_err(fail)
        };
        Ok(Status {
            node_id: node.as_ref().map(|n| n.node_id.to_string()),
            deployment: node.as_ref().map(|n| n.deployment.to_string()),
            phase,
            round,
            tasks: self.tasks(limit)?,
            versions: self.versions()?,
            receipts: count("SELECT count(*) FROM tasks WHERE receipt IS NOT NULL")?,
            undelivered: count("SELECT count(*) FROM outbox")?,
            aside: self.aside()?,
        })
    }

    fn tasks(&self, limit: u32) -> Result<Vec<TaskView>, StoreError> {
        let mut query = self
            .sql
            .prepare(
                "SELECT round, model, base_version, outcome, reason, started_unix_ms,
                     ended_unix_ms, samples, training_seconds, before_accuracy, after_accuracy,
                     delta_bytes, delta_digest, receipt, samples_aside, precision
                 FROM tasks ORDER BY task DESC LIMIT ?1",
            )
            .map_err(|e| self.fail(e))?;
        query
            .query_map(params![limit], |row| {
                Ok(TaskView {
                    round: whole(row, 0)?,
                    model: row.get(1)?,
                    base_version: whole(row, 2)?,
                    outcome: row.get(3)?,
                    reason: row.get(4)?,
                    started_unix_ms: row.get(5)?,
                    ended_unix_ms: row.get(6)?,
                    samples: maybe(row, 7)?,
                    samples_aside: maybe(row, 14)?,
                    training_seconds: row.get(8)?,
                    precision: row.get(15)?,
                    before_accuracy: row.get(9)?,
                    after_accuracy: row.get(10)?,
                    delta_bytes: maybe(row, 11)?,
                    delta_digest: row.get(12)?,
                    receipt: row
                        .get::<_, Option<Vec<u8>>>(13)?
                        .and_then(|bytes| receipt_view(&bytes)),
                })
            })
            .and_then(Iterator::collect)
            .map_err(|e| self.fail(e))
    }

    fn versions(&self) -> Result<Vec<VersionView>, StoreError> {
        let mut query = self
            .sql
            .prepare("SELECT model, version, digest FROM versions ORDER BY model")
            .map_err(|e| self.fail(e))?;
        query
            .query_map([], |row| {
                Ok(VersionView {
                    model: row.get(0)?,
                    version: whole(row, 1)?,
                    digest: row.get(2)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(|e| self.fail(e))
    }

    /// Digest of the base of the newest task, whose file the node runs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest_base(&self) -> Result<Option<Digest>, StoreError> {
        let text: Option<String> = self
            .sql
            .query_row(
                "SELECT base_digest FROM tasks WHERE outcome IS NOT 'declined'
                 ORDER BY task DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(|e| self.fail(e))?;
        text.map(|t| t.parse().map_err(|e| self.damaged("a base digest", e)))
            .transpose()
    }

    /// Every receipt kept, by lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn receipts(&self) -> Result<Vec<(Lease, Signed<Receipt>)>, StoreError> {
        let mut query = self
            .sql
            .prepare("SELECT lease, receipt FROM tasks WHERE receipt IS NOT NULL ORDER BY task")
            .map_err(|e| self.fail(e))?;
        let rows: Vec<(Vec<u8>, Vec<u8>)> = query
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .map_err(|e| self.fail(e))?;
        rows.into_iter()
            .map(|(lease, receipt)| {
                let bad = |e| self.damaged("a receipt", e);
                Ok((
                    Lease::try_from(lease.as_slice()).map_err(bad)?,
                    Signed::from_bytes(&receipt).map_err(bad)?,
                ))
            })
            .collect()
    }
}
