//! The coordinator, seen from here.
//!
//! ```text
//!   agent ── trait Link ──┬── grpc   the real one: tonic over mutual TLS
//!                         └── twin   one in memory that keeps the same rules, for tests
//! ```
//!
//! Two kinds of bad news, never mixed: a [`Refusal`](LinkError::Refused) is the coordinator's answer
//! and repeating the call changes nothing; a [`Fault`](LinkError::Fault) is the network's, and the
//! call is repeated with [`backoff`]. Nothing a link hands over is believed: offers and receipts are
//! [`Signed`], bytes have yet to be hashed.

pub mod backoff;
pub mod grpc;
pub mod twin;

use std::{future::Future, time::Duration};

use lamplight_proto::{
    cause::Told,
    delta::{DeltaManifest, Receipt},
    envelope::Signed,
    ids::{Digest, Lease, RoundId, UnixMillis},
    offer::RoundOffer,
    refusal::Refusal,
    wire,
};
use tokio::sync::mpsc;

pub use backoff::Backoff;

/// Chunks in flight between disk and network: two, so that one is read while one is sent.
pub const CHUNKS_IN_FLIGHT: usize = 2;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The coordinator refuses.
    #[error("the coordinator refuses ({name}): {0}", name = .0.name())]
    Refused(Refusal),
    /// The network, or the coordinator itself, failed; the call may be repeated.
    #[error("{call}: {fault}")]
    Fault {
        /// Which call.
        call: &'static str,
        /// What was seen.
        fault: String,
        /// A server that refuses a certificate over TLS 1.3 looks like this: the connection is
        /// made, and the first call breaks.
        maybe_refused: bool,
    },
    /// No byte moved for too long.
    #[error("{call}: nothing moved for {} s", .quiet.as_secs())]
    Stalled {
        /// Which call.
        call: &'static str,
        /// For how long.
        quiet: Duration,
    },
    /// The coordinator's answer makes no sense.
    #[error("{call}: the coordinator's answer is unusable: {fault}")]
    Answer {
        /// Which call.
        call: &'static str,
        /// What is wrong with it.
        fault: String,
    },
}

impl LinkError {
    /// A plain fault.
    pub fn fault(call: &'static str, fault: impl ToString) -> Self {
        Self::Fault {
            call,
            fault: fault.to_string(),
            maybe_refused: false,
        }
    }
}

/// Answer to a poll.
#[derive(Debug, Clone)]
pub struct Polled {
    /// Poll again after this long.
    pub wait: Duration,
    /// Work, not yet believed.
    pub offer: Option<Signed<RoundOffer>>,
    /// The coordinator's clock.
    pub now: UnixMillis,
}

/// How a task goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its round.
    pub round: RoundId,
    /// Its lease.
    pub lease: Lease,
    /// What there is to say.
    pub event: ReportEvent,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportEvent {
    /// It goes on.
    Progress {
        /// preparing, training, uploading.
        phase: &'static str,
        /// Steps done.
        step: u32,
        /// Steps in all; 0 where there are none.
        steps: u32,
        /// Mean loss of the last batch.
        loss: f64,
    },
    /// It ended without a delta.
    Failure(Told),
    /// It has not begun.
    Waiting(Told),
}

/// What a node asks of its coordinator. Every call may be repeated and answers the same.
pub trait Link: Send + Sync + 'static {
    /// Asks for work.
    fn poll(
        &self,
        phase: &'static str,
        running: Option<Digest>,
    ) -> impl Future<Output = Result<Polled, LinkError>> + Send;

    /// Says how a task goes; answers whether it is still wanted.
    fn report(&self, report: Report) -> impl Future<Output = Result<bool, LinkError>> + Send;

    /// The bytes of a model file from an offset on. The channel ends behind the last chunk, or with
    /// an error.
    fn pull(
        &self,
        digest: Digest,
        offset: u64,
    ) -> impl Future<Output = Result<mpsc::Receiver<Result<wire::Chunk, LinkError>>, LinkError>> + Send;

    /// Announces a delta; answers how many of its bytes the coordinator has.
    fn begin(
        &self,
        manifest: &Signed<DeltaManifest>,
    ) -> impl Future<Output = Result<u64, LinkError>> + Send;

    /// Sends chunks of the delta whose manifest's payload has this digest; answers how many bytes
    /// the coordinator has.
    fn upload(
        &self,
        upload: Digest,
        chunks: mpsc::Receiver<wire::Chunk>,
    ) -> impl Future<Output = Result<u64, LinkError>> + Send;

    /// Asks for the receipt.
    fn commit(
        &self,
        upload: Digest,
    ) -> impl Future<Output = Result<Signed<Receipt>, LinkError>> + Send;
}
