//! `lamplight task`: check task files; list and stop tasks.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Subcommand;
use lamplight_proto::wire;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    operator::Connection,
    output::{self, Format},
    task::{duration::Span, file},
    view,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is wrong with a task file, without a coordinator
    #[command(after_help = "Example:\n  lamplight task check task.toml")]
    Check(Check),
    /// Print a commented task file
    #[command(after_help = "Example:\n  lamplight task example > task.toml")]
    Example(Example),
    /// Print the JSON schema of task files, for editors
    #[command(after_help = "Example:\n  lamplight task schema > task.schema.json")]
    Schema(Schema),
    /// List tasks, newest first
    #[command(after_help = "Example:\n  lamplight task list")]
    List(List),
    /// Begin no further round of a task; the one that runs goes on to its end
    #[command(after_help = "Example:\n  lamplight task stop 4")]
    Stop(Stop),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The task file, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Example {
    /// The example as a JSON string
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Schema {
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// The task's number
    task: u64,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// What a task file asks for, in short.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Checked {
    model: String,
    /// 0: no bound.
    rounds: u32,
    every_seconds: Option<u64>,
    tags: Vec<String>,
    nodes: usize,
    trainable: String,
    has_budget: bool,
}

fn span(seconds: u64) -> String {
    match seconds {
        0 => String::new(),
        s => Span(Duration::from_secs(s)).to_string(),
    }
}

fn listing(tasks: &[view::Task]) -> String {
    let mut table = output::table([
        "task",
        "name",
        "model",
        "state",
        "rounds",
        "every",
        "next (UTC)",
        "cohort",
        "reason",
    ]);
    for t in tasks {
        let cohort = match (t.cohort_tags.as_slice(), t.cohort_nodes) {
            ([], 0) => "all".to_owned(),
            ([], n) => format!("{n} nodes"),
            (tags, _) => tags.join(" "),
        };
        table.add_row([
            t.task.to_string(),
            t.name.clone(),
            t.model.clone(),
            t.state.clone(),
            match t.rounds {
                0 => t.rounds_begun.to_string(),
                of => format!("{}/{of}", t.rounds_begun),
            },
            span(t.every_seconds),
            match t.next_round_unix_ms {
                0 => String::new(),
                at => output::time(at),
            },
            cohort,
            t.reason.clone(),
        ]);
    }
    table.to_string()
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => {
            let task = file::read(&args.file)?;
            let checked = Checked {
                model: task.model.to_string(),
                rounds: task.series.rounds,
                every_seconds: task.series.every.map(|e| e.as_secs()),
                tags: (task.tags.terms().iter())
                    .map(ToString::to_string)
                    .collect(),
                nodes: task.nodes.len(),
                trainable: task.training.trainable.to_string(),
                has_budget: !task.budget.is_unbounded(),
            };
            args.format.print(&checked, |c| {
                let rounds = match c.rounds {
                    0 => "rounds without end".to_owned(),
                    1 => "1 round".to_owned(),
                    n => format!("{n} rounds"),
                };
                format!(
                    "{} is a task: {rounds} for {}",
                    args.file.display(),
                    c.model
                )
            })
        }
        Command::Example(args) => args
            .format
            .print(&file::EXAMPLE, |e| e.trim_end().to_owned()),
        Command::Schema(args) => {
            let schema = file::schema();
            args.format.print(&schema, |s| format!("{s:#}"))
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListTasksRequest {};
            let reply = operator.calls.list_tasks(request).await?.into_inner();
            let tasks: Vec<view::Task> = view::all(reply.tasks);
            args.format.print(&tasks, |t| listing(t))
        }
        Command::Stop(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::StopTaskRequest { task: args.task };
            let task: view::Task = operator.calls.stop_task(request).await?.into_inner().into();
            args.format
                .print(&task, |t| listing(std::slice::from_ref(t)))
        }
    }
}
