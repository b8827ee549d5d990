//! `Enrolment`: open to anyone with a token.

use tonic::{Request, Response, Status};

use lamplight_proto::wire::{EnrolReply, EnrolRequest, enrolment_server::Enrolment};

use super::{Desk, malformed};
use crate::enrol::Enrol;

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let enrol = Enrol::try_from(request.into_inner()).map_err(malformed)?;
        let enrolled = self.ask(move |house| house.enrol(&enrol)).await?;
        let house = &self.house;
        Ok(Response::new(EnrolReply {
            node_id: enrolled.node.to_string(),
            deployment: house.deployment.to_string(),
            certificate_der: enrolled.certificate.into(),
            authority_der: house.authority.certificate().to_vec().into(),
            release_key: house.release_key.public().to_vec().into(),
        }))
    }
}
