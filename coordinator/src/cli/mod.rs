//! The command line: `lamplight-coordinator …`, and `lamplight coordinator …` likewise. One command
//! a file. Results go to stdout, logs to stderr.

mod config;
mod doctor;
mod init;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args as ClapArgs, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use lamplight_proto::{
    console::last_word,
    settings::{SettingsError, unless_empty},
};

use crate::{
    InitError, OpenError, RunError,
    fault::Broken,
    settings::{CONFIG_VARIABLE, Flags, Loaded},
    store::StoreError,
};

pub use init::{Init, Made, run_init};
pub use run::Serving;

const HELP: &str = "Example:\n  lamplight init --dir ./fleet --deployment chicago --host fleet.example.org\n  \
    lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443\n\n\
    Exit codes: 0 done, 1 refused, 2 failed. Logs go to stderr; LAMPLIGHT_LOG sets how much.";

/// The fleet's server: registers nodes, offers rounds, aggregates deltas, publishes releases.
#[derive(Debug, Parser)]
#[command(
    name = "lamplight-coordinator",
    version,
    after_help = HELP
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
    #[arg(long, value_name = "FILE", env = unless_empty(CONFIG_VARIABLE))]
    config: Option<PathBuf>,
}

impl FileArg {
    fn load(&self, flags: &Flags) -> Result<Loaded, SettingsError> {
        Loaded::read(self.config.as_deref(), std::env::vars_os(), flags)
    }
}

/// The command line of the program that stands alone.
#[must_use]
pub fn standalone() -> clap::Command {
    Args::command().after_help(format!(
        "{HELP}\n\nWhere an example or a remedy says `lamplight coordinator …`, it is `lamplight-coordinator …` here; \
         `lamplight init` is `lamplight-coordinator init`."
    ))
}

/// What the program that stands alone does: a runtime, the command, an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::from_arg_matches(&standalone().get_matches()) {
        Ok(args) => args,
        Err(e) => e.format(&mut standalone()).exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            return last_word(&format_args!("the async runtime did not start: {e}"), false);
        }
    };
    let code = runtime
        .block_on(run(args))
        .unwrap_or_else(|e| last_word(&e, is_refusal(&e)));
    // A step that outlived the grace is safe to cut: it is done again after a restart.
    runtime.shutdown_background();
    code
}

/// Runs the command line to its end. Sets up logs first, as the configuration says.
///
/// # Errors
/// What failed, or was refused ([`is_refusal`]), in words.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(init) => run_init(init),
        Command::Run(args) => run::run(args).await,
        Command::Config(command) => config::run(&command),
        Command::Doctor(args) => doctor::run(args).await,
    }
}

/// Whether somebody said no, as against something breaking: this program, about what is on disk, in the
/// configuration or missing from the command.
#[must_use]
pub fn is_refusal(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<RunError>(),
            Some(RunError::Open(
                OpenError::NotInitialised(_)
                    | OpenError::Busy(_)
                    | OpenError::Broken(Broken::Store(StoreError::Newer { .. }))
            ))
        ) || matches!(
            cause.downcast_ref::<InitError>(),
            Some(InitError::Exists(_))
        ) || cause.is::<SettingsError>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let e = run(args).await.unwrap_err();
        assert!(is_refusal(&e), "{e}");
    }

    #[tokio::test]
    async fn a_directory_without_a_deployment_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("nowhere").display().to_string();
        let words = ["c", "run", "--dir", &nowhere, "--listen", "127.0.0.1:0"];
        let e = run(Args::try_parse_from(words).unwrap()).await.unwrap_err();
        assert!(is_refusal(&e), "{e}");
        assert!(e.to_string().contains("lamplight init"), "{e}");
    }
}
