//! Training runs: optimizers, learning, reproducibility, stopping, saving, faults.

mod oracle;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lamplight_models::graph::Graph;
use lamplight_models::lane::{CandleLane, CpuLane, Lane};
use lamplight_models::model::{Model, ModelInfo, Params};
use lamplight_models::ops::{BatchNorm, Conv1d, GroupNorm, Linear, NormMode, Op, ParamRole};
use lamplight_models::samples::Samples;
use lamplight_models::train::{
    Augment, CheckpointError, EpochReport, Optimizer, OptimizerConfig, Schedule, StepReport,
    TrainConfig, TrainError, Trainer, evaluate, predict,
};
use oracle::{graph, node, noise};

const CLASSES: usize = 3;

fn small(batch_norm: bool) -> Graph {
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

fn model(graph: Graph) -> Model {
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
        },
    }
}

/// Windows whose class is a frequency, at random phase, in noise.
fn samples(n: usize, salt: u64) -> Samples {
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

fn sgd() -> OptimizerConfig {
    OptimizerConfig::Sgd {
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 1e-3,
    }
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    }
}

fn config(optimizer: OptimizerConfig, norm_mode: NormMode) -> TrainConfig {
    TrainConfig {
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
        seed: 42,
    }
}

fn cpu() -> Arc<dyn Lane> {
    Arc::new(CpuLane::new(1))
}

