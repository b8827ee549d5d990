//! One TLS port with all services.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, service::InterceptorLayer, transport::Server};
use tower::Layer as _;

use lamplight_proto::{
    DESCRIPTOR,
    tls::{
        self, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_LISTING_BYTES, MAX_MESSAGE_BYTES, TlsError,
    },
    version::ServerVersions,
    wire::{
        deltas_server::DeltasServer, enrolment_server::EnrolmentServer,
        models_server::ModelsServer, operator_server::OperatorServer, rounds_server::RoundsServer,
    },
};

use super::{Desk, peer};
use crate::{ServeError, cli::Serving, dir::StateDir, house::House};

/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections, those still shaking hands included. Ten thousand nodes and room for reconnects.
const CONNECTIONS: usize = 16_384;
/// Calls at a time on one connection: nodes need a few, a flood gets no more.
const CALLS_PER_CONNECTION: u32 = 32;
/// Bytes of one stream on their way before they are read; bounds what a slow reader costs.
const STREAM_WINDOW: u32 = 1 << 20;
/// Largest message of calls that carry no bytes of files.
const SMALL_MESSAGE_BYTES: usize = 64 << 10;
/// Waits after the system refused a connection, e.g. for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

fn server_config(dir: &StateDir) -> Result<ServerConfig, TlsError> {
    let authority = tls::read_certificate(&dir.authority_certificate())?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    // Enrolment comes without a certificate; every other service asks for one per call.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            // The authority goes along: a joining node knows it by its digest only.
            vec![tls::read_certificate(&dir.server_certificate())?, authority],
            tls::read_private_key(&dir.server_key())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive the revocation of its certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts connections and shakes hands, each in its own task, so that a silent caller delays nobody.
async fn accept(
    listener: TcpListener,
    config: ServerConfig,
    ready: mpsc::Sender<io::Result<Connection>>,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let tcp = tokio::select! {
            tcp = listener.accept() => tcp,
            _ = stop.wait_for(|s| *s) => return,
        };
        let (tcp, from) = match tcp {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("accepting a connection failed: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            tracing::warn!(%from, "connection refused, {CONNECTIONS} are open");
            continue;
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            if let Err(e) = tcp.set_nodelay(true) {
                tracing::debug!(%from, "no TCP_NODELAY: {e}");
            }
            match timeout(HANDSHAKE_TIME, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => {
                    let connection = Connection {
                        tls,
                        _permit: permit,
                    };
                    // An error means the server has stopped; the connection closes.
                    drop(ready.send(Ok(connection)).await);
                }
                Ok(Err(e)) => tracing::debug!(%from, "handshake failed: {e}"),
                Err(_) => tracing::debug!(%from, "handshake took too long"),
            }
        });
    }
}

/// A connection that gives its place back when it closes.
struct Connection {
    tls: TlsStream<TcpStream>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

mod connection {
    //! Reading and writing go straight to the TLS stream.

    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::{Connection, TcpStream, TlsStream};

    impl AsyncRead for Connection {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tls).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.tls).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tls).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tls).poll_shutdown(cx)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
        }

        fn is_write_vectored(&self) -> bool {
            self.tls.is_write_vectored()
        }
    }

    impl Connected for Connection {
        type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;
        fn connect_info(&self) -> Self::ConnectInfo {
            self.tls.connect_info()
        }
    }
}

/// Says on stdout, for scripts, that this coordinator serves.
#[expect(clippy::print_stdout, reason = "asked for on the command line")]
fn announce(house: &House, address: SocketAddr) {
    let serving = Serving {
        deployment: house.deployment.clone(),
        address: address.to_string(),
    };
    // Two strings: they always serialize.
    if let Ok(line) = serde_json::to_string(&serving) {
        println!("{line}");
    }
}

/// Serves until `stop` turns true, then lets calls in hand finish.
///
/// # Errors
/// [`ServeError`] when TLS cannot be set up or serving fails.
pub(crate) async fn serve(
    house: Arc<House>,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let config = server_config(&house.dir)?;
    let address: SocketAddr = listener.local_addr().map_err(ServeError::Listen)?;
    let desk = Desk::new(house.clone());

    // Before a body is read: a stranger's message costs no more than its headers, except where
    // strangers are served, and there it is small.
    let known = house.clone();
    let known_only = InterceptorLayer::new(move |request: Request<()>| {
        peer(&request, &known)
            .map(|_| request)
            .map_err(|s: Status| s)
    });
    macro_rules! sized {
        ($server:ident, $bytes:expr) => {
            $server::new(desk.clone())
                .max_decoding_message_size($bytes)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<EnrolmentServer<Desk>>().await;
    health.set_serving::<ModelsServer<Desk>>().await;
    health.set_serving::<RoundsServer<Desk>>().await;
    health.set_serving::<DeltasServer<Desk>>().await;
    health.set_serving::<OperatorServer<Desk>>().await;

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflect_v1 = reflection()
        .build_v1()
        .map_err(|e| ServeError::Reflection(e.to_string()))?;
    let reflect_v1alpha =
        (reflection().build_v1alpha()).map_err(|e| ServeError::Reflection(e.to_string()))?;

    let router = Server::builder()
        .layer(ServerVersions)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .add_service(health_service)
        .add_service(known_only.layer(reflect_v1))
        .add_service(known_only.layer(reflect_v1alpha))
        .add_service(sized!(EnrolmentServer, SMALL_MESSAGE_BYTES))
        .add_service(known_only.layer(sized!(ModelsServer, SMALL_MESSAGE_BYTES)))
        .add_service(known_only.layer(sized!(RoundsServer, SMALL_MESSAGE_BYTES)))
        .add_service(known_only.layer(sized!(DeltasServer, MAX_MESSAGE_BYTES)))
        .add_service(known_only.layer(
            sized!(OperatorServer, MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_LISTING_BYTES),
        ));

    let (ready, incoming) = mpsc::channel(64);
    let accepting = tokio::spawn(accept(listener, config, ready, stop.clone()));
    // Only now: whoever reads this file finds a server that answers.
    let said = house.clone();
    tokio::task::spawn_blocking(move || {
        crate::dir::write_file(&said.dir.address(), format!("{address}\n").as_bytes())
    })
    .await
    .unwrap_or(Err(crate::fault::Broken::Task("writing the address")))?;
    tracing::info!(%address, deployment = %house.deployment, "listening");
    if house.config.announce {
        announce(&house, address);
    }

    let mut stopped = stop;
    let stopping = async move {
        // An error means nobody is left to say stop.
        drop(stopped.wait_for(|s| *s).await);
        health.set_not_serving::<EnrolmentServer<Desk>>().await;
        health.set_not_serving::<ModelsServer<Desk>>().await;
        health.set_not_serving::<RoundsServer<Desk>>().await;
        health.set_not_serving::<DeltasServer<Desk>>().await;
        health.set_not_serving::<OperatorServer<Desk>>().await;
    };
    let served = router
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping)
        .await;
    accepting.abort();
    Ok(served?)
}
