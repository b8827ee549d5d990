//! What a node is doing, as types; what happens to it, as values.
//!
//! ```text
//!            offer believed           base here             signed delta on disk
//!   Idle ───────────────> Preparing ───────────> Training ───────────────> Uploading
//!    ^                        │                     │                          │
//!    │   failed, unwanted     │  failed, unwanted   │      refused, unwanted,  │
//!    └────────────────────────┴─────────────────────┴──── or the receipt ──────┘
//! ```
//!
//! - **Idle** polls. It holds nothing: an idle node costs next to no memory.
//! - **Preparing** pulls the base model. It holds the offer, which the release key signed.
//! - **Training** fine-tunes. Steps since the last checkpoint are all that a power cut costs.
//! - **Uploading** sends. It holds the signed manifest: whatever happens, these very bytes are sent.
//!
//! [`Phase::step`] does no IO. It answers the next phase and its [`Effect`]s; whoever calls it writes
//! both to disk in one transaction ([`crate::store::phase`]) before acting on them. So after a power
//! cut at any instant the phase on disk says what to do, and doing it again harms nothing.

mod idle;
mod offer;
mod preparing;
mod training;
mod uploading;

#[cfg(test)]
mod history;

use std::fmt;

use lamplight_proto::{
    cause::Told,
    delta::{DeltaManifest, Receipt},
    envelope::Verified,
    ids::{Digest, Lease, RoundId},
    offer::RoundOffer,
    refusal::Refusal,
};

pub use idle::Idle;
pub use offer::{Declined, Known};
pub use preparing::Preparing;
pub use training::Training;
pub use uploading::{ReceiptMismatch, Uploading};

/// What a node is doing.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Polls for work.
    Idle(Idle),
    /// Pulls the base model.
    Preparing(Preparing),
    /// Fine-tunes.
    Training(Training),
    /// Sends the delta.
    Uploading(Uploading),
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Event {
    /// The coordinator offers work, and this is what the node knows to judge it by.
    Offered(Box<Verified<RoundOffer>>, Known),
    /// The base model is here, whole, with the digest the offer names.
    BaseReady,
    /// The delta is on disk and this manifest about it is signed.
    Learned(Box<Verified<DeltaManifest>>),
    /// The coordinator keeps the delta.
    Accepted(Box<Verified<Receipt>>),
    /// The task cannot be done here; the coordinator should know.
    Failed(Why),
    /// The coordinator refuses the delta for good.
    Refused(Refusal),
    /// The round no longer waits for this node.
    Unwanted(String),
}

/// Why a task cannot be done: in full for the journal on this node, and what the coordinator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Leaves the node.
    pub told: Told,
    /// Stays here. May name files, columns, labels.
    pub full: String,
}

impl Why {
    /// `full` is cut to what a journal should hold.
    #[must_use]
    pub fn new(told: Told, full: impl fmt::Display) -> Self {
        Self {
            told,
            full: full.to_string().chars().take(MOST_REASON).collect(),
        }
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// With a receipt.
    Accepted,
    /// This node could not do it.
    Failed,
    /// The coordinator would not take the delta.
    Refused,
    /// Nobody waited for it any more.
    Dropped,
    /// It was never begun: the offer went against what this node knows.
    Declined,
}

impl Outcome {
    /// The name in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Declined => "declined",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is written down together with a phase.
#[derive(Debug, Clone)]
pub enum Effect {
    /// A task begins: journal its offer, remember its base as the highest version believed.
    Open(Box<Verified<RoundOffer>>),
    /// An offer is not taken up: journal it as declined.
    Decline {
        /// The offer.
        offer: Box<Verified<RoundOffer>>,
        /// Why.
        reason: String,
    },
    /// Training is over: journal what the manifest says about it.
    Describe(Box<Verified<DeltaManifest>>),
    /// Keep the receipt.
    Keep(Lease, Box<Verified<Receipt>>),
    /// The task is over.
    Close {
        /// Whose.
        lease: Lease,
        /// How.
        outcome: Outcome,
        /// Why, unless accepted.
        reason: Option<String>,
    },
    /// Tell the coordinator, as soon as it can be reached.
    Report {
        /// Round of the task.
        round: RoundId,
        /// Lease of the task.
        lease: Lease,
        /// What went wrong, as far as it leaves the node.
        told: Told,
    },
    /// Nothing to write; people should know.
    Warn(String),
}

/// The phase after an event, and what to write down with it.
pub type Step = (Phase, Vec<Effect>);

impl Phase {
    /// A node with nothing to do.
    #[must_use]
    pub fn idle() -> Self {
        Self::Idle(Idle)
    }

    /// The name on the wire, in the database and in listings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle(_) => "idle",
            Self::Preparing(_) => "preparing",
            Self::Training(_) => "training",
            Self::Uploading(_) => "uploading",
        }
    }

    /// The offer being worked on.
    #[must_use]
    pub fn offer(&self) -> Option<&Verified<RoundOffer>> {
        match self {
            Self::Idle(_) => None,
            Self::Preparing(p) => Some(p.offer()),
            Self::Training(p) => Some(p.offer()),
            Self::Uploading(p) => Some(p.offer()),
        }
    }

    /// Lease and base of the task, for tidying.
    #[must_use]
    pub fn holds(&self) -> Option<(Lease, Digest)> {
        self.offer().map(|o| (o.lease, o.base_digest))
    }

    /// What comes next. An event that cannot happen in this phase (a late answer, a repeated one)
    /// changes nothing.
    #[must_use]
    pub fn step(self, event: Event) -> Step {
        match self {
            Self::Idle(p) => p.step(event),
            Self::Preparing(p) => p.step(event),
            Self::Training(p) => p.step(event),
            Self::Uploading(p) => p.step(event),
        }
    }
}

/// Back to idle, with the task closed.
fn close(offer: &RoundOffer, outcome: Outcome, reason: Option<String>) -> Step {
    let lease = offer.lease;
    let close = Effect::Close {
        lease,
        outcome,
        reason,
    };
    (Phase::idle(), vec![close])
}

/// Characters of a reason kept: enough for any sentence, too few to fill a table.
const MOST_REASON: usize = 1000;

/// Back to idle, with the task closed as failed and the coordinator to be told.
fn fail(offer: &RoundOffer, why: Why) -> Step {
    give_up(offer, Outcome::Failed, why)
}

/// Back to idle, with the coordinator's reason in the journal. The coordinator is told as well: it
/// would wait until the deadline for another delta, and a lease is worked on once.
fn refused(offer: &RoundOffer, r: &Refusal) -> Step {
    let full = format!("refused: {}: {}", r.name(), r.message);
    give_up(
        offer,
        Outcome::Refused,
        Why::new(Told::Refused(r.reason), full),
    )
}

fn give_up(offer: &RoundOffer, outcome: Outcome, why: Why) -> Step {
    let (phase, mut effects) = close(offer, outcome, Some(why.full));
    effects.push(Effect::Report {
        round: offer.round,
        lease: offer.lease,
        told: why.told,
    });
    (phase, effects)
}
