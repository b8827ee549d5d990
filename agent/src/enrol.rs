//! How a node joins: it makes its own keys, shows a join token, and checks what it is given.

use std::{future::Future, path::Path, path::PathBuf};

use lamplight_proto::{
    Malformed,
    ids::{Deployment, Digest, Label, NodeId, UnixMillis},
    keys::{KeyError, SigningKey},
    tls::{self, Address, Identity, TlsError},
    token::{JoinToken, enrol_proof},
    wire,
};
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::{
    home::Home,
    link::{Backoff, LinkError},
    store::{NodeRecord, StoreError},
};

/// Why a node is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A key could not be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate request could not be made.
    #[error("{path}: the certificate request cannot be made: {source}")]
    Request {
        /// The TLS key's file.
        path: PathBuf,
        /// What went wrong.
        source: rcgen::Error,
    },
    /// The coordinator refuses, or cannot be reached.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The answer does not parse.
    #[error("the coordinator's answer: {0}")]
    Malformed(#[from] Malformed),
    /// The answer comes from another authority than the token names.
    #[error("the answer's certificate authority has digest {got}, the join token names {want}")]
    Authority {
        /// Digest of the authority sent.
        got: Digest,
        /// Digest in the token.
        want: Digest,
    },
    /// The answer is for another key.
    #[error("the answer is for {got}, this node's key makes it {want}")]
    OtherNode {
        /// Node in the answer.
        got: NodeId,
        /// This node.
        want: NodeId,
    },
    /// The release key is no Ed25519 key.
    #[error("the answer's release key has {0} bytes instead of 32")]
    ReleaseKey(usize),
    /// The certificate is unusable with the node's key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The directory's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a node is, once enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Who it is.
    pub node: NodeRecord,
    /// Whether it was enrolled before; nothing was asked then.
    pub already: bool,
}

/// Whether a directory is enrolled: it knows its deployment, and its certificate is there.
///
/// # Errors
/// [`EnrolError`].
pub fn enrolled(home: &Home) -> Result<Option<NodeRecord>, EnrolError> {
    let Some(node) = home.store.node()? else {
        return Ok(None);
    };
    // The certificate is written last.
    if !home.dir.root().join("tls.crt").exists() {
        return Ok(None);
    }
    Identity::read(home.dir.root())?;
    Ok(Some(node))
}

/// Enrols, unless the directory is enrolled already. The keys are made here and never leave; a
/// repeated call uses the same ones, so an answer lost on the way costs nothing.
///
/// `ask` carries the request to the coordinator: [`crate::link::grpc::enrol`], or a test.
///
/// # Errors
/// [`EnrolError`]. A directory of another deployment is refused.
pub async fn enrol<F>(
    home: &mut Home,
    address: &Address,
    token: &JoinToken,
    name: &Label,
    ask: impl Fn(wire::EnrolRequest) -> F,
) -> Result<Enrolled, EnrolError>
where
    F: Future<Output = Result<wire::EnrolReply, LinkError>>,
{
    if let Some(node) = enrolled(home)? {
        return Ok(Enrolled {
            node,
            already: true,
        });
    }
    // 1. Two keys: one signs deltas, one speaks TLS.
    let root = home.dir.root().to_owned();
    let signing = SigningKey::load_or_create(&home.dir.signing_key())?;
    let want = NodeId::of_key(&signing.public());
    let tls_key = tls_key(&root.join("tls.key"))?;

    // 2. Ask, showing that the node holds the signing key it names.
    let csr = request(&tls_key, &want).map_err(|source| EnrolError::Request {
        path: root.join("tls.key"),
        source,
    })?;
    let proof = signing.sign(&enrol_proof(&token.id(), &csr));
    let reply = ask(wire::EnrolRequest {
        token_id: token.id(),
        token_secret: token.secret().to_vec().into(),
        certificate_request_der: csr.into(),
        signing_key: signing.public().to_vec().into(),
        proof: proof.to_vec().into(),
        name: name.to_string(),
    })
    .await?;

    // 3. The answer must be from the authority the token names, and about this key.
    let authority = Digest::of(&reply.authority_der);
    if authority != token.authority() {
        return Err(EnrolError::Authority {
            got: authority,
            want: token.authority(),
        });
    }
    let got: NodeId = reply.node_id.parse()?;
    if got != want {
        return Err(EnrolError::OtherNode { got, want });
    }
    let deployment: Deployment = reply.deployment.parse()?;
    let release_key = reply.release_key[..]
        .try_into()
        .map_err(|_| EnrolError::ReleaseKey(reply.release_key.len()))?;
    let identity = Identity::new(
        reply.certificate_der.to_vec(),
        tls_key.serialize_der(),
        reply.authority_der.to_vec(),
    );
    // Sets TLS up without sending anything: certificate and key must belong together.
    tls::connect(address, &identity)?;

    // 4. Remember; the certificate last, for its presence says that all is there.
    let node = NodeRecord {
        node_id: got,
        deployment,
        release_key,
        enrolled: UnixMillis::now(),
    };
    home.store.set_node(&node)?;
    identity.write(&root)?;
    Ok(Enrolled {
        node,
        already: false,
    })
}

