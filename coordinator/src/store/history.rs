//! How rounds went for one node: asked, passed over, or not meant.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::ids::{ModelName, ModelVersion, NodeId, RoundId, TaskId, UnixMillis};

use crate::round::PhaseName;

use super::{StoreError, all, parse, participants::State, signed, unsigned};

/// A node's part in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It was asked.
    Asked(State, String),
    /// It would have been asked, but for this.
    PassedOver(String),
    /// The task did not mean it.
    NotMeant,
}

/// A round, as one node lived it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The round.
    pub round: RoundId,
    /// Its task.
    pub task: TaskId,
    /// The model.
    pub model: ModelName,
    /// Release it starts from.
    pub base_version: ModelVersion,
    /// Where the round stands.
    pub phase: PhaseName,
    /// When it opened.
    pub started: UnixMillis,
    /// When it ended.
    pub ended: Option<UnixMillis>,
    /// The node's part.
    pub part: Part,
}

/// Beginning with the node, so that one reader serves both questions.
const SELECT: &str = "SELECT n.id, r.id, r.task, t.model, r.base_version, r.phase,
    r.started_unix_ms, r.ended_unix_ms, p.state, p.reason, o.reason";
const JOIN: &str = "JOIN tasks t ON t.id = r.task
    LEFT JOIN participants p ON p.round = r.id AND p.node = n.id
    LEFT JOIN passed_over o ON o.round = r.id AND o.node = n.id";

fn read(r: &rusqlite::Row<'_>) -> Result<(NodeId, Turn), StoreError> {
    let node: String = r.get(0)?;
    let model: String = r.get(3)?;
    let phase: String = r.get(5)?;
    let ended: Option<i64> = r.get(7)?;
    let state: Option<String> = r.get(8)?;
    let reason: Option<String> = r.get(9)?;
    let passed_over: Option<String> = r.get(10)?;
    let part = match (state, passed_over) {
        (Some(state), _) => Part::Asked(
            parse("participants.state", &state)?,
            reason.unwrap_or_default(),
        ),
        (None, Some(why)) => Part::PassedOver(why),
        (None, None) => Part::NotMeant,
    };
    let turn = Turn {
        round: RoundId(unsigned("rounds.id", r.get(1)?)?),
        task: TaskId(unsigned("rounds.task", r.get(2)?)?),
        model: parse("tasks.model", &model)?,
        base_version: ModelVersion(unsigned("rounds.base_version", r.get(4)?)?),
        phase: parse("rounds.phase", &phase)?,
        started: UnixMillis(r.get(6)?),
        ended: ended.map(UnixMillis),
        part,
    };
    Ok((parse("nodes.id", &node)?, turn))
}

/// The last rounds that opened since a node enrolled, newest first.
///
/// # Errors
/// [`StoreError`].
pub fn of_node(c: &Connection, node: &NodeId, last: u32) -> Result<Vec<Turn>, StoreError> {
    all(
        c,
        &format!(
            "{SELECT} FROM nodes n JOIN rounds r ON r.started_unix_ms >= n.enrolled_unix_ms {JOIN}
             WHERE n.id = ?1 ORDER BY r.id DESC LIMIT ?2"
        ),
        params![node.as_str(), last],
        |r| Ok(read(r)?.1),
    )
}

/// For each node the last round that asked it or passed it over.
///
/// # Errors
/// [`StoreError`].
pub fn newest(c: &Connection) -> Result<HashMap<NodeId, Turn>, StoreError> {
    let turns = all(
        c,
        &format!(
            "{SELECT} FROM nodes n JOIN rounds r ON r.id = max(
                 coalesce((SELECT max(round) FROM participants WHERE node = n.id), 0),
                 coalesce((SELECT max(round) FROM passed_over WHERE node = n.id), 0)) {JOIN}"
        ),
        [],
        read,
    )?;
    Ok(turns.into_iter().collect())
}

/// Notes that a round would have asked a node, but for this.
///
/// # Errors
/// [`StoreError`].
pub fn pass_over(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    reason: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO passed_over (node, round, reason) VALUES (?1, ?2, ?3)",
        params![node.as_str(), signed("passed_over.round", round.0)?, reason],
    )?;
    Ok(())
}
