//! Tasks: series of rounds an operator started.

use rusqlite::{Connection, Transaction, params};

use prost::Message as _;

use lamplight_proto::{
    ids::{Digest, ModelName, NodeId, TaskId, UnixMillis},
    offer::Training,
    wire,
};

use super::{
    StoreError, first, from_bytes, from_json, optional_digest, parse, signed, to_json, unsigned,
};

/// What an operator asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The model to fine-tune.
    pub model: ModelName,
    /// How many rounds.
    pub rounds: u32,
    /// Accepted deltas that close a round; 0 means the whole cohort.
    pub target: u32,
    /// Fewer abandon it.
    pub minimum: u32,
    /// Of each round.
    pub deadline_seconds: u32,
    /// Who is asked; `None` means all nodes enrolled as a round opens.
    pub cohort: Option<Vec<NodeId>>,
    /// How to fine-tune.
    pub training: Training,
    /// L2 bound of a delta.
    pub clip_norm: Option<f64>,
    /// Bound of a node's sample count.
    pub weight_cap: u64,
    /// Blob of samples.
    pub evaluation: Option<Digest>,
}

/// Keeps a new task.
///
/// # Errors
/// [`StoreError`].
pub fn insert(
    tx: &Transaction<'_>,
    key: &[u8],
    request: Digest,
    t: &Task,
    now: UnixMillis,
) -> Result<TaskId, StoreError> {
    let cohort = (t.cohort.as_ref())
        .map(|c| to_json("tasks.cohort", c))
        .transpose()?;
    tx.execute(
        "INSERT INTO tasks (idempotency_key, request_digest, model, rounds, target, minimum,
             deadline_seconds, cohort, training, clip_norm, weight_cap, evaluation_digest, state,
             created_unix_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'running', ?13)",
        params![
            key,
            request.as_bytes(),
            t.model.as_str(),
            t.rounds,
            t.target,
            t.minimum,
            t.deadline_seconds,
            cohort,
            wire::Training::from(&t.training).encode_to_vec(),
            t.clip_norm,
            signed("tasks.weight_cap", t.weight_cap)?,
            t.evaluation.map(|d| *d.as_bytes()),
            now.0
        ],
    )?;
    Ok(TaskId(unsigned("tasks.id", tx.last_insert_rowid())?))
}

/// The task started with this key, and the digest of the request that started it.
///
/// # Errors
/// [`StoreError`].
pub fn with_key(c: &Connection, key: &[u8]) -> Result<Option<(TaskId, Digest)>, StoreError> {
    first(
        c,
        "SELECT id, request_digest FROM tasks WHERE idempotency_key = ?1",
        [key],
        |r| {
            let digest: Vec<u8> = r.get(1)?;
            Ok((
                TaskId(unsigned("tasks.id", r.get(0)?)?),
                from_bytes("tasks.request_digest", &digest)?,
            ))
        },
    )
}

/// The task that runs for a model.
///
/// # Errors
/// [`StoreError`].
pub fn running(c: &Connection, model: &ModelName) -> Result<Option<TaskId>, StoreError> {
    first(
        c,
        "SELECT id FROM tasks WHERE model = ?1 AND state = 'running'",
        [model.as_str()],
        |r| Ok(TaskId(unsigned("tasks.id", r.get(0)?)?)),
    )
}

/// One task.
///
/// # Errors
/// [`StoreError`].
pub fn find(c: &Connection, id: TaskId) -> Result<Option<Task>, StoreError> {
    first(
        c,
        "SELECT model, rounds, target, minimum, deadline_seconds, cohort, training, clip_norm,
             weight_cap, evaluation_digest
         FROM tasks WHERE id = ?1",
        [signed("tasks.id", id.0)?],
        |r| {
            let model: String = r.get(0)?;
            let cohort: Option<String> = r.get(5)?;
            let training: Vec<u8> = r.get(6)?;
            let damaged = |fault: String| StoreError::Damaged {
                column: "tasks.training",
                fault,
            };
            Ok(Task {
                model: parse("tasks.model", &model)?,
                rounds: r.get(1)?,
                target: r.get(2)?,
                minimum: r.get(3)?,
                deadline_seconds: r.get(4)?,
                cohort: cohort.map(|t| from_json("tasks.cohort", &t)).transpose()?,
                training: wire::Training::decode(training.as_slice())
                    .map_err(|e| damaged(e.to_string()))?
                    .try_into()
                    .map_err(|e: lamplight_proto::Malformed| damaged(e.to_string()))?,
                clip_norm: r.get(7)?,
                weight_cap: unsigned("tasks.weight_cap", r.get(8)?)?,
                evaluation: optional_digest("tasks.evaluation_digest", r.get(9)?)?,
            })
        },
    )
}

/// Ends a task: stopped for a reason, or done.
///
/// # Errors
/// [`StoreError`].
pub fn end(tx: &Transaction<'_>, id: TaskId, stopped: Option<&str>) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tasks SET state = ?2, reason = ?3 WHERE id = ?1",
        params![
            signed("tasks.id", id.0)?,
            if stopped.is_some() { "stopped" } else { "done" },
            stopped.unwrap_or_default()
        ],
    )?;
    Ok(())
}
