//! Nodes in rounds: who was asked, and what came of it.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::{
    delta::Metrics,
    ids::{Digest, Lease, NodeId, RoundId, UnixMillis},
};

use super::{
    StoreError, all, first, from_bytes, from_json, optional_digest, parse, signed, to_json,
    unsigned,
};

/// How it stands with a node in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Asked.
    Offered,
    /// Its last delta was refused; it may send another.
    Refused,
    /// Its delta is kept.
    Accepted,
    /// It reported that it delivers none.
    Failed,
    /// The round closed without it.
    Missing,
}

impl State {
    /// As stored and listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Refused => "refused",
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

impl std::str::FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [
            Self::Offered,
            Self::Refused,
            Self::Accepted,
            Self::Failed,
            Self::Missing,
        ]
        .into_iter()
        .find(|s| s.as_str() == text)
        .ok_or_else(|| format!("{text:?}, which is no state"))
    }
}

/// A delta that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// SHA-256 of the signed manifest's payload.
    pub manifest_digest: Digest,
    /// SHA-256 of the delta file.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// L2 norm before clipping.
    pub norm: f64,
    /// From the manifest.
    pub counter: u64,
    /// Samples trained on.
    pub sample_count: u64,
    /// Samples of classes that the base does not have.
    pub samples_aside: u64,
    /// On the node's held-out samples, before.
    pub before: Option<Metrics>,
    /// On the node's held-out samples, after.
    pub after: Option<Metrics>,
    /// Wall time of training.
    pub training_seconds: f64,
    /// When it was accepted.
    pub accepted: UnixMillis,
    /// The signed answer.
    pub receipt: Vec<u8>,
}

/// A node in a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Participant {
    /// The round.
    pub round: RoundId,
    /// The node.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Ties its delta to its offer.
    pub lease: Lease,
    /// How it stands.
    pub state: State,
    /// Why refused or failed, or why it has not begun.
    pub reason: String,
    /// Bytes of the base it pulled.
    pub model_bytes: u64,
    /// What clipping did, once aggregated.
    pub clip_factor: Option<f64>,
    /// Its delta, once accepted.
    pub delta: Option<Delta>,
}

const NEVER_CALLED: &str = "it had never called when the round closed; is the agent running there?";
const NOT_CALLED: &str = "it did not call while the round was open; was it powered and connected?";
/// Why a node is missing that is known to have been there.
pub const NOT_DELIVERED: &str = "the round closed before it delivered";

const SELECT: &str = "SELECT p.round, p.node, n.name, p.lease, p.state, p.reason, p.model_bytes,
    p.clip_factor, p.manifest_digest, p.delta_digest, p.delta_bytes, p.delta_norm, p.counter,
    p.sample_count, p.before, p.after, p.training_seconds, p.accepted_unix_ms, p.receipt,
    p.samples_aside
    FROM participants p JOIN nodes n ON n.id = p.node";

fn read(r: &rusqlite::Row<'_>) -> Result<Participant, StoreError> {
    let node: String = r.get(1)?;
    let lease: Vec<u8> = r.get(3)?;
    let state: String = r.get(4)?;
    let delta = match optional_digest("participants.manifest_digest", r.get(8)?)? {
        None => None,
        Some(manifest_digest) => {
            let digest: Vec<u8> = r.get(9)?;
            let before: Option<String> = r.get(14)?;
            let after: Option<String> = r.get(15)?;
            Some(Delta {
                manifest_digest,
                digest: from_bytes("participants.delta_digest", &digest)?,
                bytes: unsigned("participants.delta_bytes", r.get(10)?)?,
                norm: r.get(11)?,
                counter: unsigned("participants.counter", r.get(12)?)?,
                sample_count: unsigned("participants.sample_count", r.get(13)?)?,
                samples_aside: unsigned("participants.samples_aside", r.get(19)?)?,
                before: before
                    .map(|t| from_json("participants.before", &t))
                    .transpose()?,
                after: after
                    .map(|t| from_json("participants.after", &t))
                    .transpose()?,
                training_seconds: r.get(16)?,
                accepted: UnixMillis(r.get(17)?),
                receipt: r.get(18)?,
            })
        }
    };
    Ok(Participant {
        round: RoundId(unsigned("participants.round", r.get(0)?)?),
        node: parse("participants.node", &node)?,
        name: r.get(2)?,
        lease: from_bytes("participants.lease", &lease)?,
        state: parse("participants.state", &state)?,
        reason: r.get(5)?,
        model_bytes: unsigned("participants.model_bytes", r.get(6)?)?,
        clip_factor: r.get(7)?,
        delta,
    })
}

