//! A request to start a task, parsed.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;

use lamplight_proto::{
    Malformed,
    bounds::{MAX_COHORT, MAX_ROUNDS, MAX_SECONDS, MAX_WEIGHT},
    budget::{Budget, Hours},
    ids::{Digest, Label, ModelName, NodeId, UnixMillis},
    offer::Codec,
    tag::TagFilter,
    wire,
};

use crate::store::tasks::Task;

/// Bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 64;
/// Weight cap when the operator names none.
const DEFAULT_WEIGHT_CAP: u64 = 1_000_000;

/// A parsed request to start a task.
#[derive(Debug, Clone)]
pub struct Start {
    pub(super) task: Task,
    pub(super) key: Vec<u8>,
    pub(super) digest: Digest,
}

fn bad(fault: String) -> Malformed {
    Malformed::new("start rounds", fault)
}

impl TryFrom<wire::StartRoundsRequest> for Start {
    type Error = Malformed;
    fn try_from(r: wire::StartRoundsRequest) -> Result<Self, Malformed> {
        let digest = Digest::of(&r.encode_to_vec());
        let model: ModelName = r.model.parse()?;
        let recurs = r.every_seconds > 0;
        if !recurs && r.rounds == 0 || r.rounds > MAX_ROUNDS {
            return Err(bad(format!(
                "rounds is {}, must be 1 to {MAX_ROUNDS}; 0 is for tasks that recur",
                r.rounds
            )));
        }
        if r.every_seconds > u64::from(MAX_SECONDS) {
            return Err(bad(format!(
                "every_seconds is {}, at most {MAX_SECONDS} (a year) is taken",
                r.every_seconds
            )));
        }
        if r.until_unix_ms != 0 && !recurs {
            return Err(bad(
                "until_unix_ms is given without every_seconds; it is for tasks that recur".into(),
            ));
        }
        if r.until_unix_ms < 0 {
            return Err(bad(format!(
                "until_unix_ms is {}, must not be negative",
                r.until_unix_ms
            )));
        }
        if !(1..=MAX_SECONDS).contains(&r.deadline_seconds) {
            return Err(bad(format!(
                "deadline_seconds is {}, must be 1 to {MAX_SECONDS}",
                r.deadline_seconds
            )));
        }
        if r.minimum_deltas == 0 {
            return Err(bad(
                "minimum_deltas is 0; a release is made of at least 1".into()
            ));
        }
        if r.target_deltas != 0 && r.target_deltas < r.minimum_deltas {
            return Err(bad(format!(
                "target_deltas is {}, below minimum_deltas {}; 0 means the whole cohort",
                r.target_deltas, r.minimum_deltas
            )));
        }
        if !(r.delta_clip_norm.is_finite() && r.delta_clip_norm >= 0.0) {
            return Err(bad(format!(
                "delta_clip_norm is {}, must be finite and not negative",
                r.delta_clip_norm
            )));
        }
        if r.weight_cap > MAX_WEIGHT {
            return Err(bad(format!(
                "weight_cap is {}, at most {MAX_WEIGHT} is taken",
                r.weight_cap
            )));
        }
        if !(1..=MAX_KEY_BYTES).contains(&r.idempotency_key.len()) {
            return Err(bad(format!(
                "idempotency_key has {} bytes, must have 1 to {MAX_KEY_BYTES}",
                r.idempotency_key.len()
            )));
        }
        if r.cohort.len() > MAX_COHORT {
            return Err(bad(format!(
                "the cohort has {} nodes, at most {MAX_COHORT} are taken",
                r.cohort.len()
            )));
        }
        let cohort: BTreeSet<NodeId> = (r.cohort.iter())
            .map(|n| n.parse())
            .collect::<Result<_, _>>()?;
        let evaluation = match r.evaluation_digest.len() {
            0 => None,
            _ => Some(Digest::try_from(&r.evaluation_digest[..])?),
        };
        let name = match r.name.as_str() {
            "" => String::new(),
            name => name.parse::<Label>()?.to_string(),
        };
        let budget = r.budget.map(Budget::try_from).transpose()?;
        let budget = budget.unwrap_or_default();
        if !Hours::of(&budget.windows).ever() {
            return Err(bad("the budget's time windows allow no minute".into()));
        }
        Ok(Self {
            task: Task {
                name,
                model,
                rounds: r.rounds,
                every: recurs.then(|| Duration::from_secs(r.every_seconds)),
                until: (r.until_unix_ms > 0).then_some(UnixMillis(r.until_unix_ms)),
                target: r.target_deltas,
                minimum: r.minimum_deltas,
                deadline_seconds: r.deadline_seconds,
                cohort: (!cohort.is_empty()).then(|| cohort.into_iter().collect()),
                tags: TagFilter::of_terms(&r.cohort_tags)?,
                training: r
                    .training
                    .ok_or_else(|| bad("training is missing".into()))?
                    .try_into()?,
                budget,
                codec: match r.codec.as_str() {
                    "" => Codec::F32,
                    name => Codec::parse("start rounds", name)?,
                },
                clip_norm: (r.delta_clip_norm > 0.0).then_some(r.delta_clip_norm),
                weight_cap: match r.weight_cap {
                    0 => DEFAULT_WEIGHT_CAP,
                    cap => cap,
                },
                evaluation,
            },
            key: r.idempotency_key.to_vec(),
            digest,
        })
    }
}
