//! Whether a coordinator answers, and if not, which step of the way fails.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Finding;
use crate::{
    ids::{Digest, UnixMillis},
    tls::{self, Address, Identity},
    version,
};

/// Time for each step.
const STEP: Duration = Duration::from_secs(5);

const CHECK: &str = "reachability";

/// How the coordinator is known.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// By the authority of this identity; the caller shows its certificate.
    Identity(&'a Identity),
    /// By its authority's digest, out of a join token; the caller shows nothing.
    Pin(Digest),
}

/// What a coordinator that answers says of itself.
#[derive(Debug, Clone)]
pub struct Reached {
    /// Its clock; `None` when it is too old to tell.
    pub clock: Option<UnixMillis>,
    /// Its version.
    pub version: String,
}

/// Finds the coordinator at `address`: name, connection, TLS, health.
pub async fn coordinator(address: &Address, trust: Trust<'_>) -> (Finding, Option<Reached>) {
    let start = Instant::now();
    match steps(address, trust).await {
        Err(finding) => (finding, None),
        Ok(reached) => {
            let says = format!(
                "{address} answers in {} ms, version {}",
                start.elapsed().as_millis(),
                reached.version
            );
            (Finding::ok(CHECK, says), Some(reached))
        }
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(STEP, step).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, no_answer())),
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", STEP.as_secs())
}

async fn steps(address: &Address, trust: Trust<'_>) -> Result<Reached, Finding> {
    let (host, port) = (address.host(), address.port());
    // 1. The name.
    let found = within(async { Ok(tokio::net::lookup_host((host, port)).await?.next()) }).await;
    if !matches!(found, Ok(Some(_))) {
        let why = found
            .err()
            .map_or("it has no address".to_owned(), |e| e.to_string());
        return Err(Finding::fault(
            CHECK,
            format!("name: {host} is not found: {why}"),
            "correct `coordinator`, or see whether this machine has a name server (DNS)",
        ));
    }
    // 2. The connection.
    let tcp = within(TcpStream::connect((host, port))).await.map_err(|e| {
        Finding::fault(
            CHECK,
            format!("connection: nobody takes calls at {address}: {e}"),
            "see that the coordinator runs, that the port is the one it listens on, and that no \
             firewall is between",
        )
    })?;
    // 3. TLS.
    within(tls::shake_hands(address, trust, tcp))
        .await
        .map_err(|e| {
            let (why, remedy) = tls_trouble(&e, address);
            Finding::fault(CHECK, format!("TLS: {why}"), remedy)
        })?;
    // 4. Health, which every coordinator tells everybody.
    let link = match trust {
        Trust::Identity(identity) => tls::connect(address, identity),
        Trust::Pin(authority) => tls::connect_pinned(address, authority),
    };
    let unhealthy = |says: String| {
        Finding::fault(
            CHECK,
            format!("health: {says}"),
            "look at the coordinator's log; it may refuse this certificate, be stopping, or be \
             another program",
        )
    };
    let link = link.map_err(|e| unhealthy(e.to_string()))?;
    let mut client = HealthClient::new(link);
    let asked = client.check(HealthCheckRequest::default());
    // A peer that keeps the connection alive and never answers must not hold the doctor.
    let asked = timeout(STEP, asked)
        .await
        .map_err(|_| unhealthy(no_answer()))?;
    let answer =
        asked.map_err(|status| unhealthy(format!("{:?}: {}", status.code(), status.message())))?;
    let headers = answer.metadata().clone().into_headers();
    if answer.into_inner().status() != ServingStatus::Serving {
        return Err(unhealthy(
            "the coordinator says that it does not serve".into(),
        ));
    }
    Ok(Reached {
        clock: version::peer_time(&headers),
        version: version::peer_version(&headers),
    })
}

/// What a failed handshake means.
fn tls_trouble(e: &io::Error, address: &Address) -> (String, String) {
    use rustls::{CertificateError as Bad, Error as Tls};
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    match inner {
        // Two authorities of one name differ by their keys alone.
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => (
            format!("{address} shows a certificate of another authority than this fleet's"),
            "see that the address is this fleet's, or enrol with a token of the fleet that is there"
                .to_owned(),
        ),
        Some(Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            (
                format!("the coordinator's certificate does not name {}", address.host()),
                "call it by a name that `lamplight init --host` gave it".to_owned(),
            )
        }
        Some(Tls::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        )) => (
            format!("the coordinator's certificate does not hold by this machine's clock: {e}"),
            "set this machine's clock; if it is right, restart the coordinator, which renews its \
             certificate"
                .to_owned(),
        ),
        _ => (
            format!("{address} does not shake hands: {e}"),
            "see that the port is the coordinator's; if it is, look at its log".to_owned(),
        ),
    }
}
