//! The steps a round owes: aggregate, evaluate, publish.

use std::{fs::File, io, sync::Arc, time::Duration};

use tokio::sync::watch;

use lamplight_models::{
    delta::DeltaError, lane::CpuLane, quant::gguf, samples::Samples, train::evaluate,
};
use lamplight_proto::{
    delta::Metrics,
    envelope::{Signed, TrustedKeys},
    ids::{ModelVersion, RoundId},
    release::{Contribution, ReleaseManifest, Rule},
};

use super::phase::{Built, Effect, Event, Phase, PhaseName, Publishing};
use crate::{
    aggregate::{AggregateError, clip_factor, weight},
    blob::BlobError,
    dir::write_file,
    fault::{Broken, Fault},
    house::House,
    release::{self, BuildError, Draft, Lineage},
    store::{
        StoreError, participants,
        releases::{self, Release},
        rounds::{self, Round},
        tasks::{self, Task},
    },
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// First wait after the store could not be read; doubles up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Why a step was not done.
enum Stuck {
    /// It may work later: the disk is full, the database is locked.
    Later(Broken),
    /// It never will.
    Never(String),
}

impl From<Broken> for Stuck {
    fn from(e: Broken) -> Self {
        match e {
            Broken::Blob(e) if e.is_final() => Self::Never(e.to_string()),
            Broken::Store(e @ StoreError::Damaged { .. }) => Self::Never(e.to_string()),
            e => Self::Later(e),
        }
    }
}

impl From<StoreError> for Stuck {
    fn from(e: StoreError) -> Self {
        Broken::from(e).into()
    }
}

impl From<BlobError> for Stuck {
    fn from(e: BlobError) -> Self {
        Broken::from(e).into()
    }
}

impl From<BuildError> for Stuck {
    fn from(e: BuildError) -> Self {
        use AggregateError as A;
        let disk = match &e {
            BuildError::Open { source, .. } => Some(source.kind()),
            BuildError::Aggregate(e) => match &**e {
                A::Io { source, .. } => Some(source.kind()),
                A::Delta {
                    source: DeltaError::Io { .. },
                    ..
                } => Some(io::ErrorKind::Other),
                _ => None,
            },
            _ => None,
        };
        match disk {
            Some(kind) if kind != io::ErrorKind::NotFound => Self::Later(Broken::File {
                path: "blobs".into(),
                source: io::Error::other(e),
            }),
            _ => Self::Never(format!("aggregation failed: {e}")),
        }
    }
}

impl House {
    /// Does one unit of round work: a round that is due, an overdue
    /// deadline, or a step some round owes. Answers whether
    /// there was any.
    ///
    /// Killed at any point, a step is done again after a restart with the same result.
    ///
    /// A round whose step fails for a reason that may pass rests, longer each time, while all others go
    /// on.
    ///
    /// # Errors
    /// [`Broken`] when tasks and rounds cannot be read, or none that is due can be begun.
    pub fn advance(&self) -> Result<bool, Broken> {
        let begun = self.begin_due();
        if let Ok(true) = begun {
            return Ok(true);
        }
        for round in self.store.read(rounds::running)? {
            if self.engine.is_resting(round.id) {
                continue;
            }
            match self.advance_round(&round) {
                Ok(has_moved) => {
                    self.engine.rested(round.id);
                    if has_moved {
                        return Ok(true);
                    }
                }
                Err(e) => {
                    let retry_in = self.engine.rest(round.id);
                    tracing::error!(round = %round.id, ?retry_in, "a round's step failed: {e}");
                }
            }
        }
        begun
    }

    fn advance_round(&self, round: &Round) -> Result<bool, Broken> {
        if round.phase == PhaseName::Collecting {
            if self.now() < round.deadline {
                return Ok(false);
            }
            return Ok(self.tick(round.id)? != PhaseName::Collecting);
        }
        let phase = (self.phase(round.id, Phase::clone)).map_err(|e| unrefused(round.id, e))?;
        let done = match phase.owes() {
            Some(Effect::Aggregate) => self.aggregate(round),
            Some(Effect::Evaluate) => self.evaluate(round, &phase),
            Some(Effect::Publish) => match phase {
                Phase::Publishing(p) => self.publish(round, p),
                _ => return Ok(false),
            },
            Some(Effect::Continue(_) | Effect::Stop(_)) | None => return Ok(false),
        };
        match done {
            Ok(()) => Ok(true),
            Err(Stuck::Later(e)) => Err(e),
            Err(Stuck::Never(reason)) => {
                self.apply(round.id, Event::GaveUp(reason), |_| Ok(()), |_| Ok(()))
                    .map_err(|e| unrefused(round.id, e))?;
                Ok(true)
            }
        }
    }

    fn task_and_base(&self, round: &Round) -> Result<(Task, Release), Stuck> {
        let damaged = |column, id: String| StoreError::Damaged {
            column,
            fault: format!("{id}, which is gone"),
        };
        Ok(self.store.read(|c| {
            let task = tasks::find(c, round.task)?
                .ok_or_else(|| damaged("rounds.task", round.task.to_string()))?;
            let base = releases::find(c, &round.model, round.base_version)?
                .ok_or_else(|| damaged("rounds.base_version", round.base_version.to_string()))?;
            Ok::<_, StoreError>((task, base))
        })?)
    }

    fn aggregate(&self, round: &Round) -> Result<(), Stuck> {
        let (task, base) = self.task_and_base(round)?;
        let members = self.store.read(|c| participants::of_round(c, round.id))?;
        let contributions: Vec<Contribution> = (members.into_iter())
            .filter_map(|p| p.delta.map(|d| (p.node, d)))
            .map(|(node_id, d)| Contribution {
                node_id,
                delta_digest: d.digest,
                manifest_digest: d.manifest_digest,
                weight: weight(d.sample_count, task.weight_cap),
                clip_factor: clip_factor(d.norm, task.clip_norm),
            })
            .collect();
        let carry = base.carry.map(|d| self.blobs.read(d)).transpose()?;
        let built = release::build(
            &self.blobs.read(base.digest)?,
            carry.as_deref(),
            Rule::FedAvg,
            task.training.trainable,
            &contributions,
            |c| File::open(self.blobs.path(c.delta_digest)),
        )?;
        self.blobs.put(&built.gguf)?;
        if let Some(carry) = &built.carry {
            self.blobs.put(carry)?;
        }
        let manifest = Signed::<ReleaseManifest>::from_bytes(&base.envelope)
            .ok()
            .and_then(|s| {
                s.verify(&TrustedKeys::new([self.release_key.public()]))
                    .ok()
            })
            .ok_or_else(|| {
                Stuck::Never(format!(
                    "release {} of {} is not signed by this coordinator's key",
                    base.version, base.model
                ))
            })?;
        let lineage = Lineage {
            round: round.id,
            base: manifest.get(),
            rule: Rule::FedAvg,
            clip_norm: task.clip_norm,
            weight_cap: task.weight_cap,
            trainable: task.training.trainable,
            contributions: contributions.clone(),
        };
        let draft = self.draft(round, ModelVersion(base.version.0 + 1), None);
        let drafted = draft.aggregated(&built, lineage);
        let Some(provenance) = drafted.provenance else {
            return Err(Stuck::Never("aggregation told no provenance".into()));
        };
        let event = Event::Aggregated(Box::new(Built {
            digest: drafted.digest,
            size: drafted.size,
            carry: drafted.carry_digest,
            provenance,
        }));
        self.done(round.id, event, |tx| {
            for c in &contributions {
                participants::clipped(tx, round.id, &c.node_id, c.clip_factor)?;
            }
            Ok(())
        })
    }

    fn draft(&self, round: &Round, version: ModelVersion, evaluation: Option<Metrics>) -> Draft {
        Draft {
            deployment: self.deployment.clone(),
            model: round.model.clone(),
            version,
            created: self.now(),
            evaluation,
        }
    }

    fn evaluate(&self, round: &Round, phase: &Phase) -> Result<(), Stuck> {
        let Phase::Evaluating(step) = phase else {
            return Ok(());
        };
        let (task, _) = self.task_and_base(round)?;
        let never = |e: &dyn std::fmt::Display| Stuck::Never(format!("evaluation failed: {e}"));
        let metrics = match task.evaluation {
            None => None,
            Some(digest) => {
                let samples =
                    Samples::from_bytes(&self.blobs.read(digest)?).map_err(|e| never(&e))?;
                let model =
                    gguf::read(&self.blobs.read(step.built.digest)?).map_err(|e| never(&e))?;
                let samples =
                    (samples.in_classes_of(&model.info.classes)).map_err(|e| never(&e))?;
                let lane = CpuLane::new(self.config.threads);
                let found = evaluate(&model, &samples, &lane).map_err(|e| never(&e))?;
                if !found.loss.is_finite() {
                    let loss = found.loss;
                    return Err(never(&format!(
                        "the new model's loss is {loss}; it is not published"
                    )));
                }
                Some(Metrics {
                    samples: found.samples as u64,
                    loss: found.loss,
                    accuracy: found.accuracy,
                })
            }
        };
        let event = Event::Evaluated(metrics, self.now());
        self.done(round.id, event, |_| Ok(()))
    }

    fn publish(&self, round: &Round, step: Publishing) -> Result<(), Stuck> {
        let newest = self.store.read(|c| releases::newest(c, &round.model))?;
        let version = ModelVersion(newest.map_or(0, |r| r.version.0) + 1);
        let deltas = step.built.provenance.contributions.len();
        let manifest = ReleaseManifest {
            deployment: self.deployment.clone(),
            model: round.model.clone(),
            version,
            digest: step.built.digest,
            size: step.built.size,
            provenance: Some(step.built.provenance),
            carry_digest: step.built.carry,
            created: step.created,
            evaluation: step.evaluation,
        };
        let signed =
            release::sign(manifest, &self.release_key).map_err(|e| Stuck::Never(e.to_string()))?;
        let envelope = signed.signed().to_bytes();
        // Before the row: what the store names is on disk. Signed again after a crash, it is the same.
        write_file(&self.dir.files().release(&round.model, version), &envelope)?;
        let release = Release {
            model: round.model.clone(),
            version,
            digest: step.built.digest,
            size: step.built.size,
            carry: step.built.carry,
            round: Some(round.id),
            deltas: u32::try_from(deltas).unwrap_or(u32::MAX),
            evaluation: step.evaluation,
            created: step.created,
            envelope,
        };
        self.done(round.id, Event::Released(version), |tx| {
            Ok(releases::insert(tx, &release)?)
        })?;
        tracing::info!(
            model = %round.model,
            version = version.0,
            deltas,
            digest = %release.digest,
            "release published"
        );
        Ok(())
    }

    fn done(
        &self,
        round: RoundId,
        event: Event,
        also: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<(), Fault>,
    ) -> Result<(), Stuck> {
        self.apply(round, event, |_| Ok(()), also)
            .map_err(|e| unrefused(round, e))?;
        Ok(())
    }
}

/// The worker refuses nothing: what looks like a refusal is a damaged store.
fn unrefused(round: RoundId, fault: Fault) -> Broken {
    match fault {
        Fault::Broken(e) => e,
        Fault::Refused(r) => StoreError::Damaged {
            column: "rounds",
            fault: format!("round {round}: {r}"),
        }
        .into(),
    }
}

/// Drives all rounds until `stop` turns true. The step in hand is finished first.
///
/// # Errors
/// [`Broken::Task`] when a step's thread panicked.
pub async fn drive(house: Arc<House>, mut stop: watch::Receiver<bool>) -> Result<(), Broken> {
    let mut wait = TICK;
    while !*stop.borrow_and_update() {
        let worker = house.clone();
        let step = tokio::task::spawn_blocking(move || worker.advance());
        match step.await.map_err(|_| Broken::Task("the round worker"))? {
            Ok(true) => {
                wait = TICK;
                continue;
            }
            Ok(false) => wait = TICK,
            Err(e) => {
                wait = (wait * 2).clamp(RETRY, MAX_RETRY);
                tracing::error!(retry_in = ?wait, "rounds cannot be looked at: {e}");
            }
        }
        tokio::select! {
            () = house.engine.wake.notified(), if wait == TICK => {}
            () = tokio::time::sleep(wait) => {}
            // An error means the sender is gone: nobody else will stop this.
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
    Ok(())
}
