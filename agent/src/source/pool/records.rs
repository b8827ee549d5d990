//! Streams of equal records.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::source::{SourceError, stream};

/// A stream of records, read from its beginning.
pub(super) struct Records<'a> {
    file: PathBuf,
    stream: Box<dyn Read + 'a>,
    /// Bytes of a record.
    size: usize,
    /// Records passed.
    passed: u64,
    remedy: &'static str,
}

impl<'a> Records<'a> {
    /// Opens a file and takes `header` bytes off its front.
    pub(super) fn open(
        file: &Path,
        remedy: &'static str,
        header: &mut [u8],
    ) -> Result<Self, SourceError> {
        Self::begin(stream::open(file), file, remedy, header)
    }

    /// The same of any stream; errors call it `file`.
    pub(super) fn over(
        stream: impl Read + 'a,
        file: &Path,
        remedy: &'static str,
        header: &mut [u8],
    ) -> Result<Self, SourceError> {
        Self::begin(stream::unpack(stream), file, remedy, header)
    }

    fn begin(
        opened: io::Result<Box<dyn Read + 'a>>,
        file: &Path,
        remedy: &'static str,
        header: &mut [u8],
    ) -> Result<Self, SourceError> {
        let started = opened.and_then(|mut stream| {
            stream.read_exact(header)?;
            Ok(stream)
        });
        let stream = started.map_err(|cause| SourceError::Read {
            file: file.to_owned(),
            cause,
            remedy,
        })?;
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

    /// Records passed.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Reads the next record; `false` at the end. `into` then has a record's length, and only memory
    /// that the stream has filled.
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

    /// Appends the values of the records wanted, each made by `value`, to `x`; `wanted` counts records
    /// of all streams, of which this one's first is `from`, and ascends.
    pub(super) fn pick(
        &mut self,
        from: usize,
        wanted: &mut std::iter::Peekable<impl Iterator<Item = usize>>,
        x: &mut Vec<f32>,
        value: impl Fn(&[u8], &mut Vec<f32>),
        end: usize,
    ) -> Result<(), SourceError> {
        let mut record = Vec::new();
        let mut place = from;
        while wanted.peek().is_some_and(|&next| next < end) && self.next(&mut record)? {
            if wanted.next_if_eq(&place).is_some() {
                value(&record, x);
            }
            place += 1;
        }
        Ok(())
    }
}
