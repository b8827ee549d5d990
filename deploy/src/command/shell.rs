//! `lamplight completions` and `lamplight man`: what shells and readers of manuals need.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use crate::output::{self, Format};

/// The programs of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// The operator's
    Lamplight,
    /// A node's
    LamplightAgent,
    /// The server
    LamplightCoordinator,
}

impl Program {
    pub(crate) const ALL: [Self; 3] = [
        Self::Lamplight,
        Self::LamplightAgent,
        Self::LamplightCoordinator,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lamplight => "lamplight",
            Self::LamplightAgent => "lamplight-agent",
            Self::LamplightCoordinator => "lamplight-coordinator",
        }
    }

    /// Its command line.
    pub(crate) fn command(self) -> clap::Command {
        match self {
            Self::Lamplight => crate::Cli::command(),
            Self::LamplightAgent => lamplight_agent::cli::standalone(),
            Self::LamplightCoordinator => lamplight_coordinator::cli::standalone(),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lamplight completions bash > \
    ~/.local/share/bash-completion/completions/lamplight\n  lamplight completions zsh > \
    ~/.zfunc/_lamplight\n  lamplight completions fish --program lamplight-agent")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The program that is completed
    #[arg(long, value_enum, default_value = "lamplight")]
    program: Program,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  lamplight man --dir ~/.local/share/man/man1 && man lamplight-node-list"
)]
pub(crate) struct Man {
    /// The directory the pages are written into; made if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// What `man` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Pages {
    dir: PathBuf,
    /// Names of the files written.
    pages: Vec<String>,
}

pub(crate) fn completions(args: &Completions) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let program = args.program;
    clap_complete::generate(
        args.shell,
        &mut program.command(),
        program.name(),
        &mut script,
    );
    let script = String::from_utf8(script).context("the completion script is not text")?;
    output::print_plain(script.trim_end())?;
    Ok(output::DONE)
}

pub(crate) fn man(args: &Man) -> anyhow::Result<ExitCode> {
    let at = || args.dir.display().to_string();
    std::fs::create_dir_all(&args.dir).with_context(at)?;
    // Written aside first, so that the list is of what was written and not of what was there.
    let fresh = tempfile::tempdir_in(&args.dir).with_context(at)?;
    for program in Program::ALL {
        clap_mangen::generate_to(program.command(), fresh.path()).with_context(at)?;
    }
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(fresh.path()).with_context(at)? {
        let name = entry.with_context(at)?.file_name();
        std::fs::rename(fresh.path().join(&name), args.dir.join(&name)).with_context(at)?;
        pages.push(name.to_string_lossy().into_owned());
    }
    pages.sort_unstable();
    let written = Pages {
        dir: args.dir.clone(),
        pages,
    };
    (args.format).print(&written, |w| {
        format!("{} pages in {}", w.pages.len(), w.dir.display())
    })
}
