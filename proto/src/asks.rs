//! What a coordinator must know to do what an operator asks.
//!
//! A coordinator that is older than a field of `StartRounds` does not see the field, and would
//! start another task than the one asked for. So whoever asks looks at the coordinator's version
//! first ([`too_much_for`]). One that is older than the filters of `ListNodes` lists every node
//! ([`too_much_to_list`]). What nodes must know is [`crate::needs`].

use crate::{offer::clip, version::ProgramVersion, wire};

const V0_2: ProgramVersion = ProgramVersion::new(0, 2, 0);

/// Something a request may ask of a coordinator.
struct Ask<R> {
    /// As task files and flags call it.
    name: &'static str,
    /// The first version whose coordinator sees it.
    since: ProgramVersion,
    /// Whether a request asks for it.
    asked_by: fn(&R) -> bool,
}

/// What came to `StartRounds` after 0.1. An older coordinator does not see these fields and would
/// start another task than the one asked for.
const ASKS: &[Ask<wire::StartRoundsRequest>] = &[
    Ask {
        name: "tags",
        since: V0_2,
        asked_by: |r| !r.cohort_tags.is_empty(),
    },
    Ask {
        name: "budget",
        since: V0_2,
        asked_by: |r| r.budget.is_some(),
    },
    Ask {
        name: "every",
        since: V0_2,
        asked_by: |r| r.every_seconds != 0 || r.until_unix_ms != 0,
    },
    Ask {
        name: "codec",
        since: V0_2,
        asked_by: |r| !matches!(r.codec.as_str(), "" | "f32"),
    },
    Ask {
        name: "trainable",
        since: V0_2,
        asked_by: |r| {
            let moved = r.training.as_ref().map_or("", |t| t.trainable.as_str());
            !matches!(moved, "" | "all")
        },
    },
];

/// What came to `ListNodes` after 0.1. An older coordinator lists every node.
const FILTERS: &[Ask<wire::ListNodesRequest>] = &[
    Ask {
        name: "--tag",
        since: V0_2,
        asked_by: |r| !r.tags.is_empty(),
    },
    Ask {
        name: "--state",
        since: V0_2,
        asked_by: |r| !r.states.is_empty(),
    },
];

/// Why a coordinator of this version cannot start what is asked; `None` when it can. A version that
/// cannot be read is taken for too old.
#[must_use]
pub fn too_much_for(request: &wire::StartRoundsRequest, coordinator: &str) -> Option<String> {
    lacking("task", ASKS, request, coordinator)
}

/// Why the answer of a coordinator of this version is not the list that was asked for, in the same
/// way. Listing changes nothing, so it may be looked at afterwards.
#[must_use]
pub fn too_much_to_list(request: &wire::ListNodesRequest, coordinator: &str) -> Option<String> {
    lacking("list", FILTERS, request, coordinator)
}

fn lacking<R>(what: &str, asks: &[Ask<R>], request: &R, coordinator: &str) -> Option<String> {
    let version: Option<ProgramVersion> = coordinator.parse().ok();
    let lacking: Vec<&Ask<R>> = (asks.iter())
        .filter(|ask| (ask.asked_by)(request))
        .filter(|ask| version.is_none_or(|v| v < ask.since))
        .collect();
    let since = lacking.iter().map(|ask| ask.since).max()?;
    let names: Vec<String> = lacking
        .iter()
        .map(|ask| format!("`{}`", ask.name))
        .collect();
    Some(format!(
        "the {what} asks for {}, which coordinators know from {since} on; this one is {:?}: upgrade \
         it, or leave that out",
        names.join(", "),
        clip(coordinator)
    ))
}

/// Whether a request asks for anything that not every coordinator knows.
#[must_use]
pub fn is_picky(request: &wire::StartRoundsRequest) -> bool {
    ASKS.iter().any(|ask| (ask.asked_by)(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_an_older_coordinator_would_not_see_whole_is_told_before_it_starts() {
        let plain = wire::StartRoundsRequest {
            model: "post".into(),
            codec: "f32".into(),
            name: "nightly".into(),
            training: Some(wire::Training {
                trainable: "all".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(!is_picky(&plain));
        assert_eq!(too_much_for(&plain, "0.1.0"), None);
        let picky = wire::StartRoundsRequest {
            cohort_tags: vec!["site=chicago".into()],
            budget: Some(wire::Budget::default()),
            ..plain
        };
        assert!(is_picky(&picky));
        assert_eq!(too_much_for(&picky, "0.2.0"), None);
        assert_eq!(
            too_much_for(&picky, "0.1.0").as_deref(),
            Some(
                "the task asks for `tags`, `budget`, which coordinators know from 0.2.0 on; this \
                 one is \"0.1.0\": upgrade it, or leave that out"
            )
        );
        assert!(too_much_for(&picky, "unknown").is_some());
    }

    #[test]
    fn a_list_of_some_nodes_by_a_coordinator_that_lists_all_is_told() {
        let all = wire::ListNodesRequest::default();
        assert_eq!(too_much_to_list(&all, "0.1.0"), None);
        let some = wire::ListNodesRequest {
            tags: vec!["site=oslo".into()],
            states: vec![wire::NodeState::Active.into()],
        };
        assert_eq!(too_much_to_list(&some, "0.2.0"), None);
        assert_eq!(
            too_much_to_list(&some, "0.1.0").as_deref(),
            Some(
                "the list asks for `--tag`, `--state`, which coordinators know from 0.2.0 on; this \
                 one is \"0.1.0\": upgrade it, or leave that out"
            )
        );
        assert!(too_much_to_list(&some, "unknown").is_some());
    }
}
