//! The agent as a process of its own, and its real link, over sockets and mutual TLS.

mod doctor;
mod edge;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use edge::{Authority, serve};
use lamplight_agent::{
    dir::NodeDir,
    enrol,
    home::Home,
    link::{
        Link as _, LinkError,
        grpc::{self, GrpcLink},
        twin::Twin,
    },
    pull::pull,
    source::SourceSpec,
};
use lamplight_models::{
    model::{Model, ModelInfo},
    quant::gguf,
    zoo::{Norm, TcnConfig, tcn},
};
use lamplight_proto::{
    chunk::{CHUNK_BYTES, chunk_digests},
    delta::{DeltaManifest, TensorEntry},
    envelope::Signed,
    ids::{Digest, Lease, ModelVersion, NodeId, RoundId, UnixMillis},
    keys::SigningKey,
    offer::{Codec, NormMode, Optimizer, RoundOffer, Schedule, Training},
    refusal::Reason,
    tls::{Address, Identity},
    token::JoinToken,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;

const SOURCE: &str = "builtin:post?post=1&seed=7&train=40&held_out=20";

fn base() -> Vec<u8> {
    let spec: SourceSpec = SOURCE.parse().expect("a source");
    let about = spec.open().expect("opened").describe();
    let config = TcnConfig {
        widths: vec![8],
        strides: vec![2],
        dilations: vec![1],
        kernel: 5,
        norm: Norm::Batch,
        ..TcnConfig::new(about.window[0], about.window[1], about.classes.len())
    };
    let info = ModelInfo {
        architecture: "tcn".into(),
        input_mean: vec![0.0; about.window[0]],
        input_std: vec![1.0; about.window[0]],
        channels: about.channels,
        sampling_rate_hz: about.sampling_rate_hz,
        classes: about.classes,
        ..ModelInfo::default()
    };
    let model = Model::init(tcn(&config).expect("a graph"), info, 7).expect("a model");
    gguf::write(&model).expect("written")
}

fn offer(twin: &Twin, node: &NodeId, base: Digest, base_size: u64, epochs: u32) -> RoundOffer {
    RoundOffer {
        deployment: twin.deployment(),
        node_id: node.clone(),
        round: RoundId(1),
        window: 0,
        model: "tcn".parse().expect("a name"),
        base_version: ModelVersion(1),
        base_digest: base,
        base_size,
        lease: Lease([1; 16]),
        expires: UnixMillis(i64::MAX),
        max_delta_bytes: 16 << 20,
        codec: Codec::F32,
        budget: Default::default(),
        training: Training {
            trainable: Default::default(),
            epochs,
            batch: 8,
            optimizer: Optimizer::Sgd {
                learning_rate: 0.001,
                momentum: 0.9,
                weight_decay: 0.0,
            },
            clip_norm: Some(1.0),
            schedule: Schedule::Constant,
            norm_mode: NormMode::Frozen,
            seed: 3,
            rotate_deg: 0.0,
        },
        needs: vec![],
    }
}

/// An enrolled node's link, over the real road.
async fn enrolled(dir: &Path, twin: &Twin) -> (GrpcLink, NodeId, Address) {
    let authority = Arc::new(Authority::new());
    let token = JoinToken::generate(Digest::of(&authority.der())).expect("a token");
    let address: Address = serve(twin.clone(), authority)
        .await
        .to_string()
        .parse()
        .expect("an address");
    let mut home = Home::open(dir).expect("opened");
    let name = "post-1".parse().expect("a name");
    let ask = |request| grpc::enrol(&address, token.authority(), request);
    let enrolled = enrol::enrol(&mut home, &address, &token, &name, ask)
        .await
        .expect("enrolled");
    let identity = Identity::read(dir).expect("an identity");
    let link = GrpcLink::new(&address, &identity).expect("a link");
    (link, enrolled.node.node_id, address)
}

#[tokio::test]
async fn large_files_go_both_ways_in_chunks_and_from_any_offset() {
    let temp = tempfile::tempdir().expect("temp dir");
    let twin = Twin::new("fleet");
    let (link, node, _) = enrolled(temp.path(), &twin).await;
    let blob: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 249) as u8).collect();
    let (digest, size) = (twin.keep(blob.clone()), blob.len() as u64);

    // Down, broken once.
    let dir = NodeDir::at(temp.path());
    twin.break_pull_after(2);
    pull(&link, &dir, digest, size).await.expect_err("broken");
    let path = pull(&link, &dir, digest, size).await.expect("goes on");
    assert_eq!(fs::read(path).expect("there"), blob);
    assert_eq!(twin.bytes_pulled(), size);

    // Up, in two goes.
    twin.open(offer(&twin, &node, digest, size, 1));
    let key = SigningKey::load_or_create(&dir.signing_key()).expect("the node's key");
    let manifest = DeltaManifest {
        deployment: twin.deployment(),
        round: RoundId(1),
        window: 0,
        base_digest: digest,
        node_id: node,
        counter: 1,
        lease: Lease([1; 16]),
        expires: UnixMillis(i64::MAX),
        tensors: vec![TensorEntry {
            name: "w".into(),
            shape: vec![1],
        }],
        codec: Codec::F32,
        size,
        digest,
        chunk_digests: chunk_digests(&blob),
        sample_count: 1,
        before: None,
        after: None,
        training_seconds: 0.0,
        agent_version: "0".into(),
        samples_aside: 0,
    };
    let manifest = Signed::seal(manifest, &key);
    let id = manifest.signed().payload_digest();
    assert_eq!(link.begin(manifest.signed()).await, Ok(0));
    for part in [0..2 * CHUNK_BYTES, 2 * CHUNK_BYTES..blob.len()] {
        let (tx, rx) = mpsc::channel(1);
        let (bytes, from) = (blob[part.clone()].to_vec(), part.start);
        tokio::spawn(async move {
            for (i, data) in bytes.chunks(CHUNK_BYTES).enumerate() {
                let chunk = lamplight_proto::wire::Chunk {
                    offset: (from + i * CHUNK_BYTES) as u64,
                    data: data.to_vec().into(),
                    total: size,
                };
                tx.send(chunk).await.expect("taken");
            }
        });
        assert_eq!(link.upload(id, rx).await, Ok(part.end as u64));
        assert_eq!(link.begin(manifest.signed()).await, Ok(part.end as u64));
    }
    let receipt = link.commit(id).await.expect("a receipt");
    assert_eq!(link.commit(id).await.expect("the same"), receipt);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_a_fault_that_may_be_a_refusal() {
    let temp = tempfile::tempdir().expect("temp dir");
    let twin = Twin::new("fleet");
    let (_, _, address) = enrolled(temp.path(), &twin).await;
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(Vec::new())
        .and_then(|p| p.self_signed(&key))
        .expect("a certificate");
    let authority = lamplight_proto::tls::read_certificate(&temp.path().join("ca.crt"));
    let identity = Identity::new(
        own.der().to_vec(),
        key.serialize_der(),
        authority.expect("there").to_vec(),
    );
    let link = GrpcLink::new(&address, &identity).expect("usable");
    let e = link.poll("idle", None).await.expect_err("refused");
    assert!(
        matches!(
            e,
            LinkError::Fault {
                maybe_refused: true,
                ..
            }
        ),
        "{e}"
    );
}

