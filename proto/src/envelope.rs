//! What is signed is bytes: a payload, its type, and Ed25519 signatures over exactly those.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use prost::Message as _;
use prost::bytes::Bytes;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{Malformed, ids::Digest, keys::SigningKey, wire};

/// Largest payload a program takes: a manifest of a model with thousands of tensors fits well.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// Signatures looked at; more is an attempt to make verification slow.
pub const MAX_SIGNATURES: usize = 16;

const TAG: &[u8] = b"LAMPLIGHT-SIGNED-V1";

/// First 16 bytes of the SHA-256 of an Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id of a public key.
    #[must_use]
    pub fn of(public: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(public).as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A domain type that travels signed.
pub trait Payload: Sized {
    /// What the envelope's `payload_type` must be.
    const TYPE: &'static str;
    /// Parses the payload.
    ///
    /// # Errors
    /// [`Malformed`] naming the field.
    fn parse(bytes: &[u8]) -> Result<Self, Malformed>;
    /// The bytes to sign. Called once, by the signer; receivers keep what they received.
    fn to_payload(&self) -> Vec<u8>;
}

/// Why an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Another kind of payload.
    #[error("payload type is `{got}`, expected `{want}`")]
    WrongType {
        /// Type found.
        got: String,
        /// Type expected.
        want: &'static str,
    },
    /// More bytes than [`MAX_PAYLOAD_BYTES`].
    #[error("payload has {got} bytes, at most {max} are taken")]
    TooLarge {
        /// Bytes found.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// No trusted key is among the signers.
    #[error("no trusted key signed this; it names {0}")]
    UnknownKey(String),
    /// A trusted key is named, and its signature does not match.
    #[error("the signature of key {0} does not match the bytes")]
    BadSignature(KeyId),
    /// The signature is good, the payload is not.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Public keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(BTreeMap<KeyId, [u8; 32]>);

impl TrustedKeys {
    /// Trusts these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(keys.into_iter().map(|k| (KeyId::of(&k), k)).collect())
    }
}

/// An envelope as received or just made; nothing in it is believed yet.
pub struct Signed<T> {
    envelope: wire::Envelope,
    of: PhantomData<fn() -> T>,
}

// By hand: a derive would ask the payload type to be `Clone` and `PartialEq` too.
impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self::from_wire(self.envelope.clone())
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.envelope == other.envelope
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed({}, {} bytes, {} signature(s))",
            self.envelope.payload_type,
            self.envelope.payload.len(),
            self.envelope.signatures.len()
        )
    }
}

/// A value whose bytes a trusted key signed. Only [`Signed::verify`] and [`Signed::seal`] make one.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    signer: KeyId,
    signed: Signed<T>,
}

