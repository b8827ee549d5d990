//! Names and numbers that must not be mixed.

use std::{borrow::Cow, fmt, str::FromStr};

use ring::digest;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::Malformed;

/// SHA-256 of a blob, a manifest's payload or a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of bytes at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes, owned, as messages carry them.
    #[must_use]
    pub fn to_bytes(self) -> prost::bytes::Bytes {
        prost::bytes::Bytes::copy_from_slice(&self.0)
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = Malformed;
    fn try_from(bytes: &[u8]) -> Result<Self, Malformed> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| Malformed::new("digest", format!("{} bytes instead of 32", bytes.len())))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = hex::decode(text)
            .map_err(|e| Malformed::new("digest", format!("`{text}` is not hexadecimal: {e}")))?;
        Self::try_from(bytes.as_slice())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "SHA-256, hexadecimal.",
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
        })
    }
}

/// SHA-256 in pieces.
pub struct Hasher(digest::Context);

impl Hasher {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest(out)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `text` is 1 to 64 bytes of letters, digits, `-`, `_`, `.`, beginning with a letter or digit:
/// safe in file names, certificates and listings.
fn plain(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                if plain(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    let shown: String = text.chars().take(80).collect();
                    Err(Malformed::new(
                        $what,
                        format!(
                            "{shown:?} must be 1 to 64 letters, digits, `-`, `_` or `.`, \
                             beginning with a letter or digit"
                        ),
                    ))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A node, known by its signing key: `node-` and the first 8 bytes of the key's SHA-256.
    NodeId, "node id"
);
name!(
    /// A model that has releases.
    ModelName, "model name"
);
name!(
    /// A fleet with its coordinator.
    Deployment, "deployment"
);
name!(
    /// A name people gave to a node or operator.
    Label, "name"
);

impl NodeId {
    /// The id that belongs to an Ed25519 public key.
    #[must_use]
    pub fn of_key(public: &[u8]) -> Self {
        Self(format!(
            "node-{}",
            hex::encode(&Digest::of(public).as_bytes()[..8])
        ))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A round, numbered from 1 over the whole deployment.
    RoundId
);
number!(
    /// A task: a series of rounds an operator started.
    TaskId
);
number!(
    /// A release's version; only ever rises.
    ModelVersion
);

/// 16 random bytes that tie a delta to one offer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease(pub [u8; 16]);

impl TryFrom<&[u8]> for Lease {
    type Error = Malformed;
    fn try_from(bytes: &[u8]) -> Result<Self, Malformed> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| Malformed::new("lease", format!("{} bytes instead of 16", bytes.len())))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", hex::encode(self.0))
    }
}

/// A point in time, in milliseconds since 1970 UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// This long after.
    #[must_use]
    pub fn after(self, span: std::time::Duration) -> Self {
        let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_directory_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "-x",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "tcn-v1.2_a".parse::<ModelName>().map(|n| n.to_string()),
            Ok("tcn-v1.2_a".to_owned())
        );
    }

    #[test]
    fn a_digest_reads_back_from_its_text() {
        let d = Digest::of(b"abc");
        assert_eq!(d.to_string().parse(), Ok(d));
        assert_eq!(
            d.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!("abc".parse::<Digest>().is_err());
    }
}
