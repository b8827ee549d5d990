//! Rounds that go well, and rounds that end early.

use lamplight_coordinator::release;
use lamplight_proto::{
    cause::Told,
    envelope::{Signed, TrustedKeys},
    ids::Digest,
    refusal::Reason,
    release::ReleaseManifest,
    wire::{self, models_client::ModelsClient, report_request::Event},
};

use super::{
    node::{Node, refusal},
    server::{MODEL, Site, read, rounds, samples},
};

#[tokio::test]
async fn two_rounds_of_two_nodes_make_two_releases_that_anyone_can_recompute() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let mut b = Node::join(&server, &mut op).await;
    assert_eq!(op.push().await.version, 1);
    let evaluation = op.put(samples().to_bytes().unwrap()).await;
    assert_eq!(a.poll_reply().await.wait_ms, 777, "idle");

    let request = wire::StartRoundsRequest {
        evaluation_digest: evaluation.to_bytes(),
        delta_clip_norm: 0.05,
        ..rounds(2, 2)
    };
    let started =
        op.0.start_rounds(request.clone())
            .await
            .unwrap()
            .into_inner();
    let again = op.0.start_rounds(request).await.unwrap().into_inner();
    assert_eq!(started, again, "the same key starts nothing new");

    // The same offer each time.
    let first = a.poll_reply().await;
    assert_eq!(first.wait_ms, 20);
    assert_eq!(a.poll_reply().await.offer, first.offer);

    for seed in [0, 10] {
        a.take_part(seed).await;
        assert!(
            a.poll().await.is_none(),
            "a node that has ended gets no more work"
        );
        b.take_part(seed + 1).await;
        let view = op.ended(started.round + seed / 10).await;
        assert_eq!(view.phase, "published", "{}", view.reason);
        assert_eq!(view.release_version, 2 + seed / 10);
        assert_eq!(view.evaluation.as_ref().unwrap().samples, 6);
        for p in &view.participants {
            assert_eq!(p.state, "accepted");
            assert!(p.delta_norm > 0.05 && p.clip_factor < 1.0, "{p:?}");
            assert_eq!(p.after.as_ref().unwrap().accuracy, 0.8);
            assert!(p.model_bytes > 0, "{p:?}");
        }
    }
    let releases = op.releases().await;
    let versions: Vec<u64> = releases.iter().map(|r| r.version).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert_eq!(releases[2].deltas, 2);
    assert!(a.poll().await.is_none(), "the task is done");

    // Offline, from the files alone.
    let report = release::verify(&site.path(), None, None, Some(a.release_key));
    report.unwrap_or_else(|e| panic!("{e}"));

    let keys = TrustedKeys::new([a.release_key]);
    let bytes = read(&site.path().join(format!("releases/{MODEL}/3.manifest")));
    let manifest = Signed::<ReleaseManifest>::from_bytes(&bytes).unwrap();
    let manifest = manifest.verify(&keys).unwrap();
    let p = manifest.provenance.as_ref().unwrap();
    assert_eq!(p.base_version.0, 2);
    assert!(p.base_carry_digest.is_some());
    let mut ids = [a.id.clone(), b.id.clone()];
    ids.sort();
    assert!(p.contributions.iter().map(|c| &c.node_id).eq(&ids));

    // The operator may pull what the release names; a node only model files.
    let carry = manifest.carry_digest.unwrap();
    let delta = p.contributions[0].delta_digest;
    for digest in [manifest.digest, carry, delta] {
        let request = wire::PullRequest {
            digest: digest.to_bytes(),
            offset: 0,
        };
        let mut client = ModelsClient::new(server.link(&site.operator));
        let mut stream = client.pull(request).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(c) = stream.message().await.unwrap() {
            got.extend_from_slice(&c.data);
        }
        assert_eq!(Digest::of(&got), digest);
    }
    let whole = a.pull(manifest.digest, 0).await.unwrap();
    assert_eq!(a.pull(manifest.digest, 100).await.unwrap(), whole[100..]);
    let no = refusal(a.pull(carry, 0).await.unwrap_err());
    assert_eq!(no.reason, Reason::NotFound);
}

#[tokio::test]
async fn the_order_of_arrival_leaves_no_trace_in_the_release() {
    let mut digests = Vec::new();
    for reversed in [false, true] {
        let site = Site::new();
        let server = site.start().await;
        let mut op = server.operator(&site);
        let mut nodes = vec![];
        for _ in 0..3 {
            nodes.push(Node::join(&server, &mut op).await);
        }
        op.push().await;
        op.0.start_rounds(rounds(1, 3)).await.unwrap();
        let mut order: Vec<(u64, Node)> = (0..).zip(nodes).collect();
        if reversed {
            order.reverse();
        }
        for (seed, node) in &mut order {
            node.take_part(*seed).await;
        }
        assert_eq!(op.ended(1).await.phase, "published");
        digests.push(op.releases().await[1].digest.clone());
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn nodes_of_one_name_still_train_with_seeds_of_their_own() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let a = Node::join(&server, &mut op).await;
    let b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 2)).await.unwrap();
    let (of_a, of_b) = (a.offer().await.training, b.offer().await.training);
    assert_ne!(of_a.seed, of_b.seed);
    // Asked again, the same.
    assert_eq!(a.offer().await.training, of_a);
}

#[tokio::test]
async fn a_failed_node_is_not_waited_for_and_its_reason_is_kept() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offer = b.offer().await;
    assert!(!b.fails(&offer, "non-finite loss in epoch 1, step 3").await);
    assert!(b.poll().await.is_none());
    a.take_part(1).await;
    let view = op.ended(1).await;
    assert_eq!(view.phase, "published");
    let failed = view
        .participants
        .iter()
        .find(|p| p.state == "failed")
        .unwrap();
    assert_eq!(failed.reason, "non-finite loss in epoch 1, step 3");
    assert_eq!(failed.node_id, b.id.to_string());
}

