//! The command line: `enrol`, `run`, `status`. Results go to stdout, logs to stderr.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Parser, Subcommand};
use lamplight_models::lane::LaneKind;
use lamplight_proto::{
    ids::{Deployment, Label, NodeId},
    keys::SigningKey,
    tls::{Address, Identity},
    token::JoinToken,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    dir::NodeDir,
    enrol::{self, EnrolError, Enrolled},
    home::{Home, HomeError},
    limits::Limits,
    link::{
        LinkError,
        grpc::{self, GrpcLink},
    },
    lock::LockError,
    run::{Agent, AgentError, Config},
    source::SourceSpec,
    stop,
    store::{Store, StoreError, view::Status},
};

/// Something was refused: by the coordinator, or by what is on disk.
const REFUSED: u8 = 1;
/// Something failed.
const FAILED: u8 = 2;

/// Tries of `enrol` before a coordinator that cannot be reached is given up: about half a minute.
const ENROL_TRIES: u32 = 8;

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
    #[command(after_help = "Example:\n  \
        lamplight-agent enrol --dir /var/lib/lamplight --coordinator fleet.example.org:7443 \\\n      \
        --token-file /etc/lamplight/token --name post-17\n\n\
        Repeating the command on an enrolled directory changes nothing.")]
    Enrol(EnrolArgs),
    /// Poll for rounds, fine-tune on this node's samples, send signed deltas; until stopped
    #[command(after_help = "Example:\n  \
        lamplight-agent run --dir /var/lib/lamplight --coordinator fleet.example.org:7443 \\\n      \
        --source 'builtin:post?post=3&seed=7'\n\n\
        SIGINT or SIGTERM: the step in hand is finished and saved, and the program ends within\n\
        --grace-seconds; a second signal ends it at once. Nothing that was accepted is lost either way.\n\
        A node that an operator retired ends with exit code 1; starting it again changes nothing.\n\
        LAMPLIGHT_LOG sets what is logged, e.g. LAMPLIGHT_LOG=debug.")]
    Run(RunArgs),
    /// Show what a node is doing, its last tasks, receipts and versions; also beside a running agent
    #[command(after_help = "Example:\n  lamplight-agent status --dir /var/lib/lamplight --json")]
    Status(StatusArgs),
}

#[derive(Debug, ClapArgs)]
struct Joining {
    /// The node's directory; made if missing. One agent per directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where the coordinator listens
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Address,
    /// A file that holds the join token; `run` enrols with it first where that is needed
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name for people: letters, digits, `-`, `_`, `.` [default: the node's id]
    #[arg(long, value_name = "NAME")]
    name: Option<Label>,
    /// Print who this node is as one line of JSON: once it has joined, and when it begins to run
    #[arg(long)]
    json: bool,
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

#[derive(Debug, ClapArgs)]
struct EnrolArgs {
    #[command(flatten)]
    joining: Joining,
    /// The join token itself; others on this machine may see it in the process list
    #[arg(
        long,
        value_name = "TOKEN",
        env = "LAMPLIGHT_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file",
        required_unless_present = "token_file"
    )]
    token: Option<JoinToken>,
}

#[derive(Debug, ClapArgs)]
struct RunArgs {
    #[command(flatten)]
    joining: Joining,
    /// The node's samples: `builtin:post?post=3&seed=7`, `hapt:DIR?subject=5`, `images:DIR`,
    /// `cifar10:DIR?part=3&parts=8` or `idx:DIR`
    #[arg(long, value_name = "SPEC")]
    source: SourceSpec,
    /// Threads of the CPU that training may use
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Where matrix products run: cpu, cuda or metal
    #[arg(long, value_name = "DEVICE", default_value_t = LaneKind::Cpu)]
    device: LaneKind,
    /// Training is saved this often, and at the end of every epoch; a power cut costs at most this
    #[arg(long, value_name = "S", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_seconds: u32,
    /// A stop takes at most this long
    #[arg(long, value_name = "S", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..))]
    grace_seconds: u32,
}

#[derive(Debug, ClapArgs)]
struct StatusArgs {
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// How many tasks to show, newest first
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: u32,
}

/// What `main` does after setting up logs: a small runtime, the command, an exit code.
#[must_use]
pub fn main(args: Args) -> ExitCode {
    // One thread for the network; training and SQLite have their own. An idle node stays small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("no runtime: {e}");
            return ExitCode::from(FAILED);
        }
    };
    let code = match runtime.block_on(run(args)) {
        Ok(code) => code,
        Err(e) => {
            complain(&e);
            ExitCode::from(FAILED)
        }
    };
    // A thread that outlives the grace must not hold the process.
    runtime.shutdown_background();
    code
}

/// Runs a command: 0 done, 1 refused, 2 (or an error) failed.
///
/// # Errors
/// What failed, in words.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let done = match args.command {
        Command::Enrol(a) => enrol_command(a).await,
        Command::Run(a) => run_command(a).await,
        Command::Status(a) => status_command(&a),
    };
    match done {
        Err(e) if is_refusal(&e) => {
            complain(&e);
            Ok(ExitCode::from(REFUSED))
        }
        other => other,
    }
}

fn complain(e: &anyhow::Error) {
    // The last word of a program that ends is for people, whatever the log level.
    let _ = writeln!(io::stderr().lock(), "error: {e:#}");
}

/// Whether somebody said no, as against something breaking.
fn is_refusal(e: &anyhow::Error) -> bool {
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
        )
    })
}

