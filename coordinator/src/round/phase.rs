//! The phases of a round as types, and the one function that moves between them.
//!
//! A phase holds only what it knows. [`Phase::step`] consumes it and does no IO; the effects it
//! answers are carried out by [`super::engine`] after the new phase is on disk.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use lamplight_proto::{
    delta::Metrics,
    ids::{Digest, ModelVersion, NodeId, UnixMillis},
    release::Provenance,
};

/// When a round closes. Fixed as it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Close on this many accepted deltas; 0 means the whole cohort.
    pub target: u32,
    /// With fewer the round is abandoned.
    pub minimum: u32,
    /// When waiting ends.
    pub deadline: UnixMillis,
    /// Who is asked.
    pub cohort: BTreeSet<NodeId>,
}

impl Terms {
    /// Never below the minimum, whatever the target says.
    fn wanted(&self) -> usize {
        let target = match self.target {
            0 => self.cohort.len(),
            n => n as usize,
        };
        target.max(self.enough())
    }

    /// A release is made of at least one delta.
    fn enough(&self) -> usize {
        self.minimum.max(1) as usize
    }
}

/// Waiting for deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collecting {
    terms: Terms,
    accepted: BTreeSet<NodeId>,
    failed: BTreeSet<NodeId>,
}

/// Adding up the accepted deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregating {
    accepted: BTreeSet<NodeId>,
}

/// What aggregation made: the files are in the blob directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// SHA-256 of the model file.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of what quantizing rounded away.
    pub carry: Option<Digest>,
    /// From what and how.
    pub provenance: Provenance,
}

/// Trying the new model on the operator's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluating {
    /// What is tried.
    pub built: Built,
}

/// Signing and announcing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Publishing {
    /// What is published.
    pub built: Built,
    /// How good it is.
    pub evaluation: Option<Metrics>,
    /// Goes into the manifest, so that a repeated publication signs the same bytes.
    pub created: UnixMillis,
}

/// Where a round stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Waiting for deltas.
    Collecting(Collecting),
    /// Adding up.
    Aggregating(Aggregating),
    /// Trying the result.
    Evaluating(Evaluating),
    /// Signing and announcing.
    Publishing(Publishing),
    /// Done.
    Published(ModelVersion),
    /// Given up.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// A phase's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseName {
    /// See [`Phase::Collecting`].
    Collecting,
    /// See [`Phase::Aggregating`].
    Aggregating,
    /// See [`Phase::Evaluating`].
    Evaluating,
    /// See [`Phase::Publishing`].
    Publishing,
    /// See [`Phase::Published`].
    Published,
    /// See [`Phase::Abandoned`].
    Abandoned,
}

impl PhaseName {
    /// As stored and listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collecting => "collecting",
            Self::Aggregating => "aggregating",
            Self::Evaluating => "evaluating",
            Self::Publishing => "publishing",
            Self::Published => "published",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Published | Self::Abandoned)
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PhaseName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [
            Self::Collecting,
            Self::Aggregating,
            Self::Evaluating,
            Self::Publishing,
            Self::Published,
            Self::Abandoned,
        ]
        .into_iter()
        .find(|p| p.as_str() == text)
        .ok_or_else(|| format!("{text:?}, which is no phase"))
    }
}

/// All that can happen to a round.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A delta of this node passed every check.
    Accepted(NodeId),
    /// This node reported that it will deliver none.
    Failed(NodeId),
    /// Time went by.
    Tick(UnixMillis),
    /// Aggregation made a model.
    Aggregated(Box<Built>),
    /// The model was tried (or there was nothing to try it on).
    Evaluated(Option<Metrics>, UnixMillis),
    /// The release is signed and kept under this version.
    Released(ModelVersion),
    /// The step in hand cannot be done, now or later.
    GaveUp(String),
}

/// What must be done after a step, once the new phase is on disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Add up the accepted deltas; answer [`Event::Aggregated`].
    Aggregate,
    /// Try the built model; answer [`Event::Evaluated`].
    Evaluate,
    /// Sign and keep the release; answer [`Event::Released`].
    Publish,
    /// Open the task's next round on this release, or end the task.
    Continue(ModelVersion),
    /// End the task for this reason.
    Stop(String),
}

fn abandon(reason: String) -> (Phase, Vec<Effect>) {
    let effects = vec![Effect::Stop(reason.clone())];
    (Phase::Abandoned { reason }, effects)
}

impl Collecting {
    /// Whether `node` may still deliver: it was asked and has not ended.
    #[must_use]
    pub fn awaits(&self, node: &NodeId) -> bool {
        self.terms.cohort.contains(node)
            && !self.accepted.contains(node)
            && !self.failed.contains(node)
    }

    /// When waiting ends.
    #[must_use]
    pub fn deadline(&self) -> UnixMillis {
        self.terms.deadline
    }

    fn close(self, why: &str) -> (Phase, Vec<Effect>) {
        let Self {
            terms,
            accepted,
            failed,
        } = self;
        if accepted.len() >= terms.enough() {
            return (
                Phase::Aggregating(Aggregating { accepted }),
                vec![Effect::Aggregate],
            );
        }
        abandon(format!(
            "{why} with {} accepted of at least {}; {} of {} nodes reported failure",
            accepted.len(),
            terms.enough(),
            failed.len(),
            terms.cohort.len()
        ))
    }

    fn step(mut self, event: Event) -> (Phase, Vec<Effect>) {
        match event {
            Event::Accepted(node) if self.awaits(&node) => {
                self.accepted.insert(node);
            }
            Event::Failed(node) if self.awaits(&node) => {
                self.failed.insert(node);
            }
            Event::Tick(now) if now >= self.terms.deadline => {
                return self.close("the deadline passed");
            }
            Event::GaveUp(reason) => return abandon(reason),
            _ => return (Phase::Collecting(self), Vec::new()),
        }
        if self.accepted.len() >= self.terms.wanted() {
            self.close("the target was reached")
        } else if self.accepted.len() + self.failed.len() >= self.terms.cohort.len() {
            self.close("every node ended")
        } else {
            (Phase::Collecting(self), Vec::new())
        }
    }
}

