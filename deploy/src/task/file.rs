//! The task file: TOML as an operator writes it, checked key by key.

use std::{collections::BTreeSet, fs, io, path::Path};

use anyhow::Context as _;
use lamplight_agent::source::SourceSpec;
use lamplight_proto::{
    Malformed,
    bounds::{MAX_COHORT, MAX_WEIGHT},
    budget::{Budget, DailyWindow, Hours, MAX_WINDOWS},
    ids::{Label, ModelName, NodeId, UnixMillis},
    offer::{Codec, NormMode, Optimizer, Schedule, Trainable, Training},
    settings::{Document, SettingsError},
    tag::{TagFilter, Wanted},
    wire,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Evaluation, TaskRequest, rounds::Rounds};
use crate::output::OrHint as _;

/// The commented example that `lamplight task example` prints.
pub const EXAMPLE: &str = include_str!("../../config/task.toml");

/// A task for the nodes of a fleet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(crate) struct TaskFile {
    /// The model to fine-tune, by its name in the fleet.
    model: String,
    /// The task's own name, for listings: letters, digits, `-`, `_`, `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// How many rounds, and when.
    #[serde(default)]
    rounds: Rounds,
    /// Who is asked; everybody when absent.
    #[serde(default)]
    cohort: Cohort,
    /// How nodes fine-tune.
    #[serde(default)]
    training: TrainingTable,
    /// What comes back.
    #[serde(default)]
    delta: DeltaTable,
    /// What a round may use of a node, at most. A node's own limits can only narrow it.
    #[serde(default)]
    budget: BudgetTable,
    /// What each new release is tried on, before it is published.
    #[serde(default)]
    evaluation: EvaluationTable,
}

/// Who is asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Cohort {
    /// Only nodes with these tags, e.g. ["site=chicago", "mount=high"]: every key must match, of
    /// several values of one key any will do.
    tags: Vec<String>,
    /// Only these nodes, by id.
    nodes: Vec<String>,
}

/// Update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OptimizerName {
    Sgd,
    Adamw,
}

/// How nodes fine-tune.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct TrainingTable {
    /// Passes over a node's samples in each round.
    epochs: u32,
    /// Samples in a step.
    batch: u32,
    /// Update rule.
    optimizer: OptimizerName,
    /// Step size.
    learning_rate: f32,
    /// Learning rate over a round's steps: "constant" or "cosine" (down to zero).
    #[schemars(with = "String")]
    schedule: Schedule,
    /// Share of the last step kept. For sgd; 0.9 without it.
    momentum: Option<f32>,
    /// Decay of the first moment. For adamw; 0.9 without it.
    beta1: Option<f32>,
    /// Decay of the second moment. For adamw; 0.999 without it.
    beta2: Option<f32>,
    /// Added to the denominator. For adamw; 1e-8 without it.
    epsilon: Option<f32>,
    /// Weight decay (sgd: L2 penalty; adamw: decoupled).
    weight_decay: f32,
    /// Longest gradient, all parameters together; longer ones are shortened to it. 0: no bound.
    clip_norm: f32,
    /// Which parameters move, and so what a delta holds: "all", "head", "bias" or "norm".
    #[schemars(with = "String")]
    trainable: Trainable,
    /// Batch norms: "frozen" (running statistics stay; safe under label skew) or "train".
    #[schemars(with = "String")]
    norm_mode: NormMode,
    /// Augmentation: every x, y, z channel triple is rotated by up to this angle. 0: none.
    rotate_degrees: f32,
    /// Seed of shuffling and augmentation; each node derives its own for each round.
    seed: u64,
}

