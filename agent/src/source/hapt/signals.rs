//! The compressed signals, read as a stream.

use std::io::{self, Read};
use std::path::Path;

use crate::source::{SourceError, stream};

/// Name of the file.
pub(super) const FILE: &str = "signals_i16le.bin.gz";
/// Bytes of one row: six little-endian `i16`.
const ROW_BYTES: usize = 12;
/// Rows decoded at a time; with the buffer before the decompressor all that is held beyond the
/// rows asked for.
const CHUNK_ROWS: usize = 4096;

/// The rows of each span `(first row, rows)`; spans ascend and do not overlap.
///
/// Everything between them is decompressed and forgotten, and nothing after the last is read.
pub(super) fn read_spans(
    dir: &Path,
    spans: &[(u64, usize)],
) -> Result<Vec<Vec<[i16; 6]>>, SourceError> {
    let path = dir.join(FILE);
    let stream = stream::open(&path).map_err(|cause| SourceError::Read {
        file: path.clone(),
        cause,
        remedy: "point the source at the har_hapt directory",
    })?;
    let mut stream = Counted { stream, bytes: 0 };
    let needed = spans.last().map_or(0, |&(first, rows)| first + rows as u64);
    let mut found = Vec::with_capacity(spans.len());
    for &(first, rows) in spans {
        match read_span(&mut stream, first, rows) {
            Ok(span) => found.push(span),
            Err(cause) => {
                return Err(SourceError::Signals {
                    file: path,
                    row: stream.bytes / ROW_BYTES as u64,
                    needed,
                    cause,
                });
            }
        }
    }
    Ok(found)
}

fn read_span(
    stream: &mut Counted<impl Read>,
    first: u64,
    rows: usize,
) -> io::Result<Vec<[i16; 6]>> {
    let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends");
    let skip = (first * ROW_BYTES as u64).saturating_sub(stream.bytes);
    if io::copy(&mut stream.by_ref().take(skip), &mut io::sink())? < skip {
        return Err(ended());
    }
    // Grown as rows arrive, so that a wrong table cannot ask for memory that no data fills.
    let mut span = Vec::new();
    let mut bytes = vec![0_u8; ROW_BYTES * CHUNK_ROWS.min(rows)];
    while span.len() < rows {
        let chunk = CHUNK_ROWS.min(rows - span.len());
        let bytes = &mut bytes[..ROW_BYTES * chunk];
        stream
            .read_exact(bytes)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::UnexpectedEof => ended(),
                _ => cause,
            })?;
        span.reserve_exact(chunk);
        span.extend(bytes.as_chunks::<ROW_BYTES>().0.iter().map(decode));
    }
    Ok(span)
}

fn decode(row: &[u8; ROW_BYTES]) -> [i16; 6] {
    let pair = |i: usize| i16::from_le_bytes([row[2 * i], row[2 * i + 1]]);
    [pair(0), pair(1), pair(2), pair(3), pair(4), pair(5)]
}

/// Counts what has come out.
struct Counted<R> {
    stream: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}
