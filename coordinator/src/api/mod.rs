//! The gRPC edges: parse at the border, call a room, map its answer.
//!
//! Nothing inside sees a raw message; nothing from the network reaches a panic. Rooms block, so each
//! call runs them on a blocking thread. Who may call what:
//!
//! | service | caller |
//! |---|---|
//! | `Enrolment`, `grpc.health` | anyone |
//! | reflection | any certificate of this fleet |
//! | `Rounds`, `Deltas` | nodes |
//! | `Models` | nodes (model files), operators (any blob a release names) |
//! | `Operator` | operators |

mod deltas;
mod enrolment;
mod models;
mod operator;
mod receive;
mod rounds;
mod serve;

pub(crate) use serve::serve;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Request, Status};

use lamplight_proto::{
    ids::{Label, NodeId},
    refusal::{Reason, Refusal},
};

use crate::{
    authority::Peer,
    blob::BlobError,
    fault::{Broken, Fault},
    house::House,
    intake::Slots,
};

/// Uploads that hold a chunk in memory at the same time.
const UPLOADS: usize = 64;
/// Pulls at the same time. Apart from uploads: a pull keeps its place for as long as its reader takes
/// chunks, and slow readers must not keep deltas out.
const PULLS: usize = 64;

/// What every edge holds.
#[derive(Clone)]
pub(crate) struct Desk {
    house: Arc<House>,
    slots: Arc<Slots>,
    uploads: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
}

impl Desk {
    pub(crate) fn new(house: Arc<House>) -> Self {
        Self {
            house,
            slots: Arc::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            pulls: Arc::new(Semaphore::new(PULLS)),
        }
    }

    /// Calls a room on a blocking thread.
    async fn ask<T: Send + 'static>(
        &self,
        f: impl FnOnce(&House) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Status> {
        let house = self.house.clone();
        tokio::task::spawn_blocking(move || f(&house))
            .await
            .unwrap_or_else(|_| Err(Broken::Task("a call").into()))
            .map_err(status)
    }

    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        peer(request, &self.house)
    }

    fn node<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        match self.peer(request)? {
            Peer::Node(id) => Ok(id),
            Peer::Operator(name) => Err(wrong_role(&format!("operator {name}"), "a node")),
        }
    }

    fn operator<T>(&self, request: &Request<T>) -> Result<Label, Status> {
        match self.peer(request)? {
            Peer::Operator(name) => Ok(name),
            Peer::Node(id) => Err(wrong_role(id.as_str(), "an operator")),
        }
    }
}

fn wrong_role(got: &str, want: &str) -> Status {
    let message = format!("the caller is {got}; this call is for {want}'s certificate");
    Refusal::new(Reason::Unauthenticated, message).into()
}

/// Who calls, by the certificate the TLS layer verified.
fn peer<T>(request: &Request<T>, house: &House) -> Result<Peer, Status> {
    let refuse = |why: String| Status::from(Refusal::new(Reason::Unauthenticated, why));
    let certificates = request.peer_certs();
    let certificate = (certificates.as_deref())
        .and_then(|c| c.first())
        .ok_or_else(|| refuse("the caller showed no certificate; enrol first".into()))?;
    Peer::of_certificate(certificate, &house.deployment).map_err(|e| refuse(e.to_string()))
}

/// The one place where answers of rooms become answers of gRPC.
fn status(fault: Fault) -> Status {
    match fault {
        Fault::Refused(refusal) => {
            tracing::info!(reason = refusal.name(), "refused: {refusal}");
            refusal.into()
        }
        // Paths and causes are for the operator's log, not for strangers.
        Fault::Broken(e @ Broken::Blob(BlobError::Full { .. })) => {
            tracing::error!("{e}");
            Status::resource_exhausted("the coordinator's disk is full; try again later")
        }
        Fault::Broken(e) => {
            tracing::error!("{e}");
            Status::unavailable("the coordinator cannot do this now, its log says why; try again")
        }
    }
}

/// A malformed message as a status.
fn malformed(e: lamplight_proto::Malformed) -> Status {
    Refusal::from(e).into()
}
