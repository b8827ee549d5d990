//! A relay between real programs and a real coordinator. It opens TLS on both sides, with the keys
//! of a test's own deployment, and sees every message in the clear.
//!
//! It keeps the conversation ([`Plan::tape`]), or makes one side old ([`Plan::aged`]): every message
//! is read by the old version's schema and passed on without what that version did not know; calls
//! it did not have answer as an old server answers; the old side names its old version. What the
//! coordinator signs is signed anew where something had to go, with the coordinator's own key: the
//! very bytes an old coordinator would have signed, or an old node would have seen. What nodes sign
//! passes untouched: its digest names uploads and stands in receipts. (That a coordinator takes
//! manifests without new fields is tested with manifests made for it, in `coordinator/tests`.)

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lamplight_proto::{
    ids::Digest,
    keys::SigningKey,
    tls::{self, Address, Identity, Link, MAX_LISTING_BYTES},
    version::VERSION_HEADER,
};
use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _, Bytes},
};
use prost_reflect::MessageDescriptor;
use rustls::{
    RootCertStore, ServerConfig, pki_types::CertificateDer, server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

use crate::{
    schema::{Frozen, Schema},
    tape::{Headers, Tape},
};

/// Which side of a relay is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aged {
    /// Nodes and operators.
    Callers,
    /// The coordinator.
    Coordinator,
}

/// Where a relay stands and what it does.
#[derive(Debug)]
pub struct Plan {
    /// The coordinator.
    pub upstream: Address,
    /// The coordinator's state directory: its certificate, its authority, its release key.
    pub state: PathBuf,
    /// Who may call: a word for them, and the directory of their identity, which may appear later.
    pub callers: Vec<(String, PathBuf)>,
    /// One side speaks as this version did.
    pub aged: Option<(Aged, Frozen)>,
    /// Keeps what is said.
    pub tape: Option<Arc<Tape>>,
}

/// What a relay has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How often each call was passed on.
    pub calls: BTreeMap<String, usize>,
    /// Calls the old version does not have.
    pub unknown_calls: BTreeSet<String>,
    /// Fields the old version does not have, as `message.number`.
    pub dropped: BTreeSet<String>,
}

