//! The fleet's certificate authority: issues certificates, reads roles out of them.
//!
//! ```text
//!   node's CSR ──public key only──> certificate   SAN URI lamplight://DEPLOYMENT/node/NODE
//!   TLS peer ──certificate──> Peer::{Node, Operator}
//! ```
//!
//! Names are never taken from a request: what a certificate says is what this room wrote into it.

mod peer;

pub use peer::{Peer, PeerError};

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::{Duration, OffsetDateTime};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use lamplight_proto::{
    ids::{Deployment, Digest, Label, NodeId},
    keys::{self, KeyError},
};

/// Largest certificate request looked at.
pub const MAX_REQUEST_BYTES: usize = 16 << 10;

/// Clocks of nodes may be behind; a certificate holds from this long before it is made.
const BACKDATE: Duration = Duration::hours(24);
const AUTHORITY_VALID: Duration = Duration::days(3653);
const CERTIFICATE_VALID: Duration = Duration::days(365);
/// A server that starts with less left on its certificate gets a new one.
pub const RENEW_BEFORE: Duration = Duration::days(60);

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The request is not one this authority signs.
    #[error("certificate request: {0}")]
    Request(String),
    /// rcgen failed.
    #[error("certificate authority: {0}")]
    Issue(#[from] rcgen::Error),
    /// No randomness for a serial number.
    #[error(transparent)]
    Random(#[from] KeyError),
}

/// A key pair with its certificate, DER.
pub struct Issued {
    /// Certificate.
    pub certificate: Vec<u8>,
    /// PKCS#8 private key.
    pub key: Vec<u8>,
}

/// A certificate request whose signature matched its key.
pub struct Request {
    key: rcgen::PublicKey,
}

impl Request {
    /// Takes the public key out of a PKCS#10 request, checking that its holder signed it. Names and
    /// extensions it asks for are ignored.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] when it is too large, unreadable, badly signed, or not ECDSA P-256.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(AuthorityError::Request(format!(
                "it has {} bytes, at most {MAX_REQUEST_BYTES} are taken",
                der.len()
            )));
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|e| AuthorityError::Request(e.to_string()))?;
        let key = request.public_key;
        if PublicKeyData::algorithm(&key) != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request(
                "its key is not ECDSA P-256 with SHA-256".into(),
            ));
        }
        Ok(Self { key })
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn key_digest(&self) -> Digest {
        Digest::of(self.key.der_bytes())
    }
}

/// The authority of one deployment.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    deployment: Deployment,
}

fn named(common_name: String, valid: Duration) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + valid;
    let mut serial: [u8; 16] = keys::random()?;
    // RFC 5280 4.1.2.2: positive, so the top bit is clear; not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

