//! One version of the protocol as descriptors: what it reads in a message, and what it drops.

use std::{
    collections::BTreeSet,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use lamplight_proto::{
    DESCRIPTOR, Malformed,
    delta::{DeltaManifest, Receipt},
    envelope::{Payload, Signed},
    ids::Digest,
    keys::SigningKey,
    offer::RoundOffer,
    release::ReleaseManifest,
    version::VERSION,
    wire,
};
use prost::{DecodeError, Message as _};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::{Map, Value as Json};

use crate::tape;

/// The message that carries signed payloads.
pub const ENVELOPE: &str = "lamplight.v1.Envelope";

/// Bytes fields up to this length are shown whole: digests, keys, leases, signatures.
const SHOWN_BYTES: usize = 64;

/// The message inside an envelope of this type.
#[must_use]
pub fn payload_message(payload_type: &str) -> Option<&'static str> {
    Some(match payload_type {
        RoundOffer::TYPE => "lamplight.v1.RoundOffer",
        DeltaManifest::TYPE => "lamplight.v1.DeltaManifest",
        Receipt::TYPE => "lamplight.v1.Receipt",
        ReleaseManifest::TYPE => "lamplight.v1.ReleaseManifest",
        _ => return None,
    })
}

/// A version whose protocol and conversations are kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frozen {
    /// Major and minor number.
    pub version: (u32, u32),
    /// Where it lies.
    pub dir: PathBuf,
}

/// Where frozen versions lie.
#[must_use]
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The protocol's sources as they are today.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")
}

/// Major and minor number of this build.
#[must_use]
pub fn this_version() -> (u32, u32) {
    let mut parts = VERSION.split('.').map(|p| p.parse().expect("a number"));
    (parts.next().expect("major"), parts.next().expect("minor"))
}

impl Frozen {
    /// Every frozen version, oldest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(golden()).expect("proto/tests/golden is readable");
        let mut all: Vec<Self> = entries
            .map(|entry| entry.expect("proto/tests/golden is readable").path())
            .filter_map(|dir| {
                let name = dir.file_name()?.to_str()?.strip_prefix('v')?;
                let (major, minor) = name.split_once('.')?;
                let version = (major.parse().ok()?, minor.parse().ok()?);
                Some(Self { version, dir })
            })
            .collect();
        all.sort();
        all
    }

    /// The version before this build's: the oldest peer that must still be understood. Before this
    /// build's version has a successor, that is the newest one there is.
    #[must_use]
    pub fn previous() -> Self {
        let mut all = Self::all();
        let before: Vec<Self> = (all.iter())
            .filter(|f| f.version < this_version())
            .cloned()
            .collect();
        let found = before.last().cloned().or_else(|| all.pop());
        found.expect("proto/tests/golden holds a frozen version")
    }

    /// As headers name it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}.0", self.version.0, self.version.1)
    }

    /// Every header of the contract that its coordinator answered with, by its recording.
    #[must_use]
    pub fn answer_headers(&self) -> BTreeSet<String> {
        let calls = tape::read(&self.dir.join(tape::FILE));
        calls
            .into_iter()
            .flat_map(|c| c.answer.into_keys())
            .collect()
    }

    /// Its protocol.
    #[must_use]
    pub fn schema(&self) -> Schema {
        Schema::compile(&self.dir.join("proto"))
    }
}

/// One version of the protocol.
#[derive(Debug, Clone)]
pub struct Schema(DescriptorPool);

/// A message as a version understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Narrowed {
    /// The message, without what the version does not know.
    pub message: DynamicMessage,
    /// What was dropped, as `message.number`.
    pub dropped: Vec<String>,
}

