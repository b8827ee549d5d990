//! `lamplight init`: a new deployment in a directory.

use std::{path::PathBuf, process::ExitCode};

use lamplight_coordinator::InitOptions;
use lamplight_proto::ids::{Deployment, Digest, Label};

use serde::Serialize;

use crate::output::Format;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  lamplight init --dir ./fleet --deployment chicago \
    --host fleet.example.org\n  lamplight coordinator run --dir ./fleet --listen 0.0.0.0:7443"
)]
pub(crate) struct Args {
    /// The coordinator's directory; made when missing, refused when it holds a deployment
    #[arg(long, value_name = "DIR")]
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

#[derive(Serialize)]
struct Made {
    dir: PathBuf,
    deployment: Deployment,
    /// Public half, hexadecimal: what agents and `release verify --key` believe.
    release_key: String,
    /// SHA-256 of the authority's certificate.
    authority: Digest,
    operator_identity: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = lamplight_coordinator::init(&InitOptions {
        dir: args.dir.clone(),
        deployment: args.deployment.clone(),
        hosts: args.hosts.clone(),
        operator: args.operator.clone(),
    })?;
    let made = Made {
        dir: report.dir,
        deployment: report.deployment,
        release_key: hex::encode(report.release_key),
        authority: report.authority,
        operator_identity: report.operator,
    };
    args.format.print(&made, |m| {
        format!(
            "deployment {} is ready in {dir}\nrelease key  {}\noperator     {}\n\n\
             next: lamplight coordinator run --dir {dir} --listen 0.0.0.0:7443",
            m.deployment,
            m.release_key,
            m.operator_identity.display(),
            dir = m.dir.display(),
        )
    })
}
