//! The command line: `lamplight-coordinator …`, and `lamplight coordinator …` likewise.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Parser, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::net::TcpListener;

use lamplight_proto::ids::{Deployment, Digest, Label};

use crate::{
    Config, InitError, InitOptions, OpenError, RunError, fault::Broken, store::StoreError,
};

/// The fleet's server: registers nodes, offers rounds, aggregates deltas, publishes releases.
#[derive(Debug, Parser)]
#[command(
    name = "lamplight-coordinator",
    version,
    after_help = "Example:\n  lamplight-coordinator init --dir ./fleet --deployment chicago --host fleet.example.org\n  \
                  lamplight-coordinator run --dir ./fleet --listen 0.0.0.0:7443\n\n\
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
    #[command(
        after_help = "Example:\n  lamplight-coordinator run --dir ./fleet --listen 0.0.0.0:7443"
    )]
    Run(Run),
}

/// What `init` takes; also `lamplight init`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  lamplight init --dir ./fleet --deployment chicago \
    --host fleet.example.org\n  lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443"
)]
pub struct Init {
    /// The coordinator's directory; made when missing, refused when it holds a deployment
    #[arg(long, value_name = "DIR", env = "LAMPLIGHT_COORDINATOR_DIR")]
    dir: PathBuf,
    /// Name of the fleet; part of everything a node signs
    #[arg(long, default_value = "lamplight")]
    deployment: Deployment,
    /// Names and addresses nodes will call (may be repeated); localhost is always among them
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Name of the first operator
    #[arg(long, default_value = "admin")]
    operator: Label,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Run {
    /// State directory made by `init`.
    #[arg(long, env = "LAMPLIGHT_COORDINATOR_DIR")]
    dir: PathBuf,
    /// Address and port to listen on; port 0 takes any free one and tells it in DIR/address.
    #[arg(long, default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// Suggested wait between polls of nodes in a running round, in milliseconds.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    poll_active_ms: u64,
    /// Suggested wait between polls of all other nodes, in milliseconds.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    poll_idle_ms: u64,
    /// How long a shutdown waits for calls and the step in hand, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    grace_seconds: u64,
    /// Largest blob an operator may upload, in MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    max_blob_mib: u64,
    /// Threads of evaluation.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// Once it serves, print deployment and address as one line of JSON.
    #[arg(long)]
    json: bool,
}

const REFUSED: u8 = 1;

/// Runs the command line to its end.
///
/// # Errors
/// What went wrong; the caller prints it and ends with exit code 2.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(init) => run_init(init),
        Command::Run(run) => run_server(run).await,
    }
}

/// What `init` prints with `--json`.
#[derive(Serialize, JsonSchema)]
pub struct Made {
    /// The coordinator's directory.
    dir: PathBuf,
    /// The fleet.
    deployment: Deployment,
    /// Public half, hexadecimal: what agents and `release verify --key` believe.
    release_key: String,
    /// SHA-256 of the authority's certificate.
    authority: Digest,
    /// Directory of the first operator's identity.
    operator_identity: PathBuf,
}

/// What `run` prints with `--json`, once it serves.
#[derive(Serialize, JsonSchema)]
pub struct Serving {
    /// The fleet.
    pub(crate) deployment: Deployment,
    /// Address and port it listens on.
    pub(crate) address: String,
}

/// Makes a deployment and says where everything is.
///
/// # Errors
/// What went wrong; that the directory holds a deployment already is a refusal instead.
#[expect(clippy::print_stdout, reason = "results of a command go to stdout")]
pub fn run_init(args: Init) -> anyhow::Result<ExitCode> {
    let options = InitOptions {
        dir: args.dir,
        deployment: args.deployment,
        hosts: args.hosts,
        operator: args.operator,
    };
    let report = match crate::init(&options) {
        Ok(report) => report,
        Err(e @ InitError::Exists(_)) => {
            tracing::error!("{e}");
            return Ok(ExitCode::from(REFUSED));
        }
        Err(e) => return Err(e).context("making the deployment"),
    };
    let made = Made {
        dir: report.dir,
        deployment: report.deployment,
        release_key: hex::encode(report.release_key),
        authority: report.authority,
        operator_identity: report.operator,
    };
    if args.json {
        println!("{}", serde_json::to_string(&made)?);
    } else {
        println!(
            "deployment {} is ready in {dir}\nrelease key  {}\noperator     {}\n\n\
             next, on this machine and on the operator's (HOST is one of those given with --host):\n  \
             lamplight coordinator run --dir {dir} --listen 0.0.0.0:7443\n  \
             lamplight context add {deployment} --coordinator HOST:7443 --identity {operator}\n  \
             lamplight node token",
            made.deployment,
            made.release_key,
            made.operator_identity.display(),
            dir = made.dir.display(),
            deployment = made.deployment,
            operator = made.operator_identity.display(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_server(args: Run) -> anyhow::Result<ExitCode> {
    let config = Config {
        poll_active: Duration::from_millis(args.poll_active_ms),
        poll_idle: Duration::from_millis(args.poll_idle_ms),
        grace: Duration::from_secs(args.grace_seconds),
        max_blob_bytes: args.max_blob_mib << 20,
        threads: usize::try_from(args.threads)?,
        announce: args.json,
        ..Config::new(args.dir)
    };
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    match crate::run(config, listener, interrupted()).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Open(
            e @ (OpenError::NotInitialised(_)
            | OpenError::Busy(_)
            | OpenError::Broken(Broken::Store(StoreError::Newer { .. }))),
        )) => {
            tracing::error!("{e}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(e) => Err(e.into()),
    }
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
