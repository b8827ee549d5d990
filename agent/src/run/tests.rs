//! The whole agent against the coordinator's twin: the good road, the bad ones, and the power cut
//! at every call.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lamplight_models::{lane::LaneKind, quant::gguf, samples::Samples, train::Precision};
use lamplight_proto::{
    cause::{DataFault, Disk, OfferFault, Part, Told, TrainingFault},
    envelope::{Signed, TrustedKeys},
    ids::{Digest, Lease, UnixMillis},
    keys::SigningKey,
    offer::Optimizer,
    refusal::Reason,
};

use super::{
    Agent, AgentError,
    bench::{Bench, CHANNELS, Steps, base, terms},
};
use crate::{
    home::Home,
    link::twin::Moment,
    node::Phase,
    source::{SampleSource, SourceError, SourceInfo},
    stop,
};

#[tokio::test]
async fn a_task_goes_from_offer_to_receipt_and_the_model_learns() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;

    let accepted = bench.twin.accepted();
    let [(manifest, delta)] = accepted.as_slice() else {
        panic!("{} deltas", accepted.len());
    };
    assert_eq!(manifest.counter, 1);
    assert_eq!(manifest.sample_count, 24);
    assert_eq!(manifest.digest, Digest::of(delta));
    let (before, after) = (manifest.before.expect("held out"), manifest.after);
    assert!(after.expect("held out").loss < before.loss);
    let task = &bench.tasks()[0];
    assert_eq!(task.outcome.as_deref(), Some("accepted"));
    assert_eq!(task.receipt.as_ref().expect("kept").counter, 1);
    // What the task needed is gone; the model stays for the next round.
    let left = |folder: &str| {
        fs::read_dir(bench.path().join(folder))
            .expect("there")
            .count()
    };
    assert_eq!((left("work"), left("deltas"), left("models")), (0, 0, 1));
    assert_eq!(bench.opened.load(Ordering::Relaxed), 1);

    // The next round counts on, and pulls nothing it has.
    let pulled = bench.twin.bytes_pulled();
    bench.twin.open(bench.offer(2, 2));
    drop(agent);
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while bench.twin.accepted().len() < 2 {
        agent.turn(&stop).await.expect("turned");
    }
    let counters: BTreeSet<u64> = bench
        .twin
        .accepted()
        .iter()
        .map(|(m, _)| m.counter)
        .collect();
    assert_eq!(counters, BTreeSet::from([1, 2]));
    assert_eq!(bench.twin.bytes_pulled(), pulled);
}

#[tokio::test]
async fn the_delta_is_what_training_added_to_the_exact_base() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let (_, bytes) = bench.twin.accepted().remove(0);
    let base = gguf::read(&base()).expect("a model");
    let delta = lamplight_models::delta::Delta::from_bytes(&bytes).expect("a delta");
    delta
        .check(&lamplight_models::delta::table(&base))
        .expect("every trainable tensor, no other");

    // The same training done here gives the same bytes.
    let source = Steps;
    let train = source
        .train()
        .expect("data")
        .in_classes_of(&base.info.classes);
    let lane = lamplight_models::lane::open(LaneKind::Cpu, 1).expect("cpu");
    let config = crate::learn::task::train_config(&terms(), &[], Precision::F32);
    let mut trainer =
        lamplight_models::train::Trainer::new(base.clone(), config, lane).expect("a trainer");
    let train = train.expect("known classes");
    while !trainer.is_finished() {
        trainer
            .epoch(&train, &mut |_| std::ops::ControlFlow::Continue(()))
            .expect("an epoch");
    }
    let want = lamplight_models::delta::Delta::between(&base, trainer.model()).expect("a delta");
    assert_eq!(want.to_bytes(), bytes);
}

