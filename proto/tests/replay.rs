//! What programs of earlier versions said means today what it meant then.
//!
//! `golden/vX.Y` holds the protocol of that version and conversations recorded from its programs
//! (`lamplight_contract`). Live programs of today are held against old peers in
//! `deploy/tests/contract`.

use std::{collections::BTreeSet, convert::Infallible};

use lamplight_contract::{
    Frozen, Schema,
    tape::{self, Call, End, Headers},
};
use lamplight_proto::{
    chunk::Receiving,
    delta::{DeltaManifest, Metrics, Receipt},
    envelope::{Payload, Signed, TrustedKeys},
    ids::{Digest, Hasher, NodeId},
    offer::{NormMode, Optimizer, RoundOffer, Schedule},
    refusal::Refusal,
    release::ReleaseManifest,
    token::enrol_proof,
    version::{ClientVersions, PROTOCOL_HEADER, ServerVersions, VERSION_HEADER},
    wire,
};
use prost::Message as _;
use serde_json::{Value as Json, json};
use tonic::{Status, body::Body};
use tower::{Layer as _, Service as _};

/// The conversations of one version.
struct Recorded {
    frozen: Frozen,
    then: Schema,
    calls: Vec<Call>,
}

fn recorded() -> Vec<Recorded> {
    let all: Vec<Recorded> = (Frozen::all().into_iter())
        .map(|frozen| {
            let entries = std::fs::read_dir(&frozen.dir).expect("readable");
            let mut files: Vec<_> = entries
                .map(|e| e.expect("readable").path())
                .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
                .collect();
            files.sort();
            let calls: Vec<Call> = files.iter().flat_map(|f| tape::read(f)).collect();
            assert!(!calls.is_empty(), "{} has no recording", frozen.name());
            Recorded {
                then: frozen.schema(),
                frozen,
                calls,
            }
        })
        .collect();
    assert!(!all.is_empty(), "no version is frozen");
    all
}

impl Recorded {
    /// First request and first reply of each call at a path that went well.
    fn pairs<A, B>(&self, path: &str) -> Vec<(A, B)>
    where
        A: prost::Message + Default,
        B: prost::Message + Default,
    {
        let calls = self.calls.iter().filter(|c| c.path == path);
        calls
            .filter(|c| c.end == Some(End::default()))
            .filter_map(|c| Some((c.requests.first()?.bytes(), c.replies.first()?.bytes())))
            .map(|(a, b)| {
                let a = A::decode(&a[..]).expect("a request");
                (a, B::decode(&b[..]).expect("a reply"))
            })
            .collect()
    }

    fn enrolments(&self) -> Vec<(wire::EnrolRequest, wire::EnrolReply)> {
        self.pairs("/lamplight.v1.Enrolment/Enrol")
    }

    fn nodes(&self) -> TrustedKeys {
        let keys = self.enrolments().into_iter();
        TrustedKeys::new(keys.map(|(asked, _)| asked.signing_key[..].try_into().expect("a key")))
    }

    fn coordinator(&self) -> TrustedKeys {
        let keys = self.enrolments().into_iter();
        TrustedKeys::new(keys.map(|(_, said)| said.release_key[..].try_into().expect("a key")))
    }
}

/// Decodes with today's generated type and encodes again.
fn again(of: &str, bytes: &[u8]) -> Vec<u8> {
    macro_rules! known {
        ($($name:ident),* $(,)?) => {
            $(if of == concat!("lamplight.v1.", stringify!($name)) {
                let message = wire::$name::decode(bytes).expect(stringify!($name));
                return message.encode_to_vec();
            })*
        };
    }
    known!(
        BeginBlobReply,
        BeginBlobRequest,
        BeginDeltaReply,
        BeginDeltaRequest,
        Chunk,
        CommitDeltaReply,
        CommitDeltaRequest,
        CreateTokenReply,
        CreateTokenRequest,
        EnrolReply,
        EnrolRequest,
        GetReleaseReply,
        GetReleaseRequest,
        ListModelsReply,
        ListModelsRequest,
        ListNodesReply,
        ListNodesRequest,
        ListReleasesReply,
        ListReleasesRequest,
        ListRoundsReply,
        ListRoundsRequest,
        PollReply,
        PollRequest,
        PublishModelRequest,
        PullRequest,
        PutBlobReply,
        PutBlobRequest,
        ReleaseView,
        ReportReply,
        ReportRequest,
        RoundView,
        ShowRoundRequest,
        StartRoundsReply,
        StartRoundsRequest,
        UploadReply,
        UploadRequest,
    );
    panic!("{of} was recorded and is not in this test's list; add it");
}

