//! Whether an offer that the release key signed holds against what the node knows.

use lamplight_proto::{
    cause::{OfferFault, Told},
    ids::{Deployment, Digest, ModelVersion, NodeId, UnixMillis},
    needs,
    offer::RoundOffer,
    version::VERSION,
};

use crate::limits::Beyond;

/// What a node knows when it judges an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The fleet it enrolled in.
    pub deployment: Deployment,
    /// Its own id.
    pub node_id: NodeId,
    /// The coordinator's time; a node's own clock may be wrong after months without power.
    pub now: UnixMillis,
    /// The highest release of the offered model it has believed, and that release's digest.
    pub highest: Option<(ModelVersion, Digest)>,
    /// Whether the journal has a finished task with the offer's lease.
    pub done_before: bool,
    /// Why the node's own limits, or the task's, rule it out here.
    pub beyond: Option<Beyond>,
}

/// Why a signed offer is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It is for another fleet.
    #[error("the offer is for deployment {got}, this node belongs to {want}")]
    OtherDeployment {
        /// Deployment offered.
        got: Deployment,
        /// Deployment enrolled in.
        want: Deployment,
    },
    /// It is for another node.
    #[error("the offer is for {got}, this node is {want}")]
    OtherNode {
        /// Node named.
        got: NodeId,
        /// This node.
        want: NodeId,
    },
    /// Its time is over.
    #[error("the offer expired at {expires} ms, the coordinator's clock shows {now} ms")]
    Expired {
        /// When it lapsed.
        expires: i64,
        /// The coordinator's time.
        now: i64,
    },
    /// It cannot be done as asked by an agent of this version.
    #[error("this offer needs {0}, which agent {VERSION} does not know; update the agent")]
    Unknown(String),
    /// An older release than one already believed: somebody replays a signed offer.
    #[error("the offer's base is version {got}, this node has already seen version {highest}")]
    Rollback {
        /// Version offered.
        got: ModelVersion,
        /// Highest version seen.
        highest: ModelVersion,
    },
    /// More than may be used here.
    #[error(transparent)]
    Beyond(Beyond),
    /// One version, two contents.
    #[error("the offer's base {version} has digest {got}, this node knows it as {want}")]
    TwoContents {
        /// The version.
        version: ModelVersion,
        /// Digest offered.
        got: Digest,
        /// Digest seen before.
        want: Digest,
    },
}

/// What to do with an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Begin.
    Take,
    /// Its task ended before; the coordinator has not noticed yet.
    DoneBefore,
    /// Not ours to answer.
    Ignore(Declined),
    /// Ours, and against what we know: the coordinator should hear of it, in these words.
    Decline(Declined, Told),
}

/// Judges an offer. The release key's signature has been checked: that is what a
/// [`lamplight_proto::envelope::Verified`] says.
pub(super) fn judge(offer: &RoundOffer, known: &Known) -> Verdict {
    // 1. It must be addressed to this fleet and this node.
    if offer.deployment != known.deployment {
        return Verdict::Ignore(Declined::OtherDeployment {
            got: offer.deployment.clone(),
            want: known.deployment.clone(),
        });
    }
    if offer.node_id != known.node_id {
        return Verdict::Ignore(Declined::OtherNode {
            got: offer.node_id.clone(),
            want: known.node_id.clone(),
        });
    }
    // 2. A lease is worked on once.
    if known.done_before {
        return Verdict::DoneBefore;
    }
    // 3. It must still be open, by the coordinator's clock.
    if offer.expires <= known.now {
        return Verdict::Ignore(Declined::Expired {
            expires: offer.expires.0,
            now: known.now.0,
        });
    }
    // 4. It must ask for nothing this agent has never heard of: it would do another task.
    if let Some(unknown) = needs::unknown(&offer.needs) {
        return Verdict::Decline(
            Declined::Unknown(unknown),
            Told::Offer(OfferFault::UnknownNeed),
        );
    }
    // 5. Versions only rise, and each has one content.
    match known.highest {
        Some((highest, _)) if offer.base_version < highest => {
            let declined = Declined::Rollback {
                got: offer.base_version,
                highest,
            };
            let fault = OfferFault::Rollback {
                offered: offer.base_version.0,
                highest: highest.0,
            };
            Verdict::Decline(declined, Told::Offer(fault))
        }
        Some((highest, digest)) if offer.base_version == highest && offer.base_digest != digest => {
            let declined = Declined::TwoContents {
                version: highest,
                got: offer.base_digest,
                want: digest,
            };
            let fault = OfferFault::TwoContents { version: highest.0 };
            Verdict::Decline(declined, Told::Offer(fault))
        }
        _ => match &known.beyond {
            // 6. It must not use more than it may.
            Some(beyond) => Verdict::Decline(Declined::Beyond(beyond.clone()), beyond.told()),
            None => Verdict::Take,
        },
    }
}
