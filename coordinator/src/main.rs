//! `lamplight-coordinator`: parses flags and calls [`lamplight_coordinator::cli::run`].

use std::{
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::Parser as _;
use lamplight_coordinator::cli;

fn main() -> ExitCode {
    let args = cli::Args::parse();
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
        // Whatever the log level.
        let _ = writeln!(stderr().lock(), "error: {e:#}");
        ExitCode::from(2)
    })
}
