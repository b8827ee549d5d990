//! Join tokens.

use rusqlite::{Connection, Transaction, params};

use lamplight_proto::ids::{Digest, NodeId, UnixMillis};

use super::{StoreError, first, from_bytes, parse};

/// A token as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Digest of its secret.
    pub secret_digest: Digest,
    /// When it lapses.
    pub expires: UnixMillis,
    /// What it was used for.
    pub used: Option<Used>,
}

/// What a token was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The node it enrolled.
    pub node: NodeId,
    /// Digest of that node's TLS public key.
    pub tls_key_digest: Digest,
    /// The certificate that was answered.
    pub certificate: Vec<u8>,
}

/// Keeps a new token.
///
/// # Errors
/// [`StoreError`].
pub fn insert(
    tx: &Transaction<'_>,
    id: &str,
    secret_digest: Digest,
    now: UnixMillis,
    expires: UnixMillis,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tokens (id, secret_digest, created_unix_ms, expires_unix_ms)
         VALUES (?1, ?2, ?3, ?4)",
        params![id, secret_digest.as_bytes(), now.0, expires.0],
    )?;
    Ok(())
}

/// The token with this id.
///
/// # Errors
/// [`StoreError`].
pub fn find(c: &Connection, id: &str) -> Result<Option<Token>, StoreError> {
    first(
        c,
        "SELECT secret_digest, expires_unix_ms, used_by, tls_key_digest, certificate
         FROM tokens WHERE id = ?1",
        [id],
        |r| {
            let secret: Vec<u8> = r.get(0)?;
            let by: Option<String> = r.get(2)?;
            let used = match by {
                None => None,
                Some(node) => {
                    let key: Vec<u8> = r.get(3)?;
                    Some(Used {
                        node: parse("tokens.used_by", &node)?,
                        tls_key_digest: from_bytes("tokens.tls_key_digest", &key)?,
                        certificate: r.get(4)?,
                    })
                }
            };
            Ok(Token {
                secret_digest: from_bytes("tokens.secret_digest", &secret)?,
                expires: UnixMillis(r.get(1)?),
                used,
            })
        },
    )
}

/// Marks a token used.
///
/// # Errors
/// [`StoreError`].
pub fn mark_used(tx: &Transaction<'_>, id: &str, used: &Used) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tokens SET used_by = ?2, tls_key_digest = ?3, certificate = ?4 WHERE id = ?1",
        params![
            id,
            used.node.as_str(),
            used.tls_key_digest.as_bytes(),
            used.certificate
        ],
    )?;
    Ok(())
}