#[test]
fn recorded_messages_mean_today_what_they_meant_then() {
    let today = Schema::today();
    for r in recorded() {
        for said in r
            .calls
            .iter()
            .flat_map(|c| c.requests.iter().chain(&c.replies))
        {
            let (bytes, of) = (said.bytes(), &said.of);
            let read = |schema: &Schema| {
                let message = schema.message(of);
                let message = message.unwrap_or_else(|| panic!("{of} is no longer there"));
                schema.read(&message, &bytes)
            };
            assert_eq!(read(&r.then), said.reads, "{of}: the recording was changed");
            assert_eq!(read(&today), said.reads, "{of} of {}", r.frozen.name());
            assert_eq!(
                again(of, &bytes),
                bytes,
                "{of}: today's types lose something"
            );
        }
    }
}

#[test]
fn every_call_of_a_version_was_recorded_and_a_refusal_too() {
    for r in recorded() {
        let heard: BTreeSet<&str> = r.calls.iter().map(|c| c.path.as_str()).collect();
        let all = r.then.paths();
        let all: BTreeSet<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(heard, all, "{}", r.frozen.name());
        assert!(
            r.calls
                .iter()
                .any(|c| c.end.as_ref().is_some_and(|e| e.code != 0))
        );
    }
}

/// The fields of a domain type under the names of the `.proto` files, what is not set left out, as
/// a reading of the message shows them.
fn fields(value: Json) -> Json {
    let is_set = |v: &Json| match v {
        Json::Null => false,
        Json::Number(n) => n.as_f64() != Some(0.0),
        Json::String(s) => !s.is_empty(),
        Json::Array(list) => !list.is_empty(),
        Json::Bool(b) => *b,
        Json::Object(_) => true,
    };
    match value {
        Json::Object(map) => {
            let set = map.into_iter().filter(|(_, v)| is_set(v));
            set.map(|(k, v)| (k, fields(v))).collect()
        }
        Json::Array(list) => list.into_iter().map(fields).collect(),
        plain => plain,
    }
}

fn metrics(m: Option<Metrics>) -> Json {
    m.map_or(
        Json::Null,
        |m| json!({"samples": m.samples, "loss": m.loss, "accuracy": m.accuracy}),
    )
}

/// What a payload means, told from the domain type.
trait Meaning: Payload {
    fn meaning(&self) -> Json;
}

impl Meaning for RoundOffer {
    fn meaning(&self) -> Json {
        let t = &self.training;
        let f = f64::from;
        let optimizer = match t.optimizer {
            Optimizer::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => json!({"sgd": {
                "learning_rate": f(learning_rate),
                "momentum": f(momentum),
                "weight_decay": f(weight_decay),
            }}),
            Optimizer::AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            } => json!({"adamw": {
                "learning_rate": f(learning_rate),
                "beta1": f(beta1),
                "beta2": f(beta2),
                "eps": f(eps),
                "weight_decay": f(weight_decay),
            }}),
        };
        json!({
            "deployment": self.deployment,
            "node_id": self.node_id,
            "round": self.round.0,
            "window": self.window,
            "model": self.model,
            "base_version": self.base_version.0,
            "base_digest": self.base_digest,
            "base_size": self.base_size,
            "lease": hex::encode(self.lease.0),
            "expires_unix_ms": self.expires.0,
            "max_delta_bytes": self.max_delta_bytes,
            "codec": self.codec.as_str(),
            "training": {
                "epochs": t.epochs,
                "batch": t.batch,
                "optimizer": optimizer,
                "clip_norm": t.clip_norm.map(f),
                "schedule": match t.schedule {
                    Schedule::Constant => "SCHEDULE_CONSTANT",
                    Schedule::Cosine => "SCHEDULE_COSINE",
                },
                "norm_mode": match t.norm_mode {
                    NormMode::Train => "NORM_MODE_TRAIN",
                    NormMode::Frozen => "NORM_MODE_FROZEN",
                },
                "seed": t.seed,
                "rotate_deg": f(t.rotate_deg),
            },
            "needs": self.needs,
        })
    }
}

