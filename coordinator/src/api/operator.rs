//! `Operator`: for operators.

use tonic::{Request, Response, Status, Streaming};

use lamplight_proto::{
    Malformed,
    ids::{Digest, Label, ModelName, RoundId, TaskId},
    refusal::{Reason, Refusal},
    wire::{
        BeginBlobReply, BeginBlobRequest, CreateTokenReply, CreateTokenRequest, ListModelsReply,
        ListModelsRequest, ListNodesReply, ListNodesRequest, ListReleasesReply,
        ListReleasesRequest, ListRoundsReply, ListRoundsRequest, ListTasksReply, ListTasksRequest,
        NodeView, PublishModelRequest, PutBlobReply, PutBlobRequest, ReleaseView, RoundView,
        SetNodeStateRequest, ShowNodeRequest, ShowRoundRequest, StartRoundsReply,
        StartRoundsRequest, StopTaskRequest, TagNodeRequest, TaskView, operator_server::Operator,
    },
};

use super::{Desk, malformed, receive};
use crate::{
    blob::{BlobError, Part},
    fault::Fault,
    house::House,
    roster::{Named, Ruling, Tagging},
    round::Start,
    store::{releases, tasks},
    watch::{nodes::Wanted, views},
};

fn owner(name: &Label) -> String {
    format!("operator-{name}")
}

impl House {
    fn blob_part(&self, owner: &str, digest: Digest, total: u64) -> Result<Option<Part>, Fault> {
        if let Some(size) = self.blobs.size(digest)? {
            return if size == total {
                Ok(None)
            } else {
                let message = format!("blob {digest} has {size} bytes, not {total}");
                Err(Refusal::new(Reason::Conflict, message).into())
            };
        }
        Ok(Some(Part::resume(&self.blobs, owner, digest, total, None)?))
    }

    fn check_blob_size(&self, total: u64) -> Result<(), Refusal> {
        let max = self.config.max_blob_bytes;
        if total == 0 || total > max {
            let message = format!("the blob has {total} bytes, 1 to {max} are taken");
            return Err(Refusal::new(Reason::Oversize, message));
        }
        Ok(())
    }

    fn keep_blob(&self, owner: &str, digest: Digest) -> Result<(), Fault> {
        match self.blobs.promote(owner, digest) {
            Err(BlobError::Damaged { found, .. }) => {
                self.blobs.discard(owner, digest)?;
                let message = format!("the blob has digest {found}, {digest} was promised");
                Err(Refusal::new(Reason::AlteredPayload, message).into())
            }
            other => Ok(other?),
        }
    }
}

