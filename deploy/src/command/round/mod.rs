//! `lamplight round`: start rounds of fine-tuning, watch them.

mod show;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use lamplight_agent::source::SourceSpec;
use lamplight_proto::{
    budget::Budget,
    ids::{ModelName, NodeId},
    offer::{Codec, NormMode, Optimizer, Schedule, Trainable, Training},
    refusal::Refusal,
    tag::{TagFilter, Wanted},
    wire,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    operator::{Connection, Operator},
    output::{self, Format, OrHint as _, Refused, fault},
    task::{self, Evaluation, Series, TaskRequest},
    view,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a series of rounds, each on the release the last one made
    #[command(after_help = "Examples:\n  lamplight task example > task.toml\n  \
        lamplight round start --task task.toml --wait\n  \
        lamplight round start --model post --rounds 3 --minimum 3 --deadline-minutes 60")]
    Start(Box<Start>),
    /// List rounds
    #[command(after_help = "Example:\n  lamplight round list")]
    List(List),
    /// Show a round and its participants
    #[command(after_help = "Example:\n  lamplight round show 3")]
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
    /// Which parameters move, and so what a delta holds: all, head, bias or norm
    #[arg(long, default_value_t = Trainable::All)]
    trainable: Trainable,
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
            trainable: self.trainable,
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
    /// A task file (see `lamplight task example`), or - for standard input; no other setting beside it
    #[arg(long, value_name = "FILE", required_unless_present = "model")]
    task: Option<PathBuf>,
    #[command(flatten)]
    short: ShortTask,
    /// Wait until the last round has ended, and show what came of them
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    format: Format,
}

/// A task in flags, for trying things out.
#[derive(Debug, clap::Args)]
#[group(id = "short", conflicts_with = "task", multiple = true)]
struct ShortTask {
    /// The model to improve
    #[arg(long)]
    model: Option<ModelName>,
    /// How many rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
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
    /// Only nodes with this tag (may be repeated: every key must match), e.g. site=chicago
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Wanted>,
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
}

impl ShortTask {
    fn request(self, model: ModelName) -> anyhow::Result<TaskRequest> {
        Ok(TaskRequest {
            name: None,
            model,
            series: Series {
                rounds: self.rounds,
                every: None,
                until: None,
                target: self.target,
                minimum: self.minimum,
                deadline: Duration::from_secs(u64::from(self.deadline_minutes) * 60),
            },
            nodes: self.nodes,
            tags: TagFilter::new(self.tags)?,
            training: self.training.parse()?,
            budget: Budget::default(),
            codec: Codec::F32,
            delta_clip_norm: (self.delta_clip_norm != 0.0).then_some(self.delta_clip_norm),
            weight_cap: self.weight_cap,
            evaluation: self.evaluation.map_or(Evaluation::None, Evaluation::Source),
        })
    }
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

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Started {
    pub(crate) task: u64,
    pub(crate) round: u64,
    /// The task's rounds, when they were waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds: Vec<view::Round>,
}

/// Whether a round has come to its end.
pub(crate) fn ended(round: &wire::RoundView) -> bool {
    matches!(round.phase.as_str(), "published" | "abandoned")
}

/// How long `--wait` waits for a coordinator that has gone away: long enough for a restart.
const AWAY: Duration = Duration::from_secs(120);

/// What is asked while waiting: a task's rounds, and how it stands; `None` from a coordinator of 0.1,
/// which cannot say.
async fn ask(
    operator: &mut Operator,
    task: u64,
) -> Result<(Vec<wire::RoundView>, Option<wire::TaskView>), tonic::Status> {
    // The task first: if it has ended, the rounds that follow are all there will be.
    let tasks = match operator.calls.list_tasks(wire::ListTasksRequest {}).await {
        Ok(tasks) => tasks.into_inner().tasks,
        Err(e) if e.code() == tonic::Code::Unimplemented => Vec::new(),
        Err(e) => return Err(e),
    };
    let request = wire::ListRoundsRequest { task };
    let rounds = operator
        .calls
        .list_rounds(request)
        .await?
        .into_inner()
        .rounds;
    Ok((rounds, tasks.into_iter().find(|t| t.task == task)))
}

/// Waits until a task has ended. A restart of the coordinator in between is waited out.
async fn wait(
    operator: &mut Operator,
    task: u64,
    series: &Series,
) -> anyhow::Result<Vec<wire::RoundView>> {
    let bar = output::bar(series.rounds.into(), "rounds");
    let mut heard = Instant::now();
    loop {
        let (rounds, view) = match ask(operator, task).await {
            Ok(answer) => answer,
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
        // A task that recurs goes on after a round that came to nothing.
        let abandoned = rounds.iter().find(|r| r.phase == "abandoned");
        if let Some(r) = abandoned.filter(|_| series.every.is_none()) {
            let what = format!("round {} was abandoned: {}", r.round, r.reason);
            return Err(fault(
                what,
                format!("who did what: lamplight round show {}", r.round),
            ));
        }
        let done = rounds.iter().filter(|r| ended(r)).count() as u64;
        bar.set_position(done);
        let has_ended = match view.as_ref().map(|view| view.state.as_str()) {
            Some("stopped") => {
                let reason = view.map(|view| view.reason).unwrap_or_default();
                let what = Refused(format!("task {task} was stopped: {reason}"));
                return Err(what)
                    .hint(|| format!("its rounds: lamplight round list --task {task}"));
            }
            Some(state) => state == "done",
            None => done >= u64::from(series.rounds),
        };
        if has_ended {
            bar.finish_and_clear();
            return Ok(rounds);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Start(args) => {
            let args = *args;
            let (task, short) = (args.task, args.short);
            let task = match (task, short.model.clone()) {
                (Some(path), _) => task::file::read(&path)?,
                (None, Some(model)) => short.request(model)?,
                (None, None) => {
                    return Err(fault(
                        "nothing is named to start",
                        "give --task FILE or --model NAME",
                    ));
                }
            };
            let series = task.series.clone();
            if series.rounds == 0 && series.until.is_none() && args.wait {
                let remedy = "leave out --wait, or set rounds.count or rounds.until in the task";
                return Err(fault("the task has no last round to wait for", remedy));
            }
            let mut operator = args.connection.open()?;
            let reply = task::start(&mut operator, task).await?;
            let mut started = Started {
                task: reply.task,
                round: reply.round,
                rounds: Vec::new(),
            };
            if args.wait {
                started.rounds = view::all(wait(&mut operator, started.task, &series).await?);
            }
            args.format.print(&started, |s| {
                let began = format!("task {} began with round {}", s.task, s.round);
                match s.rounds.as_slice() {
                    [] => began,
                    ended => format!("{began}\n{}", show::listing(ended, args.format.is_wide())),
                }
            })
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListRoundsRequest { task: args.task };
            let reply = operator.calls.list_rounds(request).await?.into_inner();
            let rounds: Vec<view::Round> = view::all(reply.rounds);
            (args.format).print(&rounds, |r| show::listing(r, args.format.is_wide()))
        }
        Command::Show(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ShowRoundRequest { round: args.round };
            let round = (operator.calls.show_round(request).await)
                .hint(|| "see what rounds there are: lamplight round list".into())?
                .into_inner();
            let round = view::Round::from(round);
            (args.format).print(&round, |r| show::details(r, args.format.is_wide()))
        }
    }
}
