//! Requests, certificate requests, certificates.

use lamplight_coordinator::authority::{Authority, Peer, Request};
use lamplight_proto::cause::Told;
use lamplight_proto::ids::{Digest, NodeId};
use lamplight_proto::wire;
use prost::Message as _;

use super::{Seed, proto};
use crate::coordinator::deployment;

pub(super) fn seeds() -> Vec<Seed> {
    let mut all = requests();
    all.extend(certificates());
    all
}

fn requests() -> Vec<Seed> {
    let start = wire::StartRoundsRequest {
        model: "tcn".into(),
        rounds: 3,
        target_deltas: 0,
        minimum_deltas: 1,
        deadline_seconds: 600,
        cohort: vec![NodeId::of_key(b"a").to_string()],
        training: Some((&proto::training()).into()),
        delta_clip_norm: 10.0,
        evaluation_digest: Digest::of(b"samples").to_bytes(),
        idempotency_key: vec![1; 16].into(),
        ..Default::default()
    };
    let enrol = wire::EnrolRequest {
        token_id: "0011223344556677".into(),
        token_secret: vec![2; 24].into(),
        certificate_request_der: vec![0x30, 0].into(),
        signing_key: vec![3; 32].into(),
        proof: vec![4; 64].into(),
        name: "post-1".into(),
    };
    let progress = wire::Progress {
        phase: "training".into(),
        step: 3,
        steps: 9,
        loss: f64::NAN,
    };
    let tag = wire::TagNodeRequest {
        node: "post-1".into(),
        set: vec!["site=chicago".into()],
        remove: vec!["mount".into()],
    };
    let retire = wire::SetNodeStateRequest {
        node: "post-1".into(),
        state: wire::NodeState::Retired as i32,
        reason: "the lamp post is gone".into(),
    };
    let crowd = wire::StartRoundsRequest {
        cohort: vec![String::new(); 400],
        ..start.clone()
    };
    let failure = wire::Failure::from(Told::NoSamples);
    let request = |name, kind: u8, message: Vec<u8>| {
        Seed::new("requests", name, [&[kind], &message[..]].concat())
    };
    vec![
        request("good-start", b's', start.encode_to_vec()),
        request("good-enrol", b'e', enrol.encode_to_vec()),
        request("good-progress", b'p', progress.encode_to_vec()),
        request(
            "good-budget",
            b'b',
            wire::Budget::from(&proto::budget()).encode_to_vec(),
        ),
        request("good-tag", b't', tag.encode_to_vec()),
        request("good-retire", b'n', retire.encode_to_vec()),
        request("good-list", b'l', b"\x0a\x0csite=chicago".to_vec()),
        request("good-failure", b'f', failure.encode_to_vec()),
        request("bad-400-nameless-nodes", b's', crowd.encode_to_vec()),
        request("bad-500-empty-filters", b'l', [0x0a, 0].repeat(500)),
    ]
}

fn certificates() -> Vec<Seed> {
    let key = rcgen::KeyPair::generate().expect("the system has randomness");
    let mut params = rcgen::CertificateParams::default();
    let name = rcgen::DnType::CommonName;
    params
        .distinguished_name
        .push(name, "node-0011223344556677");
    let request = params.serialize_request(&key).expect("it can be signed");
    let request = request.der().to_vec();
    let mut altered = request.clone();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    // A length that claims 2^31 bytes, in the outermost sequence and in the innermost.
    let outer = [0x30, 0x84, 0x7f, 0xff, 0xff, 0xff].to_vec();
    let deep = [0x30, 0x80].repeat(500);

    let (authority, _) = Authority::create(deployment()).expect("an authority");
    let node = NodeId::of_key(b"a");
    let read = Request::read(&request).expect("its own request");
    let of_node = authority.node(&read, &node).expect("a certificate");
    let alice = "alice".parse().expect("a plain name");
    let of_operator = authority.operator(&alice).expect("a certificate");
    let server = authority
        .server(&["localhost".into()])
        .expect("a certificate");
    debug_assert_eq!(
        Peer::of_certificate(&of_node, &deployment()),
        Ok(Peer::Node(node))
    );
    vec![
        Seed::once("certificate_request", "good-request", request),
        Seed::once("certificate_request", "bad-signature", altered),
        Seed::new("certificate_request", "bad-2e31-bytes", outer.clone()),
        Seed::new("certificate_request", "bad-deep", deep.clone()),
        Seed::once("peer", "good-node", of_node),
        Seed::once("peer", "good-operator", of_operator.certificate),
        Seed::once("peer", "bad-server", server.certificate),
        Seed::new("peer", "bad-2e31-bytes", outer),
        Seed::new("peer", "bad-deep", deep),
    ]
}