impl Meaning for DeltaManifest {
    fn meaning(&self) -> Json {
        let tensors = self.tensors.iter();
        json!({
            "deployment": self.deployment,
            "round": self.round.0,
            "window": self.window,
            "base_digest": self.base_digest,
            "node_id": self.node_id,
            "counter": self.counter,
            "lease": hex::encode(self.lease.0),
            "expires_unix_ms": self.expires.0,
            "tensors": tensors
                .map(|t| json!({"name": t.name, "shape": t.shape}))
                .collect::<Json>(),
            "codec": self.codec.as_str(),
            "size": self.size,
            "digest": self.digest,
            "chunk_digests": self.chunk_digests,
            "sample_count": self.sample_count,
            "before": metrics(self.before),
            "after": metrics(self.after),
            "training_seconds": self.training_seconds,
            "agent_version": self.agent_version,
        })
    }
}

impl Meaning for Receipt {
    fn meaning(&self) -> Json {
        json!({
            "deployment": self.deployment,
            "round": self.round.0,
            "node_id": self.node_id,
            "manifest_digest": self.manifest_digest,
            "delta_digest": self.delta_digest,
            "counter": self.counter,
            "accepted_unix_ms": self.accepted.0,
        })
    }
}

impl Meaning for ReleaseManifest {
    fn meaning(&self) -> Json {
        let provenance = self.provenance.as_ref().map(|p| {
            let contributions = p.contributions.iter();
            json!({
                "round": p.round.0,
                "base_version": p.base_version.0,
                "base_digest": p.base_digest,
                "base_carry_digest": p.base_carry_digest,
                "rule": p.rule.as_str(),
                "clip_norm": p.clip_norm,
                "weight_cap": p.weight_cap,
                "fixed_point_bits": p.fixed_point_bits,
                "contributions": contributions
                    .map(|c| json!({
                        "node_id": c.node_id,
                        "delta_digest": c.delta_digest,
                        "manifest_digest": c.manifest_digest,
                        "weight": c.weight,
                        "clip_factor": c.clip_factor,
                    }))
                    .collect::<Json>(),
            })
        });
        json!({
            "deployment": self.deployment,
            "model": self.model,
            "version": self.version.0,
            "digest": self.digest,
            "size": self.size,
            "provenance": provenance,
            "carry_digest": self.carry_digest,
            "created_unix_ms": self.created.0,
            "evaluation": metrics(self.evaluation),
        })
    }
}

/// Believes an envelope as programs do, and checks that today's program would have signed the very
/// same bytes for the same meaning.
fn believed<T: Meaning>(then: &Schema, keys: &TrustedKeys, envelope: wire::Envelope) -> T {
    let payload = envelope.payload.clone();
    let name = lamplight_contract::schema::payload_message(T::TYPE).expect("known");
    let reading = then.read(&then.message(name).expect("known"), &payload);
    let verified = Signed::<T>::from_wire(envelope).verify(keys);
    let verified = verified.unwrap_or_else(|e| panic!("{}: {e}", T::TYPE));
    assert_eq!(fields(verified.meaning()), reading, "{}", T::TYPE);
    assert_eq!(verified.to_payload(), payload, "{}: other bytes", T::TYPE);
    T::parse(&payload).expect("parsed before")
}

