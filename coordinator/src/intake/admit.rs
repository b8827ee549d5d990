//! The checks of a delta's manifest, one refusal each.

use lamplight_proto::{
    delta::DeltaManifest,
    ids::{Digest, NodeId, RoundId},
    refusal::{Reason, Refusal},
};

use crate::{
    fault::Fault,
    house::{Expected, House},
    round::engine::awaits,
    store::{
        nodes::Node,
        participants::{self, State},
    },
};

fn refuse<T>(reason: Reason, message: String) -> Result<T, Fault> {
    Err(Refusal::new(reason, message).into())
}

/// For this fleet, and from the node that is calling.
pub(super) fn addressee(house: &House, peer: &NodeId, m: &DeltaManifest) -> Result<(), Fault> {
    if m.deployment != house.deployment {
        return refuse(
            Reason::WrongAddressee,
            format!(
                "the delta is for deployment {}, this is {}",
                m.deployment, house.deployment
            ),
        );
    }
    if m.node_id != *peer {
        return refuse(
            Reason::WrongAddressee,
            format!("the delta is from {}, the caller is {peer}", m.node_id),
        );
    }
    Ok(())
}

/// Answers the offer of a round that waits for this node, in time.
pub(super) fn open(
    house: &House,
    peer: &NodeId,
    m: &DeltaManifest,
    round: RoundId,
) -> Result<(), Fault> {
    // A participant's row tells more than the phase: why it is not waited for.
    let asked = house.store.read(|c| participants::find(c, round, peer))?;
    let Some(asked) = asked else {
        // A round that does not exist, or exists without this node.
        house.phase(round, |_| ())?;
        return refuse(
            Reason::WrongAddressee,
            format!("round {round} did not ask {peer}"),
        );
    };
    if asked.state == State::Accepted {
        return refuse(
            Reason::Replay,
            format!("round {round} already keeps a delta of {peer}; a second is not taken"),
        );
    }
    let deadline = house.phase(round, |phase| awaits(phase, round, peer))??;
    if m.lease != asked.lease {
        let used = house
            .store
            .read(|c| participants::had_lease(c, peer, m.lease))?;
        return if used {
            refuse(
                Reason::Replay,
                format!("the lease is from another round's offer, not from round {round}'s"),
            )
        } else {
            refuse(
                Reason::WrongAddressee,
                format!("the lease was never given to {peer} for round {round}"),
            )
        };
    }
    if m.window != 0 {
        return refuse(
            Reason::WrongAddressee,
            format!(
                "the delta is for window {}, round {round} has only window 0",
                m.window
            ),
        );
    }
    let now = house.now();
    if now >= deadline || now >= m.expires {
        return refuse(
            Reason::RoundClosed,
            format!(
                "the lease for round {round} ran out at {}, it is {}; poll for a new offer",
                deadline.0.min(m.expires.0),
                now.0
            ),
        );
    }
    Ok(())
}

/// Against the round's base, of the size and shapes expected.
pub(super) fn content(m: &DeltaManifest, base: Digest, expected: &Expected) -> Result<(), Fault> {
    if m.base_digest != base {
        return refuse(
            Reason::WrongBase,
            format!(
                "the delta was made against {}, round {} starts from {base}",
                m.base_digest, m.round
            ),
        );
    }
    if m.size > expected.max_delta_bytes {
        return refuse(
            Reason::Oversize,
            format!(
                "the delta has {} bytes, at most {} are taken in round {}",
                m.size, expected.max_delta_bytes, m.round
            ),
        );
    }
    for (got, want) in m.tensors.iter().zip(&expected.table) {
        let same_shape = got.shape.len() == want.shape.len()
            && got
                .shape
                .iter()
                .zip(&want.shape)
                .all(|(&g, &w)| g == w as u64);
        if got.name != want.name || !same_shape {
            return refuse(
                Reason::WrongShape,
                format!(
                    "the delta has tensor `{}` of shape {:?} where round {} asks for `{}` of shape {:?}",
                    got.name, got.shape, m.round, want.name, want.shape
                ),
            );
        }
    }
    if m.tensors.len() != expected.table.len() {
        return refuse(
            Reason::WrongShape,
            format!(
                "the delta has {} tensors, {} were asked for",
                m.tensors.len(),
                expected.table.len()
            ),
        );
    }
    Ok(())
}

/// Newer than any delta accepted from this node.
pub(super) fn counter(node: &Node, m: &DeltaManifest) -> Result<(), Fault> {
    if m.counter <= node.last_counter {
        return refuse(
            Reason::Replay,
            format!(
                "the delta's counter is {}, {} was accepted already; sign with a higher one",
                m.counter, node.last_counter
            ),
        );
    }
    let numbers = [
        ("counter", m.counter),
        ("sample count", m.sample_count),
        ("count of samples aside", m.samples_aside),
    ];
    let too_large = numbers
        .into_iter()
        .find(|(_, n)| i64::try_from(*n).is_err());
    match too_large {
        None => Ok(()),
        Some((what, n)) => refuse(
            Reason::Malformed,
            format!(
                "the {what} is {n}, above the largest number kept, {}",
                i64::MAX
            ),
        ),
    }
}