#[tokio::test]
async fn refusals_arrive_with_their_reason() {
    let temp = tempfile::tempdir().expect("temp dir");
    let twin = Twin::new("fleet");
    let (link, _, _) = enrolled(temp.path(), &twin).await;
    let e = link.pull(Digest::of(b"nothing"), 0).await;
    let e = match e {
        Err(e) => e,
        Ok(mut chunks) => chunks
            .recv()
            .await
            .expect("an answer")
            .expect_err("refused"),
    };
    assert!(matches!(&e, LinkError::Refused(r) if r.reason == Reason::NotFound));
}

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight-agent"));
    command.args(arguments).stdin(Stdio::null());
    command
}

async fn output(arguments: &[&str]) -> Output {
    let mut command = agent(arguments);
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("joined")
        .expect("ran")
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_enrols_learns_survives_a_kill_and_stops_when_told() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = temp.path().join("node-1");
    let twin = Twin::new("fleet");
    let authority = Arc::new(Authority::new());
    let token = JoinToken::generate(Digest::of(&authority.der())).expect("a token");
    let token_file = temp.path().join("token");
    fs::write(&token_file, format!("{token}\n")).expect("written");
    let address = serve(twin.clone(), authority).await.to_string();
    let bytes = base();
    let size = bytes.len() as u64;
    let digest = twin.keep(bytes);
    let (dir, token_file) = (
        dir.to_str().expect("text").to_owned(),
        token_file.to_str().expect("text").to_owned(),
    );
    let run = || {
        let child = agent(&[
            "run",
            "--dir",
            &dir,
            "--coordinator",
            &address,
            "--source",
            SOURCE,
            "--token-file",
            &token_file,
            "--checkpoint-seconds",
            "1",
            "--precision",
            "bf16",
        ])
        .spawn();
        Running(child.expect("started"))
    };

    // Enrols by itself, then waits for work.
    let mut first = run();
    let polling = twin.clone();
    until("no poll came", || polling.calls() > 2).await;
    // A second agent cannot have the directory.
    let second = output(&[
        "run",
        "--dir",
        &dir,
        "--coordinator",
        &address,
        "--source",
        SOURCE,
    ])
    .await;
    // Refused, as a coordinator refuses a directory in use.
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another agent is using"), "{said}");

    // Killed in the middle of training; the next start goes on and delivers.
    let key = SigningKey::load_or_create(&Path::new(&dir).join("node.key")).expect("made");
    let node = NodeId::of_key(&key.public());
    twin.open(offer(&twin, &node, digest, size, 1000));
    until("training did not begin", || twin.reports().len() > 3).await;
    first.0.kill().expect("killed");
    first.0.wait().expect("gone");
    // The first may have delivered just before it was killed; the next one must be up all the same.
    let calls = twin.calls();
    let mut again = run();
    until("no call came", || twin.calls() > calls).await;
    until("no delta came", || !twin.accepted().is_empty()).await;
    let (manifest, delta) = twin.accepted().remove(0);
    assert_eq!((manifest.counter, manifest.node_id), (1, node.clone()));
    assert_eq!(manifest.digest, Digest::of(&delta));
    assert_eq!(manifest.sample_count, 40);

    // What `status` says while it runs.
    let status = output(&["status", "--dir", &dir, "--json"]).await;
    assert_eq!(status.status.code(), Some(0));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["node_id"], node.to_string());
    assert_eq!(status["tasks"].as_array().map(Vec::len), Some(1));
    assert_eq!(status["versions"][0]["version"], 1);
    assert_eq!(status["tasks"][0]["precision"], "bf16");

    // Told to stop, it stops.
    let pid = again.0.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.expect("kill").success());
    let start = Instant::now();
    let code = tokio::task::spawn_blocking(move || again.0.wait())
        .await
        .expect("joined")
        .expect("ended");
    assert_eq!(code.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_directory_that_never_enrolled_is_refused_with_a_remedy() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = temp.path().to_str().expect("text");
    let out = output(&[
        "run",
        "--dir",
        dir,
        "--coordinator",
        "127.0.0.1:1",
        "--source",
        SOURCE,
    ])
    .await;
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("join token"), "{said}");
    let out = output(&["status", "--dir", dir]).await;
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("not enrolled"), "{said}");
}
