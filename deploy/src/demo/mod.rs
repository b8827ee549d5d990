//! `lamplight demo`: the main job, end to end, on this machine.
//!
//! ```text
//!   scenario   whose data: cloud, nodes, people nobody trained on
//!   pool       the same of somebody's own images and tables, shared out
//!   fleet      a coordinator and N agents as processes of their own, on loopback
//!   watch      rounds and nodes, live
//!   measure    every release on every node's unseen samples; baselines in one place
//!   report     the table, the JSON line, the picture
//! ```

mod fleet;
mod measure;
mod picture;
mod pool;
pub(crate) mod report;
mod scenario;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lamplight_coordinator::InitOptions;
use lamplight_models::{quant::gguf, train::Precision};
use lamplight_proto::{budget::Budget, keys, offer::Codec, tag::TagFilter, tls::Identity, wire};

use crate::{
    demo::{fleet::Fleet, scenario::Scenario},
    operator::Operator,
    output::{self, Format},
    pretrain,
    task::{self, Evaluation, Series, TaskRequest},
};

#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  lamplight demo\n  lamplight demo --nodes 8 --rounds 5 \
    --keep ./kept\n  lamplight demo --data ../shared/data/har_hapt --draw 1 --nodes 12 --rounds 10\n  \
    lamplight demo --data ./cifar-10-batches-bin --dirichlet 0.3\n  \
    lamplight demo --data ./photos        # a folder per class of JPEG or PNG files\n  \
    lamplight demo --data 'csv:walks.csv?label=activity&group=person&window=100'"
)]
pub(crate) struct Args {
    /// Whose data: builtin:post (simulated lamp posts), or a path whose kind is found out: HAPT recordings,
    /// a folder per class of images, CIFAR-10's or MNIST's files, a CSV table; or a source with its kind
    #[arg(long, default_value = "builtin:post", value_name = "PATH|SOURCE")]
    data: String,
    /// Which people of the recordings take part (draws.csv; without it they are drawn by this number) [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    draw: Option<u32>,
    /// Share images or windows out by a Dirichlet distribution of this concentration, drawn per class: 0.3 is
    /// strongly skewed, 100 hardly; evenly when absent
    #[arg(long, value_name = "ALPHA", value_parser = concentration, conflicts_with = "skew")]
    dirichlet: Option<f64>,
    /// Use only so many images or windows per node, and as many more for the cloud [default: 300 images, all
    /// windows]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    samples: Option<u32>,
    /// Number of nodes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Number of rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Passes over a node's samples in each round
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    epochs: Option<u32>,
    /// In which numbers nodes train: f32, bf16 or auto
    #[arg(long, value_name = "P", default_value_t)]
    precision: Precision,
    /// Each node sees only this many of the classes
    #[arg(long, value_name = "CLASSES")]
    skew: Option<usize>,
    /// Seed of the simulated town, of initial parameters and of shuffling
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Keep all files here (must be empty or missing); otherwise they are removed at the end
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Leave coordinator and nodes running when all is shown, for commands of your own, until interrupted
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    format: Format,
}

fn concentration(text: &str) -> Result<f64, String> {
    let alpha = text.parse().ok();
    let alpha = alpha.filter(|a| (0.001..=1e6).contains(a));
    alpha.ok_or_else(|| "expected a number from 0.001 to 1000000".to_owned())
}

/// The model's name in the demo's deployment.
const MODEL: &str = "demo";
/// How long the coordinator, or all nodes together, may take to get ready.
const READY: Duration = Duration::from_secs(60);
/// A round in the demo closes on the whole cohort; past this something is broken.
const ROUND_DEADLINE: Duration = Duration::from_secs(3600);

