//! What a node is asked to do: a round's signed offer.

use std::fmt;

use prost::Message as _;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Malformed,
    budget::Budget,
    envelope::Payload,
    ids::{
        Deployment, Digest, Hasher, Lease, ModelName, ModelVersion, NodeId, RoundId, UnixMillis,
    },
    needs::{self, Need},
    version::VERSION,
    wire,
};

/// Largest model file a node agrees to pull.
pub const MAX_MODEL_BYTES: u64 = 16 << 30;

/// How a delta's tensors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Every value as F32.
    F32,
}

impl Codec {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }

    /// The codec of this name.
    ///
    /// # Errors
    /// [`Malformed`] of `message` when there is none.
    pub fn parse(message: &'static str, text: &str) -> Result<Self, Malformed> {
        match text {
            "f32" => Ok(Self::F32),
            other => Err(Malformed::new(
                message,
                format!("codec {:?} is not known here; known: f32", clip(other)),
            )),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hostile text, short enough to print.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The update rule and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Step size.
        learning_rate: f32,
        /// Share of the last step kept.
        momentum: f32,
        /// L2 penalty on weights.
        weight_decay: f32,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Step size.
        learning_rate: f32,
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the denominator.
        eps: f32,
        /// Decoupled decay of weights.
        weight_decay: f32,
    },
}

/// How the learning rate moves over a task's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// Half a cosine from full to zero.
    Cosine,
}

/// What batch norms do while a node trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormMode {
    /// Normalise by the batch, move the running statistics (which stay on the node).
    Train,
    /// Normalise by the running statistics, which stay as they are.
    Frozen,
}

/// Which parameters move, and so which a delta holds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Trainable {
    /// Every parameter.
    #[default]
    All,
    /// Those of the last layer with weights.
    Head,
    /// Every bias, the shifts of norms included.
    Bias,
    /// Scale and shift of every norm.
    Norm,
}

impl Trainable {
    /// Every set there is.
    pub const EVERY: [Self; 4] = [Self::All, Self::Head, Self::Bias, Self::Norm];

    /// The name in files, listings and flags.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Head => "head",
            Self::Bias => "bias",
            Self::Norm => "norm",
        }
    }

    /// The name on the wire, where nothing said means all.
    pub(crate) fn to_wire(self) -> String {
        match self {
            Self::All => String::new(),
            other => other.as_str().to_owned(),
        }
    }

    pub(crate) fn parse(message: &'static str, text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Ok(Self::All);
        }
        let known = Self::EVERY.into_iter().find(|t| t.as_str() == text);
        known.ok_or_else(|| {
            Malformed::new(
                message,
                format!(
                    "trainable set {:?} is not known here; known: all, head, bias, norm",
                    clip(text)
                ),
            )
        })
    }
}

impl std::str::FromStr for Trainable {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "" => Err(Malformed::new("trainable set", "it is empty")),
            text => Self::parse("trainable set", text),
        }
    }
}

impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How to fine-tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Which parameters move.
    #[serde(default)]
    pub trainable: Trainable,
    /// Passes over the node's samples.
    pub epochs: u32,
    /// Samples in a step.
    pub batch: u32,
    /// Update rule.
    pub optimizer: Optimizer,
    /// Global-norm gradient clipping.
    pub clip_norm: Option<f32>,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Batch norms.
    pub norm_mode: NormMode,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
    /// Augmentation: every x, y, z channel triple of a sample is rotated by up to this angle, about
    /// a random axis. 0 rotates nothing.
    pub rotate_deg: f32,
}

/// A signed offer to one node.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundOffer {
    /// The fleet.
    pub deployment: Deployment,
    /// The node it is made to.
    pub node_id: NodeId,
    /// The round.
    pub round: RoundId,
    /// Window of the round; 0 for synchronous rounds.
    pub window: u32,
    /// The model to fine-tune.
    pub model: ModelName,
    /// The release to start from.
    pub base_version: ModelVersion,
    /// SHA-256 of its file.
    pub base_digest: Digest,
    /// Bytes of its file.
    pub base_size: u64,
    /// Ties the delta to this offer.
    pub lease: Lease,
    /// When the offer lapses.
    pub expires: UnixMillis,
    /// Largest delta taken.
    pub max_delta_bytes: u64,
    /// How to write the delta.
    pub codec: Codec,
    /// How to fine-tune.
    pub training: Training,
    /// What the task may use of the node.
    pub budget: Budget,
    /// What an agent must know to do it as asked; see [`crate::needs`].
    pub needs: Vec<Need>,
}

