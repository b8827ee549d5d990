//! A node whose deltas are made by hand.

use lamplight_models::{delta::Delta, quant::gguf};
use lamplight_proto::{
    chunk::{chunk_digests, chunks},
    delta::{DeltaManifest, Metrics, Receipt, TensorEntry},
    envelope::{Signed, TrustedKeys},
    ids::{Digest, NodeId},
    keys::SigningKey,
    offer::RoundOffer,
    refusal::Refusal,
    tls::{self, Identity, Link},
    token::{JoinToken, enrol_proof},
    wire::{
        self, deltas_client::DeltasClient, enrolment_client::EnrolmentClient,
        models_client::ModelsClient, report_request::Event, rounds_client::RoundsClient,
    },
};
use tonic::Status;

use super::{
    server::{Operator, Server},
    small,
};

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) identity: Identity,
    pub(crate) release_key: [u8; 32],
    pub(crate) counter: u64,
    link: Link,
}

/// A delta with its manifest, not yet signed; tests spoil either.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) file: Vec<u8>,
    pub(crate) manifest: DeltaManifest,
}

pub(crate) fn refusal(status: Status) -> Refusal {
    Refusal::in_status(&status).unwrap_or_else(|| panic!("no refusal: {status:?}"))
}

/// A fresh TLS key's certificate request.
pub(crate) fn certificate_request() -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    (csr.der().to_vec(), key.serialize_der())
}

/// Calls `Enrol` over a connection that knows the authority by the token's pin only.
pub(crate) async fn enrol(
    server: &Server,
    token: &JoinToken,
    key: &SigningKey,
    csr: &[u8],
) -> Result<wire::EnrolReply, Status> {
    let link = tls::connect_pinned(&server.address, token.authority()).unwrap();
    let request = wire::EnrolRequest {
        token_id: token.id(),
        token_secret: token.secret().to_vec().into(),
        certificate_request_der: csr.to_vec().into(),
        signing_key: key.public().to_vec().into(),
        proof: key.sign(&enrol_proof(&token.id(), csr)).to_vec().into(),
        name: "a-post".into(),
    };
    let reply = EnrolmentClient::new(link).enrol(request).await?;
    Ok(reply.into_inner())
}

impl Node {
    pub(crate) async fn join(server: &Server, operator: &mut Operator) -> Self {
        let token = operator.token().await;
        let key = SigningKey::generate().unwrap();
        let (csr, tls_key) = certificate_request();
        let reply = enrol(server, &token, &key, &csr).await.unwrap();
        let identity = Identity::new(
            reply.certificate_der.to_vec(),
            tls_key,
            reply.authority_der.to_vec(),
        );
        Self {
            id: reply.node_id.parse().unwrap(),
            link: server.link(&identity),
            identity,
            key,
            release_key: reply.release_key[..].try_into().unwrap(),
            counter: 0,
        }
    }

    /// The server came back elsewhere.
    pub(crate) fn reconnect(&mut self, server: &Server) {
        self.link = server.link(&self.identity);
    }

    /// The same node with an agent of another version.
    pub(crate) fn of_version(&mut self, version: &'static str) {
        self.link = self.link.clone().naming(version);
    }

    pub(crate) fn deltas(&self) -> DeltasClient<Link> {
        DeltasClient::new(self.link.clone())
    }

    pub(crate) fn rounds(&self) -> RoundsClient<Link> {
        RoundsClient::new(self.link.clone())
    }

    pub(crate) async fn poll_reply(&self) -> wire::PollReply {
        let request = wire::PollRequest {
            phase: "idle".into(),
            running_digest: Default::default(),
        };
        self.rounds().poll(request).await.unwrap().into_inner()
    }

    pub(crate) async fn poll(&self) -> Option<RoundOffer> {
        let signed = Signed::<RoundOffer>::from_wire(self.poll_reply().await.offer?);
        let keys = TrustedKeys::new([self.release_key]);
        Some(signed.verify(&keys).unwrap().get().clone())
    }

