//! In which numbers a task calculates: those its node's owner chose when it began, to its end.

use std::{
    fs,
    io::{self, Write},
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use lamplight_models::{
    lane::{CpuLane, Lane, LaneKind},
    quant::gguf,
    train::{Footprint, Precision},
};
use lamplight_proto::offer::RoundOffer;

use super::bench::{Bench, Steps, base};
use crate::{
    learn::{self, LearnError, Learned, Settings, task::train_config},
    source::SampleSource as _,
};

/// Steps of the bench's task.
const ALL: u32 = 6;

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("alone").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A task on a node whose owner changes settings between its starts.
struct Task {
    _temp: tempfile::TempDir,
    offer: RoundOffer,
    settings: Settings,
}

/// What came of a start.
struct Start {
    learned: Result<Learned, LearnError>,
    /// Steps that were done before it.
    found: u32,
    log: String,
}

impl Task {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        let path = temp.path().join("base.gguf");
        fs::write(&path, base()).expect("written");
        Self {
            offer: Bench::new().offer(1, 1),
            settings: Settings {
                base: path,
                checkpoint: temp.path().join("checkpoint"),
                checkpoint_every: Duration::from_secs(60),
                device: LaneKind::Cpu,
                threads: 1,
                precision: Precision::default(),
                bounds: Default::default(),
                assumed_power_watts: None,
                powercap: PathBuf::from("no/such/directory"),
            },
            _temp: temp,
        }
    }

    /// Starts, or goes on, and stops behind this step.
    fn start(&mut self, precision: Precision, last: u32) -> Start {
        self.settings.precision = precision;
        let said = Said::default();
        let writer = said.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let mut found = None;
        let learned = tracing::subscriber::with_default(log, || {
            learn::learn(
                &self.offer,
                &self.settings,
                &|_| Ok(Box::new(Steps)),
                &mut |p| {
                    found.get_or_insert(p.step);
                    if p.step < last || p.step == ALL {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                },
            )
        });
        let log = said.0.lock().expect("alone").clone();
        Start {
            learned,
            found: found.unwrap_or(0),
            log: String::from_utf8(log).expect("text"),
        }
    }

    /// Begins in these numbers and is stopped after two steps.
    fn begun(precision: Precision) -> Self {
        let mut task = Self::new();
        let start = task.start(precision, 2);
        assert!(matches!(start.learned, Err(LearnError::Stopped)));
        task
    }

    /// Bytes of memory that it needs in these numbers.
    fn needs(&self, precision: Precision) -> u64 {
        let base = gguf::read(&base()).expect("a model");
        let sorted = |s: lamplight_models::samples::Samples| {
            s.in_classes_of(&base.info.classes).expect("known")
        };
        let (train, held_out) = (
            sorted(Steps.train().expect("data")),
            sorted(Steps.held_out().expect("data")),
        );
        let config = train_config(&self.offer.training, &base.info.channels, precision);
        let lane: Arc<dyn Lane> = Arc::new(CpuLane::new(1));
        Footprint::of(&base, &config, &lane, &train, &held_out)
            .expect("a footprint")
            .total()
    }
}

fn here() -> Precision {
    Precision::Auto.settled(&CpuLane::new(1))
}

/// The delta of an undisturbed task.
fn delta(precision: Precision) -> Vec<u8> {
    let start = Task::new().start(precision, ALL);
    start.learned.expect("learned").delta
}

#[test]
fn the_owners_choice_reaches_the_trainer_and_is_told() {
    assert_ne!(delta(Precision::F32), delta(Precision::Bf16));
    for wanted in Precision::ALL {
        let settled = match wanted {
            Precision::Auto => here(),
            other => other,
        };
        let start = Task::new().start(wanted, ALL);
        let learned = start.learned.expect("learned");
        assert_eq!(learned.precision, settled, "{wanted}");
        assert_eq!(learned.delta, delta(settled), "{wanted}");
        let begins = format!("training begins round=1 precision={settled}");
        assert!(start.log.contains(&begins), "{}", start.log);
    }
}

#[test]
fn a_task_ends_in_the_numbers_it_began_with_whatever_its_owner_writes_meanwhile() {
    for begun in [Precision::F32, Precision::Bf16] {
        for then in Precision::ALL {
            let mut task = Task::begun(begun);
            let start = task.start(then, ALL);
            let at = format!("{begun}, then {then}: {}", start.log);
            let learned = start.learned.expect(&at);
            // Nothing is lost, ...
            assert_eq!(start.found, 2, "{at}");
            assert!(!start.log.contains("starts over"), "{at}");
            // ... nothing is mixed, ...
            assert_eq!(learned.precision, begun, "{at}");
            assert_eq!(learned.delta, delta(begun), "{at}");
            // ... and the owner is told where that is not what the key says.
            let goes_on = format!("precision={begun}");
            assert!(start.log.contains(&goes_on), "{at}");
            let settled = if then == Precision::Auto {
                here()
            } else {
                then
            };
            let kept = format!("began in {begun} and keeps to it; training.precision is {then}");
            assert_eq!(start.log.contains(&kept), settled != begun, "{at}");
        }
    }
}

#[test]
fn memory_is_judged_by_the_numbers_that_are_calculated_in() {
    let (full, half) = (
        Task::new().needs(Precision::F32),
        Task::new().needs(Precision::Bf16),
    );
    assert!(half < full, "{half} of {full}");
    let mut fresh = Task::new();
    fresh.settings.bounds.memory_bytes = Some(half);
    let refused = fresh.start(Precision::F32, ALL).learned;
    assert!(matches!(refused, Err(LearnError::Beyond { .. })));
    let fits = fresh.start(Precision::Bf16, ALL).learned;
    assert!(fits.is_ok(), "{fits:?}");

    // What began where it fits is not thrown away because the key now says what would not.
    let mut task = Task::begun(Precision::Bf16);
    task.settings.bounds.memory_bytes = Some(half);
    let start = task.start(Precision::F32, ALL);
    assert_eq!(start.found, 2, "{}", start.log);
    assert_eq!(
        start.learned.expect("learned").delta,
        delta(Precision::Bf16)
    );
    // And what began where it does not fit any more is not taken for the smaller one.
    let mut task = Task::begun(Precision::F32);
    task.settings.bounds.memory_bytes = Some(half);
    let refused = task.start(Precision::Bf16, ALL).learned;
    assert!(matches!(refused, Err(LearnError::Beyond { .. })));
}

#[test]
fn before_samples_are_read_a_task_that_began_is_judged_by_the_smaller_numbers() {
    let base = gguf::read(&base()).expect("a model");
    let least = |precision| {
        let config = train_config(&Bench::new().offer(1, 1).training, &[], precision);
        let (train, held_out) = Steps.counts();
        let least = Footprint::least(&base, &config, train, held_out);
        least.expect("a footprint").total()
    };
    let (full, half) = (least(Precision::F32), least(Precision::Bf16));
    assert!(half < full, "{half} of {full}");
    // Too little for either, which shows in the first judgement or only in the second.
    for (mut task, judgements) in [(Task::new(), 1), (Task::begun(Precision::Bf16), 2)] {
        task.settings.bounds.memory_bytes = Some(half);
        let start = task.start(Precision::F32, ALL);
        assert!(matches!(start.learned, Err(LearnError::Beyond { .. })));
        let judged = start.log.matches("memory of training").count();
        assert_eq!(judged, judgements, "{}", start.log);
    }
}

#[test]
fn a_task_that_starts_over_does_so_in_what_its_owner_wants_now() {
    let mut task = Task::begun(Precision::F32);
    let mut bytes = fs::read(&task.settings.checkpoint).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&task.settings.checkpoint, bytes).expect("written");
    let start = task.start(Precision::Bf16, ALL);
    assert!(start.log.contains("starts over"), "{}", start.log);
    assert_eq!(start.found, 0);
    let learned = start.learned.expect("learned");
    assert_eq!(learned.precision, Precision::Bf16);
    assert_eq!(learned.delta, delta(Precision::Bf16));
}

#[tokio::test]
async fn the_journal_says_in_which_numbers_a_task_was_calculated() {
    let mut bench = Bench::new();
    bench.config.precision = Precision::Bf16;
    bench.twin.open(bench.offer(1, 1));
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    assert_eq!(bench.twin.accepted()[0].1, delta(Precision::Bf16));
    let written = bench.tasks()[0].precision.clone();
    assert_eq!(written.as_deref(), Some("bf16"));
}
