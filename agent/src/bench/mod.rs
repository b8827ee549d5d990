//! How fast this machine trains and infers, and in how much memory, beside another engine.
//!
//! ```text
//!   Plan ─┬─> ours: prepare, warm up, memory ─────┐
//!         │                                       ├─> a repeat of each in turn ─> Report
//!         └─> rival, a process of its own ────────┘
//! ```
//!
//! Both sides run the same network on as many threads, over one batch after the other, and are asked
//! for their repeats alternately, so that whatever else the machine does meets both. The rival
//! ([`Against`]) is a process of its own: it shares neither memory nor threads with what is measured,
//! and lies still while ours runs. It speaks the few lines of [`rival`].
//!
//! Reading order: here (what is timed), [`timing`], `ours`, [`process`] (what the system tells),
//! [`rival`], [`candle`], [`pytorch`], [`report`]; [`layers`] stands beside these: products alone.

pub mod candle;
mod fault;
pub mod layers;
mod ours;
pub mod process;
pub mod pytorch;
pub mod report;
pub mod rival;
pub mod timing;

use std::process::Command;

use clap::ValueEnum;
use lamplight_models::{
    graph::{Graph, Shape},
    lane::{self, CpuLane, Lane as _, LaneKind},
    model::{Model, ModelInfo},
    ops::{Cost, ParamRole},
    train::Precision,
    zoo::{Architecture, Norm},
};
use schemars::JsonSchema;
use serde::Serialize;

pub use fault::BenchError;
use ours::Ours;
use report::{Machine, Measured, Report};
use rival::Rival;
use timing::Rates;

/// Fewest repeats of which a median says something.
pub const FEWEST_REPEATS: usize = 7;

/// Most values of one batch's input: 8 GiB.
const MOST_VALUES: u64 = 1 << 31;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Whole training steps: batch, forward, loss, adjoint, update.
    Step,
    /// Inference: batch, forward.
    Infer,
}

impl Mode {
    /// As the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Infer => "infer",
        }
    }
}

/// Whom to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// candle with its own autograd, in F32; it is part of this program
    Candle,
    /// PyTorch, with its usual settings that are fastest; see --python
    #[value(name = "pytorch")]
    #[serde(rename = "pytorch")]
    PyTorch,
}

impl Against {
    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::PyTorch => "pytorch",
        }
    }
}

/// What to time, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Steps or inference.
    pub mode: Mode,
    /// The network.
    pub model: Architecture,
    /// Shape of one sample.
    pub input: Shape,
    /// Classes told apart.
    pub classes: usize,
    /// Samples in a step.
    pub batch: usize,
    /// Threads of either side.
    pub threads: usize,
    /// In which numbers ours calculates.
    pub precision: Precision,
    /// Repeats of either side.
    pub repeats: usize,
}

/// The input a network is usually timed on, and its classes.
///
/// # Shapes
/// `[channels, length]` or `[channels, height, width]`
#[must_use]
pub fn usual_input(model: Architecture) -> (&'static [usize], usize) {
    match model {
        Architecture::Tcn | Architecture::Gru => (&[6, 128], 6),
        Architecture::LeNet => (&[1, 28, 28], 10),
        Architecture::ResNet20 | Architecture::Vgg11 | Architecture::Vgg16 => (&[3, 32, 32], 10),
        Architecture::MobileNetV2 => (&[3, 96, 96], 1000),
        Architecture::ResNet18
        | Architecture::ResNet34
        | Architecture::ResNet50
        | Architecture::ResNet101
        | Architecture::ResNet152 => (&[3, 224, 224], 1000),
    }
}

impl Plan {
    /// What can be told to be wrong before anything runs. [`Precision::Auto`] is settled on the way.
    ///
    /// # Errors
    /// [`BenchError`] that is a refusal.
    pub fn checked(mut self) -> Result<Self, BenchError> {
        let lane = CpuLane::new(1);
        self.precision = self.precision.settled(&lane);
        if self.precision == Precision::Bf16 && !lane.host().isa().multiplies_bf16() {
            tracing::warn!("this processor has no instructions for bf16: ours works with f32 ones");
        }
        self.graph()?;
        let values = self.input.iter().map(|&d| d as u64);
        let values = values.fold(self.batch as u64, u64::saturating_mul);
        if values > MOST_VALUES {
            return Err(BenchError::TooLarge { values });
        }
        Ok(self)
    }

    /// The network. Windows get group norms of 8 groups, which is what the zoo's network for them has
    /// unless told otherwise; images get batch norms.
    ///
    /// # Errors
    /// [`BenchError::Network`] when it does not take the input.
    pub fn graph(&self) -> Result<Graph, BenchError> {
        let norm = match self.input.len() {
            2 => Norm::Group { groups: 8 },
            _ => Norm::Batch,
        };
        let graph = self.model.graph(&self.input, self.classes, norm);
        graph.map_err(|says| BenchError::Network {
            says,
            usual: shown(usual_input(self.model).0),
        })
    }

    /// The network with fresh parameters.
    ///
    /// # Errors
    /// [`BenchError`] as [`Plan::graph`] has it.
    pub fn model(&self) -> Result<Model, BenchError> {
        let channels = self.input[0];
        let info = ModelInfo {
            architecture: self.model.name().to_owned(),
            input_mean: vec![0.0; channels],
            input_std: vec![1.0; channels],
            classes: (0..self.classes).map(|c| c.to_string()).collect(),
            ..ModelInfo::default()
        };
        Ok(Model::init(self.graph()?, info, 1)?)
    }