fn read_token(path: &Path) -> anyhow::Result<JoinToken> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the token file {} cannot be read", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("the token file {}", path.display()))
}

/// The name given, else the node's id: names of directories and hosts stay here.
fn label(home: &Home, joining: &Joining) -> anyhow::Result<Label> {
    if let Some(name) = &joining.name {
        return Ok(name.clone());
    }
    let key = SigningKey::load_or_create(&home.dir.signing_key())?;
    Ok(NodeId::of_key(&key.public()).as_str().parse()?)
}

async fn join(
    home: &mut Home,
    joining: &Joining,
    token: &JoinToken,
    tries: Option<u32>,
) -> anyhow::Result<Enrolled> {
    let name = label(home, joining)?;
    let address = &joining.coordinator;
    let ask = |request: lamplight_proto::wire::EnrolRequest| {
        enrol::insist(tries, move || {
            grpc::enrol(address, token.authority(), request.clone())
        })
    };
    Ok(enrol::enrol(home, address, token, &name, ask).await?)
}

async fn enrol_command(args: EnrolArgs) -> anyhow::Result<ExitCode> {
    let token = match (&args.token, &args.joining.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => anyhow::bail!("a join token is needed; give --token or --token-file"),
    };
    let mut home = Home::open(&args.joining.dir)?;
    let enrolled = join(&mut home, &args.joining, &token, Some(ENROL_TRIES)).await?;
    introduce(&enrolled, args.joining.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_command(args: RunArgs) -> anyhow::Result<ExitCode> {
    // First of all: a stop that comes while the program starts is heard, too.
    let (stopper, stop) = stop::channel();
    let grace = Duration::from_secs(u64::from(args.grace_seconds));
    tokio::spawn(async move {
        signalled().await;
        tracing::info!("stopping; at most {} s", grace.as_secs());
        stopper.stop();
        tokio::select! {
            () = signalled() => tracing::warn!("a second signal: ending at once"),
            () = tokio::time::sleep(grace) => {
                tracing::error!("not finished within the grace of {} s: ending at once", grace.as_secs());
            }
        }
        // The phase on disk is good at any instant; a thread that does not listen cannot be joined.
        std::process::exit(i32::from(FAILED));
    });

    // A source that cannot be opened is better said now than in the first round.
    let spec = args.source.clone();
    let opened = tokio::task::spawn_blocking(move || spec.open()).await?;
    let about = opened
        .with_context(|| format!("the source {}", args.source))?
        .describe();
    tracing::info!(window = ?about.window, simulated = about.simulated, "source: {}", about.origin);
    // A device that is not there, too.
    lamplight_models::lane::open(args.device, usize::from(args.threads))?;

    let mut home = Home::open(&args.joining.dir)?;
    let enrolled = match (enrol::enrolled(&home)?, &args.joining.token_file) {
        (Some(node), _) => Enrolled {
            node,
            already: true,
        },
        (None, Some(path)) => {
            let token = read_token(path)?;
            // Unattended: the coordinator may come up after its nodes.
            let joined = tokio::select! {
                biased;
                () = stop.wanted() => return Ok(ExitCode::SUCCESS),
                joined = join(&mut home, &args.joining, &token, None) => joined?,
            };
            tracing::info!(
                node = %joined.node.node_id, deployment = %joined.node.deployment, "enrolled"
            );
            joined
        }
        (None, None) => return Err(AgentError::NotEnrolled(args.joining.dir).into()),
    };
    if args.joining.json {
        introduce(&enrolled, true)?;
    }
    let identity = Identity::read(home.dir.root())?;
    let link = GrpcLink::new(&args.joining.coordinator, &identity)?;
    let spec = args.source;
    let config = Config {
        source: Arc::new(move |image| spec.open_for(image)),
        device: args.device,
        threads: usize::from(args.threads),
        checkpoint_every: Duration::from_secs(u64::from(args.checkpoint_seconds)),
        report_every: Duration::from_millis(500),
        limits: Limits::default(),
    };
    Agent::new(home, link, config)?.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends at the next SIGINT or SIGTERM.
async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let both = signal(SignalKind::interrupt())
            .and_then(|int| signal(SignalKind::terminate()).map(|term| (int, term)));
        match both {
            Ok((mut int, mut term)) => {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
            }
            Err(e) => {
                tracing::warn!("signals cannot be watched: {e}");
                std::future::pending::<()>().await;
            }
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn status_command(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let path = NodeDir::at(&args.dir).database();
    anyhow::ensure!(
        path.exists(),
        "{} holds no node; enrol first, or give another --dir",
        args.dir.display()
    );
    let status = Store::open_to_read(&path)?.status(args.last)?;
    let mut out = io::stdout().lock();
    if args.json {
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
        lines.push(format!(
            "round {:<5} {} version {}  {}{accuracy}{reason}",
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
    use clap::CommandFactory as _;

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
            ("a enrol --dir d --coordinator h:1", "--token"),
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
            (
                "a run --dir d --coordinator h:1 --source builtin:post?post=1 --threads 0",
                "0",
            ),
        ] {
            let e = parse(words).expect_err("refused").to_string();
            assert!(e.contains(says), "{words}: {e}");
        }
    }

    #[test]
    fn a_directory_without_a_node_has_no_status() {
        let dir = tempfile::tempdir().expect("temp dir");
        let args = StatusArgs {
            dir: dir.path().to_owned(),
            json: false,
            last: 1,
        };
        let e = status_command(&args).expect_err("nothing there");
        assert!(e.to_string().contains("enrol first"), "{e}");
    }
}
