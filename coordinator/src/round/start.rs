//! Tasks begin, rounds open.

use std::time::Duration;

use rusqlite::{Connection, Transaction};

use lamplight_models::samples::Samples;
use lamplight_proto::{
    bounds::MAX_COHORT,
    budget::Hours,
    ids::{Digest, Lease, ModelName, ModelVersion, RoundId, TaskId},
    refusal::{Reason, Refusal},
};

use super::{cohort, request::Start};
use crate::{
    fault::Fault,
    house::{House, random},
    store::{
        history, participants, releases, rounds,
        tasks::{self, Task},
    },
};

impl House {
    /// Starts a task and opens its first round. The same key and request again start nothing new.
    ///
    /// # Errors
    /// Refuses unknown models, nodes and samples, and a second task for a model.
    pub fn start(&self, start: &Start) -> Result<(TaskId, RoundId), Fault> {
        // Before anything else: the samples of a task that was started may be gone since.
        if let Some(repeated) = self.store.read(|c| repeated(c, start))? {
            return Ok(repeated);
        }
        let model = &start.task.model;
        // Both read files, which may take long: not while the store is held.
        if let Some(digest) = start.task.evaluation {
            self.check_samples(model, digest)?;
        }
        let base = self.store.read(|c| releases::newest(c, model))?;
        self.can_move(&start.task, base.ok_or_else(|| no_model(model))?.digest)?;
        let started = self.store.write(|tx| {
            if let Some((task, round)) = repeated(tx, start)? {
                return Ok((task, round, false));
            }
            let base = releases::newest(tx, model)?.ok_or_else(|| no_model(model))?;
            if let Some(task) = tasks::running(tx, model)? {
                return Err(Refusal::new(
                    Reason::Conflict,
                    format!(
                        "task {task} runs for {model}; wait until it has ended, or stop it: \
                         lamplight task stop {task}"
                    ),
                )
                .into());
            }
            let now = self.now();
            if start.task.until.is_some_and(|until| until <= now) {
                return Err(Refusal::new(
                    Reason::Malformed,
                    format!(
                        "the task is to end at {} ms, it is {} ms already; name a later time",
                        start.task.until.map_or(0, |u| u.0),
                        now.0
                    ),
                )
                .into());
            }
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

    /// Refuses a set of parameters that the base does not have.
    fn can_move(&self, task: &Task, base: Digest) -> Result<(), Fault> {
        let trainable = task.training.trainable;
        if self.base(base)?.expected(trainable).table.is_empty() {
            return Err(Refusal::new(
                Reason::Malformed,
                format!(
                    "the trainable set `{trainable}` names no parameter of {}; choose another",
                    task.model
                ),
            )
            .into());
        }
        Ok(())
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
                "evaluation samples have shape {:?}, {model} version {} wants {:?}; name a source that \
                 fits the model",
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
            let why =
                "there is no sample to evaluate on; name a source with held-out samples, or none";
            return Err(refuse(why.into()).into());
        }
        Ok(())
    }
}

/// The task that this very request started before, and its first round.
///
/// # Errors
/// Refuses a key that started something else.
fn repeated(c: &Connection, start: &Start) -> Result<Option<(TaskId, RoundId)>, Fault> {
    let Some((task, digest)) = tasks::with_key(c, &start.key)? else {
        return Ok(None);
    };
    if digest != start.digest {
        let why = format!(
            "the idempotency key started task {task} with another request; use another key"
        );
        return Err(Refusal::new(Reason::Conflict, why).into());
    }
    let round = rounds::first_of(c, task)?.unwrap_or(RoundId(0));
    Ok(Some((task, round)))
}

fn no_model(model: &ModelName) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        format!("model {model} has no release; push one first"),
    )
}

/// Opens a round: who is asked is settled, each with a lease of its own.
pub(super) fn open_round(
    house: &House,
    tx: &Transaction<'_>,
    id: TaskId,
    task: &Task,
    place: u32,
    base: ModelVersion,
) -> Result<RoundId, Fault> {
    let cohort = cohort::choose(tx, task, place == 1)?;
    let passed_over = cohort.passed_over;
    let cohort = cohort.asked;
    let refuse = |why: String| Err(Refusal::new(Reason::Malformed, why).into());
    if cohort.len() > MAX_COHORT {
        return refuse(format!(
            "{} nodes would be asked, a round takes at most {MAX_COHORT}; name a cohort",
            cohort.len()
        ));
    }
    let wanted = task.target.max(task.minimum);
    if cohort.len() < wanted as usize {
        let tags: Vec<String> = (task.tags.terms().iter())
            .map(ToString::to_string)
            .collect();
        let of_tags = match tags.as_slice() {
            [] => String::new(),
            tags => format!(" with the tags {}", tags.join(", ")),
        };
        let draining = match passed_over.len() {
            0 => String::new(),
            n => format!(" ({n} more are draining: lamplight node resume)"),
        };
        return refuse(format!(
            "the cohort{of_tags} has {} node(s){draining}, {wanted} delta(s) are wanted; enrol or tag \
             nodes, or ask for fewer",
            cohort.len()
        ));
    }
    let now = house.now();
    // Nodes wait for the task's hours; a deadline that ran meanwhile would end rounds nobody could do.
    let opens = Hours::of(&task.budget.windows).opens_in(now);
    let collecting = Duration::from_secs(task.deadline_seconds.into());
    let deadline = now.after(opens.unwrap_or_default()).after(collecting);
    let round = rounds::open(tx, id, place, base, now, deadline)?;
    for node in &cohort {
        participants::ask(tx, round, node, Lease(random()?))?;
    }
    for (node, reason) in &passed_over {
        history::pass_over(tx, round, node, reason)?;
    }
    Ok(round)
}
