//! Rows as operators see them.

use std::collections::HashMap;

use lamplight_proto::{
    ids::{NodeId, RoundId, TaskId},
    refusal::{Reason, Refusal},
    wire,
};

use super::Progress;
use crate::{
    fault::Fault,
    house::House,
    store::{
        StoreError,
        participants::{self, Participant, State},
        releases::{self, Release},
        rounds::{self, Round},
        tasks::Course,
    },
};

/// A release.
#[must_use]
pub fn release(r: &Release) -> wire::ReleaseView {
    wire::ReleaseView {
        model: r.model.to_string(),
        version: r.version.0,
        digest: r.digest.to_string(),
        size: r.size,
        round: r.round.map_or(0, |r| r.0),
        deltas: r.deltas,
        evaluation: r.evaluation.map(Into::into),
        created_unix_ms: r.created.0,
    }
}

fn participant(p: Participant, live: Option<&Progress>) -> wire::ParticipantView {
    let mut view = wire::ParticipantView {
        node_id: p.node.to_string(),
        name: p.name,
        state: p.state.as_str().to_owned(),
        reason: p.reason,
        clip_factor: p.clip_factor.unwrap_or(0.0),
        model_bytes: p.model_bytes,
        ..Default::default()
    };
    if let Some(live) = live {
        // What the store knows outweighs what the node last told, except before the end.
        if p.state == State::Offered && live.phase != "idle" {
            view.state = live.phase.to_owned();
        }
        (view.step, view.steps, view.loss) = (live.step, live.steps, live.loss);
    }
    if let Some(d) = p.delta {
        view.before = d.before.map(Into::into);
        view.after = d.after.map(Into::into);
        view.sample_count = d.sample_count;
        view.samples_aside = d.samples_aside;
        view.delta_bytes = d.bytes;
        view.delta_digest = d.digest.to_string();
        view.delta_norm = d.norm;
        view.training_seconds = d.training_seconds;
    }
    view
}

fn round(
    r: Round,
    (cohort, accepted): (u32, u32),
    members: Vec<Participant>,
    live: &HashMap<NodeId, Progress>,
) -> wire::RoundView {
    wire::RoundView {
        round: r.id.0,
        task: r.task.0,
        index: r.place,
        of: r.of,
        model: r.model.to_string(),
        phase: r.phase.to_string(),
        reason: r.reason,
        base_version: r.base_version.0,
        release_version: r.release_version.map_or(0, |v| v.0),
        started_unix_ms: r.started.0,
        ended_unix_ms: r.ended.map_or(0, |t| t.0),
        participants: (members.into_iter())
            .map(|p| {
                let told = live.get(&p.node);
                participant(p, told)
            })
            .collect(),
        evaluation: r.evaluation.map(Into::into),
        target_deltas: r.target,
        minimum_deltas: r.minimum,
        cohort_nodes: cohort,
        accepted_deltas: accepted,
    }
}

/// A task.
pub(crate) fn task(c: Course) -> wire::TaskView {
    let t = c.task;
    wire::TaskView {
        task: c.id.0,
        name: t.name,
        model: t.model.to_string(),
        state: c.state.to_owned(),
        reason: c.reason,
        rounds_begun: c.begun,
        rounds: t.rounds,
        every_seconds: t.every.map_or(0, |d| d.as_secs()),
        until_unix_ms: t.until.map_or(0, |u| u.0),
        next_round_unix_ms: c.next.map_or(0, |n| n.0),
        created_unix_ms: c.created.0,
        cohort_tags: (t.tags.terms().iter()).map(ToString::to_string).collect(),
        cohort_nodes: u32::try_from(t.cohort.map_or(0, |c| c.len())).unwrap_or(u32::MAX),
    }
}

impl House {
    /// All models, each with its newest release.
    ///
    /// # Errors
    /// [`crate::fault::Broken`].
    pub fn view_models(&self) -> Result<Vec<wire::ModelView>, Fault> {
        Ok(self.store.read(|c| {
            releases::models(c)?
                .into_iter()
                .map(|m| {
                    let newest = releases::newest(c, &m.name)?;
                    Ok(wire::ModelView {
                        name: m.name.to_string(),
                        architecture: m.architecture,
                        parameters: m.parameters,
                        classes: m.classes,
                        newest_version: newest.as_ref().map_or(0, |r| r.version.0),
                        newest_digest: newest.map(|r| r.digest.to_string()).unwrap_or_default(),
                    })
                })
                .collect::<Result<_, StoreError>>()
        })?)
    }

    /// Rounds without their participants, so that a long history stays a short answer.
    ///
    /// # Errors
    /// [`crate::fault::Broken`].
    pub fn view_rounds(&self, task: Option<TaskId>) -> Result<Vec<wire::RoundView>, Fault> {
        let nobody = HashMap::new();
        Ok(self.store.read(|c| {
            rounds::list(c, task)?
                .into_iter()
                .map(|r| {
                    let tally = participants::tally(c, r.id)?;
                    Ok(round(r, tally, Vec::new(), &nobody))
                })
                .collect::<Result<_, StoreError>>()
        })?)
    }

    /// A round with its participants.
    ///
    /// # Errors
    /// Refuses one that does not exist.
    pub fn view_round(&self, id: RoundId) -> Result<wire::RoundView, Fault> {
        let (row, tally, members) = self.store.read(|c| {
            let row = rounds::find(c, id)?.ok_or_else(|| {
                Refusal::new(
                    Reason::NotFound,
                    format!("there is no round {id}; see: lamplight round list"),
                )
            })?;
            let tally = participants::tally(c, id)?;
            Ok::<_, Fault>((row, tally, participants::of_round(c, id)?))
        })?;
        Ok(round(row, tally, members, &self.watch.of(id)))
    }
}
