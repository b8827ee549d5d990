//! Agents of the previous version, as far as what they sign and understand goes. (Whole rounds of
//! real agents: `deploy/tests/contract`.)

use lamplight_contract::{Frozen, schema::seal};
use lamplight_proto::{
    delta::DeltaManifest,
    envelope::{Payload, Signed, TrustedKeys},
    ids::NodeId,
    offer::RoundOffer,
    wire,
};
use prost::Message as _;

use super::{
    node::Node,
    server::{Site, rounds},
};

/// The version named, as long as the process lives.
fn name(frozen: &Frozen) -> &'static str {
    String::leak(frozen.name())
}

#[tokio::test]
async fn a_manifest_without_new_fields_is_taken() {
    let old = Frozen::previous();
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut node = Node::join(&server, &mut op).await;
    node.of_version(name(&old));
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offer = node.offer().await;
    let mut made = node.make(&offer, 1).await;
    made.manifest.agent_version = old.name();
    made.manifest.samples_aside = 3;
    let schema = old.schema();
    let payload = schema.narrow_payload(DeltaManifest::TYPE, &made.manifest.to_payload());
    if old.version == (0, 1) {
        assert_eq!(payload.dropped, ["lamplight.v1.DeltaManifest.19"]);
    }
    let payload = payload.message.encode_to_vec();
    let begun = node
        .begin(seal(DeltaManifest::TYPE, payload, &node.key))
        .await;
    let begun = begun.unwrap();
    node.upload(&begun, &made.file).await.unwrap();
    node.commit(&begun).await.unwrap();
    let view = op.ended(1).await;
    assert_eq!(view.phase, "published", "{}", view.reason);
    assert_eq!(view.participants[0].state, "accepted");
}

#[tokio::test]
async fn an_offer_without_new_features_means_the_same_to_an_old_agent() {
    let old = Frozen::previous();
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut node = Node::join(&server, &mut op).await;
    node.of_version(name(&old));
    op.push().await;
    op.0.start_rounds(rounds(1, 1)).await.unwrap();
    let offered = Signed::<RoundOffer>::from_wire(node.poll_reply().await.offer.unwrap());
    let verified = offered
        .clone()
        .verify(&TrustedKeys::new([node.release_key]));
    let offer = verified.unwrap().get().clone();
    assert_eq!(offer.needs, []);
    // What an old agent drops holds nothing: today's reader finds the same meaning without it.
    let payload = offered.to_wire().payload;
    let narrowed = old.schema().narrow_payload(RoundOffer::TYPE, &payload);
    let read = RoundOffer::parse(&narrowed.message.encode_to_vec()).unwrap();
    assert_eq!(read, offer, "dropped: {:?}", narrowed.dropped);
}

/// Rounds that move the head alone, which agents of 0.1 know nothing of.
fn head_only() -> wire::StartRoundsRequest {
    let plain = rounds(1, 1);
    wire::StartRoundsRequest {
        training: plain.training.map(|t| wire::Training {
            trainable: "head".into(),
            ..t
        }),
        ..plain
    }
}

#[tokio::test]
async fn work_that_needs_a_newer_agent_is_not_offered_to_an_old_one_and_says_why() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut old = Node::join(&server, &mut op).await;
    old.of_version("0.1.0");
    let new = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(head_only()).await.unwrap();

    assert!(old.poll().await.is_none());
    let offer = new.offer().await;
    let needs: Vec<&str> = offer.needs.iter().map(|n| n.as_str()).collect();
    assert_eq!(needs, ["trainable"]);
    let view = op.show(1).await;
    assert_eq!(view.phase, "collecting", "the other node is waited for");
    let of = |id: &NodeId| {
        let mut all = view.participants.iter();
        all.find(|p| p.node_id == id.as_str()).unwrap()
    };
    assert_eq!(of(&new.id).state, "offered");
    assert_eq!(of(&old.id).state, "failed");
    assert_eq!(
        of(&old.id).reason,
        "the task needs `trainable`, which agents know from 0.2.0 on; this node's agent is \
         \"0.1.0\": update it"
    );
    // Nor is it waited for when it comes back updated: a round asks once.
    old.of_version("0.2.0");
    assert!(old.poll().await.is_none());
}

#[tokio::test]
async fn a_round_for_which_every_agent_is_too_old_ends_at_once_and_the_next_work_is_offered() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut old = Node::join(&server, &mut op).await;
    old.of_version("0.1.0");
    op.push().await;
    op.0.start_rounds(head_only()).await.unwrap();
    assert!(old.poll().await.is_none());
    let view = op.ended(1).await;
    assert_eq!(view.phase, "abandoned");
    let plain = wire::StartRoundsRequest {
        idempotency_key: b"key-2".to_vec().into(),
        ..rounds(1, 1)
    };
    op.0.start_rounds(plain).await.unwrap();
    old.take_part(1).await;
    assert_eq!(op.ended(2).await.phase, "published");
}
