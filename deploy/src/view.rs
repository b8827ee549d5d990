//! What `--json` prints of a fleet: the contract with scripts.
//!
//! The coordinator's listings are protocol messages and may be arranged anew; these may not: fields
//! are added, never renamed, removed or given another meaning. `lamplight schema` prints their JSON
//! schemas, which are kept in `deploy/schemas` and compared in a test.

use std::collections::BTreeMap;

use lamplight_proto::wire;
use schemars::JsonSchema;
use serde::Serialize;

/// How good a model was on some samples.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(crate) struct Metrics {
    pub(crate) samples: u64,
    /// Mean cross entropy, in nats.
    pub(crate) loss: f64,
    /// Share of samples whose largest logit is the label.
    pub(crate) accuracy: f64,
}

impl From<wire::Metrics> for Metrics {
    fn from(m: wire::Metrics) -> Self {
        Self {
            samples: m.samples,
            loss: m.loss,
            accuracy: m.accuracy,
        }
    }
}

/// A model with its newest release.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) parameters: u64,
    /// In logit order.
    pub(crate) classes: Vec<String>,
    pub(crate) newest_version: u64,
    /// SHA-256 of the model file, hexadecimal.
    pub(crate) newest_digest: String,
}

impl From<wire::ModelView> for Model {
    fn from(m: wire::ModelView) -> Self {
        Self {
            name: m.name,
            architecture: m.architecture,
            parameters: m.parameters,
            classes: m.classes,
            newest_version: m.newest_version,
            newest_digest: m.newest_digest,
        }
    }
}

/// A release of a model.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Release {
    pub(crate) model: String,
    pub(crate) version: u64,
    /// SHA-256 of the model file, hexadecimal.
    pub(crate) digest: String,
    /// Bytes of the model file.
    pub(crate) size: u64,
    /// The round that made it; 0 when an operator pushed it.
    pub(crate) round: u64,
    /// How many deltas it was made of.
    pub(crate) deltas: u32,
    /// On the operator's samples.
    pub(crate) evaluation: Option<Metrics>,
    pub(crate) created_unix_ms: i64,
}

