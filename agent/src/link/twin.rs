//! A coordinator in memory that keeps the protocol's rules, for tests of everything above the wire.
//!
//! It verifies manifests, refuses replays, wrong leases and altered bytes, resumes transfers at an
//! offset, and signs one receipt per delta, as the real one does. Beside that it can misbehave on
//! demand: lose connections, send altered bytes, and stop the world before or after any call, which
//! is how tests cut the power.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lamplight_proto::{
    cause::Told,
    chunk::{Receiving, chunks},
    delta::{DeltaManifest, Receipt},
    envelope::{Signed, TrustedKeys, Verified},
    ids::{Deployment, Digest, Hasher, Lease, UnixMillis},
    keys::SigningKey,
    offer::RoundOffer,
    refusal::{Reason, Refusal},
    wire,
};
use tokio::sync::{Notify, mpsc};

use super::{CHUNKS_IN_FLIGHT, Link, LinkError, Polled, Report, ReportEvent};

/// On which side of a call the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The coordinator never hears of the call.
    Before,
    /// The coordinator does what it is asked; its answer is never heard.
    After,
}

/// A delta on its way.
#[derive(Debug)]
struct Upload {
    manifest: Verified<DeltaManifest>,
    bytes: Vec<u8>,
    receipt: Option<Signed<Receipt>>,
}

#[derive(Debug)]
struct State {
    deployment: Deployment,
    release: SigningKey,
    nodes: TrustedKeys,
    now: UnixMillis,
    blobs: HashMap<Digest, Vec<u8>>,
    offer: Option<Signed<RoundOffer>>,
    open: Option<Verified<RoundOffer>>,
    closed: bool,
    retired: bool,
    uploads: HashMap<Digest, Upload>,
    begun: Vec<Digest>,
    reports: Vec<Report>,
    highest_counter: u64,
    calls: u64,
    cut: Option<(u64, Moment)>,
    corrupt: bool,
    break_pull_after: Option<usize>,
    lose_upload_after: Option<usize>,
    pulled: u64,
}

/// The coordinator. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Twin {
    state: Arc<Mutex<State>>,
    dark: Arc<Notify>,
}

