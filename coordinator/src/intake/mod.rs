//! How a delta comes in: manifest first, then bytes, then the check of the whole.
//!
//! ```text
//!   Begin  ── signature, addressee, round, lease, base, shapes, size, counter ──> upload
//!   Upload ── chunks to disk, each against its signed digest
//!   Commit ── digest of the whole, pass one (shapes, finiteness, norm) ──> kept, receipt
//! ```
//!
//! Nothing is taken before the manifest is believed, so a stranger costs no disk; a node has one
//! upload at a time, so it costs at most one delta's worth.

mod admit;
mod slots;

pub use slots::{Hold, Slot, Slots};

use lamplight_proto::{
    delta::{DeltaManifest, Receipt},
    envelope::{Signed, TrustedKeys, Verified},
    ids::{Digest, NodeId, RoundId},
    offer::Trainable,
    refusal::{Reason, Refusal},
    wire,
};

use crate::{
    aggregate::inspect,
    blob::{BlobError, Part},
    dir::write_file,
    fault::{Broken, Fault},
    house::{House, one_line},
    store::{
        StoreError, nodes,
        participants::{self, State},
        releases, rounds, tasks,
        uploads::{self, Upload},
    },
};

/// A manifest that passed every check, with its upload's place on disk.
pub type Believed = Verified<DeltaManifest>;

/// Characters of a refusal that a round keeps.
const REASON_CHARS: usize = 300;

fn unknown_upload() -> Refusal {
    Refusal::new(
        Reason::NotFound,
        "no such upload; begin again with the manifest",
    )
}

impl House {
    /// Believes a manifest or says why not, and begins its upload. Answers the upload's id and the
    /// manifest; `None` when this very delta is kept already and nothing is left to send.
    ///
    /// # Errors
    /// Refuses with the reason that fits the fault.
    pub fn begin_delta(
        &self,
        peer: &NodeId,
        envelope: wire::Envelope,
    ) -> Result<(Digest, Option<Believed>, u64), Fault> {
        let node = self.node(peer)?;
        // 1. Signed by the key this node enrolled with, and by no other.
        let signed = Signed::<DeltaManifest>::from_wire(envelope);
        let manifest = signed.verify(&TrustedKeys::new([node.signing_key]))?;
        let id = manifest.signed().payload_digest();
        // 2. For this fleet, from the node that is calling.
        admit::addressee(self, peer, &manifest)?;
        // 3. Said before: the same answer, even when the round has moved on since.
        if self
            .store
            .read(|c| participants::with_manifest(c, peer, id))?
            .is_some()
        {
            return Ok((id, None, manifest.size));
        }
        let before = self.store.read(|c| uploads::of_node(c, peer))?;
        if before.as_ref().is_some_and(|u| u.manifest_digest == id) {
            let round = manifest.round;
            admit::open(self, peer, &manifest, round)?;
            return Ok((id, Some(manifest), 0));
        }
        // 4. For a round that waits for this node, against its base, of its shapes, and new.
        if let Err(fault) = self.admit(&node, &manifest) {
            if let Fault::Refused(refusal) = &fault {
                self.note_refusal(peer, manifest.round, refusal)?;
            }
            return Err(fault);
        }
        // 5. One upload per node: another one's bytes go.
        self.store.write(|tx| {
            uploads::begin(
                tx,
                &Upload {
                    node: peer.clone(),
                    round: manifest.round,
                    manifest_digest: id,
                    envelope: manifest.signed().to_bytes(),
                },
            )
        })?;
        if let Some(old) = before.and_then(|u| manifest_of(&u).ok())
            && old.digest != manifest.digest
        {
            self.blobs.discard(peer.as_str(), old.digest)?;
        }
        Ok((id, Some(manifest), 0))
    }

    fn admit(&self, node: &nodes::Node, m: &DeltaManifest) -> Result<(), Fault> {
        admit::open(self, &node.id, m, m.round)?;
        let (base, trainable) = self.terms(m.round)?;
        admit::content(m, base, self.base(base)?.expected(trainable))?;
        admit::counter(node, m)
    }

    /// The base a round starts from, and which parameters it moves.
    fn terms(&self, round: RoundId) -> Result<(Digest, Trainable), Fault> {
        let gone = |what| StoreError::Damaged {
            column: what,
            fault: format!("what is gone, for round {round}"),
        };
        Ok(self.store.read(|c| {
            let row = rounds::find(c, round)?.ok_or_else(|| gone("rounds.id"))?;
            let task = tasks::find(c, row.task)?.ok_or_else(|| gone("rounds.task"))?;
            let base = releases::find(c, &row.model, row.base_version)?
                .ok_or_else(|| gone("rounds.base_version"))?;
            Ok::<_, StoreError>((base.digest, task.training.trainable))
        })?)
    }