#[tokio::test]
async fn a_power_cut_at_any_call_still_yields_exactly_one_delta() {
    // How many calls does an undisturbed task take?
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let calls = bench.twin.calls();
    let want = bench.twin.accepted().remove(0).1;
    drop(agent);

    let mut cuts = 0;
    for cut in 1..=calls {
        for moment in [Moment::Before, Moment::After] {
            let at = format!("{moment:?} call {cut}");
            let bench = Bench::new();
            bench.twin.open(bench.offer(1, 1));
            bench.twin.cut_at(cut, moment);
            {
                let mut agent = bench.agent().await;
                let (_stopper, stop) = stop::channel();
                let done = || !bench.twin.accepted().is_empty();
                tokio::select! {
                    () = bench.twin.dark() => cuts += 1,
                    // Reports come as fast as training goes, so a run may have fewer calls.
                    () = async {
                        while !done() || !matches!(agent.phase(), Phase::Idle(_)) {
                            agent.turn(&stop).await.expect("turned");
                        }
                    } => {}
                }
            }
            // Everything in memory is gone.
            bench.twin.restore();
            let mut agent = bench.agent().await;
            bench.until_done(&mut agent).await;

            let accepted = bench.twin.accepted();
            assert_eq!(accepted.len(), 1, "{at}");
            assert_eq!(accepted[0].0.counter, 1, "{at}");
            assert_eq!(accepted[0].1, want, "{at}: training went on bit for bit");
            let begun: BTreeSet<Digest> = bench.twin.begun().into_iter().collect();
            assert_eq!(
                begun.len(),
                1,
                "{at}: the same manifest bytes are sent again"
            );
            let tasks = bench.tasks();
            assert_eq!(tasks.len(), 1, "{at}");
            assert_eq!(tasks[0].outcome.as_deref(), Some("accepted"), "{at}");
            assert!(bench.twin.failures().is_empty(), "{at}");
        }
    }
    assert!(cuts > calls, "only {cuts} cuts in {calls} calls");
}

#[tokio::test]
async fn a_power_cut_between_signing_and_writing_the_phase_reuses_the_counter() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Uploading(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    drop(agent);
    // The disk as it was just before the phase was written: delta and counter are there.
    let path = crate::dir::NodeDir::at(bench.path()).database();
    let sql = rusqlite::Connection::open(path).expect("opened");
    sql.execute("UPDATE phase SET name = 'training', manifest = NULL", [])
        .expect("set back");
    drop(sql);
    let mut agent = bench.agent().await;
    assert!(matches!(agent.phase(), Phase::Training(_)));
    bench.until_done(&mut agent).await;
    let accepted = bench.twin.accepted();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].0.counter, 1);
}

#[tokio::test]
async fn a_stop_while_training_saves_and_the_next_start_goes_on() {
    let bench = Bench::new();
    let mut offer = bench.offer(1, 1);
    offer.training.epochs = 400;
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    let (stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Training(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let stopping = async {
        while bench.twin.reports().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stopper.stop();
    };
    let (turned, ()) = tokio::join!(agent.turn(&stop), stopping);
    turned.expect("stopped");
    assert!(matches!(agent.phase(), Phase::Training(_)));
    drop(agent);
    let dir = crate::dir::NodeDir::at(bench.path());
    assert!(dir.checkpoint(Lease([1; 16])).exists());

    let before = bench.twin.reports().len();
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while matches!(agent.phase(), Phase::Training(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let first = bench.twin.reports()[before..]
        .iter()
        .find_map(|r| match r.event {
            crate::link::ReportEvent::Progress {
                phase: "training",
                step,
                steps,
                ..
            } if steps > 0 => Some(step),
            _ => None,
        });
    assert!(first.expect("a report") > 0, "training began anew");
}

#[tokio::test]
async fn an_unusable_checkpoint_starts_the_task_over() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Training(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let path = crate::dir::NodeDir::at(bench.path()).checkpoint(Lease([1; 16]));
    fs::write(path, b"LAMPTASK nonsense").expect("written");
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.accepted().len(), 1);
}

#[tokio::test]
async fn altered_model_bytes_are_never_parsed_and_the_failure_is_reported() {
    let bench = Bench::new();
    bench.twin.corrupt_pulls(true);
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    assert_eq!(bench.tasks()[0].outcome.as_deref(), Some("failed"));
    let failures = bench.twin.failures();
    assert_eq!(failures, [Told::Transfer]);
    assert_eq!(bench.opened.load(Ordering::Relaxed), 0);
    assert_eq!(bench.twin.bytes_pulled(), 3 * bench.base_size);
}

#[tokio::test]
async fn an_offer_signed_by_anybody_else_changes_nothing() {
    let bench = Bench::new();
    let thief = SigningKey::generate().expect("randomness");
    let forged = Signed::seal(bench.offer(1, 1), &thief);
    bench.twin.hand_out(forged.signed().clone());
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    for _ in 0..5 {
        agent.turn(&stop).await.expect("turned");
        assert!(matches!(agent.phase(), Phase::Idle(_)));
    }
    assert!(bench.tasks().is_empty() && bench.twin.reports().is_empty());
}

#[tokio::test]
async fn an_expired_offer_is_ignored_without_polling_like_mad() {
    let bench = Bench::new();
    let mut offer = bench.offer(1, 1);
    offer.expires = UnixMillis(1);
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    let start = std::time::Instant::now();
    for _ in 0..5 {
        agent.turn(&stop).await.expect("turned");
        assert!(matches!(agent.phase(), Phase::Idle(_)));
    }
    // The twin asks for 5 ms between polls.
    assert!(start.elapsed() >= Duration::from_millis(25));
    assert!(bench.tasks().is_empty() && bench.twin.reports().is_empty());
}

#[tokio::test]
async fn an_older_release_than_one_seen_is_declined_and_reported_even_after_a_restart() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 5));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    drop(agent);
    bench.twin.open(bench.offer(2, 4));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while bench.twin.failures().is_empty() {
        agent.turn(&stop).await.expect("turned");
        assert!(matches!(agent.phase(), Phase::Idle(_)));
    }
    let failures = bench.twin.failures();
    let rollback = OfferFault::Rollback {
        offered: 4,
        highest: 5,
    };
    assert_eq!(failures, [Told::Offer(rollback)]);
    let task = &bench.tasks()[0];
    assert_eq!((task.round, task.outcome.as_deref()), (2, Some("declined")));
    assert_eq!(bench.twin.accepted().len(), 1);
}

