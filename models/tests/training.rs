//! Optimizers against their formulas, learning, norms, evaluation, lanes.

mod oracle;

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Device;
use lamplight_models::kernel::{cpu::Cpu, isa::Isa};
use lamplight_models::lane::{CandleLane, CpuLane, Lane};
use lamplight_models::model::Model;
use lamplight_models::ops::{BatchNorm, Linear, NormMode, Op, ParamRole};
use lamplight_models::samples::Samples;
use lamplight_models::train::{
    Augment, Optimizer, OptimizerConfig, Precision, Schedule, TrainConfig, Trainer, evaluate,
    predict,
};
use lamplight_models::zoo::{GruConfig, gru};
use oracle::runs::{CLASSES, adamw, config, cpu, model, numbers, samples, sgd, small, train};
use oracle::{graph, node, noise};

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
fn a_recurrent_net_learns_a_batch_by_heart_and_does_well_on_others() {
    let config = |epochs, batch| TrainConfig {
        epochs,
        batch,
        schedule: Schedule::Constant,
        augment: Augment::default(),
        ..config(adamw(), NormMode::Frozen)
    };
    for layers in [1, 2] {
        let net = GruConfig {
            hidden: 16,
            layers,
            ..GruConfig::new(6, 16, CLASSES)
        };
        let start = model(gru(&net).expect("a graph"));
        let start = Model::init(start.graph, start.info, 3).expect("a model");
        let few = samples(12, 1);
        let run = train(start.clone(), config(100, 12), &few, cpu());
        let before = evaluate(&start, &few, &*cpu()).expect("before");
        let after = evaluate(run.model(), &few, &*cpu()).expect("after");
        assert!(before.loss > 0.7, "{layers}: {before:?}");
        assert!(after.loss < 0.1, "{layers}: {after:?}");
        assert_eq!(after.accuracy, 1.0);

        let run = train(start, config(20, 8), &samples(150, 2), cpu());
        let unseen = evaluate(run.model(), &samples(90, 77), &*cpu()).expect("evaluation");
        assert!(unseen.accuracy > 0.9, "{layers}: {unseen:?}");
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
    let candle: Arc<dyn Lane> = Arc::new(CandleLane::new(Device::Cpu, 1));
    let b = train(model(small(false)), config, &samples, candle);
    let (a, b) = (numbers(&a.model().params), numbers(&b.model().params));
    for (name, a) in &a {
        for (a, b) in a.iter().zip(&b[name]) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn curves_of_halves_stay_near_those_of_floats() {
    // Stated tolerance: mean losses of every epoch within 5 % of the first loss, accuracy within 4
    // points, wherever products run and whatever instructions there are.
    let curve = |precision, lane: Arc<dyn Lane>, mode| {
        let config = TrainConfig {
            precision,
            epochs: 12,
            ..config(sgd(), mode)
        };
        let mut run = Trainer::new(model(small(true)), config, lane).expect("a run");
        let data = samples(96, 5);
        let mut losses = Vec::new();
        while !run.is_finished() {
            let mut go = |_| ControlFlow::Continue(());
            losses.push(run.epoch(&data, &mut go).expect("an epoch").loss);
        }
        let told = evaluate(run.model(), &samples(96, 6), &*cpu()).expect("evaluated");
        (losses, told.accuracy)
    };
    for mode in [NormMode::Train, NormMode::Frozen] {
        let (want, right) = curve(Precision::F32, cpu(), mode);
        assert!(want[11] < 0.5 * want[0], "{want:?}");
        let lanes = Isa::available().iter().map(|&isa| {
            let lane: Arc<dyn Lane> = Arc::new(CpuLane::on(Cpu::with(isa, 2)));
            (isa.name(), lane)
        });
        let candle: Arc<dyn Lane> = Arc::new(CandleLane::new(Device::Cpu, 1));
        for (name, lane) in lanes.chain([("candle", candle)]) {
            let (got, also_right) = curve(Precision::Bf16, lane, mode);
            assert_ne!(got, want, "{name}");
            for (g, w) in got.iter().zip(&want) {
                assert!(
                    (g - w).abs() < 0.05 * want[0],
                    "{name}: {got:?}, floats {want:?}"
                );
            }
            assert!(
                (also_right - right).abs() < 0.04,
                "{name}: {also_right} and {right}"
            );
        }
    }
}
