//! Each hostile delta is refused with its own reason; the round is unharmed.

use std::time::Duration;

use lamplight_models::{delta::Delta, quant::gguf};
use lamplight_proto::{
    cause::Told,
    chunk::chunk_digests,
    ids::{Digest, Lease, NodeId, UnixMillis},
    keys::SigningKey,
    offer::RoundOffer,
    refusal::Reason,
    wire::{self, report_request::Event},
};

use super::{
    node::{Made, Node, refusal},
    server::{DEADLINE, Operator, Server, Site, rounds},
};

struct Scene {
    site: Site,
    server: Server,
    op: Operator,
    honest: Node,
    hostile: Node,
    offer: RoundOffer,
}

impl Scene {
    /// Two nodes, one of them hostile, in a round that waits for both.
    async fn new() -> Self {
        let site = Site::new();
        let server = site.start().await;
        let mut op = server.operator(&site);
        let honest = Node::join(&server, &mut op).await;
        let hostile = Node::join(&server, &mut op).await;
        op.push().await;
        op.0.start_rounds(rounds(2, 2)).await.unwrap();
        let offer = hostile.offer().await;
        Self {
            site,
            server,
            op,
            honest,
            hostile,
            offer,
        }
    }

    async fn made(&mut self) -> Made {
        self.hostile.make(&self.offer, 1).await
    }

    /// An honest delta whose values are then spoiled.
    async fn spoiled(&mut self, spoil: impl FnOnce(&mut Delta)) -> Made {
        let file = self.hostile.pull(self.offer.base_digest, 0).await.unwrap();
        let base = gguf::read(&file).unwrap();
        let mut delta = Delta::between(&base, &base).unwrap();
        spoil(&mut delta);
        self.hostile.wrap(&self.offer, &delta, 5)
    }

    async fn refused(&mut self, made: &Made, reason: Reason) {
        let e = self.hostile.send(made).await.expect_err("it was accepted");
        let e = refusal(e);
        assert_eq!(e.reason, reason, "{e}");
    }

    async fn refused_at_begin(&mut self, made: &Made, reason: Reason) {
        let e = self.hostile.begin(self.hostile.sign(made)).await;
        let e = refusal(e.expect_err("it was believed"));
        assert_eq!(e.reason, reason, "{e}");
    }

    /// Operators see why the node's delta was not taken.
    async fn round_tells(&mut self, reason: &str) {
        let view = self.op.show(self.offer.round.0).await;
        let id = self.hostile.id.to_string();
        let told = view.participants.iter().find(|p| p.node_id == id).unwrap();
        assert_eq!(told.state, "refused");
        assert!(told.reason.starts_with(reason), "{}", told.reason);
    }

    /// The round is unharmed: both nodes deliver honestly and it publishes both.
    async fn still_publishes(mut self) {
        let view = self.op.show(self.offer.round.0).await;
        assert_eq!(view.phase, "collecting");
        self.hostile.take_part(1).await;
        self.honest.take_part(2).await;
        let view = self.op.ended(self.offer.round.0).await;
        assert_eq!(view.phase, "published", "{}", view.reason);
        assert_eq!(self.op.releases().await[1].deltas, 2);
    }
}

#[tokio::test]
async fn an_altered_payload_is_refused_in_the_chunk_where_it_is() {
    let mut s = Scene::new().await;
    let mut made = s.made().await;
    let last = made.file.len() - 1;
    made.file[last] ^= 1;
    let begun = s.hostile.begin(s.hostile.sign(&made)).await.unwrap();
    // By the upload itself, not only once all is here.
    let e = s.hostile.upload(&begun, &made.file).await.unwrap_err();
    assert_eq!(refusal(e).reason, Reason::AlteredPayload);
    s.round_tells("altered-payload").await;
    s.still_publishes().await;
}

#[tokio::test]
async fn a_whole_that_is_not_what_the_manifest_promises_is_refused() {
    let mut s = Scene::new().await;
    let mut made = s.made().await;
    made.manifest.digest = Digest::of(b"something else");
    s.refused(&made, Reason::AlteredPayload).await;
    s.round_tells("altered-payload").await;
    s.still_publishes().await;
}

