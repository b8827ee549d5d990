//! Thousands of histories: whatever happens in whatever order, with the power cut in between, the
//! phases and the store keep their promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::OnceLock,
};

use lamplight_proto::{
    cause::{OfferFault, Told},
    delta::{DeltaManifest, Receipt, TensorEntry},
    envelope::{Signed, TrustedKeys, Verified},
    ids::{Digest, Lease, ModelName, ModelVersion, NodeId, RoundId, UnixMillis},
    keys::SigningKey,
    offer::{Codec, NormMode, Optimizer, RoundOffer, Schedule, Training as Terms},
    refusal::{Reason, Refusal},
};
use proptest::prelude::*;

use super::{Effect, Event, Known, Outcome, Phase, Why};
use crate::store::{Store, phase::Keys};

const NOW: UnixMillis = UnixMillis(1_000);

fn keys() -> &'static (SigningKey, SigningKey) {
    static KEYS: OnceLock<(SigningKey, SigningKey)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = || SigningKey::generate().expect("randomness");
        (key(), key())
    })
}

fn me() -> NodeId {
    NodeId::of_key(&keys().1.public())
}

fn model() -> ModelName {
    "tcn".parse().expect("a name")
}

fn trusted() -> Keys {
    Keys {
        release: TrustedKeys::new([keys().0.public()]),
        own: TrustedKeys::new([keys().1.public()]),
    }
}

/// What may happen, in numbers small enough to collide.
#[derive(Debug, Clone)]
enum Happening {
    Offered {
        lease: u8,
        version: u64,
        content: u8,
        fault: u8,
    },
    BaseReady,
    Learned {
        ours: bool,
    },
    Accepted {
        ours: bool,
    },
    Failed,
    Refused,
    Unwanted,
    PowerCut,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..12_u8, 1..5_u64, 0..2_u8, 0..9_u8).prop_map(|(lease, version, content, fault)| {
            Happening::Offered { lease, version, content, fault }
        }),
        4 => Just(Happening::BaseReady),
        4 => any::<bool>().prop_map(|ours| Happening::Learned { ours }),
        4 => any::<bool>().prop_map(|ours| Happening::Accepted { ours }),
        1 => Just(Happening::Failed),
        1 => Just(Happening::Refused),
        1 => Just(Happening::Unwanted),
        3 => Just(Happening::PowerCut),
    ]
}

fn offer(lease: u8, version: u64, content: u8, fault: u8) -> Verified<RoundOffer> {
    let offer = RoundOffer {
        budget: Default::default(),
        deployment: if fault == 1 { "other" } else { "fleet" }
            .parse()
            .expect("a name"),
        node_id: if fault == 2 {
            NodeId::of_key(b"somebody else")
        } else {
            me()
        },
        round: RoundId(u64::from(lease) + 1),
        window: 0,
        model: model(),
        base_version: ModelVersion(version),
        base_digest: Digest::of(&[u8::try_from(version).expect("small"), content]),
        base_size: 1,
        lease: Lease([lease; 16]),
        expires: UnixMillis(if fault == 3 { 1_000 } else { 1_001 }),
        max_delta_bytes: 1,
        codec: Codec::F32,
        training: Terms {
            trainable: Default::default(),
            epochs: 1,
            batch: 1,
            optimizer: Optimizer::Sgd {
                learning_rate: 0.1,
                momentum: 0.0,
                weight_decay: 0.0,
            },
            clip_norm: None,
            schedule: Schedule::Constant,
            norm_mode: NormMode::Frozen,
            seed: 1,
            rotate_deg: 0.0,
        },
        needs: if fault == 4 {
            vec!["a-later-feature".parse().expect("a name")]
        } else {
            vec![]
        },
    };
    Signed::seal(offer, &keys().0)
}

