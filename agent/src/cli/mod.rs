//! The command line, one command a file. Results go to stdout, logs to stderr.

mod bench;
mod config;
mod doctor;
mod enrol;
mod run;
mod status;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args as ClapArgs, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use lamplight_proto::{
    console::last_word,
    ids::{Deployment, Label, NodeId},
    keys::SigningKey,
    settings::{SettingsError, unless_empty},
    tls::Address,
    token::JoinToken,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bench::BenchError,
    enrol::{EnrolError, Enrolled},
    home::{Home, HomeError},
    link::{LinkError, grpc},
    lock::LockError,
    run::AgentError,
    settings::{CONFIG_VARIABLE, Flags, Loaded},
    store::StoreError,
    token_file::TokenFileError,
};

/// The sensor node's program.
#[derive(Debug, Parser)]
#[command(name = "lamplight-agent", version, about, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a fleet: make this node's keys and exchange a join token for a certificate
    #[command(after_help = enrol::HELP)]
    Enrol(enrol::Args),
    /// Poll for rounds, fine-tune on this node's samples, send signed deltas; until stopped
    #[command(after_help = run::HELP)]
    Run(run::Args),
    /// Show what a node is doing, its last tasks, receipts and versions; also beside a running agent
    #[command(after_help = status::HELP)]
    Status(status::Args),
    /// Show an example configuration, check one, or print what counts
    #[command(subcommand, after_help = config::HELP)]
    Config(config::Command),
    /// Look for what is wrong with this node: clock, disk, keys, network, memory, device, data
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Args),
    /// Time training and inference on this machine, also beside candle or PyTorch
    #[command(subcommand, after_help = bench::HELP)]
    Bench(bench::Command),
}

/// Which file of configuration.
#[derive(Debug, ClapArgs)]
struct FileArg {
    /// The configuration; flags and variables count more. `config example` shows one
    #[arg(long, value_name = "FILE", env = unless_empty(CONFIG_VARIABLE))]
    config: Option<PathBuf>,
}

impl FileArg {
    fn load(&self, flags: &Flags) -> Result<Loaded, SettingsError> {
        Loaded::read(self.config.as_deref(), std::env::vars_os(), flags)
    }
}

/// Who a node is, and whom it calls.
#[derive(Debug, ClapArgs)]
struct Joining {
    #[command(flatten)]
    file: FileArg,
    /// The node's directory; made if missing. One agent per directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the coordinator listens
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Option<Address>,
    /// A file that holds the join token; `run` enrols with it first where that is needed
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name for people: letters, digits, `-`, `_`, `.` [default: the node's id]
    #[arg(long, value_name = "NAME")]
    name: Option<Label>,
}

impl Joining {
    fn flags(&self) -> Flags {
        Flags {
            dir: self.dir.clone(),
            coordinator: self.coordinator.clone(),
            token_file: self.token_file.clone(),
            name: self.name.clone(),
            ..Flags::default()
        }
    }
}

/// What a command cannot do without.
#[derive(Debug, thiserror::Error)]
enum Lacking {
    /// A directory in which somebody has enrolled, or tried to.
    #[error("{0} holds no node; enrol first (`lamplight agent enrol`), or give another --dir")]
    Node(PathBuf),
    /// A join token.
    #[error(
        "a join token is needed; give --token-file or --token, or write token_file into the configuration"
    )]
    Token,
}

/// The command line of the program that stands alone.
#[must_use]
pub fn standalone() -> clap::Command {
    Args::command().after_help(
        "Where an example or a remedy says `lamplight agent …`, it is `lamplight-agent …` here.",
    )
}

/// What the program that stands alone does: a small runtime, the command, an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::from_arg_matches(&standalone().get_matches()) {
        Ok(args) => args,
        Err(e) => e.format(&mut standalone()).exit(),
    };
    // One thread for the network; training and SQLite have their own. An idle node stays small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            return last_word(&format_args!("the async runtime did not start: {e}"), false);
        }
    };
    let code = runtime
        .block_on(run(args))
        .unwrap_or_else(|e| last_word(&e, is_refusal(&e)));
    // A thread that outlives the grace must not hold the process.
    runtime.shutdown_background();
    code
}

/// Runs a command. Sets up logs first, as the configuration says.
///
/// # Errors
/// What failed, or was refused ([`is_refusal`]), in words.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Enrol(a) => enrol::run(a).await,
        Command::Run(a) => run::run(a).await,
        Command::Status(a) => status::run(&a),
        Command::Config(c) => config::run(&c),
        Command::Doctor(a) => doctor::run(a).await,
        Command::Bench(c) => bench::run(&c),
    }
}

