//! Rounds.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::{
    delta::Metrics,
    ids::{ModelName, ModelVersion, RoundId, TaskId, UnixMillis},
};

use crate::round::PhaseName;

use super::{StoreError, all, first, from_json, parse, signed, to_json, unsigned};

/// A round as kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Its id.
    pub id: RoundId,
    /// Its task.
    pub task: TaskId,
    /// Place in its task, from 1.
    pub place: u32,
    /// Rounds of the task.
    pub of: u32,
    /// The model.
    pub model: ModelName,
    /// Release it starts from.
    pub base_version: ModelVersion,
    /// Where it stands.
    pub phase: PhaseName,
    /// What the phase knows beside its participants.
    pub knows: Option<String>,
    /// Why abandoned.
    pub reason: String,
    /// What it published.
    pub release_version: Option<ModelVersion>,
    /// How good that is.
    pub evaluation: Option<Metrics>,
    /// When it opened.
    pub started: UnixMillis,
    /// When waiting for deltas ends.
    pub deadline: UnixMillis,
    /// When it ended.
    pub ended: Option<UnixMillis>,
    /// Accepted deltas that close it; 0 means the whole cohort.
    pub target: u32,
    /// Fewer abandon it.
    pub minimum: u32,
}

const SELECT: &str = "SELECT r.id, r.task, r.place, t.rounds, t.model, r.base_version, r.phase,
    r.knows, r.reason, r.release_version, r.evaluation, r.started_unix_ms, r.deadline_unix_ms,
    r.ended_unix_ms, t.target, t.minimum
    FROM rounds r JOIN tasks t ON t.id = r.task";

fn read(r: &rusqlite::Row<'_>) -> Result<Round, StoreError> {
    let model: String = r.get(4)?;
    let phase: String = r.get(6)?;
    let version: Option<i64> = r.get(9)?;
    let evaluation: Option<String> = r.get(10)?;
    let ended: Option<i64> = r.get(13)?;
    Ok(Round {
        id: RoundId(unsigned("rounds.id", r.get(0)?)?),
        task: TaskId(unsigned("rounds.task", r.get(1)?)?),
        place: r.get(2)?,
        of: r.get(3)?,
        model: parse("tasks.model", &model)?,
        base_version: ModelVersion(unsigned("rounds.base_version", r.get(5)?)?),
        phase: parse("rounds.phase", &phase)?,
        knows: r.get(7)?,
        reason: r.get(8)?,
        release_version: version
            .map(|v| unsigned("rounds.release_version", v).map(ModelVersion))
            .transpose()?,
        evaluation: evaluation
            .map(|t| from_json("rounds.evaluation", &t))
            .transpose()?,
        started: UnixMillis(r.get(11)?),
        deadline: UnixMillis(r.get(12)?),
        ended: ended.map(UnixMillis),
        target: r.get(14)?,
        minimum: r.get(15)?,
    })
}

/// Keeps a round that opens.
///
/// # Errors
/// [`StoreError`].
pub fn open(
    tx: &Transaction<'_>,
    task: TaskId,
    place: u32,
    base: ModelVersion,
    now: UnixMillis,
    deadline: UnixMillis,
) -> Result<RoundId, StoreError> {
    tx.execute(
        "INSERT INTO rounds (task, place, base_version, phase, started_unix_ms, deadline_unix_ms)
         VALUES (?1, ?2, ?3, 'collecting', ?4, ?5)",
        params![
            signed("rounds.task", task.0)?,
            place,
            signed("rounds.base_version", base.0)?,
            now.0,
            deadline.0
        ],
    )?;
    Ok(RoundId(unsigned("rounds.id", tx.last_insert_rowid())?))
}

/// One round.
///
/// # Errors
/// [`StoreError`].
pub fn find(c: &Connection, id: RoundId) -> Result<Option<Round>, StoreError> {
    // A number above what SQLite holds is a round that does not exist.
    let Ok(id) = i64::try_from(id.0) else {
        return Ok(None);
    };
    first(c, &format!("{SELECT} WHERE r.id = ?1"), [id], read)
}

/// Rounds of a task, or of all tasks, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn list(c: &Connection, task: Option<TaskId>) -> Result<Vec<Round>, StoreError> {
    match task {
        None => all(c, &format!("{SELECT} ORDER BY r.id"), [], read),
        Some(TaskId(id)) => {
            let Ok(id) = i64::try_from(id) else {
                return Ok(Vec::new());
            };
            all(
                c,
                &format!("{SELECT} WHERE r.task = ?1 ORDER BY r.id"),
                [id],
                read,
            )
        }
    }
}

/// The first round of a task.
///
/// # Errors
/// [`StoreError`].
pub fn first_of(c: &Connection, task: TaskId) -> Result<Option<RoundId>, StoreError> {
    first(
        c,
        "SELECT id FROM rounds WHERE task = ?1 AND place = 1",
        [signed("rounds.task", task.0)?],
        |r| Ok(RoundId(unsigned("rounds.id", r.get(0)?)?)),
    )
}

/// Rounds that have not ended, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn running(c: &Connection) -> Result<Vec<Round>, StoreError> {
    all(
        c,
        &format!("{SELECT} WHERE r.ended_unix_ms IS NULL ORDER BY r.id"),
        [],
        read,
    )
}

/// What a step changes in a round's row.
#[derive(Debug, Clone)]
pub struct Moved<'a> {
    /// The new phase.
    pub phase: PhaseName,
    /// What it knows.
    pub knows: Option<String>,
    /// Why abandoned.
    pub reason: &'a str,
    /// What was published.
    pub release_version: Option<ModelVersion>,
    /// How good the built model is, once known.
    pub evaluation: Option<Metrics>,
    /// Set when the round ends.
    pub ended: Option<UnixMillis>,
}

/// Moves a round to another phase.
///
/// # Errors
/// [`StoreError`].
pub fn set_phase(tx: &Transaction<'_>, id: RoundId, m: &Moved<'_>) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE rounds SET phase = ?2, knows = ?3, reason = ?4, release_version = ?5,
             evaluation = coalesce(?6, evaluation), ended_unix_ms = ?7
         WHERE id = ?1",
        params![
            signed("rounds.id", id.0)?,
            m.phase.as_str(),
            m.knows,
            m.reason,
            m.release_version
                .map(|v| signed("rounds.release_version", v.0))
                .transpose()?,
            m.evaluation
                .map(|e| to_json("rounds.evaluation", &e))
                .transpose()?,
            m.ended.map(|t| t.0)
        ],
    )?;
    Ok(())
}
