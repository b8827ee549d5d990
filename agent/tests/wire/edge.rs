//! The twin behind a real socket: the four services a node calls, over mutual TLS.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use lamplight_agent::link::{Link as _, LinkError, Report, ReportEvent, twin::Twin};
use lamplight_proto::{
    cause::Told,
    envelope::Signed,
    ids::{Digest, Lease, NodeId, RoundId},
    refusal::{Reason, Refusal},
    tls::provider,
    version::ServerVersions,
    wire::{
        self, deltas_server, enrolment_server, models_server, report_request::Event, rounds_server,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa,
    KeyPair,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_server::{Health, HealthServer},
};

/// A certificate authority, as `lamplight init` makes one.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What its server's certificate names.
    hosts: Vec<String>,
    /// Whether its server answers when asked for its health.
    answers: bool,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::naming(&["localhost", "127.0.0.1"])
    }

    /// One whose server is called by these names.
    pub(crate) fn naming(hosts: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            answers: true,
        }
    }

    /// One whose server takes calls and never says how it is.
    pub(crate) fn mute() -> Self {
        Self {
            answers: false,
            ..Self::new()
        }
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(self.hosts.clone()).expect("parameters");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![cert.der().clone(), self.issuer.der().clone()],
                key.serialize_der().try_into().expect("a key"),
            )
            .expect("a server's identity");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// Serves until the test ends; answers where.
pub(crate) async fn serve(twin: Twin, authority: Arc<Authority>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(authority.server_config());
    let (tx, rx) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    tx.send(Ok::<_, io::Error>(tls)).await.ok();
                }
            });
        }
    });
    // Serving, from the beginning.
    let (_, health) = tonic_health::server::health_reporter();
    let (health, mute) = match authority.answers {
        true => (Some(health), None),
        false => (None, Some(HealthServer::new(Mute))),
    };
    let edge = Edge { twin, authority };
    tokio::spawn(
        Server::builder()
            .layer(ServerVersions)
            .add_optional_service(health)
            .add_optional_service(mute)
            .add_service(enrolment_server::EnrolmentServer::new(edge.clone()))
            .add_service(rounds_server::RoundsServer::new(edge.clone()))
            .add_service(models_server::ModelsServer::new(edge.clone()))
            .add_service(deltas_server::DeltasServer::new(edge))
            .serve_with_incoming(ReceiverStream::new(rx)),
    );
    address
}

struct Mute;

#[tonic::async_trait]
impl Health for Mute {
    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        std::future::pending().await
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        std::future::pending().await
    }
}

#[derive(Clone)]
struct Edge {
    twin: Twin,
    authority: Arc<Authority>,
}

fn status(e: LinkError) -> Status {
    match e {
        LinkError::Refused(r) => r.into(),
        other => Status::unavailable(other.to_string()),
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|e| Refusal::from(e).into())
}

/// Only callers whose certificate the authority issued.
fn known<T>(request: &Request<T>) -> Result<(), Status> {
    match request.peer_certs() {
        Some(certs) if !certs.is_empty() => Ok(()),
        _ => Err(Refusal::new(Reason::Unauthenticated, "no certificate").into()),
    }
}

#[tonic::async_trait]
impl enrolment_server::Enrolment for Edge {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let request = request.into_inner();
        let csr = request.certificate_request_der.to_vec().into();
        let csr = CertificateSigningRequestParams::from_der(&csr)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let certificate = csr
            .signed_by(&self.authority.issuer)
            .map_err(|e| Status::internal(e.to_string()))?;
        let public: [u8; 32] = request.signing_key[..]
            .try_into()
            .map_err(|_| Status::invalid_argument("key"))?;
        self.twin.register(public);
        Ok(Response::new(wire::EnrolReply {
            node_id: NodeId::of_key(&public).to_string(),
            deployment: self.twin.deployment().to_string(),
            certificate_der: certificate.der().to_vec().into(),
            authority_der: self.authority.der().into(),
            release_key: self.twin.release_key().to_vec().into(),
        }))
    }
}

