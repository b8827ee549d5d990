//! Tasks: series of rounds an operator started.

use std::time::Duration;

use prost::Message;
use rusqlite::{Connection, Row, Transaction, params};

use lamplight_proto::{
    Malformed,
    budget::Budget,
    ids::{Digest, ModelName, NodeId, TaskId, UnixMillis},
    offer::{Codec, Training},
    tag::TagFilter,
    wire,
};

use super::{
    StoreError, all, first, from_bytes, from_json, optional_digest, parse, signed, to_json,
    unsigned,
};

/// What an operator asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// For people; may be empty.
    pub name: String,
    /// The model to fine-tune.
    pub model: ModelName,
    /// How many rounds; 0 means no bound.
    pub rounds: u32,
    /// A round begins this often; `None`: as soon as the last one has ended.
    pub every: Option<Duration>,
    /// No round begins from then on.
    pub until: Option<UnixMillis>,
    /// Accepted deltas that close a round; 0 means the whole cohort.
    pub target: u32,
    /// Fewer abandon it.
    pub minimum: u32,
    /// Of each round.
    pub deadline_seconds: u32,
    /// Who is asked; `None` means all nodes enrolled as a round opens.
    pub cohort: Option<Vec<NodeId>>,
    /// Of these, those with such tags as a round opens.
    pub tags: TagFilter,
    /// How to fine-tune.
    pub training: Training,
    /// What a round may use of a node.
    pub budget: Budget,
    /// How deltas are written.
    pub codec: Codec,
    /// L2 bound of a delta.
    pub clip_norm: Option<f64>,
    /// Bound of a node's sample count.
    pub weight_cap: u64,
    /// Blob of samples.
    pub evaluation: Option<Digest>,
}

/// A task, and what has become of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// Its id.
    pub id: TaskId,
    /// What was asked for.
    pub task: Task,
    /// running, stopping, done, stopped.
    pub state: &'static str,
    /// Why stopped, or why the last round did not begin.
    pub reason: String,
    /// Rounds that have begun.
    pub begun: u32,
    /// When the next one is to begin.
    pub next: Option<UnixMillis>,
    /// When it was started.
    pub created: UnixMillis,
}

const SELECT: &str = "SELECT model, rounds, target, minimum, deadline_seconds, cohort, training,
    clip_norm, weight_cap, evaluation_digest, name, cohort_tags, budget, codec, every_seconds,
    until_unix_ms, id, state, reason, next_round_unix_ms, created_unix_ms, stop_asked,
    (SELECT COALESCE(MAX(place), 0) FROM rounds WHERE rounds.task = tasks.id)
    FROM tasks";

/// A message kept as bytes.
fn message<M: Message + Default, T: TryFrom<M, Error = Malformed>>(
    column: &'static str,
    bytes: &[u8],
) -> Result<T, StoreError> {
    let damaged = |fault: String| StoreError::Damaged { column, fault };
    M::decode(bytes)
        .map_err(|e| damaged(e.to_string()))?
        .try_into()
        .map_err(|e: Malformed| damaged(e.to_string()))
}

fn read(r: &Row<'_>) -> Result<Course, StoreError> {
    let text = |i: usize| r.get::<_, String>(i);
    let cohort: Option<String> = r.get(5)?;
    let training: Vec<u8> = r.get(6)?;
    let budget: Option<Vec<u8>> = r.get(12)?;
    let every: Option<i64> = r.get(14)?;
    let until: Option<i64> = r.get(15)?;
    let next: Option<i64> = r.get(19)?;
    let task = Task {
        name: text(10)?,
        model: parse("tasks.model", &text(0)?)?,
        rounds: r.get(1)?,
        every: every
            .map(|s| unsigned("tasks.every_seconds", s).map(Duration::from_secs))
            .transpose()?,
        until: until.map(UnixMillis),
        target: r.get(2)?,
        minimum: r.get(3)?,
        deadline_seconds: r.get(4)?,
        cohort: cohort.map(|t| from_json("tasks.cohort", &t)).transpose()?,
        tags: from_json("tasks.cohort_tags", &text(11)?)?,
        training: message::<wire::Training, _>("tasks.training", &training)?,
        budget: budget
            .map(|b| message::<wire::Budget, _>("tasks.budget", &b))
            .transpose()?
            .unwrap_or_default(),
        codec: Codec::parse("tasks.codec", &text(13)?).map_err(|e| StoreError::Damaged {
            column: "tasks.codec",
            fault: e.to_string(),
        })?,
        clip_norm: r.get(7)?,
        weight_cap: unsigned("tasks.weight_cap", r.get(8)?)?,
        evaluation: optional_digest("tasks.evaluation_digest", r.get(9)?)?,
    };
    let stop_asked: bool = r.get(21)?;
    Ok(Course {
        id: TaskId(unsigned("tasks.id", r.get(16)?)?),
        task,
        state: match text(17)?.as_str() {
            "running" if stop_asked => "stopping",
            "running" => "running",
            "done" => "done",
            _ => "stopped",
        },
        reason: text(18)?,
        begun: r.get(22)?,
        next: next.map(UnixMillis),
        created: UnixMillis(r.get(20)?),
    })
}

