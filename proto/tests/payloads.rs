//! Signed payloads: round trips by property, hostile bytes, and golden bytes of version 1.

use std::path::Path;

use lamplight_proto::{
    Malformed,
    delta::{DeltaManifest, Metrics, Receipt, TensorEntry},
    envelope::Payload,
    ids::{Digest, Lease, ModelVersion, NodeId, RoundId, UnixMillis},
    offer::{Codec, NormMode, Optimizer, RoundOffer, Schedule, Training},
    release::{Contribution, Provenance, ReleaseManifest, Rule},
};
use proptest::prelude::*;

fn name<T: std::str::FromStr<Err = Malformed>>(text: &str) -> T {
    text.parse().expect("a plain name")
}

fn manifest() -> DeltaManifest {
    DeltaManifest {
        deployment: name("chicago"),
        round: RoundId(7),
        window: 0,
        base_digest: Digest::of(b"base"),
        node_id: NodeId::of_key(&[7; 32]),
        counter: 3,
        lease: Lease([9; 16]),
        expires: UnixMillis(1_790_000_000_000),
        tensors: vec![
            TensorEntry {
                name: "block0.conv.weight".into(),
                shape: vec![32, 6, 5],
            },
            TensorEntry {
                name: "head.bias".into(),
                shape: vec![6],
            },
        ],
        codec: Codec::F32,
        size: 4000,
        digest: Digest::of(b"delta"),
        chunk_digests: vec![Digest::of(b"delta")],
        sample_count: 240,
        before: Some(Metrics {
            samples: 100,
            loss: 0.5,
            accuracy: 0.8,
        }),
        after: None,
        training_seconds: 1.5,
        agent_version: "0.1.0".into(),
    }
}

fn offer() -> RoundOffer {
    RoundOffer {
        deployment: name("chicago"),
        node_id: NodeId::of_key(&[7; 32]),
        round: RoundId(7),
        window: 0,
        model: name("post"),
        base_version: ModelVersion(2),
        base_digest: Digest::of(b"base"),
        base_size: 40_000,
        lease: Lease([9; 16]),
        expires: UnixMillis(1_790_000_000_000),
        max_delta_bytes: 1 << 20,
        codec: Codec::F32,
        training: Training {
            epochs: 1,
            batch: 32,
            optimizer: Optimizer::Sgd {
                learning_rate: 0.01,
                momentum: 0.9,
                weight_decay: 0.0,
            },
            clip_norm: Some(1.0),
            schedule: Schedule::Constant,
            norm_mode: NormMode::Frozen,
            seed: 1,
        },
    }
}

fn release() -> ReleaseManifest {
    ReleaseManifest {
        deployment: name("chicago"),
        model: name("post"),
        version: ModelVersion(3),
        digest: Digest::of(b"gguf"),
        size: 40_000,
        provenance: Some(Provenance {
            round: RoundId(7),
            base_version: ModelVersion(2),
            base_digest: Digest::of(b"base"),
            base_carry_digest: None,
            rule: Rule::FedAvg,
            clip_norm: Some(2.5),
            weight_cap: 1_000_000,
            fixed_point_bits: 40,
            contributions: vec![Contribution {
                node_id: NodeId::of_key(&[7; 32]),
                delta_digest: Digest::of(b"delta"),
                manifest_digest: Digest::of(b"manifest"),
                weight: 240,
                clip_factor: 0.5,
            }],
        }),
        carry_digest: Some(Digest::of(b"carry")),
        created: UnixMillis(1_780_000_000_000),
        evaluation: None,
    }
}

fn receipt() -> Receipt {
    Receipt {
        deployment: name("chicago"),
        round: RoundId(7),
        node_id: NodeId::of_key(&[7; 32]),
        manifest_digest: Digest::of(b"manifest"),
        delta_digest: Digest::of(b"delta"),
        counter: 3,
        accepted: UnixMillis(1_780_000_000_000),
    }
}

/// The bytes of version 1 never change: nodes and coordinators of other builds signed and stored them.
/// A missing file is written, so that a new payload begins its life by being committed.
fn golden<T: Payload + PartialEq + std::fmt::Debug>(file: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    let bytes = hex::encode(value.to_payload());
    if !path.exists() {
        std::fs::write(&path, format!("{bytes}\n")).expect("golden file written");
        panic!(
            "{} was missing and has been written; commit it",
            path.display()
        );
    }
    let kept = std::fs::read_to_string(&path).expect("golden file");
    assert_eq!(bytes, kept.trim(), "{file}: the wire form changed");
    let back = T::parse(&hex::decode(kept.trim()).expect("hex")).expect("parses");
    assert_eq!(&back, value);
}