#[tokio::test]
async fn training_that_diverges_is_reported_with_where_and_why() {
    let bench = Bench::new();
    let mut offer = bench.offer(1, 1);
    offer.training.epochs = 200;
    offer.training.clip_norm = None;
    offer.training.optimizer = Optimizer::Sgd {
        learning_rate: 100.0,
        momentum: 0.99,
        weight_decay: 0.9,
    };
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let failures = bench.twin.failures();
    let non_finite = matches!(
        failures[..],
        [Told::Training(TrainingFault::NonFinite { .. })]
    );
    assert!(non_finite, "{failures:?}");
    assert!(bench.twin.begun().is_empty(), "nothing was sent");
    let task = &bench.tasks()[0];
    assert_eq!(task.outcome.as_deref(), Some("failed"));
    let reason = task.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("not finite in epoch"), "{reason}");
}

#[tokio::test]
async fn data_that_does_not_fit_the_model_is_reported() {
    #[derive(Debug)]
    struct Wider;
    impl SampleSource for Wider {
        fn describe(&self) -> SourceInfo {
            SourceInfo {
                window: vec![CHANNELS, 32],
                ..Steps.describe()
            }
        }
        fn train(&self) -> Result<Samples, SourceError> {
            Steps.train()
        }
        fn held_out(&self) -> Result<Samples, SourceError> {
            Steps.held_out()
        }
    }
    let mut bench = Bench::new();
    bench.config.source = Arc::new(|_| Ok(Box::new(Wider)));
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let failures = bench.twin.failures();
    assert_eq!(failures, [Told::Misfit(Part::Shape)]);
    let reason = bench.tasks()[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("windows of [2, 16]"), "{reason}");
}

#[tokio::test]
async fn what_an_error_says_of_the_data_stays_in_the_journal() {
    let mut bench = Bench::new();
    bench.config.source = Arc::new(|_| {
        Err(SourceError::Line {
            file: "ana/kitchen.csv".into(),
            line: 7,
            fault: "`asleep` is no number".to_owned(),
            remedy: "mend the line",
        })
    });
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let failures = bench.twin.failures();
    assert_eq!(failures, [Told::Data(DataFault::Malformed)]);
    let said = failures[0].to_string();
    assert!(
        !said.contains("kitchen") && !said.contains("asleep"),
        "{said}"
    );
    let kept = bench.tasks()[0].reason.clone().unwrap_or_default();
    assert!(
        kept.contains("ana/kitchen.csv") && kept.contains("asleep"),
        "{kept}"
    );
}

#[tokio::test]
async fn a_round_that_closes_while_training_ends_the_task_without_a_delta() {
    let bench = Bench::new();
    let mut offer = bench.offer(1, 1);
    offer.training.epochs = 1000;
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Training(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let closing = async {
        while bench.twin.reports().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.twin.close();
    };
    let (turned, ()) = tokio::join!(agent.turn(&stop), closing);
    turned.expect("turned");
    assert!(matches!(agent.phase(), Phase::Idle(_)));
    let task = &bench.tasks()[0];
    assert_eq!(task.outcome.as_deref(), Some("dropped"));
    assert!(bench.twin.begun().is_empty());
    assert!(bench.twin.failures().is_empty());
}

#[tokio::test]
async fn a_lost_connection_in_the_upload_is_gone_on_from() {
    let bench = Bench::new();
    bench.twin.lose_upload_after(0);
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.accepted().len(), 1);
    assert_eq!(bench.twin.begun().len(), 2);
}

