//! `lamplight node`: let nodes join, list and show them, say what they may do.

mod change;
mod show;

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use lamplight_proto::{tag::Wanted, wire};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    operator::Connection,
    output::{Format, OrHint as _},
    view,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make single-use join tokens
    #[command(after_help = "Example:\n  lamplight node token --count 4 --valid-hours 24")]
    Token(Token),
    /// List the nodes that joined
    #[command(
        after_help = "Examples:\n  lamplight node list\n  lamplight node list --tag \
        site=chicago --tag site=oslo --state active --output wide"
    )]
    List(List),
    /// Show a node: what it runs, what it did in its last rounds, and why not
    #[command(after_help = "Example:\n  lamplight node show post-3")]
    Show(Show),
    /// Set and remove a node's tags
    #[command(
        after_help = "Example, sets two tags and removes a third:\n  lamplight node tag post-3 \
        site=chicago mount=high trial-"
    )]
    Tag(change::Tag),
    /// Give a node no new work; what is under way is finished
    #[command(
        after_help = "Example:\n  lamplight node drain post-3 --reason 'new cable'\n  lamplight \
        node resume post-3"
    )]
    Drain(change::Drain),
    /// Give a drained node work again
    #[command(after_help = "Example:\n  lamplight node resume post-3")]
    Resume(change::Resume),
    /// Let a node never work again, and refuse its calls; this cannot be undone
    #[command(
        after_help = "Example:\n  lamplight node retire post-3 --reason stolen\n\n\
        Rounds stop waiting for the node and its agent ends. To let the machine join again, enrol\n\
        it in an empty directory with a new join token: it is then another node."
    )]
    Retire(change::Retire),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// How many tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How long they may be used
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    valid_hours: u32,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// Takes part
    Active,
    /// Finishes what is under way and gets no new work
    Draining,
    /// Never works again
    Retired,
}

impl From<State> for wire::NodeState {
    fn from(s: State) -> Self {
        match s {
            State::Active => Self::Active,
            State::Draining => Self::Draining,
            State::Retired => Self::Retired,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only nodes with this tag (may be repeated): every key must match, the same key may have any
    /// of its values; a key alone matches any value
    #[arg(long = "tag", value_name = "KEY[=VALUE]")]
    tags: Vec<Wanted>,
    /// Only nodes in this state (may be repeated)
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<State>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The node's id, or a name that only one node has
    node: String,
    /// How many of its last rounds to show
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: u32,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// What `node token` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Tokens {
    /// Each lets one node join; shown only once.
    tokens: Vec<String>,
    expires_unix_ms: i64,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Token(args) => {
            let request = wire::CreateTokenRequest {
                count: args.count,
                valid_seconds: args.valid_hours * 3600,
            };
            let mut operator = args.connection.open()?;
            let reply = operator.calls.create_token(request).await?.into_inner();
            let tokens = Tokens {
                tokens: reply.tokens,
                expires_unix_ms: reply.expires_unix_ms,
            };
            let code = args.format.print(&tokens, |t| t.tokens.join("\n"))?;
            args.format.next(&format!(
                "on each node: lamplight agent enrol --dir DIR --coordinator {} --token TOKEN",
                operator.address
            ));
            Ok(code)
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListNodesRequest {
                tags: args.tags.iter().map(ToString::to_string).collect(),
                states: (args.states.iter())
                    .map(|&s| wire::NodeState::from(s) as i32)
                    .collect(),
            };
            let nodes: Vec<view::Node> = view::all(operator.list_nodes(request).await?);
            let code = (args.format).print(&nodes, |n| show::listing(n, args.format.is_wide()))?;
            if nodes.is_empty() && args.tags.is_empty() && args.states.is_empty() {
                (args.format).next("nobody has joined yet; make join tokens: lamplight node token");
            }
            Ok(code)
        }
        Command::Show(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ShowNodeRequest {
                node: args.node,
                rounds: args.last,
            };
            let node = operator.calls.show_node(request).await.hint(which)?;
            let node = view::Node::from(node.into_inner());
            args.format.print(&node, show::details)
        }
        Command::Tag(args) => args.run().await,
        Command::Drain(args) => args.run().await,
        Command::Resume(args) => args.run().await,
        Command::Retire(args) => args.run().await,
    }
}

/// What helps whoever named a node that is not there, or two.
fn which() -> String {
    "a node is named by its id, or by a name that only one node has: lamplight node list".into()
}