#[test]
fn version_1_payloads_keep_their_bytes() {
    golden("delta-manifest.v1.hex", &manifest());
    golden("round-offer.v1.hex", &offer());
    golden("release-manifest.v1.hex", &release());
    golden("receipt.v1.hex", &receipt());
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(|b| Digest::of(&b))
}

fn metrics() -> impl Strategy<Value = Option<Metrics>> {
    proptest::option::of((any::<u64>(), 0.0..100.0_f64, 0.0..=1.0_f64).prop_map(
        |(samples, loss, accuracy)| Metrics {
            samples,
            loss,
            accuracy,
        },
    ))
}

prop_compose! {
    fn any_manifest()(
        numbers in (any::<u64>(), any::<u32>(), any::<u64>(), any::<i64>(), 1..u64::MAX),
        digests in (digest(), digest(), any::<[u8; 16]>(), any::<[u8; 32]>()),
        chunks in proptest::collection::vec(digest(), 1..5),
        shapes in proptest::collection::btree_map("[a-z]{1,12}(\\.[a-z]{1,12})?",
            proptest::collection::vec(any::<u64>(), 0..5), 1..6),
        metrics in (metrics(), metrics()),
        seconds in 0.0..1e6_f64,
    ) -> DeltaManifest {
        DeltaManifest {
            round: RoundId(numbers.0),
            window: numbers.1,
            counter: numbers.2,
            expires: UnixMillis(numbers.3),
            sample_count: numbers.4,
            base_digest: digests.0,
            digest: digests.1,
            lease: Lease(digests.2),
            node_id: NodeId::of_key(&digests.3),
            size: chunks.len() as u64 * lamplight_proto::chunk::CHUNK_BYTES as u64,
            chunk_digests: chunks,
            tensors: shapes.into_iter().map(|(name, shape)| TensorEntry { name, shape }).collect(),
            before: metrics.0,
            after: metrics.1,
            training_seconds: seconds,
            ..manifest()
        }
    }
}

proptest! {
    #[test]
    fn a_manifest_reads_back_as_it_was_written(m in any_manifest()) {
        prop_assert_eq!(DeltaManifest::parse(&m.to_payload()), Ok(m));
    }

    #[test]
    fn damaged_payloads_are_errors_or_values_never_panics(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        fn damage<T: Payload>(value: &T, at: &prop::sample::Index, bit: u8, cut: &prop::sample::Index) {
            let mut bytes = value.to_payload();
            let i = at.index(bytes.len());
            bytes[i] ^= 1 << bit;
            let _ = T::parse(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = T::parse(&bytes);
        }
        damage(&manifest(), &at, bit, &cut);
        damage(&offer(), &at, bit, &cut);
        damage(&release(), &at, bit, &cut);
        damage(&receipt(), &at, bit, &cut);
    }
}

#[test]
fn each_fault_of_a_manifest_is_named() {
    let says = |change: &dyn Fn(&mut DeltaManifest), what: &str| {
        let mut m = manifest();
        change(&mut m);
        let e = DeltaManifest::parse(&m.to_payload()).expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    };
    says(&|m| m.tensors.clear(), "0 tensors");
    says(&|m| m.tensors.reverse(), "not sorted");
    says(&|m| m.chunk_digests.clear(), "0 digests");
    says(&|m| m.size = 3 << 20, "3 chunks");
    says(&|m| m.sample_count = 0, "sample_count");
    says(&|m| m.training_seconds = f64::NAN, "training_seconds");
    says(&|m| m.tensors[0].name = "x".repeat(300), "a name has");
}

#[test]
fn training_settings_out_of_range_are_refused() {
    let says = |change: &dyn Fn(&mut Training), what: &str| {
        let mut o = offer();
        change(&mut o.training);
        let e = RoundOffer::parse(&o.to_payload()).expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    };
    says(&|t| t.epochs = 0, "epochs is 0");
    says(&|t| t.batch = 0, "batch is 0");
    says(&|t| t.clip_norm = Some(-1.0), "clip_norm");
    let sgd = |learning_rate| Optimizer::Sgd {
        learning_rate,
        momentum: 0.9,
        weight_decay: 0.0,
    };
    says(&|t| t.optimizer = sgd(f32::NAN), "learning_rate");
    says(&|t| t.optimizer = sgd(0.0), "learning_rate");
}