impl Schema {
    /// Compiles the `.proto` files under a directory.
    ///
    /// # Panics
    /// When there are none, or they do not compile.
    #[must_use]
    pub fn compile(root: &Path) -> Self {
        let dir = root.join("lamplight/v1");
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.extension().is_some_and(|e| e == "proto"))
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} holds no .proto file", dir.display());
        let set = protox::compile(files, [root]).unwrap_or_else(|e| panic!("{e}"));
        Self(DescriptorPool::from_file_descriptor_set(set).expect("protox made it"))
    }

    /// The protocol of this build, as it is served by reflection.
    ///
    /// # Panics
    /// When the build is broken.
    #[must_use]
    pub fn today() -> Self {
        Self(DescriptorPool::decode(DESCRIPTOR).expect("the build made it"))
    }

    /// The descriptors.
    #[must_use]
    pub fn pool(&self) -> &DescriptorPool {
        &self.0
    }

    /// A message's descriptor, if the version has the message.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.0.get_message_by_name(name)
    }

    /// The paths of all calls, e.g. `/lamplight.v1.Rounds/Poll`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let methods = self.0.services().flat_map(|s| {
            let name = s.full_name().to_owned();
            let paths: Vec<String> = s
                .methods()
                .map(|m| format!("/{name}/{}", m.name()))
                .collect();
            paths
        });
        methods.collect()
    }

    /// The call at a path, if the version has it.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = self.0.get_service_by_name(service)?;
        service.methods().find(|m| m.name() == method)
    }

    /// Reads a message as this version would: what it does not know is gone. Payloads inside
    /// envelopes stay as they are.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn narrow(&self, of: &MessageDescriptor, bytes: &[u8]) -> Result<Narrowed, DecodeError> {
        let mut message = DynamicMessage::decode(of.clone(), bytes)?;
        let mut dropped = Vec::new();
        drop_unknown(&mut message, &mut dropped);
        Ok(Narrowed { message, dropped })
    }

    /// Reads the payload of an envelope as this version would.
    ///
    /// # Panics
    /// When the payload's type is none of this contract, or its bytes are no such message.
    #[must_use]
    pub fn narrow_payload(&self, payload_type: &str, payload: &[u8]) -> Narrowed {
        let name = payload_message(payload_type)
            .unwrap_or_else(|| panic!("{payload_type} is no payload of the contract"));
        let of = self.message(name).expect("every version has the payloads");
        self.narrow(&of, payload)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// What a version would have put into the envelopes of a message: payloads without what it does
    /// not know, signed anew by `key` where that changes them. Envelopes signed by others stay.
    /// Answers what was dropped.
    pub fn reseal(&self, message: &mut DynamicMessage, key: &SigningKey) -> Vec<String> {
        let mut dropped = Vec::new();
        each_message(message, &mut |m| {
            if m.descriptor().full_name() != ENVELOPE {
                return;
            }
            let envelope: wire::Envelope = m.transcode_to().expect("an envelope");
            let signed_by_key = envelope
                .signatures
                .iter()
                .any(|s| hex::encode(&s.key_id) == key.id().to_string());
            if !signed_by_key {
                return;
            }
            let narrowed = self.narrow_payload(&envelope.payload_type, &envelope.payload);
            if narrowed.dropped.is_empty() {
                return;
            }
            let resealed = seal(
                &envelope.payload_type,
                narrowed.message.encode_to_vec(),
                key,
            );
            m.transcode_from(&resealed).expect("an envelope");
            dropped.extend(narrowed.dropped);
        });
        dropped
    }

    /// A message as JSON, for people and for comparison: set fields only, by name; long bytes as
    /// length and digest; what an envelope carries, opened. Fields the version does not know are
    /// listed by number under `unknown`.
    ///
    /// # Panics
    /// When the bytes are no such message.
    #[must_use]
    pub fn read(&self, of: &MessageDescriptor, bytes: &[u8]) -> Json {
        let message = DynamicMessage::decode(of.clone(), bytes)
            .unwrap_or_else(|e| panic!("{}: {e}", of.full_name()));
        self.shown(&message)
    }

    fn shown(&self, message: &DynamicMessage) -> Json {
        let mut out = Map::new();
        for (field, value) in message.fields() {
            out.insert(field.name().to_owned(), self.value(&field, value));
        }
        let unknown: Vec<Json> = message
            .unknown_fields()
            .map(|f| f.number().into())
            .collect();
        if !unknown.is_empty() {
            out.insert("unknown".to_owned(), unknown.into());
        }
        if message.descriptor().full_name() == ENVELOPE {
            let envelope: wire::Envelope = message.transcode_to().expect("an envelope");
            if let Some(of) =
                payload_message(&envelope.payload_type).and_then(|name| self.message(name))
            {
                out.insert("payload".to_owned(), self.read(&of, &envelope.payload));
            }
        }
        Json::Object(out)
    }

    fn value(&self, field: &FieldDescriptor, value: &Value) -> Json {
        match value {
            Value::Bool(v) => (*v).into(),
            Value::I32(v) => (*v).into(),
            Value::I64(v) => (*v).into(),
            Value::U32(v) => (*v).into(),
            Value::U64(v) => (*v).into(),
            Value::F32(v) => f64::from(*v).into(),
            Value::F64(v) => (*v).into(),
            Value::String(v) => v.as_str().into(),
            Value::Bytes(v) if v.len() <= SHOWN_BYTES => hex::encode(v).into(),
            Value::Bytes(v) => format!("{} bytes, sha256 {}", v.len(), Digest::of(v)).into(),
            Value::EnumNumber(n) => match field.kind() {
                Kind::Enum(of) => of
                    .get_value(*n)
                    .map_or_else(|| (*n).into(), |v| v.name().into()),
                _ => (*n).into(),
            },
            Value::Message(m) => self.shown(m),
            Value::List(list) => list.iter().map(|v| self.value(field, v)).collect(),
            Value::Map(map) => {
                let entries = map
                    .iter()
                    .map(|(k, v)| (format!("{k:?}"), format!("{v:?}")));
                // In order: a hash map has none.
                let sorted: std::collections::BTreeMap<_, _> = entries.collect();
                sorted
                    .into_iter()
                    .map(|(k, v)| (k, Json::String(v)))
                    .collect()
            }
        }
    }
}

