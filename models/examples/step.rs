//! Speed of a training step and of inference, to be rerun by anybody:
//!
//! ```text
//! cargo run --release -p lamplight-models --example step -- [threads] [seconds per figure]
//! ```
//!
//! Prints samples per second and GFLOP/s for a temporal convolution net over sensor windows and for
//! the first stages of a ResNet over 32 x 32 images.

#![allow(clippy::print_stdout, reason = "an example's result is its output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lamplight_models::graph::{Graph, Node};
use lamplight_models::lane::{self, LaneKind};
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::ops::{
    BatchNorm, Conv1d, Conv2d, Cost, GroupNorm, Linear, NormMode, Op, ParamRole,
};
use lamplight_models::samples::Samples;
use lamplight_models::train::{Augment, OptimizerConfig, Schedule, TrainConfig, Trainer, predict};

fn node(name: &str, op: Op, inputs: &[&str]) -> Node {
    Node {
        name: name.into(),
        op,
        inputs: inputs.iter().map(|&i| i.into()).collect(),
    }
}

fn tcn() -> Graph {
    let widths = [(6, 32, 1), (32, 48, 2), (48, 64, 2), (64, 64, 2)];
    let mut nodes = Vec::new();
    let mut from = Graph::INPUT.to_owned();
    for (i, (cin, cout, stride)) in widths.into_iter().enumerate() {
        let conv = Op::Conv1d(Conv1d {
            in_channels: cin,
            out_channels: cout,
            kernel: 5,
            stride,
            padding: 2,
            dilation: 1,
            groups: 1,
            bias: false,
        });
        let norm = Op::GroupNorm(GroupNorm {
            channels: cout,
            groups: 8,
            eps: 1e-5,
        });
        nodes.push(node(&format!("conv{i}"), conv, &[&from]));
        nodes.push(node(&format!("norm{i}"), norm, &[&format!("conv{i}")]));
        from = format!("relu{i}");
        nodes.push(node(&from, Op::Relu, &[&format!("norm{i}")]));
    }
    nodes.push(node("pool", Op::GlobalAvgPool, &[&from]));
    nodes.push(head(64, 6));
    Graph {
        input: vec![6, 128],
        nodes,
        output: "head".into(),
    }
}

fn head(in_features: usize, out_features: usize) -> Node {
    let op = Op::Linear(Linear {
        in_features,
        out_features,
        bias: true,
    });
    node("head", op, &["pool"])
}

/// ResNet-20 in its CIFAR form (He et al. 2016), with projections where the width changes.
fn resnet20() -> Graph {
    let conv = |cin, cout, kernel, stride| {
        Op::Conv2d(Conv2d {
            in_channels: cin,
            out_channels: cout,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        })
    };
    let norm = |channels| {
        Op::BatchNorm(BatchNorm {
            channels,
            eps: 1e-5,
            momentum: 0.1,
        })
    };
    let mut nodes = vec![
        node("stem", conv(3, 16, 3, 1), &[Graph::INPUT]),
        node("stem.norm", norm(16), &["stem"]),
        node("stem.relu", Op::Relu, &["stem.norm"]),
    ];
    let (mut from, mut cin) = ("stem.relu".to_owned(), 16);
    for (stage, cout) in [16, 32, 64].into_iter().enumerate() {
        for unit in 0..3 {
            let stride = if stage > 0 && unit == 0 { 2 } else { 1 };
            let n = |part: &str| format!("s{stage}.u{unit}.{part}");
            nodes.push(node(&n("conv1"), conv(cin, cout, 3, stride), &[&from]));
            nodes.push(node(&n("norm1"), norm(cout), &[&n("conv1")]));
            nodes.push(node(&n("relu1"), Op::Relu, &[&n("norm1")]));
            nodes.push(node(&n("conv2"), conv(cout, cout, 3, 1), &[&n("relu1")]));
            nodes.push(node(&n("norm2"), norm(cout), &[&n("conv2")]));
            let mut short = from.clone();
            if cin != cout {
                nodes.push(node(&n("proj"), conv(cin, cout, 1, stride), &[&from]));
                nodes.push(node(&n("projnorm"), norm(cout), &[&n("proj")]));
                short = n("projnorm");
            }
            nodes.push(node(&n("add"), Op::Add, &[&n("norm2"), &short]));
            nodes.push(node(&n("relu2"), Op::Relu, &[&n("add")]));
            (from, cin) = (n("relu2"), cout);
        }
    }
    nodes.push(node("pool", Op::GlobalAvgPool, &[&from]));
    nodes.push(head(64, 10));
    Graph {
        input: vec![3, 32, 32],
        nodes,
        output: "head".into(),
    }
}

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
    let checked = graph.check()?;
    let mut params = BTreeMap::new();
    for (i, (name, spec)) in checked.params().enumerate() {
        let n: usize = spec.shape.iter().product();
        let values = match (spec.role, spec.suffix) {
            (ParamRole::Weight, _) => {
                let fan_in: usize = spec.shape[1..].iter().product();
                let bound = (3.0 / fan_in as f32).sqrt();
                noise(n, i as u64).iter().map(|v| v * bound).collect()
            }
            (ParamRole::Norm, "weight") => vec![1.0; n],
            (ParamRole::Statistic, "running_var") => vec![1.0; n],
            _ => vec![0.0; n],
        };
        params.insert(name, Tensor::from_vec(values, spec.shape, &Device::Cpu)?);
    }
    let channels = graph.input[0];
    Ok(Model {
        graph,
        params,
        info: ModelInfo {
            architecture: "bench".into(),
            input_mean: vec![0.0; channels],
            input_std: vec![1.0; channels],
            channels: Vec::new(),
            sampling_rate_hz: None,
            classes: (0..classes).map(|c| c.to_string()).collect(),
        },
    })
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
        ("tcn", tcn(), 6, NormMode::Frozen),
        ("resnet20", resnet20(), 10, NormMode::Train),
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
