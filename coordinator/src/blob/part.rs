//! A blob on its way in.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};

use lamplight_proto::{
    chunk::{CHUNK_BYTES, Receiving},
    ids::{Digest, Hasher},
    refusal::{Reason, Refusal},
    wire,
};

use super::{BlobError, Blobs};
use crate::fault::Fault;

/// Checks runs of [`CHUNK_BYTES`] against their promised digests as they pass.
struct ChunkCheck {
    digests: Vec<Digest>,
    hasher: Hasher,
    in_chunk: usize,
    chunk: usize,
}

impl ChunkCheck {
    fn new(digests: Vec<Digest>) -> Self {
        Self {
            digests,
            hasher: Hasher::new(),
            in_chunk: 0,
            chunk: 0,
        }
    }

    /// Takes in bytes; `total` is the length of the whole and `at` the position after them.
    fn update(&mut self, mut bytes: &[u8], mut at: u64, total: u64) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let n = bytes.len().min(CHUNK_BYTES - self.in_chunk);
            self.hasher.update(&bytes[..n]);
            self.in_chunk += n;
            at += n as u64;
            bytes = &bytes[n..];
            if self.in_chunk == CHUNK_BYTES || at == total {
                let found = std::mem::take(&mut self.hasher).finish();
                if self.digests.get(self.chunk) != Some(&found) {
                    return Err(Refusal::new(
                        Reason::AlteredPayload,
                        format!(
                            "chunk {} has digest {found}, the manifest promises {}; send it again",
                            self.chunk,
                            (self.digests.get(self.chunk))
                                .map_or_else(|| "no such chunk".to_owned(), Digest::to_string)
                        ),
                    ));
                }
                self.chunk += 1;
                self.in_chunk = 0;
            }
        }
        Ok(())
    }

    /// Bytes that are known to be good.
    fn checked(&self) -> u64 {
        (self.chunk * CHUNK_BYTES) as u64
    }
}

/// An open part file that takes chunks in order.
pub struct Part {
    file: File,
    path: PathBuf,
    receiving: Receiving,
    check: Option<ChunkCheck>,
    total: u64,
}

impl Part {
    /// Opens `owner`'s part file of a blob of `total` bytes, hashing what is there. With
    /// `chunk_digests`, whole chunks are compared as they pass, and what is there already is cut
    /// back to its last good chunk.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn resume(
        blobs: &Blobs,
        owner: &str,
        digest: Digest,
        total: u64,
        chunk_digests: Option<Vec<Digest>>,
    ) -> Result<Self, BlobError> {
        let path = blobs.part_path(owner, digest);
        let at = BlobError::at;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at(&path))?;
        let mut hasher = Hasher::new();
        let mut good = 0_u64;
        let mut check = chunk_digests.map(ChunkCheck::new);
        let mut block = vec![0; CHUNK_BYTES];
        loop {
            let n = read_block(&mut file, &mut block).map_err(at(&path))?;
            let end = good + n as u64;
            if n == 0 || end > total {
                break;
            }
            if let Some(check) = &mut check {
                // Only whole good chunks stay: what a crash tore is sent again.
                let is_whole = n == CHUNK_BYTES || end == total;
                if !is_whole || check.update(&block[..n], good, total).is_err() {
                    break;
                }
            }
            hasher.update(&block[..n]);
            good = end;
        }
        if let Some(check) = &mut check {
            // A chunk that failed left its counters behind; begin it anew.
            check.in_chunk = 0;
            check.hasher = Hasher::new();
        }
        file.set_len(good).map_err(at(&path))?;
        file.seek(SeekFrom::Start(good)).map_err(at(&path))?;
        Ok(Self {
            file,
            path,
            receiving: Receiving::resume(total, good, hasher),
            check,
            total,
        })
    }

    /// Bytes here so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.receiving.received()
    }

    /// Whether all bytes are here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.receiving.is_complete()
    }

    /// Writes the next chunk. After a refusal the part file ends with its last good chunk, and this
    /// value must be dropped.
    ///
    /// # Errors
    /// A refusal of the chunk, or [`BlobError`].
    pub fn take(&mut self, chunk: wire::Chunk) -> Result<(), Fault> {
        let at = self.receiving.received();
        let data = self.receiving.take(chunk)?;
        if let Some(check) = &mut self.check
            && let Err(refusal) = check.update(&data, at, self.total)
        {
            let good = check.checked().min(at);
            self.file.set_len(good).map_err(BlobError::at(&self.path))?;
            return Err(refusal.into());
        }
        Ok(self
            .file
            .write_all(&data)
            .map_err(BlobError::at(&self.path))?)
    }
}

fn read_block(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_proto::chunk::{chunk_digests, chunks};

    struct Case {
        _dir: tempfile::TempDir,
        blobs: Blobs,
        bytes: Vec<u8>,
        digest: Digest,
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2_500_000_u32).map(|i| (i % 253) as u8).collect();
        Case {
            blobs: Blobs::open(dir.path().join("blobs")).unwrap(),
            _dir: dir,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    impl Case {
        fn part(&self) -> Part {
            let digests = chunk_digests(&self.bytes);
            let total = self.bytes.len() as u64;
            Part::resume(&self.blobs, "n", self.digest, total, Some(digests)).unwrap()
        }

        fn chunks(&self, from: u64) -> impl Iterator<Item = wire::Chunk> + use<> {
            chunks(self.bytes.clone().into(), from)
        }
    }

    #[test]
    fn an_upload_resumes_after_its_last_whole_chunk() {
        let c = case();
        let mut part = c.part();
        part.take(c.chunks(0).next().unwrap()).unwrap();
        // A torn write after the first chunk.
        let mut torn = c.chunks(1 << 20).next().unwrap();
        torn.data.truncate(1000);
        part.take(torn).unwrap();
        drop(part);

        let mut part = c.part();
        assert_eq!(part.received(), 1 << 20);
        for chunk in c.chunks(part.received()) {
            part.take(chunk).unwrap();
        }
        assert!(part.is_complete());
        drop(part);
        c.blobs.promote("n", c.digest).unwrap();
        assert_eq!(c.blobs.read(c.digest).unwrap(), c.bytes);
    }

    #[test]
    fn an_altered_chunk_is_refused_at_once_and_leaves_the_good_ones() {
        let c = case();
        let mut part = c.part();
        let mut all = c.chunks(0);
        part.take(all.next().unwrap()).unwrap();
        let mut bad = all.next().unwrap();
        let mut data = bad.data.to_vec();
        data[7] ^= 1;
        bad.data = data.into();
        let Err(Fault::Refused(r)) = part.take(bad) else {
            panic!("accepted");
        };
        assert_eq!(r.reason, Reason::AlteredPayload);
        drop(part);
        assert_eq!(c.part().received(), 1 << 20);
    }

    #[test]
    fn a_part_altered_on_disk_is_cut_back_to_what_is_good() {
        let c = case();
        let mut part = c.part();
        for chunk in c.chunks(0) {
            part.take(chunk).unwrap();
        }
        let path = part.path.clone();
        drop(part);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[(1 << 20) + 5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(c.part().received(), 1 << 20);
    }

    #[test]
    fn small_odd_chunks_pass_the_check_too() {
        let c = case();
        let mut part = c.part();
        let total = c.bytes.len() as u64;
        for (i, run) in c.bytes.chunks(333_333).enumerate() {
            part.take(wire::Chunk {
                offset: i as u64 * 333_333,
                data: run.to_vec().into(),
                total,
            })
            .unwrap();
        }
        assert!(part.is_complete());
    }
}