impl Twin {
    /// A coordinator of this deployment, with a release key of its own.
    ///
    /// # Panics
    /// When the name is no deployment's, or the system has no randomness: there is no test then.
    #[must_use]
    pub fn new(deployment: &str) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                deployment: deployment.parse().expect("a deployment's name"),
                release: SigningKey::generate().expect("randomness"),
                nodes: TrustedKeys::default(),
                now: UnixMillis(1_000_000),
                blobs: HashMap::new(),
                offer: None,
                open: None,
                closed: false,
                retired: false,
                uploads: HashMap::new(),
                begun: Vec::new(),
                reports: Vec::new(),
                highest_counter: 0,
                calls: 0,
                cut: None,
                corrupt: false,
                break_pull_after: None,
                lose_upload_after: None,
                pulled: 0,
            })),
            dark: Arc::new(Notify::new()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The release key's public half, as enrolment would hand it over.
    #[must_use]
    pub fn release_key(&self) -> [u8; 32] {
        self.state().release.public()
    }

    /// The deployment.
    #[must_use]
    pub fn deployment(&self) -> Deployment {
        self.state().deployment.clone()
    }

    /// Knows a node from now on.
    pub fn register(&self, public: [u8; 32]) {
        self.state().nodes = TrustedKeys::new([public]);
    }

    /// Keeps a blob for pulling.
    #[must_use]
    pub fn keep(&self, blob: Vec<u8>) -> Digest {
        let digest = Digest::of(&blob);
        self.state().blobs.insert(digest, blob);
        digest
    }

    /// Opens a round: signs the offer and hands it out at every poll until it is answered.
    pub fn open(&self, offer: RoundOffer) {
        let mut state = self.state();
        let sealed = Signed::seal(offer, &state.release);
        state.offer = Some(sealed.signed().clone());
        state.open = Some(sealed);
        state.closed = false;
    }

    /// Hands out this envelope, whoever signed it.
    pub fn hand_out(&self, offer: Signed<RoundOffer>) {
        self.state().offer = Some(offer);
    }

    /// What time it is at the coordinator, which stands still.
    pub fn set_now(&self, now: UnixMillis) {
        self.state().now = now;
    }

    /// Refuses every call from now on: an operator retired the node.
    pub fn retire(&self) {
        self.state().retired = true;
    }

    /// Closes the open round.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.offer = None;
    }

    /// Cuts the power at the `call`-th call from now, counted from 1: it and all later ones never
    /// answer. [`Twin::dark`] tells when.
    pub fn cut_at(&self, call: u64, moment: Moment) {
        let mut state = self.state();
        state.cut = Some((state.calls + call, moment));
    }

    /// Ends when the power is gone.
    pub async fn dark(&self) {
        self.dark.notified().await;
    }

    /// Power is back.
    pub fn restore(&self) {
        self.state().cut = None;
    }

    /// Calls heard so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Whether pulled bytes are altered on the way.
    pub fn corrupt_pulls(&self, corrupt: bool) {
        self.state().corrupt = corrupt;
    }

    /// The next pull breaks behind this many chunks.
    pub fn break_pull_after(&self, chunks: usize) {
        self.state().break_pull_after = Some(chunks);
    }

    /// The next upload breaks behind this many chunks.
    pub fn lose_upload_after(&self, chunks: usize) {
        self.state().lose_upload_after = Some(chunks);
    }

    /// Bytes handed out by pulls.
    #[must_use]
    pub fn bytes_pulled(&self) -> u64 {
        self.state().pulled
    }

    /// Digest of the manifest's payload of every `begin` heard, in order.
    #[must_use]
    pub fn begun(&self) -> Vec<Digest> {
        self.state().begun.clone()
    }

    /// Manifest and bytes of every delta with a receipt.
    #[must_use]
    pub fn accepted(&self) -> Vec<(DeltaManifest, Vec<u8>)> {
        let state = self.state();
        let with_receipt = state.uploads.values().filter(|u| u.receipt.is_some());
        with_receipt
            .map(|u| (u.manifest.get().clone(), u.bytes.clone()))
            .collect()
    }

    /// Every report heard.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.state().reports.clone()
    }

    /// What was told of the failures reported.
    #[must_use]
    pub fn failures(&self) -> Vec<Told> {
        let reports = self.reports().into_iter();
        reports
            .filter_map(|r| match r.event {
                ReportEvent::Failure(told) => Some(told),
                ReportEvent::Progress { .. } | ReportEvent::Waiting(_) => None,
            })
            .collect()
    }

    /// Does a call unless the power is gone; then it never answers.
    async fn call<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let answer = {
            let mut state = self.state();
            state.calls += 1;
            let calls = state.calls;
            if state.retired {
                return refuse(Reason::Retired, "the node was retired by an operator");
            }
            match state.cut {
                Some((at, Moment::Before)) if calls >= at => None,
                Some((at, Moment::After)) if calls > at => None,
                Some((at, Moment::After)) if calls == at => {
                    // The coordinator acts; the answer goes nowhere.
                    drop(act(&mut state));
                    None
                }
                _ => Some(act(&mut state)),
            }
        };
        match answer {
            Some(answer) => answer,
            None => {
                self.dark.notify_one();
                pending().await
            }
        }
    }
}

fn refuse<T>(reason: Reason, message: impl std::fmt::Display) -> Result<T, LinkError> {
    Err(LinkError::Refused(Refusal::new(reason, message)))
}

impl State {
    /// Whether the open round still waits for this lease.
    fn wants(&self, lease: Lease) -> bool {
        let open = self.open.as_ref().is_some_and(|o| o.lease == lease);
        open && !self.closed
    }

    fn begin(&mut self, manifest: &Signed<DeltaManifest>) -> Result<u64, LinkError> {
        let id = manifest.payload_digest();
        self.begun.push(id);
        if let Some(upload) = self.uploads.get(&id) {
            return Ok(upload.bytes.len() as u64);
        }
        let verified = manifest
            .clone()
            .verify(&self.nodes)
            .map_err(|e| LinkError::Refused(e.into()))?;
        if !self.wants(verified.lease) {
            return refuse(Reason::RoundClosed, "the round is not collecting");
        }
        let base = self.open.as_ref().map(|o| o.base_digest);
        if base != Some(verified.base_digest) {
            return refuse(Reason::WrongBase, "the delta has another base");
        }
        let second = |u: &Upload| u.manifest.lease == verified.lease;
        if self.uploads.values().any(second) {
            return refuse(Reason::Replay, "the lease was used by another manifest");
        }
        if verified.counter <= self.highest_counter {
            return refuse(Reason::Replay, "the counter was used before");
        }
        self.highest_counter = verified.counter;
        let upload = Upload {
            manifest: verified,
            bytes: Vec::new(),
            receipt: None,
        };
        self.uploads.insert(id, upload);
        Ok(0)
    }