#[tokio::test]
async fn a_told_cause_is_shown_by_its_name() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let a = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offer = a.offer().await;
    let told = Event::Failure(Told::NoSamples.into());
    assert!(!a.reports(&offer, told).await);
    let view = op.ended(1).await;
    let reason = &view.participants[0].reason;
    assert_eq!(*reason, format!("no-samples: {}", Told::NoSamples));
}

#[tokio::test]
async fn why_a_node_waits_is_shown_until_it_begins_and_stays_when_it_never_does() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let night = Told::Window {
        opens_in_seconds: Some(60),
    };
    let waiting = || Event::Waiting(night.into());
    let (of_a, of_b) = (a.offer().await, b.offer().await);
    let reasons = async |op: &mut super::server::Operator| {
        let view = op.show(1).await;
        let told = |n: &Node| {
            let mut all = view.participants.iter();
            let p = all.find(|p| p.node_id == n.id.to_string()).unwrap();
            (p.state.clone(), p.reason.clone())
        };
        (told(&a), told(&b))
    };
    assert!(
        a.reports(&of_a, waiting()).await,
        "the round still wants it"
    );
    assert!(b.reports(&of_b, waiting()).await);
    let says = format!("window: {night}");
    let offered = ("offered".to_owned(), says.clone());
    assert_eq!(reasons(&mut op).await, (offered.clone(), offered.clone()));
    // An offer that waits is still offered; a node that begins waits no longer.
    assert_eq!(a.offer().await.lease, of_a.lease);
    let begun = wire::Progress {
        phase: "training".to_owned(),
        ..Default::default()
    };
    assert!(a.reports(&of_a, Event::Progress(begun)).await);
    let training = ("training".to_owned(), String::new());
    assert_eq!(reasons(&mut op).await, (training, offered));
    a.take_part(1).await;
    site.clock.advance(super::server::DEADLINE);
    let view = op.ended(1).await;
    let missing = view.participants.iter().find(|p| p.state == "missing");
    let missing = missing.unwrap();
    assert_eq!(
        (&missing.node_id, &missing.reason),
        (&b.id.to_string(), &says)
    );
    assert!(!b.reports(&of_b, waiting()).await, "nobody waits any more");
}

#[tokio::test]
async fn below_the_minimum_the_round_is_abandoned_and_the_task_stops() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(3, 2)).await.unwrap();
    a.take_part(1).await;
    let offer = b.offer().await;
    b.fails(&offer, "the battery is low").await;
    let view = op.ended(1).await;
    assert_eq!(view.phase, "abandoned");
    assert!(
        view.reason.contains("1 accepted of at least 2"),
        "{}",
        view.reason
    );
    let listed =
        op.0.list_rounds(wire::ListRoundsRequest { task: 0 })
            .await
            .unwrap();
    assert_eq!(listed.into_inner().rounds.len(), 1, "no second round");
    assert_eq!(op.releases().await.len(), 1);
    // The model is free for another task.
    let next = wire::StartRoundsRequest {
        idempotency_key: b"key-2".to_vec().into(),
        ..rounds(1, 1)
    };
    op.0.start_rounds(next).await.unwrap();
}

#[tokio::test]
async fn the_deadline_closes_a_round_that_has_its_minimum() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    b.offer().await;
    a.take_part(1).await;
    assert_eq!(op.show(1).await.phase, "collecting");
    site.clock.advance(super::server::DEADLINE);
    let view = op.ended(1).await;
    assert_eq!(view.phase, "published");
    let states: Vec<&str> = view.participants.iter().map(|p| p.state.as_str()).collect();
    assert!(
        states.contains(&"accepted") && states.contains(&"missing"),
        "{states:?}"
    );
    assert!(b.poll().await.is_none());
}

#[tokio::test]
async fn what_cannot_work_is_refused_when_it_is_started() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let no = async |op: &mut super::server::Operator, r| {
        refusal(op.0.start_rounds(r).await.unwrap_err()).reason
    };
    assert_eq!(
        no(&mut op, rounds(1, 1)).await,
        Reason::NotFound,
        "no model"
    );
    op.push().await;
    assert_eq!(
        no(&mut op, rounds(1, 1)).await,
        Reason::Malformed,
        "no nodes"
    );
    Node::join(&server, &mut op).await;
    assert_eq!(
        no(&mut op, rounds(1, 2)).await,
        Reason::Malformed,
        "too few nodes"
    );
    assert_eq!(
        no(&mut op, rounds(0, 1)).await,
        Reason::Malformed,
        "no rounds"
    );
    let unknown = wire::StartRoundsRequest {
        evaluation_digest: Digest::of(b"nothing").to_bytes(),
        ..rounds(1, 1)
    };
    assert_eq!(no(&mut op, unknown).await, Reason::NotFound, "no samples");
    let junk = op.put(b"no samples at all".to_vec()).await;
    let junk = wire::StartRoundsRequest {
        evaluation_digest: junk.to_bytes(),
        ..rounds(1, 1)
    };
    assert_eq!(no(&mut op, junk).await, Reason::Malformed, "junk samples");
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let other = wire::StartRoundsRequest {
        idempotency_key: b"key-2".to_vec().into(),
        ..rounds(1, 1)
    };
    assert_eq!(no(&mut op, other).await, Reason::Conflict, "a task runs");
    assert_eq!(
        no(&mut op, rounds(2, 1)).await,
        Reason::Conflict,
        "key reused"
    );
    let junk = op.put(b"GGUF but not a model".to_vec()).await;
    let e = refusal(op.publish(junk).await.unwrap_err());
    assert_eq!(e.reason, Reason::Malformed);
}
