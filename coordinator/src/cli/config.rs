//! `config`: an example, a check, what counts.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args as ClapArgs, Subcommand};
use lamplight_proto::{
    console::{Format, usual_logs},
    settings::{self, Document, Verdict},
};

use super::FileArg;
use crate::settings::{EXAMPLE, Flags, Loaded};

pub(super) const HELP: &str = "Example:\n  \
    lamplight coordinator config example > coordinator.toml\n  \
    lamplight coordinator config check --config coordinator.toml\n  \
    lamplight coordinator config print --config coordinator.toml --json";

const CHECK: &str = "Example:\n  lamplight coordinator config check --config /etc/lamplight/coordinator.toml\n\n\
    Exit codes: 0 `run` can begin with it; 1 it cannot, and stderr says where and why.";

const PRINT: &str = "Example:\n  LAMPLIGHT_COORDINATOR__THREADS=2 lamplight coordinator config print \
    --config coordinator.toml\n\n\
    What is printed is itself a configuration. No secret is ever part of one.";

const SHOW: &str = "Example:\n  lamplight coordinator config example > coordinator.toml";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a commented example with every key
    #[command(after_help = SHOW)]
    Example(Format),
    /// Say whether `run` can begin with this configuration, and if not, where it is wrong
    #[command(after_help = CHECK)]
    Check(Given),
    /// Print every key with the value that counts and where it comes from
    #[command(after_help = PRINT)]
    Print(Given),
}

#[derive(Debug, ClapArgs)]
pub(super) struct Given {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    format: Format,
}

impl Command {
    fn format(&self) -> Format {
        match self {
            Self::Example(format) => *format,
            Self::Check(given) | Self::Print(given) => given.format,
        }
    }
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    usual_logs(command.format().is_quiet());
    let mut out = io::stdout().lock();
    match command {
        Command::Example(format) if format.is_json() => {
            let path = std::path::Path::new("coordinator.toml");
            let example = Loaded::of(Document::parse(EXAMPLE, path)?)?;
            writeln!(out, "{}", serde_json::to_string(&example.explain()?)?)?;
        }
        Command::Example(_) => out.write_all(EXAMPLE.as_bytes())?,
        Command::Check(given) => return check(given),
        Command::Print(given) => {
            let all = given.file.load(&Flags::default())?.explain()?;
            if given.format.is_json() {
                writeln!(out, "{}", serde_json::to_string(&all)?)?;
            } else {
                out.write_all(settings::to_toml(&all).as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(given: &Given) -> anyhow::Result<ExitCode> {
    let loaded = given.file.load(&Flags::default()).and_then(|loaded| {
        // What `run` cannot do without.
        loaded.dir()?;
        Ok(loaded)
    });
    let mut out = io::stdout().lock();
    match loaded {
        Ok(loaded) => {
            let all = loaded.explain()?;
            let verdict = Verdict::of(Ok(&all));
            if given.format.is_json() {
                writeln!(out, "{}", serde_json::to_string(&verdict)?)?;
            } else {
                let Verdict { set, keys, .. } = verdict;
                writeln!(
                    out,
                    "good: {set} of {keys} keys are set, the rest are as by default"
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(e) => {
            if given.format.is_json() {
                let verdict = Verdict::of(Err(&e));
                writeln!(out, "{}", serde_json::to_string(&verdict)?)?;
            }
            Err(e.into())
        }
    }
}
