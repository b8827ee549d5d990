//! `lamplight`: the operator's command line, and a whole fleet in one binary.
//!
//! The binary is [`main()`] and nothing else; it is a library so that the parsers of task files and of
//! contexts can be reached by their fuzz targets.
//!
//! ```text
//!   lamplight init | model | node | task | round | release    the operator, over gRPC
//!   lamplight context | completions | man | schema     the operator's comfort
//!   lamplight coordinator …, lamplight agent …         the entry points of the two other binaries
//!   lamplight demo                                     all of it, as real processes on loopback
//! ```
//!
//! Results go to stdout (`--json` for machines), progress and logs to stderr. Exit codes: 0 done,
//! 1 refused, 2 failed, 130 a demo that was interrupted.

mod command;
pub mod context;
mod demo;
mod operator;
mod output;
mod pretrain;
#[cfg(test)]
mod snapshots;
pub mod task;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use lamplight_proto::settings::Log;
use tokio::runtime::Builder;

/// Fine-tune models on sensor nodes; only signed deltas leave the node.
#[derive(Debug, Parser)]
#[command(name = "lamplight", version, about, max_term_width = 100)]
#[command(
    after_help = "Example, everything at once on this machine:\n  lamplight demo\n\n\
    Exit codes: 0 done, 1 refused, 2 failed; 130 a demo that was interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a deployment: certificate authority, release key, operator identity
    Init(lamplight_coordinator::cli::Init),
    /// Run the fleet's server
    Coordinator(lamplight_coordinator::cli::Args),
    /// Run or inspect a sensor node
    Agent(lamplight_agent::cli::Args),
    /// Pretrain, show, push and list models
    #[command(subcommand)]
    Model(command::model::Command),
    /// Let nodes join, list and show them, say what they may do
    #[command(subcommand)]
    Node(command::node::Command),
    /// Check task files; list and stop tasks
    #[command(subcommand)]
    Task(command::task::Command),
    /// Start rounds of fine-tuning, watch them
    #[command(subcommand)]
    Round(command::round::Command),
    /// List, show and verify releases
    #[command(subcommand)]
    Release(command::release::Command),
    /// Know several fleets by name
    #[command(subcommand)]
    Context(command::context::Command),
    /// A coordinator and a fleet of agents on this machine, end to end
    Demo(demo::Args),
    /// Print a script that lets a shell complete commands and options
    Completions(command::shell::Completions),
    /// Write manual pages of all commands
    Man(command::shell::Man),
    /// Print the JSON schema of what a command prints with --json
    Schema(command::schema::Args),
}

/// Reads the command line, does what it says, and answers how it went.
#[must_use]
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    output::settle(&matches);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.format(&mut Cli::command()).exit(),
    };
    // The long-running programs set up their logs themselves, as their configuration says; all others
    // stay quiet beside progress bars.
    if !matches!(
        cli.command,
        Command::Init(_) | Command::Coordinator(_) | Command::Agent(_)
    ) {
        Log::usual("warn").start();
    }
    let mut runtime = match cli.command {
        // One thread for the network: an idle node stays small.
        Command::Agent(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return output::failed(&anyhow::anyhow!("the async runtime did not start: {e}")),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Init(args) => lamplight_coordinator::cli::run_init(args),
            Command::Coordinator(args) => lamplight_coordinator::cli::run(args).await,
            Command::Agent(args) => lamplight_agent::cli::run(args).await,
            Command::Model(command) => command::model::run(command).await,
            Command::Node(command) => command::node::run(command).await,
            Command::Task(command) => command::task::run(command).await,
            Command::Round(command) => command::round::run(command).await,
            Command::Release(command) => command::release::run(command).await,
            Command::Context(command) => command::context::run(command),
            Command::Demo(args) => demo::run(args).await,
            Command::Completions(args) => command::shell::completions(&args),
            Command::Man(args) => command::shell::man(&args),
            Command::Schema(args) => command::schema::run(&args),
        }
    });
    // What outlives a stated grace is cut here; it is safe to do again.
    runtime.shutdown_background();
    result.unwrap_or_else(|e| output::failed(&e))
}