impl<T> Verified<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }
    /// The key whose signature counted.
    pub fn signer(&self) -> KeyId {
        self.signer
    }
    /// The envelope, exactly as received.
    pub fn signed(&self) -> &Signed<T> {
        &self.signed
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Tag, type and payload, each length-prefixed, so that no two pairs give the same bytes.
fn signing_input(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(TAG.len() + 16 + payload_type.len() + payload.len());
    out.extend_from_slice(TAG);
    for part in [payload_type.as_bytes(), payload] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

impl<T> Signed<T> {
    /// Takes an envelope from the network or a file.
    #[must_use]
    pub fn from_wire(envelope: wire::Envelope) -> Self {
        Self {
            envelope,
            of: PhantomData,
        }
    }

    /// The envelope as a message.
    #[must_use]
    pub fn to_wire(&self) -> wire::Envelope {
        self.envelope.clone()
    }

    /// The envelope as bytes, for a file or a database row.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.envelope.encode_to_vec()
    }

    /// SHA-256 of the payload as received.
    #[must_use]
    pub fn payload_digest(&self) -> Digest {
        Digest::of(&self.envelope.payload)
    }
}

impl<T: Payload> Signed<T> {
    /// Reads an envelope from a file or database row.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no envelope.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        wire::Envelope::decode(bytes)
            .map(Self::from_wire)
            .map_err(|e| Malformed::new("envelope", e.to_string()))
    }

    /// Signs a value.
    #[must_use]
    pub fn seal(value: T, key: &SigningKey) -> Verified<T> {
        let payload = value.to_payload();
        let signature = key.sign(&signing_input(T::TYPE, &payload));
        let signed = Self::from_wire(wire::Envelope {
            payload_type: T::TYPE.to_owned(),
            payload: payload.into(),
            signatures: vec![wire::Signature {
                key_id: Bytes::copy_from_slice(&key.id().0),
                signature: Bytes::copy_from_slice(&signature),
            }],
        });
        Verified {
            value,
            signer: key.id(),
            signed,
        }
    }

    /// Believes the envelope, or says why not.
    ///
    /// # Errors
    /// [`VerifyError`]; nothing is decoded before a signature matched.
    pub fn verify(self, keys: &TrustedKeys) -> Result<Verified<T>, VerifyError> {
        let e = &self.envelope;
        // 1. The envelope must claim to hold what the caller expects.
        if e.payload_type != T::TYPE {
            return Err(VerifyError::WrongType {
                got: e.payload_type.chars().take(80).collect(),
                want: T::TYPE,
            });
        }
        // 2. It must be small enough to hash at leisure.
        if e.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(VerifyError::TooLarge {
                got: e.payload.len(),
                max: MAX_PAYLOAD_BYTES,
            });
        }
        // 3. A trusted key must have signed exactly these bytes.
        let input = signing_input(&e.payload_type, &e.payload);
        let mut bad = None;
        let mut signer = None;
        for s in e.signatures.iter().take(MAX_SIGNATURES) {
            let Ok(id) = <[u8; 16]>::try_from(&s.key_id[..]).map(KeyId) else {
                continue;
            };
            let Some(public) = keys.0.get(&id) else {
                continue;
            };
            if UnparsedPublicKey::new(&ED25519, public)
                .verify(&input, &s.signature)
                .is_ok()
            {
                signer = Some(id);
                break;
            }
            bad = Some(id);
        }
        let Some(signer) = signer else {
            return Err(match bad {
                Some(id) => VerifyError::BadSignature(id),
                None => VerifyError::UnknownKey(named(&e.signatures)),
            });
        };
        // 4. Only now is the payload decoded.
        let value = T::parse(&e.payload)?;
        Ok(Verified {
            value,
            signer,
            signed: self,
        })
    }
}