#[tokio::test]
async fn an_altered_signature_is_refused() {
    let mut s = Scene::new().await;
    let made = s.made().await;
    let good = s.hostile.sign(&made);
    let mut bad = good.clone();
    let mut bytes = bad.signatures[0].signature.to_vec();
    bytes[5] ^= 1;
    bad.signatures[0].signature = bytes.into();
    let e = refusal(s.hostile.begin(bad).await.unwrap_err());
    assert_eq!(e.reason, Reason::BadSignature, "{e}");
    // And so is a good signature over other bytes.
    let mut bad = good;
    let mut bytes = bad.payload.to_vec();
    bytes[20] ^= 1;
    bad.payload = bytes.into();
    let e = refusal(s.hostile.begin(bad).await.unwrap_err());
    assert_eq!(e.reason, Reason::BadSignature, "{e}");
    s.still_publishes().await;
}

#[tokio::test]
async fn an_unknown_key_is_refused_and_so_is_another_nodes() {
    let mut s = Scene::new().await;
    let made = s.made().await;
    let own = std::mem::replace(&mut s.hostile.key, SigningKey::generate().unwrap());
    s.refused_at_begin(&made, Reason::UnknownKey).await;
    s.hostile.key = own;
    let e = s.hostile.begin(s.honest.sign(&made)).await;
    assert_eq!(refusal(e.unwrap_err()).reason, Reason::UnknownKey);
    s.still_publishes().await;
}

#[tokio::test]
async fn replays_are_refused_and_repeats_answered_the_same() {
    let mut s = Scene::new().await;
    let first = s.hostile.make(&s.offer, 1).await;
    let receipt = s.hostile.send(&first).await.unwrap();
    assert_eq!(s.hostile.send(&first).await.unwrap(), receipt, "a repeat");
    // A second delta in the same round.
    let second = s.hostile.make(&s.offer, 3).await;
    s.refused(&second, Reason::Replay).await;

    s.honest.take_part(2).await;
    assert_eq!(s.op.ended(1).await.phase, "published");
    // A repeat is answered even after the round has ended.
    assert_eq!(
        s.hostile.send(&first).await.unwrap(),
        receipt,
        "a late repeat"
    );
    let next = s.hostile.offer().await;
    assert_eq!(next.round.0, 2);
    // A counter used before.
    let mut made = s.hostile.make(&next, 4).await;
    let counter = made.manifest.counter;
    made.manifest.counter = first.manifest.counter;
    s.refused_at_begin(&made, Reason::Replay).await;
    // A lease used before.
    made.manifest.counter = counter;
    made.manifest.lease = s.offer.lease;
    s.refused_at_begin(&made, Reason::Replay).await;
    // The whole old delta, aimed at the new round.
    let mut old = first;
    old.manifest.round = next.round;
    s.refused_at_begin(&old, Reason::Replay).await;

    s.hostile.take_part(5).await;
    s.honest.take_part(6).await;
    assert_eq!(s.op.ended(2).await.phase, "published");
    assert_eq!(s.op.releases().await[2].deltas, 2);
}

#[tokio::test]
async fn a_delta_against_another_base_is_refused() {
    let mut s = Scene::new().await;
    let mut made = s.made().await;
    made.manifest.base_digest = Digest::of(b"another model");
    s.refused_at_begin(&made, Reason::WrongBase).await;
    s.round_tells("wrong-base").await;
    s.still_publishes().await;
}

#[tokio::test]
async fn a_wrong_shape_is_refused_in_the_manifest_and_in_the_file() {
    let mut s = Scene::new().await;
    let good = s.made().await;
    let mut made = good.clone();
    made.manifest.tensors[0].shape.push(1);
    s.refused_at_begin(&made, Reason::WrongShape).await;
    let mut made = good.clone();
    made.manifest.tensors.pop();
    s.refused_at_begin(&made, Reason::WrongShape).await;
    let mut made = good.clone();
    made.manifest.tensors[0].name.insert(0, 'a');
    s.refused_at_begin(&made, Reason::WrongShape).await;
    // The manifest promises the right table, the file holds another.
    let mut made = s
        .spoiled(|d| {
            let name = d.tensors.keys().next().unwrap().clone();
            d.tensors.get_mut(&name).unwrap().0.insert(0, 1);
        })
        .await;
    made.manifest.tensors = good.manifest.tensors.clone();
    s.refused(&made, Reason::WrongShape).await;
    s.still_publishes().await;
}

#[tokio::test]
async fn values_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut s = Scene::new().await;
        let made = s
            .spoiled(|d| d.tensors.values_mut().next().unwrap().1[0] = bad)
            .await;
        s.refused(&made, Reason::NonFinite).await;
        if bad.is_nan() {
            s.still_publishes().await;
        }
    }
}

