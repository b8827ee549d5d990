//! What operators say of nodes, and what comes of it.

use lamplight_coordinator::{
    clock::Clock as _,
    dir::StateDir,
    store::{Store, nodes},
};
use lamplight_proto::{
    keys::SigningKey,
    refusal::Reason,
    wire::{self, NodeState, report_request::Event},
};
use tonic::Status;

use super::{
    node::{Node, certificate_request, enrol, refusal},
    server::{DEADLINE, Operator, Site, rounds},
};

impl Operator {
    async fn rule(
        &mut self,
        node: &str,
        state: NodeState,
        reason: &str,
    ) -> Result<wire::NodeView, Status> {
        let request = wire::SetNodeStateRequest {
            node: node.into(),
            state: state as i32,
            reason: reason.into(),
        };
        Ok(self.0.set_node_state(request).await?.into_inner())
    }

    async fn tag(
        &mut self,
        node: &str,
        set: &[&str],
        remove: &[&str],
    ) -> Result<wire::NodeView, Status> {
        let request = wire::TagNodeRequest {
            node: node.into(),
            set: set.iter().map(ToString::to_string).collect(),
            remove: remove.iter().map(ToString::to_string).collect(),
        };
        Ok(self.0.tag_node(request).await?.into_inner())
    }

    async fn node(&mut self, node: &str) -> Result<wire::NodeView, Status> {
        let request = wire::ShowNodeRequest {
            node: node.into(),
            rounds: 0,
        };
        Ok(self.0.show_node(request).await?.into_inner())
    }

    async fn listed(&mut self, tags: &[&str], states: &[NodeState]) -> Vec<String> {
        let request = wire::ListNodesRequest {
            tags: tags.iter().map(ToString::to_string).collect(),
            states: states.iter().map(|s| *s as i32).collect(),
        };
        let reply = self.0.list_nodes(request).await.unwrap().into_inner();
        reply.nodes.into_iter().map(|n| n.node_id).collect()
    }
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> Reason {
    refusal(answer.unwrap_err()).reason
}

#[tokio::test]
async fn every_call_of_a_retired_node_is_refused_for_good() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let release = op.push().await;
    let mut node = Node::join(&server, &mut op).await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offer = node.offer().await;
    let made = node.make(&offer, 1).await;
    let begun = node.begin(node.sign(&made)).await.unwrap();

    let id = node.id.to_string();
    let view = op.rule(&id, NodeState::Retired, "stolen").await.unwrap();
    assert_eq!(
        (view.state.as_str(), view.state_reason.as_str()),
        ("retired", "stolen")
    );

    let poll = wire::PollRequest {
        phase: "idle".into(),
        running_digest: Default::default(),
    };
    let report = wire::ReportRequest {
        round: offer.round.0,
        lease: offer.lease.0.to_vec().into(),
        event: Some(wire::report_request::Event::Failure(wire::Failure {
            reason: "x".into(),
            ..Default::default()
        })),
    };
    let get = wire::GetReleaseRequest {
        model: "post".into(),
        version: 0,
    };
    let mut models = wire::models_client::ModelsClient::new(server.link(&node.identity));
    assert_eq!(reason(node.rounds().poll(poll).await), Reason::Retired);
    assert_eq!(reason(node.rounds().report(report).await), Reason::Retired);
    assert_eq!(reason(node.begin(node.sign(&made)).await), Reason::Retired);
    assert_eq!(
        reason(node.upload(&begun, &made.file).await),
        Reason::Retired
    );
    assert_eq!(reason(node.commit(&begun).await), Reason::Retired);
    assert_eq!(reason(models.get_release(get).await), Reason::Retired);
    let digest = release.digest.parse().unwrap();
    let e = refusal(node.pull(digest, 0).await.unwrap_err());
    assert_eq!(e.reason, Reason::Retired);
    // What the operator said, and what can be done.
    assert!(e.message.contains("stolen"), "{e}");
    assert!(e.message.contains("empty directory"), "{e}");

