//! Programs of today beside programs of one minor version earlier, in whole rounds.
//!
//! The programs at both ends are today's, as real processes. A relay between them makes one side
//! old: it drops every field, and answers every call, that the earlier version did not know
//! (`lamplight_contract::relay`). `record` takes down the conversations of this version for the
//! tests of later ones; see `docs/compatibility.md`.

mod record;
mod site;

use lamplight_contract::{Aged, Frozen, relay, tape};
use lamplight_proto::{
    refusal::Refusal,
    tls::{self, Identity},
    wire::{self, operator_client::OperatorClient},
};
use prost::Message as _;
use serde_json::Value;

use site::{Cast, OURS, Site, wait_for};

/// The model that a recording pushed: small, and made by a program of that version.
fn recorded_model(frozen: &Frozen) -> Vec<u8> {
    let calls = tape::read(&frozen.dir.join(tape::FILE));
    let put = calls
        .iter()
        .find(|c| c.path == "/lamplight.v1.Operator/PutBlob")
        .expect("a model was pushed");
    let chunks = put.requests.iter().map(|said| {
        let request = wire::PutBlobRequest::decode(&said.bytes()[..]).expect("a chunk");
        request.chunk.expect("a chunk").data
    });
    chunks.collect::<Vec<_>>().concat()
}

/// Starts a round as an operator of the earlier version would, and waits for its end.
fn round(site: &Site) -> Value {
    let identity = Identity::read(site.path("state/operators/admin").as_ref()).expect("made");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let started = runtime.block_on(async {
        let link = tls::connect(&site.relay.address, &identity).expect("a link");
        let sgd = wire::Sgd {
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
        };
        let request = wire::StartRoundsRequest {
            model: "post".into(),
            rounds: 1,
            minimum_deltas: 1,
            deadline_seconds: 600,
            training: Some(wire::Training {
                epochs: 1,
                batch: 8,
                optimizer: Some(wire::Optimizer {
                    kind: Some(wire::optimizer::Kind::Sgd(sgd)),
                }),
                schedule: wire::Schedule::Constant as i32,
                norm_mode: wire::NormMode::Frozen as i32,
                ..Default::default()
            }),
            idempotency_key: b"once".to_vec().into(),
            ..Default::default()
        };
        OperatorClient::new(link).start_rounds(request).await
    });
    let round = started.expect("started").into_inner().round.to_string();
    wait_for("the round ends", || {
        let view = site.ask(&["round", "show", &round]);
        (view["ended_unix_ms"].as_i64() > Some(0)).then_some(view)
    })
}

/// A whole round; the model in it is of the earlier version.
fn play(cast: Cast) -> Site {
    let model = recorded_model(&Frozen::previous());
    let mut site = Site::new(cast, None);
    let file = site.path("base.gguf");
    std::fs::write(&file, model).expect("written");
    site.ask(&["model", "push", &file, "--model", "post"]);
    site.start_agents();
    let view = round(&site);
    let logs = || [0, 1].map(|n| site.log(&format!("node-{n}"))).concat();
    assert_eq!(view["phase"], "published", "{view:#}\n{}", logs());
    let state = |node: usize| {
        let id = site.status(node)["node_id"].clone();
        let all = view["participants"].as_array().expect("participants");
        let found = all.iter().find(|p| p["node_id"] == id).expect("asked");
        (found["state"].clone(), found["reason"].clone())
    };
    assert_eq!(state(0).0, "accepted", "{view:#}\n{}", logs());
    // Failures travel as well.
    let (failed, reason) = state(1);
    assert_eq!(failed, "failed", "{view:#}");
    let reason = reason.as_str().unwrap_or_default();
    assert!(reason.contains("no samples"), "{reason}");
    // The node holds the receipt, and goes on: on the new release next time.
    let status = site.status(0);
    assert_eq!(status["receipts"], 1, "{status:#}");
    for command in [
        &["node", "list"][..],
        &["model", "list"],
        &["round", "list"],
        &["release", "list", "--model", "post"],
    ] {
        let listed = site.ask(command);
        assert!(
            listed.as_array().is_some_and(|l| !l.is_empty()),
            "{command:?}"
        );
    }
    let key = std::fs::read_to_string(site.path("state/release.pub")).expect("a key");
    let release = site.ask(&["release", "show", "--model", "post", "--key", key.trim()]);
    assert_eq!(release["version"], 2, "{release:#}");
    let seen = site.relay.seen();
    // Shown when a test fails, or with --nocapture.
    eprintln!("the relay dropped {:?}", seen.dropped);
    for call in [
        "Rounds/Poll",
        "Rounds/Report",
        "Models/Pull",
        "Deltas/Commit",
    ] {
        let path = format!("/lamplight.v1.{call}");
        assert!(seen.calls.contains_key(&path), "{call} did not go through");
    }
    site
}

