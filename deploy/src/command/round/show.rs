//! Rounds as people see them.

use comfy_table::Cell;

use crate::{
    output::{self, paint},
    view::{Metrics, Round},
};

fn accuracy(metrics: Option<&Metrics>) -> String {
    metrics.map_or_else(String::new, |m| output::percent(m.accuracy))
}

fn loss(metrics: Option<&Metrics>) -> String {
    metrics.map_or_else(String::new, |m| format!("{:.4}", m.loss))
}

/// A number, or nothing where there is none.
fn unless_zero(number: u64) -> String {
    match number {
        0 => String::new(),
        n => n.to_string(),
    }
}

pub(super) fn listing(rounds: &[Round], is_wide: bool) -> String {
    let mut header = vec![
        "round",
        "task",
        "model",
        "phase",
        "deltas",
        "release",
        "accuracy",
        "started (UTC)",
    ];
    if is_wide {
        header.extend(["base", "minimum", "target", "loss", "seconds", "reason"]);
    }
    let mut table = output::table(header);
    for r in rounds {
        let mut row = vec![
            Cell::new(r.round),
            Cell::new(match r.of {
                0 => format!("{} ({})", r.task, r.index),
                of => format!("{} ({}/{of})", r.task, r.index),
            }),
            Cell::new(&r.model),
            paint::state(&r.phase),
            Cell::new(format!("{}/{}", r.accepted_deltas, r.cohort_nodes)),
            Cell::new(unless_zero(r.release_version)),
            Cell::new(accuracy(r.evaluation.as_ref())),
            Cell::new(output::time(r.started_unix_ms)),
        ];
        if is_wide {
            let took = match r.ended_unix_ms {
                0 => String::new(),
                end => (end.saturating_sub(r.started_unix_ms) / 1000).to_string(),
            };
            let target = match r.target_deltas {
                0 => "all".to_owned(),
                n => n.to_string(),
            };
            row.extend([
                Cell::new(r.base_version),
                Cell::new(r.minimum_deltas),
                Cell::new(target),
                Cell::new(loss(r.evaluation.as_ref())),
                Cell::new(took),
                Cell::new(&r.reason),
            ]);
        }
        table.add_row(row);
    }
    table.to_string()
}

pub(super) fn details(round: &Round, is_wide: bool) -> String {
    let mut header = vec![
        "node", "name", "state", "samples", "aside", "before", "after", "delta", "norm", "seconds",
    ];
    if is_wide {
        header.extend(["step", "loss", "clip factor", "pulled", "digest"]);
    }
    let mut table = output::table(header);
    for p in &round.participants {
        let state = match p.reason.as_str() {
            "" => paint::state(&p.state),
            reason => paint::state_as(&p.state, format!("{}: {reason}", p.state)),
        };
        let mut row = vec![
            Cell::new(&p.node_id),
            Cell::new(&p.name),
            state,
            Cell::new(p.sample_count),
            Cell::new(p.samples_aside),
            Cell::new(accuracy(p.before.as_ref())),
            Cell::new(accuracy(p.after.as_ref())),
            Cell::new(output::bytes(p.delta_bytes)),
            Cell::new(format!("{:.3}", p.delta_norm)),
            Cell::new(format!("{:.1}", p.training_seconds)),
        ];
        if is_wide {
            let step = match p.steps {
                0 => String::new(),
                of => format!("{}/{of}", p.step),
            };
            row.extend([
                Cell::new(step),
                Cell::new(loss(p.after.as_ref())),
                Cell::new(format!("{:.4}", p.clip_factor)),
                Cell::new(output::bytes(p.model_bytes)),
                Cell::new(output::short(&p.delta_digest)),
            ]);
        }
        table.add_row(row);
    }
    let mut text = listing(std::slice::from_ref(round), is_wide);
    if !round.reason.is_empty() {
        text = format!("{text}\nreason: {}", round.reason);
    }
    format!("{text}\n{table}")
}