/// Shows a message and every message inside it, outermost first.
fn each_message(message: &mut DynamicMessage, act: &mut dyn FnMut(&mut DynamicMessage)) {
    act(message);
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(m) => each_message(m, act),
            Value::List(list) => {
                for value in list {
                    if let Value::Message(m) = value {
                        each_message(m, act);
                    }
                }
            }
            Value::Map(map) => {
                for value in map.values_mut() {
                    if let Value::Message(m) = value {
                        each_message(m, act);
                    }
                }
            }
            _ => {}
        }
    }
}

fn drop_unknown(message: &mut DynamicMessage, dropped: &mut Vec<String>) {
    each_message(message, &mut |m| {
        let name = m.descriptor().full_name().to_owned();
        let gone = m.take_unknown_fields();
        dropped.extend(gone.map(|f| format!("{name}.{}", f.number())));
    });
}

/// A payload as raw bytes, to be signed exactly as they are.
struct Bare<T>(Vec<u8>, PhantomData<fn() -> T>);

impl<T: Payload> Payload for Bare<T> {
    const TYPE: &'static str = T::TYPE;
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        T::parse(bytes)?;
        Ok(Self(bytes.to_vec(), PhantomData))
    }
    fn to_payload(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// Signs these very bytes as a payload of this type.
///
/// # Panics
/// When the type is none of this contract.
#[must_use]
pub fn seal(payload_type: &str, payload: Vec<u8>, key: &SigningKey) -> wire::Envelope {
    fn of<T: Payload>(payload: Vec<u8>, key: &SigningKey) -> wire::Envelope {
        let bare = Bare::<T>(payload, PhantomData);
        Signed::seal(bare, key).signed().to_wire()
    }
    match payload_type {
        RoundOffer::TYPE => of::<RoundOffer>(payload, key),
        DeltaManifest::TYPE => of::<DeltaManifest>(payload, key),
        Receipt::TYPE => of::<Receipt>(payload, key),
        ReleaseManifest::TYPE => of::<ReleaseManifest>(payload, key),
        other => panic!("{other} is no payload of the contract"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_proto::envelope::TrustedKeys;

    /// Field 9999 as a newer program would write it: a string.
    fn newer(mut bytes: Vec<u8>) -> Vec<u8> {
        prost::encoding::string::encode(9999, &"news".to_owned(), &mut bytes);
        bytes
    }

    fn receipt() -> wire::Receipt {
        wire::Receipt {
            deployment: "fleet".into(),
            round: 3,
            node_id: "node-1".into(),
            manifest_digest: vec![1; 32].into(),
            delta_digest: vec![2; 32].into(),
            counter: 4,
            accepted_unix_ms: 5,
        }
    }

    #[test]
    fn what_a_version_does_not_know_is_dropped_at_every_depth_and_named() {
        let schema = Frozen::previous().schema();
        let known = wire::RoundView {
            round: 7,
            participants: vec![wire::ParticipantView {
                name: "a".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        // The view of a participant, inside a repeated field, inside the round's.
        let inner = newer(known.participants[0].encode_to_vec());
        let mut bytes = wire::RoundView {
            participants: vec![],
            ..known.clone()
        }
        .encode_to_vec();
        prost::encoding::bytes::encode(12, &inner, &mut bytes);
        let bytes = newer(bytes);

        let of = schema.message("lamplight.v1.RoundView").expect("known");
        let mut narrowed = schema.narrow(&of, &bytes).expect("a view");
        narrowed.dropped.sort();
        assert_eq!(
            narrowed.dropped,
            [
                "lamplight.v1.ParticipantView.9999",
                "lamplight.v1.RoundView.9999"
            ]
        );
        assert_eq!(narrowed.message.encode_to_vec(), known.encode_to_vec());
        // Read without narrowing, what is unknown shows.
        assert_eq!(schema.read(&of, &bytes)["unknown"][0], 9999);
    }

    #[test]
    fn an_envelope_of_the_key_is_signed_anew_without_what_is_unknown_others_stay() {
        let schema = Frozen::previous().schema();
        let (key, stranger) = (
            SigningKey::generate().expect("randomness"),
            SigningKey::generate().expect("randomness"),
        );
        let of = schema
            .message("lamplight.v1.CommitDeltaReply")
            .expect("known");
        let aged = |signer: &SigningKey| {
            let envelope = seal(Receipt::TYPE, newer(receipt().encode_to_vec()), signer);
            let reply = wire::CommitDeltaReply {
                receipt: Some(envelope.clone()),
            };
            let narrowed = schema.narrow(&of, &reply.encode_to_vec());
            let mut message = narrowed.expect("a reply").message;
            let dropped = schema.reseal(&mut message, &key);
            let reply: wire::CommitDeltaReply = message.transcode_to().expect("a reply");
            (envelope, reply.receipt.expect("a receipt"), dropped)
        };
        let (_, after, dropped) = aged(&key);
        assert_eq!(dropped, ["lamplight.v1.Receipt.9999"]);
        assert_eq!(after.payload, receipt().encode_to_vec());
        Signed::<Receipt>::from_wire(after)
            .verify(&TrustedKeys::new([key.public()]))
            .expect("a good signature");

        let (before, after, dropped) = aged(&stranger);
        assert_eq!((before, dropped.len()), (after, 0));
    }

    #[test]
    fn the_previous_version_is_the_newest_before_this_one() {
        let previous = Frozen::previous();
        assert!(previous.version <= this_version());
        let between = |f: &Frozen| previous.version < f.version && f.version < this_version();
        assert!(!Frozen::all().iter().any(between));
    }
}
