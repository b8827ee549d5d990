//! Mutual TLS as every client of a coordinator sees it. ring is the only crypto provider.

use std::{fmt, io, path::Path, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{
    Malformed,
    ids::Digest,
    keys::{KeyError, read_secret, write_aside, write_secret},
    version::ClientVersions,
};

/// A channel to a coordinator that exchanges versions on every call.
pub type Link = ClientVersions<Channel>;

/// Largest gRPC message either side takes: a chunk of 1 MiB with room for its frame.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Largest answer to an operator: a listing grows with the fleet, some 500 bytes a node at most, and
/// comes whole.
pub const MAX_LISTING_BYTES: usize = 64 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without keepalive on both sides a channel does not notice a partition that has healed.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long an unanswered keepalive is waited for.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The only crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why a TLS identity or connection could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A secret file could not be read or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{path} does not hold a PEM {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key do not fit each other, or the authority is unusable.
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
    /// The address cannot be parsed.
    #[error(transparent)]
    Address(#[from] Malformed),
}

/// Where a coordinator listens: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<String> for Address {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl FromStr for Address {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = || {
            Malformed::new(
                "address",
                format!(
                    "{:?} is not host:port, e.g. fleet.example.org:7443 or [::1]:7443",
                    text.chars().take(80).collect::<String>()
                ),
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A certificate, its private key and the authority that issued it, as files in a directory:
/// `tls.crt`, `tls.key` (mode 0600) and `ca.crt`, all PEM.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    authority: CertificateDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", Digest::of(&self.certificate))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            authority: self.authority.clone(),
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len())
        .step_by(64)
        .map(|i| &body[i..body.len().min(i + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Reads a PEM certificate.
///
/// # Errors
/// [`TlsError`] naming the file.
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Io {
        path: path.to_owned(),
        source,
    })?;
    CertificateDer::from_pem_slice(&bytes).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
    })
}

/// Writes a PEM certificate, whole or not at all.
///
/// # Errors
/// [`TlsError::Io`].
pub fn write_certificate(path: &Path, der: &[u8]) -> Result<(), TlsError> {
    write_aside(path, pem("CERTIFICATE", der).as_bytes(), 0o644).map_err(|source| TlsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Reads a PEM PKCS#8 private key that only its owner may read.
///
/// # Errors
/// [`TlsError`] naming the file.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read_secret(path)?).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        what: "private key",
    })
}

/// Writes a PEM PKCS#8 private key with mode 0600.
///
/// # Errors
/// [`TlsError::Key`].
pub fn write_private_key(path: &Path, pkcs8: &[u8]) -> Result<(), TlsError> {
    Ok(write_secret(path, pem("PRIVATE KEY", pkcs8).as_bytes())?)
}

impl Identity {
    /// Puts an identity together from DER parts.
    #[must_use]
    pub fn new(certificate: Vec<u8>, key_pkcs8: Vec<u8>, authority: Vec<u8>) -> Self {
        Self {
            certificate: certificate.into(),
            key: PrivatePkcs8KeyDer::from(key_pkcs8).into(),
            authority: authority.into(),
        }
    }

    /// Reads `tls.crt`, `tls.key` and `ca.crt` in `directory`.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn read(directory: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read_certificate(&directory.join("tls.crt"))?,
            key: read_private_key(&directory.join("tls.key"))?,
            authority: read_certificate(&directory.join("ca.crt"))?,
        })
    }

    /// Writes the three files; the certificate last, so that its presence means all are there.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn write(&self, directory: &Path) -> Result<(), TlsError> {
        write_private_key(&directory.join("tls.key"), self.key.secret_der())?;
        write_certificate(&directory.join("ca.crt"), &self.authority)?;
        write_certificate(&directory.join("tls.crt"), &self.certificate)
    }

    /// The authority's certificate (DER).
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive the revocation of its certificate.
    config.resumption = Resumption::disabled();
    config
}

fn mutual(identity: &Identity) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority.clone())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    Ok(with_alpn(config))
}

/// Believes a server whose chain ends in the authority a join token names.
#[derive(Debug)]
struct Pinned {
    authority: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // 1. The pinned authority must be among the certificates shown.
        let authority = intermediates
            .iter()
            .find(|c| Digest::of(c) == self.authority)
            .ok_or(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer,
            ))?;
        // 2. With it as the only root, the chain and the name must verify as usual.
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn pinned(authority: Digest) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            authority,
            provider,
        }))
        .with_no_client_auth();
    Ok(with_alpn(config))
}

/// Shakes hands over a connection that is there and hangs up: what `doctor` tells apart from what comes
/// after it.
pub(crate) async fn shake_hands(
    address: &Address,
    trust: crate::doctor::reach::Trust<'_>,
    tcp: TcpStream,
) -> io::Result<()> {
    use crate::doctor::reach::Trust;
    let config = match trust {
        Trust::Identity(identity) => mutual(identity),
        Trust::Pin(authority) => pinned(authority),
    };
    let config = config.map_err(io::Error::other)?;
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map(drop)
}

