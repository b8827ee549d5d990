//! Whom a round asks, and whom it passes over.

use rusqlite::Connection;

use lamplight_proto::{
    ids::NodeId,
    refusal::{Reason, Refusal},
};

use crate::{
    fault::Fault,
    roster,
    store::{
        nodes::{self, Node, NodeState},
        tasks::Task,
    },
};

/// Whom a round asks.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    /// In order of enrolment, or of id where the task names its nodes.
    pub(super) asked: Vec<NodeId>,
    /// Draining nodes that would have been asked, and why they are not.
    pub(super) passed_over: Vec<(NodeId, String)>,
}

impl Cohort {
    fn take(&mut self, node: Node) {
        match node.state {
            NodeState::Active => self.asked.push(node.id),
            NodeState::Draining => self
                .passed_over
                .push((node.id.clone(), roster::why_idle(&node))),
            // Nobody waits for a word on why a retired node does nothing.
            NodeState::Retired => {}
        }
    }
}

/// Chooses among a task's named nodes, or among all, those with its tags.
///
/// # Errors
/// A named node that is not enrolled, and, as a task begins, one that is draining or retired: the
/// operator may have meant another. In later rounds of the task such a node is passed over.
pub(super) fn choose(c: &Connection, task: &Task, begins: bool) -> Result<Cohort, Fault> {
    let (mut cohort, tags) = (Cohort::default(), &task.tags);
    let Some(named) = &task.cohort else {
        let draining = nodes::in_state(c, NodeState::Draining)?;
        let meant = draining.into_iter().filter(|n| tags.matches(&n.tags));
        (nodes::eligible(c, tags)?.into_iter().chain(meant)).for_each(|n| cohort.take(n));
        return Ok(cohort);
    };
    for id in named {
        let node = nodes::find(c, id)?.ok_or_else(|| {
            let why = format!("{id} of the cohort is not enrolled; see: lamplight node list");
            Refusal::new(Reason::NotFound, why)
        })?;
        if begins && node.state != NodeState::Active {
            let why = format!(
                "{} of the cohort takes no part: {}",
                node.id,
                roster::why_idle(&node)
            );
            return Err(Refusal::new(Reason::Conflict, why).into());
        }
        if tags.matches(&node.tags) {
            cohort.take(node);
        }
    }
    Ok(cohort)
}