#[tonic::async_trait]
impl rounds_server::Rounds for Edge {
    async fn poll(
        &self,
        request: Request<wire::PollRequest>,
    ) -> Result<Response<wire::PollReply>, Status> {
        known(&request)?;
        let polled = self.twin.poll("idle", None).await.map_err(status)?;
        Ok(Response::new(wire::PollReply {
            wait_ms: 20,
            offer: polled.offer.map(|o| o.to_wire()),
            coordinator_unix_ms: polled.now.0,
        }))
    }

    async fn report(
        &self,
        request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportReply>, Status> {
        known(&request)?;
        let request = request.into_inner();
        let event = match request.event {
            Some(Event::Progress(p)) => ReportEvent::Progress {
                phase: "training",
                step: p.step,
                steps: p.steps,
                loss: p.loss,
            },
            // A sentence does not read back; the tests above the wire look at what is told.
            Some(Event::Failure(_)) => ReportEvent::Failure(Told::Other),
            Some(Event::Waiting(_)) => ReportEvent::Waiting(Told::Other),
            None => return Err(Status::invalid_argument("no event")),
        };
        let report = Report {
            round: RoundId(request.round),
            lease: Lease::try_from(&request.lease[..])
                .map_err(|e| Status::from(Refusal::from(e)))?,
            event,
        };
        let wanted = self.twin.report(report).await.map_err(status)?;
        Ok(Response::new(wire::ReportReply { wanted }))
    }
}

#[tonic::async_trait]
impl models_server::Models for Edge {
    async fn get_release(
        &self,
        _: Request<wire::GetReleaseRequest>,
    ) -> Result<Response<wire::GetReleaseReply>, Status> {
        Err(Status::unimplemented("a node does not ask"))
    }

    type PullStream = Pin<Box<dyn Stream<Item = Result<wire::Chunk, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<wire::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        known(&request)?;
        let request = request.into_inner();
        let chunks = self
            .twin
            .pull(digest(&request.digest)?, request.offset)
            .await
            .map_err(status)?;
        let chunks = ReceiverStream::new(chunks).map(|c| c.map_err(status));
        Ok(Response::new(Box::pin(chunks)))
    }
}

#[tonic::async_trait]
impl deltas_server::Deltas for Edge {
    async fn begin(
        &self,
        request: Request<wire::BeginDeltaRequest>,
    ) -> Result<Response<wire::BeginDeltaReply>, Status> {
        known(&request)?;
        let envelope = request.into_inner().manifest;
        let manifest = Signed::from_wire(envelope.ok_or_else(|| Status::invalid_argument("none"))?);
        let received = self.twin.begin(&manifest).await.map_err(status)?;
        Ok(Response::new(wire::BeginDeltaReply {
            upload_id: manifest.payload_digest().to_bytes(),
            received,
        }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<wire::UploadRequest>>,
    ) -> Result<Response<wire::UploadReply>, Status> {
        known(&request)?;
        let mut stream = request.into_inner();
        let first = stream
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("no chunk"))?;
        let id = digest(&first.upload_id)?;
        let (tx, rx) = mpsc::channel(1);
        let twin = self.twin.clone();
        let kept = tokio::spawn(async move { twin.upload(id, rx).await });
        let mut next = Some(first);
        while let Some(request) = next {
            let chunk = request
                .chunk
                .ok_or_else(|| Status::invalid_argument("no chunk"))?;
            if tx.send(chunk).await.is_err() {
                break;
            }
            next = stream.message().await?;
        }
        drop(tx);
        let received = tokio::time::timeout(Duration::from_secs(30), kept)
            .await
            .map_err(|_| Status::internal("stuck"))?
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(status)?;
        Ok(Response::new(wire::UploadReply { received }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitDeltaRequest>,
    ) -> Result<Response<wire::CommitDeltaReply>, Status> {
        known(&request)?;
        let id = digest(&request.into_inner().upload_id)?;
        let receipt = self.twin.commit(id).await.map_err(status)?;
        Ok(Response::new(wire::CommitDeltaReply {
            receipt: Some(receipt.to_wire()),
        }))
    }
}
