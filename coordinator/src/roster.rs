//! What operators say of nodes: tags, draining, retiring.
//!
//! ```text
//!   active <──────> draining      resume, drain
//!     │                │
//!     └───> retired <──┘          for good: the key never works here again
//! ```
//!
//! A draining node finishes what is under way and is offered nothing new. A retired node's calls are
//! refused, each of them; rounds stop waiting for it.

use lamplight_proto::{
    Malformed,
    ids::{Label, NodeId},
    refusal::{Reason, Refusal},
    tag::{MAX_TAGS, Tag, TagKey},
    wire,
};

use crate::{
    fault::{Broken, Fault},
    house::{House, one_line},
    store::{
        StoreError,
        nodes::{self, Node, NodeState},
        participants,
    },
};

/// Characters of an operator's reason that are kept.
const REASON_CHARS: usize = 200;
/// Ids that an ambiguous name is answered with.
const SHOWN: usize = 20;

/// A node as an operator names it: its id, or a name that only one node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named(Label);

impl std::str::FromStr for Named {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        // Ids and names are written in the same letters.
        text.parse().map(Self)
    }
}

/// A parsed request to tag a node.
#[derive(Debug, Clone)]
pub struct Tagging {
    node: Named,
    set: Vec<Tag>,
    remove: Vec<TagKey>,
}

