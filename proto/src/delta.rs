//! What a node signs about its delta, and what the coordinator signs back.

use prost::Message as _;
use prost::bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Malformed,
    chunk::CHUNK_BYTES,
    envelope::Payload,
    ids::{Deployment, Digest, Lease, NodeId, RoundId, UnixMillis},
    offer::{Codec, clip},
    wire,
};

/// Tensors a delta may have.
pub const MAX_TENSORS: usize = 20_000;
/// Dimensions a tensor may have.
pub const MAX_DIMENSIONS: usize = 8;
/// Bytes of a tensor's name.
pub const MAX_NAME_BYTES: usize = 256;

/// A tensor's name and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Full parameter name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<u64>,
}

/// How good a model was on some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// How many.
    pub samples: u64,
    /// Mean cross entropy, in nats.
    pub loss: f64,
    /// Share classified as labelled, in 0..=1.
    pub accuracy: f64,
}

impl TryFrom<wire::Metrics> for Metrics {
    type Error = Malformed;
    fn try_from(m: wire::Metrics) -> Result<Self, Malformed> {
        if !(0.0..=1.0).contains(&m.accuracy) {
            return Err(Malformed::new(
                "metrics",
                format!("accuracy is {}, must be 0 to 1", m.accuracy),
            ));
        }
        if !m.loss.is_finite() || m.loss < 0.0 {
            return Err(Malformed::new(
                "metrics",
                format!("loss is {}, must be finite and not negative", m.loss),
            ));
        }
        Ok(Self {
            samples: m.samples,
            loss: m.loss,
            accuracy: m.accuracy,
        })
    }
}

impl From<Metrics> for wire::Metrics {
    fn from(m: Metrics) -> Self {
        Self {
            samples: m.samples,
            loss: m.loss,
            accuracy: m.accuracy,
        }
    }
}

/// The manifest of a delta. Binds it to deployment, round, base, node, lease and content.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaManifest {
    /// The fleet.
    pub deployment: Deployment,
    /// The round.
    pub round: RoundId,
    /// Window of the round.
    pub window: u32,
    /// The model file the node trained from.
    pub base_digest: Digest,
    /// The node.
    pub node_id: NodeId,
    /// Rises with every delta the node signs.
    pub counter: u64,
    /// From the offer.
    pub lease: Lease,
    /// When the delta is worthless.
    pub expires: UnixMillis,
    /// What is inside, sorted by name.
    pub tensors: Vec<TensorEntry>,
    /// How values are written.
    pub codec: Codec,
    /// Bytes of the delta file.
    pub size: u64,
    /// SHA-256 of the delta file.
    pub digest: Digest,
    /// SHA-256 of each chunk of [`CHUNK_BYTES`].
    pub chunk_digests: Vec<Digest>,
    /// Samples the node trained on.
    pub sample_count: u64,
    /// On the node's held-out samples, before fine-tuning.
    pub before: Option<Metrics>,
    /// On the node's held-out samples, after fine-tuning.
    pub after: Option<Metrics>,
    /// Wall time of training.
    pub training_seconds: f64,
    /// Version of the agent.
    pub agent_version: String,
    /// Samples of classes that the base does not have. Their classes stay on the node.
    pub samples_aside: u64,
}