    /// Polls until there is work.
    pub(crate) async fn offer(&self) -> RoundOffer {
        for _ in 0..500 {
            if let Some(offer) = self.poll().await {
                return offer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} got no offer", self.id);
    }

    pub(crate) async fn pull(&self, digest: Digest, offset: u64) -> Result<Vec<u8>, Status> {
        let request = wire::PullRequest {
            digest: digest.to_bytes(),
            offset,
        };
        let mut client = ModelsClient::new(self.link.clone());
        let mut stream = client.pull(request).await?.into_inner();
        let mut out = Vec::new();
        while let Some(chunk) = stream.message().await? {
            assert_eq!(chunk.offset, offset + out.len() as u64);
            out.extend_from_slice(&chunk.data);
        }
        Ok(out)
    }

    /// A small honest delta for an offer; another one for each seed.
    pub(crate) async fn make(&mut self, offer: &RoundOffer, seed: u64) -> Made {
        let file = self.pull(offer.base_digest, 0).await.unwrap();
        assert_eq!(Digest::of(&file), offer.base_digest);
        let base = gguf::read(&file).unwrap();
        let mut delta = Delta::between(&base, &small::model(100 + seed)).unwrap();
        for (_, values) in delta.tensors.values_mut() {
            values.iter_mut().for_each(|v| *v *= 0.05);
        }
        self.wrap(offer, &delta, 10 + seed)
    }

    /// The manifest that fits a delta.
    pub(crate) fn wrap(&mut self, offer: &RoundOffer, delta: &Delta, samples: u64) -> Made {
        self.counter += 1;
        let file = delta.to_bytes();
        let metrics = |accuracy| Metrics {
            samples: 5,
            loss: 0.7,
            accuracy,
        };
        let manifest = DeltaManifest {
            deployment: offer.deployment.clone(),
            round: offer.round,
            window: offer.window,
            base_digest: offer.base_digest,
            node_id: self.id.clone(),
            counter: self.counter,
            lease: offer.lease,
            expires: offer.expires,
            tensors: (delta.tensors.iter())
                .map(|(name, (shape, _))| TensorEntry {
                    name: name.clone(),
                    shape: shape.iter().map(|&d| d as u64).collect(),
                })
                .collect(),
            codec: offer.codec,
            size: file.len() as u64,
            digest: Digest::of(&file),
            chunk_digests: chunk_digests(&file),
            sample_count: samples,
            before: Some(metrics(0.5)),
            after: Some(metrics(0.8)),
            training_seconds: 1.5,
            agent_version: "0.1.0".into(),
            samples_aside: 0,
        };
        Made { file, manifest }
    }

    pub(crate) fn sign(&self, made: &Made) -> wire::Envelope {
        Signed::seal(made.manifest.clone(), &self.key)
            .signed()
            .to_wire()
    }

    pub(crate) async fn begin(
        &self,
        envelope: wire::Envelope,
    ) -> Result<wire::BeginDeltaReply, Status> {
        let request = wire::BeginDeltaRequest {
            manifest: Some(envelope),
        };
        Ok(self.deltas().begin(request).await?.into_inner())
    }

    pub(crate) async fn upload(
        &self,
        begun: &wire::BeginDeltaReply,
        file: &[u8],
    ) -> Result<u64, Status> {
        let id = begun.upload_id.clone();
        let requests: Vec<_> = chunks(file.to_vec().into(), begun.received)
            .map(|chunk| wire::UploadRequest {
                upload_id: id.clone(),
                chunk: Some(chunk),
            })
            .collect();
        let reply = self.deltas().upload(tokio_stream::iter(requests)).await?;
        Ok(reply.into_inner().received)
    }

    pub(crate) async fn commit(
        &self,
        begun: &wire::BeginDeltaReply,
    ) -> Result<wire::Envelope, Status> {
        let request = wire::CommitDeltaRequest {
            upload_id: begun.upload_id.clone(),
        };
        let reply = self.deltas().commit(request).await?.into_inner();
        Ok(reply.receipt.unwrap())
    }

    /// Begin, upload, commit; the receipt is checked.
    pub(crate) async fn send(&self, made: &Made) -> Result<wire::Envelope, Status> {
        let begun = self.begin(self.sign(made)).await?;
        if begun.received < made.manifest.size {
            self.upload(&begun, &made.file).await?;
        }
        let receipt = self.commit(&begun).await?;
        let keys = TrustedKeys::new([self.release_key]);
        let signed = Signed::<Receipt>::from_wire(receipt.clone());
        let said = signed.verify(&keys).unwrap();
        assert_eq!(said.delta_digest, made.manifest.digest);
        assert_eq!(said.counter, made.manifest.counter);
        assert_eq!(said.node_id, self.id);
        Ok(receipt)
    }

    /// Does a round honestly.
    pub(crate) async fn take_part(&mut self, seed: u64) -> Made {
        let offer = self.offer().await;
        let made = self.make(&offer, seed).await;
        self.send(&made).await.unwrap();
        made
    }

    /// As an agent older than causes does.
    pub(crate) async fn fails(&self, offer: &RoundOffer, reason: &str) -> bool {
        let failure = wire::Failure {
            reason: reason.into(),
            ..Default::default()
        };
        self.reports(offer, Event::Failure(failure)).await
    }

    pub(crate) async fn reports(&self, offer: &RoundOffer, event: Event) -> bool {
        let request = wire::ReportRequest {
            round: offer.round.0,
            lease: offer.lease.0.to_vec().into(),
            event: Some(event),
        };
        self.rounds()
            .report(request)
            .await
            .unwrap()
            .into_inner()
            .wanted
    }
}
