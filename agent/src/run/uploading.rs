//! Uploading: the same signed bytes, until there is a receipt.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use lamplight_proto::{
    cause::{Disk, Told},
    chunk::CHUNK_BYTES,
    delta::Receipt,
    envelope::Verified,
    ids::{Digest, Hasher},
    refusal::{Reason, Refusal},
    wire,
};
use tokio::sync::mpsc;

use super::{Agent, AgentError, not_for_good, why::disk};
use crate::{
    link::{CHUNKS_IN_FLIGHT, Link, LinkError},
    node::{Event, Uploading, Why},
};

/// Times a transfer is begun anew after an answer that makes no sense, before the task is given up.
const MOST_RESTARTS: u32 = 3;

/// Why there is no receipt yet.
enum NoReceipt {
    /// Refused when announced: for good.
    AtBegin(Refusal),
    /// Refused on the way or at the end.
    Later(Refusal),
    /// The link failed.
    Link(LinkError),
    /// The receipt is not believed.
    Unbelievable(String),
}

impl From<LinkError> for NoReceipt {
    fn from(e: LinkError) -> Self {
        match e {
            LinkError::Refused(r) => Self::Later(r),
            other => Self::Link(other),
        }
    }
}

impl<L: Link> Agent<L> {
    /// Sends the delta until the coordinator signs for it or refuses it for good.
    pub(super) async fn uploading(&mut self, upload: &Uploading) -> Result<Event, AgentError> {
        let m = upload.manifest();
        let path = self.dir.delta(m.lease);
        if let Err(why) = intact(path.clone(), m.digest).await {
            return Ok(Event::Failed(why));
        }
        let mut restarts = 0;
        let mut furthest = 0;
        loop {
            if let Some(why) = self.expired(upload.offer()) {
                // A delta that arrived in time may already be signed for; only the coordinator knows.
                tracing::warn!("{why}; asking the coordinator all the same");
            }
            self.tell(upload.offer()).await?;
            let before = furthest;
            let e = match self.send(upload, &path, &mut furthest).await {
                Ok(receipt) => {
                    self.backoff.reset();
                    return Ok(Event::Accepted(Box::new(receipt)));
                }
                Err(e) => e,
            };
            if furthest > before {
                self.backoff.reset();
            }
            let again = match e {
                NoReceipt::Link(e) => {
                    self.wait_out(&e).await;
                    continue;
                }
                NoReceipt::AtBegin(r) | NoReceipt::Later(r) if r.reason == Reason::RoundClosed => {
                    return Ok(Event::Unwanted(r.message));
                }
                NoReceipt::AtBegin(r) => {
                    not_for_good(&r)?;
                    return Ok(Event::Refused(r));
                }
                NoReceipt::Later(r) => {
                    not_for_good(&r)?;
                    // Bytes lost or altered on the way, or an upload forgotten: worth another try.
                    let passing = matches!(
                        r.reason,
                        Reason::AlteredPayload
                            | Reason::Malformed
                            | Reason::NotFound
                            | Reason::Conflict
                    );
                    if !passing || restarts >= MOST_RESTARTS {
                        return Ok(Event::Refused(r));
                    }
                    r.to_string()
                }
                NoReceipt::Unbelievable(why) => {
                    if restarts >= MOST_RESTARTS {
                        return Ok(Event::Failed(Why::new(Told::Other, why)));
                    }
                    why
                }
            };
            restarts += 1;
            self.wait_out(&LinkError::fault("upload", again)).await;
        }
    }