fn manifest(offer: &RoundOffer, counter: u64) -> Verified<DeltaManifest> {
    let manifest = DeltaManifest {
        deployment: offer.deployment.clone(),
        round: offer.round,
        window: offer.window,
        base_digest: offer.base_digest,
        node_id: offer.node_id.clone(),
        counter,
        lease: offer.lease,
        expires: offer.expires,
        tensors: vec![TensorEntry {
            name: "w".into(),
            shape: vec![1],
        }],
        codec: Codec::F32,
        size: 1,
        digest: Digest::of(b"d"),
        chunk_digests: vec![Digest::of(b"d")],
        sample_count: 1,
        before: None,
        after: None,
        training_seconds: 0.5,
        agent_version: "0".into(),
        samples_aside: 0,
    };
    Signed::seal(manifest, &keys().1)
}

fn receipt(m: &Verified<DeltaManifest>, ours: bool) -> Verified<Receipt> {
    let receipt = Receipt {
        deployment: m.deployment.clone(),
        round: m.round,
        node_id: m.node_id.clone(),
        manifest_digest: m.signed().payload_digest(),
        delta_digest: m.digest,
        counter: if ours { m.counter } else { m.counter + 1 },
        accepted: NOW,
    };
    Signed::seal(receipt, &keys().0)
}

/// A node on a disk, with what must hold about its past.
struct World {
    store: Store,
    phase: Phase,
    opened: BTreeSet<Lease>,
    closed: BTreeMap<Lease, Outcome>,
    contents: BTreeMap<u64, Digest>,
    highest: u64,
    sent: BTreeMap<Lease, Vec<u8>>,
    receipts: usize,
    reports: usize,
}

impl World {
    fn new(path: &Path) -> Self {
        let store = Store::open(path).expect("opened");
        Self {
            phase: store.phase(&trusted()).expect("idle"),
            store,
            opened: BTreeSet::new(),
            closed: BTreeMap::new(),
            contents: BTreeMap::new(),
            highest: 0,
            sent: BTreeMap::new(),
            receipts: 0,
            reports: 0,
        }
    }

    /// The event for a happening, as the loop would make it; none for what it could not see.
    fn event(&mut self, happening: &Happening) -> Option<Event> {
        let task = self.phase.offer().cloned();
        Some(match happening {
            Happening::Offered {
                lease,
                version,
                content,
                fault,
            } => {
                let offer = offer(*lease, *version, *content, *fault);
                let known = Known {
                    deployment: "fleet".parse().expect("a name"),
                    node_id: me(),
                    now: NOW,
                    highest: self.store.highest(&offer.model).expect("read"),
                    beyond: None,
                    done_before: self.store.done_before(offer.lease).expect("read"),
                };
                Event::Offered(Box::new(offer), known)
            }
            Happening::BaseReady => Event::BaseReady,
            Happening::Learned { ours } => {
                let mut task = task?.get().clone();
                let counter = self.store.counter(task.lease).expect("counted");
                if !ours {
                    task.lease = Lease([99; 16]);
                }
                Event::Learned(Box::new(manifest(&task, counter)))
            }
            Happening::Accepted { ours } => {
                let Phase::Uploading(p) = &self.phase else {
                    return None;
                };
                Event::Accepted(Box::new(receipt(p.manifest(), *ours)))
            }
            Happening::Failed => Event::Failed(Why::new(Told::Other, "it broke")),
            Happening::Refused => Event::Refused(Refusal::new(Reason::NonFinite, "no")),
            Happening::Unwanted => Event::Unwanted("over".into()),
            Happening::PowerCut => return None,
        })
    }

