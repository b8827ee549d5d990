//! `lamplight-coordinator`: parses flags and calls [`lamplight_coordinator::cli::run`].

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
};

use clap::Parser as _;
use lamplight_coordinator::cli;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    let filter =
        EnvFilter::try_from_env("LAMPLIGHT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    let code = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let code = runtime.block_on(cli::run(args));
            // A step that outlived the grace is safe to cut: it is done again after a restart.
            runtime.shutdown_background();
            code
        });
    code.unwrap_or_else(|e| {
        tracing::error!("{e:#}");
        ExitCode::from(2)
    })
}
