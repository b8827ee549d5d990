//! Persists each step of a round before anyone hears of it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::Transaction;
use tokio::sync::Notify;

use lamplight_proto::{
    ids::{NodeId, RoundId, UnixMillis},
    refusal::{Reason, Refusal},
};

use super::{
    phase::{Effect, Event, Phase, PhaseName, Stored, Terms},
    series::{self, Ended},
};
use crate::{
    fault::{Broken, Fault},
    house::House,
    store::{
        StoreError,
        participants::{self, State},
        rounds, tasks,
    },
};

/// Phases at hand. The rows of the store are the truth; this spares reading a cohort per delta.
#[derive(Default)]
pub struct Engine {
    phases: Mutex<HashMap<RoundId, Phase>>,
    /// Rounds whose last step failed for a reason that may pass, and when it is tried again.
    resting: Mutex<HashMap<RoundId, Rest>>,
    /// Wakes the worker when a round owes a step.
    pub(super) wake: Notify,
}

/// The pause after a step that failed.
#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    wait: Duration,
}

/// First pause; doubles up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

impl Engine {
    fn resting(&self) -> MutexGuard<'_, HashMap<RoundId, Rest>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a round's failed step is not to be tried again yet.
    pub(super) fn is_resting(&self, id: RoundId) -> bool {
        (self.resting().get(&id)).is_some_and(|rest| Instant::now() < rest.until)
    }

    /// A round's step failed: answers how long it is left alone, twice as long each time. Others go on.
    pub(super) fn rest(&self, id: RoundId) -> Duration {
        let mut resting = self.resting();
        let wait = (resting.get(&id)).map_or(FIRST_REST, |rest| (rest.wait * 2).min(LONGEST_REST));
        let until = Instant::now() + wait;
        resting.insert(id, Rest { until, wait });
        wait
    }

    /// A round's step was done, or none was owed.
    pub(super) fn rested(&self, id: RoundId) {
        self.resting().remove(&id);
    }

    fn phases(&self) -> MutexGuard<'_, HashMap<RoundId, Phase>> {
        // An entry is out of the map while it is worked on, so a panic leaves no half-made one.
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(id: RoundId) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        format!("there is no round {id}; see: lamplight round list"),
    )
}

impl House {
    /// Reads a round's phase from the store.
    fn load(&self, id: RoundId) -> Result<Phase, Fault> {
        let (round, members, task) = self.store.read(|c| {
            let round = rounds::find(c, id)?.ok_or_else(|| not_found(id))?;
            let members = participants::of_round(c, id)?;
            let task = tasks::find(c, round.task)?.ok_or_else(|| not_found(id))?;
            Ok::<_, Fault>((round, members, task))
        })?;
        let with = |state| {
            (members.iter())
                .filter(move |p| p.state == state)
                .map(|p| p.node.clone())
                .collect()
        };
        let stored = Stored {
            name: round.phase,
            knows: round.knows,
            terms: Terms {
                target: task.target,
                minimum: task.minimum,
                deadline: round.deadline,
                cohort: members.iter().map(|p| p.node.clone()).collect(),
            },
            accepted: with(State::Accepted),
            failed: with(State::Failed),
        };
        Ok(Phase::restore(stored).map_err(|e| StoreError::Damaged {
            column: "rounds.knows",
            fault: e.to_string(),
        })?)
    }

    /// Looks at a round's phase.
    ///
    /// # Errors
    /// Refuses a round that does not exist.
    pub fn phase<T>(&self, id: RoundId, look: impl FnOnce(&Phase) -> T) -> Result<T, Fault> {
        let mut phases = self.engine.phases();
        if let Some(phase) = phases.get(&id) {
            return Ok(look(phase));
        }
        let phase = self.load(id)?;
        let seen = look(&phase);
        if !phase.name().is_end() {
            phases.insert(id, phase);
        }
        Ok(seen)
    }

