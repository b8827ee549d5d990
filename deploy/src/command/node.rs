//! `lamplight node`: let nodes join, list them.

use std::process::ExitCode;

use clap::Subcommand;
use lamplight_proto::wire;
use serde::Serialize;

use crate::{
    operator::Connection,
    output::{self, Format},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make single-use join tokens
    #[command(
        after_help = "Example:\n  lamplight node token --count 4 --valid-hours 24 \\\n    \
        --coordinator fleet.example.org:7443 --identity ./fleet/operators/admin"
    )]
    Token(Token),
    /// List the nodes that joined
    #[command(after_help = "Example:\n  lamplight node list --coordinator \
        fleet.example.org:7443 --identity ./fleet/operators/admin")]
    List(List),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    #[command(flatten)]
    connection: Connection,
    /// How many tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How long they may be used
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    valid_hours: u32,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Tokens {
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
            args.format.print(&tokens, |t| t.tokens.join("\n"))
        }
        Command::List(args) => {
            let mut operator = args.connection.open()?;
            let request = wire::ListNodesRequest::default();
            let nodes = operator.calls.list_nodes(request).await?.into_inner().nodes;
            args.format.print(&nodes, |nodes| {
                let mut table = output::table([
                    "node",
                    "name",
                    "phase",
                    "last seen (UTC)",
                    "version",
                    "deltas",
                ]);
                for n in nodes {
                    table.add_row([
                        n.node_id.clone(),
                        n.name.clone(),
                        n.phase.clone(),
                        output::time(n.last_seen_unix_ms),
                        n.agent_version.clone(),
                        n.deltas_accepted.to_string(),
                    ]);
                }
                table.to_string()
            })
        }
    }
}