#[tonic::async_trait]
impl Operator for Desk {
    async fn begin_blob(
        &self,
        request: Request<BeginBlobRequest>,
    ) -> Result<Response<BeginBlobReply>, Status> {
        let owner = owner(&self.operator(&request)?);
        let r = request.into_inner();
        let digest = Digest::try_from(&r.digest[..]).map_err(malformed)?;
        self.house.check_blob_size(r.size)?;
        let slot = self.slots.of(&format!("{owner} {digest}"));
        let house = receive::shared(self);
        let open = move || house.blob_part(&owner, digest, r.size);
        let received = receive::here(slot, open, r.size).await?;
        Ok(Response::new(BeginBlobReply { received }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<PutBlobRequest>>,
    ) -> Result<Response<PutBlobReply>, Status> {
        let owner = owner(&self.operator(&request)?);
        let mut stream = request.into_inner();
        let first = receive::first(&mut stream).await?;
        let digest = Digest::try_from(&first.digest[..]).map_err(malformed)?;
        let missing = || malformed(Malformed::new("put blob", "chunk is missing"));
        let total = first.chunk.as_ref().ok_or_else(missing)?.total;
        self.house.check_blob_size(total)?;
        let chunk_of = |m: PutBlobRequest| {
            if m.digest[..] != digest.as_bytes()[..] {
                return Err(malformed(Malformed::new(
                    "put blob",
                    "digest changed midway",
                )));
            }
            m.chunk.ok_or_else(missing)
        };
        let slot = self.slots.of(&format!("{owner} {digest}"));
        let house = receive::shared(self);
        let uploader = owner.clone();
        let open = move || house.blob_part(&uploader, digest, total);
        let received = self
            .receive(slot, open, total, first, stream, chunk_of)
            .await?;
        if received == total {
            self.ask(move |house| house.keep_blob(&owner, digest))
                .await?;
        }
        Ok(Response::new(PutBlobReply { received }))
    }

    async fn publish_model(
        &self,
        request: Request<PublishModelRequest>,
    ) -> Result<Response<ReleaseView>, Status> {
        self.operator(&request)?;
        let r = request.into_inner();
        let model: ModelName = r.model.parse().map_err(malformed)?;
        let digest = Digest::try_from(&r.digest[..]).map_err(malformed)?;
        let release = self.ask(move |house| house.push(&model, digest)).await?;
        Ok(Response::new(views::release(&release)))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsReply>, Status> {
        self.operator(&request)?;
        let models = self.ask(House::view_models).await?;
        Ok(Response::new(ListModelsReply { models }))
    }

    async fn list_releases(
        &self,
        request: Request<ListReleasesRequest>,
    ) -> Result<Response<ListReleasesReply>, Status> {
        self.operator(&request)?;
        let model: ModelName = request.into_inner().model.parse().map_err(malformed)?;
        let all = self
            .ask(move |house| Ok(house.store.read(|c| releases::list(c, &model))?))
            .await?;
        Ok(Response::new(ListReleasesReply {
            releases: all.iter().map(views::release).collect(),
        }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        self.operator(&request)?;
        let r = request.into_inner();
        let (tokens, expires) = self
            .ask(move |house| house.make_tokens(r.count, r.valid_seconds))
            .await?;
        Ok(Response::new(CreateTokenReply {
            tokens: tokens.iter().map(ToString::to_string).collect(),
            expires_unix_ms: expires.0,
        }))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesReply>, Status> {
        self.operator(&request)?;
        let wanted = Wanted::try_from(request.into_inner()).map_err(malformed)?;
        let nodes = self.ask(move |house| house.view_nodes(&wanted)).await?;
        Ok(Response::new(ListNodesReply { nodes }))
    }

    async fn show_node(
        &self,
        request: Request<ShowNodeRequest>,
    ) -> Result<Response<NodeView>, Status> {
        self.operator(&request)?;
        let r = request.into_inner();
        let named: Named = r.node.parse().map_err(malformed)?;
        let view =
            (self.ask(move |house| house.view_node(&house.meant(&named)?.id, r.rounds))).await?;
        Ok(Response::new(view))
    }

    async fn tag_node(
        &self,
        request: Request<TagNodeRequest>,
    ) -> Result<Response<NodeView>, Status> {
        self.operator(&request)?;
        let tagging = Tagging::try_from(request.into_inner()).map_err(malformed)?;
        let view = (self.ask(move |house| house.view_node(&house.tag(&tagging)?, 0))).await?;
        Ok(Response::new(view))
    }

    async fn set_node_state(
        &self,
        request: Request<SetNodeStateRequest>,
    ) -> Result<Response<NodeView>, Status> {
        self.operator(&request)?;
        let ruling = Ruling::try_from(request.into_inner()).map_err(malformed)?;
        let view = (self.ask(move |house| house.view_node(&house.rule(&ruling)?, 0))).await?;
        Ok(Response::new(view))
    }

    async fn start_rounds(
        &self,
        request: Request<StartRoundsRequest>,
    ) -> Result<Response<StartRoundsReply>, Status> {
        self.operator(&request)?;
        let start = Start::try_from(request.into_inner()).map_err(malformed)?;
        let (task, round) = self.ask(move |house| house.start(&start)).await?;
        Ok(Response::new(StartRoundsReply {
            task: task.0,
            round: round.0,
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksReply>, Status> {
        self.operator(&request)?;
        let all = self.ask(|house| Ok(house.store.read(tasks::list)?)).await?;
        Ok(Response::new(ListTasksReply {
            tasks: all.into_iter().map(views::task).collect(),
        }))
    }

    async fn stop_task(
        &self,
        request: Request<StopTaskRequest>,
    ) -> Result<Response<TaskView>, Status> {
        self.operator(&request)?;
        let id = TaskId(request.into_inner().task);
        let course = self.ask(move |house| house.stop_task(id)).await?;
        Ok(Response::new(views::task(course)))
    }

    async fn list_rounds(
        &self,
        request: Request<ListRoundsRequest>,
    ) -> Result<Response<ListRoundsReply>, Status> {
        self.operator(&request)?;
        let task = request.into_inner().task;
        let task = (task != 0).then_some(TaskId(task));
        let rounds = self.ask(move |house| house.view_rounds(task)).await?;
        Ok(Response::new(ListRoundsReply { rounds }))
    }

    async fn show_round(
        &self,
        request: Request<ShowRoundRequest>,
    ) -> Result<Response<RoundView>, Status> {
        self.operator(&request)?;
        let id = RoundId(request.into_inner().round);
        let view = self.ask(move |house| house.view_round(id)).await?;
        Ok(Response::new(view))
    }
}
