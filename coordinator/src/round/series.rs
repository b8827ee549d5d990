//! What follows a round: the next one of its task, at once or when it is due, or the task's end.

use std::time::Duration;

use rusqlite::Transaction;

use lamplight_proto::{
    ids::{ModelVersion, RoundId, TaskId, UnixMillis},
    refusal::{Reason, Refusal},
};

use super::start::open_round;
use crate::{
    fault::{Broken, Fault},
    house::House,
    store::{
        StoreError, releases, rounds,
        tasks::{self, Course},
    },
};

/// How a round ended.
pub(super) enum Ended<'a> {
    /// With this release.
    Published(ModelVersion),
    /// Without one.
    Abandoned(&'a str),
}

fn gone(round: RoundId, what: &str) -> Refusal {
    Refusal::new(Reason::NotFound, format!("round {round} has no {what}"))
}

/// After a round's end: opens or plans the task's next one, or ends the task.
///
/// A task that recurs goes on after a round that came to nothing: tomorrow's nodes may be awake. One
/// that does not is stopped, for every further round would start from the same base and the same
/// trouble.
pub(super) fn after(
    house: &House,
    tx: &Transaction<'_>,
    id: RoundId,
    ended: &Ended<'_>,
) -> Result<(), Fault> {
    let round = rounds::find(tx, id)?.ok_or_else(|| gone(id, "row"))?;
    let course = tasks::course(tx, round.task)?.ok_or_else(|| gone(id, "task"))?;
    let trouble = match ended {
        Ended::Published(_) => None,
        Ended::Abandoned(why) => Some(*why),
    };
    if course.state == "stopping" {
        return Ok(tasks::end(tx, course.id, Some("an operator stopped it"))?);
    }
    if course.is_over() {
        return Ok(tasks::end(tx, course.id, trouble)?);
    }
    match (course.task.every, ended) {
        (Some(every), _) => Ok(plan(
            house,
            tx,
            &course,
            every,
            trouble.unwrap_or_default(),
        )?),
        (None, Ended::Abandoned(why)) => Ok(tasks::end(tx, course.id, Some(why))?),
        (None, Ended::Published(base)) => {
            let place = round.place + 1;
            match open_round(house, tx, course.id, &course.task, place, *base) {
                Ok(_) => Ok(()),
                // The release stands; only the task cannot go on.
                Err(Fault::Refused(r)) => Ok(tasks::end(tx, course.id, Some(&r.message))?),
                Err(e) => Err(e),
            }
        }
    }
}

/// The first beginning after `now`, counted in whole steps from the task's start: a round that took
/// long does not shift those after it.
fn slot(created: UnixMillis, every: Duration, now: UnixMillis) -> UnixMillis {
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let passed = now.0.saturating_sub(created.0).max(0) / every;
    UnixMillis((created.0).saturating_add(passed.saturating_add(1).saturating_mul(every)))
}

fn plan(
    house: &House,
    tx: &Transaction<'_>,
    course: &Course,
    every: Duration,
    trouble: &str,
) -> Result<(), StoreError> {
    let next = slot(course.created, every, house.now());
    if course.task.until.is_some_and(|until| next >= until) {
        return tasks::end(tx, course.id, None);
    }
    tasks::plan(tx, course.id, Some(next), trouble)
}

impl House {
    /// Begins the rounds that are due. Answers whether there was one.
    ///
    /// # Errors
    /// The first [`Broken`]; tasks after the broken one were still looked at.
    pub(super) fn begin_due(&self) -> Result<bool, Broken> {
        let due = self.store.read(|c| tasks::due(c, self.now()))?;
        let mut broken = None;
        for course in &due {
            if let Err(e) = self.begin_next(course) {
                broken = broken.or(Some(e));
            }
        }
        broken.map_or(Ok(!due.is_empty()), Err)
    }

    fn begin_next(&self, course: &Course) -> Result<(), Broken> {
        let (id, model) = (course.id, &course.task.model);
        let begun = self.store.write(|tx| {
            // Asked anew inside the transaction: an operator may have stopped it.
            let Some(course) = tasks::course(tx, id)?.filter(|c| c.next.is_some()) else {
                return Ok(None);
            };
            if course.task.until.is_some_and(|until| self.now() >= until) {
                tasks::end(tx, id, None)?;
                return Ok(None);
            }
            let base = releases::newest(tx, model)?.ok_or_else(|| StoreError::Damaged {
                column: "tasks.model",
                fault: format!("{model}, which has no release"),
            })?;
            let place = course.begun + 1;
            let round = open_round(self, tx, id, &course.task, place, base.version)?;
            tasks::plan(tx, id, None, "")?;
            Ok(Some(round))
        });
        match begun {
            Ok(Some(round)) => {
                tracing::info!(task = id.0, round = round.0, %model, "round begun");
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(Fault::Broken(e)) => Err(e),
            // Too few nodes now; there may be more the next time.
            Err(Fault::Refused(r)) => {
                tracing::warn!(task = id.0, %model, "the round did not begin: {}", r.message);
                let every = course.task.every.unwrap_or(Duration::from_secs(1));
                Ok(self
                    .store
                    .write(|tx| plan(self, tx, course, every, &r.message))?)
            }
        }
    }

    /// Sees to it that no further round of a task begins. Repeated, it changes nothing.
    ///
    /// # Errors
    /// Refuses a task that does not exist.
    pub fn stop_task(&self, id: TaskId) -> Result<Course, Fault> {
        let missing = || {
            Refusal::new(
                Reason::NotFound,
                format!("there is no task {id}; lamplight task list shows those there are"),
            )
        };
        self.store.write(|tx| {
            let course = tasks::course(tx, id)?.ok_or_else(missing)?;
            if course.state == "running" {
                tasks::ask_to_stop(tx, id)?;
                // Between two rounds nothing is waited for.
                if course.next.is_some() {
                    tasks::end(tx, id, Some("an operator stopped it"))?;
                }
                tracing::info!(task = id.0, model = %course.task.model, "no further round begins");
            }
            Ok(tasks::course(tx, id)?.ok_or_else(missing)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_begin_in_whole_steps_from_the_start_however_long_one_took() {
        let at = |now| {
            slot(
                UnixMillis(1_000),
                Duration::from_millis(100),
                UnixMillis(now),
            )
            .0
        };
        assert_eq!(at(1_000), 1_100);
        assert_eq!(at(1_099), 1_100);
        assert_eq!(at(1_100), 1_200);
        assert_eq!(at(1_730), 1_800);
        // A clock that went back.
        assert_eq!(at(10), 1_100);
    }
}
