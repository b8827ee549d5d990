//! A relay that reads everything: towards nodes it is the coordinator (it has the coordinator's own
//! certificate and key), towards the coordinator it is the node (it has each node's own identity). So
//! the programs under test are the real ones and know nothing of it.
//!
//! ```text
//!   agent ──TLS──> [ wire bytes | plain bytes | HTTP/2: headers, bodies ] ──TLS──> coordinator
//! ```

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http2 as client,
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lamplight_proto::tls;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A request as the node sent it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// E.g. `/lamplight.v1.Rounds/Poll`.
    pub(crate) path: String,
    /// Pseudo-headers, headers and trailers, in plain.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The body, frames of gRPC.
    pub(crate) body: Vec<u8>,
}

/// What a node sent over one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    /// As on the wire: the TLS handshake is there to be read, the rest is not.
    pub(crate) wire: Vec<u8>,
    /// Within TLS: every frame of HTTP/2.
    pub(crate) plain: Vec<u8>,
}

/// All that was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture {
    pub(crate) messages: Vec<Message>,
    pub(crate) connections: Vec<Connection>,
}

type Shared = Arc<Mutex<Capture>>;

fn open(capture: &Shared) -> MutexGuard<'_, Capture> {
    capture.lock().expect("nobody panics with it")
}

/// The two ends' secrets.
struct Keys {
    acceptor: TlsAcceptor,
    roots: Arc<RootCertStore>,
    /// Where directories of nodes lie.
    nodes: PathBuf,
    coordinator: SocketAddr,
}

/// The relay at work, on threads of its own, until it is dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) runtime: Runtime,
    capture: Shared,
}

impl Relay {
    /// Stands before the coordinator of `state`, for nodes whose directories lie in `nodes`.
    pub(crate) fn start(state: &Path, coordinator: SocketAddr, nodes: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let authority = tls::read_certificate(&state.join("ca.crt")).expect("an authority");
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).expect("a root");
        let roots = Arc::new(roots);
        let keys = Arc::new(Keys {
            acceptor: TlsAcceptor::from(as_coordinator(state, authority, &roots)),
            roots,
            nodes: nodes.to_owned(),
            coordinator,
        });
        let capture = Shared::default();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let into = capture.clone();
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (keys, capture) = (keys.clone(), into.clone());
                tokio::spawn(async move {
                    // A node that is stopped tears its connection; that is no fault of the test.
                    if let Err(e) = relay(tcp, &keys, capture).await {
                        eprintln!("relay: {e}");
                    }
                });
            }
        });
        Self {
            address,
            runtime,
            capture,
        }
    }

    /// Everything seen so far.
    pub(crate) fn capture(&self) -> Capture {
        open(&self.capture).clone()
    }

    /// How much was seen so far.
    pub(crate) fn mark(&self) -> (usize, usize) {
        let capture = open(&self.capture);
        (capture.messages.len(), capture.connections.len())
    }

    /// What was seen since: requests begun, and connections made.
    pub(crate) fn since(&self, (messages, connections): (usize, usize)) -> Capture {
        let capture = open(&self.capture);
        Capture {
            messages: capture.messages[messages..].to_vec(),
            connections: capture.connections[connections..].to_vec(),
        }
    }
}

fn as_coordinator(
    state: &Path,
    authority: CertificateDer<'static>,
    roots: &Arc<RootCertStore>,
) -> Arc<ServerConfig> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), tls::provider())
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let certificate = tls::read_certificate(&state.join("tls.crt")).expect("a certificate");
    let key = tls::read_private_key(&state.join("tls.key")).expect("a key");
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate, authority], key)
        .expect("the coordinator's identity");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Certificate and key of the node that showed this certificate.