impl TryFrom<wire::TagNodeRequest> for Tagging {
    type Error = Malformed;
    fn try_from(r: wire::TagNodeRequest) -> Result<Self, Malformed> {
        let (set, remove) = (r.set.len(), r.remove.len());
        if set > MAX_TAGS || remove > MAX_TAGS {
            return Err(Malformed::new(
                "tag node",
                format!("{set} tags to set and {remove} to remove, a node has at most {MAX_TAGS}"),
            ));
        }
        Ok(Self {
            node: r.node.parse()?,
            set: (r.set.iter())
                .map(|t| t.parse())
                .collect::<Result<_, _>>()?,
            remove: (r.remove.iter())
                .map(|t| t.parse())
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A parsed request to drain, resume or retire a node.
#[derive(Debug, Clone)]
pub struct Ruling {
    node: Named,
    state: NodeState,
    reason: String,
}

impl TryFrom<wire::SetNodeStateRequest> for Ruling {
    type Error = Malformed;
    fn try_from(r: wire::SetNodeStateRequest) -> Result<Self, Malformed> {
        Ok(Self {
            node: r.node.parse()?,
            state: state(r.state)?,
            reason: one_line(&r.reason, REASON_CHARS),
        })
    }
}

/// A node's state out of a message.
///
/// # Errors
/// [`Malformed`] when it is none this program knows.
pub fn state(number: i32) -> Result<NodeState, Malformed> {
    use wire::NodeState as W;
    match W::try_from(number) {
        Ok(W::Active) => Ok(NodeState::Active),
        Ok(W::Draining) => Ok(NodeState::Draining),
        Ok(W::Retired) => Ok(NodeState::Retired),
        Ok(W::Unspecified) | Err(_) => Err(Malformed::new(
            "node state",
            format!("{number} is none of 1 (active), 2 (draining), 3 (retired)"),
        )),
    }
}

/// Refuses what a retired node asks.
pub(crate) fn refuse_retired(node: &Node) -> Result<(), Refusal> {
    if node.state != NodeState::Retired {
        return Ok(());
    }
    let why = format!(
        "{} was retired by an operator{} and cannot come back; to let this machine join again, enrol \
         it in an empty directory with a new join token",
        node.id,
        in_brackets(&node.state_reason)
    );
    Err(Refusal::new(Reason::Retired, why))
}

fn in_brackets(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    }
}

/// Why a node that is not active gets no work, with the remedy.
pub(crate) fn why_idle(node: &Node) -> String {
    let reason = in_brackets(&node.state_reason);
    match node.state {
        NodeState::Active => "it is active".to_owned(),
        NodeState::Draining => {
            format!("it is draining{reason}; lamplight node resume {}", node.id)
        }
        NodeState::Retired => format!("it is retired{reason}; name another node"),
    }
}

impl House {
    /// The node an operator means. Where several share a name, the one that is not retired is meant.
    ///
    /// # Errors
    /// Refuses a name that no node has, or more than one.
    pub fn meant(&self, named: &Named) -> Result<Node, Fault> {
        let text = named.0.as_str();
        let (by_id, mut by_name) = self.store.read(|c| {
            let id: Option<NodeId> = text.parse().ok();
            let by_id = id.map(|id| nodes::find(c, &id)).transpose()?.flatten();
            Ok::<_, StoreError>((by_id, nodes::named(c, text)?))
        })?;
        if let Some(node) = by_id {
            return Ok(node);
        }
        if by_name.len() > 1 && by_name.iter().any(|n| n.state != NodeState::Retired) {
            by_name.retain(|n| n.state != NodeState::Retired);
        }
        match by_name.len() {
            0 => Err(Refusal::new(
                Reason::NotFound,
                format!("no node has the id or name {text}; see: lamplight node list"),
            )
            .into()),
            1 => Ok(by_name.remove(0)),
            n => {
                let mut ids: Vec<&str> = by_name.iter().map(|n| n.id.as_str()).collect();
                ids.truncate(SHOWN);
                let more = if n > SHOWN { ", …" } else { "" };
                let why = format!(
                    "{n} nodes are called {text}: {}{more}; name one by its id",
                    ids.join(", ")
                );
                Err(Refusal::new(Reason::Conflict, why).into())
            }
        }
    }

    /// Changes a node's tags.
    ///
    /// # Errors
    /// Refuses an unknown or retired node, a key said twice, too many tags.
    pub fn tag(&self, tagging: &Tagging) -> Result<NodeId, Fault> {
        let id = self.meant(&tagging.node)?.id;
        self.store.write(|tx| {
            let node = nodes::find(tx, &id)?.ok_or_else(|| gone(&id))?;
            refuse_retired(&node)?;
            let tags = (node.tags).changed(tagging.set.clone(), tagging.remove.clone())?;
            if tags != node.tags {
                nodes::set_tags(tx, &id, &tags)?;
                tracing::info!(node = %id, %tags, "node tagged");
            }
            Ok::<_, Fault>(())
        })?;
        Ok(id)
    }

    /// Drains, resumes or retires a node. Said again, it changes nothing but a reason newly given.
    ///
    /// # Errors
    /// Refuses an unknown node, and anything but retiring for one that is retired.
    pub fn rule(&self, ruling: &Ruling) -> Result<NodeId, Fault> {
        let id = self.meant(&ruling.node)?.id;
        let node = self.store.write(|tx| {
            let node = nodes::find(tx, &id)?.ok_or_else(|| gone(&id))?;
            if ruling.state != NodeState::Retired {
                refuse_retired(&node)?;
            }
            let is_new = node.state != ruling.state;
            if !is_new && (ruling.reason.is_empty() || ruling.reason == node.state_reason) {
                return Ok(node);
            }
            let since = match node.state_since {
                Some(since) if !is_new => since,
                _ => self.now(),
            };
            nodes::set_state(tx, &id, ruling.state, &ruling.reason, since)?;
            if is_new {
                let (from, to, reason) = (node.state, ruling.state, &ruling.reason);
                tracing::info!(node = %id, %from, %to, reason, "node's state changed");
            }
            nodes::find(tx, &id)?.ok_or_else(|| gone(&id))
        })?;
        // After the state; a crash in between is made up for when the house is opened again.
        if node.state == NodeState::Retired {
            self.settle(&node)?;
        }
        Ok(id)
    }

    /// Nothing of a retired node is waited for or kept half.
    fn settle(&self, node: &Node) -> Result<(), Fault> {
        self.excuse(node)?;
        self.drop_upload(&node.id)
    }

    /// Does for every retired node what retiring it owes. Done once, there is nothing left to do.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) fn settle_retired(&self) -> Result<(), Broken> {
        let retired = self.store.read(nodes::list)?;
        for node in retired.iter().filter(|n| n.state == NodeState::Retired) {
            match self.settle(node) {
                Ok(()) => {}
                Err(Fault::Broken(e)) => return Err(e),
                Err(Fault::Refused(r)) => {
                    tracing::warn!(node = %node.id, "a retired node is still waited for: {r}");
                }
            }
        }
        Ok(())
    }

    /// Rounds stop waiting for a node that gets no work.
    ///
    /// # Errors
    /// [`crate::fault::Broken`].
    pub fn excuse(&self, node: &Node) -> Result<(), Fault> {
        let waiting = (self.store).read(|c| participants::waiting_for(c, &node.id))?;
        for round in waiting {
            self.give_up(round, &node.id, &why_idle(node))?;
        }
        Ok(())
    }
}

fn gone(id: &NodeId) -> Fault {
    Refusal::new(Reason::NotFound, format!("{id} is gone")).into()
}