/// Whether somebody said no, as against something breaking: the coordinator, or this program about what
/// is on disk, in the configuration or missing from the command.
#[must_use]
pub fn is_refusal(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<LinkError>(),
            Some(LinkError::Refused(_))
        ) || matches!(
            cause.downcast_ref::<EnrolError>(),
            Some(EnrolError::Link(LinkError::Refused(_)))
        ) || matches!(
            cause.downcast_ref::<AgentError>(),
            Some(AgentError::Refused(_) | AgentError::NotEnrolled(_))
        ) || matches!(
            cause.downcast_ref::<HomeError>(),
            Some(HomeError::Lock(LockError::Taken(_)) | HomeError::Store(StoreError::Newer { .. }))
        ) || (cause.downcast_ref::<BenchError>()).is_some_and(BenchError::is_refusal)
            || cause.is::<SettingsError>()
            || cause.is::<TokenFileError>()
            || cause.is::<Lacking>()
    })
}

/// Enrols; an answer that does not come is waited for at most `tries` times.
async fn join(
    home: &mut Home,
    loaded: &Loaded,
    token: &JoinToken,
    tries: Option<u32>,
) -> anyhow::Result<Enrolled> {
    // Unless one is given, the node's id: names of directories and hosts stay here.
    let name = match &loaded.settings.name {
        Some(name) => name.clone(),
        None => {
            let key = SigningKey::load_or_create(&home.dir.signing_key())?;
            NodeId::of_key(&key.public()).as_str().parse()?
        }
    };
    let address = loaded.coordinator()?;
    let ask = |request: lamplight_proto::wire::EnrolRequest| {
        crate::enrol::insist(tries, move || {
            grpc::enrol(address, token.authority(), request.clone())
        })
    };
    Ok(crate::enrol::enrol(home, address, token, &name, ask).await?)
}

/// What `enrol` and `run` print with `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Introduction {
    /// Who this node is.
    node_id: NodeId,
    /// Its fleet.
    deployment: Deployment,
    /// Whether it was a node before this command.
    already: bool,
}

/// Says who a node is on stdout.
fn introduce(Enrolled { node, already }: &Enrolled, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let (id, deployment) = (&node.node_id, &node.deployment);
    if json {
        let who = serde_json::to_string(&Introduction {
            node_id: id.clone(),
            deployment: deployment.clone(),
            already: *already,
        })?;
        return Ok(writeln!(out, "{who}")?);
    }
    let how = if *already { "is already" } else { "is now" };
    Ok(writeln!(out, "{id} {how} a node of {deployment}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Args::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains("Example:"), "{}", sub.get_name());
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        let parse = |words: &str| Args::try_parse_from(words.split(' '));
        for (words, says) in [
            (
                "a enrol --dir d --coordinator h --token-file t",
                "host:port",
            ),
            (
                "a run --dir d --coordinator h:1 --source nonsense",
                "nonsense",
            ),
            (
                "a run --dir d --coordinator h:1 --source builtin:post?post=1 --device tpu",
                "tpu",
            ),
            ("a run --dir d --precision f16", "f32, bf16, auto"),
            ("a doctor --dir d --precision half", "f32, bf16, auto"),
            (
                "a run --dir d --coordinator h:1 --source builtin:post?post=1 --threads 0",
                "0",
            ),
            ("a config check --confg f", "--config"),
        ] {
            let e = parse(words).expect_err("refused").to_string();
            assert!(e.contains(says), "{words}: {e}");
        }
    }

    #[tokio::test]
    async fn a_command_without_what_it_needs_is_refused_before_it_does_anything() {
        let dir = tempfile::tempdir().expect("temp dir");
        let node = dir.path().join("node");
        let command = format!("a run --dir {} --coordinator h:1", node.display());
        let args = Args::try_parse_from(command.split(' ')).expect("good so far");
        let e = run(args).await.expect_err("a refusal");
        assert!(is_refusal(&e), "{e}");
        assert!(!node.exists());
    }

    #[tokio::test]
    async fn a_token_that_is_not_there_or_is_none_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let node = dir.path().join("node");
        let enrol = format!("a enrol --dir {} --coordinator h:1", node.display());
        let file = format!(
            "{enrol} --token-file {}",
            dir.path().join("token").display()
        );
        for command in [enrol, file] {
            let args = Args::try_parse_from(command.split(' ')).expect("good so far");
            let e = run(args).await.expect_err("a refusal");
            assert!(is_refusal(&e), "{e}");
            assert!(e.to_string().contains("token"), "{e}");
        }
        assert!(!node.exists());
    }
}
