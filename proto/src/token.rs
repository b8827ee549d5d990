//! Join tokens: what an operator hands to a new node, in one word.
//!
//! A token holds a public id, a secret, and the SHA-256 of the certificate authority's certificate,
//! so that the node knows the coordinator before it has any certificate itself.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    Malformed,
    ids::{Digest, Hasher},
    keys::{self, KeyError},
};

const PREFIX: &str = "lamp1_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 24;

/// A single-use permission to join a fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: [u8; ID_BYTES],
    secret: [u8; SECRET_BYTES],
    authority: Digest,
}

impl JoinToken {
    /// A fresh token for the authority with this certificate digest.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate(authority: Digest) -> Result<Self, KeyError> {
        Ok(Self {
            id: keys::random()?,
            secret: keys::random()?,
            authority,
        })
    }

    /// The public id, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// The secret the node shows to the coordinator.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// SHA-256 of the authority's certificate (DER).
    #[must_use]
    pub fn authority(&self) -> Digest {
        self.authority
    }

    /// What the coordinator keeps: a digest from which the secret cannot be had.
    #[must_use]
    pub fn secret_digest(secret: &[u8]) -> Digest {
        let mut h = Hasher::new();
        h.update(b"LAMPLIGHT-JOIN-V1");
        h.update(secret);
        h.finish()
    }
}

/// The whole token, secret included: show it once.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.authority.as_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id())
    }
}

impl FromStr for JoinToken {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = |fault: &str| Malformed::new("join token", fault);
        let body = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or_else(|| bad("it must begin with `lamp1_`; copy it whole"))?;
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|e| bad(&format!("{e}; copy it whole")))?;
        if bytes.len() != ID_BYTES + SECRET_BYTES + 32 {
            return Err(bad("it is too short or too long; copy it whole"));
        }
        let (id, rest) = bytes.split_at(ID_BYTES);
        let (secret, authority) = rest.split_at(SECRET_BYTES);
        Ok(Self {
            id: id.try_into().map_err(|_| bad("id"))?,
            secret: secret.try_into().map_err(|_| bad("secret"))?,
            authority: Digest::try_from(authority)?,
        })
    }
}

/// What a node signs to show that it holds the signing key it names.
#[must_use]
pub fn enrol_proof(token_id: &str, certificate_request_der: &[u8]) -> Vec<u8> {
    let mut out = b"LAMPLIGHT-ENROL-V1".to_vec();
    for part in [token_id.as_bytes(), certificate_request_der] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let t = JoinToken::generate(Digest::of(b"ca")).expect("randomness");
        let text = t.to_string();
        assert_eq!(text.parse(), Ok(t.clone()));
        assert!(!format!("{t:?}").contains(&hex::encode(t.secret())));
        assert!(text[..text.len() - 2].parse::<JoinToken>().is_err());
        assert!("nonsense".parse::<JoinToken>().is_err());
    }
}