impl From<wire::ReleaseView> for Release {
    fn from(r: wire::ReleaseView) -> Self {
        Self {
            model: r.model,
            version: r.version,
            digest: r.digest,
            size: r.size,
            round: r.round,
            deltas: r.deltas,
            evaluation: r.evaluation.map(Into::into),
            created_unix_ms: r.created_unix_ms,
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Node {
    pub(crate) node_id: String,
    pub(crate) name: String,
    pub(crate) enrolled_unix_ms: i64,
    /// 0 before the first poll.
    pub(crate) last_seen_unix_ms: i64,
    /// What it last said it was doing: idle, preparing, training, uploading; empty before the first poll.
    pub(crate) phase: String,
    /// SHA-256 of the model file it runs, hexadecimal; empty before the first.
    pub(crate) running_digest: String,
    /// The release that file is; empty when it is none of this fleet's.
    pub(crate) running_model: String,
    /// 0 when it is none of this fleet's.
    pub(crate) running_version: u64,
    pub(crate) agent_version: String,
    pub(crate) deltas_accepted: u64,
    /// active, draining, retired.
    pub(crate) state: String,
    /// In the operator's words; may be empty.
    pub(crate) state_reason: String,
    /// 0: since it enrolled.
    pub(crate) state_since_unix_ms: i64,
    pub(crate) tags: BTreeMap<String, String>,
    /// When its certificate ends; `null` in listings.
    pub(crate) certificate_expires_unix_ms: Option<i64>,
    /// Newest first; in listings at most one, the last that asked this node or passed it over.
    pub(crate) rounds: Vec<NodeRound>,
}

/// How a round went for one node.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NodeRound {
    pub(crate) round: u64,
    pub(crate) task: u64,
    pub(crate) model: String,
    /// The release the round starts from.
    pub(crate) base_version: u64,
    /// Of the round: collecting, aggregating, evaluating, publishing, published, abandoned.
    pub(crate) phase: String,
    /// Of the node in it: offered, preparing, training, uploading, accepted, failed, refused, missing,
    /// skipped, not-asked.
    pub(crate) state: String,
    /// Why failed, refused, missing, skipped or not asked.
    pub(crate) reason: String,
    pub(crate) started_unix_ms: i64,
    /// 0 while it runs.
    pub(crate) ended_unix_ms: i64,
}

impl From<wire::NodeView> for Node {
    fn from(n: wire::NodeView) -> Self {
        let split = |tag: &String| {
            let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
            (key.to_owned(), value.to_owned())
        };
        let expires = n.certificate_expires_unix_ms;
        Self {
            node_id: n.node_id,
            name: n.name,
            enrolled_unix_ms: n.enrolled_unix_ms,
            last_seen_unix_ms: n.last_seen_unix_ms,
            phase: n.phase,
            running_digest: n.running_digest,
            running_model: n.running_model,
            running_version: n.running_version,
            agent_version: n.agent_version,
            deltas_accepted: n.deltas_accepted,
            state: n.state,
            state_reason: n.state_reason,
            state_since_unix_ms: n.state_since_unix_ms,
            tags: n.tags.iter().map(split).collect(),
            certificate_expires_unix_ms: (expires != 0).then_some(expires),
            rounds: n.rounds.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::NodeRoundView> for NodeRound {
    fn from(r: wire::NodeRoundView) -> Self {
        Self {
            round: r.round,
            task: r.task,
            model: r.model,
            base_version: r.base_version,
            phase: r.phase,
            state: r.state,
            reason: r.reason,
            started_unix_ms: r.started_unix_ms,
            ended_unix_ms: r.ended_unix_ms,
        }
    }
}

/// A round.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Round {
    pub(crate) round: u64,
    pub(crate) task: u64,
    /// Place in its task, from 1.
    pub(crate) index: u32,
    /// Rounds of its task; 0: no bound.
    pub(crate) of: u32,
    pub(crate) model: String,
    /// collecting, aggregating, evaluating, publishing, published, abandoned.
    pub(crate) phase: String,
    /// Why, when abandoned.
    pub(crate) reason: String,
    pub(crate) base_version: u64,
    /// 0 until published.
    pub(crate) release_version: u64,
    pub(crate) started_unix_ms: i64,
    /// 0 while it runs.
    pub(crate) ended_unix_ms: i64,
    /// In `round show` only.
    pub(crate) participants: Vec<Participant>,
    /// Of the release, on the operator's samples.
    pub(crate) evaluation: Option<Metrics>,
    /// Accepted deltas that close it; 0 means the whole cohort.
    pub(crate) target_deltas: u32,
    /// With fewer it is abandoned.
    pub(crate) minimum_deltas: u32,
    pub(crate) cohort_nodes: u32,
    pub(crate) accepted_deltas: u32,
}

/// A node in a round.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Participant {
    pub(crate) node_id: String,
    pub(crate) name: String,
    /// offered, preparing, training, uploading, accepted, failed, refused, missing.
    pub(crate) state: String,
    /// Why refused or failed.
    pub(crate) reason: String,
    pub(crate) step: u32,
    pub(crate) steps: u32,
    pub(crate) loss: f64,
    /// On the node's held-out samples.
    pub(crate) before: Option<Metrics>,
    /// On the node's held-out samples.
    pub(crate) after: Option<Metrics>,
    pub(crate) sample_count: u64,
    pub(crate) delta_bytes: u64,
    /// SHA-256, hexadecimal.
    pub(crate) delta_digest: String,
    /// L2, before clipping.
    pub(crate) delta_norm: f64,
    /// What aggregation multiplied the delta by.
    pub(crate) clip_factor: f64,
    pub(crate) training_seconds: f64,
    /// Bytes of the base that this node pulled.
    pub(crate) model_bytes: u64,
    /// Labelled samples that the node keeps aside: the base does not have their class.
    pub(crate) samples_aside: u64,
}

impl From<wire::RoundView> for Round {
    fn from(r: wire::RoundView) -> Self {
        Self {
            round: r.round,
            task: r.task,
            index: r.index,
            of: r.of,
            model: r.model,
            phase: r.phase,
            reason: r.reason,
            base_version: r.base_version,
            release_version: r.release_version,
            started_unix_ms: r.started_unix_ms,
            ended_unix_ms: r.ended_unix_ms,
            participants: r.participants.into_iter().map(Into::into).collect(),
            evaluation: r.evaluation.map(Into::into),
            target_deltas: r.target_deltas,
            minimum_deltas: r.minimum_deltas,
            cohort_nodes: r.cohort_nodes,
            accepted_deltas: r.accepted_deltas,
        }
    }
}

impl From<wire::ParticipantView> for Participant {
    fn from(p: wire::ParticipantView) -> Self {
        Self {
            node_id: p.node_id,
            name: p.name,
            state: p.state,
            reason: p.reason,
            step: p.step,
            steps: p.steps,
            loss: p.loss,
            before: p.before.map(Into::into),
            after: p.after.map(Into::into),
            sample_count: p.sample_count,
            delta_bytes: p.delta_bytes,
            delta_digest: p.delta_digest,
            delta_norm: p.delta_norm,
            clip_factor: p.clip_factor,
            training_seconds: p.training_seconds,
            model_bytes: p.model_bytes,
            samples_aside: p.samples_aside,
        }
    }
}

/// A task.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Task {
    pub(crate) task: u64,
    /// For people; may be empty.
    pub(crate) name: String,
    pub(crate) model: String,
    /// running, stopping, done, stopped.
    pub(crate) state: String,
    /// Why stopped; while it runs, why the last round of a task that recurs did not begin.
    pub(crate) reason: String,
    pub(crate) rounds_begun: u32,
    /// 0: no bound.
    pub(crate) rounds: u32,
    /// 0: one after the other.
    pub(crate) every_seconds: u64,
    /// 0: no such bound.
    pub(crate) until_unix_ms: i64,
    /// 0: none is planned, or one runs.
    pub(crate) next_round_unix_ms: i64,
    pub(crate) created_unix_ms: i64,
    pub(crate) cohort_tags: Vec<String>,
    /// Nodes chosen by id; 0: all.
    pub(crate) cohort_nodes: u32,
}

impl From<wire::TaskView> for Task {
    fn from(t: wire::TaskView) -> Self {
        Self {
            task: t.task,
            name: t.name,
            model: t.model,
            state: t.state,
            reason: t.reason,
            rounds_begun: t.rounds_begun,
            rounds: t.rounds,
            every_seconds: t.every_seconds,
            until_unix_ms: t.until_unix_ms,
            next_round_unix_ms: t.next_round_unix_ms,
            created_unix_ms: t.created_unix_ms,
            cohort_tags: t.cohort_tags,
            cohort_nodes: t.cohort_nodes,
        }
    }
}

/// A listing, converted.
pub(crate) fn all<W, V: From<W>>(listed: Vec<W>) -> Vec<V> {
    listed.into_iter().map(Into::into).collect()
}
