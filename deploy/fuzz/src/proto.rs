//! What travels: envelopes and their payloads, names, chunks, refusals, and the files of an identity.

use std::fmt::{Debug, Display};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::LazyLock;

use lamplight_proto::Malformed;
use lamplight_proto::budget::DailyWindow;
use lamplight_proto::chunk::{CHUNK_BYTES, Receiving};
use lamplight_proto::delta::{DeltaManifest, Receipt};
use lamplight_proto::envelope::{MAX_PAYLOAD_BYTES, Payload, Signed, TrustedKeys, VerifyError};
use lamplight_proto::ids::{Deployment, Digest, Hasher, Label, ModelName, NodeId};
use lamplight_proto::keys::SigningKey;
use lamplight_proto::needs::Need;
use lamplight_proto::offer::RoundOffer;
use lamplight_proto::refusal::{Reason, Refusal};
use lamplight_proto::release::ReleaseManifest;
use lamplight_proto::tag::{Tag, TagFilter};
use lamplight_proto::tls::{Address, Identity, connect};
use lamplight_proto::token::JoinToken;
use lamplight_proto::version::{ProgramVersion, VERSION_HEADER, peer_version};
use lamplight_proto::wire;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::runtime::Builder;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::memory::within;
use crate::{Answer, parts};

/// Bytes of memory per byte of a message: an empty element of a list takes two bytes, its place in
/// memory up to a hundred, and lists grow by doubling.
pub(crate) const MESSAGE: u64 = 256;
/// Bytes of memory per byte of text.
const TEXT: u64 = 16;

/// A key of this process. What it signs is believed below; the rest cannot be.
static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate().expect("the system has randomness"));

/// Bytes that travel as the payload of a `T`, whatever they are.
struct Raw<T>(Vec<u8>, PhantomData<T>);