fn identity(
    nodes: &Path,
    shown: &CertificateDer<'_>,
) -> io::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    for entry in std::fs::read_dir(nodes)? {
        let dir = entry?.path();
        match tls::read_certificate(&dir.join("tls.crt")) {
            Ok(own) if own == *shown => {
                let key = tls::read_private_key(&dir.join("tls.key")).map_err(io::Error::other)?;
                return Ok((own, key));
            }
            _ => {}
        }
    }
    Err(io::Error::other("no node's directory has this certificate"))
}

async fn relay(tcp: TcpStream, keys: &Keys, capture: Shared) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let place = {
        let mut capture = open(&capture);
        capture.connections.push(Connection::default());
        capture.connections.len() - 1
    };
    let tcp = Tee {
        inner: tcp,
        keep: {
            let capture = capture.clone();
            move |bytes: &[u8]| open(&capture).connections[place].wire.extend(bytes)
        },
    };
    let downstream = keys.acceptor.accept(tcp).await?;
    let shown = downstream.get_ref().1.peer_certificates();

    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(keys.roots.clone());
    let mut config = match shown.and_then(<[_]>::first) {
        // Enrolment comes without a certificate.
        None => config.with_no_client_auth(),
        Some(shown) => {
            let (certificate, key) = identity(&keys.nodes, shown)?;
            config
                .with_client_auth_cert(vec![certificate], key)
                .map_err(io::Error::other)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(keys.coordinator).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::from(keys.coordinator.ip());
    let upstream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    let (sender, driver) = client::handshake(TokioExecutor::new(), TokioIo::new(upstream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(driver);

    let downstream = Tee {
        inner: downstream,
        keep: {
            let capture = capture.clone();
            move |bytes: &[u8]| open(&capture).connections[place].plain.extend(bytes)
        },
    };
    let service = service_fn(move |request| forward(request, sender.clone(), capture.clone()));
    server::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(downstream), service)
        .await
        .map_err(io::Error::other)
}

/// Writes a request down and passes it on; its body is written down as it passes.
async fn forward(
    request: Request<Incoming>,
    mut sender: client::SendRequest<Copied>,
    capture: Shared,
) -> hyper::Result<Response<Incoming>> {
    let mut message = Message {
        path: request.uri().path().to_owned(),
        ..Message::default()
    };
    let uri = request.uri();
    let part = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
    message.headers = vec![
        (":method".to_owned(), part(Some(request.method().as_str()))),
        (":scheme".to_owned(), part(uri.scheme_str())),
        (
            ":authority".to_owned(),
            part(uri.authority().map(|a| a.as_str())),
        ),
        (
            ":path".to_owned(),
            part(uri.path_and_query().map(|p| p.as_str())),
        ),
    ];
    let plain = |(name, value): (&hyper::http::HeaderName, &hyper::http::HeaderValue)| {
        (name.to_string(), value.as_bytes().to_vec())
    };
    message.headers.extend(request.headers().iter().map(plain));
    let place = {
        let mut capture = open(&capture);
        capture.messages.push(message);
        capture.messages.len() - 1
    };
    let request = request.map(|inner| Copied {
        inner,
        capture,
        place,
    });
    sender.ready().await?;
    sender.send_request(request).await
}

/// A body that is written down while it passes.
struct Copied {
    inner: Incoming,
    capture: Shared,
    place: usize,
}

impl Body for Copied {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let mut capture = open(&self.capture);
            let message = &mut capture.messages[self.place];
            if let Some(data) = frame.data_ref() {
                message.body.extend_from_slice(data);
            }
            for (name, value) in frame.trailers_ref().into_iter().flatten() {
                let trailer = (name.to_string(), value.as_bytes().to_vec());
                message.headers.push(trailer);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A stream whose incoming bytes are kept.
struct Tee<S, K> {
    inner: S,
    keep: K,
}

impl<S: AsyncRead + Unpin, K: FnMut(&[u8]) + Unpin> AsyncRead for Tee<S, K> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        (self.keep)(&buf.filled()[before..]);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin, K: Unpin> AsyncWrite for Tee<S, K> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
