//! Nodes as people see them.

use comfy_table::Cell;

use crate::{
    output::{self, paint},
    view::{Node, NodeRound},
};

fn tags(node: &Node) -> String {
    let tags: Vec<String> = (node.tags.iter())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    tags.join(" ")
}

/// The model it runs, e.g. `post 3`.
fn runs(node: &Node) -> String {
    match (node.running_model.as_str(), node.running_digest.as_str()) {
        ("", "") => String::new(),
        ("", digest) => output::short(digest).to_owned(),
        (model, _) => format!("{model} {}", node.running_version),
    }
}

pub(super) fn listing(nodes: &[Node], is_wide: bool) -> String {
    let mut header = vec![
        "node",
        "name",
        "state",
        "phase",
        "tags",
        "last seen (UTC)",
        "runs",
        "last round",
        "deltas",
    ];
    if is_wide {
        header.extend(["version", "enrolled (UTC)", "digest", "why"]);
    }
    let mut table = output::table(header);
    for n in nodes {
        let last = n.rounds.first();
        let last_round = match last {
            Some(r) => paint::state_as(&r.state, format!("{} {}", r.round, r.state)),
            None => Cell::new(""),
        };
        let mut row = vec![
            Cell::new(&n.node_id),
            Cell::new(&n.name),
            paint::state(&n.state),
            Cell::new(&n.phase),
            Cell::new(tags(n)),
            Cell::new(output::time(n.last_seen_unix_ms)),
            Cell::new(runs(n)),
            last_round,
            Cell::new(n.deltas_accepted),
        ];
        if is_wide {
            let why = match last {
                Some(r) if !r.reason.is_empty() => r.reason.clone(),
                _ => n.state_reason.clone(),
            };
            row.extend([
                Cell::new(&n.agent_version),
                Cell::new(output::time(n.enrolled_unix_ms)),
                Cell::new(output::short(&n.running_digest)),
                Cell::new(why),
            ]);
        }
        table.add_row(row);
    }
    table.to_string()
}

fn history(rounds: &[NodeRound]) -> String {
    let mut table = output::table([
        "round",
        "task",
        "model",
        "base",
        "came of it",
        "started (UTC)",
        "why",
    ]);
    for r in rounds {
        table.add_row([
            Cell::new(r.round),
            Cell::new(r.task),
            Cell::new(&r.model),
            Cell::new(r.base_version),
            paint::state(&r.state),
            Cell::new(output::time(r.started_unix_ms)),
            Cell::new(&r.reason),
        ]);
    }
    table.to_string()
}

pub(super) fn details(n: &Node) -> String {
    let mut lines: Vec<(&str, String)> = vec![("node", format!("{} ({})", n.node_id, n.name))];
    let mut state = n.state.clone();
    if n.state_since_unix_ms != 0 {
        state = format!("{state} since {} UTC", output::time(n.state_since_unix_ms));
    }
    if !n.state_reason.is_empty() {
        state = format!("{state} ({})", n.state_reason);
    }
    lines.push(("state", state));
    lines.push(("tags", tags(n)));
    lines.push((
        "enrolled",
        format!("{} UTC", output::time(n.enrolled_unix_ms)),
    ));
    lines.push(match n.last_seen_unix_ms {
        0 => ("last seen", "never".to_owned()),
        seen => (
            "last seen",
            format!("{} UTC, {}", output::time(seen), output::ago(seen)),
        ),
    });
    lines.push(("doing", n.phase.clone()));
    lines.push(("agent", n.agent_version.clone()));
    lines.push(
        match (n.running_model.as_str(), n.running_digest.as_str()) {
            (_, "") => ("runs", "nothing yet".to_owned()),
            ("", digest) => (
                "runs",
                format!("{digest}, which is no release of this fleet"),
            ),
            (model, digest) => (
                "runs",
                format!("{model} version {}, {digest}", n.running_version),
            ),
        },
    );
    if let Some(end) = n.certificate_expires_unix_ms {
        lines.push(("certificate", format!("until {} UTC", output::time(end))));
    }
    lines.push(("deltas", format!("{} accepted", n.deltas_accepted)));
    let mut text: String = lines
        .iter()
        .map(|(what, value)| format!("{what:<12} {value}\n"))
        .collect();
    if n.rounds.is_empty() {
        text.push_str("\nno round has opened since it joined");
    } else {
        text.push('\n');
        text.push_str(&history(&n.rounds));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node {
            node_id: "node-0123456789abcdef".into(),
            name: "post-3".into(),
            enrolled_unix_ms: 1_800_000_000_000,
            last_seen_unix_ms: 0,
            phase: String::new(),
            running_digest: "ab".repeat(32),
            running_model: "post".into(),
            running_version: 3,
            agent_version: "0.1.0".into(),
            deltas_accepted: 5,
            state: "draining".into(),
            state_reason: "new cable".into(),
            state_since_unix_ms: 1_800_000_060_000,
            tags: [("site".to_owned(), "oslo".to_owned())].into(),
            certificate_expires_unix_ms: Some(1_830_000_000_000),
            rounds: vec![NodeRound {
                round: 7,
                task: 2,
                model: "post".into(),
                base_version: 3,
                phase: "published".into(),
                state: "skipped".into(),
                reason: "it is draining".into(),
                started_unix_ms: 1_800_000_070_000,
                ended_unix_ms: 0,
            }],
        }
    }

    #[test]
    fn a_node_says_its_state_what_it_runs_and_why_it_skipped_a_round() {
        let text = details(&node());
        for part in [
            "draining since 2027-01-15 08:01:00 UTC (new cable)",
            "site=oslo",
            "last seen    never",
            "post version 3, abab",
            "until 2027-12-28",
            "5 accepted",
            "it is draining",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_wide_listing_has_more_columns_than_a_narrow_one() {
        let (narrow, wide) = (listing(&[node()], false), listing(&[node()], true));
        assert!(narrow.contains("7 skipped") && !narrow.contains("it is draining"));
        assert!(wide.contains("it is draining") && wide.contains("0.1.0"));
    }
}
