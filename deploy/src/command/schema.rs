//! `lamplight schema`: what `--json` prints, as JSON schemas.

use std::process::ExitCode;

use lamplight_proto::{
    doctor::Report,
    settings::{Setting, Verdict},
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use super::{context, model, node, round, shell, task};
use crate::{
    demo,
    output::{self, fault},
    view,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lamplight schema\n  lamplight schema node list")]
pub(crate) struct Args {
    /// The command, without its options; all that have a schema are listed when absent
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// The schema of what serializing a `T` makes.
fn of<T: JsonSchema>() -> Schema {
    // Titles would be names of Rust types.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema
}

/// A function that makes a schema.
type Make = fn() -> Schema;

/// Every command with `--json`, and what it prints.
pub(crate) const TABLE: [(&str, Make); 46] = [
    (
        "agent bench infer",
        of::<lamplight_agent::bench::report::Report>,
    ),
    (
        "agent bench layers",
        of::<lamplight_agent::bench::layers::LayersReport>,
    ),
    (
        "agent bench step",
        of::<lamplight_agent::bench::report::Report>,
    ),
    ("agent config check", of::<Verdict>),
    ("agent config example", of::<Vec<Setting>>),
    ("agent config print", of::<Vec<Setting>>),
    ("agent doctor", of::<Report>),
    ("agent enrol", of::<lamplight_agent::cli::Introduction>),
    ("agent run", of::<lamplight_agent::cli::Introduction>),
    ("agent status", of::<lamplight_agent::store::view::Status>),
    ("context add", of::<context::Named>),
    ("context list", of::<Vec<context::Named>>),
    ("context remove", of::<context::Named>),
    ("context show", of::<context::Named>),
    ("context use", of::<context::Named>),
    ("coordinator config check", of::<Verdict>),
    ("coordinator config example", of::<Vec<Setting>>),
    ("coordinator config print", of::<Vec<Setting>>),
    ("coordinator doctor", of::<Report>),
    ("coordinator init", of::<lamplight_coordinator::cli::Made>),
    ("coordinator run", of::<lamplight_coordinator::cli::Serving>),
    ("demo", of::<demo::report::Report>),
    ("init", of::<lamplight_coordinator::cli::Made>),
    ("man", of::<shell::Pages>),
    ("model list", of::<Vec<view::Model>>),
    ("model pretrain", of::<model::Pretrained>),
    ("model push", of::<view::Release>),
    ("model show", of::<model::Shown>),
    ("node drain", of::<view::Node>),
    ("node list", of::<Vec<view::Node>>),
    ("node resume", of::<view::Node>),
    ("node retire", of::<view::Node>),
    ("node show", of::<view::Node>),
    ("node tag", of::<view::Node>),
    ("node token", of::<node::Tokens>),
    ("release list", of::<Vec<view::Release>>),
    (
        "release show",
        of::<lamplight_proto::release::ReleaseManifest>,
    ),
    (
        "release verify",
        of::<lamplight_coordinator::release::VerifyReport>,
    ),
    ("round list", of::<Vec<view::Round>>),
    ("round show", of::<view::Round>),
    ("round start", of::<round::Started>),
    ("task check", of::<task::Checked>),
    ("task example", of::<String>),
    ("task list", of::<Vec<view::Task>>),
    ("task schema", of::<serde_json::Value>),
    ("task stop", of::<view::Task>),
];

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = args.command.join(" ");
    if wanted.is_empty() {
        let names: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        output::print_plain(&names.join("\n"))?;
        return Ok(output::DONE);
    }
    let (_, make) = (TABLE.iter().find(|(name, _)| *name == wanted)).ok_or_else(|| {
        fault(
            format!("`lamplight {wanted}` prints no JSON"),
            "see which commands do: lamplight schema",
        )
    })?;
    output::print_plain(&serde_json::to_string_pretty(&make())?)?;
    Ok(output::DONE)
}