fn named(signatures: &[wire::Signature]) -> String {
    if signatures.is_empty() {
        return "no key at all".to_owned();
    }
    let ids: Vec<String> = signatures
        .iter()
        .take(3)
        .map(|s| hex::encode(&s.key_id[..s.key_id.len().min(16)]))
        .collect();
    ids.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Note(String);
    impl Payload for Note {
        const TYPE: &'static str = "test.note.v1";
        fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
            String::from_utf8(bytes.to_vec())
                .map(Self)
                .map_err(|e| Malformed::new("note", e.to_string()))
        }
        fn to_payload(&self) -> Vec<u8> {
            self.0.clone().into_bytes()
        }
    }

    fn sealed() -> (SigningKey, Signed<Note>) {
        let key = SigningKey::generate().expect("randomness");
        let signed = Signed::seal(Note("hello".into()), &key).signed().clone();
        (key, signed)
    }

    #[test]
    fn a_trusted_signature_is_believed() {
        let (key, signed) = sealed();
        let v = signed
            .verify(&TrustedKeys::new([key.public()]))
            .expect("good");
        assert_eq!(*v, Note("hello".into()));
        assert_eq!(v.signer(), key.id());
    }

    #[test]
    fn every_flipped_bit_of_payload_type_payload_and_signature_is_noticed() {
        let (key, signed) = sealed();
        let keys = TrustedKeys::new([key.public()]);
        for i in 0..signed.envelope.payload.len() * 8 {
            let mut e = signed.to_wire();
            let mut p = e.payload.to_vec();
            p[i / 8] ^= 1 << (i % 8);
            e.payload = p.into();
            assert_eq!(
                Signed::<Note>::from_wire(e).verify(&keys).map(|_| ()),
                Err(VerifyError::BadSignature(key.id()))
            );
        }
        for i in 0..64 * 8 {
            let mut e = signed.to_wire();
            let mut s = e.signatures[0].signature.to_vec();
            s[i / 8] ^= 1 << (i % 8);
            e.signatures[0].signature = s.into();
            assert!(Signed::<Note>::from_wire(e).verify(&keys).is_err());
        }
    }

    #[test]
    fn another_type_with_the_same_bytes_is_refused() {
        struct Other;
        impl Payload for Other {
            const TYPE: &'static str = "test.other.v1";
            fn parse(_: &[u8]) -> Result<Self, Malformed> {
                Ok(Self)
            }
            fn to_payload(&self) -> Vec<u8> {
                Vec::new()
            }
        }
        let (key, signed) = sealed();
        let keys = TrustedKeys::new([key.public()]);
        let mut e = signed.to_wire();
        assert!(matches!(
            Signed::<Other>::from_wire(e.clone()).verify(&keys),
            Err(VerifyError::WrongType { .. })
        ));
        e.payload_type = Other::TYPE.into();
        assert!(matches!(
            Signed::<Other>::from_wire(e).verify(&keys),
            Err(VerifyError::BadSignature(_))
        ));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let (key, signed) = sealed();
        let other = SigningKey::generate().expect("randomness");
        let e = signed
            .verify(&TrustedKeys::new([other.public()]))
            .expect_err("unknown");
        assert_eq!(e, VerifyError::UnknownKey(key.id().to_string()));
    }

    #[test]
    fn giants_are_refused_before_they_are_hashed() {
        let (key, signed) = sealed();
        let mut e = signed.to_wire();
        e.payload = vec![0; MAX_PAYLOAD_BYTES + 1].into();
        assert_eq!(
            Signed::<Note>::from_wire(e)
                .verify(&TrustedKeys::new([key.public()]))
                .map(|_| ()),
            Err(VerifyError::TooLarge {
                got: MAX_PAYLOAD_BYTES + 1,
                max: MAX_PAYLOAD_BYTES
            })
        );
    }

    #[test]
    fn a_good_signature_counts_behind_strange_ones_but_not_behind_too_many() {
        let (key, signed) = sealed();
        let keys = TrustedKeys::new([key.public()]);
        let strangers = |count: usize| {
            let mut e = signed.to_wire();
            let strange = wire::Signature {
                key_id: vec![7; 16].into(),
                signature: vec![0; 64].into(),
            };
            // Ids and signatures of any length must not panic either.
            let odd = wire::Signature {
                key_id: vec![7; 3].into(),
                signature: Bytes::new(),
            };
            let mut all = vec![odd];
            all.resize(count, strange);
            all.append(&mut e.signatures);
            e.signatures = all;
            Signed::<Note>::from_wire(e).verify(&keys).map(|_| ())
        };
        assert_eq!(strangers(MAX_SIGNATURES - 1), Ok(()));
        assert!(matches!(
            strangers(MAX_SIGNATURES),
            Err(VerifyError::UnknownKey(_))
        ));
    }

    #[test]
    fn nothing_is_decoded_before_a_signature_matched() {
        struct Trap;
        impl Payload for Trap {
            const TYPE: &'static str = "test.trap.v1";
            fn parse(_: &[u8]) -> Result<Self, Malformed> {
                Err(Malformed::new("trap", "was decoded"))
            }
            fn to_payload(&self) -> Vec<u8> {
                b"trap".to_vec()
            }
        }
        let key = SigningKey::generate().expect("randomness");
        let stranger = SigningKey::generate().expect("randomness");
        let signed = Signed::seal(Trap, &key).signed().clone();
        let verify = |key: &SigningKey| {
            let keys = TrustedKeys::new([key.public()]);
            signed.clone().verify(&keys).map(|_| ())
        };
        assert!(matches!(verify(&stranger), Err(VerifyError::UnknownKey(_))));
        assert!(matches!(verify(&key), Err(VerifyError::Malformed(_))));
    }
}
