//! Signed payloads: round trips by property, hostile bytes, and golden bytes of version 1.

use std::path::Path;

use lamplight_proto::{
    Malformed,
    delta::{DeltaManifest, Metrics, Receipt, TensorEntry},
    envelope::Payload,
    ids::{Digest, Lease, ModelVersion, NodeId, RoundId, UnixMillis},
    offer::{Codec, MAX_MODEL_BYTES, NormMode, Optimizer, RoundOffer, Schedule, Training},
    release::{Contribution, Provenance, ReleaseManifest, Rule},
    wire,
};
use proptest::prelude::*;
use prost::Message as _;

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
        samples_aside: 0,
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
        budget: Default::default(),
        training: Training {
            trainable: Default::default(),
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
            rotate_deg: 0.0,
        },
        needs: vec![],
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
            trainable: Default::default(),
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
    // Fields that came later: their absence is what it always was, their presence is kept, too.
    let aside = DeltaManifest {
        samples_aside: 37,
        ..manifest()
    };
    golden("delta-manifest-samples-aside.v1.hex", &aside);
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
        samples_aside in any::<u64>(),
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
            samples_aside,
            ..manifest()
        }
    }
}

fn plain<T: std::str::FromStr<Err = Malformed> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}".prop_map(|text| name(&text))
}

/// A share in `0..1`, as momentum and decay are.
fn share() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), 0.0..1.0_f32]
}

fn optimizer() -> impl Strategy<Value = Optimizer> {
    let rate = || f32::MIN_POSITIVE..=100.0_f32;
    let sgd = (rate(), share(), share()).prop_map(|(learning_rate, momentum, weight_decay)| {
        Optimizer::Sgd {
            learning_rate,
            momentum,
            weight_decay,
        }
    });
    let eps = f32::MIN_POSITIVE..=1.0_f32;
    let adamw = (rate(), share(), share(), eps, share()).prop_map(
        |(learning_rate, beta1, beta2, eps, weight_decay)| Optimizer::AdamW {
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
        },
    );
    prop_oneof![sgd, adamw]
}

prop_compose! {
    fn any_training()(
        counts in (1..=1000_u32, 1..=65_536_u32, any::<u64>()),
        optimizer in optimizer(),
        clip_norm in proptest::option::of(f32::MIN_POSITIVE..=f32::MAX),
        schedule in prop_oneof![Just(Schedule::Constant), Just(Schedule::Cosine)],
        norm_mode in prop_oneof![Just(NormMode::Train), Just(NormMode::Frozen)],
        rotate_deg in 0.0..=180.0_f32,
    ) -> Training {
        Training {
            trainable: Default::default(),
            epochs: counts.0,
            batch: counts.1,
            seed: counts.2,
            optimizer,
            clip_norm,
            schedule,
            norm_mode,
            rotate_deg,
        }
    }
}

prop_compose! {
    fn any_offer()(
        names in (plain(), plain(), plain()),
        numbers in (any::<u64>(), any::<u32>(), any::<u64>(), any::<i64>(), any::<u64>()),
        base_size in 1..=MAX_MODEL_BYTES,
        base_digest in digest(),
        lease in any::<[u8; 16]>(),
        training in any_training(),
        needs in proptest::collection::vec("[a-z0-9-]{1,32}", 0..5),
    ) -> RoundOffer {
        RoundOffer {
            budget: Default::default(),
            deployment: names.0,
            node_id: names.1,
            model: names.2,
            round: RoundId(numbers.0),
            window: numbers.1,
            base_version: ModelVersion(numbers.2),
            expires: UnixMillis(numbers.3),
            max_delta_bytes: numbers.4,
            base_size,
            base_digest,
            lease: Lease(lease),
            codec: Codec::F32,
            training,
            needs: needs.iter().map(|n| name(n)).collect(),
        }
    }
}

prop_compose! {
    fn any_contribution()(
        node_id in plain(),
        digests in (digest(), digest()),
        weight in 1..=u64::MAX,
        clip_factor in prop_oneof![Just(1.0), f64::MIN_POSITIVE..=1.0_f64],
    ) -> Contribution {
        Contribution {
            node_id,
            delta_digest: digests.0,
            manifest_digest: digests.1,
            weight,
            clip_factor,
        }
    }
}

prop_compose! {
    fn any_provenance()(
        numbers in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()),
        base_digest in digest(),
        base_carry_digest in proptest::option::of(digest()),
        clip_norm in proptest::option::of(f64::MIN_POSITIVE..=f64::MAX),
        contributions in proptest::collection::vec(any_contribution(), 0..6),
    ) -> Provenance {
        Provenance {
            trainable: Default::default(),
            round: RoundId(numbers.0),
            base_version: ModelVersion(numbers.1),
            weight_cap: numbers.2,
            fixed_point_bits: numbers.3,
            base_digest,
            base_carry_digest,
            rule: Rule::FedAvg,
            clip_norm,
            contributions,
        }
    }
}

prop_compose! {
    fn any_release()(
        names in (plain(), plain()),
        version in 1..=u64::MAX,
        size in 1..=MAX_MODEL_BYTES,
        created in any::<i64>(),
        digest in digest(),
        carry_digest in proptest::option::of(digest()),
        provenance in proptest::option::of(any_provenance()),
        evaluation in metrics(),
    ) -> ReleaseManifest {
        ReleaseManifest {
            deployment: names.0,
            model: names.1,
            version: ModelVersion(version),
            size,
            created: UnixMillis(created),
            digest,
            carry_digest,
            provenance,
            evaluation,
        }
    }
}

