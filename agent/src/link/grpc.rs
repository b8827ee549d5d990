//! The real coordinator: gRPC over mutual TLS.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lamplight_proto::{
    delta::{DeltaManifest, Receipt},
    envelope::Signed,
    ids::{Digest, UnixMillis},
    refusal::{Reason, Refusal},
    tls::{self, Address, Identity, MAX_MESSAGE_BYTES, TlsError},
    wire::{
        self, deltas_client::DeltasClient, enrolment_client::EnrolmentClient,
        models_client::ModelsClient, rounds_client::RoundsClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status};

use super::{CHUNKS_IN_FLIGHT, Link, LinkError, Polled, Report, ReportEvent};

/// A small question has a small answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The coordinator reads the whole delta before it signs for it.
const VERDICT: Duration = Duration::from_secs(300);
/// A transfer may take as long as it takes, but not stand still.
const STALL: Duration = Duration::from_secs(60);

/// Nodes wait between these, whatever a coordinator suggests.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A coordinator at the other end of a network.
#[derive(Debug, Clone)]
pub struct GrpcLink {
    rounds: RoundsClient<tls::Link>,
    models: ModelsClient<tls::Link>,
    deltas: DeltasClient<tls::Link>,
}

impl GrpcLink {
    /// A link with this identity. Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`TlsError`] when the identity is unusable.
    pub fn new(address: &Address, identity: &Identity) -> Result<Self, TlsError> {
        let channel = tls::connect(address, identity)?;
        Ok(Self {
            rounds: RoundsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            models: ModelsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            deltas: DeltasClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        })
    }
}

/// Exchanges a join token for a certificate, over TLS with the authority the token pins.
///
/// # Errors
/// [`LinkError`].
pub async fn enrol(
    address: &Address,
    authority: Digest,
    request: wire::EnrolRequest,
) -> Result<wire::EnrolReply, LinkError> {
    const CALL: &str = "enrol";
    let channel = tls::connect_pinned(address, authority).map_err(|e| LinkError::fault(CALL, e))?;
    let mut client = EnrolmentClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(answered(CALL, ANSWER, client.enrol(request))
        .await?
        .into_inner())
}

/// Sorts a status into refusal and fault.
fn sort(call: &'static str, status: &Status) -> LinkError {
    if let Some(refusal) = Refusal::in_status(status) {
        return LinkError::Refused(refusal);
    }
    if status.code() == Code::Unimplemented {
        // An older coordinator, or none at all, answers; waiting will not teach it.
        return LinkError::Refused(Refusal::new(
            Reason::Protocol,
            format!(
                "{call}: whoever answers at this address does not offer this call ({}); check the \
                 address, or upgrade the coordinator",
                status.message()
            ),
        ));
    }
    let maybe_refused =
        status.code() == Code::Unknown && status.message().contains("transport error");
    LinkError::Fault {
        call,
        fault: format!(
            "{:?}: {}{}",
            status.code(),
            status.message(),
            causes(status)
        ),
        maybe_refused,
    }
}

/// tonic keeps what went wrong below it one or two sources down.
fn causes(status: &Status) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(status);
    while let Some(e) = next {
        let said = e.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = e.source();
    }
    text
}

