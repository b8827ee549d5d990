//! Files of equal records, plain or compressed with gzip, read as a stream.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::source::SourceError;

const BUFFER_BYTES: usize = 64 << 10;
/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A file of records, read from its beginning.
pub(super) struct Records {
    file: PathBuf,
    stream: Box<dyn Read>,
    /// Bytes of a record.
    size: usize,
    /// Records passed.
    passed: u64,
    remedy: &'static str,
}

impl Records {
    /// Opens a file and takes `header` bytes off its front.
    pub(super) fn open(
        file: &Path,
        remedy: &'static str,
        header: &mut [u8],
    ) -> Result<Self, SourceError> {
        let failed = |cause| SourceError::Read {
            file: file.to_owned(),
            cause,
            remedy,
        };
        let opened = File::open(file).map_err(failed)?;
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, opened);
        let zipped = plain.fill_buf().map_err(failed)?.starts_with(&GZIP);
        let mut stream: Box<dyn Read> = if zipped {
            Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                MultiGzDecoder::new(plain),
            ))
        } else {
            Box::new(plain)
        };
        stream.read_exact(header).map_err(failed)?;
        Ok(Self {
            file: file.to_owned(),
            stream,
            size: 0,
            passed: 0,
            remedy,
        })
    }

    /// Sets how long a record is.
    pub(super) fn of(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// The next record, or `None` at the end; `into` has a record's length.
    pub(super) fn next(&mut self, into: &mut Vec<u8>) -> Result<bool, SourceError> {
        into.clear();
        let read = (&mut self.stream)
            .take(self.size as u64)
            .read_to_end(into)
            .and_then(|n| match n {
                0 => Ok(false),
                n if n == self.size => Ok(true),
                n => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("record {} has {n} bytes of {}", self.passed, self.size),
                )),
            });
        let more = read.map_err(|cause| SourceError::Read {
            file: self.file.clone(),
            cause,
            remedy: self.remedy,
        })?;
        self.passed += u64::from(more);
        Ok(more)
    }
}
