//! Tasks: what an operator asks of the fleet.
//!
//! ```text
//!   task.toml ──file──> TaskFile ──┐
//!                                  ├─> TaskRequest ──> StartRounds ──> coordinator
//!   flags of `round start` ────────┘
//! ```
//!
//! A task file is checked as far as it can be without a coordinator ([`file`]); the rest (is there such
//! a model, has any node these tags) is the coordinator's to say.

pub(crate) mod duration;
pub(crate) mod file;
mod rounds;

pub use file::EXAMPLE;

use std::{path::Path, time::Duration};

use lamplight_agent::source::SourceSpec;
use lamplight_models::image::ImageInput;
use lamplight_proto::{
    budget::Budget,
    ids::{Label, ModelName, NodeId, UnixMillis},
    keys,
    offer::{Codec, Training},
    settings::SettingsError,
    tag::TagFilter,
    wire,
};

use crate::operator::Operator;

/// Checks the text of a task file at this time, as far as that can be done without a coordinator.
///
/// # Errors
/// [`SettingsError`]: the first fault, with its line, its key and what to write instead.
pub fn check(text: &str, now: UnixMillis) -> Result<(), SettingsError> {
    file::parse(text, Path::new("task.toml"), now).map(drop)
}

/// What a task asks of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct TaskRequest {
    pub(crate) name: Option<Label>,
    pub(crate) model: ModelName,
    pub(crate) series: Series,
    /// Empty: all.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) tags: TagFilter,
    pub(crate) training: Training,
    pub(crate) budget: Budget,
    pub(crate) codec: Codec,
    pub(crate) delta_clip_norm: Option<f64>,
    /// 0: the coordinator's.
    pub(crate) weight_cap: u64,
    pub(crate) evaluation: Evaluation,
}

/// How many rounds, when, and when each ends.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// 0: no bound.
    pub(crate) rounds: u32,
    /// A round begins this often; `None`: as soon as the last one has ended.
    pub(crate) every: Option<Duration>,
    /// No round begins from then on.
    pub(crate) until: Option<UnixMillis>,
    /// Deltas that close a round; 0: the whole cohort.
    pub(crate) target: u32,
    /// With fewer at the deadline a round is abandoned.
    pub(crate) minimum: u32,
    /// How long a round may collect.
    pub(crate) deadline: Duration,
}

/// What each release is tried on.
#[derive(Debug, Clone)]
pub(crate) enum Evaluation {
    /// Nothing.
    None,
    /// The held-out samples of a source on this machine.
    Source(SourceSpec),
    /// Samples at hand, as a blob.
    Samples(Vec<u8>),
}

impl Evaluation {
    /// The samples, as a blob, for a model that takes images like this.
    pub(crate) fn read(self, image: Option<&ImageInput>) -> anyhow::Result<Option<Vec<u8>>> {
        use anyhow::Context as _;
        Ok(match self {
            Self::None => None,
            Self::Samples(blob) => Some(blob),
            Self::Source(spec) => {
                let samples = spec.open_for(image)?.held_out()?;
                Some(samples.to_bytes().context("evaluation samples")?)
            }
        })
    }
}

/// Uploads the evaluation samples, then starts the task; a lost answer may be asked for again.
pub(crate) async fn start(
    operator: &mut Operator,
    task: TaskRequest,
) -> anyhow::Result<wire::StartRoundsReply> {
    let evaluation = task.evaluation;
    let image = match &evaluation {
        Evaluation::Source(spec) if spec.has_images() => operator.image_input(&task.model).await?,
        _ => None,
    };
    let evaluation = tokio::task::spawn_blocking(move || evaluation.read(image.as_ref())).await??;
    let evaluation_digest = match evaluation {
        Some(blob) => operator.put_blob(blob.into(), None).await?.to_bytes(),
        None => Default::default(),
    };
    let series = task.series;
    let request = wire::StartRoundsRequest {
        model: task.model.to_string(),
        rounds: series.rounds,
        target_deltas: series.target,
        minimum_deltas: series.minimum,
        deadline_seconds: u32::try_from(series.deadline.as_secs()).unwrap_or(u32::MAX),
        cohort: task.nodes.iter().map(ToString::to_string).collect(),
        training: Some((&task.training).into()),
        delta_clip_norm: task.delta_clip_norm.unwrap_or(0.0),
        weight_cap: task.weight_cap,
        evaluation_digest,
        idempotency_key: keys::random::<16>()?.to_vec().into(),
        cohort_tags: task.tags.terms().iter().map(ToString::to_string).collect(),
        budget: (!task.budget.is_unbounded()).then(|| (&task.budget).into()),
        every_seconds: series.every.map_or(0, |d| d.as_secs()),
        until_unix_ms: series.until.map_or(0, |u| u.0),
        codec: task.codec.to_string(),
        name: task.name.map(|n| n.to_string()).unwrap_or_default(),
    };
    operator.start(request).await
}
