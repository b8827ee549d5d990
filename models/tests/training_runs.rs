//! Runs: the same bytes for the same seed, stopping, saving, going on, faults.

mod oracle;

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lamplight_models::lane::{CpuLane, Lane};
use lamplight_models::model::Model;
use lamplight_models::ops::{BatchNorm, Linear, NormMode, Op};
use lamplight_models::train::{
    Augment, CheckpointError, EpochReport, OptimizerConfig, Precision, TrainConfig, TrainError,
    Trainer, evaluate, predict,
};
use oracle::runs::{adamw, config, cpu, model, numbers, on, samples, sgd, small, train};
use oracle::{graph, node};

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

    // What `auto` settles on is what the run was saved with.
    let auto = TrainConfig {
        precision: Precision::Auto,
        ..config.clone()
    };
    let again = Trainer::resume(model(small(true)), auto, cpu(), &saved).expect("resumed");
    assert_eq!(again.config(), &config);
    assert_eq!(
        Trainer::precision_of(&saved).expect("saved"),
        config.precision
    );
    let cut = Trainer::precision_of(&saved[..saved.len() / 2]).expect_err("cut");
    assert!(is(&cut, |c| matches!(c, CheckpointError::File(_))), "{cut}");

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
    // One sample has statistics where it has several positions, else not.
    let alone = || TrainConfig { batch: 1, ..good() };
    assert!(Trainer::new(m(), alone(), cpu()).is_ok());
    let norm = BatchNorm {
        channels: 6 * 16,
        eps: 1e-5,
        momentum: 0.1,
    };
    let head = Linear {
        in_features: 6 * 16,
        out_features: 3,
        bias: true,
    };
    let nodes = vec![
        node("flat", Op::Flatten, &["input"]),
        node("norm", Op::BatchNorm(norm), &["flat"]),
        node("head", Op::Linear(head), &["norm"]),
    ];
    let single = model(graph(&[6, 16], nodes, "head"));
    assert!(refuse(single, alone()).contains("at least 2"));
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
    let mut order = samples(10, 1);
    order.classes.swap(0, 1);
    assert!(matches!(
        evaluate(&m(), &order, &*cpu()),
        Err(TrainError::Classes { .. })
    ));
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
    // Precision came later: the usual one is not mentioned, so older programs read what is saved.
    assert_eq!(c.precision, Precision::F32);
    assert!(
        !serde_json::to_string(&c)
            .expect("json")
            .contains("precision")
    );
    assert!(serde_json::from_str::<TrainConfig>(&short.replace("seed", "sead")).is_err());
}
