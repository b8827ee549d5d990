//! `lamplight context`: several fleets, each under a name.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use lamplight_proto::{
    ids::Label,
    tls::{Address, Identity},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    context::{Context, Contexts},
    output::{self, Format, OrHint as _, fault},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a fleet's coordinator and your identity under a name
    #[command(
        after_help = "Example:\n  lamplight context add chicago --coordinator \
        fleet.example.org:7443 --identity ./fleet/operators/admin\n\nThe first context is in use \
        from then on; see `lamplight context use`."
    )]
    Add(Add),
    /// List the fleets known by name
    #[command(after_help = "Example:\n  lamplight context list")]
    List(List),
    /// Let commands that name no fleet mean this one
    #[command(after_help = "Example:\n  lamplight context use chicago\n  lamplight node list")]
    Use(Use),
    /// Show a context, or the one in use
    #[command(after_help = "Example:\n  lamplight context show")]
    Show(Show),
    /// Forget a context; the identity stays where it is
    #[command(after_help = "Example:\n  lamplight context remove chicago")]
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// A name for the fleet
    name: Label,
    /// The coordinator's address
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Address,
    /// Directory with the operator's tls.crt, tls.key and ca.crt
    #[arg(long, value_name = "DIR")]
    identity: PathBuf,
    /// Let the name stand for this from now on, whatever it stood for
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Use {
    /// The context's name
    name: Label,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The context's name [default: the one in use]
    name: Option<Label>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The context's name
    name: Label,
    #[command(flatten)]
    format: Format,
}

/// A fleet known by name.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Named {
    name: String,
    /// `HOST:PORT`.
    coordinator: String,
    /// Directory of the operator's identity.
    identity: PathBuf,
    /// Whether commands that name no fleet mean this one.
    in_use: bool,
}

fn named(contexts: &Contexts, name: &Label, context: &Context) -> Named {
    Named {
        name: name.to_string(),
        coordinator: context.coordinator.to_string(),
        identity: context.identity.clone(),
        in_use: contexts.current() == Some(name),
    }
}

fn line(n: &Named) -> String {
    let used = if n.in_use { ", in use" } else { "" };
    format!(
        "{}: {} with {}{used}",
        n.name,
        n.coordinator,
        n.identity.display()
    )
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut all = Contexts::read()?;
    match command {
        Command::Add(args) => {
            Identity::read(&args.identity).hint(|| {
                "--identity names the directory that `lamplight init` reported as the operator's"
                    .into()
            })?;
            let context = Context {
                coordinator: args.coordinator,
                identity: std::path::absolute(&args.identity)?,
            };
            all.add(args.name.clone(), context.clone(), args.replace)?;
            let shown = named(&all, &args.name, &context);
            let code = args.format.print(&shown, line)?;
            if !shown.in_use {
                args.format
                    .next(&format!("lamplight context use {}", args.name));
            }
            Ok(code)
        }
        Command::List(args) => {
            let list: Vec<Named> = all.iter().map(|(name, c)| named(&all, name, c)).collect();
            let code = args.format.print(&list, |list| {
                let mut table = output::table(["", "name", "coordinator", "identity"]);
                for n in list {
                    let mark = if n.in_use { "*" } else { "" };
                    let identity = n.identity.display().to_string();
                    table.add_row([mark, &n.name, &n.coordinator, &identity]);
                }
                table.to_string()
            })?;
            if list.is_empty() {
                (args.format).next(&format!(
                    "lamplight context add; {} is empty",
                    shown(all.path())
                ));
            }
            Ok(code)
        }
        Command::Use(args) => {
            all.choose(&args.name)?;
            let context = all.get(&args.name)?;
            args.format.print(&named(&all, &args.name, context), line)
        }
        Command::Show(args) => {
            let name = args.name.as_ref().or(all.current()).ok_or_else(|| {
                fault(
                    "no context is in use",
                    "lamplight context list, then: lamplight context use NAME",
                )
            })?;
            let context = all.get(name)?;
            args.format.print(&named(&all, name, context), line)
        }
        Command::Remove(args) => {
            let was = named(&all, &args.name, all.get(&args.name)?);
            all.remove(&args.name)?;
            args.format
                .print(&was, |n| format!("{} is forgotten", n.name))
        }
    }
}

fn shown(path: &Path) -> impl std::fmt::Display {
    path.display()
}