impl Default for TrainingTable {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch: 32,
            optimizer: OptimizerName::Sgd,
            learning_rate: 0.01,
            schedule: Schedule::Constant,
            momentum: None,
            beta1: None,
            beta2: None,
            epsilon: None,
            weight_decay: 0.0,
            clip_norm: 1.0,
            trainable: Trainable::All,
            norm_mode: NormMode::Frozen,
            rotate_degrees: 0.0,
            seed: 0,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct DeltaTable {
    /// How deltas are written: "f32", the only way there is so far.
    codec: String,
    /// Longest delta (L2 norm over all parameters); longer ones are scaled down to it.
    clip_norm: Option<f64>,
    /// A node's number of samples counts at most this much in the mean.
    weight_cap: u64,
}

impl Default for DeltaTable {
    fn default() -> Self {
        Self {
            codec: Codec::F32.to_string(),
            clip_norm: None,
            weight_cap: 1_000_000,
        }
    }
}

/// What a round may use of a node, at most.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct BudgetTable {
    /// Working memory of training, MiB. A node that needs more declines.
    memory_mib: Option<u64>,
    /// Energy, joules. Training ends when it is spent, and what was learned is sent.
    energy_joules: Option<f64>,
    /// Model and delta over the network, MiB. A node that would need more declines.
    transfer_mib: Option<u64>,
    /// Only within these hours of every day, UTC, e.g. ["22:00-06:00"].
    window_utc: Vec<String>,
}

/// What each new release is tried on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct EvaluationTable {
    /// Its held-out samples, on this machine, e.g. "builtin:post?post=9&seed=7". They go to the
    /// coordinator.
    source: Option<String>,
}

/// Where to look for what a task file may say.
const HINT: &str =
    "lamplight task example shows every key; lamplight task check looks at a file alone";

/// Reads a task file, or standard input for `-`, and checks all that can be checked without a
/// coordinator.
///
/// # Errors
/// The first fault, with file and line.
pub(crate) fn read(path: &Path) -> anyhow::Result<TaskRequest> {
    if path == Path::new("-") {
        let document = Document::read_stream(io::stdin().lock(), Path::new("standard input"))?;
        return check(&document, UnixMillis::now()).hint(|| HINT.into());
    }
    // A named file that is not there is said so before anything else.
    fs::metadata(path).with_context(|| {
        format!(
            "the task file {} cannot be read; `lamplight task example > {}` writes one",
            path.display(),
            path.display()
        )
    })?;
    check(&Document::read_file(path)?, UnixMillis::now()).hint(|| HINT.into())
}

/// Reads a task from text, at this time.
///
/// # Errors
/// The first fault, with `origin` and line.
pub(crate) fn parse(
    text: &str,
    origin: &Path,
    now: UnixMillis,
) -> Result<TaskRequest, SettingsError> {
    check(&Document::parse(text, origin)?, now)
}

/// The sentence of an error without the name of what was parsed: the key says that.
fn fault(e: &Malformed) -> String {
    format!("is no {}: {}", e.message, e.fault)
}

