//! Leaks, planted: each goes the road a leak would go, through the relay to the real coordinator, with
//! a real node's identity. The judge that finds a whole demo clean must find every one of them.

use std::{future::Future, process::Command};

use lamplight_models::container;
use lamplight_proto::{
    delta::{DeltaManifest, TensorEntry},
    envelope::{Payload as _, Signed},
    ids::{Digest, Lease, NodeId, RoundId, UnixMillis},
    keys::SigningKey,
    offer::Codec,
    tls::{self, Identity, Link},
    wire::{self, deltas_client::DeltasClient, report_request::Event, rounds_client::RoundsClient},
};
use tonic::Request;

use crate::{
    fleet::{Fleet, Part, text},
    judge::{Finding, judge},
};

/// What the judge says of everything sent while `leak` runs.
fn told(fleet: &Fleet, leak: impl FnOnce()) -> Vec<Finding> {
    let before = fleet.relay.mark();
    leak();
    match judge(&fleet.relay.since(before), &fleet.canaries) {
        Ok(reading) => panic!("the leak was not found in {:?}", reading.calls),
        Err(findings) => findings,
    }
}

/// Requires that the findings name this field and this canary.
fn names(findings: &[Finding], field: &str, canary: &str) {
    let named = |f: &&Finding| f.field == field && f.what.contains(canary);
    assert!(
        findings.iter().any(|f| named(&f)),
        "{field} with {canary} is not among {findings:#?}"
    );
}

/// A link of its own, as the sound node.
fn link(fleet: &Fleet) -> Link {
    let _inside = fleet.relay.runtime.enter();
    let address = fleet.relay.address.to_string();
    let address = address.parse().expect("an address");
    let identity = Identity::read(&fleet.of(Part::Sound).dir).expect("an identity");
    tls::connect(&address, &identity).expect("a link")
}

/// Makes a call; the coordinator may well refuse it, but it was sent.
fn send<T>(fleet: &Fleet, call: impl Future<Output = Result<T, tonic::Status>>) {
    let answer = fleet.relay.runtime.block_on(call);
    if let Err(status) = answer {
        assert!(!status.details().is_empty(), "it was not sent: {status}");
    }
}

fn report(reason: &str) -> wire::ReportRequest {
    wire::ReportRequest {
        round: 1,
        lease: vec![7; 16].into(),
        event: Some(Event::Failure(wire::Failure {
            reason: reason.to_owned(),
            ..Default::default()
        })),
    }
}

/// The agent as it was before causes: it sent what its source said.
pub(crate) fn an_error_in_its_own_words(fleet: &Fleet) {
    for (part, canary) in [
        (Part::Broken, "the broken cell"),
        (Part::Gone, "Gone's data directory"),
    ] {
        let spec: lamplight_agent::source::SourceSpec =
            fleet.of(part).source.parse().expect("a source");
        let said = spec.open().expect_err("it is spoiled").to_string();
        let findings = told(fleet, || {
            let mut rounds = RoundsClient::new(link(fleet));
            send(fleet, rounds.report(report(&said)));
        });
        names(&findings, "Failure.reason", canary);
    }
}

/// The agent as it was before: its name was its directory's. A real process; only the name is given.
pub(crate) fn a_directorys_name(fleet: &Fleet) {
    let name = fleet.of(Part::Sound).dir.file_name().expect("a name");
    let name = name.to_str().expect("a word").to_owned();
    let made = fleet.ask(&["node", "token"]);
    let token = made["tokens"][0].as_str().expect("a token");
    let findings = told(fleet, || {
        let status = Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args(["agent", "enrol", "--token", token, "--name", &name])
            .args(["--coordinator", &fleet.relay.address.to_string()])
            .args(["--dir", &text(&fleet.root.join("one-more"))])
            .output()
            .expect("the program starts");
        assert!(status.status.success(), "{status:?}");
    });
    names(&findings, "EnrolRequest.name", "Sound's directory");
}

