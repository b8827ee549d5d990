//! The loss, the norms, the recurrent layer and the optimizers against candle-nn, which was written by other people; the
//! loss's gradient against central finite differences too.

mod oracle;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{GRUConfig, Module as _, Optimizer as _, RNN as _, VarBuilder};
use lamplight_models::lane::CpuLane;
use lamplight_models::ops::{
    BatchNorm, Forward, GroupNorm, Gru, GruOutput, NormMode, Op, Operand, ParamRole, Saved,
    Scratch, softmax_cross_entropy,
};
use lamplight_models::train::{Optimizer, OptimizerConfig};
use oracle::{assert_close, channels_last, channels_last_f32, leaf, noise};

const BATCH: usize = 3;

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all()
        .and_then(|t| t.to_vec1())
        .expect("F64 values")
}

fn gradient_of_loss(logits: &[f32], labels: &[u32], classes: usize) -> (f64, Vec<f32>) {
    let mut grad = vec![f32::NAN; logits.len()];
    let loss = softmax_cross_entropy(logits, labels, classes, Some(&mut grad)).expect("loss");
    (loss, grad)
}

#[test]
fn the_loss_agrees_with_autograd_and_differences() {
    for (labels, classes) in [
        (vec![0], 1),
        (vec![1], 2),
        (vec![0, 2, 1, 2], 3),
        (vec![5; 7], 6),
        ((0..32).map(|i| i % 10).collect(), 10),
    ] {
        let n = labels.len() * classes;
        let logits: Vec<f32> = noise(n, classes as u64).iter().map(|v| 6.0 * v).collect();
        let (loss, grad) = gradient_of_loss(&logits, &labels, classes);

        let z = leaf(&logits, &[labels.len(), classes]);
        let target = Tensor::from_slice(&labels, labels.len(), &Device::Cpu).expect("labels");
        let want = candle_nn::loss::cross_entropy(&z, &target).expect("oracle");
        let value = want.to_scalar::<f64>().expect("a number");
        assert!((loss - value).abs() < 1e-6, "{loss}, candle-nn has {value}");
        let autograd = want.backward().expect("autograd");
        let want = numbers(autograd.get(&z).expect("gradient"));
        assert_close("gradient of the logits", &grad, &want, 1e-6);

        for i in 0..n {
            let at = |sign: f32| {
                let mut moved = logits.clone();
                moved[i] += sign * 0.01;
                let loss = softmax_cross_entropy(&moved, &labels, classes, None).expect("loss");
                (f64::from(moved[i]), loss)
            };
            let ((x1, up), (x0, down)) = (at(1.0), at(-1.0));
            let want = (up - down) / (x1 - x0);
            assert!(
                (want - f64::from(grad[i])).abs() < 2e-5,
                "logit {i}: adjoint {}, difference {want}",
                grad[i]
            );
        }
    }
}

/// Runs an operator's forward in training mode over channels-last input.
fn run(op: &Op, shape: &[usize], x: &[f32], params: &[&[f32]]) -> (Vec<f32>, Saved) {
    let out = op.output_shape(&[&shape.to_vec()]).expect("a valid shape");
    let mut output = vec![f32::NAN; BATCH * out.iter().product::<usize>()];
    let mut saved = Saved::default();
    op.forward(Forward {
        batch: BATCH,
        inputs: &[Operand { shape, data: x }],
        params,
        mode: NormMode::Train,
        keep: true,
        output: &mut output,
        saved: &mut saved,
        scratch: &mut Scratch::default(),
        lane: &CpuLane::new(1),
    })
    .expect("forward");
    (output, saved)
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    leaf(values, shape).as_tensor().clone()
}

#[test]
fn batch_norm_and_its_running_statistics_agree() {
    let (shape, eps, momentum) = ([4, 5, 3], 1e-3_f32, 0.2_f32);
    let op = Op::BatchNorm(BatchNorm {
        channels: 4,
        eps,
        momentum,
    });
    let x = noise(BATCH * 60, 1);
    let spread: Vec<f32> = noise(4, 3).iter().map(|v| 1.2 + v).collect();
    let (weight, bias, mean) = (noise(4, 2), noise(4, 4), noise(4, 5));
    let params: [&[f32]; 4] = [&weight, &bias, &mean, &spread];

    let [w, b, m, v] = params.map(|p| tensor(p, &[4]));
    let theirs =
        candle_nn::BatchNorm::new_with_momentum(4, m, v, w, b, f64::from(eps), f64::from(momentum))
            .expect("batch norm");
    let want = theirs
        .forward_train(&tensor(&x, &[BATCH, 4, 5, 3]))
        .expect("oracle");

    let x = channels_last_f32(&x, BATCH, &shape);
    let (output, saved) = run(&op, &shape, &x, &params);
    assert_close("output", &output, &channels_last(&want), 1e-5);
    let next = op.next_statistics(BATCH, &shape, &params, &saved);
    let places: Vec<usize> = next.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [2, 3], "mean and variance in the parameter list");
    let running = [theirs.running_mean(), theirs.running_var()];
    for ((place, got), want) in next.iter().zip(running) {
        assert_close(&format!("statistic {place}"), got, &numbers(want), 1e-5);
    }
}

