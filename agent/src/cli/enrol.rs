//! `enrol`: joins a fleet.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use lamplight_proto::{console::Format, settings::unless_empty, token::JoinToken};

use super::{Joining, Lacking, introduce, join};
use crate::{home::Home, token_file};

pub(super) const HELP: &str = "Example:\n  \
    lamplight agent enrol --dir /var/lib/lamplight --coordinator fleet.example.org:7443 \\\n      \
    --token-file /etc/lamplight/token --name post-17\n  \
    lamplight agent enrol --config /etc/lamplight/agent.toml\n\n\
    Repeating the command on an enrolled directory changes nothing.";

/// Tries before a coordinator that cannot be reached is given up: about half a minute.
const TRIES: u32 = 8;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    joining: Joining,
    /// The join token itself; others on this machine may see it in the process list
    #[arg(
        long,
        value_name = "TOKEN",
        env = unless_empty("LAMPLIGHT_TOKEN"),
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<JoinToken>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = args.joining.file.load(&args.joining.flags())?;
    loaded.settings.log.start_with(args.format.is_quiet());
    let (dir, _) = (loaded.dir()?, loaded.coordinator()?);
    let token = match (&args.token, &loaded.settings.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => token_file::read(path)?,
        (None, None) => return Err(Lacking::Token.into()),
    };
    let mut home = Home::open(dir)?;
    let enrolled = join(&mut home, &loaded, &token, Some(TRIES)).await?;
    introduce(&enrolled, args.format.is_json())?;
    Ok(ExitCode::SUCCESS)
}