fn check(document: &Document, now: UnixMillis) -> Result<TaskRequest, SettingsError> {
    let file: TaskFile = document.read()?;
    let bad = |key: &str, fault: String| document.fault(key, fault);
    let malformed = |key: &str| {
        let key = key.to_owned();
        move |e: Malformed| document.fault(&key, fault(&e))
    };

    let model: ModelName = file.model.parse().map_err(malformed("model"))?;
    let name = (file.name.as_deref())
        .map(str::parse::<Label>)
        .transpose()
        .map_err(malformed("name"))?;

    let cohort = &file.cohort;
    let mut terms: Vec<Wanted> = Vec::with_capacity(cohort.tags.len());
    for (i, tag) in cohort.tags.iter().enumerate() {
        terms.push(
            tag.parse()
                .map_err(malformed(&format!("cohort.tags[{i}]")))?,
        );
    }
    let tags = TagFilter::new(terms).map_err(malformed("cohort.tags"))?;
    if cohort.nodes.len() > MAX_COHORT {
        let fault = format!(
            "names {} nodes, a round takes at most {MAX_COHORT}; choose them by `tags`",
            cohort.nodes.len()
        );
        return Err(bad("cohort.nodes", fault));
    }
    let mut nodes: Vec<NodeId> = Vec::with_capacity(cohort.nodes.len());
    let mut named = BTreeSet::new();
    for (i, node) in cohort.nodes.iter().enumerate() {
        let key = format!("cohort.nodes[{i}]");
        let node: NodeId = node.parse().map_err(malformed(&key))?;
        if !named.insert(node.clone()) {
            return Err(bad(&key, format!("names {node} a second time; remove it")));
        }
        nodes.push(node);
    }

    let delta = &file.delta;
    let codec = Codec::parse("codec", &delta.codec).map_err(malformed("delta.codec"))?;
    if let Some(norm) = delta.clip_norm
        && !(norm > 0.0 && norm.is_finite())
    {
        let rule = "must be above 0; leave it out for no bound";
        return Err(bad("delta.clip_norm", format!("is {norm}, {rule}")));
    }
    if delta.weight_cap == 0 {
        let rule = "is 0, must be 1 or more: no sample would count";
        return Err(bad("delta.weight_cap", rule.to_owned()));
    }
    if delta.weight_cap > MAX_WEIGHT {
        let fault = format!(
            "is {}, must be {MAX_WEIGHT} or less; no node has as many samples",
            delta.weight_cap
        );
        return Err(bad("delta.weight_cap", fault));
    }
    let evaluation = match &file.evaluation.source {
        None => Evaluation::None,
        Some(source) => {
            let spec: SourceSpec = source
                .parse()
                .map_err(|e| bad("evaluation.source", format!("is no source: {e}")))?;
            Evaluation::Source(spec)
        }
    };
    let series = file.rounds.series(document, nodes.len(), now)?;
    Ok(TaskRequest {
        name,
        model,
        nodes,
        tags,
        training: training(document, &file.training)?,
        budget: budget(document, &file.budget)?,
        codec,
        delta_clip_norm: delta.clip_norm,
        weight_cap: delta.weight_cap,
        evaluation,
        series,
    })
}

fn training(document: &Document, t: &TrainingTable) -> Result<Training, SettingsError> {
    let only_for = |key: &str, given: bool, wants: &str| {
        if given {
            let key = format!("training.{key}");
            let remedy = format!("is for {wants}; remove it, or set optimizer = \"{wants}\"");
            return Err(document.fault(&key, remedy));
        }
        Ok(())
    };
    let optimizer = match t.optimizer {
        OptimizerName::Sgd => {
            only_for("beta1", t.beta1.is_some(), "adamw")?;
            only_for("beta2", t.beta2.is_some(), "adamw")?;
            only_for("epsilon", t.epsilon.is_some(), "adamw")?;
            Optimizer::Sgd {
                learning_rate: t.learning_rate,
                momentum: t.momentum.unwrap_or(0.9),
                weight_decay: t.weight_decay,
            }
        }
        OptimizerName::Adamw => {
            only_for("momentum", t.momentum.is_some(), "sgd")?;
            Optimizer::AdamW {
                learning_rate: t.learning_rate,
                beta1: t.beta1.unwrap_or(0.9),
                beta2: t.beta2.unwrap_or(0.999),
                eps: t.epsilon.unwrap_or(1e-8),
                weight_decay: t.weight_decay,
            }
        }
    };
    let training = Training {
        epochs: t.epochs,
        batch: t.batch,
        optimizer,
        clip_norm: (t.clip_norm != 0.0).then_some(t.clip_norm),
        schedule: t.schedule,
        norm_mode: t.norm_mode,
        seed: t.seed,
        rotate_deg: t.rotate_degrees,
        trainable: t.trainable,
    };
    // Through the same door as a message: bad settings are refused here, not on a node. Its faults
    // begin with the field's name.
    Training::try_from(wire::Training::from(&training)).map_err(|e| {
        let (field, rest) = e.fault.split_once(' ').unwrap_or(("", &e.fault));
        let key = match field {
            "eps" => "epsilon",
            "rotate_deg" => "rotate_degrees",
            field => field,
        };
        document.fault(&format!("training.{key}"), rest)
    })
}

