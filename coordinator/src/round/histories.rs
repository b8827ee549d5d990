//! Property test: thousands of event histories, with repeats, strays and crashes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use lamplight_proto::{
    delta::Metrics,
    ids::{Digest, ModelVersion, NodeId, RoundId, UnixMillis},
    release::{Contribution, Provenance, Rule},
};

use super::phase::{Built, Effect, Event, Phase, PhaseName, Stored, Terms};

const DEADLINE: i64 = 100;

fn node(i: usize) -> NodeId {
    NodeId::of_key(&[u8::try_from(i).expect("small")])
}

fn built(nodes: impl IntoIterator<Item = NodeId>) -> Box<Built> {
    let contributions = (nodes.into_iter())
        .map(|node_id| Contribution {
            delta_digest: Digest::of(node_id.as_str().as_bytes()),
            manifest_digest: Digest::of(b"m"),
            node_id,
            weight: 1,
            clip_factor: 1.0,
        })
        .collect();
    Box::new(Built {
        digest: Digest::of(b"model"),
        size: 5,
        carry: None,
        provenance: Provenance {
            trainable: Default::default(),
            round: RoundId(1),
            base_version: ModelVersion(1),
            base_digest: Digest::of(b"base"),
            base_carry_digest: None,
            rule: Rule::FedAvg,
            clip_norm: None,
            weight_cap: 10,
            fixed_point_bits: 30,
            contributions,
        },
    })
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Happens {
    Accept(usize),
    Fail(usize),
    Tick(i64),
    /// The step in hand gets done.
    Work,
    /// The step in hand cannot be done.
    GiveUp,
    /// A stray answer of some earlier step.
    Stray(usize),
    /// Power fails; what is on disk remains.
    Crash,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        // Nodes 6 and 7 are outside every cohort.
        8 => (0..8_usize).prop_map(Happens::Accept),
        4 => (0..8_usize).prop_map(Happens::Fail),
        2 => (0..120_i64).prop_map(Happens::Tick),
        4 => Just(Happens::Work),
        1 => Just(Happens::GiveUp),
        2 => (0..4_usize).prop_map(Happens::Stray),
        3 => Just(Happens::Crash),
    ]
}

/// The disk beside a phase: what the store would hold.
struct World {
    phase: Phase,
    terms: Terms,
    accepted: BTreeSet<NodeId>,
    failed: BTreeSet<NodeId>,
    published: usize,
    stopped: usize,
}

impl World {
    fn apply(&mut self, event: Event) {
        // As the engine does: participants change only where the phase awaited the node.
        if let Phase::Collecting(c) = &self.phase {
            match &event {
                Event::Accepted(n) if c.awaits(n) => {
                    assert!(self.accepted.insert(n.clone()), "counted twice");
                }
                Event::Failed(n) if c.awaits(n) => {
                    self.failed.insert(n.clone());
                }
                _ => {}
            }
        }
        let was_end = self.phase.name().is_end();
        let (next, effects) = self.phase.clone().step(event);
        if was_end {
            assert_eq!(next, self.phase, "an ended round moved");
            assert_eq!(effects, []);
        }
        for effect in &effects {
            match effect {
                Effect::Continue(_) => self.published += 1,
                Effect::Stop(_) => self.stopped += 1,
                owed => assert_eq!(next.owes().as_ref(), Some(owed)),
            }
        }
        self.phase = next;
        self.check();
    }

    fn check(&self) {
        let enough = self.terms.minimum.max(1) as usize;
        let used = match &self.phase {
            Phase::Aggregating(p) => {
                assert_eq!(p.accepted(), &self.accepted);
                p.accepted().len()
            }
            Phase::Evaluating(p) => p.built.provenance.contributions.len(),
            Phase::Publishing(p) => p.built.provenance.contributions.len(),
            Phase::Published(_) => self.accepted.len(),
            Phase::Collecting(_) | Phase::Abandoned { .. } => return,
        };
        assert!(used >= enough, "{used} deltas, {enough} are the minimum");
        assert_eq!(used, self.accepted.len());
        assert!(self.accepted.is_disjoint(&self.failed));
        assert!(self.accepted.is_subset(&self.terms.cohort));
        assert!(self.published + self.stopped <= 1);
    }

    fn crash(&mut self) {
        let stored = Stored {
            name: self.phase.name(),
            knows: self.phase.knows().expect("serializable"),
            terms: self.terms.clone(),
            accepted: self.accepted.clone(),
            failed: self.failed.clone(),
        };
        let restored = Phase::restore(stored).expect("restorable");
        assert_eq!(restored, self.phase, "a crash changed the phase");
        self.phase = restored;
    }

    fn work(&mut self) {
        let event = match self.phase.owes() {
            Some(Effect::Aggregate) => Event::Aggregated(built(self.accepted.clone())),
            Some(Effect::Evaluate) => {
                let m = Metrics {
                    samples: 3,
                    loss: 0.1 + 0.2,
                    accuracy: 1.0 / 3.0,
                };
                Event::Evaluated(Some(m), UnixMillis(7))
            }
            Some(Effect::Publish) => Event::Released(ModelVersion(2)),
            Some(Effect::Continue(_) | Effect::Stop(_)) | None => return,
        };
        self.apply(event);
    }

