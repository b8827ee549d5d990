//! Speed of a training step and of inference, to be rerun by anybody:
//!
//! ```text
//! cargo run --release -p lamplight-models --example step -- [threads] [seconds per figure]
//! ```
//!
//! Prints samples per second and GFLOP/s for the temporal convolution net over windows of 6 x 128 and
//! for ResNet-20 over 32 x 32 images, batches of 32.

#![allow(clippy::print_stdout, reason = "an example's result is its output")]

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use lamplight_models::graph::Graph;
use lamplight_models::lane::{self, LaneKind};
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::ops::{Cost, NormMode};
use lamplight_models::samples::Samples;
use lamplight_models::train::{Augment, OptimizerConfig, Schedule, TrainConfig, Trainer, predict};
use lamplight_models::zoo::{Norm, TcnConfig, resnet20, tcn};

/// Numbers in `-1..1` from a multiplicative hash: enough for timing.
fn noise(n: usize, salt: u64) -> Vec<f32> {
    (0..n as u64)
        .map(|i| {
            let h = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32);
            (h.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn model(graph: Graph, classes: usize) -> Result<Model, Box<dyn Error>> {
    let channels = graph.input[0];
    let info = ModelInfo {
        architecture: "bench".into(),
        input_mean: vec![0.0; channels],
        input_std: vec![1.0; channels],
        channels: Vec::new(),
        sampling_rate_hz: None,
        classes: (0..classes).map(|c| c.to_string()).collect(),
        ..ModelInfo::default()
    };
    Ok(Model::init(graph, info, 1)?)
}

/// Seconds of processor time this process has used, where the system tells (Linux): other processes
/// on the machine slow the clock on the wall, not this one.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th field
    // behind it, in hundredths of a second.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}

/// Runs `work` (which says how many samples it did) for some seconds; samples per second on the
/// wall and per second of processor time.
fn rate(
    seconds: u64,
    mut work: impl FnMut() -> Result<usize, Box<dyn Error>>,
) -> Result<(f64, f64), Box<dyn Error>> {
    work()?;
    let (begin, cpu, mut seen) = (Instant::now(), cpu_seconds(), 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        seen += work()?;
    }
    let wall = begin.elapsed().as_secs_f64();
    let cpu = match (cpu, cpu_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => wall,
    };
    Ok((seen as f64 / wall, seen as f64 / cpu))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let threads: usize = args.next().map_or(Ok(1), |a| a.parse())?;
    let seconds: u64 = args.next().map_or(Ok(3), |a| a.parse())?;
    let lane = lane::open(LaneKind::Cpu, threads)?;
    for (name, graph, classes, mode) in [
        ("tcn", tcn(&TcnConfig::new(6, 128, 6))?, 6, NormMode::Frozen),
        ("resnet20", resnet20(10, Norm::Batch)?, 10, NormMode::Train),
    ] {
        let checked = graph.check()?;
        let cost: Cost = checked
            .nodes
            .iter()
            .zip(&checked.sources)
            .map(|(n, s)| {
                let shapes: Vec<_> = s.iter().map(|&s| checked.shape(s)).collect();
                n.op.cost(&shapes)
            })
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .chain([Cost::of_softmax_cross_entropy(classes)])
            .sum();
        let n = 256;
        let samples = Samples {
            shape: graph.input.clone(),
            x: noise(n * graph.input.iter().product::<usize>(), 99),
            y: (0..n as u32).map(|i| i % classes as u32).collect(),
            classes: (0..classes).map(|c| c.to_string()).collect(),
        };
        let model = model(graph, classes)?;
        let config = TrainConfig {
            trainable: Default::default(),
            epochs: usize::MAX,
            batch: 32,
            optimizer: OptimizerConfig::Sgd {
                learning_rate: 0.01,
                momentum: 0.9,
                weight_decay: 1e-4,
            },
            clip_norm: Some(1.0),
            schedule: Schedule::Constant,
            norm_mode: mode,
            augment: Augment::default(),
            seed: 1,
        };
        let mut trainer = Trainer::new(model.clone(), config, lane.clone())?;
        let mut go = |_| ControlFlow::Continue(());
        let mut loss = 0.0;
        let (wall, cpu) = rate(seconds, || {
            loss = trainer.epoch(&samples, &mut go)?.loss;
            Ok(n)
        })?;
        let flop = |rate: f64, per: u64| rate * per as f64 / 1e9;
        println!(
            "{name:9} train, {threads} thread(s): {wall:6.0} samples/s, {cpu:6.0} per CPU second ({:5.1} GFLOP/s); peak activations {:.1} MiB; loss {loss:.3}",
            flop(cpu, cost.step_flop()),
            trainer.peak_activation_bytes() as f64 / f64::from(1 << 20),
        );
        let (wall, cpu) = rate(seconds, || {
            predict(&model, &samples, &*lane)?;
            Ok(n)
        })?;
        println!(
            "{name:9} infer, {threads} thread(s): {wall:6.0} samples/s, {cpu:6.0} per CPU second ({:5.1} GFLOP/s)",
            flop(cpu, cost.forward_flop),
        );
    }
    Ok(())
}
