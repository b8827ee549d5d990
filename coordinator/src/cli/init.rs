//! `init`: a new deployment.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use schemars::JsonSchema;
use serde::Serialize;

use lamplight_proto::ids::{Deployment, Digest, Label};

use super::{REFUSED, complain, usual_logs};
use crate::{InitError, InitOptions, settings::DIR_VARIABLE};

/// What `init` takes; also `lamplight init`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  lamplight init --dir ./fleet --deployment chicago \
    --host fleet.example.org\n  lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443"
)]
pub struct Init {
    /// The coordinator's directory; made when missing, refused when it holds a deployment
    #[arg(long, value_name = "DIR", env = DIR_VARIABLE)]
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
    usual_logs();
    let options = InitOptions {
        dir: args.dir,
        deployment: args.deployment,
        hosts: args.hosts,
        operator: args.operator,
    };
    let report = match crate::init(&options) {
        Ok(report) => report,
        Err(e @ InitError::Exists(_)) => {
            complain(&e.into());
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