#[test]
fn recorded_signatures_verify_and_their_payloads_keep_meaning_and_bytes() {
    for r in recorded() {
        let (nodes, coordinator) = (r.nodes(), r.coordinator());
        let (mut offers, mut manifests, mut receipts, mut releases) = (0, 0, 0, 0);
        type Poll = (wire::PollRequest, wire::PollReply);
        for (_, said) in r.pairs("/lamplight.v1.Rounds/Poll") as Vec<Poll> {
            if let Some(envelope) = said.offer {
                believed::<RoundOffer>(&r.then, &coordinator, envelope);
                offers += 1;
            }
        }
        type Begin = (wire::BeginDeltaRequest, wire::BeginDeltaReply);
        for (asked, said) in r.pairs("/lamplight.v1.Deltas/Begin") as Vec<Begin> {
            let envelope = asked.manifest.expect("a manifest");
            assert_eq!(Digest::of(&envelope.payload).to_bytes(), said.upload_id);
            believed::<DeltaManifest>(&r.then, &nodes, envelope);
            manifests += 1;
        }
        type Commit = (wire::CommitDeltaRequest, wire::CommitDeltaReply);
        for (asked, said) in r.pairs("/lamplight.v1.Deltas/Commit") as Vec<Commit> {
            let envelope = said.receipt.expect("a receipt");
            let receipt: Receipt = believed(&r.then, &coordinator, envelope);
            assert_eq!(receipt.manifest_digest.to_bytes(), asked.upload_id);
            receipts += 1;
        }
        type Get = (wire::GetReleaseRequest, wire::GetReleaseReply);
        for (_, said) in r.pairs("/lamplight.v1.Models/GetRelease") as Vec<Get> {
            let envelope = said.manifest.expect("a manifest");
            let release: ReleaseManifest = believed(&r.then, &coordinator, envelope);
            releases += usize::from(release.provenance.is_some());
        }
        let all = [offers, manifests, receipts, releases];
        assert!(all.iter().all(|n| *n > 0), "{}: {all:?}", r.frozen.name());
    }
}

#[test]
fn recorded_enrolments_prove_the_key_that_names_the_node() {
    for r in recorded() {
        let all = r.enrolments();
        assert!(!all.is_empty());
        for (asked, said) in all {
            let proven = enrol_proof(&asked.token_id, &asked.certificate_request_der);
            let key = ring::signature::UnparsedPublicKey::new(
                &ring::signature::ED25519,
                &asked.signing_key,
            );
            key.verify(&proven, &asked.proof).expect("a good proof");
            let id = NodeId::of_key(&asked.signing_key);
            assert_eq!(id.to_string(), said.node_id);
        }
    }
}

/// Puts chunks together as programs do.
fn whole(chunks: Vec<wire::Chunk>) -> Digest {
    let total = chunks.first().expect("a chunk").total;
    let mut receiving = Receiving::resume(total, 0, Hasher::new());
    for chunk in chunks {
        receiving.take(chunk).expect("in order");
    }
    assert!(receiving.is_complete());
    receiving.finish()
}

#[test]
fn recorded_transfers_arrive_whole() {
    for r in recorded() {
        let calls = |path: &'static str| {
            let well = |c: &&Call| c.path == path && c.end == Some(End::default());
            r.calls.iter().filter(well).cloned().collect::<Vec<Call>>()
        };
        let pulls = calls("/lamplight.v1.Models/Pull");
        for call in &pulls {
            let asked = wire::PullRequest::decode(&call.requests[0].bytes()[..]).expect("decoded");
            assert_eq!(asked.offset, 0);
            let chunks = call.replies.iter().map(|s| s.bytes());
            let chunks = chunks.map(|b| wire::Chunk::decode(&b[..]).expect("a chunk"));
            assert_eq!(whole(chunks.collect()).to_bytes(), asked.digest);
        }
        let puts = calls("/lamplight.v1.Operator/PutBlob");
        for call in &puts {
            let asked = call.requests.iter().map(|s| s.bytes());
            let asked: Vec<_> = asked
                .map(|b| wire::PutBlobRequest::decode(&b[..]).expect("decoded"))
                .collect();
            let digest = asked[0].digest.clone();
            let chunks = asked.into_iter().map(|a| a.chunk.expect("a chunk"));
            assert_eq!(whole(chunks.collect()).to_bytes(), digest);
        }
        let uploads = calls("/lamplight.v1.Deltas/Upload");
        type Begin = (wire::BeginDeltaRequest, wire::BeginDeltaReply);
        let begun: Vec<Begin> = r.pairs("/lamplight.v1.Deltas/Begin");
        for call in &uploads {
            let asked = call.requests.iter().map(|s| s.bytes());
            let asked: Vec<_> = asked
                .map(|b| wire::UploadRequest::decode(&b[..]).expect("decoded"))
                .collect();
            let (of, _) = (begun.iter())
                .find(|(_, said)| said.upload_id == asked[0].upload_id)
                .expect("begun before");
            let payload = &of.manifest.as_ref().expect("a manifest").payload;
            let manifest = DeltaManifest::parse(payload).expect("a manifest");
            let chunks = asked.into_iter().map(|a| a.chunk.expect("a chunk"));
            assert_eq!(whole(chunks.collect()), manifest.digest);
        }
        assert!(!pulls.is_empty() && !puts.is_empty() && !uploads.is_empty());
    }
}

