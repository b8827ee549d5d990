//! Tasks begin, rounds open.

use std::{collections::BTreeSet, time::Duration};

use rusqlite::Transaction;

use lamplight_models::samples::Samples;
use lamplight_proto::{
    Malformed,
    ids::{Digest, Lease, ModelName, ModelVersion, NodeId, RoundId, TaskId},
    refusal::{Reason, Refusal},
    wire,
};

use prost::Message as _;

use crate::{
    aggregate::fixed::MAX_WEIGHT,
    fault::Fault,
    house::{House, random},
    store::{
        nodes, participants, releases, rounds,
        tasks::{self, Task},
    },
};

/// Rounds of one task.
const MAX_ROUNDS: u32 = 100_000;
/// A round's longest deadline: a year.
const MAX_DEADLINE_SECONDS: u32 = 366 * 24 * 3600;
/// Nodes of one round: a release's manifest names each delta and must stay readable.
const MAX_COHORT: usize = 30_000;
/// Bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 64;
/// Weight cap when the operator names none.
const DEFAULT_WEIGHT_CAP: u64 = 1_000_000;

/// A parsed request to start a task.
#[derive(Debug, Clone)]
pub struct Start {
    task: Task,
    key: Vec<u8>,
    digest: Digest,
}

fn bad(fault: String) -> Malformed {
    Malformed::new("start rounds", fault)
}

