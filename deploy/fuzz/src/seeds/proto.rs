//! Envelopes, payloads, names, chunks, refusals, identities.

use lamplight_proto::budget::Budget;
use lamplight_proto::delta::{DeltaManifest, Metrics, Receipt, TensorEntry};
use lamplight_proto::envelope::{Payload, Signed};
use lamplight_proto::ids::{Deployment, Digest, Lease, ModelVersion, NodeId, RoundId, UnixMillis};
use lamplight_proto::keys::SigningKey;
use lamplight_proto::offer::{
    Codec, NormMode, Optimizer, RoundOffer, Schedule, Trainable, Training,
};
use lamplight_proto::refusal::Reason;
use lamplight_proto::release::{Contribution, Provenance, ReleaseManifest, Rule};
use lamplight_proto::token::JoinToken;
use lamplight_proto::wire;
use prost::Message as _;

use super::Seed;
use crate::coordinator::deployment;
use crate::parts;

fn node() -> NodeId {
    NodeId::of_key(&[7; 32])
}

fn metrics() -> Metrics {
    Metrics {
        samples: 100,
        loss: 0.5,
        accuracy: 0.75,
    }
}

pub(super) fn manifest() -> DeltaManifest {
    let tensor = |name: &str, shape: &[u64]| TensorEntry {
        name: name.into(),
        shape: shape.into(),
    };
    DeltaManifest {
        samples_aside: 0,
        deployment: deployment(),
        round: RoundId(3),
        window: 0,
        base_digest: Digest::of(b"base"),
        node_id: node(),
        counter: 3,
        lease: Lease([9; 16]),
        expires: UnixMillis(1_790_000_000_000),
        tensors: vec![
            tensor("conv.weight", &[32, 6, 5]),
            tensor("head.bias", &[6]),
        ],
        codec: Codec::F32,
        size: 4000,
        digest: Digest::of(b"delta"),
        chunk_digests: vec![Digest::of(b"delta")],
        sample_count: 240,
        before: Some(metrics()),
        after: None,
        training_seconds: 1.5,
        agent_version: "0.1.0".into(),
    }
}

fn offer() -> RoundOffer {
    RoundOffer {
        deployment: deployment(),
        node_id: node(),
        round: RoundId(3),
        window: 0,
        model: "tcn".parse().expect("a plain name"),
        base_version: ModelVersion(1),
        base_digest: Digest::of(b"base"),
        base_size: 4000,
        lease: Lease([9; 16]),
        expires: UnixMillis(1_790_000_000_000),
        max_delta_bytes: 9000,
        codec: Codec::F32,
        training: training(),
        budget: budget(),
        needs: vec!["trainable-head".parse().expect("a plain name")],
    }
}

pub(super) fn budget() -> Budget {
    Budget {
        memory_bytes: Some(1 << 30),
        energy_joules: Some(5000.0),
        transfer_bytes: None,
        windows: vec!["22:00-05:30".parse().expect("a window")],
    }
}