impl Training {
    /// The settings of one node in one round of a task: a seed of its own, derived from the task's.
    ///
    /// With one seed for all rounds, every round would repeat the same order and the same
    /// augmentation; with one for all nodes, all would turn their samples by the same angles at the
    /// same step, and averaging could not cancel what that does to them. The node is told by the
    /// name it was given, not by its key, so that a rerun of a whole fleet gives the same bytes; of
    /// nodes that share a name, by name and id.
    #[must_use]
    pub fn of_node(self, place: u32, node: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(b"LAMPLIGHT-SEED-V1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&place.to_le_bytes());
        hasher.update(node.as_bytes());
        let digest = hasher.finish();
        let mut seed = [0; 8];
        seed.copy_from_slice(&digest.as_bytes()[..8]);
        Self {
            seed: u64::from_le_bytes(seed),
            ..self
        }
    }
}

fn positive(name: &str, value: f32, max: f32) -> Result<f32, Malformed> {
    if value > 0.0 && value <= max {
        Ok(value)
    } else {
        Err(Malformed::new(
            "training",
            format!("{name} is {value}, must be above 0 and at most {max}"),
        ))
    }
}

fn share(name: &str, value: f32) -> Result<f32, Malformed> {
    if (0.0..1.0).contains(&value) {
        Ok(value)
    } else {
        Err(Malformed::new(
            "training",
            format!("{name} is {value}, must be at least 0 and below 1"),
        ))
    }
}

fn angle(degrees: f32) -> Result<f32, Malformed> {
    if (0.0..=180.0).contains(&degrees) {
        Ok(degrees)
    } else {
        Err(Malformed::new(
            "training",
            format!("rotate_deg is {degrees}, must be 0 to 180"),
        ))
    }
}

/// `0` on the wire means none.
fn optional(name: &str, value: f32) -> Result<Option<f32>, Malformed> {
    if value == 0.0 {
        Ok(None)
    } else {
        positive(name, value, f32::MAX).map(Some)
    }
}

impl TryFrom<wire::Training> for Training {
    type Error = Malformed;
    fn try_from(t: wire::Training) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("training", fault);
        if !(1..=1000).contains(&t.epochs) {
            return Err(bad(format!("epochs is {}, must be 1 to 1000", t.epochs)));
        }
        if !(1..=65_536).contains(&t.batch) {
            return Err(bad(format!("batch is {}, must be 1 to 65536", t.batch)));
        }
        use wire::optimizer::Kind;
        let optimizer = match t.optimizer.and_then(|o| o.kind) {
            Some(Kind::Sgd(o)) => Optimizer::Sgd {
                learning_rate: positive("learning_rate", o.learning_rate, 100.0)?,
                momentum: share("momentum", o.momentum)?,
                weight_decay: share("weight_decay", o.weight_decay)?,
            },
            Some(Kind::Adamw(o)) => Optimizer::AdamW {
                learning_rate: positive("learning_rate", o.learning_rate, 100.0)?,
                beta1: share("beta1", o.beta1)?,
                beta2: share("beta2", o.beta2)?,
                eps: positive("eps", o.eps, 1.0)?,
                weight_decay: share("weight_decay", o.weight_decay)?,
            },
            None => return Err(bad("optimizer is missing or not known here".into())),
        };
        let schedule = match t.schedule() {
            wire::Schedule::Constant => Schedule::Constant,
            wire::Schedule::Cosine => Schedule::Cosine,
            wire::Schedule::Unspecified => {
                return Err(bad("schedule is missing or not known here".into()));
            }
        };
        let norm_mode = match t.norm_mode() {
            wire::NormMode::Train => NormMode::Train,
            wire::NormMode::Frozen => NormMode::Frozen,
            wire::NormMode::Unspecified => {
                return Err(bad("norm_mode is missing or not known here".into()));
            }
        };
        Ok(Self {
            trainable: Trainable::parse("training", &t.trainable)?,
            epochs: t.epochs,
            batch: t.batch,
            optimizer,
            clip_norm: optional("clip_norm", t.clip_norm)?,
            schedule,
            norm_mode,
            seed: t.seed,
            rotate_deg: angle(t.rotate_deg)?,
        })
    }
}

impl From<&Training> for wire::Training {
    fn from(t: &Training) -> Self {
        use wire::optimizer::Kind;
        let kind = match t.optimizer {
            Optimizer::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => Kind::Sgd(wire::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            }),
            Optimizer::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            } => Kind::Adamw(wire::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            }),
        };
        Self {
            epochs: t.epochs,
            batch: t.batch,
            optimizer: Some(wire::Optimizer { kind: Some(kind) }),
            clip_norm: t.clip_norm.unwrap_or(0.0),
            schedule: match t.schedule {
                Schedule::Constant => wire::Schedule::Constant,
                Schedule::Cosine => wire::Schedule::Cosine,
            } as i32,
            norm_mode: match t.norm_mode {
                NormMode::Train => wire::NormMode::Train,
                NormMode::Frozen => wire::NormMode::Frozen,
            } as i32,
            seed: t.seed,
            rotate_deg: t.rotate_deg,
            trainable: t.trainable.to_wire(),
        }
    }
}