fn link(address: &Address, config: ClientConfig) -> Result<Link, TlsError> {
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| Malformed::new("address", "the host is no name or IP address"))?;
    let target = (address.host.clone(), address.port);
    let connector = TlsConnector::from(Arc::new(config));
    let connect = service_fn(move |_: Uri| {
        let (connector, name, target) = (connector.clone(), name.clone(), target.clone());
        async move {
            let tcp = TcpStream::connect((target.0.as_str(), target.1)).await?;
            tcp.set_nodelay(true)?;
            let tls = connector.connect(name, tcp).await?;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    // TLS happens in the connector; with an https scheme tonic would look for its own.
    let uri = Uri::try_from(format!("http://{address}"))
        .map_err(|e| Malformed::new("address", e.to_string()))?;
    let channel = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect);
    Ok(ClientVersions::new(channel))
}

/// A channel with mutual TLS. Connects on the first call, reconnects by itself.
///
/// # Errors
/// [`TlsError`] when the identity is unusable.
pub fn connect(address: &Address, identity: &Identity) -> Result<Link, TlsError> {
    link(address, mutual(identity)?)
}

/// A channel for enrolment: the server is known by the authority's pin, the caller is not yet known.
///
/// # Errors
/// [`TlsError`] when the address is unusable.
pub fn connect_pinned(address: &Address, authority: Digest) -> Result<Link, TlsError> {
    link(address, pinned(authority)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_or_say_what_they_should_be() {
        for good in ["localhost:7443", "127.0.0.1:1", "[::1]:7443"] {
            assert_eq!(
                good.parse::<Address>().map(|a| a.to_string()),
                Ok(good.into())
            );
        }
        for bad in ["", "localhost", "localhost:99999", "a b:1", "http://x:1:y"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    /// An authority and what it needs to issue certificates.
    fn authority() -> (
        CertificateDer<'static>,
        rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    ) {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("authority");
        (issuer.der().clone(), issuer)
    }

    fn server_certificate(
        host: &str,
        issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
        spoil: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("name");
        spoil(&mut params);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, issuer).expect("certificate");
        certificate.der().clone()
    }

    #[test]
    fn the_pin_believes_only_what_its_own_authority_issued_for_this_host() {
        let (ca, issuer) = authority();
        let (other_ca, other_issuer) = authority();
        let pinned = Pinned {
            authority: Digest::of(&ca),
            provider: provider(),
        };
        let check = |leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]| {
            let name = ServerName::try_from("fleet.example").expect("name");
            pinned.verify_server_cert(leaf, chain, &name, &[], UnixTime::now())
        };
        let good = server_certificate("fleet.example", &issuer, |_| {});
        check(&good, std::slice::from_ref(&ca)).expect("issued by the pinned authority");
        check(&good, &[other_ca.clone(), ca.clone()]).expect("wherever it stands in the chain");

        // The authority is not shown, or another one is.
        assert!(check(&good, &[]).is_err());
        assert!(check(&good, std::slice::from_ref(&other_ca)).is_err());
        // The true authority's certificate is public: showing it beside a forged one is not enough.
        let forged = server_certificate("fleet.example", &other_issuer, |_| {});
        assert!(check(&forged, std::slice::from_ref(&ca)).is_err());
        assert!(check(&forged, &[other_ca, ca.clone()]).is_err());
        // Another host of the same fleet, and one whose time is over.
        let elsewhere = server_certificate("other.example", &issuer, |_| {});
        assert!(check(&elsewhere, std::slice::from_ref(&ca)).is_err());
        let old = server_certificate("fleet.example", &issuer, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        assert!(check(&old, std::slice::from_ref(&ca)).is_err());
    }

    #[test]
    fn a_key_that_others_may_read_is_no_identity() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("tls.key");
        write_private_key(&path, b"der").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(
            read_private_key(&path),
            Err(TlsError::Key(KeyError::Exposed { mode: 0o640, .. }))
        ));
    }

    #[test]
    fn an_identity_reads_back_from_its_directory() {
        let key = rcgen::KeyPair::generate().expect("key");
        let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .and_then(|p| p.self_signed(&key))
            .expect("certificate");
        let dir = tempfile::tempdir().expect("temp dir");
        let id = Identity::new(
            cert.der().to_vec(),
            key.serialize_der(),
            cert.der().to_vec(),
        );
        id.write(dir.path()).expect("written");
        let back = Identity::read(dir.path()).expect("read");
        assert_eq!(back.certificate, id.certificate);
        assert_eq!(back.key.secret_der(), id.key.secret_der());
        mutual(&back).expect("usable");
    }
}