    // Again is the same; back is not possible, neither by an operator nor by a new token.
    let again = op.rule(&id, NodeState::Retired, "").await.unwrap();
    assert_eq!(again.state_reason, "stolen");
    assert_eq!(again.state_since_unix_ms, view.state_since_unix_ms);
    for state in [NodeState::Active, NodeState::Draining] {
        assert_eq!(reason(op.rule(&id, state, "").await), Reason::Retired);
    }
    assert_eq!(reason(op.tag(&id, &["a=b"], &[]).await), Reason::Retired);
    let token = op.token().await;
    let (csr, _) = certificate_request();
    assert_eq!(
        reason(enrol(&server, &token, &node.key, &csr).await),
        Reason::Retired
    );
    // The token is good for a key that was never retired.
    let fresh = SigningKey::generate().unwrap();
    enrol(&server, &token, &fresh, &csr).await.unwrap();
}

#[tokio::test]
async fn a_round_stops_waiting_for_a_node_that_is_retired() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    op.push().await;
    let mut stays = Node::join(&server, &mut op).await;
    let goes = Node::join(&server, &mut op).await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    stays.take_part(1).await;
    assert_eq!(op.show(1).await.phase, "collecting");
    let id = goes.id.to_string();
    op.rule(&id, NodeState::Retired, "").await.unwrap();
    let ended = op.ended(1).await;
    assert_eq!(
        (ended.phase.as_str(), ended.accepted_deltas),
        ("published", 1)
    );
    let shown = op.node(&id).await.unwrap();
    assert_eq!(shown.rounds[0].state, "failed");
    assert!(shown.rounds[0].reason.contains("retired"), "{shown:?}");
}

#[tokio::test]
async fn a_draining_node_finishes_what_is_under_way_and_gets_nothing_new() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    op.push().await;
    let mut works = Node::join(&server, &mut op).await;
    let idles = Node::join(&server, &mut op).await;
    let mut active = Node::join(&server, &mut op).await;
    op.0.start_rounds(rounds(2, 1)).await.unwrap();

    let offer = works.offer().await;
    for node in [&works, &idles] {
        let id = node.id.as_str();
        op.rule(id, NodeState::Draining, "new cable").await.unwrap();
    }
    // Asked, but not begun: not offered any more, and not waited for.
    assert_eq!(idles.poll().await, None);
    // Begun: taken.
    let made = works.make(&offer, 1).await;
    works.send(&made).await.unwrap();
    active.take_part(2).await;
    let first = op.ended(1).await;
    assert_eq!(
        (first.phase.as_str(), first.accepted_deltas),
        ("published", 2)
    );

    // The next round of the task asks neither, and both can tell why.
    let second = op.show(2).await;
    assert_eq!(second.cohort_nodes, 1);
    for (node, before) in [(&works, "accepted"), (&idles, "failed")] {
        assert_eq!(node.poll().await, None);
        let shown = op.node(node.id.as_str()).await.unwrap();
        let states: Vec<&str> = shown.rounds.iter().map(|r| r.state.as_str()).collect();
        assert_eq!(states, ["skipped", before]);
        let why = &shown.rounds[0].reason;
        assert!(why.contains("draining (new cable)"), "{why}");
        assert!(why.contains("node resume"), "{why}");
    }
    active.take_part(3).await;
    op.ended(2).await;

    // Named outright it is refused; resumed it is asked again.
    let mut named = rounds(1, 1);
    named.cohort = vec![works.id.to_string()];
    named.idempotency_key = b"key-2".to_vec().into();
    let e = refusal(op.0.start_rounds(named.clone()).await.unwrap_err());
    assert_eq!(e.reason, Reason::Conflict);
    assert!(e.message.contains("node resume"), "{e}");
    let view = (op.rule(works.id.as_str(), NodeState::Active, "").await).unwrap();
    assert_eq!(
        (view.state.as_str(), view.state_reason.as_str()),
        ("active", "")
    );
    op.0.start_rounds(named).await.unwrap();
    works.take_part(4).await;
    op.ended(3).await;
    // The others were not meant.
    let shown = op.node(idles.id.as_str()).await.unwrap();
    assert_eq!(shown.rounds[0].state, "not-asked");
}