impl Payload for RoundOffer {
    const TYPE: &'static str = "lamplight.round-offer.v1";

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("round offer", fault);
        let o = wire::RoundOffer::decode(bytes).map_err(|e| bad(e.to_string()))?;
        let needs = needs::parse(&o.needs)?;
        // An offer of a newer coordinator may hold what cannot be read here; it says so itself.
        let unknown = needs::unknown(&needs);
        Self::read(o, needs).map_err(|e| match unknown {
            None => e,
            Some(unknown) => bad(format!(
                "{}; the offer needs {unknown}, which agent {VERSION} does not know: update the agent",
                e.fault
            )),
        })
    }

    fn to_payload(&self) -> Vec<u8> {
        wire::RoundOffer {
            deployment: self.deployment.to_string(),
            node_id: self.node_id.to_string(),
            round: self.round.0,
            window: self.window,
            model: self.model.to_string(),
            base_version: self.base_version.0,
            base_digest: self.base_digest.to_bytes(),
            base_size: self.base_size,
            lease: Bytes::copy_from_slice(&self.lease.0),
            expires_unix_ms: self.expires.0,
            max_delta_bytes: self.max_delta_bytes,
            codec: self.codec.to_string(),
            training: Some((&self.training).into()),
            budget: (!self.budget.is_unbounded()).then(|| (&self.budget).into()),
            needs: self.needs.iter().map(ToString::to_string).collect(),
        }
        .encode_to_vec()
    }
}

impl RoundOffer {
    fn read(o: wire::RoundOffer, needs: Vec<Need>) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("round offer", fault);
        if o.base_size == 0 || o.base_size > MAX_MODEL_BYTES {
            return Err(bad(format!(
                "base_size is {}, must be 1 to {MAX_MODEL_BYTES}",
                o.base_size
            )));
        }
        Ok(Self {
            deployment: o.deployment.parse()?,
            node_id: o.node_id.parse()?,
            round: RoundId(o.round),
            window: o.window,
            model: o.model.parse()?,
            base_version: ModelVersion(o.base_version),
            base_digest: Digest::try_from(&o.base_digest[..])?,
            base_size: o.base_size,
            lease: Lease::try_from(&o.lease[..])?,
            expires: UnixMillis(o.expires_unix_ms),
            max_delta_bytes: o.max_delta_bytes,
            codec: Codec::parse("round offer", &o.codec)?,
            training: o
                .training
                .ok_or_else(|| bad("training is missing".into()))?
                .try_into()?,
            budget: o
                .budget
                .map(Budget::try_from)
                .transpose()?
                .unwrap_or_default(),
            needs,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plain offer of the first version.
    pub(crate) fn offer() -> RoundOffer {
        RoundOffer {
            deployment: "chicago".parse().expect("a name"),
            node_id: NodeId::of_key(&[7; 32]),
            round: RoundId(7),
            window: 0,
            model: "post".parse().expect("a name"),
            base_version: ModelVersion(2),
            base_digest: Digest::of(b"base"),
            base_size: 40_000,
            lease: Lease([9; 16]),
            expires: UnixMillis(1_790_000_000_000),
            max_delta_bytes: 1 << 20,
            codec: Codec::F32,
            budget: Budget::default(),
            training: Training {
                trainable: Trainable::All,
                epochs: 1,
                batch: 32,
                optimizer: Optimizer::Sgd {
                    learning_rate: 0.01,
                    momentum: 0.9,
                    weight_decay: 0.0,
                },
                clip_norm: Some(1.0),
                schedule: Schedule::Constant,
                norm_mode: NormMode::Frozen,
                seed: 1,
                rotate_deg: 0.0,
            },
            needs: vec![],
        }
    }

    #[test]
    fn an_offer_that_cannot_be_read_says_what_it_needs_when_that_is_why() {
        let mut newer = wire::RoundOffer::decode(&offer().to_payload()[..]).expect("decoded");
        newer.codec = "q4".into();
        let fault = |o: &wire::RoundOffer| {
            let e = RoundOffer::parse(&o.encode_to_vec()).expect_err("unreadable");
            e.to_string()
        };
        assert!(!fault(&newer).contains("needs"), "{}", fault(&newer));
        newer.needs = vec!["small-deltas".into()];
        let said = fault(&newer);
        for part in [
            "codec \"q4\"",
            "`small-deltas`",
            VERSION,
            "update the agent",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