impl TryFrom<wire::StartRoundsRequest> for Start {
    type Error = Malformed;
    fn try_from(r: wire::StartRoundsRequest) -> Result<Self, Malformed> {
        let digest = Digest::of(&r.encode_to_vec());
        let model: ModelName = r.model.parse()?;
        if !(1..=MAX_ROUNDS).contains(&r.rounds) {
            return Err(bad(format!(
                "rounds is {}, must be 1 to {MAX_ROUNDS}",
                r.rounds
            )));
        }
        if !(1..=MAX_DEADLINE_SECONDS).contains(&r.deadline_seconds) {
            return Err(bad(format!(
                "deadline_seconds is {}, must be 1 to {MAX_DEADLINE_SECONDS}",
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
        Ok(Self {
            task: Task {
                model,
                rounds: r.rounds,
                target: r.target_deltas,
                minimum: r.minimum_deltas,
                deadline_seconds: r.deadline_seconds,
                cohort: (!cohort.is_empty()).then(|| cohort.into_iter().collect()),
                training: r
                    .training
                    .ok_or_else(|| bad("training is missing".into()))?
                    .try_into()?,
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

impl House {
    /// Starts a task and opens its first round. The same key and request again start nothing new.
    ///
    /// # Errors
    /// Refuses unknown models, nodes and samples, and a second task for a model.
    pub fn start(&self, start: &Start) -> Result<(TaskId, RoundId), Fault> {
        if let Some(digest) = start.task.evaluation {
            self.check_samples(&start.task.model, digest)?;
        }
        let started = self.store.write(|tx| {
            if let Some((task, digest)) = tasks::with_key(tx, &start.key)? {
                if digest != start.digest {
                    return Err(Refusal::new(
                        Reason::Conflict,
                        format!("the idempotency key started task {task} with another request"),
                    )
                    .into());
                }
                return Ok((
                    task,
                    rounds::first_of(tx, task)?.unwrap_or(RoundId(0)),
                    false,
                ));
            }
            let model = &start.task.model;
            let base = releases::newest(tx, model)?.ok_or_else(|| no_model(model))?;
            if let Some(task) = tasks::running(tx, model)? {
                return Err(Refusal::new(
                    Reason::Conflict,
                    format!("task {task} runs for {model}; wait until it has ended"),
                )
                .into());
            }
            let now = self.now();
            let task = tasks::insert(tx, &start.key, start.digest, &start.task, now)?;
            let round = open_round(self, tx, task, &start.task, 1, base.version)?;
            Ok::<_, Fault>((task, round, true))
        })?;
        let (task, round, is_new) = started;
        if is_new {
            tracing::info!(task = task.0, round = round.0, model = %start.task.model, "task started");
        }
        Ok((task, round))
    }

    fn check_samples(&self, model: &ModelName, digest: Digest) -> Result<(), Fault> {
        let newest = self.store.read(|c| releases::newest(c, model))?;
        let release = newest.ok_or_else(|| no_model(model))?;
        if self.blobs.size(digest)?.is_none() {
            return Err(Refusal::new(
                Reason::NotFound,
                format!("evaluation samples {digest} are not here; upload them first"),
            )
            .into());
        }
        let refuse = |why: String| Refusal::new(Reason::Malformed, why);
        let samples = Samples::from_bytes(&self.blobs.read(digest)?)
            .map_err(|e| refuse(format!("evaluation samples {digest}: {e}")))?;
        let base = self.base(release.digest)?;
        if samples.shape != base.input {
            return Err(refuse(format!(
                "evaluation samples have shape {:?}, {model} version {} wants {:?}",
                samples.shape, release.version, base.input
            ))
            .into());
        }
        // Whatever their order: labels are mapped by name. Samples of another class are not quietly
        // left out as on a node: an accuracy over some of the samples would not compare.
        let (samples, aside) = samples
            .set_aside(&base.classes)
            .map_err(|e| refuse(format!("evaluation samples {digest}: {e}")))?;
        if let Some((class, count)) = aside.first_key_value() {
            let others = match aside.len() {
                1 => String::new(),
                n => format!(" (and {} more classes)", n - 1),
            };
            return Err(refuse(format!(
                "evaluation samples hold {count} of class `{class}`{others}, which {model} version \
                 {} does not have; it has {}; leave them out",
                release.version,
                base.classes.join(", ")
            ))
            .into());
        }
        if samples.is_empty() {
            return Err(refuse("there is no sample to evaluate on".into()).into());
        }
        Ok(())
    }
}

fn no_model(model: &ModelName) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        format!("model {model} has no release; push one first"),
    )
}

/// Opens a round: who is asked is settled, each with a lease of its own.
fn open_round(
    house: &House,
    tx: &Transaction<'_>,
    id: TaskId,
    task: &Task,
    place: u32,
    base: ModelVersion,
) -> Result<RoundId, Fault> {
    let cohort = match &task.cohort {
        Some(chosen) => {
            for node in chosen {
                if nodes::find(tx, node)?.is_none() {
                    return Err(Refusal::new(
                        Reason::NotFound,
                        format!("{node} of the cohort is not enrolled"),
                    )
                    .into());
                }
            }
            chosen.clone()
        }
        None => nodes::list(tx)?.into_iter().map(|n| n.id).collect(),
    };
    let refuse = |why: String| Err(Refusal::new(Reason::Malformed, why).into());
    if cohort.len() > MAX_COHORT {
        return refuse(format!(
            "{} nodes are enrolled, a round takes at most {MAX_COHORT}; name a cohort",
            cohort.len()
        ));
    }
    let wanted = task.target.max(task.minimum);
    if cohort.len() < wanted as usize {
        return refuse(format!(
            "the cohort has {} nodes, {wanted} deltas are wanted; enrol nodes or ask for fewer",
            cohort.len()
        ));
    }
    let now = house.now();
    let deadline = now.after(Duration::from_secs(task.deadline_seconds.into()));
    let round = rounds::open(tx, id, place, base, now, deadline)?;
    for node in &cohort {
        participants::ask(tx, round, node, Lease(random()?))?;
    }
    Ok(round)
}

/// After a publication: opens the task's next round on the new release, or ends the task.
pub(super) fn next_round(
    house: &House,
    tx: &Transaction<'_>,
    published: RoundId,
    base: ModelVersion,
) -> Result<(), Fault> {
    let gone = |what| Refusal::new(Reason::NotFound, format!("round {published} has no {what}"));
    let round = rounds::find(tx, published)?.ok_or_else(|| gone("row"))?;
    let task = tasks::find(tx, round.task)?.ok_or_else(|| gone("task"))?;
    if round.place >= round.of {
        tasks::end(tx, round.task, None)?;
        return Ok(());
    }
    match open_round(house, tx, round.task, &task, round.place + 1, base) {
        Ok(_) => Ok(()),
        // The release stands; only the task cannot go on.
        Err(Fault::Refused(r)) => Ok(tasks::end(tx, round.task, Some(&r.message))?),
        Err(e) => Err(e),
    }
}
