//! What a capture holds, field by field, and whether anything in it should not be there.

use std::collections::{BTreeMap, BTreeSet};

use lamplight_proto::ids::Digest;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value,
};

use crate::{
    canaries::Canaries,
    list::{self, signed_by_nodes},
    relay::{Capture, Message},
};

/// What `doctor` asks, by the standard protocol.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Something that should not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The call, or the connection.
    pub(crate) place: String,
    /// The field or header; empty where bytes as they passed were searched.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) what: String,
}

/// A capture, read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// How often each call was made.
    pub(crate) calls: BTreeMap<String, usize>,
    /// Fields that were sent, as `Message.field`.
    pub(crate) fields: BTreeSet<String>,
    /// Headers that were sent.
    pub(crate) headers: BTreeSet<String>,
    /// Every value of a field or header.
    values: Vec<Place>,
    /// Uploads put together from their chunks, by the digest of their manifest.
    pub(crate) uploads: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Payload of every manifest, by its digest.
    pub(crate) manifests: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Causes told.
    pub(crate) causes: BTreeSet<String>,
    /// Messages that are not what the protocol says.
    faults: Vec<Finding>,
}

/// A value and where it was seen.
#[derive(Debug)]
struct Place {
    call: String,
    field: String,
    bytes: Vec<u8>,
}

/// Reads all messages.
pub(crate) fn read(capture: &Capture) -> Reading {
    let pool = list::protocol();
    let mut reading = Reading::default();
    for message in &capture.messages {
        reading.message(&pool, message);
    }
    reading
}

/// Reads a capture and looks for what should not be there: canaries, and fields, headers or encodings
/// that `docs/egress.md` does not list.
pub(crate) fn judge(capture: &Capture, canaries: &Canaries) -> Result<Reading, Vec<Finding>> {
    let reading = read(capture);
    let mut findings = reading.faults.clone();
    let (fields, headers) = (list::fields(), list::headers());
    for unlisted in reading.fields.difference(&fields) {
        findings.push(Finding {
            place: "some message".to_owned(),
            field: unlisted.clone(),
            what: "not listed in docs/egress.md".to_owned(),
        });
    }
    for unlisted in reading.headers.difference(&headers) {
        findings.push(Finding {
            place: "some request".to_owned(),
            field: unlisted.clone(),
            what: "not listed in docs/egress.md".to_owned(),
        });
    }
    let mut search = |place: &str, field: &str, bytes: &[u8]| {
        findings.extend(canaries.find(bytes).into_iter().map(|seen| Finding {
            place: place.to_owned(),
            field: field.to_owned(),
            what: seen.what,
        }));
    };
    // 1. Value by value, so that a finding names its field.
    for value in &reading.values {
        search(&value.call, &value.field, &value.bytes);
    }
    // 2. Deltas whole: chunks end anywhere.
    for (id, delta) in &reading.uploads {
        let place = format!("the delta of manifest {}", hex::encode(id));
        for (field, bytes) in parts(delta) {
            search(&place, &field, bytes);
        }
        search(&place, "", delta);
    }
    // 3. All bytes as they passed, whatever they mean: frames of HTTP/2 that are no request, the
    //    handshake of TLS.
    for message in &capture.messages {
        search(&message.path, "", &message.body);
    }
    for (n, connection) in capture.connections.iter().enumerate() {
        search(
            &format!("connection {n}, within TLS"),
            "",
            &connection.plain,
        );
        search(
            &format!("connection {n}, on the wire"),
            "",
            &connection.wire,
        );
    }
    if findings.is_empty() {
        Ok(reading)
    } else {
        Err(findings)
    }
}

/// Header and tensors of a delta file, where it is one.
fn parts(delta: &[u8]) -> Vec<(String, &[u8])> {
    let header = || {
        let length = u64::from_le_bytes(delta.get(..8)?.try_into().ok()?);
        let end = usize::try_from(length).ok()?.checked_add(8)?;
        let text = delta.get(8..end)?;
        let json: serde_json::Value = serde_json::from_slice(text).ok()?;
        Some((text, json.as_object()?.clone(), delta.get(end..)?))
    };
    let Some((text, entries, data)) = header() else {
        return Vec::new();
    };
    let mut parts = vec![("the delta's header".to_owned(), text)];
    for (name, entry) in entries {
        let offset = |n: usize| usize::try_from(entry["data_offsets"][n].as_u64()?).ok();
        if let (Some(from), Some(to)) = (offset(0), offset(1))
            && let Some(bytes) = data.get(from..to)
        {
            parts.push((format!("tensor {name}"), bytes));
        }
    }
    parts
}

impl Reading {
    fn fault(&mut self, place: &str, what: impl ToString) {
        self.faults.push(Finding {
            place: place.to_owned(),
            field: String::new(),
            what: what.to_string(),
        });
    }

