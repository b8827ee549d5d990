//! What a task may use: its budget and the node's limits, whichever is less.

use std::{collections::BTreeSet, ops::ControlFlow, path::PathBuf, sync::Arc, time::Duration};

use lamplight_models::{lane::LaneKind, samples::Samples};
use lamplight_proto::{
    budget::Budget,
    cause::{Exceeded, Limit, Measure, Told},
    ids::{Lease, UnixMillis},
    offer::{RoundOffer, Trainable},
};

use super::bench::{Bench, Steps};
use crate::{
    learn::{self, LearnError, Learned, Settings},
    limits::Limits,
    link::ReportEvent,
    node::Phase,
    source::{SampleSource, SourceError, SourceInfo},
    stop,
};

const MINUTE_MS: i64 = 60_000;

fn limits(budget: Budget) -> Limits {
    Limits {
        budget,
        ..Limits::default()
    }
}

fn windows(text: &str) -> Budget {
    Budget {
        windows: vec![text.parse().expect("a window")],
        ..Budget::default()
    }
}

fn waits(bench: &Bench) -> Vec<Told> {
    let told = bench.twin.reports().into_iter().map(|r| r.event);
    told.filter_map(|event| match event {
        ReportEvent::Waiting(told) => Some(told),
        _ => None,
    })
    .collect()
}

/// Runs one offer to its end; what the coordinator was told, and the journal's reason.
async fn declined(bench: &mut Bench, offer: RoundOffer) -> (Vec<Told>, String) {
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    assert!(bench.twin.accepted().is_empty());
    let reason = bench.tasks()[0].reason.clone().unwrap_or_default();
    (bench.twin.failures(), reason)
}

#[tokio::test]
async fn a_node_declines_models_its_owner_does_not_lend_it_to() {
    let mut bench = Bench::new();
    let other = "post".parse().expect("a name");
    bench.config.limits.models = Some(BTreeSet::from([other]));
    let offer = bench.offer(1, 1);
    let (told, reason) = declined(&mut bench, offer).await;
    assert_eq!(told, [Told::Limits(Some(Limit::Model))]);
    assert!(
        reason.contains("limits.models does not name tcn"),
        "{reason}"
    );
    assert_eq!(bench.twin.bytes_pulled(), 0);
}

#[tokio::test]
async fn more_bytes_than_either_allows_are_not_moved() {
    let wide = Budget {
        transfer_bytes: Some(1 << 40),
        ..Budget::default()
    };
    let narrow = Budget {
        transfer_bytes: Some(1 << 20),
        ..Budget::default()
    };
    for (task, node) in [(&wide, &narrow), (&narrow, &wide)] {
        let mut bench = Bench::new();
        bench.config.limits = limits(node.clone());
        let mut offer = bench.offer(1, 1);
        offer.budget = task.clone();
        let needed = offer.base_size + offer.max_delta_bytes;
        let (told, reason) = declined(&mut bench, offer).await;
        let exceeded = Exceeded {
            measure: Measure::TransferBytes,
            needed,
            allowed: 1 << 20,
        };
        assert_eq!(told, [Told::Budget(Some(exceeded))]);
        assert!(reason.contains(&needed.to_string()), "{reason}");
        assert_eq!(bench.twin.bytes_pulled(), 0);
    }
}

