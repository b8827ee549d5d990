//! The coordinator as an operator sees it.

use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::ProgressBar;
use lamplight_proto::{
    asks,
    chunk::{Receiving, chunks},
    ids::{Digest, Hasher, ModelName, ModelVersion},
    refusal::{Reason, Refusal},
    tls::{self, Address, Identity, Link, MAX_LISTING_BYTES, MAX_MESSAGE_BYTES},
    version::peer_version,
    wire::{self, models_client::ModelsClient, operator_client::OperatorClient},
};
use prost::bytes::Bytes;

/// Where the coordinator is and who calls.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connection {
    /// The coordinator's address
    #[arg(long, value_name = "HOST:PORT", env = "LAMPLIGHT_COORDINATOR")]
    pub(crate) coordinator: Address,
    /// Directory with the operator's tls.crt, tls.key and ca.crt
    #[arg(long, value_name = "DIR", env = "LAMPLIGHT_IDENTITY")]
    pub(crate) identity: PathBuf,
}

/// Clients of one coordinator over one channel.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// Operator calls.
    pub(crate) calls: OperatorClient<Link>,
    models: ModelsClient<Link>,
}

impl Connection {
    /// Makes ready to call; the connection is opened by the first call.
    pub(crate) fn open(&self) -> anyhow::Result<Operator> {
        let identity = Identity::read(&self.identity)
            .context("hint: --identity names the directory that `lamplight init` reported")?;
        Operator::connect(&self.coordinator, &identity)
    }
}

impl Operator {
    /// Makes ready to call.
    pub(crate) fn connect(address: &Address, identity: &Identity) -> anyhow::Result<Self> {
        let link = tls::connect(address, identity)?;
        Ok(Self {
            calls: OperatorClient::new(link.clone()).max_decoding_message_size(MAX_LISTING_BYTES),
            models: ModelsClient::new(link).max_decoding_message_size(MAX_MESSAGE_BYTES),
        })
    }

    /// Starts rounds, unless the coordinator is too old to see all that is asked for: it would start
    /// something else.
    pub(crate) async fn start(
        &mut self,
        request: wire::StartRoundsRequest,
    ) -> anyhow::Result<wire::StartRoundsReply> {
        if asks::is_picky(&request) {
            // Any answer names the coordinator's version; this call every version has.
            let answer = self.calls.list_models(wire::ListModelsRequest {}).await?;
            let coordinator = peer_version(answer.metadata().as_ref());
            if let Some(why) = asks::too_much_for(&request, &coordinator) {
                return Err(Refusal::new(Reason::Protocol, why).into());
            }
        }
        Ok(self.calls.start_rounds(request).await?.into_inner())
    }

    /// Uploads a blob, going on where an earlier try ended, and answers its digest.
    pub(crate) async fn put_blob(
        &mut self,
        blob: Bytes,
        bar: Option<ProgressBar>,
    ) -> anyhow::Result<Digest> {
        let digest = Digest::of(&blob);
        let total = blob.len() as u64;
        let begun = wire::BeginBlobRequest {
            digest: digest.to_bytes(),
            size: total,
        };
        let mut received = self.calls.begin_blob(begun).await?.into_inner().received;
        if received < total {
            let requests = chunks(blob, received).map(move |chunk| {
                if let Some(bar) = &bar {
                    bar.set_position(chunk.offset + chunk.data.len() as u64);
                }
                wire::PutBlobRequest {
                    digest: digest.to_bytes(),
                    chunk: Some(chunk),
                }
            });
            let stream = tokio_stream::iter(requests);
            received = self.calls.put_blob(stream).await?.into_inner().received;
        }
        anyhow::ensure!(
            received == total,
            "the coordinator has {received} of {total} bytes; run the command again to go on"
        );
        Ok(digest)
    }

    /// Downloads a blob and checks its digest.
    pub(crate) async fn pull(&mut self, digest: Digest, size: u64) -> anyhow::Result<Vec<u8>> {
        let request = wire::PullRequest {
            digest: digest.to_bytes(),
            offset: 0,
        };
        let mut stream = self.models.pull(request).await?.into_inner();
        let mut receiving = Receiving::resume(size, 0, Hasher::new());
        let mut blob = Vec::new();
        while let Some(chunk) = stream.message().await? {
            blob.extend_from_slice(&receiving.take(chunk)?);
        }
        let got = receiving.finish();
        anyhow::ensure!(
            got == digest,
            "pulled bytes have digest {got}, not {digest}"
        );
        Ok(blob)
    }

    /// The signed manifest of a release; version 0 asks for the newest.
    pub(crate) async fn release(
        &mut self,
        model: &ModelName,
        version: ModelVersion,
    ) -> anyhow::Result<wire::Envelope> {
        let request = wire::GetReleaseRequest {
            model: model.to_string(),
            version: version.0,
        };
        self.models
            .get_release(request)
            .await?
            .into_inner()
            .manifest
            .context("the coordinator answered no manifest")
    }
}