    fn put(&mut self, id: Digest, chunk: wire::Chunk) -> Result<u64, LinkError> {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return refuse(Reason::NotFound, "no such upload");
        };
        let already = upload.bytes.len() as u64;
        let mut receiving = Receiving::resume(upload.manifest.size, already, Hasher::new());
        let data = receiving.take(chunk).map_err(LinkError::Refused)?;
        upload.bytes.extend_from_slice(&data);
        Ok(upload.bytes.len() as u64)
    }

    fn commit(&mut self, id: Digest) -> Result<Signed<Receipt>, LinkError> {
        let now = self.now;
        let Some(upload) = self.uploads.get_mut(&id) else {
            return refuse(Reason::NotFound, "no such upload");
        };
        if let Some(receipt) = &upload.receipt {
            return Ok(receipt.clone());
        }
        let m = upload.manifest.get();
        if Digest::of(&upload.bytes) != m.digest {
            upload.bytes.clear();
            return refuse(Reason::AlteredPayload, "the bytes have another digest");
        }
        let receipt = Receipt {
            deployment: m.deployment.clone(),
            round: m.round,
            node_id: m.node_id.clone(),
            manifest_digest: id,
            delta_digest: m.digest,
            counter: m.counter,
            accepted: now,
        };
        let receipt = Signed::seal(receipt, &self.release).signed().clone();
        upload.receipt = Some(receipt.clone());
        self.offer = None;
        Ok(receipt)
    }
}

impl Link for Twin {
    async fn poll(
        &self,
        _phase: &'static str,
        _running: Option<Digest>,
    ) -> Result<Polled, LinkError> {
        self.call(|state| {
            Ok(Polled {
                wait: Duration::from_millis(5),
                offer: state.offer.clone(),
                now: state.now,
            })
        })
        .await
    }

    async fn report(&self, report: Report) -> Result<bool, LinkError> {
        self.call(|state| {
            let wanted = state.wants(report.lease);
            if matches!(report.event, ReportEvent::Failure(_)) && wanted {
                state.offer = None;
            }
            state.reports.push(report);
            Ok(wanted)
        })
        .await
    }

    async fn pull(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<mpsc::Receiver<Result<wire::Chunk, LinkError>>, LinkError> {
        let (list, fault) = self
            .call(|state| {
                let Some(blob) = state.blobs.get(&digest) else {
                    return refuse(Reason::NotFound, format!("no blob {digest}"));
                };
                let mut blob = blob.clone();
                if state.corrupt
                    && let Some(last) = blob.last_mut()
                {
                    *last ^= 1;
                }
                let limit = state.break_pull_after.take();
                let list: Vec<_> = chunks(blob.into(), offset)
                    .take(limit.unwrap_or(usize::MAX))
                    .collect();
                state.pulled += list.iter().map(|c| c.data.len() as u64).sum::<u64>();
                Ok((list, limit.is_some()))
            })
            .await?;
        let (tx, rx) = mpsc::channel(CHUNKS_IN_FLIGHT);
        tokio::spawn(async move {
            let broken = fault.then(|| Err(LinkError::fault("pull", "connection lost")));
            for item in list.into_iter().map(Ok).chain(broken) {
                if tx.send(item).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }

    async fn begin(&self, manifest: &Signed<DeltaManifest>) -> Result<u64, LinkError> {
        self.call(|state| state.begin(manifest)).await
    }

    async fn upload(
        &self,
        upload: Digest,
        mut chunks: mpsc::Receiver<wire::Chunk>,
    ) -> Result<u64, LinkError> {
        let limit = self
            .call(|state| Ok(state.lose_upload_after.take()))
            .await?;
        let mut received = 0;
        let mut taken = 0;
        while let Some(chunk) = chunks.recv().await {
            if limit.is_some_and(|limit| taken >= limit) {
                return Err(LinkError::fault("upload", "connection lost"));
            }
            received = self.call(|state| state.put(upload, chunk)).await?;
            taken += 1;
        }
        Ok(received)
    }

    async fn commit(&self, upload: Digest) -> Result<Signed<Receipt>, LinkError> {
        self.call(|state| state.commit(upload)).await
    }
}