/// A header, which HPACK hides from a search of the bytes.
pub(crate) fn a_header(fleet: &Fleet) {
    let dir = text(&fleet.of(Part::Sound).dir);
    let findings = told(fleet, || {
        let mut rounds = RoundsClient::new(link(fleet));
        let mut request = Request::new(wire::PollRequest {
            phase: "idle".to_owned(),
            ..Default::default()
        });
        let value = dir.parse().expect("plain text");
        request.metadata_mut().insert("x-debug", value);
        send(fleet, rounds.poll(request));
    });
    names(&findings, "x-debug", "Sound's directory");
    names(&findings, "x-debug", "not listed");
}

/// Samples as a tensor of the delta, and in its metadata; in chunks that cut through them.
pub(crate) fn samples_in_a_delta(fleet: &Fleet) {
    let node = fleet.of(Part::Sound);
    let window = &node.values[0][..64];
    let noted = hex::encode(window[20].to_le_bytes()) + &hex::encode(window[21].to_le_bytes());
    let tensor = container::Source {
        name: "block0.conv.weight",
        dtype: container::Dtype::F32,
        shape: &[window.len()],
        bytes: window.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let metadata = [("lamplight.debug".to_owned(), noted)];
    let file = container::write(&metadata.into(), &[tensor]);
    let id = Digest::of(b"a manifest").as_bytes().to_vec();
    let chunks: Vec<wire::UploadRequest> = file
        .chunks(6)
        .enumerate()
        .map(|(n, data)| wire::UploadRequest {
            upload_id: id.clone().into(),
            chunk: Some(wire::Chunk {
                offset: n as u64 * 6,
                data: data.to_vec().into(),
                total: file.len() as u64,
            }),
        })
        .collect();
    let findings = told(fleet, || {
        let mut deltas = DeltasClient::new(link(fleet));
        send(fleet, deltas.upload(tokio_stream::iter(chunks)));
    });
    names(&findings, "tensor block0.conv.weight", "Sound's acc_x");
    names(&findings, "the delta's header", "hex");
}

/// Inside what is signed.
pub(crate) fn a_label_in_a_manifest(fleet: &Fleet) {
    let label = &fleet.of(Part::Stranger).strange;
    let key = SigningKey::load_or_create(&fleet.of(Part::Sound).dir.join("node.key"));
    let key = key.expect("a key");
    let manifest = DeltaManifest {
        deployment: "demo".parse().expect("a name"),
        round: RoundId(1),
        window: 0,
        base_digest: Digest::of(b"base"),
        node_id: NodeId::of_key(&key.public()),
        counter: 99,
        lease: Lease([7; 16]),
        expires: UnixMillis(1),
        tensors: vec![TensorEntry {
            name: format!("head.{label}"),
            shape: vec![1],
        }],
        codec: Codec::F32,
        size: 4,
        digest: Digest::of(b"d"),
        chunk_digests: vec![Digest::of(b"d")],
        sample_count: 1,
        samples_aside: 0,
        before: None,
        after: None,
        training_seconds: 0.5,
        agent_version: "0".into(),
    };
    let sealed = Signed::seal(manifest, &key);
    assert_eq!(sealed.signed().to_wire().payload_type, DeltaManifest::TYPE);
    let request = wire::BeginDeltaRequest {
        manifest: Some(sealed.signed().to_wire()),
    };
    let findings = told(fleet, || {
        let mut deltas = DeltasClient::new(link(fleet));
        send(fleet, deltas.begin(request));
    });
    names(&findings, "TensorEntry.name", "Stranger's label");
}

/// A number among numbers.
pub(crate) fn a_reading_instead_of_a_loss(fleet: &Fleet) {
    let loss = f64::from(fleet.of(Part::Sound).values[1][100]);
    let findings = told(fleet, || {
        let mut rounds = RoundsClient::new(link(fleet));
        let progress = wire::Progress {
            phase: "training".to_owned(),
            loss,
            ..Default::default()
        };
        let request = wire::ReportRequest {
            event: Some(Event::Progress(progress)),
            ..report("")
        };
        send(fleet, rounds.report(request));
    });
    names(&findings, "Progress.loss", "Sound's acc_y");
}
