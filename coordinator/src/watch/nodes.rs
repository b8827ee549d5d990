//! Nodes as operators see them: what they run, what operators say of them, how their rounds went.

use std::collections::{HashMap, hash_map::Entry};

use x509_parser::parse_x509_certificate;

use lamplight_proto::{
    Malformed,
    ids::{Digest, ModelName, ModelVersion, NodeId},
    refusal::{Reason, Refusal},
    tag::TagFilter,
    wire,
};

use crate::{
    fault::Fault,
    house::House,
    roster,
    store::{
        StoreError,
        history::{self, Part, Turn},
        nodes::{self, Node, NodeState},
        participants::{NOT_DELIVERED, State},
        releases,
    },
};

/// Rounds shown when nobody says how many.
const ROUNDS: u32 = 10;
/// Rounds shown at most.
const MAX_ROUNDS: u32 = 1000;

/// Which nodes to list.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    tags: TagFilter,
    /// Empty: every state.
    states: Vec<NodeState>,
}

impl TryFrom<wire::ListNodesRequest> for Wanted {
    type Error = Malformed;
    fn try_from(r: wire::ListNodesRequest) -> Result<Self, Malformed> {
        Ok(Self {
            tags: TagFilter::of_terms(&r.tags)?,
            states: (r.states.into_iter())
                .map(roster::state)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Wanted {
    fn has(&self, node: &Node) -> bool {
        (self.states.is_empty() || self.states.contains(&node.state))
            && self.tags.matches(&node.tags)
    }
}

type Running = Option<(ModelName, ModelVersion)>;

fn view(n: Node, running: Running, rounds: Vec<wire::NodeRoundView>) -> wire::NodeView {
    let (model, version) = running.map_or((String::new(), 0), |(m, v)| (m.to_string(), v.0));
    wire::NodeView {
        node_id: n.id.to_string(),
        name: n.name,
        enrolled_unix_ms: n.enrolled.0,
        last_seen_unix_ms: n.last_seen.map_or(0, |t| t.0),
        phase: n.phase,
        running_digest: n.running.map(|d| d.to_string()).unwrap_or_default(),
        agent_version: n.agent_version,
        deltas_accepted: n.deltas_accepted,
        state: n.state.to_string(),
        state_reason: n.state_reason,
        state_since_unix_ms: n.state_since.map_or(0, |t| t.0),
        tags: (n.tags.iter())
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        running_model: model,
        running_version: version,
        certificate_expires_unix_ms: 0,
        rounds,
    }
}

/// When a certificate ends; 0 for bytes that are none.
fn expiry(certificate: &[u8]) -> i64 {
    parse_x509_certificate(certificate).map_or(0, |(_, c)| {
        c.validity().not_after.timestamp().saturating_mul(1000)
    })
}

impl House {
    /// Nodes that are wanted, in order of enrolment, each with the last round it was asked in.
    ///
    /// # Errors
    /// [`crate::fault::Broken`].
    pub fn view_nodes(&self, wanted: &Wanted) -> Result<Vec<wire::NodeView>, Fault> {
        let (all, mut newest, runs) = self.store.read(|c| {
            let mut all = nodes::list(c)?;
            all.retain(|n| wanted.has(n));
            // A fleet runs few releases, however many nodes it has.
            let mut runs: HashMap<Digest, Running> = HashMap::new();
            for digest in all.iter().filter_map(|n| n.running) {
                if let Entry::Vacant(unknown) = runs.entry(digest) {
                    unknown.insert(releases::newest_with_digest(c, digest)?);
                }
            }
            Ok::<_, StoreError>((all, history::newest(c)?, runs))
        })?;
        Ok(all
            .into_iter()
            .map(|n| {
                let turn = newest.remove(&n.id).map(|t| self.turn(&n, t));
                let running = n.running.and_then(|d| runs.get(&d).cloned().flatten());
                view(n, running, turn.into_iter().collect())
            })
            .collect())
    }

    /// A node with its last rounds; 0 means ten.
    ///
    /// # Errors
    /// Refuses one that is not enrolled.
    pub fn view_node(&self, id: &NodeId, rounds: u32) -> Result<wire::NodeView, Fault> {
        let rounds = match rounds {
            0 => ROUNDS,
            n => n.min(MAX_ROUNDS),
        };
        let (node, certificate, running, turns) = self.store.read(|c| {
            let node = nodes::find(c, id)?
                .ok_or_else(|| Refusal::new(Reason::NotFound, format!("{id} is not enrolled")))?;
            let running = match node.running {
                Some(digest) => releases::newest_with_digest(c, digest)?,
                None => None,
            };
            let certificate = nodes::certificate(c, id)?.unwrap_or_default();
            let turns = history::of_node(c, id, rounds)?;
            Ok::<_, Fault>((node, certificate, running, turns))
        })?;
        let turns = turns.into_iter().map(|t| self.turn(&node, t)).collect();
        Ok(wire::NodeView {
            certificate_expires_unix_ms: expiry(&certificate),
            ..view(node, running, turns)
        })
    }

    /// How a round went for a node, and why.
    fn turn(&self, node: &Node, t: Turn) -> wire::NodeRoundView {
        let (state, reason) = match t.part {
            Part::Asked(State::Offered, reason) => {
                // As in the round's own view: what the node last told is newer.
                let live = self.watch.of_node(t.round, &node.id);
                let state = live
                    .filter(|p| p.phase != "idle")
                    .map_or("offered", |p| p.phase);
                (state, reason)
            }
            // Closed by a coordinator that did not write down why.
            Part::Asked(State::Missing, reason) if reason.is_empty() => {
                ("missing", NOT_DELIVERED.to_owned())
            }
            Part::Asked(state, reason) => (state.as_str(), reason),
            Part::PassedOver(reason) => ("skipped", reason),
            Part::NotMeant => ("not-asked", format!("task {} chose other nodes", t.task)),
        };
        wire::NodeRoundView {
            round: t.round.0,
            task: t.task.0,
            model: t.model.to_string(),
            base_version: t.base_version.0,
            phase: t.phase.to_string(),
            state: state.to_owned(),
            reason,
            started_unix_ms: t.started.0,
            ended_unix_ms: t.ended.map_or(0, |e| e.0),
        }
    }
}