#[tokio::test]
async fn a_delta_lost_from_the_disk_is_reported_not_made_up() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Uploading(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let path = crate::dir::NodeDir::at(bench.path()).delta(Lease([1; 16]));
    let mut bytes = fs::read(&path).expect("there");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&path, bytes).expect("damaged");
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.failures(), [Told::Storage(Disk::Damaged)]);
    assert!(bench.twin.accepted().is_empty());
}

#[tokio::test]
async fn a_refused_delta_ends_the_task_and_the_coordinator_need_not_wait_for_another() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    while !matches!(agent.phase(), Phase::Uploading(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    // A coordinator that knows another key for this node.
    bench
        .twin
        .register(SigningKey::generate().expect("randomness").public());
    bench.until_done(&mut agent).await;
    assert!(bench.twin.accepted().is_empty());
    let task = &bench.tasks()[0];
    assert_eq!(task.outcome.as_deref(), Some("refused"));
    let failures = bench.twin.failures();
    assert_eq!(failures, [Told::Refused(Reason::UnknownKey)]);
    let reason = task.reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("refused: unknown-key"), "{reason}");
}

#[tokio::test]
async fn a_directory_that_is_not_enrolled_or_has_another_key_does_not_start() {
    let bench = Bench::new();
    let empty = tempfile::tempdir().expect("temp dir");
    let home = Home::open(empty.path()).expect("opened");
    let e = Agent::new(home, bench.twin.clone(), bench.config.clone()).err();
    assert!(matches!(e, Some(AgentError::NotEnrolled(_))));

    fs::remove_file(bench.path().join("node.key")).expect("removed");
    let home = Home::open(bench.path()).expect("opened");
    let e = Agent::new(home, bench.twin.clone(), bench.config.clone()).err();
    assert!(matches!(e, Some(AgentError::OtherKey { .. })));
}

#[tokio::test]
async fn a_phase_row_that_was_tampered_with_is_not_believed() {
    let bench = Bench::new();
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    agent.turn(&stop).await.expect("turned");
    assert!(matches!(agent.phase(), Phase::Preparing(_)));
    drop(agent);
    let thief = SigningKey::generate().expect("randomness");
    let forged = Signed::seal(bench.offer(1, 1), &thief);
    assert!(
        forged
            .signed()
            .clone()
            .verify(&TrustedKeys::new([thief.public()]))
            .is_ok()
    );
    let path = crate::dir::NodeDir::at(bench.path()).database();
    let sql = rusqlite::Connection::open(path).expect("opened");
    sql.execute(
        "UPDATE tasks SET offer = ?1",
        rusqlite::params![forged.signed().to_bytes()],
    )
    .expect("changed");
    drop(sql);
    let home = Home::open(bench.path()).expect("opened");
    let e = Agent::new(home, bench.twin.clone(), bench.config.clone()).err();
    assert!(
        matches!(e, Some(AgentError::Store(ref s)) if s.to_string().contains("no trusted key"))
    );
}

#[tokio::test]
async fn a_retired_node_ends_its_work_and_its_agent_with_the_coordinators_reason() {
    let ended = |e: Result<(), AgentError>| match e {
        Err(AgentError::Refused(r)) => assert!(r.message.contains("retired"), "{r}"),
        other => panic!("{other:?}"),
    };
    // Idle: at the next poll.
    let bench = Bench::new();
    let mut agent = bench.agent().await;
    let (_stopper, stop) = stop::channel();
    bench.twin.retire();
    ended(agent.turn(&stop).await);
    drop(agent);

    // Training: that ends first, long before its last epoch.
    let bench = Bench::new();
    let mut offer = bench.offer(1, 1);
    offer.training.epochs = 1000;
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    while !matches!(agent.phase(), Phase::Training(_)) {
        agent.turn(&stop).await.expect("turned");
    }
    let retiring = async {
        while bench.twin.reports().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.twin.retire();
    };
    let (turned, ()) = tokio::join!(agent.turn(&stop), retiring);
    turned.expect("training ended");
    assert!(bench.twin.begun().is_empty());
    ended(agent.turn(&stop).await);
}
