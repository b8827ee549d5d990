//! `doctor`: what is wrong with this coordinator.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args as ClapArgs;

use lamplight_proto::{console::Format, doctor::ThisMachine, settings::Log};

use super::FileArg;
use crate::{doctor, settings::Flags};

pub(super) const HELP: &str = "Example:\n  \
    lamplight coordinator doctor --config /etc/lamplight/coordinator.toml\n  \
    lamplight coordinator doctor --dir ./fleet --json\n\n\
    It changes nothing and may be run beside a running coordinator. Exit codes: 0 no fault (warnings\n\
    are allowed), 1 at least one fault, 2 the doctor itself could not work.";

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    file: FileArg,
    /// State directory made by `init` [env: LAMPLIGHT_COORDINATOR_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Address and port it listens on, or will
    #[arg(long)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The findings are the news; logs only when something is odd.
    Log::usual("warn").start_with(args.format.is_quiet());
    let loaded = args.file.load(&Flags {
        dir: args.dir,
        listen: args.listen,
        ..Flags::default()
    });
    let report = doctor::examine(loaded, &ThisMachine).await;
    let mut out = io::stdout().lock();
    if args.format.is_json() {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        out.write_all(report.text().as_bytes())?;
    }
    Ok(ExitCode::from(report.exit_code()))
}
