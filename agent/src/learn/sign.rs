//! The manifest of a delta, signed by the node.

use lamplight_proto::{
    chunk::chunk_digests,
    delta::DeltaManifest,
    envelope::{Signed, Verified},
    ids::Digest,
    keys::SigningKey,
    offer::RoundOffer,
    version::VERSION,
};

use super::Learned;

/// Signs what was learned. `counter` must be on disk for this lease already: a signature cannot be
/// taken back.
#[must_use]
pub fn manifest(
    offer: &RoundOffer,
    learned: &Learned,
    counter: u64,
    key: &SigningKey,
) -> Verified<DeltaManifest> {
    let manifest = DeltaManifest {
        deployment: offer.deployment.clone(),
        round: offer.round,
        window: offer.window,
        base_digest: offer.base_digest,
        node_id: offer.node_id.clone(),
        counter,
        lease: offer.lease,
        expires: offer.expires,
        tensors: learned.tensors.clone(),
        codec: offer.codec,
        size: learned.delta.len() as u64,
        digest: Digest::of(&learned.delta),
        chunk_digests: chunk_digests(&learned.delta),
        sample_count: learned.sample_count,
        before: learned.before,
        after: learned.after,
        training_seconds: learned.training_seconds,
        agent_version: VERSION.to_owned(),
        samples_aside: learned.aside.values().sum(),
    };
    Signed::seal(manifest, key)
}