impl<T: Payload> Payload for Raw<T> {
    const TYPE: &'static str = T::TYPE;

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(bytes.to_vec(), PhantomData))
    }

    fn to_payload(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// An envelope as a signer would make it that signs any bytes as a `T`.
pub(crate) fn sealed<T: Payload>(payload: &[u8], key: &SigningKey) -> Signed<T> {
    let raw = Signed::seal(Raw::<T>(payload.to_vec(), PhantomData), key);
    Signed::from_wire(raw.signed().to_wire())
}

/// See [`crate::TARGETS`].
pub fn envelope(input: &[u8]) -> Answer {
    let keys = TrustedKeys::new([KEY.public()]);
    let read = within(input.len(), MESSAGE, || {
        Signed::<DeltaManifest>::from_bytes(input)
    });
    let answer = Answer::of(&read);
    if let Ok(signed) = read {
        let back = Signed::from_bytes(&signed.to_bytes()).expect("what is written is read");
        assert!(back == signed);
        let error = signed.verify(&keys).expect_err("nobody signed this");
        assert!(
            !matches!(error, VerifyError::Malformed(_)),
            "{error}: parsed unsigned bytes"
        );
    }
    believed::<DeltaManifest>(input, &keys);
    believed::<ReleaseManifest>(input, &keys);
    believed::<RoundOffer>(input, &keys);
    believed::<Receipt>(input, &keys);
    answer
}

/// A signed payload is believed exactly when it parses, and is kept as it came.
fn believed<T: Payload + Debug>(payload: &[u8], keys: &TrustedKeys) {
    let signed = sealed::<T>(payload, &KEY);
    let verified = within(payload.len(), MESSAGE, || signed.clone().verify(keys));
    match (verified, T::parse(payload)) {
        (Ok(verified), Ok(_)) => {
            assert_eq!(verified.signed().payload_digest(), Digest::of(payload));
        }
        (Err(VerifyError::Malformed(_)), Err(_)) => {}
        (Err(VerifyError::TooLarge { .. }), _) if payload.len() > MAX_PAYLOAD_BYTES => {}
        (got, want) => panic!("verified as {got:?}, parsed as {want:?}"),
    }
    // The same signature over other bytes is none.
    let mut other = signed.to_wire();
    other.payload = [payload, b"\0"].concat().into();
    let forged = Signed::<T>::from_wire(other).verify(keys);
    assert!(forged.is_err(), "a longer payload is believed");
}

fn payload<T: Payload + PartialEq + Debug>(input: &[u8]) -> Answer {
    let read = within(input.len(), MESSAGE, || T::parse(input));
    let answer = Answer::of(&read);
    if let Ok(value) = read {
        let back = T::parse(&value.to_payload());
        assert_eq!(back, Ok(value), "what is written is read");
    }
    answer
}

/// See [`crate::TARGETS`].
pub fn delta_manifest(input: &[u8]) -> Answer {
    payload::<DeltaManifest>(input)
}

/// See [`crate::TARGETS`].
pub fn release_manifest(input: &[u8]) -> Answer {
    payload::<ReleaseManifest>(input)
}

/// See [`crate::TARGETS`].
pub fn round_offer(input: &[u8]) -> Answer {
    payload::<RoundOffer>(input)
}

/// See [`crate::TARGETS`].
pub fn receipt(input: &[u8]) -> Answer {
    payload::<Receipt>(input)
}

/// See [`crate::TARGETS`].
pub fn names(input: &[u8]) -> Answer {
    version(input);
    let Ok(text) = std::str::from_utf8(input) else {
        return Answer::Refused;
    };
    let any = [
        name::<Digest>(text),
        name::<NodeId>(text),
        name::<ModelName>(text),
        name::<Deployment>(text),
        name::<Label>(text),
        name::<Address>(text),
        name::<JoinToken>(text),
        name::<Tag>(text),
        name::<TagFilter>(text),
        name::<DailyWindow>(text),
        name::<Need>(text),
        name::<ProgramVersion>(text),
    ];
    if any.contains(&Answer::Accepted) {
        Answer::Accepted
    } else {
        Answer::Refused
    }
}

fn name<T>(text: &str) -> Answer
where
    T: FromStr<Err = Malformed> + Display + PartialEq + Debug,
{
    let read = within(text.len(), TEXT, || text.parse::<T>());
    let answer = Answer::of(&read);
    match read {
        Ok(value) => assert_eq!(value.to_string().parse(), Ok(value), "from {text:?}"),
        // Errors reach logs and terminals.
        Err(e) => assert!(e.to_string().len() <= 1024 + 2 * text.len(), "{e}"),
    }
    answer
}

/// The version a peer names in a header is short, whatever it sent.
fn version(input: &[u8]) {
    let Ok(value) = MetadataValue::try_from(input) else {
        return;
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(VERSION_HEADER, value);
    let shown = within(input.len(), TEXT, || peer_version(metadata.as_ref()));
    assert!(shown.chars().count() <= 32);
}

/// See [`crate::TARGETS`].
///
/// The input is the promised length (four bytes, little-endian), then messages with their lengths.
pub fn chunks(input: &[u8]) -> Answer {
    let Some((total, mut rest)) = input.split_first_chunk::<4>() else {
        return Answer::Refused;
    };
    let total = u64::from(u32::from_le_bytes(*total));
    let mut receiving = Receiving::resume(total, 0, Hasher::new());
    let mut whole = Vec::new();
    let mut all_taken = true;
    while !rest.is_empty() {
        let before = receiving.received();
        let taken = within(rest.len(), MESSAGE, || {
            let chunk = wire::Chunk::decode_length_delimited(&mut rest).ok()?;
            Some(receiving.take(chunk))
        });
        let Some(taken) = taken else { break };
        match taken {
            Ok(data) => {
                assert!(!data.is_empty() && data.len() <= CHUNK_BYTES);
                whole.extend_from_slice(&data);
            }
            Err(_) => all_taken = false,
        }
        assert!(before <= receiving.received() && receiving.received() <= total);
        assert_eq!(receiving.received(), whole.len() as u64);
    }
    let complete = receiving.is_complete();
    assert_eq!(receiving.finish(), Digest::of(&whole));
    if complete && all_taken {
        Answer::Accepted
    } else {
        Answer::Refused
    }
}

/// See [`crate::TARGETS`].
pub fn refusal(input: &[u8]) -> Answer {
    let details = Bytes::copy_from_slice(input);
    let status = Status::with_details(Code::InvalidArgument, "refused", details);
    let read = within(input.len(), MESSAGE, || Refusal::in_status(&status));
    let Some(refusal) = read else {
        return Answer::Refused;
    };
    assert!(!refusal.name().is_empty());
    // Of a reason that a newer peer has, only the message is known.
    if refusal.reason != Reason::Unspecified {
        let back = Refusal::in_status(&Status::from(refusal.clone()));
        assert_eq!(back, Some(refusal));
    }
    Answer::Accepted
}

/// See [`crate::TARGETS`].
///
/// The input's files are `tls.crt`, `tls.key` and `ca.crt`.
pub fn identity(input: &[u8]) -> Answer {
    let [certificate, key, authority] = parts::split(input);
    let dir = parts::directory(&[
        ("tls.crt", certificate),
        ("tls.key", key),
        ("ca.crt", authority),
    ]);
    parts::private(&dir.path().join("tls.key"));
    let read = within(input.len(), TEXT, || Identity::read(dir.path()));
    let answer = Answer::of(&read);
    if let Ok(identity) = read {
        // Sets TLS up, which takes certificate and key apart or refuses them, and sends nothing: the
        // runtime that would connect never runs.
        let runtime = Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime without drivers needs nothing");
        let _here = runtime.enter();
        let address: Address = "localhost:1".parse().expect("an address");
        within(input.len(), TEXT, || connect(&address, &identity).is_ok());
    }
    answer
}
