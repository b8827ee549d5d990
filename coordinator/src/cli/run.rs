//! `run`: the server at work.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::net::TcpListener;

use lamplight_proto::{console::Quiet, ids::Deployment};

use super::FileArg;
use crate::{Config, settings::Flags};

pub(super) const HELP: &str = "Example:\n  \
    lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443\n  \
    lamplight coordinator run --config /etc/lamplight/coordinator.toml";

/// What `run` prints with `--json`, once it serves.
#[derive(Serialize, JsonSchema)]
pub struct Serving {
    /// The fleet.
    pub(crate) deployment: Deployment,
    /// Address and port it listens on.
    pub(crate) address: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    file: FileArg,
    /// State directory made by `init` [env: LAMPLIGHT_COORDINATOR_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes any free one and tells it in DIR/address
    /// [default: 0.0.0.0:7443]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Suggested wait between polls of nodes in a running round, in milliseconds [default: 200]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    poll_active_ms: Option<u64>,
    /// Suggested wait between polls of all other nodes, in milliseconds [default: 5000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    poll_idle_ms: Option<u64>,
    /// How long a shutdown waits for calls and the step in hand, in seconds [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=3600))]
    grace_seconds: Option<u64>,
    /// Largest blob an operator may upload, in MiB [default: 4096]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    max_blob_mib: Option<u64>,
    /// Threads of evaluation [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: Option<u64>,
    /// Once it serves, print deployment and address as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    quiet: Quiet,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = args.file.load(&Flags {
        dir: args.dir,
        listen: args.listen,
        poll_active_milliseconds: args.poll_active_ms,
        poll_idle_milliseconds: args.poll_idle_ms,
        grace_seconds: args.grace_seconds,
        max_blob_mib: args.max_blob_mib,
        threads: args.threads,
    })?;
    let config = Config {
        announce: args.json,
        ..loaded.config()?
    };
    loaded.settings.log.start_with(args.quiet.is_quiet());
    let listen = loaded.settings.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}; `doctor` says who is there"))?;
    crate::run(config, listener, interrupted()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
async fn interrupted() {
    let ctrl_c = async {
        if let Err(e) = tokio::signal::ctrl_c().await {
            tracing::error!("cannot listen for Ctrl-C: {e}");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut s) => {
                s.recv().await;
            }
            Err(e) => {
                tracing::error!("cannot listen for SIGTERM: {e}");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = ctrl_c => {}
        () = terminated => {}
    }
}
