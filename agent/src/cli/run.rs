//! `run`: the node at work.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use lamplight_models::{lane::LaneKind, train::Precision};
use lamplight_proto::{
    console::{FAILED, Quiet},
    tls::Identity,
};

use super::{Joining, introduce, join};
use crate::{
    enrol::{self, Enrolled},
    home::Home,
    link::grpc::GrpcLink,
    run::{Agent, AgentError, Config},
    settings::Flags,
    source::SourceSpec,
    stop, token_file,
};

pub(super) const HELP: &str = "Example:\n  \
    lamplight agent run --dir /var/lib/lamplight --coordinator fleet.example.org:7443 \\\n      \
    --source 'builtin:post?post=3&seed=7'\n  \
    lamplight agent run --config /etc/lamplight/agent.toml --threads 2\n\n\
    SIGINT or SIGTERM: the step in hand is finished and saved, and the program ends within\n\
    --grace-seconds; a second signal ends it at once. Nothing that was accepted is lost either way.\n\
    A node that an operator retired ends with exit code 1; starting it again changes nothing.\n\
    LAMPLIGHT_LOG sets what is logged, e.g. LAMPLIGHT_LOG=debug.";

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    joining: Joining,
    /// The node's samples: `builtin:post?post=3&seed=7`, `hapt:DIR?subject=5`, `images:DIR`,
    /// `cifar10:DIR?part=3&parts=8` or `idx:DIR`
    #[arg(long, value_name = "SPEC")]
    source: Option<SourceSpec>,
    /// Threads of the CPU that training may use [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where matrix products run: cpu, cuda or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<LaneKind>,
    /// In which numbers training calculates: f32, bf16 or auto [default: f32]
    #[arg(long, value_name = "P")]
    precision: Option<Precision>,
    /// Training is saved this often, and at the end of every epoch; a power cut costs at most this
    /// [default: 60]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_seconds: Option<u32>,
    /// A stop takes at most this long [default: 10]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    grace_seconds: Option<u32>,
    /// Print who this node is as one line of JSON, when it begins to run
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    quiet: Quiet,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = args.joining.file.load(&Flags {
        source: args.source,
        threads: args.threads,
        device: args.device,
        precision: args.precision,
        checkpoint_seconds: args.checkpoint_seconds,
        grace_seconds: args.grace_seconds,
        ..args.joining.flags()
    })?;
    // All that is missing is said before anything is done.
    let (dir, coordinator) = (loaded.dir()?, loaded.coordinator()?);
    let source = loaded.source()?.clone();
    let settings = &loaded.settings;
    settings.log.start_with(args.quiet.is_quiet());

    // First of all: a stop that comes while the program starts is heard, too.
    let (stopper, stop) = stop::channel();
    let grace = Duration::from_secs(u64::from(settings.grace_seconds));
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
    let spec = source.clone();
    let opened = tokio::task::spawn_blocking(move || spec.open()).await?;
    let about = opened
        .with_context(|| format!("the source {source}"))?
        .describe();
    tracing::info!(window = ?about.window, simulated = about.simulated, "source: {}", about.origin);
    // A device that is not there, too.
    let (device, threads) = (settings.training.device, settings.training.threads);
    lamplight_models::lane::open(device, usize::from(threads))?;

    let mut home = Home::open(dir)?;
    let enrolled = match (enrol::enrolled(&home)?, &settings.token_file) {
        (Some(node), _) => Enrolled {
            node,
            already: true,
        },
        (None, Some(path)) => {
            let token = token_file::read(path)?;
            // Unattended: the coordinator may come up after its nodes.
            let joined = tokio::select! {
                biased;
                () = stop.wanted() => return Ok(ExitCode::SUCCESS),
                joined = join(&mut home, &loaded, &token, None) => joined?,
            };
            tracing::info!(
                node = %joined.node.node_id, deployment = %joined.node.deployment, "enrolled"
            );
            joined
        }
        (None, None) => return Err(AgentError::NotEnrolled(dir.to_owned()).into()),
    };
    if args.json {
        introduce(&enrolled, true)?;
    }
    let identity = Identity::read(home.dir.root())?;
    let link = GrpcLink::new(coordinator, &identity)?;
    let config = Config {
        source: Arc::new(move |image| source.open_for(image)),
        device,
        threads: usize::from(threads),
        precision: settings.training.precision,
        checkpoint_every: Duration::from_secs(u64::from(settings.training.checkpoint_seconds)),
        report_every: Duration::from_millis(500),
        limits: loaded.limits(),
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
