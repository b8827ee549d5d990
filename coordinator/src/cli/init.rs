//! `init`: a new deployment.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use schemars::JsonSchema;
use serde::Serialize;

use lamplight_proto::{
    console::{Format, usual_logs},
    ids::{Deployment, Digest, Label},
    settings::unless_empty,
};

use crate::{InitError, InitOptions, settings::DIR_VARIABLE};

/// What `init` takes; also `lamplight init`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  lamplight init --dir ./fleet --deployment chicago \
    --host fleet.example.org\n  lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443"
)]
pub struct Init {
    /// The coordinator's directory; made when missing, refused when it holds a deployment
    #[arg(long, value_name = "DIR", env = unless_empty(DIR_VARIABLE))]
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
    #[command(flatten)]
    format: Format,
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

/// Makes a deployment and says where everything is.
///
/// # Errors
/// What went wrong; that the directory holds a deployment already is a refusal instead.
#[expect(clippy::print_stdout, reason = "results of a command go to stdout")]
pub fn run_init(args: Init) -> anyhow::Result<ExitCode> {
    usual_logs(args.format.is_quiet());
    let options = InitOptions {
        dir: args.dir,
        deployment: args.deployment,
        hosts: args.hosts,
        operator: args.operator,
    };
    let report = match crate::init(&options) {
        // Its sentence says all.
        Err(e @ InitError::Exists(_)) => return Err(e.into()),
        other => other.context("making the deployment")?,
    };
    let made = Made {
        dir: report.dir,
        deployment: report.deployment,
        release_key: hex::encode(report.release_key),
        authority: report.authority,
        operator_identity: report.operator,
    };
    if args.format.is_json() {
        println!("{}", serde_json::to_string(&made)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (dir, operator) = (made.dir.display(), made.operator_identity.display());
    println!(
        "deployment {} is ready in {dir}\nrelease key  {}\noperator     {operator}",
        made.deployment, made.release_key,
    );
    if !args.format.is_quiet() {
        // Hints that nobody can read are no failure.
        let _ = writeln!(
            io::stderr().lock(),
            "next, on this machine and on the operator's (HOST is one of those given with --host):\n  \
             lamplight coordinator run --dir {dir} --listen 0.0.0.0:7443\n  \
             lamplight context add {} --coordinator HOST:7443 --identity {operator}\n  \
             lamplight node token",
            made.deployment,
        );
    }
    Ok(ExitCode::SUCCESS)
}
