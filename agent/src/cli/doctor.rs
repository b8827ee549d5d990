//! `doctor`: what is wrong with this node.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args as ClapArgs;
use lamplight_models::{lane::LaneKind, train::Precision};
use lamplight_proto::{console::Format, doctor::ThisMachine, settings::Log};

use super::Joining;
use crate::{doctor, settings::Flags, source::SourceSpec};

pub(super) const HELP: &str = "Example:\n  \
    lamplight agent doctor --config /etc/lamplight/agent.toml\n  \
    lamplight agent doctor --dir /var/lib/lamplight --coordinator fleet.example.org:7443 --json\n\n\
    It changes nothing and may be run beside a running agent. Exit codes: 0 no fault (warnings are\n\
    allowed), 1 at least one fault, 2 the doctor itself could not work.";

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    joining: Joining,
    /// The node's samples
    #[arg(long, value_name = "SPEC")]
    source: Option<SourceSpec>,
    /// Threads of the CPU that training may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where matrix products run: cpu, cuda or metal
    #[arg(long, value_name = "DEVICE")]
    device: Option<LaneKind>,
    /// In which numbers training calculates: f32, bf16 or auto
    #[arg(long, value_name = "P")]
    precision: Option<Precision>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The findings are the news; logs only when something is odd.
    Log::usual("warn").start_with(args.format.is_quiet());
    let loaded = args.joining.file.load(&Flags {
        source: args.source,
        threads: args.threads,
        device: args.device,
        precision: args.precision,
        ..args.joining.flags()
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