#[test]
fn recorded_refusals_are_understood() {
    for r in recorded() {
        let ends = r.calls.iter().filter_map(|c| c.end.as_ref());
        let mut refused = 0;
        for end in ends.filter(|e| e.code != 0) {
            let status = end.status();
            let refusal = Refusal::in_status(&status).expect("a refusal");
            assert_eq!(refusal.message, status.message());
            // Today's programs refuse in the same way.
            let same = Status::from(refusal);
            assert_eq!(
                (same.code(), same.details()),
                (status.code(), status.details())
            );
            refused += 1;
        }
        assert!(refused > 0, "{}", r.frozen.name());
    }
}

fn put<T>(headers: &Headers, message: &mut http::Request<T>) {
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().expect("a name");
        message
            .headers_mut()
            .insert(name, value.parse().expect("a value"));
    }
}

#[tokio::test]
async fn peers_of_a_recorded_version_are_let_in_by_both_sides() {
    for r in recorded() {
        let versions: BTreeSet<&str> = (r.calls.iter())
            .flat_map(|c| [&c.headers, &c.answer])
            .map(|h| h[VERSION_HEADER].as_str())
            .collect();
        let (major, minor) = r.frozen.version;
        let of = format!("{major}.{minor}.");
        assert!(versions.iter().all(|v| v.starts_with(&of)), "{versions:?}");
        for call in &r.calls {
            // Today's coordinator hears the recorded caller ...
            let mut server =
                ServerVersions.layer(tower::service_fn(|_: http::Request<Body>| async {
                    Ok::<_, Infallible>(http::Response::new(Body::default()))
                }));
            let mut request = http::Request::new(Body::default());
            *request.uri_mut() = call.path.parse().expect("a path");
            put(&call.headers, &mut request);
            let response = server.call(request).await.expect("infallible");
            assert!(
                response.headers().get("grpc-status").is_none(),
                "{}",
                call.path
            );
            // ... and today's client the recorded coordinator.
            let mut answer = http::Request::new(());
            put(&call.answer, &mut answer);
            let headers = answer.headers().clone();
            assert!(headers.contains_key(PROTOCOL_HEADER), "{}", call.path);
            let mut client = ClientVersions::new(tower::service_fn(|_: http::Request<Body>| {
                let mut response = http::Response::new(Body::default());
                *response.headers_mut() = headers.clone();
                async move { Ok::<_, Infallible>(response) }
            }));
            let response = client.call(http::Request::new(Body::default())).await;
            let response = response.expect("infallible");
            assert!(
                Status::from_header_map(response.headers()).is_none(),
                "{}",
                call.path
            );
        }
    }
}

#[test]
fn an_offer_without_new_features_is_whole_for_an_old_agent() {
    // What today's coordinator signs for a task of the old version, read by the old schema.
    for r in recorded() {
        type Poll = (wire::PollRequest, wire::PollReply);
        let polls: Vec<Poll> = r.pairs("/lamplight.v1.Rounds/Poll");
        for envelope in polls.into_iter().filter_map(|(_, said)| said.offer) {
            let offer = RoundOffer::parse(&envelope.payload).expect("an offer");
            let narrowed = r.then.narrow_payload(RoundOffer::TYPE, &offer.to_payload());
            assert_eq!(narrowed.dropped, [] as [String; 0]);
            let seen = RoundOffer::parse(&narrowed.message.encode_to_vec()).expect("an offer");
            assert_eq!(seen, offer);
        }
    }
}