/// Where a demo's files are.
enum Place {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(dir) = keep else {
            let dir = tempfile::Builder::new()
                .prefix("lamplight-demo-")
                .tempdir()?;
            return Ok(Self::Temporary(dir));
        };
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let mut entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
        anyhow::ensure!(
            entries.next().is_none(),
            "{} is not empty; name another directory for --keep, or empty it",
            dir.display()
        );
        Ok(Self::Kept(std::path::absolute(dir)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.format;
    let place = Place::new(args.keep.as_deref())?;
    // What cannot be, is refused before anything is started or left behind.
    let scenario = Scenario::new(&args)?;
    let mut fleet = Fleet::new(place.path())?;
    let outcome = tokio::select! {
        outcome = steps(&args, scenario, place.path(), &mut fleet) => Some(outcome),
        () = fleet::interrupted() => None,
    };
    if args.stay
        && let Some(Ok(report)) = &outcome
    {
        format.print(report, ToString::to_string)?;
        stay(place.path()).await;
        fleet.stop().await?;
        return Ok(output::DONE);
    }
    // Whatever happened, nothing is left running.
    let stopped = fleet.stop().await;
    let Some(outcome) = outcome else {
        stopped.context("interrupted")?;
        eprintln!("interrupted; everything is stopped");
        return Ok(ExitCode::from(130));
    };
    let finished = match outcome {
        Ok(report) => report,
        Err(e) => {
            fleet.explain();
            if let Place::Temporary(dir) = place {
                // Files that explain a failure are worth more than a tidy /tmp.
                let kept = dir.keep();
                return Err(e.context(format!("the demo's files are in {}", kept.display())));
            }
            return Err(e);
        }
    };
    stopped?;
    format.print(&finished, ToString::to_string)
}

/// Says how to reach the fleet that goes on, and waits for an interruption.
async fn stay(dir: &Path) {
    let home = dir.join("coordinator");
    let address = std::fs::read_to_string(home.join("address")).unwrap_or_default();
    let identity = home.join("operators/demo");
    eprintln!(
        "the fleet goes on until Ctrl-C. In another terminal:\n  \
         export LAMPLIGHT_COORDINATOR={} LAMPLIGHT_IDENTITY={}\n  \
         lamplight task example > task.toml\n  \
         lamplight round start --task task.toml --wait",
        address.trim(),
        identity.display()
    );
    fleet::interrupted().await;
}

async fn steps(
    args: &Args,
    scenario: Scenario,
    dir: &Path,
    fleet: &mut Fleet,
) -> anyhow::Result<report::Report> {
    let began = Instant::now();

    // 1. Pretrain on the cloud's data, quantize.
    let (model, base_bytes) = {
        let scenario = scenario.clone();
        tokio::task::spawn_blocking(move || {
            let source = scenario.cloud.open()?;
            let bar = output::bar(1, "pretrain");
            let samples = source.train()?;
            let model = pretrain::pretrain(&scenario.recipe, &source.describe(), &samples, &bar)?;
            bar.finish_and_clear();
            let bytes = gguf::write(&model)?;
            Ok::<_, anyhow::Error>((gguf::read(&bytes)?, bytes))
        })
        .await??
    };
    keys::write_aside(&dir.join("pretrained.gguf"), &base_bytes, 0o644)?;

    // 2. A deployment, its coordinator, the first release.
    let home = dir.join("coordinator");
    let deployment = lamplight_coordinator::init(&InitOptions {
        dir: home.clone(),
        deployment: "demo".parse()?,
        hosts: Vec::new(),
        operator: "demo".parse()?,
    })?;
    let address = fleet.start_coordinator(&home, READY).await?;
    let identity = Identity::read(&deployment.operator)?;
    let mut operator = Operator::connect(&address, &identity)?;
    let digest = operator.put_blob(base_bytes.into(), None).await?;
    let publish = wire::PublishModelRequest {
        model: MODEL.to_owned(),
        digest: digest.to_bytes(),
    };
    operator.calls.publish_model(publish).await?;

    // 3. Nodes join, each with its own data.
    let request = wire::CreateTokenRequest {
        count: args.nodes,
        valid_seconds: 3600,
    };
    let tokens = operator.calls.create_token(request).await?.into_inner();
    for (plan, token) in scenario.nodes.iter().zip(&tokens.tokens) {
        fleet.start_agent(plan, &address, token, args.precision)?;
    }
    let nodes = fleet
        .wait_enrolled(&mut operator, scenario.nodes.len(), READY)
        .await?;

    // 4. The rounds.
    let evaluation = {
        let spec = scenario.evaluation.clone();
        tokio::task::spawn_blocking(move || anyhow::Ok(spec.open()?.held_out()?.to_bytes()?))
            .await??
    };
    let task = TaskRequest {
        model: MODEL.parse()?,
        name: None,
        series: Series {
            rounds: args.rounds,
            every: None,
            until: None,
            target: 0,
            minimum: args.nodes,
            deadline: ROUND_DEADLINE,
        },
        nodes: Vec::new(),
        tags: TagFilter::default(),
        training: scenario.training.clone(),
        budget: Budget::default(),
        codec: Codec::F32,
        delta_clip_norm: None,
        weight_cap: 0,
        evaluation: Evaluation::Samples(evaluation),
    };
    let started = task::start(&mut operator, task).await?;
    let rounds = watch::rounds(&mut operator, fleet, started.task, args.rounds).await?;

    // 5. What came of it: every release on samples the nodes never trained on.
    let request = wire::ListReleasesRequest {
        model: MODEL.to_owned(),
    };
    let releases = operator
        .calls
        .list_releases(request)
        .await?
        .into_inner()
        .releases;
    let mut files = Vec::new();
    for release in &releases {
        files.push(operator.pull(release.digest.parse()?, release.size).await?);
    }
    if !args.stay {
        // Measuring wants the machine for itself.
        fleet.stop_agents().await?;
    }
    let measured = {
        let (scenario, rounds, precision) = (scenario.clone(), args.rounds, args.precision);
        tokio::task::spawn_blocking(move || {
            measure::measure(&scenario, &model, &files, rounds, precision)
        })
        .await??
    };
    let picture = dir.join("accuracy.svg");
    picture::draw(&picture, &scenario, &measured)?;

    Ok(report::Report::new(report::Parts {
        scenario: &scenario,
        nodes: &nodes,
        rounds: &rounds,
        releases: &releases,
        measured: &measured,
        seconds: began.elapsed().as_secs_f64(),
        kept: args.keep.is_some().then(|| dir.to_owned()),
    }))
}
