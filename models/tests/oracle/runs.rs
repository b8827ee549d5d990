//! A small model, samples it can learn, and settings: what the training tests share.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lamplight_models::graph::Graph;
use lamplight_models::lane::{CpuLane, Lane};
use lamplight_models::model::{Model, ModelInfo, Params};
use lamplight_models::ops::{BatchNorm, Conv1d, GroupNorm, Linear, NormMode, Op, ParamRole};
use lamplight_models::samples::Samples;
use lamplight_models::train::{
    Augment, OptimizerConfig, Schedule, StepReport, TrainConfig, Trainer,
};

use super::{graph, node, noise};

pub(crate) const CLASSES: usize = 3;

pub(crate) fn small(batch_norm: bool) -> Graph {
    let conv = |cin, cout, stride| {
        Op::Conv1d(Conv1d {
            in_channels: cin,
            out_channels: cout,
            kernel: 3,
            stride,
            padding: 1,
            dilation: 1,
            groups: 1,
            bias: true,
        })
    };
    let norm = |channels| {
        if batch_norm {
            Op::BatchNorm(BatchNorm {
                channels,
                eps: 1e-5,
                momentum: 0.1,
            })
        } else {
            Op::GroupNorm(GroupNorm {
                channels,
                groups: 2,
                eps: 1e-5,
            })
        }
    };
    let nodes = vec![
        node("conv1", conv(6, 8, 1), &["input"]),
        node("norm1", norm(8), &["conv1"]),
        node("relu1", Op::Relu, &["norm1"]),
        node("conv2", conv(8, 12, 2), &["relu1"]),
        node("norm2", norm(12), &["conv2"]),
        node("relu2", Op::Relu, &["norm2"]),
        node("pool", Op::GlobalAvgPool, &["relu2"]),
        node(
            "head",
            Op::Linear(Linear {
                in_features: 12,
                out_features: CLASSES,
                bias: true,
            }),
            &["pool"],
        ),
    ];
    graph(&[6, 16], nodes, "head")
}

pub(crate) fn model(graph: Graph) -> Model {
    let checked = graph.check().expect("graph");
    let params: Params = checked
        .params()
        .enumerate()
        .map(|(i, (name, spec))| {
            let n = spec.shape.iter().product();
            let values: Vec<f32> = match (spec.role, spec.suffix) {
                (ParamRole::Norm, "weight") | (ParamRole::Statistic, "running_var") => vec![1.0; n],
                (ParamRole::Weight, _) => noise(n, i as u64).iter().map(|v| 0.4 * v).collect(),
                _ => vec![0.0; n],
            };
            let t = Tensor::from_vec(values, spec.shape, &Device::Cpu).expect("tensor");
            (name, t)
        })
        .collect::<BTreeMap<_, _>>();
    let channels = graph.input[0];
    Model {
        graph,
        params,
        info: ModelInfo {
            architecture: "small".into(),
            input_mean: (0..channels).map(|c| c as f32).collect(),
            input_std: (0..channels).map(|c| 1.0 + c as f32).collect(),
            channels: Vec::new(),
            sampling_rate_hz: None,
            classes: (0..CLASSES).map(|c| format!("c{c}")).collect(),
            ..ModelInfo::default()
        },
    }
}

/// Windows whose class is a frequency, at random phase, in noise.
pub(crate) fn samples(n: usize, salt: u64) -> Samples {
    let phases = noise(n, salt);
    let mut x = Vec::new();
    for (i, phase) in phases.iter().enumerate() {
        let hiss = noise(6 * 16, salt + 1000 + i as u64);
        for c in 0..6 {
            for t in 0..16 {
                let turn = (1 + i % CLASSES) as f32 * t as f32 * 0.7 + 3.0 * phase;
                let raw = turn.sin() + 0.2 * hiss[c * 16 + t];
                x.push(c as f32 + (1.0 + c as f32) * raw);
            }
        }
    }
    Samples {
        shape: vec![6, 16],
        x,
        y: (0..n).map(|i| (i % CLASSES) as u32).collect(),
        classes: (0..CLASSES).map(|c| format!("c{c}")).collect(),
    }
}

pub(crate) fn sgd() -> OptimizerConfig {
    OptimizerConfig::Sgd {
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 1e-3,
    }
}

pub(crate) fn adamw() -> OptimizerConfig {
    OptimizerConfig::AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    }
}

pub(crate) fn config(optimizer: OptimizerConfig, norm_mode: NormMode) -> TrainConfig {
    TrainConfig {
        trainable: Default::default(),
        epochs: 3,
        batch: 8,
        optimizer,
        clip_norm: Some(1.0),
        schedule: Schedule::Cosine,
        norm_mode,
        augment: Augment {
            rotate_deg: 20.0,
            rotate_triples: vec![[0, 1, 2], [3, 4, 5]],
            noise_std: 0.05,
            scale: 0.1,
        },
        precision: Default::default(),
        seed: 42,
    }
}

pub(crate) fn cpu() -> Arc<dyn Lane> {
    Arc::new(CpuLane::new(1))
}

pub(crate) fn on(_: StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Runs all epochs.
pub(crate) fn train(
    model: Model,
    config: TrainConfig,
    samples: &Samples,
    lane: Arc<dyn Lane>,
) -> Trainer {
    let mut run = Trainer::new(model, config, lane).expect("trainer");
    while !run.is_finished() {
        run.epoch(samples, &mut on).expect("epoch");
    }
    run
}

pub(crate) fn numbers(params: &Params) -> BTreeMap<String, Vec<f32>> {
    params
        .iter()
        .map(|(n, t)| {
            let v = t.flatten_all().and_then(|t| t.to_vec1()).expect("values");
            (n.clone(), v)
        })
        .collect()
}