impl Payload for DeltaManifest {
    const TYPE: &'static str = "lamplight.delta-manifest.v1";

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("delta manifest", fault);
        let m = wire::DeltaManifest::decode(bytes).map_err(|e| bad(e.to_string()))?;
        if m.tensors.is_empty() || m.tensors.len() > MAX_TENSORS {
            return Err(bad(format!(
                "{} tensors, must be 1 to {MAX_TENSORS}",
                m.tensors.len()
            )));
        }
        for t in &m.tensors {
            if t.name.is_empty() || t.name.len() > MAX_NAME_BYTES || t.shape.len() > MAX_DIMENSIONS
            {
                return Err(bad(format!(
                    "tensor {:?}: a name has 1 to {MAX_NAME_BYTES} bytes, a shape at most \
                     {MAX_DIMENSIONS} dimensions",
                    clip(&t.name)
                )));
            }
        }
        if let Some(w) = m.tensors.windows(2).find(|w| w[0].name >= w[1].name) {
            return Err(bad(format!(
                "tensors are not sorted by name without repetition at {:?}",
                clip(&w[1].name)
            )));
        }
        let chunks = m.size.div_ceil(CHUNK_BYTES as u64);
        if m.size == 0 || m.chunk_digests.len() as u64 != chunks {
            return Err(bad(format!(
                "{} bytes make {chunks} chunks of at most {CHUNK_BYTES}, {} digests are given",
                m.size,
                m.chunk_digests.len()
            )));
        }
        if m.sample_count == 0 {
            return Err(bad("sample_count is 0".into()));
        }
        if !m.training_seconds.is_finite() || m.training_seconds < 0.0 {
            return Err(bad(format!("training_seconds is {}", m.training_seconds)));
        }
        // It reaches logs and terminals.
        if m.agent_version.len() > 64 || !m.agent_version.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad(format!(
                "agent_version {:?} must have at most 64 bytes of visible ASCII",
                clip(&m.agent_version)
            )));
        }
        Ok(Self {
            deployment: m.deployment.parse()?,
            round: RoundId(m.round),
            window: m.window,
            base_digest: Digest::try_from(&m.base_digest[..])?,
            node_id: m.node_id.parse()?,
            counter: m.counter,
            lease: Lease::try_from(&m.lease[..])?,
            expires: UnixMillis(m.expires_unix_ms),
            tensors: m
                .tensors
                .into_iter()
                .map(|t| TensorEntry {
                    name: t.name,
                    shape: t.shape,
                })
                .collect(),
            codec: Codec::parse("delta manifest", &m.codec)?,
            size: m.size,
            digest: Digest::try_from(&m.digest[..])?,
            chunk_digests: m
                .chunk_digests
                .iter()
                .map(|d| Digest::try_from(&d[..]))
                .collect::<Result<_, _>>()?,
            sample_count: m.sample_count,
            before: m.before.map(Metrics::try_from).transpose()?,
            after: m.after.map(Metrics::try_from).transpose()?,
            training_seconds: m.training_seconds,
            agent_version: m.agent_version,
            samples_aside: m.samples_aside,
        })
    }

    fn to_payload(&self) -> Vec<u8> {
        wire::DeltaManifest {
            deployment: self.deployment.to_string(),
            round: self.round.0,
            window: self.window,
            base_digest: self.base_digest.to_bytes(),
            node_id: self.node_id.to_string(),
            counter: self.counter,
            lease: Bytes::copy_from_slice(&self.lease.0),
            expires_unix_ms: self.expires.0,
            tensors: self
                .tensors
                .iter()
                .map(|t| wire::TensorEntry {
                    name: t.name.clone(),
                    shape: t.shape.clone(),
                })
                .collect(),
            codec: self.codec.to_string(),
            size: self.size,
            digest: self.digest.to_bytes(),
            chunk_digests: self.chunk_digests.iter().map(|d| d.to_bytes()).collect(),
            sample_count: self.sample_count,
            before: self.before.map(Into::into),
            after: self.after.map(Into::into),
            training_seconds: self.training_seconds,
            agent_version: self.agent_version.clone(),
            samples_aside: self.samples_aside,
        }
        .encode_to_vec()
    }
}

/// The coordinator's signed word that it keeps a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The fleet.
    pub deployment: Deployment,
    /// The round.
    pub round: RoundId,
    /// Whose delta.
    pub node_id: NodeId,
    /// SHA-256 of the manifest's payload as received.
    pub manifest_digest: Digest,
    /// SHA-256 of the delta file.
    pub delta_digest: Digest,
    /// From the manifest.
    pub counter: u64,
    /// When.
    pub accepted: UnixMillis,
}

impl Payload for Receipt {
    const TYPE: &'static str = "lamplight.receipt.v1";

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let r =
            wire::Receipt::decode(bytes).map_err(|e| Malformed::new("receipt", e.to_string()))?;
        Ok(Self {
            deployment: r.deployment.parse()?,
            round: RoundId(r.round),
            node_id: r.node_id.parse()?,
            manifest_digest: Digest::try_from(&r.manifest_digest[..])?,
            delta_digest: Digest::try_from(&r.delta_digest[..])?,
            counter: r.counter,
            accepted: UnixMillis(r.accepted_unix_ms),
        })
    }

    fn to_payload(&self) -> Vec<u8> {
        wire::Receipt {
            deployment: self.deployment.to_string(),
            round: self.round.0,
            node_id: self.node_id.to_string(),
            manifest_digest: self.manifest_digest.to_bytes(),
            delta_digest: self.delta_digest.to_bytes(),
            counter: self.counter,
            accepted_unix_ms: self.accepted.0,
        }
        .encode_to_vec()
    }
}