#[test]
fn group_norm_agrees() {
    let (shape, eps) = ([6, 7], 1e-3_f32);
    for groups in [1, 3, 6] {
        let op = Op::GroupNorm(GroupNorm {
            channels: 6,
            groups,
            eps,
        });
        let (x, weight, bias) = (noise(BATCH * 42, 1), noise(6, 2), noise(6, 3));
        let (w, b) = (tensor(&weight, &[6]), tensor(&bias, &[6]));
        let want = candle_nn::GroupNorm::new(w, b, 6, groups, f64::from(eps))
            .and_then(|n| n.forward(&tensor(&x, &[BATCH, 6, 7])))
            .expect("oracle");
        let x = channels_last_f32(&x, BATCH, &shape);
        let (output, _) = run(&op, &shape, &x, &[&weight, &bias]);
        assert_close("output", &output, &channels_last(&want), 1e-5);
    }
}

/// candle-nn takes its parameters by PyTorch's names.
#[test]
fn a_recurrent_layer_agrees() {
    let (input, hidden, length) = (5, 7, 6);
    let x = noise(BATCH * input * length, 1);
    let op = |output| {
        Op::Gru(Gru {
            input,
            hidden,
            output,
        })
    };
    let specs = op(GruOutput::Last).params();
    let owned: Vec<Vec<f32>> = (2..)
        .zip(&specs)
        .map(|(salt, p)| noise(p.shape.iter().product(), salt))
        .collect();
    let named = specs.iter().zip(&owned);
    let named: HashMap<String, Tensor> = named
        .map(|(p, v)| (format!("{}_l0", p.suffix), tensor(v, &p.shape)))
        .collect();
    let builder = VarBuilder::from_tensors(named, DType::F64, &Device::Cpu);
    let theirs = candle_nn::gru(input, hidden, GRUConfig::default(), builder).expect("layer");
    // Theirs takes windows as `[batch, time, channels]`, ours the same numbers.
    let states = theirs
        .seq(&tensor(&x, &[BATCH, length, input]))
        .expect("oracle");
    let states: Vec<Tensor> = states.iter().map(|s| s.h().clone()).collect();

    let params: Vec<&[f32]> = owned.iter().map(Vec::as_slice).collect();
    let shape = [input, length];
    let (got, _) = run(&op(GruOutput::Sequence), &shape, &x, &params);
    let want = Tensor::stack(&states, 1).expect("a sequence");
    assert_close("sequence", &got, &numbers(&want), 1e-5);
    let (got, _) = run(&op(GruOutput::Last), &shape, &x, &params);
    assert_close("last", &got, &numbers(&states[length - 1]), 1e-5);
}

/// Steps both optimizers over the same changing gradients and compares every position on the way.
fn walk_together(
    config: OptimizerConfig,
    mut theirs: impl candle_nn::Optimizer,
    var: &Var,
    start: &[f32],
) {
    let mut ours = Optimizer::new(config, &[start.len()]);
    let mut p = start.to_vec();
    for step in 0..20 {
        let g = noise(start.len(), 100 + step);
        // The gradient of sum(p g) is g.
        let slope = tensor(&g, &[g.len()]);
        let loss = var.mul(&slope).and_then(|l| l.sum_all()).expect("loss");
        theirs.backward_step(&loss).expect("their step");
        ours.begin_step();
        ours.update(0, ParamRole::Weight, &mut p, &g, 1.0);
        assert_close(&format!("after step {step}"), &p, &numbers(var), 5e-6);
    }
    assert_ne!(p, start, "nothing moved");
}

#[test]
fn adamw_takes_the_steps_of_candle_nn() {
    let start = noise(37, 9);
    let var = leaf(&start, &[37]);
    let config = OptimizerConfig::AdamW {
        learning_rate: 0.03,
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-6,
        weight_decay: 0.1,
    };
    // The same settings, rounded to F32 as ours are.
    let exact = |v: f32| f64::from(v);
    let params = candle_nn::ParamsAdamW {
        lr: exact(0.03),
        beta1: exact(0.8),
        beta2: exact(0.95),
        eps: exact(1e-6),
        weight_decay: exact(0.1),
    };
    let theirs = candle_nn::AdamW::new(vec![var.clone()], params).expect("optimizer");
    walk_together(config, theirs, &var, &start);
}

#[test]
fn plain_descent_takes_the_steps_of_candle_nn() {
    let start = noise(37, 9);
    let var = leaf(&start, &[37]);
    let config = OptimizerConfig::Sgd {
        learning_rate: 0.1,
        momentum: 0.0,
        weight_decay: 0.0,
    };
    let theirs = candle_nn::SGD::new(vec![var.clone()], f64::from(0.1_f32)).expect("optimizer");
    walk_together(config, theirs, &var, &start);
    assert_eq!(var.dtype(), DType::F64);
}
