//! `lamplight release`: list, show and verify releases.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use lamplight_coordinator::release::verify;
use lamplight_proto::{
    envelope::{Signed, TrustedKeys},
    ids::{ModelName, ModelVersion},
    release::ReleaseManifest,
    wire,
};

use crate::{
    operator::Connection,
    output::{self, Format},
    view,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the releases of a model
    #[command(after_help = "Example:\n  lamplight release list --model post")]
    List(List),
    /// Show a release's signed manifest: what it was made from and how
    #[command(
        after_help = "Example:\n  lamplight release show --model post --version 3 \
        --key \"$(cat ./fleet/release.pub)\""
    )]
    Show(Show),
    /// Recompute a release from base and deltas, offline, and compare every digest
    #[command(
        after_help = "Example:\n  lamplight release verify --dir ./fleet\n  lamplight \
        demo --keep ./kept && lamplight release verify --dir ./kept"
    )]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    /// The model
    #[arg(long)]
    model: ModelName,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    connection: Connection,
    /// The model
    #[arg(long)]
    model: ModelName,
    /// The version; 0 for the newest
    #[arg(long, default_value_t = 0)]
    version: u64,
    /// Believe only this release key (hexadecimal, as in release.pub)
    #[arg(long, value_name = "HEX", value_parser = public_key)]
    key: [u8; 32],
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A coordinator's directory, a copy of it, or a kept demo
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The model; may be left out where there is only one
    #[arg(long)]
    model: Option<ModelName>,
    /// The version; the newest when absent
    #[arg(long)]
    version: Option<u64>,
    /// Believe this release key instead of the directory's release.pub
    #[arg(long, value_name = "HEX", value_parser = public_key)]
    key: Option<[u8; 32]>,
    #[command(flatten)]
    format: Format,
}

fn public_key(text: &str) -> Result<[u8; 32], String> {
    let bytes = hex::decode(text.trim()).map_err(|e| e.to_string())?;
    let len = bytes.len();
    bytes
        .try_into()
        .map_err(|_| format!("{len} bytes instead of 32"))
}

fn listing(releases: &[view::Release], is_wide: bool) -> String {
    let mut header = vec![
        "version",
        "digest",
        "size",
        "round",
        "deltas",
        "accuracy",
        "made (UTC)",
    ];
    if is_wide {
        header.extend(["loss", "judged on", "bytes"]);
    }
    let mut table = output::table(header);
    for r in releases {
        let mut row = vec![
            r.version.to_string(),
            if is_wide {
                &r.digest
            } else {
                output::short(&r.digest)
            }
            .to_owned(),
            output::bytes(r.size),
            match r.round {
                0 => "pushed".to_owned(),
                round => round.to_string(),
            },
            r.deltas.to_string(),
            r.evaluation
                .as_ref()
                .map_or_else(String::new, |m| output::percent(m.accuracy)),
            output::time(r.created_unix_ms),
        ];
        if is_wide {
            let judged = r.evaluation.as_ref();
            row.extend([
                judged.map_or_else(String::new, |m| format!("{:.4}", m.loss)),
                judged.map_or_else(String::new, |m| format!("{} samples", m.samples)),
                r.size.to_string(),
            ]);
        }
        table.add_row(row);
    }
    table.to_string()
}

fn details(m: &ReleaseManifest) -> String {
    let mut lines = vec![
        format!(
            "model    {} version {} ({})",
            m.model, m.version, m.deployment
        ),
        format!("digest   {}", m.digest),
        format!("size     {}", output::bytes(m.size)),
        format!("made     {} UTC", output::time(m.created.0)),
    ];
    if let Some(e) = m.evaluation {
        lines.push(format!(
            "accuracy {} on {} samples, loss {:.4}",
            output::percent(e.accuracy),
            e.samples,
            e.loss
        ));
    }
    let Some(p) = &m.provenance else {
        lines.push("pushed by an operator".to_owned());
        return lines.join("\n");
    };
    lines.push(format!(
        "from     round {} on version {} ({}), rule {}",
        p.round,
        p.base_version,
        p.base_digest,
        p.rule.as_str()
    ));
    let mut table = output::table(["node", "delta", "weight", "clip factor"]);
    for c in &p.contributions {
        table.add_row([
            c.node_id.to_string(),
            output::short(&c.delta_digest.to_string()).to_owned(),
            c.weight.to_string(),
            format!("{:.4}", c.clip_factor),
        ]);
    }
    lines.push(table.to_string());
    lines.join("\n")
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListReleasesRequest {
                model: args.model.to_string(),
            };
            let reply = operator.calls.list_releases(request).await?.into_inner();
            let releases: Vec<view::Release> = view::all(reply.releases);
            (args.format).print(&releases, |r| listing(r, args.format.is_wide()))
        }
        Command::Show(args) => {
            let mut operator = args.connection.open()?;
            let version = ModelVersion(args.version);
            let envelope = operator.release(&args.model, version).await?;
            let manifest = Signed::<ReleaseManifest>::from_wire(envelope)
                .verify(&TrustedKeys::new([args.key]))
                .context("the release manifest is not believed")?;
            args.format.print(manifest.get(), details)
        }
        Command::Verify(args) => {
            let version = args.version.map(ModelVersion);
            let report = verify(&args.dir, args.model, version, args.key)?;
            args.format.print(&report, ToString::to_string)
        }
    }
}