#[tokio::test]
async fn training_that_does_not_fit_the_memory_is_not_begun() {
    let mut bench = Bench::new();
    bench.config.limits = limits(Budget {
        memory_bytes: Some(1 << 10),
        ..Budget::default()
    });
    let offer = bench.offer(1, 1);
    let (told, reason) = declined(&mut bench, offer).await;
    assert!(
        matches!(
            told[..],
            [Told::Budget(Some(Exceeded {
                measure: Measure::MemoryMib,
                allowed: 0,
                ..
            }))]
        ),
        "{told:?}"
    );
    assert!(reason.contains("MiB of memory are needed"), "{reason}");
    // With room enough it is done.
    bench.config.limits = limits(Budget {
        memory_bytes: Some(1 << 30),
        ..Budget::default()
    });
    bench.twin.open(bench.offer(2, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.accepted().len(), 1);
}

#[tokio::test]
async fn hours_that_never_meet_are_declined() {
    let mut bench = Bench::new();
    bench.config.limits = limits(windows("10:00-12:00"));
    let mut offer = bench.offer(1, 1);
    offer.budget = windows("22:00-06:00");
    let (told, reason) = declined(&mut bench, offer).await;
    assert_eq!(told, [Told::Limits(Some(Limit::Hours))]);
    assert!(
        reason.contains("22:00-06:00 and within 10:00-12:00 UTC"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_node_waits_for_its_hours_says_so_once_and_then_trains() {
    let mut bench = Bench::new();
    bench.config.limits = limits(windows("00:30-01:00"));
    bench.twin.set_now(UnixMillis(20 * MINUTE_MS));
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    for _ in 0..2 {
        // It would sleep for half a minute.
        let turn = tokio::time::timeout(Duration::from_millis(300), agent.turn(&stop));
        assert!(turn.await.is_err(), "it waits");
        assert!(matches!(agent.phase(), Phase::Idle(_)));
    }
    let ten_minutes = Told::Window {
        opens_in_seconds: Some(600),
    };
    assert_eq!(waits(&bench), [ten_minutes]);
    assert_eq!(bench.twin.bytes_pulled(), 0);

    bench.twin.set_now(UnixMillis(30 * MINUTE_MS));
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.accepted().len(), 1);
}

/// So many samples that no machine is done with them before the hours end.
#[derive(Debug)]
struct Many;

impl SampleSource for Many {
    fn describe(&self) -> SourceInfo {
        Steps.describe()
    }
    fn train(&self) -> Result<Samples, SourceError> {
        Ok(super::bench::windows(4800, 0))
    }
    fn held_out(&self) -> Result<Samples, SourceError> {
        Steps.held_out()
    }
}

/// A bench with a task whose hours end a second after the poll, long before it is done; its lease.
fn out_of_hours_soon() -> (Bench, Lease) {
    let mut bench = Bench::new();
    bench.config.source = Arc::new(|_| Ok(Box::new(Many)));
    let mut offer = bench.offer(1, 1);
    offer.training.epochs = 1000;
    offer.budget = windows("00:00-00:30");
    bench.twin.set_now(UnixMillis(30 * MINUTE_MS - 1_000));
    let lease = offer.lease;
    bench.twin.open(offer);
    (bench, lease)
}

#[tokio::test]
async fn training_is_saved_when_the_hours_end_and_goes_on_when_they_begin_again() {
    let (bench, lease) = out_of_hours_soon();
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    for _ in 0..20 {
        let turn = tokio::time::timeout(Duration::from_secs(20), agent.turn(&stop));
        turn.await.expect("ends when the hours do").expect("turned");
        if matches!(agent.phase(), Phase::Training(_)) {
            break;
        }
    }
    let turn = tokio::time::timeout(Duration::from_secs(20), agent.turn(&stop));
    turn.await.expect("ends when the hours do").expect("turned");
    assert!(matches!(agent.phase(), Phase::Training(_)), "not given up");
    let checkpoint = agent.dir.checkpoint(lease);
    assert!(checkpoint.is_file(), "what was learned is kept");
    let turn = tokio::time::timeout(Duration::from_millis(300), agent.turn(&stop));
    assert!(turn.await.is_err(), "it waits");
    assert!(matches!(waits(&bench)[..], [Told::Window { .. }]));
    // Nothing after that says that it works: the coordinator would take the reason back.
    let turn = tokio::time::timeout(Duration::from_millis(300), agent.turn(&stop));
    assert!(turn.await.is_err(), "it still waits");
    let last = bench.twin.reports().pop().map(|r| r.event);
    assert!(matches!(last, Some(ReportEvent::Waiting(_))), "{last:?}");
    assert!(waits(&bench).len() >= 2, "a sign of life each time");
}

#[tokio::test]
async fn a_task_whose_round_ended_is_not_waited_for_until_its_hours_begin_again() {
    let (bench, _) = out_of_hours_soon();
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while waits(&bench).is_empty() {
        let turn = tokio::time::timeout(Duration::from_secs(5), agent.turn(&stop));
        turn.await.ok().transpose().expect("turned");
    }
    bench.twin.close();
    agent.turn(&stop).await.expect("turned");
    assert!(matches!(agent.phase(), Phase::Idle(_)));
}

/// Learns from the bench's samples, with these settings changed.
fn learned(
    offer: &RoundOffer,
    change: impl FnOnce(&mut Settings),
) -> (Result<Learned, LearnError>, u32) {
    let temp = tempfile::tempdir().expect("temp dir");
    let base = temp.path().join("base.gguf");
    std::fs::write(&base, super::bench::base()).expect("written");
    let mut settings = Settings {
        base,
        checkpoint: temp.path().join("checkpoint"),
        checkpoint_every: Duration::from_secs(60),
        device: LaneKind::Cpu,
        threads: 1,
        precision: Default::default(),
        bounds: Default::default(),
        assumed_power_watts: None,
        powercap: PathBuf::from("no/such/directory"),
    };
    change(&mut settings);
    let mut steps = 0;
    let done = learn::learn(offer, &settings, &|_| Ok(Box::new(Steps)), &mut |p| {
        steps = p.step;
        ControlFlow::Continue(())
    });
    (done, steps)
}

#[test]
fn spent_energy_ends_training_and_what_was_learned_is_sent() {
    let offer = Bench::new().offer(1, 1);
    let (whole, all) = learned(&offer, |_| {});
    let (part, some) = learned(&offer, |s| {
        s.bounds.energy_joules = Some(1.0);
        s.assumed_power_watts = Some(1e9);
    });
    assert_eq!((all, some), (6, 1));
    let (whole, part) = (whole.expect("learned"), part.expect("learned"));
    assert_ne!(whole.delta, part.delta);
    assert_eq!(part.sample_count, whole.sample_count);
    // With energy enough nothing changes.
    let (same, _) = learned(&offer, |s| {
        s.bounds.energy_joules = Some(1e18);
        s.assumed_power_watts = Some(1.0);
    });
    assert_eq!(same.expect("learned").delta, whole.delta);
}

#[test]
fn an_energy_budget_that_nothing_measures_is_not_ignored() {
    let mut offer = Bench::new().offer(1, 1);
    offer.budget.energy_joules = Some(5.0);
    // Judged before anything is pulled, and told in words that an operator can use.
    let beyond = Limits::default().allow(&offer, false, || false);
    let told = beyond.expect_err("no meter").told();
    assert_eq!(told, Told::Limits(Some(Limit::NoMeter)));
    assert!(told.to_string().contains("assumed_power_watts"), "{told}");
    assert!(Limits::default().allow(&offer, false, || true).is_ok());
    let (e, _) = learned(&offer, |s| s.bounds.energy_joules = Some(5.0));
    let e = e.expect_err("no meter").to_string();
    assert!(e.contains("limits.assumed_power_watts"), "{e}");
}

#[test]
fn a_delta_holds_the_parameters_that_were_to_move_and_no_other() {
    let mut offer = Bench::new().offer(1, 1);
    let mut names = |set| {
        offer.training.trainable = set;
        let learned = learned(&offer, |_| {}).0.expect("learned");
        let names: Vec<String> = learned.tensors.into_iter().map(|t| t.name).collect();
        names
    };
    let (all, head, bias) = (
        names(Trainable::All),
        names(Trainable::Head),
        names(Trainable::Bias),
    );
    assert!(all.len() > head.len() && !head.is_empty());
    assert!(head.iter().all(|n| all.contains(n)));
    assert!(bias.iter().all(|n| n.ends_with(".bias")), "{bias:?}");
}
