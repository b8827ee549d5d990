//! The command line: `lamplight-coordinator …`, and `lamplight coordinator …` likewise. One command
//! a file. Results go to stdout, logs to stderr.

mod config;
mod doctor;
mod init;
mod run;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args as ClapArgs, Parser, Subcommand};

use lamplight_proto::settings::{Log, SettingsError};

use crate::settings::{CONFIG_VARIABLE, Flags, Loaded};

pub use init::{Init, Made, run_init};
pub use run::Serving;

/// The fleet's server: registers nodes, offers rounds, aggregates deltas, publishes releases.
#[derive(Debug, Parser)]
#[command(
    name = "lamplight-coordinator",
    version,
    after_help = "Example:\n  lamplight init --dir ./fleet --deployment chicago --host fleet.example.org\n  \
                  lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443\n\n\
                  Exit codes: 0 done, 1 refused, 2 failed. Logs go to stderr; LAMPLIGHT_LOG sets how much."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new deployment: keys, certificate authority, database, first operator.
    Init(Init),
    /// Serve until interrupted.
    #[command(after_help = run::HELP)]
    Run(run::Args),
    /// Show an example configuration, check one, or print what counts.
    #[command(subcommand, after_help = config::HELP)]
    Config(config::Command),
    /// Look for what is wrong: clock, disk, keys, certificates, database, files, port.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Args),
}

/// Which file of configuration.
#[derive(Debug, ClapArgs)]
struct FileArg {
    /// The configuration; flags and variables count more. `config example` shows one
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
}

impl FileArg {
    fn load(&self, flags: &Flags) -> Result<Loaded, SettingsError> {
        Loaded::read(self.config.as_deref(), std::env::vars_os(), flags)
    }
}

const REFUSED: u8 = 1;

/// Runs the command line to its end. Sets up logs first, as the configuration says.
///
/// # Errors
/// What went wrong; the caller prints it and ends with exit code 2.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let done = match args.command {
        Command::Init(init) => run_init(init),
        Command::Run(args) => run::run(args).await,
        Command::Config(command) => {
            usual_logs();
            config::run(&command)
        }
        Command::Doctor(args) => doctor::run(args).await,
    };
    match done {
        Err(e) if e.chain().any(|cause| cause.is::<SettingsError>()) => {
            complain(&e);
            Ok(ExitCode::from(REFUSED))
        }
        other => other,
    }
}

/// The last word of a program that ends is for people, whatever the log level.
fn complain(e: &anyhow::Error) {
    let _ = writeln!(io::stderr().lock(), "error: {e:#}");
}

/// Logs of a command that reads no configuration.
fn usual_logs() {
    Log::usual("info").start();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Args::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string);
            assert!(
                help.unwrap_or_default().contains("Example:"),
                "{}",
                sub.get_name()
            );
        }
    }

    #[tokio::test]
    async fn a_server_without_a_directory_is_refused_with_the_ways_to_give_one() {
        let args = Args::try_parse_from(["c", "run", "--listen", "127.0.0.1:0"]).unwrap();
        let code = run(args).await.unwrap();
        assert_eq!(code, ExitCode::from(REFUSED));
    }
}
