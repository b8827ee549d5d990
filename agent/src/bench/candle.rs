//! candle as the rival: the same network written with candle's tensors and candle-nn's layers in F32,
//! differentiated by candle's autograd, as a program of candle's users would have it.
//!
//! It runs in a process of its own, which `bench --as-rival` makes of this very program: candle takes
//! its number of threads from the environment (`RAYON_NUM_THREADS`), and nothing of it may lie in the
//! memory of what it is compared with.
//!
//! What candle refuses to train, or has wrong gradients of altogether, is refused here ([`check`]). Its
//! max pooling is used as it is, though the gradient it passes on is too small by the pool's area: that
//! changes what is learned (of LeNet and VGG), not how long it takes.

mod net;

use std::{
    any::TypeId,
    io::{BufRead, Write},
    process::Command,
    time::Instant,
};

use candle_core::{Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use lamplight_models::{graph::Checked, train::TrainError};

use super::{
    Against, BenchError, Mode, Plan, moving_values,
    ours::noise,
    process::Process,
    rival::{self, Ready},
    timing::Side,
};
use net::Net;

/// The version built in; a test compares it with the lock file.
const VERSION: &str = "0.11.1";

/// Steps before anything is timed.
const WARM_UP: usize = 3;

/// Step length and share of the old velocity, as ours has them.
const LEARNING_RATE: f64 = 0.01;
const MOMENTUM: f64 = 0.9;

/// Side of the matrices whose product is timed.
const GEMM: usize = 1024;

/// How to start candle's side: this process's command line once more, with a word behind it.
///
/// # Errors
/// [`BenchError::Start`] when this program does not know where it lies.
pub fn command(plan: &Plan) -> Result<Command, BenchError> {
    let program = std::env::current_exe().map_err(|why| BenchError::Start {
        rival: Against::Candle.name(),
        program: "this program".to_owned(),
        why,
    })?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .arg("--as-rival")
        // What candle and the pool below it go by.
        .env("RAYON_NUM_THREADS", plan.threads.to_string())
        .env_remove("CANDLE_NUM_THREADS");
    Ok(command)
}

/// Refuses what candle does not do, or does wrongly.
///
/// # Errors
/// [`BenchError::Cannot`] with the reason.
pub fn check(plan: &Plan) -> Result<(), BenchError> {
    let graph = plan.graph()?.check().map_err(TrainError::from)?;
    match net::lacks(&graph, plan.mode, plan.batch) {
        None => Ok(()),
        Some(why) => Err(BenchError::Cannot {
            rival: Against::Candle.name(),
            what: match plan.mode {
                Mode::Step => "train",
                Mode::Infer => "run",
            },
            model: plan.model.name(),
            why,
            remedy: match plan.mode {
                Mode::Step => "time `infer`, or give --against pytorch",
                Mode::Infer => "give --against pytorch",
            },
        }),
    }
}

/// Serves a bench as candle's side of a plan, until the input ends.
///
/// # Errors
/// [`BenchError`]; the bench is told, too.
pub fn serve(plan: &Plan, input: impl BufRead, output: &mut impl Write) -> Result<(), BenchError> {
    rival::serve(prepare(plan), input, output)
}

fn prepare(plan: &Plan) -> Result<(Ready, Box<dyn Side>), BenchError> {
    check(plan)?;
    let own = Process::own();
    let start = own.resident();
    let mut side = Candle::new(plan)?;
    let before = own.resident();
    own.reset_peak();
    side.seconds(WARM_UP)?;
    let peak = own.peak();
    let over = |size: Option<u64>| Some(peak?.saturating_sub(size?));
    let ready = Ready {
        ready: true,
        name: Against::Candle.name().to_owned(),
        version: Some(VERSION.to_owned()),
        threads: candle_core::utils::get_num_threads() as u64,
        precision: "f32".to_owned(),
        channels_last: None,
        parameters: moving_values(&plan.graph()?),
        peak_bytes: over(before),
        peak_with_model_bytes: over(start),
        gemm_gflop_per_s: Some(gemm_gflop_per_s()?),
        gemm_x86_v4: Some(has_x86_v4()),
    };
    Ok((ready, Box::new(side)))
}

/// A network in candle with its one batch, which lies ready.
struct Candle {
    net: Net,
    x: Tensor,
    labels: Tensor,
    /// What the optimizer moves, each with its velocity; empty for inference.
    moving: Vec<(Var, Option<Tensor>)>,
    mode: Mode,
}

impl Candle {
    fn new(plan: &Plan) -> Result<Self, BenchError> {
        let model = plan.model()?;
        let graph: Checked = model.graph.check().map_err(TrainError::from)?;
        let (net, moving) = Net::new(graph, &model.params, plan.mode)?;
        let mut shape = vec![plan.batch];
        shape.extend_from_slice(&plan.input);
        let values = noise(shape.iter().product());
        let labels = (0..plan.batch).map(|i| (i % plan.classes) as u32);
        Ok(Self {
            net,
            x: Tensor::from_vec(values, shape, &Device::Cpu)?,
            labels: Tensor::from_iter(labels, &Device::Cpu)?,
            moving: moving.into_iter().map(|var| (var, None)).collect(),
            mode: plan.mode,
        })
    }

    /// One step, and its loss. candle-nn's own optimizer has no momentum, so here it is as usual:
    /// `v = momentum v + g`, `p -= rate v`.
    fn train(&mut self) -> candle_core::Result<Tensor> {
        let logits = self.net.forward(&self.x, true)?;
        let loss = cross_entropy(&logits, &self.labels)?;
        let grads = loss.backward()?;
        for (var, velocity) in &mut self.moving {
            let Some(grad) = grads.get(var.as_tensor()) else {
                continue;
            };
            let next = match velocity.take() {
                None => grad.clone(),
                Some(v) => ((v * MOMENTUM)? + grad)?,
            };
            var.set(&var.sub(&(&next * LEARNING_RATE)?)?)?;
            *velocity = Some(next);
        }
        Ok(loss)
    }
}

impl Side for Candle {
    fn seconds(&mut self, steps: usize) -> Result<f64, BenchError> {
        let begin = Instant::now();
        for _ in 0..steps {
            match self.mode {
                Mode::Step => self.train()?,
                Mode::Infer => self.net.forward(&self.x, false)?,
            };
        }
        Ok(begin.elapsed().as_secs_f64())
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Process::own().cpu_seconds()
    }
}

/// Rate of candle's F32 matrix product: the median of some rounds.
fn gemm_gflop_per_s() -> Result<f64, BenchError> {
    const ROUNDS: usize = 7;
    let a = Tensor::rand(-1_f32, 1.0, (GEMM, GEMM), &Device::Cpu)?;
    let b = Tensor::rand(-1_f32, 1.0, (GEMM, GEMM), &Device::Cpu)?;
    a.matmul(&b)?;
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        a.matmul(&b)?;
        let gflop = 2.0 * (GEMM as f64).powi(3) / 1e9;
        rates.push(gflop / begin.elapsed().as_secs_f64().max(1e-9));
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}

/// Stands where gemm-common has no such type.
struct Avx512f;

/// Whether the crate gemm was built with its feature `x86-v4`, without which its products know no
/// AVX-512.
///
/// Features of a dependency cannot be asked for, but this one brings a type: inside the function the
/// import comes before the type of that name outside, if the import has it.
fn has_x86_v4() -> bool {
    #[cfg(target_arch = "x86_64")]
    #[allow(unused_imports, reason = "without the feature nothing of it is used")]
    use gemm_common::simd::*;
    TypeId::of::<Avx512f>() != TypeId::of::<self::Absent>()
}

/// The type above under a name that no import hides.
type Absent = Avx512f;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::usual_input;
    use lamplight_models::{
        lane::{self, LaneKind},
        ops::NormMode,
        samples::Samples,
        train::{
            Augment, OptimizerConfig, Precision, Schedule, TrainConfig, Trainable, Trainer, predict,
        },
        zoo::Architecture,
    };

    fn plan(model: Architecture, mode: Mode, input: &[usize], batch: usize) -> Plan {
        Plan {
            mode,
            model,
            input: input.to_vec(),
            classes: 4,
            batch,
            threads: 1,
            precision: Precision::F32,
            repeats: 7,
        }
    }

    /// The samples that candle's one batch has.
    fn samples(plan: &Plan) -> Samples {
        Samples {
            shape: plan.input.clone(),
            x: noise(plan.batch * plan.input.iter().product::<usize>()),
            y: (0..plan.batch).map(|i| (i % plan.classes) as u32).collect(),
            classes: (0..plan.classes).map(|c| c.to_string()).collect(),
        }
    }

    /// Losses of ours over the very batch that candle has.
    fn our_losses(plan: &Plan, steps: usize) -> Vec<f64> {
        let config = TrainConfig {
            epochs: steps,
            batch: plan.batch,
            optimizer: OptimizerConfig::Sgd {
                learning_rate: LEARNING_RATE as f32,
                momentum: MOMENTUM as f32,
                weight_decay: 0.0,
            },
            clip_norm: None,
            schedule: Schedule::Constant,
            trainable: Trainable::All,
            norm_mode: NormMode::Train,
            augment: Augment::default(),
            precision: Precision::F32,
            seed: 1,
        };
        let lane = lane::open(LaneKind::Cpu, 1).expect("lane");
        let mut run = Trainer::new(plan.model().expect("model"), config, lane).expect("trainer");
        let samples = samples(plan);
        let mut go = |_| std::ops::ControlFlow::Continue(());
        (0..steps)
            .map(|_| run.epoch(&samples, &mut go).expect("epoch").loss)
            .collect()
    }

    #[test]
    fn candle_trains_the_same_network_to_the_same_losses() {
        for (model, input, steps) in [
            (Architecture::ResNet20, &[3, 8, 8][..], 3),
            // 52 norms over a few values each make of rounding, after one update, another loss.
            (Architecture::MobileNetV2, &[3, 32, 32], 1),
            // After one update its max pooling shows, see below.
            (Architecture::LeNet, &[1, 16, 16], 1),
        ] {
            let plan = plan(model, Mode::Step, input, 4);
            check(&plan).expect("candle can");
            let mut candle = Candle::new(&plan).expect("made");
            for (step, want) in our_losses(&plan, steps).into_iter().enumerate() {
                let got = candle
                    .train()
                    .expect("step")
                    .to_scalar::<f32>()
                    .expect("loss");
                let near = 1e-3 * want.max(1.0);
                assert!(
                    (f64::from(got) - want).abs() < near,
                    "{model} {step}: {got}, {want}"
                );
            }
            assert!(candle.moving.iter().all(|(_, v)| v.is_some()), "{model}");
        }
    }

    /// The day this fails, LeNet's further losses can be compared as well.
    #[test]
    fn max_pooling_of_candle_passes_on_a_quarter_of_the_gradient() {
        let x = Tensor::new(&[[[[1_f32, 2.0], [3.0, 4.0]]]], &Device::Cpu).expect("x");
        let x = Var::from_tensor(&x).expect("a variable");
        let y = x.max_pool2d(2).expect("pooled");
        let grads = y.sum_all().and_then(|y| y.backward()).expect("autograd");
        let grad = grads.get(x.as_tensor()).expect("a gradient");
        let grad: Vec<f32> = grad
            .flatten_all()
            .and_then(|g| g.to_vec1())
            .expect("values");
        assert_eq!(grad, [0.0, 0.0, 0.0, 0.25]);
    }

    #[test]
    fn candle_infers_the_same_logits_of_images_and_windows() {
        for (model, input) in [
            (Architecture::ResNet18, &[3, 32, 32][..]),
            (Architecture::Tcn, &[3, 32]),
            (Architecture::Vgg11, &[3, 32, 32]),
        ] {
            let plan = plan(model, Mode::Infer, input, 2);
            check(&plan).expect("candle can");
            let candle = Candle::new(&plan).expect("made");
            let got = candle.net.forward(&candle.x, false).expect("forward");
            let got: Vec<f32> = got.flatten_all().and_then(|t| t.to_vec1()).expect("logits");
            let lane = lane::open(LaneKind::Cpu, 1).expect("lane");
            let model = plan.model().expect("model");
            let want = predict(&model, &samples(&plan), &*lane).expect("predicted");
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-3 * largest, "{}: {g}, {w}", plan.model);
            }
            assert!(candle.moving.is_empty());
        }
    }

    #[test]
    fn what_candle_cannot_train_is_refused_with_the_reason() {
        for (model, batch, says) in [
            (Architecture::ResNet18, 2, "max pooling"),
            (Architecture::Tcn, 2, "1-D convolutions"),
        ] {
            let (input, _) = usual_input(model);
            let e = check(&plan(model, Mode::Step, input, batch)).expect_err("refused");
            assert!(e.is_refusal() && e.to_string().contains(says), "{e}");
            check(&plan(model, Mode::Infer, input, batch)).expect("inference works");
        }
        check(&plan(Architecture::Tcn, Mode::Step, &[6, 128], 1)).expect("one window works");
    }

    #[test]
    fn a_bench_is_served() {
        let plan = plan(Architecture::LeNet, Mode::Step, &[1, 16, 16], 2);
        let mut out = Vec::new();
        serve(&plan, &b"run 2\n"[..], &mut out).expect("served");
        let said = String::from_utf8(out).expect("text");
        let mut lines = said.lines();
        let ready: Ready = serde_json::from_str(lines.next().expect("ready")).expect("JSON");
        assert_eq!(
            ready.parameters,
            moving_values(&plan.graph().expect("graph"))
        );
        assert!(ready.gemm_gflop_per_s.expect("a rate") > 0.0);
        assert!(
            lines
                .next()
                .expect("an answer")
                .starts_with("{\"steps\":2,")
        );
    }

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(lock).expect("the workspace's lock file");
        let entry = format!("name = \"candle-core\"\nversion = \"{VERSION}\"\n");
        assert!(lock.contains(&entry));
    }
}
