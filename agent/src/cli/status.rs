//! `status`: what a node is doing.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args as ClapArgs;
use lamplight_proto::console::{Format, usual_logs};

use super::{FileArg, Lacking};
use crate::{
    dir::NodeDir,
    settings::Flags,
    store::{Store, view::Status},
};

pub(super) const HELP: &str = "Example:\n  lamplight agent status --dir /var/lib/lamplight --json";

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    file: FileArg,
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many tasks to show, newest first
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: u32,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    usual_logs(args.format.is_quiet());
    let loaded = args.file.load(&Flags {
        dir: args.dir.clone(),
        ..Flags::default()
    })?;
    let dir = loaded.dir()?;
    let path = NodeDir::at(dir).database();
    if !path.exists() {
        return Err(Lacking::Node(dir.to_owned()).into());
    }
    let status = Store::open_to_read(&path)?.status(args.last)?;
    let mut out = io::stdout().lock();
    if args.format.is_json() {
        writeln!(out, "{}", serde_json::to_string(&status)?)?;
    } else {
        out.write_all(text(&status).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The status for people.
fn text(s: &Status) -> String {
    let or = |t: &Option<String>, or: &str| t.clone().unwrap_or_else(|| or.to_owned());
    let mut lines = vec![
        format!("node        {}", or(&s.node_id, "not enrolled")),
        format!("deployment  {}", or(&s.deployment, "-")),
        match s.round {
            Some(round) => format!("phase       {} (round {round})", s.phase),
            None => format!("phase       {}", s.phase),
        },
        format!("receipts    {}", s.receipts),
    ];
    if s.undelivered > 0 {
        lines.push(format!("undelivered {} failure report(s)", s.undelivered));
    }
    for v in &s.versions {
        lines.push(format!(
            "model       {} version {} {}",
            v.model, v.version, v.digest
        ));
    }
    for a in &s.aside {
        lines.push(format!(
            "kept aside  {} samples of `{}`, not a class of {} version {}",
            a.samples, a.class, a.model, a.version
        ));
    }
    for t in &s.tasks {
        let accuracy = match (t.before_accuracy, t.after_accuracy) {
            (Some(b), Some(a)) => format!("  accuracy {b:.3} -> {a:.3}"),
            _ => String::new(),
        };
        let reason = t
            .reason
            .as_ref()
            .map_or_else(String::new, |r| format!("  ({r})"));
        let precision = (t.precision.as_ref()).map_or_else(String::new, |p| format!("  in {p}"));
        lines.push(format!(
            "round {:<5} {} version {}  {}{accuracy}{precision}{reason}",
            t.round,
            t.model,
            t.base_version,
            or(&t.outcome, "running"),
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_node_has_no_status() {
        let dir = tempfile::tempdir().expect("temp dir");
        let args = Args {
            file: FileArg { config: None },
            dir: Some(dir.path().to_owned()),
            last: 1,
            format: Format::default(),
        };
        let e = run(&args).expect_err("nothing there");
        assert!(e.to_string().contains("enrol first"), "{e}");
        assert!(super::super::is_refusal(&e));
    }
}