#[tokio::test]
async fn a_node_that_gives_up_behind_a_refusal_does_not_hide_what_was_refused() {
    let mut s = Scene::new().await;
    let made = s
        .spoiled(|d| d.tensors.values_mut().next().unwrap().1[0] = f32::NAN)
        .await;
    s.refused(&made, Reason::NonFinite).await;
    let echo = Event::Failure(Told::Refused(Reason::NonFinite).into());
    assert!(!s.hostile.reports(&s.offer, echo).await);
    let view = s.op.show(s.offer.round.0).await;
    let id = s.hostile.id.to_string();
    let told = view.participants.iter().find(|p| p.node_id == id).unwrap();
    assert_eq!(told.state, "failed");
    assert!(told.reason.contains("at index 0"), "{}", told.reason);
}

#[tokio::test]
async fn more_bytes_than_allowed_are_refused_before_one_is_taken() {
    let mut s = Scene::new().await;
    let mut made = s.made().await;
    let big = vec![0; usize::try_from(s.offer.max_delta_bytes).unwrap() + 1];
    made.manifest.size = big.len() as u64;
    made.manifest.chunk_digests = chunk_digests(&big);
    s.refused_at_begin(&made, Reason::Oversize).await;
    // And no more are taken than the manifest promises.
    let mut made = s.made().await;
    let honest = made.file.clone();
    let begun = s.hostile.begin(s.hostile.sign(&made)).await.unwrap();
    made.file.extend_from_slice(&[0; 10]);
    let mut chunk = lamplight_proto::chunk::chunks(made.file.into(), 0)
        .next()
        .unwrap();
    chunk.total = honest.len() as u64;
    let request = wire::UploadRequest {
        upload_id: begun.upload_id,
        chunk: Some(chunk),
    };
    let e = s
        .hostile
        .deltas()
        .upload(tokio_stream::iter([request]))
        .await;
    assert_eq!(refusal(e.unwrap_err()).reason, Reason::Oversize);
    s.still_publishes().await;
}

#[tokio::test]
async fn what_is_meant_for_somebody_else_is_refused() {
    let mut s = Scene::new().await;
    let good = s.made().await;
    let mut made = good.clone();
    made.manifest.node_id = s.honest.id.clone();
    s.refused_at_begin(&made, Reason::WrongAddressee).await;
    let mut made = good.clone();
    made.manifest.node_id = NodeId::of_key(b"nobody");
    s.refused_at_begin(&made, Reason::WrongAddressee).await;
    let mut made = good.clone();
    made.manifest.deployment = "elsewhere".parse().unwrap();
    s.refused_at_begin(&made, Reason::WrongAddressee).await;
    let mut made = good.clone();
    made.manifest.window = 3;
    s.refused_at_begin(&made, Reason::WrongAddressee).await;
    let mut made = good.clone();
    made.manifest.lease = Lease([7; 16]);
    s.refused_at_begin(&made, Reason::WrongAddressee).await;
    let mut made = good;
    made.manifest.round.0 = 99;
    s.refused_at_begin(&made, Reason::NotFound).await;
    // A node that joined after the round opened was not asked.
    let mut late = Node::join(&s.server, &mut s.op).await;
    let made = late.make(&s.offer, 1).await;
    let e = late.begin(late.sign(&made)).await.unwrap_err();
    assert_eq!(refusal(e).reason, Reason::WrongAddressee);
    s.still_publishes().await;
}

#[tokio::test]
async fn an_expired_lease_is_refused() {
    let mut s = Scene::new().await;
    let mut made = s.made().await;
    made.manifest.expires = UnixMillis(made.manifest.expires.0 - 120_000);
    s.refused_at_begin(&made, Reason::RoundClosed).await;
    s.still_publishes().await;

    // And a delta that was begun in time and committed too late.
    let mut s = Scene::new().await;
    let made = s.made().await;
    let begun = s.hostile.begin(s.hostile.sign(&made)).await.unwrap();
    s.hostile.upload(&begun, &made.file).await.unwrap();
    s.site.clock.advance(DEADLINE + Duration::from_secs(1));
    let e = refusal(s.hostile.commit(&begun).await.unwrap_err());
    assert_eq!(e.reason, Reason::RoundClosed, "{e}");
    assert_eq!(s.op.ended(1).await.phase, "abandoned");
}
