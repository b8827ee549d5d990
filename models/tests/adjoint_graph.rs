//! Gradients of whole graphs: residuals, values read more than once, partial training, memory.

mod oracle;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use lamplight_models::graph::{Checked, Graph};
use lamplight_models::lane::{CandleLane, CpuLane, Lane};
use lamplight_models::ops::{
    BatchNorm, Conv1d, Conv2d, GroupNorm, Gru, GruOutput, Linear, NormMode, Op, ParamRole, Pool2d,
    softmax_cross_entropy,
};
use lamplight_models::train::{Executor, ParamSet, Precision};
use oracle::{assert_close, channels_last_f32, cross_entropy, graph, leaf, node, noise};

const BATCH: usize = 4;
const LABELS: [u32; BATCH] = [0, 2, 1, 2];

fn conv(cin: usize, cout: usize, kernel: usize, stride: usize, groups: usize) -> Op {
    Op::Conv2d(Conv2d {
        in_channels: cin,
        out_channels: cout,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        dilation: [1; 2],
        groups,
        bias: groups > 1,
    })
}

fn batch_norm(channels: usize) -> Op {
    Op::BatchNorm(BatchNorm {
        channels,
        eps: 1e-3,
        momentum: 0.1,
    })
}

fn linear(i: usize, o: usize) -> Op {
    Op::Linear(Linear {
        in_features: i,
        out_features: o,
        bias: true,
    })
}

/// A residual unit with a projection, another without, group norm, both kinds of pooling.
fn residual() -> Graph {
    let max = Op::MaxPool2d(Pool2d {
        kernel: [3, 3],
        stride: [2, 2],
        padding: [1, 1],
    });
    let mean = Op::AvgPool2d(Pool2d {
        kernel: [2, 2],
        stride: [1, 1],
        padding: [0, 0],
    });
    let group_norm = Op::GroupNorm(GroupNorm {
        channels: 6,
        groups: 3,
        eps: 1e-3,
    });
    let nodes = vec![
        node("stem", conv(2, 4, 3, 1, 1), &["input"]),
        node("stem_norm", batch_norm(4), &["stem"]),
        node("stem_relu", Op::Relu, &["stem_norm"]),
        node("a1", conv(4, 6, 3, 2, 1), &["stem_relu"]),
        node("a1_norm", batch_norm(6), &["a1"]),
        node("a1_relu", Op::Relu, &["a1_norm"]),
        node("a2", conv(6, 6, 3, 1, 2), &["a1_relu"]),
        node("a2_norm", group_norm, &["a2"]),
        node("proj", conv(4, 6, 1, 2, 1), &["stem_relu"]),
        node("join", Op::Add, &["a2_norm", "proj"]),
        node("join_relu", Op::Relu, &["join"]),
        node("max", max, &["join_relu"]),
        node("b", conv(6, 6, 3, 1, 6), &["max"]),
        node("b_join", Op::Add, &["max", "b"]),
        node("mean", mean, &["b_join"]),
        node("flat", Op::Flatten, &["mean"]),
        node("head", linear(6 * 2, 3), &["flat"]),
    ];
    graph(&[2, 11, 8], nodes, "head")
}

/// A convolution, then two recurrent layers on top of each other.
fn recurrent() -> Graph {
    let conv = Op::Conv1d(Conv1d {
        in_channels: 3,
        out_channels: 5,
        kernel: 3,
        stride: 2,
        padding: 1,
        dilation: 1,
        groups: 1,
        bias: true,
    });
    let gru = |input, hidden, output| {
        Op::Gru(Gru {
            input,
            hidden,
            output,
        })
    };
    let nodes = vec![
        node("conv", conv, &["input"]),
        node("relu", Op::Relu, &["conv"]),
        node("gru0", gru(5, 6, GruOutput::Sequence), &["relu"]),
        node("gru1", gru(6, 7, GruOutput::Last), &["gru0"]),
        node("head", linear(7, 3), &["gru1"]),
    ];
    graph(&[3, 15], nodes, "head")
}

fn parameters(checked: &Checked) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    checked
        .params()
        .enumerate()
        .map(|(i, (name, spec))| {
            let v = noise(spec.shape.iter().product(), 50 + i as u64);
            let v = match (spec.role, spec.suffix) {
                (ParamRole::Norm, "weight") | (ParamRole::Statistic, "running_var") => {
                    v.iter().map(|v| 1.2 + 0.8 * v).collect()
                }
                _ => v.iter().map(|v| 0.5 * v).collect(),
            };
            (name, spec.shape, v)
        })
        .collect()
}

fn param_set(checked: &Checked) -> ParamSet {
    let tensors: BTreeMap<String, Tensor> = parameters(checked)
        .into_iter()
        .map(|(name, shape, v)| {
            let t = Tensor::from_vec(v, shape, &Device::Cpu).expect("tensor");
            (name, t)
        })
        .collect();
    ParamSet::read(checked, &tensors).expect("parameters")
}

