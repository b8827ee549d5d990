//! The plug is pulled in every phase; after a restart the same bytes are published.

use lamplight_proto::{chunk::CHUNK_BYTES, refusal::Reason, wire};

use super::{
    node::{Node, refusal},
    server::{Server, Site, rounds, samples},
};

struct Played {
    release: String,
    phases: Vec<String>,
}

/// Plays one round of two nodes, pulling the plug after `until` units of round work; `None` never.
async fn play(until: Option<usize>) -> Played {
    let site = Site::new();
    let mut server = site.start_without_worker().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let mut b = Node::join(&server, &mut op).await;
    op.push().await;
    let evaluation = op.put(samples().to_bytes().unwrap()).await;
    let request = wire::StartRoundsRequest {
        evaluation_digest: evaluation.to_bytes(),
        ..rounds(1, 2)
    };
    op.0.start_rounds(request).await.unwrap();
    a.take_part(1).await;
    if until == Some(0) {
        server = pull_the_plug(&site, server).await;
        op = server.operator(&site);
        b.reconnect(&server);
    }
    b.take_part(2).await;
    let mut phases = vec![op.show(1).await.phase];
    for done in 1.. {
        if until == Some(done) {
            server = pull_the_plug(&site, server).await;
            op = server.operator(&site);
            assert_eq!(op.show(1).await.phase, *phases.last().unwrap());
        }
        if !server.advance().await {
            break;
        }
        phases.push(op.show(1).await.phase);
    }
    let releases = op.releases().await;
    assert_eq!(releases.len(), 2);
    assert_eq!(releases[1].deltas, 2);
    Played {
        release: releases[1].digest.clone(),
        phases,
    }
}

async fn pull_the_plug(site: &Site, server: Server) -> Server {
    server.crash();
    site.start_without_worker().await
}

#[tokio::test]
async fn a_crash_in_any_phase_changes_nothing_about_the_release() {
    let calm = play(None).await;
    assert_eq!(
        calm.phases,
        ["aggregating", "evaluating", "publishing", "published"]
    );
    // 0: while collecting; 1, 2, 3: before aggregating, evaluating, publishing; 4: after.
    for until in 0..=4 {
        let crashed = play(Some(until)).await;
        assert_eq!(crashed.phases, calm.phases, "crash {until}");
        assert_eq!(crashed.release, calm.release, "crash {until}");
    }
}

#[tokio::test]
async fn an_upload_and_a_receipt_survive_a_restart() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let mut a = Node::join(&server, &mut op).await;
    let mut b = Node::join(&server, &mut op).await;
    op.push().await;
    op.0.start_rounds(rounds(1, 2)).await.unwrap();
    let offer = a.offer().await;
    let made = a.make(&offer, 1).await;
    let envelope = a.sign(&made);
    let begun = a.begin(envelope.clone()).await.unwrap();
    a.upload(&begun, &made.file).await.unwrap();
    server.crash();

    let server = site.start().await;
    a.reconnect(&server);
    b.reconnect(&server);
    assert_eq!(a.offer().await, offer, "the same lease");
    let again = a.begin(envelope.clone()).await.unwrap();
    assert_eq!(again.upload_id, begun.upload_id);
    assert_eq!(
        again.received, made.manifest.size,
        "not a byte is sent twice"
    );
    let receipt = a.commit(&again).await.unwrap();
    server.crash();

    let server = site.start().await;
    a.reconnect(&server);
    b.reconnect(&server);
    let again = a.begin(envelope).await.unwrap();
    assert_eq!(a.commit(&again).await.unwrap(), receipt, "the same bytes");
    b.take_part(2).await;
    assert_eq!(server.operator(&site).ended(1).await.phase, "published");
}

#[tokio::test]
async fn an_operators_upload_resumes_where_the_crash_cut_it() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let blob: Vec<u8> = (0..CHUNK_BYTES * 2 + 77).map(|i| (i % 251) as u8).collect();
    let digest = lamplight_proto::ids::Digest::of(&blob);
    let put = |chunk| wire::PutBlobRequest {
        digest: digest.to_bytes(),
        chunk: Some(chunk),
    };
    let first = lamplight_proto::chunk::chunks(blob.clone().into(), 0).next();
    let sent = op.0.put_blob(tokio_stream::iter(first.map(put))).await;
    assert_eq!(sent.unwrap().into_inner().received, CHUNK_BYTES as u64);
    server.crash();

    let server = site.start().await;
    let mut op = server.operator(&site);
    let begin = wire::BeginBlobRequest {
        digest: digest.to_bytes(),
        size: blob.len() as u64,
    };
    let here = op.0.begin_blob(begin.clone()).await.unwrap().into_inner();
    assert_eq!(here.received, CHUNK_BYTES as u64);
    let rest: Vec<_> = lamplight_proto::chunk::chunks(blob.clone().into(), here.received)
        .map(put)
        .collect();
    let done = op.0.put_blob(tokio_stream::iter(rest)).await.unwrap();
    assert_eq!(done.into_inner().received, blob.len() as u64);
    let here = op.0.begin_blob(begin).await.unwrap().into_inner();
    assert_eq!(here.received, blob.len() as u64, "kept");

    // Other bytes under a promised digest are not kept.
    let mut bad: Vec<_> = lamplight_proto::chunk::chunks(vec![1; 50].into(), 0).collect();
    let other = lamplight_proto::ids::Digest::of(b"promised");
    let request = wire::PutBlobRequest {
        digest: other.to_bytes(),
        chunk: bad.pop(),
    };
    let e = op.0.put_blob(tokio_stream::iter([request])).await;
    assert_eq!(refusal(e.unwrap_err()).reason, Reason::AlteredPayload);
}
