//! Bytes in chunks of at most 1 MiB, in order, resumable at an offset.

use prost::bytes::Bytes;

use crate::{
    ids::{Digest, Hasher},
    refusal::{Reason, Refusal},
    wire,
};

/// Largest run of bytes in one message: far below gRPC's usual 4 MiB ceiling, so that no model is
/// ever too large to send.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The chunks of `blob` from `offset` on.
pub fn chunks(blob: Bytes, offset: u64) -> impl Iterator<Item = wire::Chunk> + Send + 'static {
    let total = blob.len() as u64;
    let mut at = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(blob.len());
    std::iter::from_fn(move || {
        if at >= blob.len() {
            return None;
        }
        let end = blob.len().min(at + CHUNK_BYTES);
        let chunk = wire::Chunk {
            offset: at as u64,
            data: blob.slice(at..end),
            total,
        };
        at = end;
        Some(chunk)
    })
}

/// Digest of each chunk of a blob, in order.
#[must_use]
pub fn chunk_digests(blob: &[u8]) -> Vec<Digest> {
    blob.chunks(CHUNK_BYTES).map(Digest::of).collect()
}

/// Checks that chunks follow one another and end at the promised length; hashes as they pass.
pub struct Receiving {
    hasher: Hasher,
    received: u64,
    total: u64,
}

impl Receiving {
    /// Expects `total` bytes; `already` of them are here and have gone into `hasher`.
    #[must_use]
    pub fn resume(total: u64, already: u64, hasher: Hasher) -> Self {
        Self {
            hasher,
            received: already,
            total,
        }
    }

    /// Bytes here so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether all bytes are here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.received == self.total
    }

    /// Takes the next chunk and answers its data.
    ///
    /// # Errors
    /// A [`Refusal`] when the chunk is too large, out of order, or runs past the end.
    pub fn take(&mut self, chunk: wire::Chunk) -> Result<Bytes, Refusal> {
        let len = chunk.data.len();
        if len > CHUNK_BYTES {
            return Err(Refusal::new(
                Reason::Oversize,
                format!("a chunk has {len} bytes, at most {CHUNK_BYTES} are taken"),
            ));
        }
        if len == 0 {
            return Err(Refusal::new(Reason::Malformed, "a chunk is empty"));
        }
        if chunk.total != self.total {
            return Err(Refusal::new(
                Reason::Malformed,
                format!(
                    "a chunk says the blob has {} bytes, {} were promised",
                    chunk.total, self.total
                ),
            ));
        }
        if chunk.offset != self.received {
            return Err(Refusal::new(
                Reason::Malformed,
                format!(
                    "a chunk is for offset {}, but {} bytes are here; go on from there",
                    chunk.offset, self.received
                ),
            ));
        }
        if self.total - self.received < len as u64 {
            return Err(Refusal::new(
                Reason::Oversize,
                format!("a chunk runs past the promised {} bytes", self.total),
            ));
        }
        self.hasher.update(&chunk.data);
        self.received += len as u64;
        Ok(chunk.data)
    }

    /// The digest of the whole blob.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(from: u64, blob: &Bytes) -> Result<Digest, Refusal> {
        let mut hasher = Hasher::new();
        let already = usize::try_from(from).expect("small");
        hasher.update(&blob[..already]);
        let mut r = Receiving::resume(blob.len() as u64, from, hasher);
        for c in chunks(blob.clone(), from) {
            assert!(c.data.len() <= CHUNK_BYTES);
            r.take(c)?;
        }
        assert!(r.is_complete());
        Ok(r.finish())
    }

    #[test]
    fn a_blob_arrives_whole_from_any_offset() {
        let blob = Bytes::from(
            (0..3_000_000_u32)
                .map(|i| (i % 251) as u8)
                .collect::<Vec<_>>(),
        );
        for from in [0, 1, 1 << 20, 2_999_999, 3_000_000] {
            assert_eq!(take_all(from, &blob), Ok(Digest::of(&blob)), "from {from}");
        }
    }

    #[test]
    fn gaps_overruns_and_giants_are_refused() {
        let chunk = |offset, len, total| wire::Chunk {
            offset,
            data: vec![0; len].into(),
            total,
        };
        let mut r = Receiving::resume(10, 0, Hasher::new());
        let reason = |r: Result<Bytes, Refusal>| r.expect_err("refused").reason;
        assert_eq!(reason(r.take(chunk(1, 5, 10))), Reason::Malformed);
        assert_eq!(reason(r.take(chunk(0, 5, 11))), Reason::Malformed);
        assert_eq!(reason(r.take(chunk(0, 0, 10))), Reason::Malformed);
        assert_eq!(reason(r.take(chunk(0, 11, 10))), Reason::Oversize);
        let giant = chunk(0, CHUNK_BYTES + 1, 10);
        assert_eq!(reason(r.take(giant)), Reason::Oversize);
        assert!(r.take(chunk(0, 10, 10)).is_ok());
        assert!(r.is_complete());
    }
}