prop_compose! {
    fn any_receipt()(
        names in (plain(), plain()),
        numbers in (any::<u64>(), any::<u64>(), any::<i64>()),
        digests in (digest(), digest()),
    ) -> Receipt {
        Receipt {
            deployment: names.0,
            node_id: names.1,
            round: RoundId(numbers.0),
            counter: numbers.1,
            accepted: UnixMillis(numbers.2),
            manifest_digest: digests.0,
            delta_digest: digests.1,
        }
    }
}

proptest! {
    #[test]
    fn a_manifest_reads_back_as_it_was_written(m in any_manifest()) {
        prop_assert_eq!(DeltaManifest::parse(&m.to_payload()), Ok(m));
    }

    #[test]
    fn an_offer_reads_back_as_it_was_written(o in any_offer()) {
        prop_assert_eq!(RoundOffer::parse(&o.to_payload()), Ok(o));
    }

    #[test]
    fn a_release_reads_back_as_it_was_written(r in any_release()) {
        prop_assert_eq!(ReleaseManifest::parse(&r.to_payload()), Ok(r));
    }

    #[test]
    fn a_receipt_reads_back_as_it_was_written(r in any_receipt()) {
        prop_assert_eq!(Receipt::parse(&r.to_payload()), Ok(r));
    }

    #[test]
    fn bytes_of_strangers_are_errors_or_values_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = DeltaManifest::parse(&bytes);
        let _ = RoundOffer::parse(&bytes);
        let _ = ReleaseManifest::parse(&bytes);
        let _ = Receipt::parse(&bytes);
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
    says(&|m| m.agent_version = "1".repeat(65), "agent_version");
    says(
        &|m| m.agent_version = "0.1\u{1b}[2J".into(),
        "visible ASCII",
    );
}

#[test]
fn every_node_has_a_seed_of_its_own_in_every_round() {
    let seed = |place, node| offer().training.of_node(place, node).seed;
    let seeds: std::collections::BTreeSet<u64> = (1..=100)
        .flat_map(|place| ["a", "b", "c"].map(|node| seed(place, node)))
        .collect();
    assert_eq!(seeds.len(), 300);
    assert_eq!(seed(3, "a"), seed(3, "a"));
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
    says(&|t| t.rotate_deg = 181.0, "rotate_deg");
    let sgd = |learning_rate| Optimizer::Sgd {
        learning_rate,
        momentum: 0.9,
        weight_decay: 0.0,
    };
    says(&|t| t.optimizer = sgd(f32::NAN), "learning_rate");
    says(&|t| t.optimizer = sgd(0.0), "learning_rate");
}

#[test]
fn each_fault_of_an_offer_is_named() {
    let says = |change: &dyn Fn(&mut wire::RoundOffer), what: &str| {
        let mut o = wire::RoundOffer::decode(&offer().to_payload()[..]).expect("decodes");
        change(&mut o);
        let e = RoundOffer::parse(&o.encode_to_vec()).expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    };
    says(&|o| o.base_size = 0, "base_size is 0");
    says(&|o| o.base_size = MAX_MODEL_BYTES + 1, "base_size");
    says(&|o| o.lease = vec![1; 15].into(), "15 bytes instead of 16");
    says(
        &|o| o.base_digest = vec![1; 33].into(),
        "33 bytes instead of 32",
    );
    says(&|o| o.codec = "q2".into(), "codec \"q2\"");
    says(&|o| o.model = "../x".into(), "model name");
    says(&|o| o.training = None, "training is missing");
    let training = |o: &mut wire::RoundOffer, change: &dyn Fn(&mut wire::Training)| {
        change(o.training.as_mut().expect("there"));
    };
    says(&|o| training(o, &|t| t.schedule = 99), "schedule");
    says(&|o| training(o, &|t| t.norm_mode = 0), "norm_mode");
    says(&|o| training(o, &|t| t.optimizer = None), "optimizer");
}

#[test]
fn each_fault_of_a_release_is_named() {
    let says = |change: &dyn Fn(&mut wire::ReleaseManifest), what: &str| {
        let mut m = wire::ReleaseManifest::decode(&release().to_payload()[..]).expect("decodes");
        change(&mut m);
        let e = ReleaseManifest::parse(&m.encode_to_vec()).expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    };
    fn provenance(m: &mut wire::ReleaseManifest) -> &mut wire::Provenance {
        m.provenance.as_mut().expect("there")
    }
    says(&|m| m.version = 0, "version is 0");
    says(&|m| m.size = 0, "size is 0");
    says(&|m| m.digest = vec![].into(), "0 bytes instead of 32");
    says(
        &|m| m.carry_digest = vec![1].into(),
        "1 bytes instead of 32",
    );
    says(&|m| provenance(m).rule = "median".into(), "rule \"median\"");
    says(&|m| provenance(m).clip_norm = f64::NAN, "clip_norm is NaN");
    says(&|m| provenance(m).clip_norm = -1.0, "clip_norm is -1");
    says(
        &|m| provenance(m).contributions[0].weight = 0,
        "weight is 0",
    );
    says(
        &|m| provenance(m).contributions[0].clip_factor = 1.5,
        "clip_factor 1.5",
    );
    let evaluation = |loss, accuracy| {
        Some(wire::Metrics {
            samples: 1,
            loss,
            accuracy,
        })
    };
    says(
        &|m| m.evaluation = evaluation(f64::INFINITY, 0.5),
        "loss is inf",
    );
    says(&|m| m.evaluation = evaluation(0.5, 1.5), "accuracy is 1.5");
}
