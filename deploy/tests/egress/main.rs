//! Only deltas leave: a whole fleet behind a relay that reads everything, with marked samples, files,
//! labels and directories, on good roads and bad ones. Nothing marked may be seen in what nodes send,
//! and nothing that `docs/egress.md` does not list.
//!
//! Reading order: `relay` (how everything is seen), `canaries` (what is looked for), `fleet` (whose
//! data), `judge` (what a capture holds), `list` (what may be sent), `plants` (leaks that must be
//! found).

mod canaries;
mod fleet;
mod judge;
mod list;
mod plants;
mod relay;

use lamplight_models::quant::gguf;
use lamplight_proto::{envelope::Payload as _, ids::Digest};
use serde_json::Value;

use fleet::{Fleet, Part};
use judge::judge;

/// Every participant of the rounds: node id, state, reason.
fn participants(fleet: &Fleet, started: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for round in started["rounds"].as_array().expect("rounds") {
        assert_eq!(round["phase"], "published", "{round}");
        let shown = fleet.ask(&["round", "show", &round["round"].to_string()]);
        for p in shown["participants"].as_array().expect("nodes") {
            let word = |key: &str| p[key].as_str().expect("a word").to_owned();
            all.push((word("node_id"), word("state"), word("reason")));
        }
    }
    all
}

/// All reasons in a node's own journal.
fn journal(fleet: &Fleet, part: Part) -> String {
    let status = fleet.of(part).status();
    let tasks = status["tasks"].as_array().expect("tasks");
    let reasons = tasks.iter().filter_map(|t| t["reason"].as_str());
    reasons.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_canary_leaves_a_fleet_and_every_planted_leak_is_found() {
    // 1. A fleet: two models, nodes for whom all goes well and nodes for whom nothing does.
    let mut fleet = Fleet::start();
    let table = fleet.cloud_table();
    fleet.publish("walk", &table, &[]);
    let pictures = fleet.cloud_pictures();
    fleet.publish("pictures", &pictures, &["--architecture", "resnet20"]);
    for part in [
        Part::Sound,
        Part::Stranger,
        Part::Foreign,
        Part::Broken,
        Part::Gone,
        Part::Spoiled,
        Part::Pictures,
    ] {
        fleet.join(part);
    }
    fleet.joined();
    let cell = fleet.spoil();
    let base = std::fs::read(fleet.root.join("walk.gguf")).expect("a model");
    let info = gguf::read(&base).expect("a model").info;
    fleet.hide_normalised(&info.input_mean, &info.input_std);

    // 2. Rounds.
    let begin = |model: &str, rounds: &str| {
        let command = ["round", "start", "--model", model, "--rounds", rounds];
        fleet.ask(&[&command[..], &["--batch", "4", "--wait"]].concat())
    };
    let walk = participants(&fleet, &begin("walk", "2"));
    let seen = participants(&fleet, &begin("pictures", "1"));

    // 3. What was to happen has happened, on the bad roads as well.
    let state = |all: &[(String, String, String)], part: Part| {
        let id = fleet.of(part).id();
        let (_, state, reason) = all
            .iter()
            .rfind(|p| p.0 == id)
            .expect("it took part")
            .clone();
        (state, reason)
    };
    assert_eq!(state(&walk, Part::Sound).0, "accepted");
    assert_eq!(state(&walk, Part::Stranger).0, "accepted");
    assert_eq!(state(&seen, Part::Pictures).0, "accepted");
    for (all, part, cause) in [
        (&walk, Part::Foreign, "misfit: "),
        (&walk, Part::Broken, "data: "),
        (&walk, Part::Gone, "data: "),
        (&walk, Part::Spoiled, "storage: "),
        (&walk, Part::Pictures, "misfit: "),
        (&seen, Part::Sound, "misfit: "),
    ] {
        let (state, reason) = state(all, part);
        assert!(
            state == "failed" && reason.starts_with(cause),
            "{part:?}: {state}: {reason}"
        );
    }
    // Had the nodes' own words been sent, there would have been something to find.
    let foreign = &fleet.of(Part::Foreign).strange;
    for (part, word) in [(Part::Broken, &cell), (Part::Foreign, foreign)] {
        let said = journal(&fleet, part);
        assert!(said.contains(word), "{said}");
    }
    for part in [Part::Gone, Part::Spoiled] {
        let said = journal(&fleet, part);
        assert!(!fleet.canaries.find(said.as_bytes()).is_empty(), "{said}");
    }

    // One more, whose hours are closed: the nodes say that they wait.
    let waits = fleet.wait_for_hours("walk");
    assert!(waits.starts_with("window: "), "{waits}");

    // 4. What was seen is all there is: it holds what must be there.
    let capture = fleet.relay.capture();
    let reading = judge(&capture, &fleet.canaries).unwrap_or_else(|findings| {
        panic!("this left a node: {findings:#?}");
    });
    assert!(reading.calls["Enrolment/Enrol"] >= fleet.nodes.len());
    assert_eq!(
        reading.headers,
        list::headers(),
        "what the list says is sent"
    );
    for call in [
        "Rounds/Poll",
        "Rounds/Report",
        "Models/Pull",
        "Deltas/Begin",
        "Deltas/Upload",
        "Deltas/Commit",
    ] {
        assert!(reading.calls.contains_key(call), "{:?}", reading.calls);
    }
    let accepted = walk.iter().chain(&seen).filter(|p| p.1 == "accepted");
    let accepted: Vec<_> = accepted.collect();
    assert!(accepted.len() >= 3 && reading.uploads.len() == accepted.len());
    let stranger = fleet.of(Part::Stranger).id();
    for (id, payload) in &reading.manifests {
        let manifest = lamplight_proto::delta::DeltaManifest::parse(payload).expect("a manifest");
        let delta = &reading.uploads[id];
        assert_eq!(
            Digest::of(delta),
            manifest.digest,
            "the delta was not seen whole"
        );
        let digest = manifest.digest.to_string();
        let kept = fleet.root.join("state/blobs").join(&digest[..2]);
        let kept = std::fs::read(kept.join(&digest)).expect("the coordinator has it");
        assert_eq!(kept, *delta);
        let by = manifest.node_id.to_string();
        // How many, and not of what.
        assert_eq!(by == stranger, manifest.samples_aside > 0);
        assert!(accepted.iter().any(|p| p.0 == by), "{by}");
    }
    for cause in ["data", "misfit", "storage"] {
        assert!(reading.causes.contains(cause), "{:?}", reading.causes);
    }
    for connection in &capture.connections {
        assert!(connection.wire.starts_with(&[22, 3]), "no handshake of TLS");
        assert!(
            connection.plain.starts_with(b"PRI * HTTP/2.0"),
            "a connection was not read"
        );
    }
    let bytes: usize = capture.connections.iter().map(|c| c.plain.len()).sum();
    let sent: usize = reading.uploads.values().map(Vec::len).sum();
    assert!(bytes > sent, "{bytes} bytes seen, {sent} of deltas");
    println!(
        "{} requests, {bytes} bytes within TLS, {} runs of 8 bytes looked for; on the list, but not \
         sent this time: {:?}",
        capture.messages.len(),
        fleet.canaries.len(),
        list::fields()
            .difference(&reading.fields)
            .collect::<Vec<_>>()
    );

    // 5. Leaks are found by the same judge, and it says where.
    plants::an_error_in_its_own_words(&fleet);
    plants::a_header(&fleet);
    plants::samples_in_a_delta(&fleet);
    plants::a_label_in_a_manifest(&fleet);
    plants::a_reading_instead_of_a_loss(&fleet);
    plants::a_directorys_name(&fleet);
}
