//! What a demo says at its end: a table for people, one line of JSON for scripts.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use lamplight_proto::wire;
use schemars::JsonSchema;
use serde::Serialize;

use super::{measure::Measured, scenario::Scenario};
use crate::output;

/// Means on samples nobody trained on. Where a scenario has unseen people, `local_only` and
/// `central` are on them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Accuracy {
    Own {
        base: f64,
        r#final: f64,
        central: f64,
        local_only: f64,
    },
    Unseen {
        unseen_base: f64,
        unseen_final: f64,
        local_only: f64,
        central: f64,
        own_base: f64,
        own_final: f64,
        own_central: f64,
        own_local_only: f64,
    },
}

#[derive(Debug, Serialize, JsonSchema)]
struct Bytes {
    model_down: u64,
    delta_up: u64,
    data_stayed: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Node {
    node_id: String,
    name: String,
    source: String,
    samples: u64,
    accuracy_before: f64,
    accuracy_after: f64,
    bytes_down: u64,
    bytes_up: u64,
    bytes_stayed: u64,
    training_seconds: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Release {
    version: u64,
    digest: String,
    size: u64,
    deltas: u32,
    accuracy: f64,
}

/// The whole report.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    scenario: String,
    nodes: usize,
    rounds: usize,
    seconds: f64,
    accuracy: Accuracy,
    bytes: Bytes,
    releases: Vec<Release>,
    per_node: Vec<Node>,
    kept: Option<PathBuf>,
    #[serde(skip)]
    unseen_name: &'static str,
}

/// What a report is made of.
pub(super) struct Parts<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) nodes: &'a [wire::NodeView],
    pub(super) rounds: &'a [wire::RoundView],
    pub(super) releases: &'a [wire::ReleaseView],
    pub(super) measured: &'a Measured,
    pub(super) seconds: f64,
    pub(super) kept: Option<PathBuf>,
}

/// Digits beyond the fourth are noise of a few thousand samples.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// What a node moved and did over all rounds.
#[derive(Default)]
struct Totals {
    samples: u64,
    down: u64,
    up: u64,
    seconds: f64,
}

fn totals(rounds: &[wire::RoundView]) -> BTreeMap<&str, Totals> {
    let mut by_name: BTreeMap<&str, Totals> = BTreeMap::new();
    for p in rounds.iter().flat_map(|r| &r.participants) {
        let t = by_name.entry(&p.name).or_default();
        t.samples = p.sample_count;
        t.down += p.model_bytes;
        t.up += p.delta_bytes;
        t.seconds += p.training_seconds;
    }
    by_name
}

impl Report {
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let m = parts.measured;
        let (first, last) = (&m.releases[0], &m.releases[m.releases.len() - 1]);
        let accuracy = match (first.unseen, last.unseen) {
            (Some(base), Some(end)) => Accuracy::Unseen {
                unseen_base: rounded(base),
                unseen_final: rounded(end),
                local_only: rounded(m.local_only.judged()),
                central: rounded(m.central.judged()),
                own_base: rounded(first.own_mean()),
                own_final: rounded(last.own_mean()),
                own_central: rounded(m.central.own_mean()),
                own_local_only: rounded(m.local_only.own_mean()),
            },
            _ => Accuracy::Own {
                base: rounded(first.own_mean()),
                r#final: rounded(last.own_mean()),
                central: rounded(m.central.own_mean()),
                local_only: rounded(m.local_only.own_mean()),
            },
        };
        let totals = totals(parts.rounds);
        let none = Totals::default();
        let per_node: Vec<Node> = parts
            .scenario
            .nodes
            .iter()
            .enumerate()
            .map(|(i, plan)| {
                let t = totals.get(plan.name.as_str()).unwrap_or(&none);
                let view = parts.nodes.iter().find(|n| n.name == plan.name);
                Node {
                    node_id: view.map(|n| n.node_id.clone()).unwrap_or_default(),
                    name: plan.name.clone(),
                    source: plan.source.to_string(),
                    samples: t.samples,
                    accuracy_before: rounded(first.own[i]),
                    accuracy_after: rounded(last.own[i]),
                    bytes_down: t.down,
                    bytes_up: t.up,
                    bytes_stayed: m.data_bytes[i],
                    training_seconds: rounded(t.seconds),
                }
            })
            .collect();
        let releases = parts
            .releases
            .iter()
            .zip(&m.releases)
            .map(|(r, accuracy)| Release {
                version: r.version,
                digest: r.digest.clone(),
                size: r.size,
                deltas: r.deltas,
                accuracy: rounded(accuracy.judged()),
            })
            .collect();
        Self {
            scenario: parts.scenario.title.clone(),
            nodes: per_node.len(),
            rounds: parts.rounds.len(),
            seconds: (parts.seconds * 10.0).round() / 10.0,
            accuracy,
            bytes: Bytes {
                model_down: per_node.iter().map(|n| n.bytes_down).sum(),
                delta_up: per_node.iter().map(|n| n.bytes_up).sum(),
                data_stayed: per_node.iter().map(|n| n.bytes_stayed).sum(),
            },
            releases,
            per_node,
            kept: parts.kept,
            unseen_name: parts.scenario.unseen_name,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = output::table([
            "node",
            "samples",
            "before",
            "after",
            "pulled",
            "sent",
            "stayed home",
        ]);
        for n in &self.per_node {
            table.add_row([
                n.name.clone(),
                n.samples.to_string(),
                output::percent(n.accuracy_before),
                output::percent(n.accuracy_after),
                output::bytes(n.bytes_down),
                output::bytes(n.bytes_up),
                output::bytes(n.bytes_stayed),
            ]);
        }
        output::right_from(&mut table, 1);
        writeln!(
            f,
            "{}, {} rounds, {:.0} s\n\naccuracy on each node's own unseen samples:\n{table}\n",
            self.scenario, self.rounds, self.seconds
        )?;
        let mut line =
            |what: &str, value: f64| writeln!(f, "  {what:<46} {:>7}", output::percent(value));
        match self.accuracy {
            Accuracy::Own {
                base,
                r#final,
                central,
                local_only,
            } => {
                line("mean before", base)?;
                line("mean after the last round", r#final)?;
                line("each node alone, as many epochs", local_only)?;
                line("all data in one place, as many epochs", central)?;
            }
            Accuracy::Unseen {
                unseen_base,
                unseen_final,
                local_only,
                central,
                ..
            } => {
                line(&format!("{}: before", self.unseen_name), unseen_base)?;
                line("after the last round", unseen_final)?;
                line("each node alone, as many epochs", local_only)?;
                line("all data in one place, as many epochs", central)?;
            }
        }
        writeln!(
            f,
            "\nmodels down {}, signed deltas up {}; {} of samples never left their nodes",
            output::bytes(self.bytes.model_down),
            output::bytes(self.bytes.delta_up),
            output::bytes(self.bytes.data_stayed)
        )?;
        match &self.kept {
            Some(dir) => write!(
                f,
                "files are in {0}; picture: {0}/accuracy.svg\n\
                 next: lamplight release verify --dir {0}",
                dir.display()
            ),
            None => write!(f, "files were removed; --keep DIR keeps them"),
        }
    }
}