    fn step(&mut self, event: Event) {
        let before = self.phase.clone();
        let (next, effects) = before.clone().step(event);
        self.store
            .write_step(&next, &effects, NOW)
            .expect("written");
        let mut closes = 0;
        for effect in &effects {
            match effect {
                Effect::Open(o) => {
                    assert!(matches!(before, Phase::Idle(_)), "one task at a time");
                    assert_eq!((o.deployment.as_str(), &o.node_id), ("fleet", &me()));
                    assert!(o.expires > NOW, "an expired offer was taken up");
                    assert!(self.opened.insert(o.lease), "a lease was worked on twice");
                    assert!(o.base_version.0 >= self.highest, "rolled back");
                    assert!(o.needs.is_empty(), "took up what it does not know");
                    self.highest = o.base_version.0;
                    let known = self.contents.entry(self.highest).or_insert(o.base_digest);
                    assert_eq!(*known, o.base_digest, "one version, two contents");
                }
                Effect::Decline { offer, .. } => {
                    assert!(matches!(next, Phase::Idle(_)));
                    let known = offer.needs.is_empty();
                    assert!(!known || offer.base_version.0 <= self.highest);
                    assert!(self.opened.insert(offer.lease));
                    self.closed.insert(offer.lease, Outcome::Declined);
                }
                Effect::Close { lease, outcome, .. } => {
                    closes += 1;
                    let held = before.holds().map(|(lease, _)| lease);
                    assert_eq!(held, Some(*lease), "another task was closed");
                    assert!(matches!(next, Phase::Idle(_)));
                    assert!(self.closed.insert(*lease, *outcome).is_none());
                    let tells =
                        |e: &Effect| matches!(e, Effect::Report { lease: l, .. } if l == lease);
                    assert_eq!(
                        effects.iter().any(tells),
                        matches!(outcome, Outcome::Failed | Outcome::Refused),
                        "whoever still waits for a task that ended is told"
                    );
                }
                Effect::Keep(lease, r) => {
                    let sent = &self.sent[lease];
                    let sent: Signed<DeltaManifest> = Signed::from_bytes(sent).expect("sent");
                    assert_eq!(r.manifest_digest, sent.payload_digest());
                    self.receipts += 1;
                }
                Effect::Report { .. } => self.reports += 1,
                Effect::Describe(_) | Effect::Warn(_) => {}
            }
        }
        let ended = !matches!(before, Phase::Idle(_)) && matches!(next, Phase::Idle(_));
        assert_eq!(
            closes,
            usize::from(ended),
            "tasks end once, and with a reason"
        );
        if let Phase::Uploading(p) = &next {
            let bytes = p.manifest().signed().to_bytes();
            let sent = self.sent.entry(p.offer().lease).or_insert(bytes.clone());
            assert_eq!(*sent, bytes, "a lease has one manifest");
        }
        self.phase = next;
    }