    /// GFLOP of one step, or of one batch's inference.
    ///
    /// # Errors
    /// [`BenchError`] as [`Plan::graph`] has it.
    pub fn gflop(&self) -> Result<f64, BenchError> {
        let graph = self
            .graph()?
            .check()
            .map_err(lamplight_models::train::TrainError::from)?;
        let mut cost = Cost::default();
        for (node, sources) in graph.nodes.iter().zip(&graph.sources) {
            let shapes: Vec<&Shape> = sources.iter().map(|&s| graph.shape(s)).collect();
            let node_cost = node.op.cost(&shapes).map_err(|e| {
                // A graph that was checked has passed the same question.
                BenchError::Cost(format!("{}: {e}", node.name))
            })?;
            cost = cost + node_cost;
        }
        let flop = match self.mode {
            Mode::Step => (cost + Cost::of_softmax_cross_entropy(self.classes)).step_flop(),
            Mode::Infer => cost.forward_flop,
        };
        Ok(flop as f64 * self.batch as f64 / 1e9)
    }
}

/// Values that an optimizer moves.
#[must_use]
pub fn moving_values(graph: &Graph) -> u64 {
    let params = graph.nodes.iter().flat_map(|n| n.op.params());
    params
        .filter(|p| p.role != ParamRole::Statistic)
        .map(|p| p.shape.iter().product::<usize>() as u64)
        .sum()
}

/// A shape as the command line has it.
#[must_use]
pub fn shown(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    sizes.join("x")
}

/// Times a plan, in turn with a rival if there is one; `rival` starts its process.
///
/// # Errors
/// [`BenchError`]: a plan that cannot be run is refused, a rival that does not work is a failure.
pub fn run(plan: Plan, rival: Option<(Against, Command)>) -> Result<Report, BenchError> {
    let plan = plan.checked()?;
    if let Some((Against::Candle, _)) = rival {
        candle::check(&plan)?;
    }
    let parameters = moving_values(&plan.graph()?);
    let lane = lane::open(LaneKind::Cpu, plan.threads)?;
    let mut ours = Ours::prepare(&plan, &lane)?;
    // Before anybody else is there.
    let memory = ours.warm_up()?;
    let steps = timing::steps_of_a_repeat(&mut ours)?;
    let mut rival = rival
        .map(|(who, command)| {
            tracing::info!("starting {}", who.name());
            let mut rival = Rival::start(who, command)?;
            rival.check(plan.threads, parameters)?;
            let steps = timing::steps_of_a_repeat(&mut rival)?;
            Ok::<_, BenchError>((rival, steps))
        })
        .transpose()?;

    let (mut own, mut other) = (Rates::default(), Rates::default());
    for repeat in 1..=plan.repeats {
        let rate = own.time(&mut ours, steps, plan.batch)?;
        let also = match &mut rival {
            None => String::new(),
            Some((rival, steps)) => {
                let rate = other.time(rival, *steps, plan.batch)?;
                format!(", {} {rate:.1}", rival.name())
            }
        };
        tracing::info!(
            "repeat {repeat} of {}: {rate:.1} images/s{also}",
            plan.repeats
        );
    }
    let gflop = plan.gflop()?;
    Ok(Report::new(
        &plan,
        Measured {
            rates: own,
            steps_per_repeat: steps,
            memory,
            parameters,
            gflop,
        },
        rival.map(|(rival, _)| (rival.into_ready(), other)),
        Machine::here(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(model: Architecture, mode: Mode) -> Plan {
        let (input, classes) = usual_input(model);
        Plan {
            mode,
            model,
            input: input.to_vec(),
            classes,
            batch: 32,
            threads: 1,
            precision: Precision::Auto,
            repeats: FEWEST_REPEATS,
        }
    }

    #[test]
    fn every_network_takes_its_usual_input() {
        for model in Architecture::ALL {
            let plan = plan(model, Mode::Step).checked().expect("a plan");
            assert_ne!(plan.precision, Precision::Auto);
            let step = plan.gflop().expect("cost");
            let infer = Plan {
                mode: Mode::Infer,
                ..plan
            };
            let infer = infer.gflop().expect("cost");
            // Both gradients cost about as much as the forward, but the first layer wants one only.
            assert!(
                infer > 0.0 && step > 2.0 * infer && step < 4.0 * infer,
                "{model}"
            );
        }
    }

    #[test]
    fn a_step_of_resnet20_has_its_known_cost_and_parameters() {
        let plan = plan(Architecture::ResNet20, Mode::Step);
        assert_eq!(moving_values(&plan.graph().expect("graph")), 272_474);
        let per_image = plan.gflop().expect("cost") / 32.0;
        assert!((0.24..0.26).contains(&per_image), "{per_image}");
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_remedy() {
        let refused = |plan: Plan, says: &str| {
            let e = plan.checked().expect_err("refused");
            assert!(e.is_refusal() && e.to_string().contains(says), "{e}");
        };
        let resnet = || plan(Architecture::ResNet20, Mode::Step);
        refused(
            Plan {
                input: vec![6, 128],
                ..resnet()
            },
            "e.g. --input 3x32x32",
        );
        refused(
            Plan {
                input: vec![1, 8, 8],
                ..plan(Architecture::LeNet, Mode::Infer)
            },
            "--input 1x28x28",
        );
        refused(
            Plan {
                batch: 1 << 20,
                ..resnet()
            },
            "smaller --batch",
        );
        for good in [
            Plan {
                batch: 1,
                mode: Mode::Infer,
                ..resnet()
            },
            Plan {
                batch: 1,
                ..plan(Architecture::Tcn, Mode::Step)
            },
        ] {
            good.checked().expect("one sample is enough here");
        }
    }
}
