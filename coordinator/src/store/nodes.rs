//! Nodes: who enrolled, what they last said, what operators say of them.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::{
    ids::{Digest, NodeId, UnixMillis},
    tag::{TagFilter, Tags},
};

use super::{
    StoreError, all, first, from_bytes, from_json, optional_digest, parse, signed, unsigned,
};

/// What operators let a node do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Takes part.
    Active,
    /// Finishes what is under way and gets no new work.
    Draining,
    /// Never works again; its calls are refused.
    Retired,
}

impl NodeState {
    const ALL: [Self; 3] = [Self::Active, Self::Draining, Self::Retired];

    /// As stored and listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for NodeState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        (Self::ALL.into_iter())
            .find(|s| s.as_str() == text)
            .ok_or_else(|| format!("{text:?}, which is no state of a node"))
    }
}

/// A node as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Ed25519 public key.
    pub signing_key: [u8; 32],
    /// Name for people.
    pub name: String,
    /// When it joined.
    pub enrolled: UnixMillis,
    /// When it last polled.
    pub last_seen: Option<UnixMillis>,
    /// What it said it was doing.
    pub phase: String,
    /// What it said it runs.
    pub running: Option<Digest>,
    /// Version of its agent.
    pub agent_version: String,
    /// Counter of its last accepted delta.
    pub last_counter: u64,
    /// How many of its deltas were accepted.
    pub deltas_accepted: u64,
    /// What it may do.
    pub state: NodeState,
    /// Why, in an operator's words.
    pub state_reason: String,
    /// Since when; `None` since it enrolled.
    pub state_since: Option<UnixMillis>,
    /// What operators say of it.
    pub tags: Tags,
}

const COLUMNS: &str = "id, signing_key, name, enrolled_unix_ms, last_seen_unix_ms, phase,
    running_digest, agent_version, last_counter, deltas_accepted, state, state_reason,
    state_since_unix_ms,
    (SELECT json_group_object(key, value) FROM node_tags WHERE node = nodes.id)";

fn read(r: &rusqlite::Row<'_>) -> Result<Node, StoreError> {
    let id: String = r.get(0)?;
    let key: Vec<u8> = r.get(1)?;
    let seen: i64 = r.get(4)?;
    let state: String = r.get(10)?;
    let since: i64 = r.get(12)?;
    let tags: String = r.get(13)?;
    Ok(Node {
        id: parse("nodes.id", &id)?,
        signing_key: from_bytes("nodes.signing_key", &key)?,
        name: r.get(2)?,
        enrolled: UnixMillis(r.get(3)?),
        last_seen: (seen != 0).then_some(UnixMillis(seen)),
        phase: r.get(5)?,
        running: optional_digest("nodes.running_digest", r.get(6)?)?,
        agent_version: r.get(7)?,
        last_counter: unsigned("nodes.last_counter", r.get(8)?)?,
        deltas_accepted: unsigned("nodes.deltas_accepted", r.get(9)?)?,
        state: parse("nodes.state", &state)?,
        state_reason: r.get(11)?,
        state_since: (since != 0).then_some(UnixMillis(since)),
        tags: from_json("node_tags", &tags)?,
    })
}

/// Keeps a node, or its new name and certificate when it is known already.
///
/// # Errors
/// [`StoreError`].
pub fn enrol(
    tx: &Transaction<'_>,
    id: &NodeId,
    signing_key: &[u8; 32],
    name: &str,
    certificate: &[u8],
    now: UnixMillis,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO nodes (id, signing_key, name, certificate, enrolled_unix_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, certificate = excluded.certificate",
        params![id.as_str(), signing_key, name, certificate, now.0],
    )?;
    Ok(())
}

/// The node with this id.
///
/// # Errors
/// [`StoreError`].
pub fn find(c: &Connection, id: &NodeId) -> Result<Option<Node>, StoreError> {
    first(
        c,
        &format!("SELECT {COLUMNS} FROM nodes WHERE id = ?1"),
        [id.as_str()],
        read,
    )
}

