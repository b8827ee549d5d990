//! What the coordinator signs about a release: enough to recompute its bytes.

use prost::Message as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Malformed,
    delta::Metrics,
    envelope::Payload,
    ids::{Deployment, Digest, ModelName, ModelVersion, NodeId, RoundId, UnixMillis},
    offer::{MAX_MODEL_BYTES, Trainable, clip},
    wire,
};

/// Deltas one release may be made of.
pub const MAX_CONTRIBUTIONS: usize = 100_000;

/// How the deltas of a round become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Mean weighted by sample count (McMahan et al. 2017, algorithm 1), in fixed point.
    FedAvg,
}

impl Rule {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FedAvg => "fedavg",
        }
    }
}

/// One delta in a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contribution {
    /// Whose.
    pub node_id: NodeId,
    /// SHA-256 of the delta file.
    pub delta_digest: Digest,
    /// SHA-256 of the signed manifest's payload.
    pub manifest_digest: Digest,
    /// Sample count, capped.
    pub weight: u64,
    /// What clipping multiplied the delta by, in (0, 1].
    pub clip_factor: f64,
}

/// What a release was made from and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// The round.
    pub round: RoundId,
    /// The release it started from.
    pub base_version: ModelVersion,
    /// SHA-256 of that release's file.
    pub base_digest: Digest,
    /// SHA-256 of what quantizing the base rounded away.
    pub base_carry_digest: Option<Digest>,
    /// Aggregation rule.
    pub rule: Rule,
    /// L2 bound of a delta.
    pub clip_norm: Option<f64>,
    /// Bound of a delta's weight.
    pub weight_cap: u64,
    /// Binary digits after the point in the sum.
    pub fixed_point_bits: u32,
    /// In order of node id.
    pub contributions: Vec<Contribution>,
    /// Which parameters moved.
    #[serde(default)]
    pub trainable: Trainable,
}

/// A release, signed by the release key.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ReleaseManifest {
    /// The fleet.
    pub deployment: Deployment,
    /// The model.
    pub model: ModelName,
    /// Only ever rises.
    pub version: ModelVersion,
    /// SHA-256 of the GGUF file.
    pub digest: Digest,
    /// Bytes of the GGUF file.
    pub size: u64,
    /// Absent when an operator pushed the release.
    pub provenance: Option<Provenance>,
    /// SHA-256 of what quantizing this release rounded away.
    pub carry_digest: Option<Digest>,
    /// When it was made.
    pub created: UnixMillis,
    /// On the operator's evaluation samples.
    pub evaluation: Option<Metrics>,
}

fn optional_digest(bytes: &[u8]) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        Digest::try_from(bytes).map(Some)
    }
}

fn digest_bytes(digest: Option<Digest>) -> prost::bytes::Bytes {
    digest.map(Digest::to_bytes).unwrap_or_default()
}

impl TryFrom<wire::Contribution> for Contribution {
    type Error = Malformed;
    fn try_from(c: wire::Contribution) -> Result<Self, Malformed> {
        if c.weight == 0 || !(c.clip_factor > 0.0 && c.clip_factor <= 1.0) {
            return Err(Malformed::new(
                "contribution",
                format!(
                    "weight is {} and clip_factor {}; a weight is above 0, a factor in (0, 1]",
                    c.weight, c.clip_factor
                ),
            ));
        }
        Ok(Self {
            node_id: c.node_id.parse()?,
            delta_digest: Digest::try_from(&c.delta_digest[..])?,
            manifest_digest: Digest::try_from(&c.manifest_digest[..])?,
            weight: c.weight,
            clip_factor: c.clip_factor,
        })
    }
}

impl TryFrom<wire::Provenance> for Provenance {
    type Error = Malformed;
    fn try_from(p: wire::Provenance) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("provenance", fault);
        if p.contributions.len() > MAX_CONTRIBUTIONS {
            return Err(bad(format!(
                "{} contributions, at most {MAX_CONTRIBUTIONS}",
                p.contributions.len()
            )));
        }
        let rule = match p.rule.as_str() {
            "fedavg" => Rule::FedAvg,
            other => return Err(bad(format!("rule {:?} is not known here", clip(other)))),
        };
        let clip_norm = match p.clip_norm {
            0.0 => None,
            c if c > 0.0 && c.is_finite() => Some(c),
            c => return Err(bad(format!("clip_norm is {c}"))),
        };
        Ok(Self {
            round: RoundId(p.round),
            base_version: ModelVersion(p.base_version),
            base_digest: Digest::try_from(&p.base_digest[..])?,
            base_carry_digest: optional_digest(&p.base_carry_digest)?,
            rule,
            clip_norm,
            weight_cap: p.weight_cap,
            fixed_point_bits: p.fixed_point_bits,
            trainable: Trainable::parse("provenance", &p.trainable)?,
            contributions: p
                .contributions
                .into_iter()
                .map(Contribution::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Payload for ReleaseManifest {
    const TYPE: &'static str = "lamplight.release-manifest.v1";

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("release manifest", fault);
        let m = wire::ReleaseManifest::decode(bytes).map_err(|e| bad(e.to_string()))?;
        if m.version == 0 {
            return Err(bad("version is 0; versions begin at 1".into()));
        }
        if m.size == 0 || m.size > MAX_MODEL_BYTES {
            return Err(bad(format!(
                "size is {}, must be 1 to {MAX_MODEL_BYTES}",
                m.size
            )));
        }
        Ok(Self {
            deployment: m.deployment.parse()?,
            model: m.model.parse()?,
            version: ModelVersion(m.version),
            digest: Digest::try_from(&m.digest[..])?,
            size: m.size,
            provenance: m.provenance.map(Provenance::try_from).transpose()?,
            carry_digest: optional_digest(&m.carry_digest)?,
            created: UnixMillis(m.created_unix_ms),
            evaluation: m.evaluation.map(Metrics::try_from).transpose()?,
        })
    }

    fn to_payload(&self) -> Vec<u8> {
        let provenance = self.provenance.as_ref().map(|p| wire::Provenance {
            round: p.round.0,
            base_version: p.base_version.0,
            base_digest: p.base_digest.to_bytes(),
            base_carry_digest: digest_bytes(p.base_carry_digest),
            rule: p.rule.as_str().to_owned(),
            clip_norm: p.clip_norm.unwrap_or(0.0),
            weight_cap: p.weight_cap,
            fixed_point_bits: p.fixed_point_bits,
            contributions: p
                .contributions
                .iter()
                .map(|c| wire::Contribution {
                    node_id: c.node_id.to_string(),
                    delta_digest: c.delta_digest.to_bytes(),
                    manifest_digest: c.manifest_digest.to_bytes(),
                    weight: c.weight,
                    clip_factor: c.clip_factor,
                })
                .collect(),
            trainable: p.trainable.to_wire(),
        });
        wire::ReleaseManifest {
            deployment: self.deployment.to_string(),
            model: self.model.to_string(),
            version: self.version.0,
            digest: self.digest.to_bytes(),
            size: self.size,
            provenance,
            carry_digest: digest_bytes(self.carry_digest),
            created_unix_ms: self.created.0,
            evaluation: self.evaluation.map(Into::into),
        }
        .encode_to_vec()
    }
}
