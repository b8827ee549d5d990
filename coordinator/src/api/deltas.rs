//! `Deltas`: for nodes.

use tonic::{Request, Response, Status, Streaming};

use lamplight_proto::{
    Malformed,
    ids::Digest,
    refusal::{Reason, Refusal},
    wire::{
        BeginDeltaReply, BeginDeltaRequest, CommitDeltaReply, CommitDeltaRequest, UploadReply,
        UploadRequest, deltas_server::Deltas,
    },
};

use super::{Desk, malformed, receive};

fn upload_id(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(malformed)
}

#[tonic::async_trait]
impl Deltas for Desk {
    async fn begin(
        &self,
        request: Request<BeginDeltaRequest>,
    ) -> Result<Response<BeginDeltaReply>, Status> {
        let node = self.node(&request)?;
        let envelope = request
            .into_inner()
            .manifest
            .ok_or_else(|| malformed(Malformed::new("begin delta", "manifest is missing")))?;
        let peer = node.clone();
        let (id, manifest, done) = self
            .ask(move |house| house.begin_delta(&peer, envelope))
            .await?;
        let received = match manifest {
            // Kept already: nothing is left to send.
            None => done,
            Some(manifest) => {
                let house = receive::shared(self);
                let slot = self.slots.of(node.as_str());
                let total = manifest.size;
                let open = move || Ok(house.part(&node, manifest.get())?);
                receive::here(slot, open, total).await?
            }
        };
        Ok(Response::new(BeginDeltaReply {
            upload_id: id.to_bytes(),
            received,
        }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadReply>, Status> {
        let node = self.node(&request)?;
        let mut stream = request.into_inner();
        let first = receive::first(&mut stream).await?;
        let id = upload_id(&first.upload_id)?;
        let peer = node.clone();
        let manifest = self.ask(move |house| house.upload(&peer, id)).await?;
        let house = receive::shared(self);
        let slot = self.slots.of(node.as_str());
        let (total, round) = (manifest.size, manifest.round);
        let peer = node.clone();
        let open = move || Ok(house.part(&peer, &manifest)?);
        let chunk_of = |m: UploadRequest| {
            if upload_id(&m.upload_id)? != id {
                return Err(malformed(Malformed::new(
                    "upload",
                    "upload_id changed midway",
                )));
            }
            m.chunk
                .ok_or_else(|| malformed(Malformed::new("upload", "chunk is missing")))
        };
        let received = self
            .receive(slot, open, total, first, stream, chunk_of)
            .await;
        if let Err(status) = &received
            && let Some(refusal) = Refusal::in_status(status)
            && refusal.reason == Reason::AlteredPayload
        {
            self.ask(move |house| Ok(house.note_refusal(&node, round, &refusal)?))
                .await?;
        }
        Ok(Response::new(UploadReply {
            received: received?,
        }))
    }

    async fn commit(
        &self,
        request: Request<CommitDeltaRequest>,
    ) -> Result<Response<CommitDeltaReply>, Status> {
        let node = self.node(&request)?;
        let id = upload_id(&request.into_inner().upload_id)?;
        // Under the slot: no chunk is written while the whole is checked, and repeats wait.
        let (_hold, guard) = crate::intake::Hold::take(self.slots.of(node.as_str())).await;
        let permit = self.uploads.clone().acquire_owned().await;
        let receipt = self.ask(move |house| house.commit_delta(&node, id)).await?;
        drop((guard, permit));
        Ok(Response::new(CommitDeltaReply {
            receipt: Some(receipt),
        }))
    }
}
