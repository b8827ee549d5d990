//! Model files as people see them, and releases whose classes change, over the whole road: a real
//! coordinator, a real agent, sockets and mutual TLS between them.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use lamplight_agent::{
    dir::NodeDir,
    enrol,
    home::Home,
    link::grpc::{self, GrpcLink},
    run::{Agent, Config as AgentConfig},
    source::{SampleSource, SourceError, SourceInfo},
    stop,
    store::Store,
};
use lamplight_coordinator::{Config, InitOptions, init};
use lamplight_models::{
    image::{ImageRule, ValueRange},
    lane::LaneKind,
    model::{Model, ModelInfo},
    quant::gguf,
    samples::Samples,
    zoo::{Norm, TcnConfig, resnet20, tcn},
};
use lamplight_proto::{
    chunk::chunks,
    ids::Digest,
    refusal::Refusal,
    tls::{self, Address, Identity, Link},
    token::JoinToken,
    wire::{self, operator_client::OperatorClient},
};
use serde_json::{Value, json};

const SHAPE: [usize; 2] = [2, 16];

fn lamplight(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(arguments)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn a_model_file_tells_what_goes_in_and_comes_out() {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("photos.gguf");
    let info = ModelInfo {
        architecture: "resnet20".into(),
        input_name: "photo".into(),
        input_mean: vec![0.5, 0.25, 0.125],
        input_std: vec![0.25; 3],
        channels: ["red", "green", "blue"]
            .map(|c| format!("{c} [0-1]"))
            .into(),
        image: Some(ImageRule::of_size(32, 32, ValueRange::Unit)),
        classes: vec!["cat".into(), "dog".into()],
        ..ModelInfo::default()
    };
    let graph = resnet20(2, Norm::Batch).expect("a graph");
    let model = Model::init(graph, info, 1).expect("a model");
    std::fs::write(&file, gguf::write(&model).expect("a file")).expect("written");

    let shown = lamplight(&["model", "show", text(&file), "--json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let channel =
        |name: &str, mean: f32| json!({"name": name, "unit": "0-1", "mean": mean, "std": 0.25});
    assert_eq!(
        shown["input"],
        json!({
            "name": "photo",
            "shape": [3, 32, 32],
            "layout": "CHW",
            "dtype": "f32",
            "channels": [channel("red", 0.5), channel("green", 0.25), channel("blue", 0.125)],
            "sampling_rate_hz": null,
            "image": {"resize": "shortest-side", "resize_side": 32, "crop": [32, 32], "range": "0-1"},
        })
    );
    assert_eq!(
        shown["output"],
        json!({"name": "logits", "classes": ["cat", "dog"]})
    );
    assert_eq!(shown["description_version"], 1);

    let shown = lamplight(&["model", "show", text(&file)]);
    for line in [
        "input    photo: 3 x 32 x 32 (CHW, f32)",
        "images   scaled to a shorter side of 32 (bilinear), the middle kept, values 0-1",
        "output   logits: one for each of 2 classes",
        "classes  cat, dog",
    ] {
        assert!(
            shown.lines().any(|l| l == line),
            "{line}\nis not in\n{shown}"
        );
    }
    let mut rows = shown
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert!(
        rows.any(|row| row == ["green", "0-1", "0.25", "0.25"]),
        "{shown}"
    );

    // From before files had descriptions.
    let old = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/tests/files/before-descriptions.gguf"
    );
    let shown = lamplight(&["model", "show", old]);
    assert!(
        shown.contains("input    input: 2 x 8 (CT, f32) at 50 Hz"),
        "{shown}"
    );
    assert!(shown.contains("before files had descriptions"), "{shown}");
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A base model's file with these classes.
fn base(classes: &[&str]) -> Vec<u8> {
    let config = TcnConfig {
        widths: vec![4],
        strides: vec![1],
        dilations: vec![1],
        kernel: 3,
        norm: Norm::Batch,
        ..TcnConfig::new(SHAPE[0], SHAPE[1], classes.len())
    };
    let info = ModelInfo {
        architecture: "tcn".into(),
        input_mean: vec![0.0; SHAPE[0]],
        input_std: vec![1.0; SHAPE[0]],
        channels: names(&["a [V]", "b [V]"]),
        sampling_rate_hz: Some(10.0),
        classes: names(classes),
        ..ModelInfo::default()
    };
    let model = Model::init(tcn(&config).expect("a graph"), info, 7).expect("a model");
    gguf::write(&model).expect("a file")
}

/// `count` windows of each of these classes.
fn windows(classes: &[&str], count: usize) -> Samples {
    let n = count * classes.len();
    let value = |i: usize, t: usize| (i % classes.len()) as f32 + ((t * i) % 7) as f32 / 9.0;
    Samples {
        shape: SHAPE.to_vec(),
        x: (0..n)
            .flat_map(|i| (0..SHAPE[0] * SHAPE[1]).map(move |t| value(i, t)))
            .collect(),
        y: (0..n).map(|i| (i % classes.len()) as u32).collect(),
        classes: names(classes),
    }
}

const SEEN: [&str; 3] = ["car", "tram", "bus"];

/// A post that sees three classes.
#[derive(Debug)]
struct Street;

impl SampleSource for Street {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            channels: names(&["a [V]", "b [V]"]),
            sampling_rate_hz: Some(10.0),
            image: None,
            window: SHAPE.to_vec(),
            classes: names(&SEEN),
            origin: "a test".into(),
            simulated: true,
        }
    }
    fn train(&self) -> Result<Samples, SourceError> {
        Ok(windows(&SEEN, 8))
    }
    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(windows(&SEEN, 3))
    }
}