/// Asks a node.
///
/// # Errors
/// [`StoreError`].
pub fn ask(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    lease: Lease,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO participants (round, node, lease, state) VALUES (?1, ?2, ?3, 'offered')",
        params![
            signed("participants.round", round.0)?,
            node.as_str(),
            lease.0
        ],
    )?;
    Ok(())
}

/// Everyone in a round, by node id.
///
/// # Errors
/// [`StoreError`].
pub fn of_round(c: &Connection, round: RoundId) -> Result<Vec<Participant>, StoreError> {
    all(
        c,
        &format!("{SELECT} WHERE p.round = ?1 ORDER BY p.node"),
        [signed("participants.round", round.0)?],
        read,
    )
}

/// How many nodes a round asked, and how many of their deltas it keeps.
///
/// # Errors
/// [`StoreError`].
pub fn tally(c: &Connection, round: RoundId) -> Result<(u32, u32), StoreError> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE state = 'accepted') \
               FROM participants WHERE round = ?1";
    let round = [signed("participants.round", round.0)?];
    Ok(c.query_row(sql, round, |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// A node in a round.
///
/// # Errors
/// [`StoreError`].
pub fn find(
    c: &Connection,
    round: RoundId,
    node: &NodeId,
) -> Result<Option<Participant>, StoreError> {
    // A number above what SQLite holds is a round that does not exist.
    let Ok(round) = i64::try_from(round.0) else {
        return Ok(None);
    };
    first(
        c,
        &format!("{SELECT} WHERE p.round = ?1 AND p.node = ?2"),
        params![round, node.as_str()],
        read,
    )
}

/// Collecting rounds that wait for a node, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn waiting_for(c: &Connection, node: &NodeId) -> Result<Vec<RoundId>, StoreError> {
    all(
        c,
        "SELECT p.round FROM participants p JOIN rounds r ON r.id = p.round
         WHERE p.node = ?1 AND p.state IN ('offered', 'refused') AND r.phase = 'collecting'
         ORDER BY p.round",
        [node.as_str()],
        |r| Ok(RoundId(unsigned("participants.round", r.get(0)?)?)),
    )
}

/// Whether a node takes part in a round that has not ended: more work may come soon.
///
/// # Errors
/// [`StoreError`].
pub fn is_in_running_round(c: &Connection, node: &NodeId) -> Result<bool, StoreError> {
    Ok(c.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM rounds r JOIN participants p ON p.round = r.id
                        WHERE r.ended_unix_ms IS NULL AND p.node = ?1)",
    )?
    .query_row([node.as_str()], |r| r.get(0))?)
}

/// Whether a lease was given to this node in some round.
///
/// # Errors
/// [`StoreError`].
pub fn had_lease(c: &Connection, node: &NodeId, lease: Lease) -> Result<bool, StoreError> {
    Ok(c.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM participants WHERE node = ?1 AND lease = ?2)",
    )?
    .query_row(params![node.as_str(), lease.0], |r| r.get(0))?)
}

/// The accepted delta with this manifest.
///
/// # Errors
/// [`StoreError`].
pub fn with_manifest(
    c: &Connection,
    node: &NodeId,
    manifest: Digest,
) -> Result<Option<Participant>, StoreError> {
    first(
        c,
        &format!("{SELECT} WHERE p.node = ?1 AND p.manifest_digest = ?2"),
        params![node.as_str(), manifest.as_bytes()],
        read,
    )
}