#[test]
fn an_agent_of_the_previous_version_does_a_round_with_this_coordinator() {
    let frozen = Frozen::previous();
    let site = play(Cast::ours(Some((Aged::Callers, frozen.clone()))));
    // The coordinator knows how old it is.
    let nodes = site.ask(&["node", "list"]);
    for node in nodes.as_array().expect("a list") {
        assert_eq!(node["agent_version"], frozen.name(), "{node:#}");
    }
}

#[test]
fn this_agent_does_a_round_with_a_coordinator_of_the_previous_version() {
    let site = play(Cast::ours(Some((Aged::Coordinator, Frozen::previous()))));
    // What it never offered, it does not offer now.
    let identity = Identity::read(site.path("state/operators/admin").as_ref()).expect("made");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let status = runtime.block_on(async {
        let link = tls::connect(&site.relay.address, &identity).expect("a link");
        let mut client = tonic::client::Grpc::new(link);
        client.ready().await.expect("ready");
        let path = "/lamplight.v1.Rounds/Sing".parse().expect("a path");
        let request = tonic::Request::new(Default::default());
        let answer = client.unary(request, path, relay::Raw).await;
        answer.map(drop).expect_err("no such call")
    });
    // The relay said `UNIMPLEMENTED`; every client of ours makes words of it.
    let refusal = Refusal::in_status(&status).expect("a refusal");
    assert!(
        refusal.message.contains("upgrade the coordinator"),
        "{refusal}"
    );
    let seen = site.relay.seen();
    assert!(seen.unknown_calls.contains("/lamplight.v1.Rounds/Sing"));
}

/// A coordinator of 0.1 knows neither tasks, nor which parameters move, nor which nodes to list. (Goes
/// when `golden/v0.1` does.)
#[test]
fn what_an_old_coordinator_would_not_see_is_told_with_a_remedy_and_not_done() {
    let mut all = Frozen::all().into_iter();
    let frozen = all.find(|f| f.version == (0, 1)).expect("kept");
    let model = recorded_model(&frozen);
    let site = Site::new(Cast::ours(Some((Aged::Coordinator, frozen))), None);
    let (file, task) = (site.path("base.gguf"), site.path("task.toml"));
    std::fs::write(&file, model).expect("written");
    std::fs::write(
        &task,
        "model = \"post\"\n[training]\ntrainable = \"head\"\n",
    )
    .expect("written");
    site.ask(&["model", "push", &file, "--model", "post"]);
    for (command, remedy) in [
        (&["task", "list"][..], "upgrade the coordinator"),
        (
            &["round", "start", "--task", &task],
            "upgrade it, or leave that out",
        ),
        (
            &["node", "list", "--tag", "site=oslo"],
            "upgrade it, or leave that out",
        ),
        (
            &["node", "list", "--state", "active"],
            "upgrade it, or leave that out",
        ),
    ] {
        let output = site.operator(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("0.1.0") && said.contains(remedy), "{said}");
        assert!(output.stdout.is_empty(), "{command:?}: {output:?}");
    }
    let rounds = site.ask(&["round", "list"]);
    assert_eq!(rounds, Value::Array(vec![]), "nothing was started");
}

/// The `lamplight` program of the previous version, built from its tag.
fn previous_program() -> String {
    std::env::var("LAMPLIGHT_PREVIOUS")
        .expect("LAMPLIGHT_PREVIOUS names the previous version's `lamplight` program")
}

#[test]
#[ignore = "needs a program of the previous version, see docs/compatibility.md"]
fn a_real_agent_of_the_previous_version_does_a_round_with_this_coordinator() {
    play(Cast {
        agent: previous_program(),
        ..Cast::ours(None)
    });
}

#[test]
#[ignore = "needs a program of the previous version, see docs/compatibility.md"]
fn this_agent_does_a_round_with_a_real_coordinator_of_the_previous_version() {
    play(Cast {
        coordinator: previous_program(),
        agent: OURS.to_owned(),
        aged: None,
    });
}