#[tokio::test]
async fn a_fleet_whose_nodes_all_drain_says_so() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    op.push().await;
    let node = Node::join(&server, &mut op).await;
    let id = node.id.as_str();
    op.rule(id, NodeState::Draining, "").await.unwrap();
    let e = refusal(op.0.start_rounds(rounds(1, 1)).await.unwrap_err());
    assert!(e.message.contains("1 more are draining"), "{e}");
}

#[tokio::test]
async fn nodes_are_tagged_and_found_by_tag_and_state() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let a = Node::join(&server, &mut op).await.id.to_string();
    let b = Node::join(&server, &mut op).await.id.to_string();
    let view = op
        .tag(&a, &["site=chicago", "mount=high"], &[])
        .await
        .unwrap();
    assert_eq!(view.tags, ["mount=high", "site=chicago"]);
    op.tag(&b, &["site=oslo"], &["never-there"]).await.unwrap();
    assert_eq!(
        op.listed(&["site=chicago"], &[]).await,
        std::slice::from_ref(&a)
    );
    let both = op.listed(&["site=chicago", "site=oslo"], &[]).await;
    assert_eq!(both.len(), 2);
    assert_eq!(op.listed(&["site", "mount=low"], &[]).await.len(), 0);
    let view = op.tag(&a, &["site=oslo"], &["mount"]).await.unwrap();
    assert_eq!(view.tags, ["site=oslo"]);

    op.rule(&b, NodeState::Draining, "").await.unwrap();
    assert_eq!(op.listed(&["site=oslo"], &[NodeState::Draining]).await, [b]);
    assert_eq!(
        op.listed(&[], &[NodeState::Active]).await,
        std::slice::from_ref(&a)
    );

    for (set, remove) in [
        (vec!["Site=x"], vec![]),
        (vec!["site"], vec![]),
        (vec!["a=1", "a=2"], vec![]),
        (vec!["a=1"], vec!["a"]),
        (vec![], vec!["a b"]),
    ] {
        assert_eq!(
            reason(op.tag(&a, &set, &remove).await),
            Reason::Malformed,
            "{set:?} {remove:?}"
        );
    }
    assert_eq!(
        reason(op.rule(&a, NodeState::Unspecified, "").await),
        Reason::Malformed
    );
    // Nothing was changed by what was refused.
    assert_eq!(op.node(&a).await.unwrap().tags, ["site=oslo"]);
}

#[tokio::test]
async fn a_name_that_several_nodes_have_is_answered_with_their_ids() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let a = Node::join(&server, &mut op).await.id.to_string();
    assert_eq!(op.node("a-post").await.unwrap().node_id, a);
    let b = Node::join(&server, &mut op).await.id.to_string();
    let e = refusal(op.node("a-post").await.unwrap_err());
    assert_eq!(e.reason, Reason::Conflict);
    assert!(e.message.contains(&a) && e.message.contains(&b), "{e}");
    // The one that was replaced does not stand in the way of the one that took its name.
    op.rule(&a, NodeState::Retired, "").await.unwrap();
    assert_eq!(op.node("a-post").await.unwrap().node_id, b);
    assert_eq!(op.node(&a).await.unwrap().node_id, a);
    let e = refusal(op.node("nobody").await.unwrap_err());
    assert_eq!(e.reason, Reason::NotFound);
    assert!(e.message.contains("node list"), "{e}");
}