fn input(checked: &Checked) -> Vec<f32> {
    noise(BATCH * checked.input.iter().product::<usize>(), 7)
}

/// Logits and all parameter gradients from our executor. Gradients nobody asked for are empty.
fn ours(
    checked: &Checked,
    trainable: &[bool],
    mode: NormMode,
    lane: &dyn Lane,
) -> (Vec<f32>, Vec<Vec<f32>>, usize) {
    let params = param_set(checked);
    let x = channels_last_f32(&input(checked), BATCH, &checked.input);
    let mut grads: Vec<Vec<f32>> = params
        .all()
        .iter()
        .zip(trainable)
        .map(|(p, &t)| vec![f32::NAN; if t { p.values.len() } else { 0 }])
        .collect();
    let mut executor = Executor::new(checked.clone(), trainable, mode);
    let mut logits = Vec::new();
    // The second round works on reused buffers and must not notice.
    for _ in 0..2 {
        logits = executor
            .forward(&params, &x, BATCH, true, lane)
            .expect("forward")
            .to_vec();
        let mut grad = vec![0.0; logits.len()];
        softmax_cross_entropy(&logits, &LABELS, 3, Some(&mut grad)).expect("loss");
        executor
            .adjoint(&params, &x, &grad, &mut grads, lane)
            .expect("adjoint");
    }
    (logits, grads, executor.peak_bytes())
}

fn all_but_statistics(checked: &Checked) -> Vec<bool> {
    checked
        .params()
        .map(|(_, p)| p.role != ParamRole::Statistic)
        .collect()
}

fn agrees_with_candle(g: &Graph, mode: NormMode) {
    let checked = g.check().expect("graph");
    let trainable = all_but_statistics(&checked);
    let (logits, grads, _) = ours(&checked, &trainable, mode, &CpuLane::new(1));

    let vars: Vec<Var> = parameters(&checked)
        .iter()
        .map(|(_, shape, v)| leaf(v, shape))
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let shape = [&[BATCH], checked.input.as_slice()].concat();
    let x = Tensor::from_vec(input(&checked), shape, &Device::Cpu)
        .and_then(|x| x.to_dtype(DType::F64))
        .expect("input");
    let y = oracle::run(&checked, &tensors, &x, mode).expect("oracle");
    let want: Vec<f64> = y.flatten_all().and_then(|y| y.to_vec1()).expect("logits");
    assert_close("logits", &logits, &want, 5e-5);
    let autograd = cross_entropy(&y, &LABELS)
        .and_then(|l| l.backward())
        .expect("autograd");
    for (i, (name, _)) in checked.params().enumerate() {
        if trainable[i] {
            let want: Vec<f64> = autograd
                .get(&vars[i])
                .and_then(|g| g.flatten_all().ok()?.to_vec1().ok())
                .expect("gradient");
            assert_close(&format!("{mode:?} {name}"), &grads[i], &want, 2e-4);
        }
    }
}

#[test]
fn a_residual_graph_agrees_with_autograd_in_every_mode() {
    for mode in [NormMode::Train, NormMode::Frozen, NormMode::Eval] {
        agrees_with_candle(&residual(), mode);
    }
}

/// A product that could run over all samples as one, added to what is different for each of them.
fn normed_beside_plain() -> Graph {
    let norm = Op::GroupNorm(GroupNorm {
        channels: 6,
        groups: 2,
        eps: 1e-3,
    });
    let nodes = vec![
        node("a", conv(2, 6, 3, 1, 1), &["input"]),
        node("a_norm", norm, &["a"]),
        node("b", conv(2, 6, 1, 1, 1), &["input"]),
        node("join", Op::Add, &["a_norm", "b"]),
        node("relu", Op::Relu, &["join"]),
        node("pool", Op::GlobalAvgPool, &["relu"]),
        node("head", linear(6, 3), &["pool"]),
    ];
    graph(&[2, 5, 4], nodes, "head")
}