    /// What is on disk is what was in memory.
    fn check(&self, path: &Path) {
        let again = Store::open(path).expect("opened");
        let phase = again.phase(&trusted()).expect("restored");
        assert_eq!(phase.name(), self.phase.name());
        assert_eq!(
            phase.offer().map(|o| o.signed().to_bytes()),
            self.phase.offer().map(|o| o.signed().to_bytes())
        );
        if let (Phase::Uploading(a), Phase::Uploading(b)) = (&phase, &self.phase) {
            let bytes = |p: &super::Uploading| p.manifest().signed().to_bytes();
            assert_eq!(bytes(a), bytes(b));
        }
        let highest = again.highest(&model()).expect("read");
        assert_eq!(highest.map_or(0, |(v, _)| v.0), self.highest);
        let status = again.status(1000).expect("read");
        assert_eq!(status.tasks.len(), self.opened.len());
        assert_eq!(status.receipts, self.receipts as u64);
        assert_eq!(status.undelivered, self.reports as u64);
        let accepted = self.closed.values().filter(|o| **o == Outcome::Accepted);
        assert_eq!(accepted.count(), self.receipts);
        for task in status.tasks {
            let lease = Lease([u8::try_from(task.round - 1).expect("small"); 16]);
            let outcome = self.closed.get(&lease).map(|o| o.as_str().to_owned());
            assert_eq!(task.outcome, outcome);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_history_keeps_the_promises(
        happenings in prop::collection::vec(happening(), 1..40)
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.db");
        let mut world = World::new(&path);
        for happening in &happenings {
            if let Some(event) = world.event(happening) {
                world.step(event);
            }
            if matches!(happening, Happening::PowerCut) {
                world.check(&path);
                // Memory is gone; the disk is all there is.
                world.store = Store::open(&path).expect("opened");
                world.phase = world.store.phase(&trusted()).expect("restored");
            }
        }
        world.check(&path);
    }
}

#[test]
fn each_phase_answers_only_to_its_own_events() {
    use Happening as H;
    let take = H::Offered {
        lease: 1,
        version: 1,
        content: 0,
        fault: 0,
    };
    let (learned, accepted) = (H::Learned { ours: true }, H::Accepted { ours: true });
    // How to reach a phase, what happens there, and the phase after it.
    let rows: Vec<(Vec<H>, H, &str)> = vec![
        (vec![], take.clone(), "preparing"),
        (vec![], H::BaseReady, "idle"),
        (vec![], H::Failed, "idle"),
        (vec![take.clone()], take.clone(), "preparing"),
        (vec![take.clone()], H::BaseReady, "training"),
        (vec![take.clone()], learned.clone(), "preparing"),
        (vec![take.clone()], H::Unwanted, "idle"),
        (vec![take.clone(), H::BaseReady], H::BaseReady, "training"),
        (
            vec![take.clone(), H::BaseReady],
            learned.clone(),
            "uploading",
        ),
        (
            vec![take.clone(), H::BaseReady],
            H::Learned { ours: false },
            "training",
        ),
        (vec![take.clone(), H::BaseReady], H::Failed, "idle"),
        (
            vec![take.clone(), H::BaseReady, learned.clone()],
            accepted.clone(),
            "idle",
        ),
        (
            vec![take.clone(), H::BaseReady, learned.clone()],
            H::Accepted { ours: false },
            "uploading",
        ),
        (
            vec![take.clone(), H::BaseReady, learned.clone()],
            H::Refused,
            "idle",
        ),
        // A finished lease is not worked on again.
        (
            vec![take.clone(), H::BaseReady, learned, accepted],
            take,
            "idle",
        ),
    ];
    for (i, (path, last, want)) in rows.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut world = World::new(&dir.path().join("agent.db"));
        for happening in path.iter().chain([&last]) {
            if let Some(event) = world.event(happening) {
                world.step(event);
            }
        }
        assert_eq!(world.phase.name(), want, "row {i}: {path:?} then {last:?}");
    }
}

#[test]
fn offers_against_what_is_known_are_declined_or_ignored() {
    let mut known = Known {
        deployment: "fleet".parse().expect("a name"),
        node_id: me(),
        now: NOW,
        highest: Some((ModelVersion(3), Digest::of(&[3, 0]))),
        beyond: None,
        done_before: false,
    };
    let effects = |offer: Verified<RoundOffer>, known: &Known| {
        let (phase, effects) = Phase::idle().step(Event::Offered(Box::new(offer), known.clone()));
        (phase.name(), effects)
    };
    let (phase, e) = effects(offer(1, 2, 0, 0), &known);
    assert_eq!(phase, "idle");
    assert!(
        matches!(&e[..], [Effect::Decline { reason, .. }, Effect::Report { told, .. }]
            if reason == "the offer's base is version 2, this node has already seen version 3"
                && *told == Told::Offer(OfferFault::Rollback { offered: 2, highest: 3 }))
    );
    let (_, e) = effects(offer(1, 3, 1, 0), &known);
    assert!(matches!(
        &e[..],
        [Effect::Decline { .. }, Effect::Report { .. }]
    ));
    for (version, content) in [(3, 0), (4, 1)] {
        let (phase, _) = effects(offer(1, version, content, 0), &known);
        assert_eq!(phase, "preparing");
    }
    for fault in [1, 2, 3] {
        let (phase, e) = effects(offer(1, 4, 0, fault), &known);
        assert_eq!(phase, "idle");
        assert!(matches!(&e[..], [Effect::Warn(_)]), "fault {fault}");
    }
    let (phase, e) = effects(offer(1, 4, 0, 4), &known);
    assert_eq!(phase, "idle");
    let version = lamplight_proto::version::VERSION;
    let said = format!(
        "this offer needs `a-later-feature`, which agent {version} does not know; update the agent"
    );
    assert!(
        matches!(&e[..], [Effect::Decline { reason, .. }, Effect::Report { .. }] if *reason == said)
    );
    known.done_before = true;
    let (phase, e) = effects(offer(1, 4, 0, 0), &known);
    assert!(phase == "idle" && e.is_empty());
}
