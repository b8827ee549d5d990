//! What the rounds were worth: every release on samples nobody trained on, beside two baselines.

use std::sync::Mutex;

use anyhow::Context as _;
use indicatif::ProgressBar;
use lamplight_agent::learn::task::train_config;
use lamplight_models::{model::Model, quant::gguf, samples::Samples, train::Precision};

use super::scenario::Scenario;
use crate::{output, pretrain};

/// Accuracy of one model.
#[derive(Debug, Clone, Default)]
pub(super) struct Accuracy {
    /// On each node's own held-out samples, in the scenario's order.
    pub(super) own: Vec<f64>,
    /// On people nobody trains on.
    pub(super) unseen: Option<f64>,
}

impl Accuracy {
    /// Mean over nodes.
    pub(super) fn own_mean(&self) -> f64 {
        mean(&self.own)
    }

    /// What the scenario judges by: unseen people where there are any, else the nodes' own samples.
    pub(super) fn judged(&self) -> f64 {
        self.unseen.unwrap_or_else(|| self.own_mean())
    }
}

/// All that is measured after the rounds.
#[derive(Debug)]
pub(super) struct Measured {
    /// Of each release, the pushed one first.
    pub(super) releases: Vec<Accuracy>,
    /// Of a model trained on all nodes' data in one place, for as many epochs.
    pub(super) central: Accuracy,
    /// Each node alone, for as many epochs: its model on its own samples, and the mean of all such
    /// models on unseen people.
    pub(super) local_only: Accuracy,
    /// Bytes of each node's samples.
    pub(super) data_bytes: Vec<u64>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

struct Data {
    train: Vec<Samples>,
    held_out: Vec<Samples>,
    unseen: Option<Samples>,
}

impl Data {
    fn load(scenario: &Scenario) -> anyhow::Result<Self> {
        let mut data = Self {
            train: Vec::new(),
            held_out: Vec::new(),
            unseen: None,
        };
        for node in &scenario.nodes {
            let source = node.source.open()?;
            data.train.push(source.train()?);
            data.held_out.push(source.held_out()?);
        }
        if let Some(spec) = &scenario.unseen {
            data.unseen = Some(spec.open()?.held_out()?);
        }
        Ok(data)
    }

    fn unseen(&self, model: &Model) -> anyhow::Result<Option<f64>> {
        let unseen = self.unseen.as_ref();
        unseen.map(|s| pretrain::accuracy(model, s)).transpose()
    }

    fn accuracy(&self, model: &Model) -> anyhow::Result<Accuracy> {
        let own = self.held_out.iter().map(|s| pretrain::accuracy(model, s));
        Ok(Accuracy {
            own: own.collect::<anyhow::Result<_>>()?,
            unseen: self.unseen(model)?,
        })
    }
}

/// A model to measure: a release, or a baseline that is trained first.
enum Job {
    Release(usize),
    Central,
    Local(usize),
}

/// Measures releases and trains the baselines from the same base, with the same settings, for as
/// many epochs as all rounds together. Two jobs run at a time, each on one thread.
pub(super) fn measure(
    scenario: &Scenario,
    base: &Model,
    files: &[Vec<u8>],
    rounds: u32,
    precision: Precision,
) -> anyhow::Result<Measured> {
    let data = Data::load(scenario)?;
    let mut config = train_config(&scenario.training, &base.info.channels, precision);
    config.epochs *= rounds as usize;
    let nodes = data.train.len();
    // The longest first, so that the two threads end together.
    let mut queue: Vec<Job> = (0..files.len()).map(Job::Release).collect();
    queue.extend((0..nodes).map(Job::Local));
    queue.push(Job::Central);
    let bar = output::bar(queue.len() as u64, "baselines");
    let queue = Mutex::new(queue);
    let done = Mutex::new(Vec::new());

    let work = |job: &Job| -> anyhow::Result<Accuracy> {
        let alone = |samples: &Samples| {
            pretrain::train(
                base.clone(),
                config.clone(),
                samples,
                1,
                &ProgressBar::hidden(),
            )
        };
        match *job {
            Job::Release(i) => data.accuracy(&gguf::read(&files[i])?),
            Job::Central => data.accuracy(&alone(&Samples::concat(&data.train)?)?),
            Job::Local(i) => {
                let model = alone(&data.train[i])?;
                Ok(Accuracy {
                    own: vec![pretrain::accuracy(&model, &data.held_out[i])?],
                    unseen: data.unseen(&model)?,
                })
            }
        }
    };
    let next = || queue.lock().ok().and_then(|mut q| q.pop());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let result = work(&job);
                    bar.inc(1);
                    if let Ok(mut done) = done.lock() {
                        done.push((job, result));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();

    let mut measured = Measured {
        releases: vec![Accuracy::default(); files.len()],
        central: Accuracy::default(),
        local_only: Accuracy {
            own: vec![0.0; nodes],
            unseen: None,
        },
        data_bytes: data.train.iter().map(Samples::bytes).collect(),
    };
    let mut local_unseen = Vec::new();
    let done = done
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a baseline's thread panicked"))?;
    for (job, result) in done {
        match job {
            Job::Release(i) => {
                measured.releases[i] = result.with_context(|| format!("release {}", i + 1))?;
            }
            Job::Central => measured.central = result.context("central baseline")?,
            Job::Local(i) => {
                let accuracy = result.with_context(|| format!("local baseline of node {i}"))?;
                measured.local_only.own[i] = accuracy.own_mean();
                local_unseen.extend(accuracy.unseen);
            }
        }
    }
    if !local_unseen.is_empty() {
        measured.local_only.unseen = Some(mean(&local_unseen));
    }
    Ok(measured)
}