async fn answered<T>(
    call: &'static str,
    within: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(sort(call, &status)),
        Err(_) => Err(LinkError::Stalled {
            call,
            quiet: within,
        }),
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
struct Moved {
    start: Instant,
    millis: Arc<AtomicU64>,
}

impl Moved {
    fn now() -> Self {
        Self {
            start: Instant::now(),
            millis: Arc::default(),
        }
    }

    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn quiet(&self) -> Duration {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }

    /// Ends when nothing has moved for [`STALL`].
    async fn stalled(&self) {
        while let Some(left) = STALL.checked_sub(self.quiet()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl Link for GrpcLink {
    async fn poll(
        &self,
        phase: &'static str,
        running: Option<Digest>,
    ) -> Result<Polled, LinkError> {
        let request = wire::PollRequest {
            phase: phase.to_owned(),
            running_digest: running.map(Digest::to_bytes).unwrap_or_default(),
        };
        let mut client = self.rounds.clone();
        let reply = answered("poll", ANSWER, client.poll(request))
            .await?
            .into_inner();
        let wait = Duration::from_millis(u64::from(reply.wait_ms));
        Ok(Polled {
            wait: wait.clamp(SHORTEST_WAIT, LONGEST_WAIT),
            offer: reply.offer.map(Signed::from_wire),
            now: UnixMillis(reply.coordinator_unix_ms),
        })
    }

    async fn report(&self, report: Report) -> Result<bool, LinkError> {
        use wire::report_request::Event;
        let event = match report.event {
            ReportEvent::Progress {
                phase,
                step,
                steps,
                loss,
            } => Event::Progress(wire::Progress {
                phase: phase.to_owned(),
                step,
                steps,
                loss,
            }),
            ReportEvent::Failure(told) => Event::Failure(told.into()),
            ReportEvent::Waiting(told) => Event::Waiting(told.into()),
        };
        let request = wire::ReportRequest {
            round: report.round.0,
            lease: report.lease.0.to_vec().into(),
            event: Some(event),
        };
        let mut client = self.rounds.clone();
        let reply = answered("report", ANSWER, client.report(request)).await?;
        Ok(reply.into_inner().wanted)
    }

    async fn pull(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<mpsc::Receiver<Result<wire::Chunk, LinkError>>, LinkError> {
        const CALL: &str = "pull";
        let request = wire::PullRequest {
            digest: digest.to_bytes(),
            offset,
        };
        let mut client = self.models.clone();
        let mut stream = answered(CALL, ANSWER, client.pull(request))
            .await?
            .into_inner();
        let (tx, rx) = mpsc::channel(CHUNKS_IN_FLIGHT);
        tokio::spawn(async move {
            loop {
                let next = match tokio::time::timeout(STALL, stream.message()).await {
                    Ok(Ok(Some(chunk))) => Ok(chunk),
                    Ok(Ok(None)) => return,
                    Ok(Err(status)) => Err(sort(CALL, &status)),
                    Err(_) => Err(LinkError::Stalled {
                        call: CALL,
                        quiet: STALL,
                    }),
                };
                let last = next.is_err();
                // A receiver that has gone wants no more.
                if tx.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(rx)
    }

    async fn begin(&self, manifest: &Signed<DeltaManifest>) -> Result<u64, LinkError> {
        const CALL: &str = "begin";
        let request = wire::BeginDeltaRequest {
            manifest: Some(manifest.to_wire()),
        };
        let mut client = self.deltas.clone();
        let reply = answered(CALL, ANSWER, client.begin(request))
            .await?
            .into_inner();
        let want = manifest.payload_digest();
        match Digest::try_from(&reply.upload_id[..]) {
            Ok(got) if got == want => Ok(reply.received),
            other => Err(LinkError::Answer {
                call: CALL,
                fault: match other {
                    Ok(got) => format!("it names upload {got}, the manifest's digest is {want}"),
                    Err(e) => e.to_string(),
                },
            }),
        }
    }

    async fn upload(
        &self,
        upload: Digest,
        chunks: mpsc::Receiver<wire::Chunk>,
    ) -> Result<u64, LinkError> {
        const CALL: &str = "upload";
        let moved = Moved::now();
        let sent = moved.clone();
        // The transport asks for a chunk only when it has room: each asking is progress.
        let requests = ReceiverStream::new(chunks).map(move |chunk| {
            sent.touch();
            wire::UploadRequest {
                upload_id: upload.to_bytes(),
                chunk: Some(chunk),
            }
        });
        let mut client = self.deltas.clone();
        tokio::select! {
            reply = client.upload(requests) => match reply {
                Ok(reply) => Ok(reply.into_inner().received),
                Err(status) => Err(sort(CALL, &status)),
            },
            () = moved.stalled() => Err(LinkError::Stalled { call: CALL, quiet: STALL }),
        }
    }

    async fn commit(&self, upload: Digest) -> Result<Signed<Receipt>, LinkError> {
        const CALL: &str = "commit";
        let request = wire::CommitDeltaRequest {
            upload_id: upload.to_bytes(),
        };
        let mut client = self.deltas.clone();
        let reply = answered(CALL, VERDICT, client.commit(request)).await?;
        let receipt = reply.into_inner().receipt.ok_or(LinkError::Answer {
            call: CALL,
            fault: "it holds no receipt".to_owned(),
        })?;
        Ok(Signed::from_wire(receipt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_faults_are_told_apart() {
        let refusal = Refusal::new(Reason::RoundClosed, "round 3 is over");
        let got = sort("begin", &Status::from(refusal.clone()));
        assert_eq!(got, LinkError::Refused(refusal));
        let got = sort("begin", &Status::unavailable("restarting"));
        assert!(matches!(
            got,
            LinkError::Fault {
                maybe_refused: false,
                ..
            }
        ));
    }

    #[test]
    fn a_transport_error_may_be_a_refused_certificate() {
        let got = sort("poll", &Status::unknown("transport error"));
        assert!(matches!(
            got,
            LinkError::Fault {
                maybe_refused: true,
                ..
            }
        ));
    }

    #[test]
    fn somebody_else_at_the_address_is_a_refusal_with_a_remedy() {
        let got = sort("poll", &Status::unimplemented("unknown service"));
        let LinkError::Refused(r) = got else {
            panic!("{got:?}");
        };
        assert_eq!(r.reason, Reason::Protocol);
        assert!(r.message.contains("check the address"), "{r}");
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_there_is_a_fault() {
        let key = rcgen::KeyPair::generate().expect("key");
        let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .and_then(|p| p.self_signed(&key))
            .expect("certificate");
        let der = cert.der().to_vec();
        let identity = Identity::new(der.clone(), key.serialize_der(), der);
        // Port 1 is nobody's.
        let address = "127.0.0.1:1".parse().expect("an address");
        let link = GrpcLink::new(&address, &identity).expect("usable");
        let e = link.poll("idle", None).await.expect_err("nobody there");
        assert!(matches!(e, LinkError::Fault { .. }), "{e}");
    }
}
