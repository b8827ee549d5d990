//! What nodes and operators ask of the coordinator: requests, certificate requests, certificates.

use std::fmt::Debug;
use std::sync::LazyLock;

use lamplight_coordinator::authority::{Authority, Peer, Request};
use lamplight_coordinator::enrol::Enrol;
use lamplight_coordinator::roster::{Ruling, Tagging};
use lamplight_coordinator::round::Start;
use lamplight_coordinator::watch::Progress;
use lamplight_coordinator::watch::nodes::Wanted;
use lamplight_proto::budget::Budget;
use lamplight_proto::cause::Heard;
use lamplight_proto::ids::{Deployment, NodeId};
use lamplight_proto::wire;
use prost::Message;

use crate::Answer;
use crate::memory::within;
use crate::proto::MESSAGE;

/// Bytes of memory per byte of a certificate or a request for one.
const DER: u64 = 64;

/// The fleet of all certificates here.
pub(crate) fn deployment() -> Deployment {
    "lamps".parse().expect("a plain name")
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let (authority, _) = Authority::create(deployment()).expect("an authority can be made");
    authority
});

/// See [`crate::TARGETS`].
///
/// The first byte says which message follows.
pub fn requests(input: &[u8]) -> Answer {
    let Some((kind, message)) = input.split_first() else {
        return Answer::Refused;
    };
    match kind {
        b's' => request::<wire::StartRoundsRequest, Start>(message),
        b'e' => request::<wire::EnrolRequest, Enrol>(message),
        b'p' => request::<wire::Progress, Progress>(message),
        b'b' => request::<wire::Budget, Budget>(message),
        b't' => request::<wire::TagNodeRequest, Tagging>(message),
        b'n' => request::<wire::SetNodeStateRequest, Ruling>(message),
        b'l' => request::<wire::ListNodesRequest, Wanted>(message),
        // Whatever a node says about itself can be shown.
        b'f' => match within(message.len(), MESSAGE, || wire::Failure::decode(message)) {
            Ok(failure) => {
                assert!(!Heard::from(failure).to_string().is_empty());
                Answer::Accepted
            }
            Err(_) => Answer::Refused,
        },
        _ => Answer::Refused,
    }
}

fn request<M: Message + Default + Debug, T: TryFrom<M>>(input: &[u8]) -> Answer {
    let read = within(input.len(), MESSAGE, || {
        T::try_from(M::decode(input).ok()?).ok()
    });
    read.map_or(Answer::Refused, |_| Answer::Accepted)
}

/// See [`crate::TARGETS`].
pub fn certificate_request(input: &[u8]) -> Answer {
    let read = within(input.len(), DER, || Request::read(input));
    let answer = Answer::of(&read);
    if let Ok(request) = read {
        // Whatever it asked for, the certificate says what the authority wrote into it.
        let node = NodeId::of_key(request.key_digest().as_bytes());
        let certificate = AUTHORITY
            .node(&request, &node)
            .expect("what is read is signed");
        let peer = Peer::of_certificate(&certificate, &deployment());
        assert_eq!(peer, Ok(Peer::Node(node)));
    }
    answer
}

/// See [`crate::TARGETS`].
pub fn peer(input: &[u8]) -> Answer {
    let read = within(input.len(), DER, || {
        Peer::of_certificate(input, &deployment())
    });
    if let Ok(peer) = &read {
        let uri = peer.uri(&deployment());
        let named = input.windows(uri.len()).any(|w| w == uri.as_bytes());
        assert!(named, "{uri} is not in the certificate");
    }
    Answer::of(&read)
}