    fn happen(&mut self, h: Happens) {
        match h {
            Happens::Accept(i) => self.apply(Event::Accepted(node(i))),
            Happens::Fail(i) => self.apply(Event::Failed(node(i))),
            Happens::Tick(t) => self.apply(Event::Tick(UnixMillis(t))),
            Happens::Work => self.work(),
            Happens::GiveUp => {
                if self.phase.owes().is_some() {
                    self.apply(Event::GaveUp("the disk is gone".into()));
                }
            }
            Happens::Stray(i) => {
                // Answers to steps that are not in hand.
                let stray = match (i, self.phase.name()) {
                    (0, n) if n != PhaseName::Aggregating => {
                        Event::Aggregated(built(self.accepted.clone()))
                    }
                    (1, n) if n != PhaseName::Evaluating => Event::Evaluated(None, UnixMillis(1)),
                    (2, n) if n != PhaseName::Publishing => Event::Released(ModelVersion(9)),
                    _ => return,
                };
                let before = self.phase.clone();
                self.apply(stray);
                assert_eq!(self.phase, before, "a stray answer moved the round");
            }
            Happens::Crash => self.crash(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_once_and_never_publishes_too_little(
        cohort in 1..6_usize,
        target in 0..7_u32,
        minimum in 0..7_u32,
        history in proptest::collection::vec(happens(), 0..60),
    ) {
        let terms = Terms {
            target,
            minimum,
            deadline: UnixMillis(DEADLINE),
            cohort: (0..cohort).map(node).collect(),
        };
        let mut world = World {
            phase: Phase::open(terms.clone()),
            terms,
            accepted: BTreeSet::new(),
            failed: BTreeSet::new(),
            published: 0,
            stopped: 0,
        };
        for h in history {
            world.happen(h);
        }
        // Time and work alone end every round.
        world.happen(Happens::Tick(DEADLINE));
        for _ in 0..3 {
            world.happen(Happens::Crash);
            world.happen(Happens::Work);
        }
        prop_assert!(world.phase.name().is_end(), "{:?}", world.phase);
        prop_assert_eq!(world.published + world.stopped, 1);
        prop_assert_eq!(world.published == 1, world.phase.name() == PhaseName::Published);
    }
}

fn open(cohort: usize, target: u32, minimum: u32) -> Phase {
    Phase::open(Terms {
        target,
        minimum,
        deadline: UnixMillis(DEADLINE),
        cohort: (0..cohort).map(node).collect(),
    })
}

fn after(phase: Phase, events: impl IntoIterator<Item = Event>) -> PhaseName {
    let end = events.into_iter().fold(phase, |p, e| p.step(e).0);
    end.name()
}

#[test]
fn a_round_closes_on_its_target() {
    let events = [Event::Accepted(node(0)), Event::Accepted(node(1))];
    assert_eq!(after(open(5, 2, 1), events), PhaseName::Aggregating);
}

#[test]
fn a_target_of_zero_waits_for_the_whole_cohort() {
    let some = [Event::Accepted(node(0)), Event::Accepted(node(1))];
    assert_eq!(after(open(3, 0, 1), some), PhaseName::Collecting);
    let all = (0..3).map(|i| Event::Accepted(node(i)));
    assert_eq!(after(open(3, 0, 1), all), PhaseName::Aggregating);
}

#[test]
fn the_deadline_closes_with_the_minimum_and_abandons_below_it() {
    let late = Event::Tick(UnixMillis(DEADLINE));
    let one = Event::Accepted(node(0));
    let enough = [one.clone(), late.clone()];
    assert_eq!(after(open(3, 0, 1), enough), PhaseName::Aggregating);
    assert_eq!(after(open(3, 0, 2), [one, late]), PhaseName::Abandoned);
    let early = [Event::Tick(UnixMillis(DEADLINE - 1))];
    assert_eq!(after(open(3, 0, 2), early), PhaseName::Collecting);
}

#[test]
fn when_every_node_has_ended_nobody_is_waited_for() {
    let events = [
        Event::Accepted(node(0)),
        Event::Failed(node(1)),
        Event::Failed(node(2)),
    ];
    assert_eq!(after(open(3, 0, 1), events.clone()), PhaseName::Aggregating);
    assert_eq!(after(open(3, 0, 2), events), PhaseName::Abandoned);
}

#[test]
fn aggregation_of_other_deltas_than_the_accepted_is_never_published() {
    let phase = open(2, 0, 1);
    let events = [
        Event::Accepted(node(0)),
        Event::Accepted(node(1)),
        Event::Aggregated(built([node(0)])),
    ];
    assert_eq!(after(phase, events), PhaseName::Abandoned);
}