#[tokio::test]
async fn a_node_shows_what_it_runs_until_when_it_may_and_why_it_missed_a_round() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let release = op.push().await;
    let node = Node::join(&server, &mut op).await;
    let mut other = Node::join(&server, &mut op).await;
    let digest: lamplight_proto::ids::Digest = release.digest.parse().unwrap();
    let poll = wire::PollRequest {
        phase: "idle".into(),
        running_digest: digest.to_bytes(),
    };
    node.rounds().poll(poll).await.unwrap();
    site.clock.advance(std::time::Duration::from_secs(20));
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    other.take_part(1).await;
    site.clock.advance(DEADLINE);
    op.ended(1).await;

    let shown = op.node(node.id.as_str()).await.unwrap();
    assert_eq!(shown.running_digest, release.digest);
    assert_eq!(
        (shown.running_model.as_str(), shown.running_version),
        ("post", 1)
    );
    let days = |ms: i64| ms / 86_400_000;
    let left = shown.certificate_expires_unix_ms - lamplight_proto::ids::UnixMillis::now().0;
    assert!((363..=365).contains(&days(left)), "{left} ms");
    let [round] = shown.rounds.as_slice() else {
        panic!("{shown:?}");
    };
    assert_eq!((round.round, round.state.as_str()), (1, "missing"));
    assert!(round.reason.contains("did not call"), "{round:?}");
    // And still does once it is back.
    node.poll().await;
    let again = op.node(node.id.as_str()).await.unwrap();
    assert_eq!(again.rounds[0].reason, round.reason);
    assert_eq!((round.model.as_str(), round.base_version), ("post", 1));

    // The listing tells the last round of each.
    let request = wire::ListNodesRequest::default();
    let listed = op.0.list_nodes(request).await.unwrap().into_inner().nodes;
    let mut states: Vec<&str> = listed.iter().map(|n| n.rounds[0].state.as_str()).collect();
    states.sort_unstable();
    assert_eq!(states, ["accepted", "missing"]);
}

#[tokio::test]
async fn a_node_that_works_is_seen_and_so_is_what_it_does() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    op.push().await;
    let node = Node::join(&server, &mut op).await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offer = node.offer().await;
    site.clock.advance(std::time::Duration::from_secs(30));
    let progress = wire::Progress {
        phase: "training".into(),
        step: 3,
        steps: 9,
        loss: 0.5,
    };
    assert!(node.reports(&offer, Event::Progress(progress)).await);
    let shown = op.node(node.id.as_str()).await.unwrap();
    assert_eq!(shown.last_seen_unix_ms, site.clock.now().0);
    assert_eq!(shown.phase, "training");
    let waiting = wire::Waiting::default();
    site.clock.advance(std::time::Duration::from_secs(20));
    assert!(node.reports(&offer, Event::Waiting(waiting)).await);
    let shown = op.node(node.id.as_str()).await.unwrap();
    assert_eq!(
        (shown.phase.as_str(), shown.rounds[0].state.as_str()),
        ("idle", "offered")
    );
    assert_eq!(shown.last_seen_unix_ms, site.clock.now().0);
}

#[tokio::test]
async fn what_retiring_a_node_owes_is_done_after_a_crash_in_between() {
    let site = Site::new();
    let server = site.start_without_worker().await;
    let mut op = server.operator(&site);
    op.push().await;
    let node = Node::join(&server, &mut op).await;
    let mut other = Node::join(&server, &mut op).await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    node.offer().await;
    other.take_part(1).await;
    server.crash();
    // Its state was written, and then the plug was pulled.
    let store = Store::open(&StateDir::new(site.path()).database()).unwrap();
    let retired = lamplight_coordinator::store::nodes::NodeState::Retired;
    (store.write(|tx| nodes::set_state(tx, &node.id, retired, "gone", site.clock.now()))).unwrap();
    drop(store);
    let server = site.start().await;
    let mut op = server.operator(&site);
    assert_eq!(op.ended(1).await.phase, "published");
}