impl Aggregating {
    /// Whose deltas are added up.
    #[must_use]
    pub fn accepted(&self) -> &BTreeSet<NodeId> {
        &self.accepted
    }

    fn step(self, event: Event) -> (Phase, Vec<Effect>) {
        match event {
            Event::Aggregated(built) => {
                let used: Vec<&NodeId> = (built.provenance.contributions.iter())
                    .map(|c| &c.node_id)
                    .collect();
                // Each accepted node once, in order, and nobody else.
                if !used.iter().copied().eq(&self.accepted) {
                    return abandon(format!(
                        "aggregation used {} deltas, {} were accepted",
                        used.len(),
                        self.accepted.len()
                    ));
                }
                let built = *built;
                (
                    Phase::Evaluating(Evaluating { built }),
                    vec![Effect::Evaluate],
                )
            }
            Event::GaveUp(reason) => abandon(reason),
            _ => (Phase::Aggregating(self), Vec::new()),
        }
    }
}

impl Evaluating {
    fn step(self, event: Event) -> (Phase, Vec<Effect>) {
        match event {
            Event::Evaluated(evaluation, created) => {
                let phase = Publishing {
                    built: self.built,
                    evaluation,
                    created,
                };
                (Phase::Publishing(phase), vec![Effect::Publish])
            }
            Event::GaveUp(reason) => abandon(reason),
            _ => (Phase::Evaluating(self), Vec::new()),
        }
    }
}

impl Publishing {
    fn step(self, event: Event) -> (Phase, Vec<Effect>) {
        match event {
            Event::Released(version) => {
                (Phase::Published(version), vec![Effect::Continue(version)])
            }
            Event::GaveUp(reason) => abandon(reason),
            _ => (Phase::Publishing(self), Vec::new()),
        }
    }
}

/// A phase as rows of the store hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Which phase.
    pub name: PhaseName,
    /// [`Phase::knows`].
    pub knows: Option<String>,
    /// When it closes, and who was asked.
    pub terms: Terms,
    /// Nodes whose delta was accepted.
    pub accepted: BTreeSet<NodeId>,
    /// Nodes that reported failure.
    pub failed: BTreeSet<NodeId>,
}

impl Phase {
    /// A round opens.
    #[must_use]
    pub fn open(terms: Terms) -> Self {
        Self::Collecting(Collecting {
            terms,
            accepted: BTreeSet::new(),
            failed: BTreeSet::new(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Collecting(_) => PhaseName::Collecting,
            Self::Aggregating(_) => PhaseName::Aggregating,
            Self::Evaluating(_) => PhaseName::Evaluating,
            Self::Publishing(_) => PhaseName::Publishing,
            Self::Published(_) => PhaseName::Published,
            Self::Abandoned { .. } => PhaseName::Abandoned,
        }
    }

    /// Takes in an event: the phase that follows, and what to do once that is on disk. An event that
    /// a phase does not expect (late, repeated) changes nothing.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match self {
            Self::Collecting(p) => p.step(event),
            Self::Aggregating(p) => p.step(event),
            Self::Evaluating(p) => p.step(event),
            Self::Publishing(p) => p.step(event),
            end @ (Self::Published(_) | Self::Abandoned { .. }) => (end, Vec::new()),
        }
    }

    /// What the phase still owes, e.g. after a restart. [`Effect::Continue`] and [`Effect::Stop`] are
    /// done in the transaction that ends a round and are never owed.
    #[must_use]
    pub fn owes(&self) -> Option<Effect> {
        match self {
            Self::Aggregating(_) => Some(Effect::Aggregate),
            Self::Evaluating(_) => Some(Effect::Evaluate),
            Self::Publishing(_) => Some(Effect::Publish),
            Self::Collecting(_) | Self::Published(_) | Self::Abandoned { .. } => None,
        }
    }

    /// What the phase knows beside its participants, as JSON.
    ///
    /// # Errors
    /// What the serializer says.
    pub fn knows(&self) -> Result<Option<String>, serde_json::Error> {
        Ok(match self {
            Self::Collecting(_) | Self::Aggregating(_) => None,
            Self::Evaluating(p) => Some(serde_json::to_string(p)?),
            Self::Publishing(p) => Some(serde_json::to_string(p)?),
            Self::Published(version) => Some(serde_json::to_string(version)?),
            Self::Abandoned { reason } => Some(serde_json::to_string(reason)?),
        })
    }

    /// The phase that rows of the store describe.
    ///
    /// # Errors
    /// What the parser says of [`Stored::knows`].
    pub fn restore(stored: Stored) -> Result<Self, serde_json::Error> {
        let knows = stored.knows.as_deref().unwrap_or("null");
        Ok(match stored.name {
            PhaseName::Collecting => Self::Collecting(Collecting {
                terms: stored.terms,
                accepted: stored.accepted,
                failed: stored.failed,
            }),
            PhaseName::Aggregating => Self::Aggregating(Aggregating {
                accepted: stored.accepted,
            }),
            PhaseName::Evaluating => Self::Evaluating(serde_json::from_str(knows)?),
            PhaseName::Publishing => Self::Publishing(serde_json::from_str(knows)?),
            PhaseName::Published => Self::Published(serde_json::from_str(knows)?),
            PhaseName::Abandoned => Self::Abandoned {
                reason: serde_json::from_str(knows)?,
            },
        })
    }
}
