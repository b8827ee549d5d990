//! What the tests of the agent stand on: a small source, a small model, a node enrolled with the
//! coordinator's twin.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lamplight_models::{
    lane::LaneKind,
    model::{Model, ModelInfo},
    quant::gguf,
    samples::Samples,
    zoo::{Norm, TcnConfig, tcn},
};
use lamplight_proto::{
    ids::{Digest, Lease, ModelVersion, NodeId, RoundId, UnixMillis},
    keys::SigningKey,
    offer::{Codec, NormMode, Optimizer, RoundOffer, Schedule, Training as Terms},
};

use super::{Agent, Config};
use crate::{
    home::Home,
    limits::Limits,
    link::twin::Twin,
    node::Phase,
    source::{SampleSource, SourceError, SourceInfo},
    stop,
    store::{NodeRecord, view::TaskView},
};

pub(super) const CHANNELS: usize = 2;
pub(super) const LENGTH: usize = 16;

/// Windows whose class shows in their mean: learnable in a few steps.
#[derive(Debug)]
pub(super) struct Steps;

pub(super) fn windows(count: usize, from: usize) -> Samples {
    let mut samples = Samples {
        shape: vec![CHANNELS, LENGTH],
        classes: vec!["low".into(), "high".into()],
        ..Samples::default()
    };
    for i in from..from + count {
        let class = u32::from(i % 2 == 1);
        let level = if class == 1 { 1.0 } else { -1.0 };
        let wave = (0..CHANNELS * LENGTH).map(|t| ((t * (i + 3)) % 7) as f32 / 7.0 - 0.5);
        samples.x.extend(wave.map(|w| level + w));
        samples.y.push(class);
    }
    samples
}

impl SampleSource for Steps {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            channels: vec!["a [V]".into(), "b [V]".into()],
            sampling_rate_hz: Some(10.0),
            image: None,
            window: vec![CHANNELS, LENGTH],
            classes: vec!["low".into(), "high".into()],
            origin: "a test".into(),
            simulated: true,
        }
    }
    fn train(&self) -> Result<Samples, SourceError> {
        Ok(windows(24, 0))
    }
    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(windows(10, 100))
    }
}

pub(super) fn base() -> Vec<u8> {
    // Another order than the source's.
    base_for(&["high", "low"])
}

/// A base model with these classes.
pub(super) fn base_for(classes: &[&str]) -> Vec<u8> {
    let config = TcnConfig {
        widths: vec![4],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(CHANNELS, LENGTH, classes.len())
    };
    let info = ModelInfo {
        architecture: "tcn".into(),
        input_mean: vec![0.0; CHANNELS],
        input_std: vec![1.0; CHANNELS],
        channels: vec!["a [V]".into(), "b [V]".into()],
        sampling_rate_hz: Some(10.0),
        classes: classes.iter().map(ToString::to_string).collect(),
        ..ModelInfo::default()
    };
    let model = Model::init(tcn(&config).expect("a graph"), info, 7).expect("a model");
    gguf::write(&model).expect("written")
}

pub(super) fn terms() -> Terms {
    Terms {
        trainable: Default::default(),
        epochs: 2,
        batch: 8,
        optimizer: Optimizer::Sgd {
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 0.0,
        },
        clip_norm: Some(1.0),
        schedule: Schedule::Constant,
        norm_mode: NormMode::Frozen,
        seed: 3,
        rotate_deg: 0.0,
    }
}

/// A directory, the coordinator it is enrolled with, and how the node works.
pub(super) struct Bench {
    temp: tempfile::TempDir,
    pub(super) twin: Twin,
    node: NodeId,
    base: Digest,
    pub(super) base_size: u64,
    pub(super) config: Config,
    /// Times the source was opened.
    pub(super) opened: Arc<AtomicUsize>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        let twin = Twin::new("fleet");
        let mut home = Home::open(temp.path()).expect("opened");
        let key = SigningKey::load_or_create(&home.dir.signing_key()).expect("key");
        let node = NodeId::of_key(&key.public());
        home.store
            .set_node(&NodeRecord {
                node_id: node.clone(),
                deployment: twin.deployment(),
                release_key: twin.release_key(),
                enrolled: UnixMillis(1),
            })
            .expect("kept");
        twin.register(key.public());
        let bytes = base();
        let base_size = bytes.len() as u64;
        let base = twin.keep(bytes);
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        Self {
            temp,
            twin,
            node,
            base,
            base_size,
            config: Config {
                source: Arc::new(move |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(Box::new(Steps))
                }),
                device: LaneKind::Cpu,
                threads: 1,
                precision: Default::default(),
                checkpoint_every: Duration::ZERO,
                report_every: Duration::from_millis(1),
                limits: Limits::default(),
            },
            opened,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(super) fn offer(&self, round: u64, version: u64) -> RoundOffer {
        RoundOffer {
            budget: Default::default(),
            deployment: self.twin.deployment(),
            node_id: self.node.clone(),
            round: RoundId(round),
            window: 0,
            model: "tcn".parse().expect("a name"),
            base_version: ModelVersion(version),
            base_digest: self.base,
            base_size: self.base_size,
            lease: Lease([u8::try_from(round).expect("small"); 16]),
            expires: UnixMillis(10_000_000),
            max_delta_bytes: 1 << 20,
            codec: Codec::F32,
            training: terms(),
            needs: vec![],
        }
    }

    /// Starts the agent; waits for threads of one that was dropped to let go of the directory.
    pub(super) async fn agent(&self) -> Agent<Twin> {
        for _ in 0..1000 {
            match Home::open(self.path()) {
                Ok(home) => {
                    return Agent::new(home, self.twin.clone(), self.config.clone())
                        .expect("started");
                }
                Err(crate::home::HomeError::Lock(_)) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
        panic!("the directory stays locked");
    }

    /// The journal, newest first.
    pub(super) fn tasks(&self) -> Vec<TaskView> {
        let path = crate::dir::NodeDir::at(self.path()).database();
        let store = crate::store::Store::open_to_read(&path).expect("opened");
        store.status(100).expect("read").tasks
    }

    /// Turns until the journal's newest task has ended and the outbox is empty.
    pub(super) async fn until_done(&self, agent: &mut Agent<Twin>) {
        let (_stopper, stop) = stop::channel();
        for _ in 0..300 {
            agent.turn(&stop).await.expect("turned");
            let ended = self.tasks().first().is_some_and(|t| t.outcome.is_some());
            let left = agent.store.call(|s| s.outbox()).await.expect("read");
            if matches!(agent.phase(), Phase::Idle(_)) && ended && left.is_empty() {
                return;
            }
        }
        panic!("no end in sight: {}", agent.phase().name());
    }
}