impl Course {
    /// Whether no further round may begin.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state != "running" || (self.task.rounds > 0 && self.begun >= self.task.rounds)
    }
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
    let budget = (!t.budget.is_unbounded()).then(|| wire::Budget::from(&t.budget).encode_to_vec());
    tx.execute(
        "INSERT INTO tasks (idempotency_key, request_digest, model, rounds, target, minimum,
             deadline_seconds, cohort, training, clip_norm, weight_cap, evaluation_digest, state,
             created_unix_ms, name, cohort_tags, budget, codec, every_seconds, until_unix_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'running', ?13, ?14, ?15, ?16,
             ?17, ?18, ?19)",
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
            now.0,
            t.name,
            to_json("tasks.cohort_tags", &t.tags)?,
            budget,
            t.codec.as_str(),
            (t.every)
                .map(|d| signed("tasks.every_seconds", d.as_secs()))
                .transpose()?,
            t.until.map(|u| u.0),
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

/// One task, and what has become of it.
///
/// # Errors
/// [`StoreError`].
pub fn course(c: &Connection, id: TaskId) -> Result<Option<Course>, StoreError> {
    // A number above what SQLite holds is a task that does not exist.
    let Ok(id) = i64::try_from(id.0) else {
        return Ok(None);
    };
    first(c, &format!("{SELECT} WHERE id = ?1"), [id], read)
}

/// One task.
///
/// # Errors
/// [`StoreError`].
pub fn find(c: &Connection, id: TaskId) -> Result<Option<Task>, StoreError> {
    Ok(course(c, id)?.map(|c| c.task))
}

/// All tasks, newest first.
///
/// # Errors
/// [`StoreError`].
pub fn list(c: &Connection) -> Result<Vec<Course>, StoreError> {
    all(c, &format!("{SELECT} ORDER BY id DESC"), [], read)
}

/// Tasks whose next round is to begin by now, the longest overdue first.
///
/// # Errors
/// [`StoreError`].
pub fn due(c: &Connection, now: UnixMillis) -> Result<Vec<Course>, StoreError> {
    all(
        c,
        &format!(
            "{SELECT} WHERE next_round_unix_ms <= ?1 AND state = 'running'
             ORDER BY next_round_unix_ms, id"
        ),
        [now.0],
        read,
    )
}

/// Plans the next round of a task that runs, or with `None` notes that it has begun; `reason` says why the last
/// one did not.
///
/// # Errors
/// [`StoreError`].
pub fn plan(
    tx: &Transaction<'_>,
    id: TaskId,
    next: Option<UnixMillis>,
    reason: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tasks SET next_round_unix_ms = ?2, reason = ?3
         WHERE id = ?1 AND state = 'running'",
        params![signed("tasks.id", id.0)?, next.map(|t| t.0), reason],
    )?;
    Ok(())
}

/// Notes that no further round is to begin.
///
/// # Errors
/// [`StoreError`].
pub fn ask_to_stop(tx: &Transaction<'_>, id: TaskId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tasks SET stop_asked = 1, next_round_unix_ms = NULL WHERE id = ?1",
        [signed("tasks.id", id.0)?],
    )?;
    Ok(())
}

/// Ends a task that runs: stopped for a reason, or done.
///
/// # Errors
/// [`StoreError`].
pub fn end(tx: &Transaction<'_>, id: TaskId, stopped: Option<&str>) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tasks SET state = ?2, reason = ?3, next_round_unix_ms = NULL
         WHERE id = ?1 AND state = 'running'",
        params![
            signed("tasks.id", id.0)?,
            if stopped.is_some() { "stopped" } else { "done" },
            stopped.unwrap_or_default()
        ],
    )?;
    Ok(())
}