    /// Operators see in the round why a node's delta was not taken. Changes nothing for a node that
    /// has ended, or was not asked.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn note_refusal(
        &self,
        peer: &NodeId,
        round: RoundId,
        refusal: &Refusal,
    ) -> Result<(), StoreError> {
        let reason = one_line(&format!("{}: {refusal}", refusal.name()), REASON_CHARS);
        tracing::warn!(round = round.0, node = %peer, reason, "delta refused");
        // A number above what SQLite holds is a round that does not exist.
        if i64::try_from(round.0).is_err() {
            return Ok(());
        }
        self.store
            .write(|tx| participants::note(tx, round, peer, State::Refused, &reason))
    }

    /// The manifest of a node's upload.
    ///
    /// # Errors
    /// Refuses an upload that has not begun.
    pub fn upload(&self, peer: &NodeId, id: Digest) -> Result<DeltaManifest, Fault> {
        self.node(peer)?;
        let upload = self.store.read(|c| uploads::of_node(c, peer))?;
        let upload = upload
            .filter(|u| u.manifest_digest == id)
            .ok_or_else(unknown_upload)?;
        Ok(manifest_of(&upload)?)
    }

    /// Opens what is on disk of an upload. `None` when the whole delta is here.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn part(&self, peer: &NodeId, m: &DeltaManifest) -> Result<Option<Part>, Broken> {
        if self.blobs.size(m.digest)?.is_some() {
            return Ok(None);
        }
        let digests = Some(m.chunk_digests.clone());
        let part = Part::resume(&self.blobs, peer.as_str(), m.digest, m.size, digests)?;
        Ok(Some(part))
    }

    /// Checks a whole delta and keeps it. Answers the signed receipt; the same one when repeated.
    ///
    /// # Errors
    /// Refuses with the reason that fits the fault; the upload is then forgotten, the round unharmed.
    pub fn commit_delta(&self, peer: &NodeId, id: Digest) -> Result<wire::Envelope, Fault> {
        self.node(peer)?;
        if let Some(done) = self
            .store
            .read(|c| participants::with_manifest(c, peer, id))?
        {
            let receipt = done.delta.map(|d| d.receipt).unwrap_or_default();
            return Ok(Signed::<Receipt>::from_bytes(&receipt)
                .map_err(|e| StoreError::Damaged {
                    column: "participants.receipt",
                    fault: e.to_string(),
                })?
                .to_wire());
        }
        let upload = self.store.read(|c| uploads::of_node(c, peer))?;
        let upload = upload
            .filter(|u| u.manifest_digest == id)
            .ok_or_else(unknown_upload)?;
        let m = manifest_of(&upload)?;
        let received = self.blobs.received(peer.as_str(), m.digest)?;
        if received < m.size {
            return Err(Refusal::new(
                Reason::Malformed,
                format!(
                    "{received} of {} bytes are here; upload the rest before committing",
                    m.size
                ),
            )
            .into());
        }
        match self.check_and_keep(peer, id, &m, &upload) {
            Err(Fault::Refused(refusal)) => {
                self.note_refusal(peer, m.round, &refusal)?;
                self.store.write(|tx| uploads::end(tx, peer))?;
                self.blobs.discard(peer.as_str(), m.digest)?;
                Err(refusal.into())
            }
            other => other,
        }
    }

    fn check_and_keep(
        &self,
        peer: &NodeId,
        id: Digest,
        m: &DeltaManifest,
        upload: &Upload,
    ) -> Result<wire::Envelope, Fault> {
        let node = self.node(peer)?;
        admit::open(self, peer, m, m.round)?;
        admit::counter(&node, m)?;
        // 1. Shapes, finiteness and norm, in blocks.
        let (base, trainable) = self.terms(m.round)?;
        let base = self.base(base)?;
        let file = self.blobs.uploaded(peer.as_str(), m.digest)?;
        let file = std::io::BufReader::with_capacity(1 << 16, file);
        let inspected = match inspect(file, &base.expected(trainable).table) {
            Ok(inspected) => inspected,
            Err(e) => {
                return Err(match e.refusal() {
                    Some(refusal) => refusal.into(),
                    None => Fault::from(Broken::File {
                        path: self.blobs.path(m.digest),
                        source: std::io::Error::other(e),
                    }),
                });
            }
        };
        // 2. The digest of the whole, as the file becomes a blob.
        self.blobs
            .promote(peer.as_str(), m.digest)
            .map_err(|e| match e {
                BlobError::Damaged { found, .. } => Fault::from(Refusal::new(
                    Reason::AlteredPayload,
                    format!(
                        "the delta has digest {found}, its manifest promises {}",
                        m.digest
                    ),
                )),
                e => e.into(),
            })?;
        // 3. Manifest, row and receipt; only then the answer.
        write_file(&self.dir.files().delta(m.round, peer), &upload.envelope)?;
        let accepted = self.now();
        let receipt = Signed::seal(
            Receipt {
                deployment: self.deployment.clone(),
                round: m.round,
                node_id: peer.clone(),
                manifest_digest: id,
                delta_digest: m.digest,
                counter: m.counter,
                accepted,
            },
            &self.release_key,
        );
        let kept = participants::Delta {
            manifest_digest: id,
            digest: m.digest,
            bytes: m.size,
            norm: inspected.norm_l2,
            counter: m.counter,
            sample_count: m.sample_count,
            samples_aside: m.samples_aside,
            before: m.before,
            after: m.after,
            training_seconds: m.training_seconds,
            accepted,
            receipt: receipt.signed().to_bytes(),
        };
        self.accept(m.round, peer, &kept, |tx| {
            nodes::accepted(tx, peer, m.counter)?;
            Ok(uploads::end(tx, peer)?)
        })?;
        Ok(receipt.signed().to_wire())
    }
}

impl House {
    /// Forgets a node's unfinished upload: row and bytes.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn drop_upload(&self, node: &NodeId) -> Result<(), Fault> {
        let Some(upload) = self.store.read(|c| uploads::of_node(c, node))? else {
            return Ok(());
        };
        let manifest = manifest_of(&upload)?;
        self.store.write(|tx| uploads::end(tx, node))?;
        Ok(self.blobs.discard(node.as_str(), manifest.digest)?)
    }
}

/// The manifest of a kept upload; its signature was checked before it was kept.
fn manifest_of(upload: &Upload) -> Result<DeltaManifest, StoreError> {
    use lamplight_proto::envelope::Payload as _;
    Signed::<DeltaManifest>::from_bytes(&upload.envelope)
        .and_then(|s| DeltaManifest::parse(&s.to_wire().payload))
        .map_err(|e| StoreError::Damaged {
            column: "uploads.envelope",
            fault: e.to_string(),
        })
}