    /// One try: announce, send what is missing, ask for the receipt, believe it.
    async fn send(
        &self,
        upload: &Uploading,
        path: &std::path::Path,
        furthest: &mut u64,
    ) -> Result<Verified<Receipt>, NoReceipt> {
        let m = upload.manifest();
        let id = m.signed().payload_digest();
        let received = match self.link.begin(m.signed()).await {
            Err(LinkError::Refused(r)) => return Err(NoReceipt::AtBegin(r)),
            other => other?,
        };
        *furthest = received.max(*furthest);
        if received < m.size {
            let chunks = read_chunks(path.to_owned(), received, m.size);
            let received = self.link.upload(id, chunks).await?;
            *furthest = received.max(*furthest);
            if received != m.size {
                let fault = format!("{received} of {} bytes arrived", m.size);
                return Err(LinkError::fault("upload", fault).into());
            }
        }
        let receipt = self
            .link
            .commit(id)
            .await?
            .verify(&self.keys.release)
            .map_err(|e| NoReceipt::Unbelievable(format!("the receipt is not believed: {e}")))?;
        upload
            .accepts(&receipt)
            .map_err(|e| NoReceipt::Unbelievable(e.to_string()))?;
        Ok(receipt)
    }
}

/// Whether the delta on disk is still the one that was signed.
async fn intact(path: PathBuf, want: Digest) -> Result<(), Why> {
    let shown = path.display().to_string();
    let hashed = tokio::task::spawn_blocking(move || -> io::Result<Digest> {
        let mut file = fs::File::open(&path)?;
        let mut hasher = Hasher::new();
        let mut block = vec![0; CHUNK_BYTES];
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&block[..n]);
        }
    });
    match hashed.await {
        Ok(Ok(got)) if got == want => Ok(()),
        Ok(Ok(got)) => Err(Why::new(
            Told::Storage(Disk::Damaged),
            format!("{shown} was damaged on disk: its digest is {got}, {want} was signed"),
        )),
        Ok(Err(e)) => Err(disk(&e, format!("{shown}: {e}"))),
        Err(e) => Err(Why::new(
            Told::Storage(Disk::Failed),
            format!("{shown}: the reading thread broke: {e}"),
        )),
    }
}

/// The file from `offset` on, in chunks that end where the manifest's chunks end. A read error ends
/// the chunks early, which the coordinator's count shows.
fn read_chunks(path: PathBuf, offset: u64, total: u64) -> mpsc::Receiver<wire::Chunk> {
    let (tx, rx) = mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        let read = || -> io::Result<()> {
            let mut file = fs::File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let chunk = CHUNK_BYTES as u64;
            let mut at = offset;
            while at < total {
                let end = (at / chunk + 1).saturating_mul(chunk).min(total);
                // At most a chunk, which fits.
                let mut data = vec![0; usize::try_from(end - at).unwrap_or(CHUNK_BYTES)];
                file.read_exact(&mut data)?;
                let sent = tx.blocking_send(wire::Chunk {
                    offset: at,
                    data: data.into(),
                    total,
                });
                if sent.is_err() {
                    return Ok(());
                }
                at = end;
            }
            Ok(())
        };
        if let Err(e) = read() {
            tracing::warn!("{}: {e}", path.display());
        }
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_end_on_the_manifests_boundaries_from_any_offset() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("delta");
        let bytes: Vec<u8> = (0..2_500_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).expect("written");
        for offset in [0, 5, 1 << 20, (1 << 20) + 7, 2_499_999] {
            let mut chunks = read_chunks(path.clone(), offset, bytes.len() as u64);
            let mut at = offset;
            while let Some(chunk) = chunks.recv().await {
                assert_eq!(chunk.offset, at);
                let from = usize::try_from(at).expect("small");
                assert_eq!(chunk.data, bytes[from..from + chunk.data.len()]);
                at += chunk.data.len() as u64;
                assert!(at == bytes.len() as u64 || at % (1 << 20) == 0);
            }
            assert_eq!(at, bytes.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_delta_damaged_on_disk_is_not_sent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("delta");
        fs::write(&path, b"delta").expect("written");
        assert_eq!(intact(path.clone(), Digest::of(b"delta")).await, Ok(()));
        let e = intact(path, Digest::of(b"other"))
            .await
            .expect_err("damaged");
        assert!(e.full.contains("damaged on disk"), "{}", e.full);
        assert_eq!(e.told, Told::Storage(Disk::Damaged));
    }
}