/// Keeps an accepted delta.
///
/// # Errors
/// [`StoreError`].
pub fn accept(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    d: &Delta,
) -> Result<(), StoreError> {
    let json = |m: Option<Metrics>| m.map(|m| to_json("participants.before", &m)).transpose();
    tx.execute(
        "UPDATE participants SET state = 'accepted', reason = '', manifest_digest = ?3,
             delta_digest = ?4, delta_bytes = ?5, delta_norm = ?6, counter = ?7, sample_count = ?8,
             before = ?9, after = ?10, training_seconds = ?11, accepted_unix_ms = ?12,
             receipt = ?13, samples_aside = ?14
         WHERE round = ?1 AND node = ?2",
        params![
            signed("participants.round", round.0)?,
            node.as_str(),
            d.manifest_digest.as_bytes(),
            d.digest.as_bytes(),
            signed("participants.delta_bytes", d.bytes)?,
            d.norm,
            signed("participants.counter", d.counter)?,
            signed("participants.sample_count", d.sample_count)?,
            json(d.before)?,
            json(d.after)?,
            d.training_seconds,
            d.accepted.0,
            d.receipt,
            signed("participants.samples_aside", d.samples_aside)?
        ],
    )?;
    Ok(())
}

/// Notes that a node failed or its delta was refused. Never changes one that has ended.
///
/// # Errors
/// [`StoreError`].
pub fn note(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    state: State,
    reason: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE participants SET state = ?3, reason = ?4
         WHERE round = ?1 AND node = ?2 AND state IN ('offered', 'refused')",
        params![
            signed("participants.round", round.0)?,
            node.as_str(),
            state.as_str(),
            reason
        ],
    )?;
    Ok(())
}

/// Notes why an asked node has not begun; empty when it has. Never changes one of another state.
///
/// # Errors
/// [`StoreError`].
pub fn waits(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    reason: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE participants SET reason = ?3
         WHERE round = ?1 AND node = ?2 AND state = 'offered'",
        params![
            signed("participants.round", round.0)?,
            node.as_str(),
            reason
        ],
    )?;
    Ok(())
}

/// The round, opened at `opened`, closed: whoever has not ended is missing, for the reason it told, or
/// for what is known of it now; later it may call again. One whose delta was refused stays refused.
///
/// # Errors
/// [`StoreError`].
pub fn close(tx: &Transaction<'_>, round: RoundId, opened: UnixMillis) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE participants AS p SET state = 'missing', reason = CASE
             WHEN p.reason <> '' THEN p.reason
             WHEN n.last_seen_unix_ms = 0 THEN ?3
             WHEN n.last_seen_unix_ms < ?2 THEN ?4
             ELSE ?5 END
         FROM nodes AS n
         WHERE n.id = p.node AND p.round = ?1 AND p.state = 'offered'",
        params![
            signed("participants.round", round.0)?,
            opened.0,
            NEVER_CALLED,
            NOT_CALLED,
            NOT_DELIVERED
        ],
    )?;
    Ok(())
}

/// Keeps what clipping did to a delta.
///
/// # Errors
/// [`StoreError`].
pub fn clipped(
    tx: &Transaction<'_>,
    round: RoundId,
    node: &NodeId,
    factor: f64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE participants SET clip_factor = ?3 WHERE round = ?1 AND node = ?2",
        params![
            signed("participants.round", round.0)?,
            node.as_str(),
            factor
        ],
    )?;
    Ok(())
}

/// Counts bytes of a base that a node pulled, in the running rounds that start from it.
///
/// # Errors
/// [`StoreError`].
pub fn pulled(
    tx: &Transaction<'_>,
    node: &NodeId,
    base: Digest,
    bytes: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE participants SET model_bytes = model_bytes + ?3
         WHERE node = ?1 AND round IN (
             SELECT r.id FROM rounds r JOIN tasks t ON t.id = r.task
             JOIN releases b ON b.model = t.model AND b.version = r.base_version
             WHERE r.ended_unix_ms IS NULL AND b.digest = ?2)",
        params![
            node.as_str(),
            base.as_bytes(),
            signed("participants.model_bytes", bytes)?
        ],
    )?;
    Ok(())
}