/// Asks again after faults, at most `tries` times; refusals end it at once.
///
/// # Errors
/// The last error.
pub async fn insist<T, F>(tries: Option<u32>, ask: impl Fn() -> F) -> Result<T, LinkError>
where
    F: Future<Output = Result<T, LinkError>>,
{
    let mut backoff = Backoff::LINK;
    loop {
        let e = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(e @ LinkError::Refused(_)) => return Err(e),
            Err(e) => e,
        };
        let wait = backoff.wait();
        if tries.is_some_and(|tries| backoff.failures() >= tries) {
            return Err(e);
        }
        tracing::info!("{e}; again in {} ms", wait.as_millis());
        tokio::time::sleep(wait).await;
    }
}

/// The TLS key (ECDSA P-256) at `path`, made where there is none.
fn tls_key(path: &Path) -> Result<KeyPair, EnrolError> {
    let fail = |source| EnrolError::Request {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        let der = tls::read_private_key(path)?;
        return KeyPair::try_from(&der).map_err(fail);
    }
    let key = KeyPair::generate().map_err(fail)?;
    tls::write_private_key(path, &key.serialize_der())?;
    Ok(key)
}

/// A PKCS#10 request that names the node; the coordinator decides what the certificate says.
fn request(key: &KeyPair, node: &NodeId) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, node.as_str());
    Ok(params.serialize_request(key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateSigningRequestParams, CertifiedIssuer, IsCa};
    use std::cell::Cell;

    struct Authority {
        issuer: CertifiedIssuer<'static, KeyPair>,
        asked: Cell<u32>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("key");
            let issuer = CertifiedIssuer::self_signed(params, key).expect("authority");
            Self {
                issuer,
                asked: Cell::new(0),
            }
        }

        fn digest(&self) -> Digest {
            Digest::of(self.issuer.der())
        }

        fn answer(&self, request: &wire::EnrolRequest) -> wire::EnrolReply {
            self.asked.set(self.asked.get() + 1);
            let csr = request.certificate_request_der.to_vec().into();
            let csr = CertificateSigningRequestParams::from_der(&csr).expect("a request");
            let certificate = csr.signed_by(&self.issuer).expect("signed");
            wire::EnrolReply {
                node_id: NodeId::of_key(&request.signing_key).to_string(),
                deployment: "fleet".to_owned(),
                certificate_der: certificate.der().to_vec().into(),
                authority_der: self.issuer.der().to_vec().into(),
                release_key: vec![7; 32].into(),
            }
        }
    }

    fn address() -> Address {
        "localhost:1".parse().expect("an address")
    }

    fn name() -> Label {
        "post-1".parse().expect("a name")
    }

    #[tokio::test]
    async fn a_node_enrols_once_and_a_repeated_call_asks_nothing() {
        let temp = tempfile::tempdir().expect("temp dir");
        let ca = Authority::new();
        let token = JoinToken::generate(ca.digest()).expect("token");
        let ask = |r: wire::EnrolRequest| {
            let reply = ca.answer(&r);
            async { Ok(reply) }
        };
        let mut home = Home::open(temp.path()).expect("opened");
        let first = enrol(&mut home, &address(), &token, &name(), ask)
            .await
            .expect("enrolled");
        assert!(!first.already);
        let again = enrol(&mut home, &address(), &token, &name(), ask)
            .await
            .expect("enrolled already");
        assert!(again.already);
        assert_eq!(again.node, first.node);
        assert_eq!(ca.asked.get(), 1);
        #[cfg(unix)]
        for secret in ["tls.key", "node.key"] {
            use std::os::unix::fs::PermissionsExt as _;
            let file = std::fs::metadata(temp.path().join(secret)).expect("there");
            assert_eq!(file.permissions().mode() & 0o777, 0o600, "{secret}");
        }
    }

    #[tokio::test]
    async fn an_answer_lost_on_the_way_is_asked_for_again_with_the_same_keys() {
        let temp = tempfile::tempdir().expect("temp dir");
        let ca = Authority::new();
        let token = JoinToken::generate(ca.digest()).expect("token");
        let mut home = Home::open(temp.path()).expect("opened");
        let keys = std::cell::RefCell::new(Vec::new());
        let lost = |r: wire::EnrolRequest| {
            keys.borrow_mut().push(r.signing_key.clone());
            async { Err(LinkError::fault("enrol", "connection lost")) }
        };
        enrol(&mut home, &address(), &token, &name(), lost)
            .await
            .expect_err("lost");
        let good = |r: wire::EnrolRequest| {
            keys.borrow_mut().push(r.signing_key.clone());
            let reply = ca.answer(&r);
            async { Ok(reply) }
        };
        enrol(&mut home, &address(), &token, &name(), good)
            .await
            .expect("enrolled");
        let keys = keys.borrow();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0], keys[1]);
    }

    #[tokio::test]
    async fn answers_of_another_authority_or_for_another_node_are_refused() {
        type Spoil = fn(&mut wire::EnrolReply);
        type Expect = fn(&EnrolError) -> bool;
        let cases: [(Spoil, Expect); 5] = [
            (
                |r| r.authority_der = b"another".to_vec().into(),
                |e| matches!(e, EnrolError::Authority { .. }),
            ),
            (
                |r| r.node_id = NodeId::of_key(b"other").to_string(),
                |e| matches!(e, EnrolError::OtherNode { .. }),
            ),
            (
                |r| r.deployment = "../etc".to_owned(),
                |e| matches!(e, EnrolError::Malformed(_)),
            ),
            (
                |r| r.release_key = vec![1; 31].into(),
                |e| matches!(e, EnrolError::ReleaseKey(31)),
            ),
            (
                |r| r.certificate_der = Authority::new().issuer.der().to_vec().into(),
                |e| matches!(e, EnrolError::Tls(_)),
            ),
        ];
        for (i, (spoil, expect)) in cases.iter().enumerate() {
            let temp = tempfile::tempdir().expect("temp dir");
            let ca = Authority::new();
            let token = JoinToken::generate(ca.digest()).expect("token");
            let mut home = Home::open(temp.path()).expect("opened");
            let ask = |r: wire::EnrolRequest| {
                let mut reply = ca.answer(&r);
                spoil(&mut reply);
                async { Ok(reply) }
            };
            let e = enrol(&mut home, &address(), &token, &name(), ask)
                .await
                .expect_err("refused");
            assert!(expect(&e), "case {i}: {e}");
            assert!(enrolled(&home).expect("readable").is_none());
        }
    }
}