/// A running relay; gone when it goes out of sight.
pub struct Relay {
    /// Where it listens.
    pub address: Address,
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

struct Inner {
    plan: Plan,
    schema: Option<Schema>,
    /// Those the old coordinator knew.
    answer_headers: BTreeSet<String>,
    release_key: SigningKey,
    authority: CertificateDer<'static>,
    seen: Mutex<Seen>,
}

impl Relay {
    /// Starts a relay on a port of its own, with threads of its own.
    ///
    /// # Panics
    /// When the state directory is none, or no port is free.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let key = plan.state.join("release.key");
        assert!(key.is_file(), "{} is missing", key.display());
        let inner = Arc::new(Inner {
            schema: plan.aged.as_ref().map(|(_, frozen)| frozen.schema()),
            answer_headers: (plan.aged.as_ref())
                .map_or_else(BTreeSet::new, |(_, frozen)| frozen.answer_headers()),
            release_key: SigningKey::load_or_create(&key).expect("the release key"),
            authority: tls::read_certificate(&plan.state.join("ca.crt")).expect("the authority"),
            seen: Mutex::default(),
            plan,
        });
        let acceptor = TlsAcceptor::from(Arc::new(inner.server_config()));
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let accepting = inner.clone();
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(acceptor.clone(), tcp));
            }
        });
        Self {
            address: format!("127.0.0.1:{port}").parse().expect("an address"),
            inner,
            runtime: Some(runtime),
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.inner.seen().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a reply's messages come as.
type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Inner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The coordinator's own certificate, as clients expect it.
    fn server_config(&self) -> ServerConfig {
        let state = &self.plan.state;
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("a root");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let certificate = tls::read_certificate(&state.join("tls.crt")).expect("a certificate");
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate, self.authority.clone()],
                tls::read_private_key(&state.join("tls.key")).expect("a key"),
            )
            .expect("a server's identity");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Who shows this certificate, and how to call the coordinator as the same.
    fn caller(&self, certificate: Option<&CertificateDer<'_>>) -> (String, Link) {
        let upstream = &self.plan.upstream;
        let Some(certificate) = certificate else {
            let link = tls::connect_pinned(upstream, Digest::of(&self.authority));
            return ("stranger".to_owned(), link.expect("a link"));
        };
        let is_theirs = |dir: &PathBuf| {
            tls::read_certificate(&dir.join("tls.crt"))
                .is_ok_and(|c| c.as_ref() == &certificate[..])
        };
        let (name, dir) = (self.plan.callers.iter())
            .find(|(_, dir)| is_theirs(dir))
            .expect("a caller of the plan");
        let identity = Identity::read(dir).expect("an identity");
        let link = tls::connect(upstream, &identity).expect("a link");
        (name.clone(), link)
    }

    async fn serve(self: Arc<Self>, acceptor: TlsAcceptor, tcp: TcpStream) {
        let Ok(tls) = acceptor.accept(tcp).await else {
            return;
        };
        let shown = tls.get_ref().1.peer_certificates();
        let (caller, link) = self.caller(shown.and_then(|c| c.first()));
        let link = match &self.plan.aged {
            // One name for every test run: a leak of a few bytes, in tests only.
            Some((Aged::Callers, frozen)) => link.naming(String::leak(frozen.name())),
            _ => link,
        };
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (inner, caller, link) = (self.clone(), caller.clone(), link.clone());
            async move { Ok::<_, Infallible>(inner.call(caller, link, request).await) }
        });
        // A client that hangs up is no news.
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(tls), service)
            .await;
    }

    async fn call(
        self: Arc<Self>,
        caller: String,
        link: Link,
        request: hyper::Request<Incoming>,
    ) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        let forward = tower::service_fn(move |request: Request<Streaming<Bytes>>| {
            let inner = self.clone();
            let (caller, link, path) = (caller.clone(), link.clone(), path.clone());
            async move { inner.forward(caller, link, path, request).await }
        });
        tonic::server::Grpc::new(Raw)
            .apply_max_message_size_config(Some(MAX_LISTING_BYTES), Some(MAX_LISTING_BYTES))
            .streaming(forward, request)
            .await
    }

    async fn forward(
        self: Arc<Self>,
        caller: String,
        link: Link,
        path: String,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Replies>, Status> {
        let today = Schema::today();
        let schema = self.schema.as_ref().unwrap_or(&today);
        let method = schema.method(&path);
        // Standard services (health, reflection) are no part of the contract: they pass as they are.
        if method.is_none() && !path.starts_with("/grpc.") {
            self.seen().unknown_calls.insert(path);
            return Err(self.old_status(Status::unimplemented("")));
        }
        *self.seen().calls.entry(path.clone()).or_default() += 1;
        let (input, output) = (
            method.as_ref().map(|m| m.input()),
            method.as_ref().map(|m| m.output()),
        );
        let call = (self.plan.tape.as_ref().filter(|_| method.is_some()))
            .map(|tape| tape.begin(&caller, &path, headers(request.metadata())));

        let inner = self.clone();
        let requests = request
            .into_inner()
            .map_while(Result::ok)
            .map(move |bytes| {
                let Some(of) = &input else { return bytes };
                if let (Some(tape), Some(call)) = (&inner.plan.tape, call) {
                    tape.request(call, of.full_name(), &bytes);
                }
                inner.aged(of, bytes)
            });
        let mut client =
            tonic::client::Grpc::new(link).max_decoding_message_size(MAX_LISTING_BYTES);
        let gone = |e| Status::unavailable(format!("the relay's coordinator: {e}"));
        client.ready().await.map_err(gone)?;
        let at = path.parse().expect("a path");
        let answer = client.streaming(Request::new(requests), at, Raw).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                if let (Some(tape), Some(call)) = (&self.plan.tape, call) {
                    tape.answer(call, headers(status.metadata()));
                    tape.end(call, Err(&status));
                }
                return Err(self.old_status(status));
            }
        };
        let (mut metadata, replies, _) = answer.into_parts();
        if let (Some(tape), Some(call)) = (&self.plan.tape, call) {
            tape.answer(call, headers(&metadata));
        }
        self.old_headers(&mut metadata);
        let inner = self.clone();
        // One more item behind the last, to see the end.
        let items = replies.map(Some).chain(tokio_stream::once(None));
        let replies = items.filter_map(move |item| {
            let tape = inner.plan.tape.as_ref().zip(call);
            match item {
                Some(Ok(bytes)) => {
                    let Some(of) = &output else {
                        return Some(Ok(bytes));
                    };
                    if let Some((tape, call)) = tape {
                        tape.reply(call, of.full_name(), &bytes);
                    }
                    Some(Ok(inner.aged(of, bytes)))
                }
                Some(Err(status)) => {
                    if let Some((tape, call)) = tape {
                        tape.end(call, Err(&status));
                    }
                    Some(Err(status))
                }
                None => {
                    if let Some((tape, call)) = tape {
                        tape.end(call, Ok(()));
                    }
                    None
                }
            }
        });
        let mut response = Response::new(Box::pin(replies) as Replies);
        *response.metadata_mut() = metadata;
        Ok(response)
    }

    /// A message as the old version passes it on or takes it in.
    fn aged(&self, of: &MessageDescriptor, bytes: Bytes) -> Bytes {
        let Some(schema) = &self.schema else {
            return bytes;
        };
        let mut narrowed = schema
            .narrow(of, &bytes)
            .unwrap_or_else(|e| panic!("{}: {e}", of.full_name()));
        let inside = schema.reseal(&mut narrowed.message, &self.release_key);
        let mut seen = self.seen();
        seen.dropped.extend(narrowed.dropped);
        seen.dropped.extend(inside);
        narrowed.message.encode_to_vec().into()
    }

    fn old_headers(&self, metadata: &mut MetadataMap) {
        if let Some((Aged::Coordinator, frozen)) = &self.plan.aged {
            for name in headers(metadata).into_keys() {
                if !self.answer_headers.contains(&name) {
                    metadata.remove(name);
                }
            }
            let version = frozen.name().parse().expect("visible ASCII");
            metadata.insert(VERSION_HEADER, version);
        }
    }

    fn old_status(&self, mut status: Status) -> Status {
        self.old_headers(status.metadata_mut());
        status
    }
}

/// The headers that belong to the contract.
fn headers(metadata: &MetadataMap) -> Headers {
    let all = metadata.clone().into_headers();
    let ours = all
        .iter()
        .filter(|(k, _)| k.as_str().starts_with("lamplight-"));
    ours.map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Messages as they travel, for callers who know better than generated code.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
