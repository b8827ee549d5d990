//! Deltas on their way in: one per node.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::ids::{Digest, NodeId, RoundId};

use super::{StoreError, all, first, from_bytes, parse, signed, unsigned};

/// An upload that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Whose.
    pub node: NodeId,
    /// For which round.
    pub round: RoundId,
    /// Names the upload.
    pub manifest_digest: Digest,
    /// The signed manifest as received.
    pub envelope: Vec<u8>,
}

fn read(r: &rusqlite::Row<'_>) -> Result<Upload, StoreError> {
    let node: String = r.get(0)?;
    let digest: Vec<u8> = r.get(2)?;
    Ok(Upload {
        node: parse("uploads.node", &node)?,
        round: RoundId(unsigned("uploads.round", r.get(1)?)?),
        manifest_digest: from_bytes("uploads.manifest_digest", &digest)?,
        envelope: r.get(3)?,
    })
}

/// Begins an upload in place of any other of the same node.
///
/// # Errors
/// [`StoreError`].
pub fn begin(tx: &Transaction<'_>, upload: &Upload) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO uploads (node, round, manifest_digest, envelope) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (node) DO UPDATE SET round = excluded.round,
             manifest_digest = excluded.manifest_digest, envelope = excluded.envelope",
        params![
            upload.node.as_str(),
            signed("uploads.round", upload.round.0)?,
            upload.manifest_digest.as_bytes(),
            upload.envelope
        ],
    )?;
    Ok(())
}

/// The upload of a node.
///
/// # Errors
/// [`StoreError`].
pub fn of_node(c: &Connection, node: &NodeId) -> Result<Option<Upload>, StoreError> {
    first(
        c,
        "SELECT node, round, manifest_digest, envelope FROM uploads WHERE node = ?1",
        [node.as_str()],
        read,
    )
}

/// All uploads.
///
/// # Errors
/// [`StoreError`].
pub fn list(c: &Connection) -> Result<Vec<Upload>, StoreError> {
    all(
        c,
        "SELECT node, round, manifest_digest, envelope FROM uploads",
        [],
        read,
    )
}

/// Forgets the upload of a node.
///
/// # Errors
/// [`StoreError`].
pub fn end(tx: &Transaction<'_>, node: &NodeId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM uploads WHERE node = ?1", [node.as_str()])?;
    Ok(())
}
