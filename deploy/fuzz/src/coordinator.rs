//! What nodes and operators ask of the coordinator: requests, certificate requests, certificates.

use std::fmt::Debug;
use std::sync::LazyLock;

use lamplight_coordinator::authority::{Authority, Peer, Request};
use lamplight_coordinator::enrol::Enrol;
use lamplight_coordinator::round::start::Start;
use lamplight_coordinator::watch::Progress;
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
/// The bytes are tried as each message.
pub fn requests(input: &[u8]) -> Answer {
    let any = [
        request::<wire::StartRoundsRequest, Start>(input),
        request::<wire::EnrolRequest, Enrol>(input),
        request::<wire::Progress, Progress>(input),
    ];
    if any.contains(&Answer::Accepted) {
        Answer::Accepted
    } else {
        Answer::Refused
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
