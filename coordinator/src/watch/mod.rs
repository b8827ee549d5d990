//! How it goes: what nodes last told, and views for listings.
//!
//! Results of a round are rows of the store. Progress within a task is told often and lost without
//! harm, so it lives in memory, one entry per node that works, dropped when its round ends.

pub mod nodes;
pub mod views;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lamplight_proto::{
    Malformed,
    ids::{NodeId, RoundId},
    wire,
};

/// What a node may say it is doing.
const PHASES: [&str; 4] = ["idle", "preparing", "training", "uploading"];

/// A node's phase, or why it is none.
///
/// # Errors
/// [`Malformed`].
pub fn node_phase(text: &str) -> Result<&'static str, Malformed> {
    PHASES.into_iter().find(|p| *p == text).ok_or_else(|| {
        Malformed::new(
            "phase",
            format!(
                "{:?} is not one of {}",
                text.chars().take(32).collect::<String>(),
                PHASES.join(", ")
            ),
        )
    })
}

/// How a node's task goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Preparing, training or uploading.
    pub phase: &'static str,
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// Loss of the last step.
    pub loss: f64,
}

impl TryFrom<wire::Progress> for Progress {
    type Error = Malformed;
    fn try_from(p: wire::Progress) -> Result<Self, Malformed> {
        Ok(Self {
            phase: node_phase(&p.phase)?,
            step: p.step,
            steps: p.steps,
            // A loss that is no number is told by a failure report, not here.
            loss: if p.loss.is_finite() { p.loss } else { 0.0 },
        })
    }
}

/// Progress of all nodes that work.
#[derive(Debug, Default)]
pub struct Watch(Mutex<HashMap<RoundId, HashMap<NodeId, Progress>>>);

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<RoundId, HashMap<NodeId, Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a node does nothing for a round now; what it did before is no longer shown.
    pub fn rests(&self, round: RoundId, node: &NodeId) {
        if let Some(nodes) = self.lock().get_mut(&round) {
            nodes.remove(node);
        }
    }

    /// Notes a node's progress. The caller has checked that the round waits for the node.
    pub fn note(&self, round: RoundId, node: &NodeId, progress: Progress) {
        self.lock()
            .entry(round)
            .or_default()
            .insert(node.clone(), progress);
    }

    /// Progress of a round's nodes.
    #[must_use]
    pub fn of(&self, round: RoundId) -> HashMap<NodeId, Progress> {
        self.lock().get(&round).cloned().unwrap_or_default()
    }

    /// Progress of one node in a round.
    #[must_use]
    pub fn of_node(&self, round: RoundId, node: &NodeId) -> Option<Progress> {
        self.lock().get(&round)?.get(node).cloned()
    }

    /// The round ended.
    pub fn forget(&self, round: RoundId) {
        self.lock().remove(&round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_kept_until_its_round_ends() {
        let watch = Watch::default();
        let node = NodeId::of_key(b"a");
        let progress = Progress {
            phase: "training",
            step: 3,
            steps: 9,
            loss: 0.5,
        };
        watch.note(RoundId(1), &node, progress.clone());
        assert_eq!(watch.of(RoundId(1)).get(&node), Some(&progress));
        assert!(watch.of(RoundId(2)).is_empty());
        watch.forget(RoundId(1));
        assert!(watch.of(RoundId(1)).is_empty());
    }

    #[test]
    fn a_phase_that_is_none_is_refused() {
        assert_eq!(node_phase("idle"), Ok("idle"));
        assert!(node_phase("dancing").is_err());
    }
}
