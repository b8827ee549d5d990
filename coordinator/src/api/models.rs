//! `Models`: for nodes and operators.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use lamplight_proto::{
    chunk::CHUNK_BYTES,
    envelope::Signed,
    ids::{Digest, ModelName, ModelVersion, NodeId},
    refusal::{Reason, Refusal},
    release::ReleaseManifest,
    wire::{Chunk, GetReleaseReply, GetReleaseRequest, PullRequest, models_server::Models},
};

use super::{Desk, malformed};
use crate::{
    authority::Peer,
    fault::{Broken, Fault},
    house::House,
    store::{StoreError, participants, releases},
};

/// A puller that takes no chunk for this long is let go; it may resume.
const PROGRESS_TIME: Duration = Duration::from_secs(60);
/// How long a pull waits for its turn.
const TURN: Duration = Duration::from_secs(30);

impl House {
    fn may_call(&self, peer: &Peer) -> Result<(), Fault> {
        match peer {
            Peer::Node(id) => self.node(id).map(drop),
            Peer::Operator(_) => Ok(()),
        }
    }

    /// Opens a blob for a caller who may have it.
    fn open_for(&self, peer: &Peer, digest: Digest, offset: u64) -> Result<(File, u64), Fault> {
        self.may_call(peer)?;
        let may = self.store.read(|c| match peer {
            Peer::Node(_) => releases::is_model_file(c, digest),
            Peer::Operator(_) => releases::names(c, digest),
        })?;
        let total = self.blobs.size(digest)?.filter(|_| may);
        let Some(total) = total else {
            let message = format!("no release names a blob {digest} that you may pull");
            return Err(Refusal::new(Reason::NotFound, message).into());
        };
        if offset > total {
            let message = format!("offset {offset} is past the blob's end at {total}");
            return Err(Refusal::new(Reason::Malformed, message).into());
        }
        let path = self.blobs.path(digest);
        let open = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        let file = open().map_err(|source| Broken::File {
            path: path.clone(),
            source,
        })?;
        Ok((file, total))
    }

    fn count_pulled(&self, node: &NodeId, digest: Digest, bytes: u64) -> Result<(), Fault> {
        Ok(self
            .store
            .write(|tx| participants::pulled(tx, node, digest, bytes))?)
    }
}

/// Reads the next chunk.
fn next_chunk(file: &mut File, offset: u64, total: u64) -> std::io::Result<Vec<u8>> {
    let left = total.saturating_sub(offset).min(CHUNK_BYTES as u64);
    let mut data = Vec::new();
    file.take(left).read_to_end(&mut data)?;
    if (data.len() as u64) < left {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(data)
}

#[tonic::async_trait]
impl Models for Desk {
    type PullStream = ReceiverStream<Result<Chunk, Status>>;

    async fn get_release(
        &self,
        request: Request<GetReleaseRequest>,
    ) -> Result<Response<GetReleaseReply>, Status> {
        let peer = self.peer(&request)?;
        let r = request.into_inner();
        let model: ModelName = r.model.parse().map_err(malformed)?;
        let version = (r.version != 0).then_some(ModelVersion(r.version));
        let envelope = self
            .ask(move |house| {
                house.may_call(&peer)?;
                let release = house.release(&model, version)?;
                let signed = Signed::<ReleaseManifest>::from_bytes(&release.envelope);
                Ok(signed.map_err(|e| StoreError::Damaged {
                    column: "releases.envelope",
                    fault: e.to_string(),
                })?)
            })
            .await?;
        Ok(Response::new(GetReleaseReply {
            manifest: Some(envelope.to_wire()),
        }))
    }

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let peer = self.peer(&request)?;
        let r = request.into_inner();
        let digest = Digest::try_from(&r.digest[..]).map_err(malformed)?;
        let mut offset = r.offset;
        let caller = peer.clone();
        let (mut file, total) = self
            .ask(move |house| house.open_for(&caller, digest, offset))
            .await?;
        let permit = timeout(TURN, self.pulls.clone().acquire_owned())
            .await
            .map_err(|_| Status::unavailable("too many transfers; try again in a minute"))?;
        // One chunk waits in the channel, one is being sent, one is being read.
        let (tx, rx) = mpsc::channel(1);
        let desk = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let start = offset;
            while offset < total {
                let read = tokio::task::spawn_blocking(move || {
                    let data = next_chunk(&mut file, offset, total);
                    (file, data)
                })
                .await;
                let Ok((back, data)) = read else { break };
                file = back;
                let answer = data.map(|data| Chunk {
                    offset,
                    data: data.into(),
                    total,
                });
                let (answer, sent) = match answer {
                    Ok(chunk) => {
                        let n = chunk.data.len() as u64;
                        (Ok(chunk), n)
                    }
                    Err(source) => {
                        let path = desk.house.blobs.path(digest);
                        let broken = Broken::File { path, source };
                        (Err(super::status(broken.into())), 0)
                    }
                };
                // Slow or gone: the puller resumes at its offset.
                let taken = timeout(PROGRESS_TIME, tx.send(answer)).await;
                if !matches!(taken, Ok(Ok(()))) || sent == 0 {
                    break;
                }
                offset += sent;
            }
            if let Peer::Node(node) = peer
                && offset > start
            {
                let counted = desk
                    .ask(move |house| house.count_pulled(&node, digest, offset - start))
                    .await;
                // Logged where it failed; the pull itself is done.
                drop(counted);
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}
