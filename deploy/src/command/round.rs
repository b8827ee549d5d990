//! `lamplight round`: start rounds of fine-tuning, watch them.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use lamplight_agent::source::SourceSpec;
use lamplight_proto::{
    ids::{ModelName, NodeId},
    keys,
    offer::{NormMode, Optimizer, Schedule, Trainable, Training},
    refusal::Refusal,
    wire,
};
use serde::Serialize;

use crate::{
    operator::{Connection, Operator},
    output::{self, Format},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a series of rounds, each on the release the last one made
    #[command(
        after_help = "Example:\n  lamplight round start --model post --rounds 3 --minimum 3 \
        --deadline-minutes 60 \\\n    --coordinator fleet.example.org:7443 --identity \
        ./fleet/operators/admin"
    )]
    Start(Start),
    /// List rounds
    #[command(after_help = "Example:\n  lamplight round list --coordinator \
        fleet.example.org:7443 --identity ./fleet/operators/admin")]
    List(List),
    /// Show a round and its participants
    #[command(after_help = "Example:\n  lamplight round show 3 --coordinator \
        fleet.example.org:7443 --identity ./fleet/operators/admin")]
    Show(Show),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OptimizerName {
    Sgd,
    Adamw,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScheduleName {
    Constant,
    Cosine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormModeName {
    /// Batch norms keep their running statistics (safe under label skew)
    Frozen,
    /// Batch norms follow each batch
    Train,
}

/// How nodes fine-tune in a round.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrainingArgs {
    /// Passes over a node's samples in each round
    #[arg(long, default_value_t = 1)]
    epochs: u32,
    /// Samples in a step
    #[arg(long, default_value_t = 32)]
    batch: u32,
    /// Update rule
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: OptimizerName,
    /// Step size
    #[arg(long, default_value_t = 0.01)]
    learning_rate: f32,
    /// Momentum (SGD)
    #[arg(long, default_value_t = 0.9)]
    momentum: f32,
    /// Weight decay
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f32,
    /// Global-norm gradient clipping; 0 for none
    #[arg(long, default_value_t = 1.0)]
    clip_norm: f32,
    /// Learning rate over a round's steps
    #[arg(long, value_enum, default_value = "constant")]
    schedule: ScheduleName,
    /// What batch norms do
    #[arg(long, value_enum, default_value = "frozen")]
    norm_mode: NormModeName,
    /// Seed of shuffling and augmentation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rotate every x, y, z channel triple by up to this angle, about a random axis per sample
    #[arg(long, default_value_t = 0.0)]
    rotate_deg: f32,
}

impl TrainingArgs {
    fn parse(&self) -> anyhow::Result<Training> {
        let optimizer = match self.optimizer {
            OptimizerName::Sgd => Optimizer::Sgd {
                learning_rate: self.learning_rate,
                momentum: self.momentum,
                weight_decay: self.weight_decay,
            },
            OptimizerName::Adamw => Optimizer::AdamW {
                learning_rate: self.learning_rate,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: self.weight_decay,
            },
        };
        let training = Training {
            trainable: Trainable::default(),
            epochs: self.epochs,
            batch: self.batch,
            optimizer,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            schedule: match self.schedule {
                ScheduleName::Constant => Schedule::Constant,
                ScheduleName::Cosine => Schedule::Cosine,
            },
            norm_mode: match self.norm_mode {
                NormModeName::Frozen => NormMode::Frozen,
                NormModeName::Train => NormMode::Train,
            },
            seed: self.seed,
            rotate_deg: self.rotate_deg,
        };
        // Through the same door as a message: bad settings are refused here, not on a node.
        Ok(Training::try_from(wire::Training::from(&training))?)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    connection: Connection,
    /// The model to improve
    #[arg(long)]
    model: ModelName,
    /// How many rounds
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Close a round on this many deltas; 0 for the whole cohort
    #[arg(long, default_value_t = 0)]
    target: u32,
    /// With fewer deltas at the deadline the round is abandoned
    #[arg(long, default_value_t = 1)]
    minimum: u32,
    /// How long a round may collect
    #[arg(long, default_value_t = 60)]
    deadline_minutes: u32,
    /// Only these nodes (may be repeated); all enrolled nodes when absent
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<NodeId>,
    #[command(flatten)]
    training: TrainingArgs,
    /// Scale deltas down to this L2 norm; 0 for no bound
    #[arg(long, default_value_t = 0.0)]
    delta_clip_norm: f64,
    /// A node's sample count counts at most this much
    #[arg(long, default_value_t = 1_000_000)]
    weight_cap: u64,
    /// Evaluate each release on the held-out samples of this source
    #[arg(long, value_name = "SOURCE")]
    evaluation: Option<SourceSpec>,
    /// Wait until the last round has ended, and show what came of them
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    /// Only the rounds of this task
    #[arg(long, default_value_t = 0)]
    task: u64,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The round's number
    round: u64,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// What a task asks of the fleet, beyond the training itself.
#[derive(Debug, Clone)]
pub(crate) struct TaskRequest {
    pub(crate) model: ModelName,
    pub(crate) rounds: u32,
    pub(crate) target: u32,
    pub(crate) minimum: u32,
    pub(crate) deadline: Duration,
    pub(crate) cohort: Vec<NodeId>,
    pub(crate) training: Training,
    pub(crate) delta_clip_norm: f64,
    pub(crate) weight_cap: u64,
    /// Evaluation samples, as a blob.
    pub(crate) evaluation: Option<Vec<u8>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Started {
    pub(crate) task: u64,
    pub(crate) round: u64,
    /// The task's rounds, when they were waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds: Vec<wire::RoundView>,
}

/// Uploads the evaluation samples, then starts the task; a lost answer may be asked for again.
pub(crate) async fn start(operator: &mut Operator, task: TaskRequest) -> anyhow::Result<Started> {
    let evaluation_digest = match task.evaluation {
        Some(blob) => operator.put_blob(blob.into(), None).await?.to_bytes(),
        None => Default::default(),
    };
    let request = wire::StartRoundsRequest {
        model: task.model.to_string(),
        rounds: task.rounds,
        target_deltas: task.target,
        minimum_deltas: task.minimum,
        deadline_seconds: u32::try_from(task.deadline.as_secs()).unwrap_or(u32::MAX),
        cohort: task.cohort.iter().map(ToString::to_string).collect(),
        training: Some((&task.training).into()),
        delta_clip_norm: task.delta_clip_norm,
        weight_cap: task.weight_cap,
        evaluation_digest,
        idempotency_key: keys::random::<16>()?.to_vec().into(),
        ..Default::default()
    };
    let reply = operator.calls.start_rounds(request).await?.into_inner();
    Ok(Started {
        task: reply.task,
        round: reply.round,
        rounds: Vec::new(),
    })
}

/// Whether a round has come to its end.
pub(crate) fn ended(round: &wire::RoundView) -> bool {
    matches!(round.phase.as_str(), "published" | "abandoned")
}

/// How long `--wait` waits for a coordinator that has gone away: long enough for a restart.
const AWAY: Duration = Duration::from_secs(120);

/// Waits until a task's last round has ended. A restart of the coordinator in between is waited out.
async fn wait(
    operator: &mut Operator,
    task: u64,
    rounds: u32,
) -> anyhow::Result<Vec<wire::RoundView>> {
    let bar = output::bar(rounds.into(), "rounds");
    let mut heard = Instant::now();
    loop {
        let request = wire::ListRoundsRequest { task };
        let list = match operator.calls.list_rounds(request).await {
            Ok(list) => list.into_inner(),
            // A refusal is an answer; anything else may be the network.
            Err(e) if Refusal::in_status(&e).is_none() && heard.elapsed() < AWAY => {
                bar.set_message("the coordinator does not answer; waiting for it");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(e) => return Err(e).context("waiting for the rounds"),
        };
        heard = Instant::now();
        bar.set_message("");
        if let Some(r) = list.rounds.iter().find(|r| r.phase == "abandoned") {
            anyhow::bail!("round {} was abandoned: {}", r.round, r.reason);
        }
        let done = list.rounds.iter().filter(|r| ended(r)).count() as u64;
        bar.set_position(done);
        if done >= u64::from(rounds) {
            bar.finish_and_clear();
            return Ok(list.rounds);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn accuracy(metrics: Option<&wire::Metrics>) -> String {
    metrics.map_or_else(String::new, |m| output::percent(m.accuracy))
}

fn listing(rounds: &[wire::RoundView]) -> String {
    let mut table = output::table([
        "round",
        "task",
        "model",
        "phase",
        "deltas",
        "release",
        "accuracy",
        "started (UTC)",
    ]);
    for r in rounds {
        table.add_row([
            r.round.to_string(),
            format!("{} ({}/{})", r.task, r.index, r.of),
            r.model.clone(),
            r.phase.clone(),
            format!("{}/{}", r.accepted_deltas, r.cohort_nodes),
            match r.release_version {
                0 => String::new(),
                v => v.to_string(),
            },
            accuracy(r.evaluation.as_ref()),
            output::time(r.started_unix_ms),
        ]);
    }
    table.to_string()
}

fn details(round: &wire::RoundView) -> String {
    let mut table = output::table([
        "node", "name", "state", "samples", "before", "after", "delta", "norm", "seconds",
    ]);
    for p in &round.participants {
        let state = if p.reason.is_empty() {
            p.state.clone()
        } else {
            format!("{}: {}", p.state, p.reason)
        };
        table.add_row([
            p.node_id.clone(),
            p.name.clone(),
            state,
            p.sample_count.to_string(),
            accuracy(p.before.as_ref()),
            accuracy(p.after.as_ref()),
            output::bytes(p.delta_bytes),
            format!("{:.3}", p.delta_norm),
            format!("{:.1}", p.training_seconds),
        ]);
    }
    let mut text = listing(std::slice::from_ref(round));
    if !round.reason.is_empty() {
        text = format!("{text}\nreason: {}", round.reason);
    }
    format!("{text}\n{table}")
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Start(args) => {
            let training = args.training.parse()?;
            let evaluation = match &args.evaluation {
                Some(spec) => {
                    let held_out = spec.open()?.held_out()?;
                    Some(held_out.to_bytes().context("evaluation samples")?)
                }
                None => None,
            };
            let mut operator = args.connection.open()?;
            let task = TaskRequest {
                model: args.model,
                rounds: args.rounds,
                target: args.target,
                minimum: args.minimum,
                deadline: Duration::from_secs(u64::from(args.deadline_minutes) * 60),
                cohort: args.nodes,
                training,
                delta_clip_norm: args.delta_clip_norm,
                weight_cap: args.weight_cap,
                evaluation,
            };
            let mut started = start(&mut operator, task).await?;
            if args.wait {
                started.rounds = wait(&mut operator, started.task, args.rounds).await?;
            }
            args.format.print(&started, |s| {
                let began = format!("task {} began with round {}", s.task, s.round);
                match s.rounds.as_slice() {
                    [] => began,
                    ended => format!("{began}\n{}", listing(ended)),
                }
            })
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListRoundsRequest { task: args.task };
            let reply = operator.calls.list_rounds(request).await?.into_inner();
            args.format.print(&reply.rounds, |r| listing(r))
        }
        Command::Show(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ShowRoundRequest { round: args.round };
            let round = operator.calls.show_round(request).await?.into_inner();
            args.format.print(&round, details)
        }
    }
}