fn on(_: StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Runs all epochs.
fn train(model: Model, config: TrainConfig, samples: &Samples, lane: Arc<dyn Lane>) -> Trainer {
    let mut run = Trainer::new(model, config, lane).expect("trainer");
    while !run.is_finished() {
        run.epoch(samples, &mut on).expect("epoch");
    }
    run
}

fn numbers(params: &Params) -> BTreeMap<String, Vec<f32>> {
    params
        .iter()
        .map(|(n, t)| {
            let v = t.flatten_all().and_then(|t| t.to_vec1()).expect("values");
            (n.clone(), v)
        })
        .collect()
}

fn nearly(got: f32, want: f32) {
    assert!((got - want).abs() < 2e-6, "got {got}, want {want}");
}

#[test]
fn sgd_follows_the_formula_by_hand() {
    let config = OptimizerConfig::Sgd {
        learning_rate: 0.1,
        momentum: 0.9,
        weight_decay: 0.01,
    };
    let mut sgd = Optimizer::new(config, &[1]);
    let mut p = [1.0_f32];
    // v = 0.5 + 0.01; v = 0.9 * 0.51 + (0.5 + 0.01 * 0.949); v = 0.9 * 0.96849 - 1 + 0.00852151.
    for (g, want) in [(0.5, 0.949), (0.5, 0.852_151), (-1.0, 0.864_134_7)] {
        sgd.begin_step();
        sgd.update(0, ParamRole::Weight, &mut p, &[g], 1.0);
        nearly(p[0], want);
    }
}

#[test]
fn adamw_follows_the_formula_by_hand() {
    let config = OptimizerConfig::AdamW {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let mut adamw = Optimizer::new(config, &[1]);
    let mut p = [1.0_f32];
    // 1 * 0.99 - 0.1 * 0.5 / 0.5; then m = 0.02 / 0.19, v = 0.00031225 / 0.001999.
    for (g, want) in [(0.5, 0.89), (-0.25, 0.854_466_3)] {
        adamw.begin_step();
        adamw.update(0, ParamRole::Weight, &mut p, &[g], 1.0);
        nearly(p[0], want);
    }
}

#[test]
fn only_weights_decay() {
    for optimizer in [sgd(), adamw()] {
        for role in [ParamRole::Weight, ParamRole::Bias, ParamRole::Norm] {
            let mut o = Optimizer::new(optimizer, &[1]);
            let mut p = [1.0_f32];
            o.begin_step();
            o.update(0, role, &mut p, &[0.0], 1.0);
            assert_eq!(p[0] < 1.0, role == ParamRole::Weight, "{role:?}");
        }
    }
}

#[test]
fn plain_sgd_keeps_no_moments() {
    let plain = OptimizerConfig::Sgd {
        learning_rate: 0.5,
        momentum: 0.0,
        weight_decay: 0.0,
    };
    let mut o = Optimizer::new(plain, &[2]);
    let mut p = [1.0_f32, 2.0];
    o.begin_step();
    o.update(0, ParamRole::Bias, &mut p, &[1.0, -1.0], 0.5);
    assert_eq!(p, [0.75, 2.25]);
    assert!(o.moments(0).is_empty());
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let samples = samples(12, 1);
    for (optimizer, batch_norm, mode) in [
        (sgd(), false, NormMode::Frozen),
        (adamw(), false, NormMode::Frozen),
        (sgd(), true, NormMode::Frozen),
        (adamw(), true, NormMode::Train),
    ] {
        let config = TrainConfig {
            epochs: 150,
            batch: 12,
            schedule: Schedule::Constant,
            augment: Augment::default(),
            ..config(optimizer, mode)
        };
        let run = train(model(small(batch_norm)), config, &samples, cpu());
        let before = evaluate(&model(small(batch_norm)), &samples, &*cpu()).expect("before");
        let after = evaluate(run.model(), &samples, &*cpu()).expect("after");
        assert!(before.loss > 0.7, "{before:?}");
        assert!(after.loss < 0.1, "{optimizer:?} {mode:?}: {after:?}");
        assert_eq!(after.accuracy, 1.0);
    }
}

#[test]
fn what_is_learnt_holds_for_unseen_samples() {
    let config = TrainConfig {
        epochs: 20,
        ..config(sgd(), NormMode::Train)
    };
    let run = train(model(small(true)), config, &samples(150, 2), cpu());
    let unseen = evaluate(run.model(), &samples(90, 77), &*cpu()).expect("evaluation");
    assert!(unseen.accuracy > 0.9, "{unseen:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let samples = samples(37, 3);
    for threads in [1, 2] {
        let run = |seed| {
            let config = TrainConfig {
                seed,
                ..config(sgd(), NormMode::Train)
            };
            let lane: Arc<dyn Lane> = Arc::new(CpuLane::new(threads));
            train(model(small(true)), config, &samples, lane)
                .save()
                .expect("bytes")
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

#[test]
fn a_saved_run_goes_on_bit_for_bit_in_the_middle_of_an_epoch() {
    let samples = samples(45, 4);
    for optimizer in [sgd(), adamw()] {
        let config = config(optimizer, NormMode::Train);
        let whole = train(model(small(true)), config.clone(), &samples, cpu());

        let mut first = Trainer::new(model(small(true)), config.clone(), cpu()).expect("trainer");
        first.epoch(&samples, &mut on).expect("epoch");
        let stopped = first
            .epoch(&samples, &mut |r| {
                if r.step == 2 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .expect("part of an epoch");
        assert!(!stopped.complete);
        assert_eq!((stopped.steps, stopped.samples), (3, 24));
        assert_eq!(first.position(), (1, 3));
        let saved = first.save().expect("bytes");
        assert_eq!(saved, first.save().expect("bytes"));

        let mut second =
            Trainer::resume(model(small(true)), config, cpu(), &saved).expect("resumed");
        assert_eq!(second.save().expect("bytes"), saved);
        assert_eq!(
            numbers(&second.model().params),
            numbers(&first.model().params)
        );
        let mut steps = Vec::new();
        let rest = second
            .epoch(&samples, &mut |r| {
                steps.push(r.step);
                ControlFlow::Continue(())
            })
            .expect("rest of the epoch");
        assert_eq!(steps, [3, 4, 5]);
        assert!(rest.complete);
        assert_eq!((rest.steps, rest.samples), (6, 45));
        second.epoch(&samples, &mut on).expect("last epoch");
        assert_eq!(second.save().expect("bytes"), whole.save().expect("bytes"));
        assert!(matches!(
            second.epoch(&samples, &mut on),
            Err(TrainError::Finished { epochs: 3 })
        ));
    }
}

#[test]
fn stopping_and_going_on_in_memory_changes_nothing() {
    let samples = samples(40, 5);
    let config = config(sgd(), NormMode::Frozen);
    let whole = train(model(small(true)), config.clone(), &samples, cpu());
    let mut run = Trainer::new(model(small(true)), config, cpu()).expect("trainer");
    let mut losses: Vec<EpochReport> = Vec::new();
    while !run.is_finished() {
        let report = run
            .epoch(&samples, &mut |_| ControlFlow::Break(()))
            .expect("step");
        losses.extend(report.complete.then_some(report));
    }
    assert_eq!(losses.len(), 3);
    assert_eq!(run.save().expect("bytes"), whole.save().expect("bytes"));
}

#[test]
fn an_epoch_does_not_go_on_with_other_samples() {
    let config = config(sgd(), NormMode::Frozen);
    let mut run = Trainer::new(model(small(true)), config, cpu()).expect("trainer");
    run.epoch(&samples(40, 5), &mut |_| ControlFlow::Break(()))
        .expect("step");
    let e = run.epoch(&samples(41, 5), &mut on).expect_err("changed");
    assert_eq!(
        e.to_string(),
        "the running epoch was begun with 40 samples, but goes on with 41"
    );
}

#[test]
fn hostile_or_foreign_bytes_are_refused() {
    let samples = samples(20, 6);
    let config = config(sgd(), NormMode::Train);
    let mut run = Trainer::new(model(small(true)), config.clone(), cpu()).expect("trainer");
    run.epoch(&samples, &mut |_| ControlFlow::Break(()))
        .expect("step");
    let saved = run.save().expect("bytes");
    let resume = |bytes: &[u8]| Trainer::resume(model(small(true)), config.clone(), cpu(), bytes);
    assert!(resume(&saved).is_ok());

    for cut in [0, 4, 8, 100, saved.len() - 1] {
        assert!(matches!(
            resume(&saved[..cut]),
            Err(TrainError::Checkpoint(_))
        ));
    }
    let mut length = saved.clone();
    length[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(resume(&length), Err(TrainError::Checkpoint(_))));

    let mut nan = saved.clone();
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    let e = resume(&nan).expect_err("not a number");
    assert!(e.to_string().contains("non-finite"), "{e}");

    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len(), "the header keeps its length");
        let at = saved
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .expect("present");
        let mut bytes = saved.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        resume(&bytes).expect_err(to)
    };
    let is = |e: &TrainError, what: fn(&CheckpointError) -> bool| matches!(e, TrainError::Checkpoint(c) if what(c));
    let e = replaced("lamplight.training", "lamplight.draining");
    assert!(is(&e, |c| matches!(c, CheckpointError::Metadata(_))), "{e}");
    let e = replaced(r#"format\":1"#, r#"format\":9"#);
    assert!(
        is(&e, |c| matches!(c, CheckpointError::Format { got: 9 })),
        "{e}"
    );
    let e = replaced(r#"step\":1"#, r#"step\":9"#);
    assert!(
        is(&e, |c| matches!(c, CheckpointError::Position { .. })),
        "{e}"
    );
    let e = replaced("param.conv1.weight", "param.conv9.weight");
    assert!(
        is(&e, |c| matches!(c, CheckpointError::Tensor { .. })),
        "{e}"
    );

    let other = TrainConfig {
        seed: 43,
        ..config.clone()
    };
    let e = Trainer::resume(model(small(true)), other, cpu(), &saved).expect_err("settings");
    assert!(
        is(&e, |c| matches!(c, CheckpointError::Config { .. })),
        "{e}"
    );
    let e = Trainer::resume(model(small(false)), config.clone(), cpu(), &saved).expect_err("model");
    assert!(
        is(&e, |c| matches!(c, CheckpointError::Tensor { .. })),
        "{e}"
    );
}

#[test]
fn a_non_finite_loss_names_its_step_and_moves_nothing() {
    let mut bad = samples(24, 7);
    bad.x[5 * 96 + 3] = f32::INFINITY;
    let config = TrainConfig {
        augment: Augment::default(),
        ..config(sgd(), NormMode::Train)
    };
    let mut run = Trainer::new(model(small(true)), config, cpu()).expect("trainer");
    let mut good = 0;
    let e = run
        .epoch(&bad, &mut |_| {
            good += 1;
            ControlFlow::Continue(())
        })
        .expect_err("infinite input");
    let TrainError::NonFinite { epoch, step, what } = e else {
        panic!("{e}")
    };
    assert_eq!((epoch, step, what.as_str()), (0, good, "the loss"));
    assert_eq!(run.position(), (0, good));
    let after = numbers(&run.model().params);
    assert!(after.values().flatten().all(|v| v.is_finite()));
    // Trying again fails at the same step and still moves nothing.
    assert!(matches!(
        run.epoch(&bad, &mut on),
        Err(TrainError::NonFinite { .. })
    ));
    assert_eq!(numbers(&run.model().params), after);
}

#[test]
fn norm_modes_move_what_they_say() {
    let samples = samples(24, 8);
    for (mode, statistics, affine) in [
        (NormMode::Train, true, true),
        (NormMode::Frozen, false, true),
        (NormMode::Eval, false, false),
    ] {
        let before = model(small(true));
        let run = train(before.clone(), config(sgd(), mode), &samples, cpu());
        let (before, after) = (numbers(&before.params), numbers(&run.model().params));
        let moved = |n: &str| before[n] != after[n];
        assert_eq!(moved("norm1.running_mean"), statistics, "{mode:?}");
        assert_eq!(moved("norm2.running_var"), statistics, "{mode:?}");
        assert_eq!(moved("norm1.weight"), affine, "{mode:?}");
        assert_eq!(moved("norm2.bias"), affine, "{mode:?}");
        assert!(moved("conv1.weight") && moved("head.bias"));
    }
}

#[test]
fn running_statistics_follow_the_batch_as_in_pytorch() {
    // A batch norm right on the input: its statistics can be computed by hand.
    let nodes = vec![
        node(
            "norm",
            Op::BatchNorm(BatchNorm {
                channels: 2,
                eps: 1e-5,
                momentum: 0.3,
            }),
            &["input"],
        ),
        node("pool", Op::GlobalAvgPool, &["norm"]),
        node(
            "head",
            Op::Linear(Linear {
                in_features: 2,
                out_features: CLASSES,
                bias: true,
            }),
            &["pool"],
        ),
    ];
    let mut m = model(graph(&[2, 3], nodes, "head"));
    m.info.input_mean = vec![0.0; 2];
    m.info.input_std = vec![1.0; 2];
    let x = noise(4 * 6, 3);
    let samples = Samples {
        shape: vec![2, 3],
        x: x.clone(),
        y: vec![0, 1, 2, 0],
        classes: m.info.classes.clone(),
    };
    let config = TrainConfig {
        epochs: 1,
        batch: 4,
        augment: Augment::default(),
        ..config(sgd(), NormMode::Train)
    };
    let run = train(m, config, &samples, cpu());
    let after = numbers(&run.model().params);
    for c in 0..2 {
        let all: Vec<f64> = (0..4)
            .flat_map(|b| x[b * 6 + c * 3..][..3].iter().map(|&v| f64::from(v)))
            .collect();
        let mean = all.iter().sum::<f64>() / 12.0;
        let unbiased = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 11.0;
        nearly(after["norm.running_mean"][c], (0.3 * mean) as f32);
        nearly(after["norm.running_var"][c], (0.7 + 0.3 * unbiased) as f32);
    }
}

#[test]
fn a_last_single_sample_joins_the_batch_before_while_batch_norms_train() {
    let samples = samples(17, 9);
    let sizes = |mode| {
        let mut sizes = Vec::new();
        Trainer::new(model(small(true)), config(sgd(), mode), cpu())
            .expect("trainer")
            .epoch(&samples, &mut |r| {
                sizes.push(r.samples);
                ControlFlow::Continue(())
            })
            .expect("epoch");
        sizes
    };
    assert_eq!(sizes(NormMode::Train), [8, 9]);
    assert_eq!(sizes(NormMode::Frozen), [8, 8, 1]);
    let mut run =
        Trainer::new(model(small(true)), config(sgd(), NormMode::Train), cpu()).expect("trainer");
    assert!(matches!(
        run.epoch(&samples.select(&[0]), &mut on),
        Err(TrainError::TooFewSamples { want: 2, got: 1 })
    ));
}

#[test]
fn clipping_bounds_the_step() {
    let samples = samples(8, 10);
    let plain = OptimizerConfig::Sgd {
        learning_rate: 1.0,
        momentum: 0.0,
        weight_decay: 0.0,
    };
    let step = |clip_norm| {
        let config = TrainConfig {
            epochs: 1,
            clip_norm,
            schedule: Schedule::Constant,
            ..config(plain, NormMode::Frozen)
        };
        let before = model(small(false));
        let run = train(before.clone(), config, &samples, cpu());
        let (a, b) = (numbers(&before.params), numbers(&run.model().params));
        a.iter()
            .flat_map(|(n, v)| v.iter().zip(&b[n]).map(|(a, b)| f64::from(a - b).powi(2)))
            .sum::<f64>()
            .sqrt()
    };
    let free = step(None);
    assert!(free > 0.02, "{free}");
    let clipped = step(Some(0.01));
    assert!((clipped - 0.01).abs() < 1e-4, "{clipped}");
    assert!((step(Some(100.0)) - free).abs() < 1e-9);
}

#[test]
fn the_cosine_falls_from_one_to_nothing() {
    assert_eq!(Schedule::Cosine.factor(0.0), 1.0);
    assert!((Schedule::Cosine.factor(0.5) - 0.5).abs() < 1e-6);
    assert!(Schedule::Cosine.factor(1.0) < 1e-6);
    assert_eq!(Schedule::Constant.factor(0.9), 1.0);
}

#[test]
fn evaluation_counts_what_prediction_says() {
    let samples = samples(130, 11);
    let m = model(small(true));
    let logits = predict(&m, &samples, &*cpu()).expect("logits");
    assert_eq!(logits.len(), 130 * CLASSES);
    let e = evaluate(&m, &samples, &*cpu()).expect("evaluation");
    let mut confusion = vec![vec![0; CLASSES]; CLASSES];
    for (row, &y) in logits.chunks(CLASSES).zip(&samples.y) {
        let top = (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        confusion[y as usize][top.expect("classes")] += 1;
    }
    assert_eq!(e.confusion, confusion);
    let right: u64 = (0..CLASSES).map(|c| confusion[c][c]).sum();
    assert_eq!(e.accuracy, right as f64 / 130.0);
    assert_eq!(e.samples, 130);
    // One at a time is the same as in batches.
    let alone = predict(&m, &samples.select(&[70]), &*cpu()).expect("logits");
    for (a, b) in alone.iter().zip(&logits[70 * CLASSES..]) {
        assert!((a - b).abs() < 1e-5);
    }
    let none = evaluate(&m, &samples.select(&[]), &*cpu()).expect("no samples");
    assert_eq!((none.samples, none.loss, none.accuracy), (0, 0.0, 0.0));
}

#[test]
fn training_on_a_candle_lane_ends_where_the_cpu_lane_does() {
    let samples = samples(32, 12);
    let config = config(sgd(), NormMode::Frozen);
    let a = train(model(small(false)), config.clone(), &samples, cpu());
    let candle: Arc<dyn Lane> = Arc::new(CandleLane::new(Device::Cpu));
    let b = train(model(small(false)), config, &samples, candle);
    let (a, b) = (numbers(&a.model().params), numbers(&b.model().params));
    for (name, a) in &a {
        for (a, b) in a.iter().zip(&b[name]) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn misfits_are_refused_with_both_values() {
    let good = || config(sgd(), NormMode::Train);
    let refuse =
        |m: Model, c: TrainConfig| Trainer::new(m, c, cpu()).expect_err("refused").to_string();
    let m = || model(small(true));
    let c = TrainConfig { batch: 0, ..good() };
    assert_eq!(
        refuse(m(), c),
        "training settings: batch must be at least 1"
    );
    let c = TrainConfig { batch: 1, ..good() };
    assert!(refuse(m(), c).contains("at least 2"));
    let c = TrainConfig {
        clip_norm: Some(f32::NAN),
        ..good()
    };
    assert!(refuse(m(), c).contains("clip_norm"));
    let c = TrainConfig {
        optimizer: OptimizerConfig::Sgd {
            learning_rate: -1.0,
            momentum: 0.9,
            weight_decay: 0.0,
        },
        ..good()
    };
    assert!(refuse(m(), c).contains("learning_rate must be positive and finite, got -1"));

    let mut lacks = m();
    lacks.params.remove("head.bias");
    assert_eq!(
        refuse(lacks, good()),
        "parameter `head.bias` is missing from the model"
    );
    let mut extra = m();
    let one = Tensor::new(&[1.0_f32], &Device::Cpu).expect("tensor");
    extra.params.insert("ghost.weight".into(), one.clone());
    assert_eq!(
        refuse(extra, good()),
        "parameter `ghost.weight` belongs to no node of the graph"
    );
    let mut wrong = m();
    wrong.params.insert("head.bias".into(), one);
    assert_eq!(
        refuse(wrong, good()),
        "parameter `head.bias` has shape [1], expected [3]"
    );
    let mut classes = m();
    classes.info.classes.pop();
    assert!(refuse(classes, good()).contains("output shape [3] for 2 classes"));
    let mut scale = m();
    scale.info.input_std[0] = 0.0;
    assert!(refuse(scale, good()).contains("positive deviations"));

    let mut run = Trainer::new(m(), good(), cpu()).expect("trainer");
    let mut label = samples(10, 1);
    label.y[4] = 3;
    assert_eq!(
        run.epoch(&label, &mut on).expect_err("label").to_string(),
        "sample 4 has label 3, but the model has 3 classes"
    );
    let mut shape = samples(10, 1);
    shape.shape = vec![16, 6];
    assert!(evaluate(&m(), &shape, &*cpu()).is_err());
    let mut short = samples(10, 1);
    short.x.pop();
    assert!(predict(&m(), &short, &*cpu()).is_err());
}

#[test]
fn settings_survive_json() {
    let c = config(adamw(), NormMode::Frozen);
    let text = serde_json::to_string(&c).expect("json");
    assert_eq!(serde_json::from_str::<TrainConfig>(&text).expect("json"), c);
    let short = r#"{"epochs":1,"batch":32,"seed":1,
        "optimizer":{"type":"sgd","learning_rate":0.01,"momentum":0.9,"weight_decay":0}}"#;
    let c: TrainConfig = serde_json::from_str(short).expect("json");
    assert_eq!(c.norm_mode, NormMode::Frozen);
    assert!(c.augment.is_none() && c.clip_norm.is_none());
    assert!(serde_json::from_str::<TrainConfig>(&short.replace("seed", "sead")).is_err());
}