/// Whether another node has this one's name.
///
/// # Errors
/// [`StoreError`].
pub fn shares_name(c: &Connection, id: &NodeId, name: &str) -> Result<bool, StoreError> {
    let found = first(
        c,
        "SELECT 1 FROM nodes WHERE name = ?1 AND id <> ?2 LIMIT 1",
        [name, id.as_str()],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// All nodes, in order of enrolment.
///
/// # Errors
/// [`StoreError`].
pub fn list(c: &Connection) -> Result<Vec<Node>, StoreError> {
    all(
        c,
        &format!("SELECT {COLUMNS} FROM nodes ORDER BY enrolled_unix_ms, id"),
        [],
        read,
    )
}

/// All nodes in a state, in order of enrolment.
///
/// # Errors
/// [`StoreError`].
pub fn in_state(c: &Connection, state: NodeState) -> Result<Vec<Node>, StoreError> {
    all(
        c,
        &format!("SELECT {COLUMNS} FROM nodes WHERE state = ?1 ORDER BY enrolled_unix_ms, id"),
        [state.as_str()],
        read,
    )
}

/// Active nodes with these tags, in order of enrolment: whom a new round may ask.
///
/// # Errors
/// [`StoreError`].
pub fn eligible(c: &Connection, filter: &TagFilter) -> Result<Vec<Node>, StoreError> {
    let mut nodes = in_state(c, NodeState::Active)?;
    nodes.retain(|n| filter.matches(&n.tags));
    Ok(nodes)
}

/// All nodes with this name, in order of enrolment.
///
/// # Errors
/// [`StoreError`].
pub fn named(c: &Connection, name: &str) -> Result<Vec<Node>, StoreError> {
    all(
        c,
        &format!("SELECT {COLUMNS} FROM nodes WHERE name = ?1 ORDER BY enrolled_unix_ms, id"),
        [name],
        read,
    )
}

/// A node's newest certificate, DER.
///
/// # Errors
/// [`StoreError`].
pub fn certificate(c: &Connection, id: &NodeId) -> Result<Option<Vec<u8>>, StoreError> {
    first(
        c,
        "SELECT certificate FROM nodes WHERE id = ?1",
        [id.as_str()],
        |r| Ok(r.get(0)?),
    )
}

/// Keeps what an operator lets a node do, and why.
///
/// # Errors
/// [`StoreError`].
pub fn set_state(
    tx: &Transaction<'_>,
    id: &NodeId,
    state: NodeState,
    reason: &str,
    since: UnixMillis,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE nodes SET state = ?2, state_reason = ?3, state_since_unix_ms = ?4 WHERE id = ?1",
        params![id.as_str(), state.as_str(), reason, since.0],
    )?;
    Ok(())
}

/// Keeps a node's tags in place of those it had.
///
/// # Errors
/// [`StoreError`].
pub fn set_tags(tx: &Transaction<'_>, id: &NodeId, tags: &Tags) -> Result<(), StoreError> {
    tx.execute("DELETE FROM node_tags WHERE node = ?1", [id.as_str()])?;
    let mut insert =
        tx.prepare_cached("INSERT INTO node_tags (node, key, value) VALUES (?1, ?2, ?3)")?;
    for (key, value) in tags.iter() {
        insert.execute([id.as_str(), key.as_str(), value.as_str()])?;
    }
    Ok(())
}

/// What a poll says about its node.
#[derive(Debug, Clone)]
pub struct Sighting<'a> {
    /// What the node is doing.
    pub phase: &'a str,
    /// What it runs.
    pub running: Option<Digest>,
    /// Its agent's version.
    pub agent_version: &'a str,
    /// When.
    pub at: UnixMillis,
}

/// Notes that a node was seen.
///
/// # Errors
/// [`StoreError`].
pub fn seen(tx: &Transaction<'_>, id: &NodeId, s: &Sighting<'_>) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE nodes SET last_seen_unix_ms = ?2, phase = ?3, running_digest = ?4,
             agent_version = ?5 WHERE id = ?1",
        params![
            id.as_str(),
            s.at.0,
            s.phase,
            s.running.map(|d| *d.as_bytes()),
            s.agent_version
        ],
    )?;
    Ok(())
}

/// Notes that a node was heard of while it works, and what it does.
///
/// # Errors
/// [`StoreError`].
pub fn heard(
    tx: &Transaction<'_>,
    id: &NodeId,
    phase: &str,
    at: UnixMillis,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE nodes SET last_seen_unix_ms = ?2, phase = ?3 WHERE id = ?1",
        params![id.as_str(), at.0, phase],
    )?;
    Ok(())
}

/// Counts an accepted delta; later ones need a higher counter.
///
/// # Errors
/// [`StoreError`].
pub fn accepted(tx: &Transaction<'_>, id: &NodeId, counter: u64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE nodes SET last_counter = ?2, deltas_accepted = deltas_accepted + 1 WHERE id = ?1",
        params![id.as_str(), signed("nodes.last_counter", counter)?],
    )?;
    Ok(())
}