    fn message(&mut self, pool: &DescriptorPool, message: &Message) {
        let call = message.path.trim_start_matches("/lamplight.v1.").to_owned();
        *self.calls.entry(call.clone()).or_default() += 1;
        for (name, value) in &message.headers {
            self.headers.insert(name.clone());
            self.values.push(Place {
                call: call.clone(),
                field: name.clone(),
                bytes: value.clone(),
            });
            if name == "grpc-encoding" {
                self.fault(&call, "the messages are compressed");
            }
        }
        if message.path == HEALTH {
            // A frame around nothing.
            if !message.body.is_empty() && message.body != [0; 5] {
                self.fault(&call, "the question after health is not empty");
            }
            return;
        }
        let input = pool.services().find_map(|service| {
            let method = service
                .methods()
                .find(|m| message.path == format!("/{}/{}", service.full_name(), m.name()))?;
            Some(method.input())
        });
        let Some(input) = input else {
            self.fault(&call, "this is no call of the protocol");
            return;
        };
        let mut rest = &message.body[..];
        while let Some((head, behind)) = rest.split_at_checked(5) {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            if head[0] != 0 {
                self.fault(&call, "a message is compressed");
            }
            let length = usize::try_from(length).expect("32 bits");
            // A message cut off by a lost connection is searched as it passed.
            let Some((body, behind)) = behind.split_at_checked(length) else {
                break;
            };
            self.decode(pool, &call, input.clone(), body);
            rest = behind;
        }
    }

    fn decode(&mut self, pool: &DescriptorPool, call: &str, of: MessageDescriptor, bytes: &[u8]) {
        match DynamicMessage::decode(of.clone(), bytes) {
            Ok(message) => {
                if of.name() == "UploadRequest" {
                    self.chunk(&message);
                }
                self.walk(pool, call, &message);
            }
            Err(e) => self.fault(call, format!("no {}: {e}", of.name())),
        }
    }

    fn walk(&mut self, pool: &DescriptorPool, call: &str, message: &DynamicMessage) {
        let of = message.descriptor();
        for unknown in message.unknown_fields() {
            let what = format!("{} has an unknown field {}", of.name(), unknown.number());
            self.fault(call, what);
        }
        for (field, value) in message.fields() {
            let name = format!("{}.{}", of.name(), field.name());
            self.fields.insert(name.clone());
            let single = std::slice::from_ref(value);
            for value in value.as_list().unwrap_or(single) {
                self.value(pool, call, &name, value);
            }
        }
        if of.name() == "Envelope" {
            self.envelope(pool, call, message);
        }
    }

    fn value(&mut self, pool: &DescriptorPool, call: &str, field: &str, value: &Value) {
        let bytes = match value {
            Value::Message(inner) => return self.walk(pool, call, inner),
            Value::String(text) => text.as_bytes().to_vec(),
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::F64(v) => v.to_le_bytes().to_vec(),
            Value::F32(v) => v.to_le_bytes().to_vec(),
            Value::U64(v) => v.to_le_bytes().to_vec(),
            Value::I64(v) => v.to_le_bytes().to_vec(),
            Value::U32(v) => v.to_le_bytes().to_vec(),
            Value::I32(v) => v.to_le_bytes().to_vec(),
            Value::Bool(v) => vec![u8::from(*v)],
            Value::EnumNumber(n) => {
                if field.ends_with(".cause") {
                    let cause = lamplight_proto::cause::Cause::try_from(*n);
                    let name = cause.map_or_else(|_| n.to_string(), |c| c.name());
                    self.causes.insert(name);
                }
                n.to_le_bytes().to_vec()
            }
            other => {
                self.fault(
                    call,
                    format!("{field} is a {other:?}, which nobody searches"),
                );
                return;
            }
        };
        self.values.push(Place {
            call: call.to_owned(),
            field: field.to_owned(),
            bytes,
        });
    }

    /// What is signed is bytes; what they say is a message, too.
    fn envelope(&mut self, pool: &DescriptorPool, call: &str, envelope: &DynamicMessage) {
        let text = |name: &str| envelope.get_field_by_name(name).map(|v| v.into_owned());
        let (Some(Value::String(of)), Some(Value::Bytes(payload))) =
            (text("payload_type"), text("payload"))
        else {
            self.fault(call, "an envelope is no envelope");
            return;
        };
        let Some(inner) = signed_by_nodes(pool, &of) else {
            self.fault(
                call,
                format!("an envelope holds {of:?}, which nodes do not sign"),
            );
            return;
        };
        let id = Digest::of(&payload).as_bytes().to_vec();
        self.manifests.insert(id, payload.to_vec());
        self.decode(pool, call, inner, &payload);
    }

    fn chunk(&mut self, request: &DynamicMessage) {
        let field =
            |m: &DynamicMessage, name: &str| m.get_field_by_name(name).map(|v| v.into_owned());
        let (Some(Value::Bytes(id)), Some(Value::Message(chunk))) =
            (field(request, "upload_id"), field(request, "chunk"))
        else {
            return;
        };
        let (Some(Value::U64(offset)), Some(Value::Bytes(data))) =
            (field(&chunk, "offset"), field(&chunk, "data"))
        else {
            return;
        };
        let whole = self.uploads.entry(id.to_vec()).or_default();
        let from = usize::try_from(offset).expect("a small delta");
        let to = from + data.len();
        if whole.len() < to {
            whole.resize(to, 0);
        }
        whole[from..to].copy_from_slice(&data);
    }
}