    /// Takes an event into a round: `admit` may refuse it, `also` is written in the transaction that
    /// persists the step. When anything fails, nothing has happened.
    ///
    /// # Errors
    /// Those of `admit` and `also`; [`Broken`] when the step could not be persisted.
    pub(super) fn apply(
        &self,
        id: RoundId,
        event: Event,
        admit: impl FnOnce(&Phase) -> Result<(), Fault>,
        also: impl FnOnce(&Transaction<'_>) -> Result<(), Fault>,
    ) -> Result<PhaseName, Fault> {
        // Held to the end: steps of rounds follow one another.
        let mut phases = self.engine.phases();
        // Out of the map: after a failure the next call reads the truth from the store.
        let phase = match phases.remove(&id) {
            Some(phase) => phase,
            None => self.load(id)?,
        };
        if let Err(refused) = admit(&phase) {
            if !phase.name().is_end() {
                phases.insert(id, phase);
            }
            return Err(refused);
        }
        let before = phase.name();
        let (next, effects) = phase.step(event);
        let name = next.name();
        self.store.write(|tx| {
            also(tx)?;
            if name != before {
                self.persist(tx, id, before, &next, &effects)?;
            }
            Ok::<_, Fault>(())
        })?;
        // Only now may anyone hear of it.
        if name != before {
            match &next {
                Phase::Abandoned { reason } => {
                    tracing::warn!(round = id.0, reason, "round abandoned");
                }
                _ => tracing::info!(round = id.0, from = %before, to = %name, "round moved on"),
            }
            self.engine.wake.notify_one();
        }
        if name.is_end() {
            self.watch.forget(id);
        } else {
            phases.insert(id, next);
        }
        Ok(name)
    }

    fn persist(
        &self,
        tx: &Transaction<'_>,
        id: RoundId,
        before: PhaseName,
        next: &Phase,
        effects: &[Effect],
    ) -> Result<(), Fault> {
        if before == PhaseName::Collecting {
            let round = rounds::find(tx, id)?.ok_or_else(|| not_found(id))?;
            participants::close(tx, id, round.started)?;
        }
        let damaged = |e: serde_json::Error| StoreError::Damaged {
            column: "rounds.knows",
            fault: e.to_string(),
        };
        let moved = rounds::Moved {
            phase: next.name(),
            knows: next.knows().map_err(damaged)?,
            reason: match next {
                Phase::Abandoned { reason } => reason,
                _ => "",
            },
            release_version: match next {
                Phase::Published(version) => Some(*version),
                _ => None,
            },
            evaluation: match next {
                Phase::Publishing(p) => p.evaluation,
                _ => None,
            },
            ended: next.name().is_end().then(|| self.now()),
        };
        rounds::set_phase(tx, id, &moved)?;
        for effect in effects {
            match effect {
                Effect::Continue(version) => {
                    series::after(self, tx, id, &Ended::Published(*version))?;
                }
                Effect::Stop(reason) => series::after(self, tx, id, &Ended::Abandoned(reason))?,
                // Owed by the new phase; the worker asks for it.
                Effect::Aggregate | Effect::Evaluate | Effect::Publish => {}
            }
        }
        Ok(())
    }

    /// Keeps a delta that passed every check.
    ///
    /// # Errors
    /// Refuses when the round no longer waits for this node.
    pub fn accept(
        &self,
        round: RoundId,
        node: &NodeId,
        delta: &participants::Delta,
        also: impl FnOnce(&Transaction<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.apply(
            round,
            Event::Accepted(node.clone()),
            |phase| awaits(phase, round, node).map(drop),
            |tx| {
                participants::accept(tx, round, node, delta)?;
                also(tx)
            },
        )?;
        tracing::info!(
            round = round.0,
            node = %node,
            bytes = delta.bytes,
            norm = delta.norm,
            samples = delta.sample_count,
            "delta accepted"
        );
        Ok(())
    }

    /// Notes that a node will deliver nothing. Answers whether that was news.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn give_up(&self, round: RoundId, node: &NodeId, reason: &str) -> Result<bool, Fault> {
        let outcome = self.apply(
            round,
            Event::Failed(node.clone()),
            |phase| awaits(phase, round, node).map(drop),
            |tx| Ok(participants::note(tx, round, node, State::Failed, reason)?),
        );
        match outcome {
            Ok(_) => {
                tracing::warn!(round = round.0, node = %node, reason, "node will deliver nothing");
                Ok(true)
            }
            Err(Fault::Refused(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Rounds whose deadline has passed stop waiting.
    ///
    /// # Errors
    /// [`Broken`].
    pub(super) fn tick(&self, round: RoundId) -> Result<PhaseName, Broken> {
        let event = Event::Tick(self.now());
        match self.apply(round, event, |_| Ok(()), |_| Ok(())) {
            Ok(name) => Ok(name),
            Err(Fault::Broken(e)) => Err(e),
            // The round is there, and nothing here refuses.
            Err(Fault::Refused(r)) => Err(StoreError::Damaged {
                column: "rounds.id",
                fault: r.to_string(),
            }
            .into()),
        }
    }
}

/// Refuses unless the round waits for this node; answers until when.
pub(crate) fn awaits(phase: &Phase, round: RoundId, node: &NodeId) -> Result<UnixMillis, Fault> {
    let refuse = |why: String| Err(Refusal::new(Reason::RoundClosed, why).into());
    match phase {
        Phase::Collecting(c) if c.awaits(node) => Ok(c.deadline()),
        Phase::Collecting(_) => refuse(format!(
            "round {round} does not wait for {node}: it was not asked, or has ended"
        )),
        other => refuse(format!(
            "round {round} is {}, deltas are taken while it is collecting; drop the task",
            other.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_whose_step_failed_rests_longer_each_time_and_no_other_does() {
        let engine = Engine::default();
        let (stuck, other) = (RoundId(1), RoundId(2));
        assert!(!engine.is_resting(stuck));
        let waits: Vec<Duration> = (0..9).map(|_| engine.rest(stuck)).collect();
        assert_eq!(waits[..2], [FIRST_REST, FIRST_REST * 2]);
        assert_eq!(waits[8], LONGEST_REST);
        assert!(engine.is_resting(stuck) && !engine.is_resting(other));
        engine.rested(stuck);
        assert_eq!(engine.rest(stuck), FIRST_REST);
    }
}