#[test]
fn answers_are_those_of_training_and_do_not_depend_on_the_company() {
    for g in [residual(), normed_beside_plain(), recurrent()] {
        let checked = g.check().expect("graph");
        let params = param_set(&checked);
        let one: usize = checked.input.iter().product();
        let x: Vec<f32> = channels_last_f32(&input(&checked), BATCH, &checked.input)
            .iter()
            .enumerate()
            // Samples of very different sizes.
            .map(|(i, v)| v * (1 + i / one) as f32)
            .collect();
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.1)] {
            for threads in [1, 2] {
                let lane = CpuLane::new(threads);
                let mut executor =
                    Executor::new(checked.clone(), &[], NormMode::Frozen).with_precision(precision);
                let mut run = |x: &[f32], batch, keep| {
                    executor
                        .forward(&params, x, batch, keep, &lane)
                        .expect("forward")
                        .to_vec()
                };
                let want = run(&x, BATCH, true);
                let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                let together = run(&x, BATCH, false);
                let alone: Vec<f32> = x.chunks(one).flat_map(|x| run(x, 1, false)).collect();
                for (i, w) in want.iter().enumerate() {
                    for got in [together[i], alone[i]] {
                        let off = (got - w).abs() / largest;
                        assert!(off < tolerance, "{i}: {got} and {w}, {precision:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_group_norm_beside_a_plain_product_agrees_with_autograd() {
    for mode in [NormMode::Train, NormMode::Frozen] {
        agrees_with_candle(&normed_beside_plain(), mode);
    }
}

#[test]
fn parameters_of_another_graph_are_refused() {
    let checked = residual().check().expect("graph");
    let mut executor = Executor::new(checked.clone(), &[], NormMode::Frozen);
    let x = channels_last_f32(&input(&checked), BATCH, &checked.input);
    let other = param_set(&recurrent().check().expect("graph"));
    let refused = executor.forward(&other, &x, BATCH, true, &CpuLane::new(1));
    let told = refused.expect_err("not its parameters").to_string();
    assert!(told.contains("parameters"), "{told}");
}

#[test]
fn recurrent_layers_behind_a_convolution_agree_with_autograd() {
    agrees_with_candle(&recurrent(), NormMode::Frozen);
}

#[test]
fn states_of_a_sequence_that_others_read_too_gather_all_gradients() {
    let gru = Op::Gru(Gru {
        input: 4,
        hidden: 4,
        output: GruOutput::Sequence,
    });
    let nodes = vec![
        node("gru", gru, &["input"]),
        // The rectifier must not work in place on states that the adjoint still reads.
        node("relu", Op::Relu, &["gru"]),
        node("sum", Op::Add, &["relu", "input"]),
        node("pool", Op::GlobalAvgPool, &["sum"]),
        node("head", linear(4, 3), &["pool"]),
    ];
    agrees_with_candle(&graph(&[4, 9], nodes, "head"), NormMode::Eval);
}

#[test]
fn a_value_read_many_times_gathers_all_its_gradients() {
    let nodes = vec![
        node("a", linear(5, 4), &["input"]),
        node("double", Op::Add, &["a", "a"]),
        node("relu", Op::Relu, &["a"]),
        node("b", linear(4, 4), &["a"]),
        node("sum1", Op::Add, &["double", "relu"]),
        node("sum2", Op::Add, &["sum1", "b"]),
        node("relu2", Op::Relu, &["sum2"]),
        node("sum3", Op::Add, &["relu2", "relu"]),
        node("head", linear(4, 3), &["sum3"]),
    ];
    agrees_with_candle(&graph(&[5], nodes, "head"), NormMode::Eval);
}

#[test]
fn a_residual_around_the_input_agrees() {
    let nodes = vec![
        node("a", linear(5, 5), &["input"]),
        node("sum", Op::Add, &["input", "a"]),
        node("head", linear(5, 3), &["sum"]),
    ];
    agrees_with_candle(&graph(&[5], nodes, "head"), NormMode::Eval);
}

#[test]
fn gradients_asked_for_alone_are_those_of_the_full_walk() {
    let of_residual = ["head.", "a2.", "stem.weight", ".bias", "_norm.weight"].as_slice();
    let of_recurrent = ["head.", "gru1.weight_hh", "gru0.", "conv.", ".bias"].as_slice();
    for (graph, mode, asked) in [
        (residual(), NormMode::Train, of_residual),
        (residual(), NormMode::Frozen, of_residual),
        (recurrent(), NormMode::Frozen, of_recurrent),
    ] {
        let checked = graph.check().expect("graph");
        let all = all_but_statistics(&checked);
        let lane = CpuLane::new(1);
        let (_, full, _) = ours(&checked, &all, mode, &lane);
        let names: Vec<String> = checked.params().map(|(n, _)| n).collect();
        for &wanted in asked {
            let only: Vec<bool> = names
                .iter()
                .zip(&all)
                .map(|(n, &t)| t && n.contains(wanted))
                .collect();
            assert!(only.contains(&true), "{wanted}");
            let (_, grads, _) = ours(&checked, &only, mode, &lane);
            for (i, name) in names.iter().enumerate() {
                if only[i] {
                    assert_eq!(grads[i], full[i], "{wanted}: {name}");
                }
            }
        }
    }
}

#[test]
fn training_only_the_head_keeps_little() {
    let checked = residual().check().expect("graph");
    let all = all_but_statistics(&checked);
    let head: Vec<bool> = checked
        .params()
        .map(|(n, _)| n.starts_with("head."))
        .collect();
    let lane = CpuLane::new(1);
    let (_, _, full) = ours(&checked, &all, NormMode::Frozen, &lane);
    let (_, _, little) = ours(&checked, &head, NormMode::Frozen, &lane);
    // What is left is the largest value and its neighbour, and where maxima were.
    assert!(
        5 * little < 3 * full,
        "head only {little}, everything {full}"
    );
}

#[test]
fn a_recurrent_layer_holds_one_state_a_step_and_nothing_while_it_only_answers() {
    let gru = |output| {
        Op::Gru(Gru {
            input: 2,
            hidden: 16,
            output,
        })
    };
    let (batch, states) = (4, 4 * 16 * 30 * size_of::<f32>());
    for (output, of_output) in [
        (GruOutput::Last, 4 * 16 * size_of::<f32>()),
        (GruOutput::Sequence, states),
    ] {
        let nodes = vec![node("gru", gru(output), &["input"])];
        let checked = graph(&[2, 30], nodes, "gru").check().expect("graph");
        let params = param_set(&checked);
        let x = noise(batch * 2 * 30, 1);
        let lane = CpuLane::new(1);
        let held = |trainable: bool, keep: bool| {
            let mut executor = Executor::new(checked.clone(), &[trainable; 4], NormMode::Eval);
            executor
                .forward(&params, &x, batch, keep, &lane)
                .expect("forward");
            let least = executor.least_bytes() as usize * batch;
            (least, executor.peak_bytes())
        };
        let saved = if output == GruOutput::Last { states } else { 0 };
        assert_eq!(held(true, true), (states, of_output + saved));
        // Nobody asks for what rests, nor for anything behind an answer.
        assert_eq!(held(false, true), (of_output, of_output));
        assert_eq!(held(false, false).1, of_output);
    }
}

#[test]
fn inference_gives_values_back_after_their_last_reader() {
    let conv = || {
        Op::Conv1d(Conv1d {
            in_channels: 8,
            out_channels: 8,
            kernel: 3,
            stride: 1,
            padding: 1,
            dilation: 1,
            groups: 1,
            bias: true,
        })
    };
    let names: Vec<String> = (0..20).map(|i| format!("n{i}")).collect();
    let mut nodes = Vec::new();
    for i in 0..20 {
        let op = if i % 2 == 0 { conv() } else { Op::Relu };
        let from = if i == 0 { "input" } else { &names[i - 1] };
        nodes.push(node(&names[i], op, &[from]));
    }
    let checked = graph(&[8, 32], nodes, "n19").check().expect("graph");
    let params = param_set(&checked);
    let x = noise(2 * 8 * 32, 1);
    let mut executor = Executor::new(checked, &[], NormMode::Eval);
    let lane = CpuLane::new(1);
    executor
        .forward(&params, &x, 2, false, &lane)
        .expect("forward");
    // A convolution's input and output; the rectifier works in place.
    assert_eq!(executor.peak_bytes(), 2 * (2 * 8 * 32 * 4));
}

#[test]
fn an_adjoint_without_its_forward_is_refused() {
    let checked = residual().check().expect("graph");
    let params = param_set(&checked);
    let trainable = all_but_statistics(&checked);
    let mut grads: Vec<Vec<f32>> = params
        .all()
        .iter()
        .map(|p| vec![0.0; p.values.len()])
        .collect();
    let x = channels_last_f32(&input(&checked), BATCH, &checked.input);
    let mut executor = Executor::new(checked, &trainable, NormMode::Frozen);
    let lane = CpuLane::new(1);
    let e = executor
        .adjoint(&params, &x, &[0.0; 12], &mut grads, &lane)
        .expect_err("nothing was kept");
    assert_eq!(
        e.to_string(),
        "node `head`: the output gradient has 12 values, expected 0"
    );
    executor
        .forward(&params, &x, BATCH, false, &lane)
        .expect("forward");
    assert!(
        executor
            .adjoint(&params, &x, &[0.0; 12], &mut grads, &lane)
            .is_err()
    );
}

#[test]
fn a_candle_lane_computes_what_the_cpu_lane_does() {
    for graph in [residual(), recurrent()] {
        let checked = graph.check().expect("graph");
        let all = all_but_statistics(&checked);
        let (y1, g1, _) = ours(&checked, &all, NormMode::Train, &CpuLane::new(1));
        let candle = CandleLane::new(Device::Cpu, 1);
        let (y2, g2, _) = ours(&checked, &all, NormMode::Train, &candle);
        let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| f64::from(v)).collect() };
        assert_close("logits", &y2, &wide(&y1), 1e-5);
        for (i, (name, _)) in checked.params().enumerate() {
            assert_close(&name, &g2[i], &wide(&g1[i]), 1e-4);
        }
    }
}
