//! Threads: with as many of them a run ends with the same bytes, with others it ends nearby.

mod oracle;

use std::sync::Arc;

use lamplight_models::graph::Graph;
use lamplight_models::lane::CpuLane;
use lamplight_models::model::Model;
use lamplight_models::ops::{BatchNorm, Conv2d, Linear, NormMode, Op};
use lamplight_models::samples::Samples;
use lamplight_models::train::{Augment, Precision, TrainConfig, Trainer};
use lamplight_models::zoo::{GruConfig, Norm, TcnConfig, gru, tcn};
use oracle::runs::{CLASSES, config, model, numbers, samples, sgd, train};
use oracle::{graph, node};

/// How far a run with one thread and one with two may end from each other after [`STEPS`] steps: the
/// length of the difference of all their parameters over the length of what the run changed.
///
/// Sums over positions are cut by the thread, so they round differently: F32 by 2^-24, activations in
/// bfloat16 by 2^-9, once in a while.
const APART: [(Precision, f64); 2] = [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)];

/// 40 samples in batches of 8, twice.
const STEPS: u64 = 10;

/// Odd sizes, so that no share of a thread is as large as another's.
fn residual() -> Graph {
    let conv = |name: &str, from: &str, channels: [usize; 2], kernel: usize, stride: usize| {
        let op = Op::Conv2d(Conv2d {
            in_channels: channels[0],
            out_channels: channels[1],
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        });
        node(name, op, &[from])
    };
    let norm = |name: &str, from: &str, channels| {
        let op = Op::BatchNorm(BatchNorm {
            channels,
            eps: 1e-5,
            momentum: 0.1,
        });
        node(name, op, &[from])
    };
    let head = Linear {
        in_features: 17,
        out_features: CLASSES,
        bias: true,
    };
    let nodes = vec![
        conv("stem", "input", [3, 10], 3, 1),
        norm("stem_norm", "stem", 10),
        node("stem_relu", Op::Relu, &["stem_norm"]),
        conv("conv1", "stem_relu", [10, 17], 3, 2),
        norm("norm1", "conv1", 17),
        node("relu1", Op::Relu, &["norm1"]),
        conv("conv2", "relu1", [17, 17], 3, 1),
        norm("norm2", "conv2", 17),
        conv("shortcut", "stem_relu", [10, 17], 1, 2),
        norm("shortcut_norm", "shortcut", 17),
        node("add", Op::Add, &["norm2", "shortcut_norm"]),
        node("relu2", Op::Relu, &["add"]),
        node("pool", Op::GlobalAvgPool, &["relu2"]),
        node("head", Op::Linear(head), &["pool"]),
    ];
    graph(&[3, 15, 13], nodes, "head")
}

/// Images in which a class has stripes of its own width, beneath noise.
fn images(n: usize) -> Samples {
    let hiss = oracle::noise(n * 3 * 15 * 13, 31);
    let mut x = Vec::with_capacity(hiss.len());
    for (i, hiss) in hiss.iter().enumerate() {
        let (sample, row) = (i / (3 * 15 * 13), i / 13 % 15);
        x.push((row as f32 * (0.5 + (sample % CLASSES) as f32)).sin() + 0.3 * hiss);
    }
    Samples {
        shape: vec![3, 15, 13],
        x,
        y: (0..n).map(|i| (i % CLASSES) as u32).collect(),
        classes: (0..CLASSES).map(|c| format!("c{c}")).collect(),
    }
}

/// A net with values drawn for its weights, samples for it, and what its norms do.
fn nets() -> Vec<(&'static str, Model, Samples, NormMode)> {
    let drawn = |graph: Graph| {
        let start = model(graph);
        Model::init(start.graph, start.info, 3).expect("a model")
    };
    let convolutions = TcnConfig {
        widths: vec![12, 20],
        strides: vec![1, 2],
        dilations: vec![1; 2],
        norm: Norm::Group { groups: 4 },
        ..TcnConfig::new(6, 16, CLASSES)
    };
    let recurrent = GruConfig {
        hidden: 13,
        ..GruConfig::new(6, 16, CLASSES)
    };
    let one = tcn(&convolutions).expect("a graph");
    let two = gru(&recurrent).expect("a graph");
    vec![
        ("residual", drawn(residual()), images(40), NormMode::Train),
        ("group norm", drawn(one), samples(40, 5), NormMode::Frozen),
        ("recurrent", drawn(two), samples(40, 6), NormMode::Frozen),
    ]
}

#[test]
fn runs_end_alike_with_the_same_threads_and_nearby_with_others() {
    for (name, start, data, norm_mode) in nets() {
        for (precision, apart) in APART {
            let run = |threads: usize| {
                let config = TrainConfig {
                    epochs: 2,
                    precision,
                    augment: Augment::default(),
                    ..config(sgd(), norm_mode)
                };
                let lane = Arc::new(CpuLane::new(threads));
                train(start.clone(), config, &data, lane)
            };
            let moved = |run: &Trainer| numbers(&run.model().params);
            let alone = run(1);
            let two = run(2);
            for (threads, first) in [(1, &alone), (2, &two)] {
                let second = run(threads);
                let bytes = |run: &Trainer| run.save().expect("bytes");
                assert!(
                    bytes(first) == bytes(&second),
                    "{name} in {precision}: {threads} threads, two endings"
                );
            }

            let before = numbers(&start.params);
            let (alone, two) = (moved(&alone), moved(&two));
            let (mut way, mut gap) = (0.0, 0.0);
            for (parameter, before) in &before {
                let ends = alone[parameter].iter().zip(&two[parameter]);
                for ((a, b), before) in ends.zip(before) {
                    way += f64::from(a - before).powi(2);
                    gap += f64::from(a - b).powi(2);
                }
            }
            let gap = (gap / way).sqrt();
            eprintln!("{name} {precision} {gap:e}");
            assert!(
                way > 0.0 && gap <= apart,
                "{name} in {precision}: {gap:e} of the way apart after {STEPS} steps"
            );
        }
    }
}
