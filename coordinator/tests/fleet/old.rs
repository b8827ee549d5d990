//! Agents of the previous version, as far as what they sign and understand goes. (Whole rounds of
//! real agents: `deploy/tests/contract`.)

use lamplight_contract::{Frozen, schema::seal};
use lamplight_proto::{
    delta::DeltaManifest,
    envelope::{Payload, Signed, TrustedKeys},
    offer::RoundOffer,
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
    let schema = old.schema();
    let payload = schema.narrow_payload(DeltaManifest::TYPE, &made.manifest.to_payload());
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