impl Authority {
    /// Makes a new authority; valid for ten years.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn create(deployment: Deployment) -> Result<(Self, Issued), AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = named(
            format!("Lamplight authority of {deployment}"),
            AUTHORITY_VALID,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        let issued = Issued {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        };
        let authority = Self::open(certificate.der().clone(), &issued.key, deployment)?;
        Ok((authority, issued))
    }

    /// Opens an authority from its certificate and PKCS#8 key.
    ///
    /// # Errors
    /// [`AuthorityError`] when either is unusable.
    pub fn open(
        certificate: CertificateDer<'static>,
        key_pkcs8: &[u8],
        deployment: Deployment,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::try_from(key_pkcs8)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            deployment,
        })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The fleet it belongs to.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// A certificate for the server, good for these host names and addresses; valid for a year.
    ///
    /// # Errors
    /// [`AuthorityError`], e.g. for a host that is no DNS name.
    pub fn server(&self, hosts: &[String]) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let names = CertificateParams::new(hosts.to_vec())?.subject_alt_names;
        Ok(Issued {
            certificate: self.certify_server(&key, names, CERTIFICATE_VALID)?,
            key: key.serialize_der(),
        })
    }

    fn certify_server(
        &self,
        key: &KeyPair,
        names: Vec<SanType>,
        valid: Duration,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = named(format!("{} coordinator", self.deployment), valid)?;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params.signed_by(key, &self.issuer)?.der().to_vec())
    }

    /// A new certificate for the server's key and names when the old one ends within
    /// [`RENEW_BEFORE`]: a server that runs for years must not lock its fleet out.
    ///
    /// # Errors
    /// [`AuthorityError`] when the old certificate or the key cannot be read.
    pub fn renew_server(
        &self,
        old: &[u8],
        key_pkcs8: &[u8],
    ) -> Result<Option<Vec<u8>>, AuthorityError> {
        let unreadable =
            || AuthorityError::Request("the server's certificate is unreadable".into());
        let (_, parsed) = parse_x509_certificate(old).map_err(|_| unreadable())?;
        let end = parsed.validity().not_after.to_datetime();
        if end - OffsetDateTime::now_utc() > RENEW_BEFORE {
            return Ok(None);
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| unreadable())?
            .map(|names| &names.value.general_names)
            .into_iter()
            .flatten();
        let mut hosts = Vec::new();
        for name in names {
            match name {
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let ip = match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                        (Ok(v4), _) => IpAddr::from(v4),
                        (_, Ok(v6)) => IpAddr::from(v6),
                        _ => return Err(unreadable()),
                    };
                    hosts.push(ip.to_string());
                }
                _ => {}
            }
        }
        let names = CertificateParams::new(hosts)?.subject_alt_names;
        let key = KeyPair::try_from(key_pkcs8)?;
        self.certify_server(&key, names, CERTIFICATE_VALID)
            .map(Some)
    }

    fn client(&self, peer: &Peer) -> Result<CertificateParams, AuthorityError> {
        let name = match peer {
            Peer::Node(id) => id.to_string(),
            Peer::Operator(label) => label.to_string(),
        };
        let mut params = named(name, CERTIFICATE_VALID)?;
        let uri = peer.uri(&self.deployment);
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    }

    /// A key and certificate for an operator; valid for a year.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn operator(&self, name: &Label) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = self
            .client(&Peer::Operator(name.clone()))?
            .signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }

    /// A certificate for a node's key; valid for a year.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn node(&self, request: &Request, id: &NodeId) -> Result<Vec<u8>, AuthorityError> {
        let certificate = self
            .client(&Peer::Node(id.clone()))?
            .signed_by(&request.key, &self.issuer)?;
        Ok(certificate.der().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority::create("lamps".parse().unwrap()).unwrap().0
    }

    fn csr(alg: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(alg).unwrap();
        // Asks for another role; must be ignored.
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            "lamplight://lamps/operator/mallory".try_into().unwrap(),
        )];
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_node_gets_the_name_we_give_and_not_the_one_it_asks_for() {
        let ca = authority();
        let request = Request::read(&csr(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let id = NodeId::of_key(b"key");
        let der = ca.node(&request, &id).unwrap();
        assert_eq!(
            Peer::of_certificate(&der, ca.deployment()),
            Ok(Peer::Node(id))
        );
    }

    #[test]
    fn an_operator_is_known_by_its_certificate_only_in_its_deployment() {
        let ca = authority();
        let name: Label = "alice".parse().unwrap();
        let issued = ca.operator(&name).unwrap();
        assert_eq!(
            Peer::of_certificate(&issued.certificate, ca.deployment()),
            Ok(Peer::Operator(name))
        );
        assert!(matches!(
            Peer::of_certificate(&issued.certificate, &"other".parse().unwrap()),
            Err(PeerError::Deployment { .. })
        ));
    }

    #[test]
    fn the_servers_certificate_is_no_peer() {
        let ca = authority();
        let issued = ca
            .server(&["localhost".into(), "127.0.0.1".into()])
            .unwrap();
        assert_eq!(
            Peer::of_certificate(&issued.certificate, ca.deployment()),
            Err(PeerError::NoRole)
        );
    }

    #[test]
    fn a_servers_certificate_is_renewed_in_time_for_the_same_names_and_key() {
        let ca = authority();
        let fresh = ca.server(&["localhost".into(), "::1".into()]).unwrap();
        let renewed = ca.renew_server(&fresh.certificate, &fresh.key).unwrap();
        assert_eq!(renewed, None);

        let key = KeyPair::try_from(fresh.key.as_slice()).unwrap();
        let hosts = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let names = CertificateParams::new(hosts.to_vec())
            .unwrap()
            .subject_alt_names;
        let old = ca.certify_server(&key, names, Duration::days(10)).unwrap();
        let new = ca.renew_server(&old, &fresh.key).unwrap().unwrap();
        let (_, old) = parse_x509_certificate(&old).unwrap();
        let (_, new) = parse_x509_certificate(&new).unwrap();
        let names = |c: &x509_parser::certificate::X509Certificate<'_>| {
            format!("{:?}", c.subject_alternative_name().unwrap().unwrap().value)
        };
        assert_eq!(names(&new), names(&old));
        assert_eq!(new.public_key().raw, old.public_key().raw);
        assert!(new.validity().not_after > old.validity().not_after);
        assert!(ca.renew_server(b"junk", &fresh.key).is_err());
    }

    #[test]
    fn altered_giant_and_foreign_requests_are_refused() {
        let mut altered = csr(&rcgen::PKCS_ECDSA_P256_SHA256);
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(Request::read(&altered).is_err());
        assert!(Request::read(&vec![0; MAX_REQUEST_BYTES + 1]).is_err());
        assert!(Request::read(&csr(&rcgen::PKCS_ED25519)).is_err());
        assert!(Request::read(b"").is_err());
    }
}
