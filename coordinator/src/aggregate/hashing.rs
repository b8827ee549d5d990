//! Hashes a file while somebody else reads it.

use std::io::{self, Read, Seek, SeekFrom};

use lamplight_proto::ids::{Digest, Hasher};

/// Passes reads and seeks on, and hashes each byte the first time it goes by.
///
/// The digest is the file's when its reader has gone once from the first byte to the last without
/// a gap, as the delta reader does.
pub(super) struct Hashing<R> {
    source: R,
    hasher: Hasher,
    at: u64,
    hashed: u64,
}

impl<R: Read + Seek> Hashing<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            hasher: Hasher::new(),
            at: 0,
            hashed: 0,
        }
    }

    /// The digest of the whole file; what the reader left is read now.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        self.seek(SeekFrom::Start(self.hashed))?;
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        let end = self.at + n as u64;
        if (self.at..end).contains(&self.hashed) {
            // The difference is below `n`, which is a `usize`.
            self.hasher
                .update(&buf[(self.hashed - self.at) as usize..n]);
            self.hashed = end;
        }
        self.at = end;
        Ok(n)
    }
}

impl<R: Seek> Seek for Hashing<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.source.seek(to)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    proptest! {
        #[test]
        fn however_it_is_read_the_digest_is_the_files(
            file in prop::collection::vec(any::<u8>(), 0..200),
            steps in prop::collection::vec((0_u64..220, 0_usize..90), 0..12),
        ) {
            let mut hashing = Hashing::new(Cursor::new(file.clone()));
            for (to, len) in steps {
                hashing.seek(SeekFrom::Start(to)).unwrap();
                let mut buf = vec![0; len];
                let n = hashing.read(&mut buf).unwrap();
                let from = file.len().min(to as usize);
                prop_assert_eq!(&buf[..n], &file[from..from + n]);
            }
            prop_assert_eq!(hashing.finish().unwrap(), Digest::of(&file));
        }
    }
}