struct Operator(OperatorClient<Link>);

impl Operator {
    async fn put(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let begin = wire::BeginBlobRequest {
            digest: digest.to_bytes(),
            size: bytes.len() as u64,
        };
        self.0.begin_blob(begin).await.expect("begun");
        let requests: Vec<_> = chunks(bytes.into(), 0)
            .map(|chunk| wire::PutBlobRequest {
                digest: digest.to_bytes(),
                chunk: Some(chunk),
            })
            .collect();
        let stream = tokio_stream::iter(requests);
        self.0.put_blob(stream).await.expect("uploaded");
        digest
    }

    async fn push(&mut self, classes: &[&str]) -> u64 {
        let digest = self.put(base(classes)).await;
        let request = wire::PublishModelRequest {
            model: "post".into(),
            digest: digest.to_bytes(),
        };
        let release = self.0.publish_model(request).await.expect("pushed");
        release.into_inner().version
    }

    async fn start(&mut self, key: &str, evaluation: &Samples) -> Result<u64, tonic::Status> {
        let samples = self.put(evaluation.to_bytes().expect("samples")).await;
        let sgd = wire::Sgd {
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 0.0,
        };
        let request = wire::StartRoundsRequest {
            model: "post".into(),
            rounds: 1,
            minimum_deltas: 1,
            deadline_seconds: 60,
            training: Some(wire::Training {
                epochs: 1,
                batch: 4,
                optimizer: Some(wire::Optimizer {
                    kind: Some(wire::optimizer::Kind::Sgd(sgd)),
                }),
                schedule: wire::Schedule::Constant as i32,
                norm_mode: wire::NormMode::Frozen as i32,
                ..Default::default()
            }),
            evaluation_digest: samples.to_bytes(),
            idempotency_key: key.as_bytes().to_vec().into(),
            ..Default::default()
        };
        Ok(self.0.start_rounds(request).await?.into_inner().round)
    }