pub(super) fn training() -> Training {
    Training {
        trainable: Trainable::Head,
        epochs: 4,
        batch: 32,
        optimizer: Optimizer::AdamW {
            learning_rate: 0.001,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        clip_norm: Some(1.0),
        schedule: Schedule::Cosine,
        norm_mode: NormMode::Frozen,
        seed: 1,
        rotate_deg: 30.0,
    }
}

pub(super) fn release(provenance: Option<Provenance>) -> ReleaseManifest {
    ReleaseManifest {
        deployment: deployment(),
        model: "tcn".parse().expect("a plain name"),
        version: ModelVersion(2),
        digest: Digest::of(b"release"),
        size: 4000,
        provenance,
        carry_digest: Some(Digest::of(b"carry")),
        created: UnixMillis(1_790_000_000_000),
        evaluation: Some(metrics()),
    }
}

pub(super) fn contribution() -> Contribution {
    Contribution {
        node_id: node(),
        delta_digest: Digest::of(b"delta"),
        manifest_digest: Digest::of(b"manifest"),
        weight: 240,
        clip_factor: 0.5,
    }
}

pub(super) fn provenance(contribution: Contribution) -> Provenance {
    Provenance {
        round: RoundId(3),
        base_version: ModelVersion(1),
        base_digest: Digest::of(b"base"),
        base_carry_digest: None,
        rule: Rule::FedAvg,
        clip_norm: Some(10.0),
        weight_cap: 1000,
        fixed_point_bits: 40,
        contributions: vec![contribution],
        trainable: Trainable::All,
    }
}

/// A field of a message, empty, as often as a kibibyte takes it: what a list costs at most.
fn empty_elements(field: u8) -> Vec<u8> {
    [field << 3 | 2, 0].repeat(512)
}

pub(super) fn seeds() -> Vec<Seed> {
    let receipt = Receipt {
        deployment: deployment(),
        round: RoundId(3),
        node_id: node(),
        manifest_digest: Digest::of(b"manifest"),
        delta_digest: Digest::of(b"delta"),
        counter: 3,
        accepted: UnixMillis(1_790_000_000_000),
    };
    let aggregated = release(Some(provenance(contribution())));
    let contributions = wire::ReleaseManifest {
        version: 1,
        size: 1,
        provenance: Some(wire::Provenance::default()),
        ..Default::default()
    };
    // The empty provenance at its end is made one of empty contributions.
    let mut contributions = contributions.encode_to_vec();
    contributions.truncate(contributions.len() - 1);
    contributions.extend([0xe8, 0x07]);
    contributions.extend(&empty_elements(9)[..1000]);
    let key = SigningKey::generate().expect("the system has randomness");
    let signed = Signed::seal(manifest(), &key).signed().to_bytes();
    let mut all = vec![
        Seed::once("envelope", "good-envelope", signed),
        Seed::new("envelope", "bad-payload-of-2e60-bytes", huge_field(2)),
        Seed::new("envelope", "good-512-empty-signatures", empty_elements(3)),
        Seed::new("delta_manifest", "good-manifest", manifest().to_payload()),
        Seed::new("delta_manifest", "bad-512-empty-tensors", empty_elements(9)),
        Seed::new(
            "delta_manifest",
            "bad-512-empty-digests",
            empty_elements(13),
        ),
        Seed::new("delta_manifest", "bad-name-of-2e60-bytes", huge_field(5)),
        Seed::new(
            "release_manifest",
            "good-pushed",
            release(None).to_payload(),
        ),
        Seed::new(
            "release_manifest",
            "good-aggregated",
            aggregated.to_payload(),
        ),
        Seed::new(
            "release_manifest",
            "bad-500-empty-contributions",
            contributions,
        ),
        Seed::new("round_offer", "good-offer", offer().to_payload()),
        Seed::new("round_offer", "bad-groups-in-groups", vec![0x0b; 1024]),
        Seed::new("receipt", "good-receipt", receipt.to_payload()),
        Seed::new("receipt", "bad-digest-of-2e60-bytes", huge_field(4)),
    ];
    all.extend(names());
    all.extend(chunks());
    all.extend(refusals());
    all.push(identity());
    all
}

/// A field of bytes that claims 2^60 of them.
fn huge_field(field: u8) -> Vec<u8> {
    [
        field << 3 | 2,
        0x80,
        0x80,
        0x80,
        0x80,
        0x80,
        0x80,
        0x80,
        0x80,
        0x10,
    ]
    .to_vec()
}

fn names() -> Vec<Seed> {
    let token = JoinToken::generate(Digest::of(b"authority")).expect("the system has randomness");
    let long = ["a"; 1024].concat();
    vec![
        Seed::new("names", "good-node", node().to_string()),
        Seed::new("names", "good-digest", Digest::of(b"").to_string()),
        Seed::new("names", "good-address", "[::1]:7443"),
        Seed::new("names", "good-host", "fleet.example.org:7443"),
        Seed::new(
            "names",
            "good-filter",
            "site=chicago,mount=high,mount=low,lit",
        ),
        Seed::new("names", "good-hours", "22:00-05:30"),
        Seed::new("names", "good-version", "0.2.0-rc.1+5"),
        Seed::new("names", "bad-terms", "=,".repeat(500)),
        Seed::once("names", "good-token", token.to_string()),
        Seed::new("names", "bad-token", "lamp1_%%%%"),
        Seed::new("names", "bad-long", format!("{long}/")),
        Seed::new("names", "bad-way-up", "../../etc"),
    ]
}

fn chunks() -> Vec<Seed> {
    let sequence = |total: u32, chunks: &[(u64, &[u8], u64)]| {
        let mut bytes = total.to_le_bytes().to_vec();
        for &(offset, data, total) in chunks {
            let data = data.to_vec().into();
            let chunk = wire::Chunk {
                offset,
                data,
                total,
            };
            bytes.extend(chunk.encode_length_delimited_to_vec());
        }
        bytes
    };
    let all: &[(u64, &[u8], u64)] = &[(0, b"lamp", 9), (4, b"light", 9)];
    vec![
        Seed::new("chunks", "good-two", sequence(9, all)),
        Seed::new("chunks", "bad-order", sequence(9, &[all[1], all[0]])),
        Seed::new("chunks", "bad-overrun", sequence(8, all)),
        Seed::new(
            "chunks",
            "bad-offset-2e64",
            sequence(u32::MAX, &[(u64::MAX, b"x", u64::MAX)]),
        ),
    ]
}

fn refusals() -> Vec<Seed> {
    let refusal = |reason: i32| {
        let message = "delta targets round 3, but round 4 is open".into();
        wire::Refusal { reason, message }.encode_to_vec()
    };
    vec![
        Seed::new(
            "refusal",
            "good-closed",
            refusal(Reason::RoundClosed as i32),
        ),
        Seed::new("refusal", "good-reason-of-a-newer-peer", refusal(1000)),
        Seed::new("refusal", "bad-no-reason", refusal(0)),
        Seed::new("refusal", "bad-message-of-2e60-bytes", huge_field(2)),
    ]
}

/// A certificate of its own, and in place of a key bytes that are none: keys have no place in a
/// repository, and what is inside is read only when TLS is set up.
fn identity() -> Seed {
    let key = rcgen::KeyPair::generate().expect("the system has randomness");
    let name: Deployment = deployment();
    let params = rcgen::CertificateParams::new([name.to_string()]).expect("a host name");
    let certificate = params.self_signed(&key).expect("it can be signed").pem();
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let files = [&certificate, no_key, &certificate].map(str::as_bytes);
    Seed::once("identity", "good-pem", parts::join(&files))
}
