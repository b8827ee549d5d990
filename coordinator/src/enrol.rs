//! How nodes join: a single-use token for a certificate.

use std::time::Duration;

use ring::signature::{ED25519, UnparsedPublicKey};

use lamplight_proto::{
    Malformed,
    ids::{Digest, Label, NodeId, UnixMillis},
    refusal::{Reason, Refusal},
    token::{JoinToken, enrol_proof},
    wire,
};

use crate::{
    authority::{AuthorityError, MAX_REQUEST_BYTES, Request},
    dir::write_file,
    fault::Fault,
    house::House,
    roster,
    store::{
        StoreError, nodes,
        tokens::{self, Used},
    },
};

/// Tokens made in one call.
const MAX_TOKENS: u32 = 10_000;
/// A token's longest life: a year.
const MAX_VALID_SECONDS: u32 = 366 * 24 * 3600;

/// A parsed request to join.
pub struct Enrol {
    token_id: String,
    token_secret: Vec<u8>,
    certificate_request: Vec<u8>,
    signing_key: [u8; 32],
    proof: Vec<u8>,
    name: Label,
}

impl TryFrom<wire::EnrolRequest> for Enrol {
    type Error = Malformed;
    fn try_from(r: wire::EnrolRequest) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("enrol request", fault);
        if r.token_id.len() > 64 || r.token_secret.len() > 64 || r.proof.len() > 64 {
            return Err(bad("a field is longer than 64 bytes".into()));
        }
        let length = r.certificate_request_der.len();
        if length > MAX_REQUEST_BYTES {
            return Err(bad(format!(
                "certificate_request_der has {length} bytes, at most {MAX_REQUEST_BYTES} are taken"
            )));
        }
        Ok(Self {
            token_id: r.token_id,
            token_secret: r.token_secret.to_vec(),
            certificate_request: r.certificate_request_der.to_vec(),
            signing_key: (&r.signing_key[..]).try_into().map_err(|_| {
                bad(format!(
                    "signing_key has {} bytes instead of 32",
                    r.signing_key.len()
                ))
            })?,
            proof: r.proof.to_vec(),
            name: r.name.parse()?,
        })
    }
}

/// What a node gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its id.
    pub node: NodeId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
}

/// Whether two digests are the same, taking the same time wherever they differ.
fn same(a: Digest, b: Digest) -> bool {
    let differing = (a.as_bytes().iter().zip(b.as_bytes())).fold(0, |acc, (x, y)| acc | (x ^ y));
    std::hint::black_box(differing) == 0
}

impl House {
    /// Enrols a node. The same token and keys again are answered the same.
    ///
    /// # Errors
    /// Refuses a wrong, used or expired token, a proof that does not match, a bad certificate request,
    /// a retired key.
    pub fn enrol(&self, r: &Enrol) -> Result<Enrolled, Fault> {
        // 1. The token, before anything costly is done for a stranger.
        let no = |why: &str| {
            Refusal::new(
                Reason::Token,
                format!("the join token {why}; ask an operator for a new one"),
            )
        };
        let token = self.store.read(|c| tokens::find(c, &r.token_id))?;
        let secret = JoinToken::secret_digest(&r.token_secret);
        // An unknown id and a wrong secret are told alike: nobody learns which ids exist.
        let token = token
            .filter(|t| same(t.secret_digest, secret))
            .ok_or_else(|| no("is not known here"))?;
        // 2. The node holds the signing key it names.
        UnparsedPublicKey::new(&ED25519, &r.signing_key)
            .verify(&enrol_proof(&r.token_id, &r.certificate_request), &r.proof)
            .map_err(|_| {
                Refusal::new(
                    Reason::BadSignature,
                    "the proof was not made by the signing key over this token and request",
                )
            })?;
        // 3. And the TLS key.
        let request = Request::read(&r.certificate_request).map_err(|e| match e {
            e @ AuthorityError::Request(_) => Fault::from(Refusal::new(Reason::Malformed, e)),
            e => Fault::from(e),
        })?;
        let node = NodeId::of_key(&r.signing_key);
        // 4. A token works once; the call that used it may be repeated.
        let repeated = |used: &Used| {
            if used.node == node && used.tls_key_digest == request.key_digest() {
                Ok(Enrolled {
                    node: used.node.clone(),
                    certificate: used.certificate.clone(),
                })
            } else {
                Err(Fault::from(no("was used already")))
            }
        };
        if let Some(used) = &token.used {
            return repeated(used);
        }
        let now = self.now();
        if now >= token.expires {
            return Err(no("has expired").into());
        }
        // 5. Names are ours, not the request's.
        let used = Used {
            certificate: self.authority.node(&request, &node)?,
            tls_key_digest: request.key_digest(),
            node: node.clone(),
        };
        let key = format!("{}\n", hex::encode(r.signing_key));
        write_file(&self.dir.files().node_pub(&node), key.as_bytes())?;
        let enrolled = self.store.write(|tx| {
            // Another call may have used the token since step 1.
            if let Some(raced) = tokens::find(tx, &r.token_id)?.and_then(|t| t.used) {
                return repeated(&raced);
            }
            // A retired key stays retired, whoever holds a new token. The token is not spent.
            if let Some(known) = nodes::find(tx, &node)? {
                roster::refuse_retired(&known)?;
            }
            nodes::enrol(
                tx,
                &node,
                &r.signing_key,
                r.name.as_str(),
                &used.certificate,
                now,
            )?;
            tokens::mark_used(tx, &r.token_id, &used)?;
            Ok::<_, Fault>(Enrolled {
                node: node.clone(),
                certificate: used.certificate.clone(),
            })
        })?;
        tracing::info!(node = %enrolled.node, name = %r.name, "node enrolled");
        Ok(enrolled)
    }

    /// Makes single-use join tokens. They are told here and never again.
    ///
    /// # Errors
    /// Refuses none, too many, or a life of none or too long.
    pub fn make_tokens(
        &self,
        count: u32,
        valid_seconds: u32,
    ) -> Result<(Vec<JoinToken>, UnixMillis), Fault> {
        let bad = |fault: String| Fault::from(Malformed::new("create token request", fault));
        if !(1..=MAX_TOKENS).contains(&count) {
            return Err(bad(format!("count is {count}, must be 1 to {MAX_TOKENS}")));
        }
        if !(1..=MAX_VALID_SECONDS).contains(&valid_seconds) {
            return Err(bad(format!(
                "valid_seconds is {valid_seconds}, must be 1 to {MAX_VALID_SECONDS}"
            )));
        }
        let now = self.now();
        let expires = now.after(Duration::from_secs(valid_seconds.into()));
        let pin = Digest::of(self.authority.certificate());
        let made: Vec<JoinToken> = (0..count)
            .map(|_| JoinToken::generate(pin))
            .collect::<Result<_, _>>()?;
        self.store.write(|tx| {
            for t in &made {
                let secret = JoinToken::secret_digest(t.secret());
                tokens::insert(tx, &t.id(), secret, now, expires)?;
            }
            Ok::<_, StoreError>(())
        })?;
        Ok((made, expires))
    }
}