    /// Runs a round to its end.
    async fn round(&mut self, key: &str, evaluation: &Samples) -> wire::RoundView {
        let round = self.start(key, evaluation).await.expect("started");
        for _ in 0..3000 {
            let request = wire::ShowRoundRequest { round };
            let view = self.0.show_round(request).await.expect("shown");
            let view = view.into_inner();
            if view.ended_unix_ms != 0 {
                assert_eq!(view.phase, "published", "{}", view.reason);
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("round {round} did not end");
    }
}

/// Enrols a node and lets it work; how to stop it.
async fn node(dir: &Path, address: &Address, operator: &mut Operator) -> stop::Stopper {
    let request = wire::CreateTokenRequest {
        count: 1,
        valid_seconds: 600,
    };
    let reply = operator.0.create_token(request).await.expect("a token");
    let token: JoinToken = reply.into_inner().tokens[0].parse().expect("a token");
    let mut home = Home::open(dir).expect("opened");
    let name = "street".parse().expect("a name");
    let ask = |request| grpc::enrol(address, token.authority(), request);
    let joined = enrol::enrol(&mut home, address, &token, &name, ask).await;
    joined.expect("enrolled");
    let link = GrpcLink::new(address, &Identity::read(dir).expect("an identity"));
    let config = AgentConfig {
        source: Arc::new(|_| Ok(Box::new(Street))),
        device: LaneKind::Cpu,
        threads: 1,
        precision: Default::default(),
        checkpoint_every: Duration::from_secs(60),
        report_every: Duration::from_millis(100),
        limits: Default::default(),
    };
    let agent = Agent::new(home, link.expect("a link"), config).expect("an agent");
    let (stopper, stop) = stop::channel();
    tokio::spawn(agent.run(stop));
    stopper
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_classes_change_a_node_maps_labels_by_name_and_keeps_the_rest_aside() {
    let temp = tempfile::tempdir().expect("temp dir");
    let report = init(&InitOptions {
        dir: temp.path().join("state"),
        deployment: "lamps".parse().expect("a name"),
        hosts: vec![],
        operator: "alice".parse().expect("a name"),
    })
    .expect("a deployment");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let address: Address = format!("localhost:{port}").parse().expect("an address");
    let config = Config {
        poll_active: Duration::from_millis(20),
        poll_idle: Duration::from_millis(20),
        ..Config::new(&report.dir)
    };
    let (stop_coordinator, stopped) = tokio::sync::oneshot::channel::<()>();
    let coordinator = tokio::spawn(lamplight_coordinator::run(config, listener, async {
        stopped.await.ok();
    }));
    let identity = Identity::read(&report.operator).expect("an identity");
    let link = tls::connect(&address, &identity).expect("a link");
    let mut operator = Operator(OperatorClient::new(link));
    let dir = temp.path().join("node");
    let stopper = node(&dir, &address, &mut operator).await;
    let waits = || {
        let store = Store::open_to_read(&NodeDir::at(&dir).database()).expect("opened");
        let views = store.status(1).expect("read").aside.into_iter();
        views
            .map(|a| format!("{} {} {}", a.class, a.samples, a.version))
            .collect::<Vec<_>>()
    };

    // 1. All classes of the node, in another order, and so are the evaluation samples.
    assert_eq!(operator.push(&["car", "tram", "bus"]).await, 1);
    let all = windows(&["bus", "car", "tram"], 2);
    let view = operator.round("1", &all).await;
    let p = &view.participants[0];
    assert_eq!((p.sample_count, p.samples_aside), (24, 0));
    assert_eq!(view.evaluation.as_ref().expect("evaluated").samples, 6);
    assert!(waits().is_empty());

    // 2. Trams vanish, bicycles are new, the rest change places: the head has other rows.
    assert_eq!(operator.push(&["bus", "car", "bicycle"]).await, 3);
    let listed = operator
        .0
        .list_models(wire::ListModelsRequest {})
        .await
        .expect("listed");
    assert_eq!(
        listed.into_inner().models[0].classes,
        ["bus", "car", "bicycle"]
    );
    let refused = operator
        .start("2", &all)
        .await
        .expect_err("trams among them");
    let refused = Refusal::in_status(&refused).expect("a refusal").message;
    assert!(
        refused.contains("2 of class `tram`, which post version 3 does not have"),
        "{refused}"
    );
    let view = operator
        .round("3", &windows(&["car", "bicycle", "bus"], 2))
        .await;
    let p = &view.participants[0];
    assert_eq!((p.sample_count, p.samples_aside), (16, 11));
    assert_eq!(p.after.as_ref().expect("held out").samples, 6);
    assert_eq!(waits(), ["tram 11 3"]);
    let status = lamplight(&["agent", "status", "--dir", text(&dir)]);
    let line = "kept aside  11 samples of `tram`, not a class of post version 3";
    assert!(status.lines().any(|l| l == line), "{status}");

    // 3. Trams are back.
    assert_eq!(operator.push(&["tram", "bicycle", "car", "bus"]).await, 5);
    let view = operator.round("4", &all).await;
    let p = &view.participants[0];
    assert_eq!((p.sample_count, p.samples_aside), (24, 0));
    assert!(waits().is_empty());

    stopper.stop();
    stop_coordinator.send(()).ok();
    coordinator.await.expect("joined").expect("a clean end");
}
