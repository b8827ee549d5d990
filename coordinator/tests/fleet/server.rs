//! A server in a runtime of its own, so that a test can pull its plug.

use std::{path::Path, sync::Arc, time::Duration};

use lamplight_coordinator::{
    Config, House, InitOptions, OpenError,
    clock::{Clock, Manual},
    init,
    round::work::drive,
    serve,
};
use lamplight_models::{quant::gguf, samples::Samples};
use lamplight_proto::{
    chunk::chunks,
    ids::{Digest, UnixMillis},
    tls::{self, Address, Identity, Link},
    token::JoinToken,
    wire::{self, operator_client::OperatorClient},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use crate::small;

pub(crate) const MODEL: &str = "post";
/// A round's deadline, on the manual clock.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A state directory with a clock that stands still, and the operator's identity.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) clock: Arc<Manual>,
    pub(crate) operator: Identity,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let report = init(&InitOptions {
            dir: dir.path().join("state"),
            deployment: "lamps".parse().unwrap(),
            hosts: vec![],
            operator: "alice".parse().unwrap(),
        })
        .unwrap();
        Self {
            operator: Identity::read(&report.operator).unwrap(),
            dir,
            clock: Arc::new(Manual::at(UnixMillis(1_800_000_000_000))),
        }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            poll_active: Duration::from_millis(20),
            poll_idle: Duration::from_millis(777),
            clock: self.clock.clone() as Arc<dyn Clock>,
            ..Config::new(self.path())
        }
    }

    /// Opens the house, waiting for a crashed server's last threads to let go of it.
    pub(crate) fn open(&self) -> House {
        for _ in 0..500 {
            match House::open(self.config()) {
                Err(OpenError::Busy(_)) => std::thread::sleep(Duration::from_millis(10)),
                other => return other.unwrap(),
            }
        }
        panic!("the state directory stayed busy");
    }

    /// Serves and drives rounds.
    pub(crate) async fn start(&self) -> Server {
        Server::start(self.open(), true).await
    }

    /// Serves; rounds stand still until [`Server::advance`].
    pub(crate) async fn start_without_worker(&self) -> Server {
        Server::start(self.open(), false).await
    }
}

pub(crate) struct Server {
    runtime: Option<Runtime>,
    house: Option<Arc<House>>,
    stop: watch::Sender<bool>,
    pub(crate) address: Address,
}

impl Server {
    async fn start(house: House, drives: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let house = Arc::new(house);
        let (stop, stopped) = watch::channel(false);
        let listener = runtime
            .spawn(TcpListener::bind("127.0.0.1:0"))
            .await
            .unwrap()
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(serve(house.clone(), listener, stopped.clone()));
        if drives {
            runtime.spawn(drive(house.clone(), stopped));
        }
        Self {
            runtime: Some(runtime),
            house: Some(house),
            stop,
            address: format!("localhost:{port}").parse().unwrap(),
        }
    }

    /// One unit of round work.
    pub(crate) async fn advance(&self) -> bool {
        let house = self.house.clone().unwrap();
        tokio::task::spawn_blocking(move || house.advance().unwrap())
            .await
            .unwrap()
    }

    /// Pulls the plug: nothing is finished, nothing said goodbye.
    pub(crate) fn crash(self) {
        drop(self);
    }

    pub(crate) fn link(&self, identity: &Identity) -> Link {
        tls::connect(&self.address, identity).unwrap()
    }

    pub(crate) fn operator(&self, site: &Site) -> Operator {
        Operator(OperatorClient::new(self.link(&site.operator)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.house = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.stop.send(true).ok();
    }
}

pub(crate) struct Operator(pub(crate) OperatorClient<Link>);

impl Operator {
    pub(crate) async fn token(&mut self) -> JoinToken {
        let request = wire::CreateTokenRequest {
            count: 1,
            valid_seconds: 600,
        };
        let reply = self.0.create_token(request).await.unwrap().into_inner();
        reply.tokens[0].parse().unwrap()
    }

    pub(crate) async fn put(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let begin = wire::BeginBlobRequest {
            digest: digest.to_bytes(),
            size: bytes.len() as u64,
        };
        let received = self
            .0
            .begin_blob(begin)
            .await
            .unwrap()
            .into_inner()
            .received;
        let requests = chunks(bytes.into(), received).map(move |chunk| wire::PutBlobRequest {
            digest: digest.to_bytes(),
            chunk: Some(chunk),
        });
        if received < requests.size_hint().1.map_or(u64::MAX, |n| n as u64) {
            let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
            self.0.put_blob(stream).await.unwrap();
        }
        digest
    }

    /// Pushes the base model.
    pub(crate) async fn push(&mut self) -> wire::ReleaseView {
        let digest = self.put(base_file()).await;
        self.publish(digest).await.unwrap()
    }

    pub(crate) async fn publish(
        &mut self,
        digest: Digest,
    ) -> Result<wire::ReleaseView, tonic::Status> {
        let request = wire::PublishModelRequest {
            model: MODEL.into(),
            digest: digest.to_bytes(),
        };
        Ok(self.0.publish_model(request).await?.into_inner())
    }

    pub(crate) async fn show(&mut self, round: u64) -> wire::RoundView {
        let request = wire::ShowRoundRequest { round };
        self.0.show_round(request).await.unwrap().into_inner()
    }

    pub(crate) async fn releases(&mut self) -> Vec<wire::ReleaseView> {
        let request = wire::ListReleasesRequest {
            model: MODEL.into(),
        };
        let reply = self.0.list_releases(request).await.unwrap();
        reply.into_inner().releases
    }

    /// Waits until a round has ended.
    pub(crate) async fn ended(&mut self, round: u64) -> wire::RoundView {
        for _ in 0..1000 {
            let view = self.show(round).await;
            if view.ended_unix_ms != 0 {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("round {round} did not end");
    }
}

/// A request for rounds that close on the whole cohort.
pub(crate) fn rounds(count: u32, minimum: u32) -> wire::StartRoundsRequest {
    wire::StartRoundsRequest {
        model: MODEL.into(),
        rounds: count,
        target_deltas: 0,
        minimum_deltas: minimum,
        deadline_seconds: u32::try_from(DEADLINE.as_secs()).unwrap(),
        cohort: vec![],
        training: Some(wire::Training {
            epochs: 1,
            batch: 8,
            optimizer: Some(wire::Optimizer {
                kind: Some(wire::optimizer::Kind::Sgd(wire::Sgd {
                    learning_rate: 0.1,
                    momentum: 0.9,
                    weight_decay: 0.0,
                })),
            }),
            clip_norm: 0.0,
            schedule: wire::Schedule::Constant as i32,
            norm_mode: wire::NormMode::Frozen as i32,
            seed: 1,
            rotate_deg: 0.0,
            trainable: String::new(),
        }),
        delta_clip_norm: 0.0,
        weight_cap: 0,
        evaluation_digest: Default::default(),
        idempotency_key: b"key-1".to_vec().into(),
        ..Default::default()
    }
}

/// The base model's file.
pub(crate) fn base_file() -> Vec<u8> {
    gguf::write(&small::model(7)).unwrap()
}

/// A few evaluation samples for [`model`].
pub(crate) fn samples() -> Samples {
    Samples {
        shape: vec![2, 8],
        x: (0..2 * 8 * 6).map(|i| (i as f32 * 0.37).sin()).collect(),
        y: vec![0, 1, 0, 1, 1, 0],
        classes: vec!["quiet".into(), "loud".into()],
    }
}

/// Reads a file under the state directory.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