fn budget(document: &Document, b: &BudgetTable) -> Result<Budget, SettingsError> {
    let bad = |key: &str, fault: String| document.fault(key, fault);
    let bytes = |key: &str, mib: Option<u64>| match mib {
        Some(0) => Err(bad(
            key,
            "is 0, must be 1 or more; leave it out for no bound".into(),
        )),
        Some(mib) => (mib
            .checked_mul(1 << 20)
            .filter(|&b| i64::try_from(b).is_ok()))
        .map(Some)
        .ok_or_else(|| bad(key, format!("is {mib} MiB, more than any machine has"))),
        None => Ok(None),
    };
    if let Some(joules) = b.energy_joules
        && !(joules > 0.0 && joules.is_finite())
    {
        let rule = "must be above 0; leave it out for no bound";
        return Err(bad("budget.energy_joules", format!("is {joules}, {rule}")));
    }
    if b.window_utc.len() > MAX_WINDOWS {
        return Err(bad(
            "budget.window_utc",
            format!(
                "has {} windows, at most {MAX_WINDOWS} are taken",
                b.window_utc.len()
            ),
        ));
    }
    let mut windows: Vec<DailyWindow> = Vec::with_capacity(b.window_utc.len());
    for (i, text) in b.window_utc.iter().enumerate() {
        let window = text
            .parse()
            .map_err(|e: Malformed| bad(&format!("budget.window_utc[{i}]"), fault(&e)))?;
        windows.push(window);
    }
    debug_assert!(Hours::of(&windows).ever(), "each window holds a minute");
    Ok(Budget {
        memory_bytes: bytes("budget.memory_mib", b.memory_mib)?,
        energy_joules: b.energy_joules,
        transfer_bytes: bytes("budget.transfer_mib", b.transfer_mib)?,
        windows,
    })
}

/// The JSON schema of a task file, for editors.
pub(crate) fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(TaskFile).to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), "A Lamplight task".into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TaskRequest, String> {
        // A day in 2026.
        let now = UnixMillis(1_790_000_000_000);
        parse(text, Path::new("task.toml"), now).map_err(|e| e.to_string())
    }

    #[test]
    fn the_example_is_a_task_and_every_key_that_is_commented_out_is_one_too() {
        let plain = read(EXAMPLE).expect("the example as printed");
        assert_eq!((plain.series.rounds, plain.series.every), (3, None));
        // `#key = value` is an example; `# Words` is prose.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let task = read(&all).expect("the example with everything");
        assert!(task.series.every.is_some() && task.series.until.is_some());
        assert!(!task.tags.is_empty() && !task.budget.is_unbounded());
        assert!(matches!(task.evaluation, Evaluation::Source(_)));
        // Nothing is missing in it.
        let schema = schema();
        let defs = schema["$defs"].as_object().expect("tables");
        let tables = defs.values().chain([&schema]);
        for table in tables.filter_map(|t| t.get("properties")?.as_object()) {
            for key in table.keys() {
                let there = all
                    .lines()
                    .any(|l| l.starts_with(&format!("{key} = ")) || l == format!("[{key}]"));
                // These two are for adamw, and the example trains with sgd.
                let other = matches!(key.as_str(), "beta1" | "beta2" | "epsilon");
                assert!(there || other, "`{key}` is not in the example");
            }
        }
    }

    #[test]
    fn the_readmes_task_is_one() {
        let readme = include_str!("../../../README.md");
        let text = readme.split("```toml\n").nth(1).expect("a task");
        let text = text.split("```").next().expect("its end");
        let task = read(text).expect("a task");
        assert_eq!((task.series.rounds, task.series.minimum), (0, 10));
        assert_eq!(task.training.trainable, Trainable::Head);
    }

    #[test]
    fn a_task_that_says_only_its_model_is_one_round_of_everybody() {
        let task = read("model = \"post\"").expect("a task");
        let series = &task.series;
        assert_eq!((series.rounds, series.minimum, series.target), (1, 1, 0));
        assert!(task.tags.is_empty() && task.nodes.is_empty() && task.budget.is_unbounded());
    }

    #[test]
    fn without_a_count_a_task_that_recurs_has_no_end() {
        let task = read("model = \"post\"\n[rounds]\nevery = \"6h\"").expect("a task");
        assert_eq!(task.series.rounds, 0);
        assert_eq!(task.series.every.map(|e| e.as_secs()), Some(21_600));
    }
}
