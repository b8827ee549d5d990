//! Files as streams, plain or compressed with gzip, that cost no more than they are worth.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// What is read of a file at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Most bytes that come out per byte that goes in. Photographs and sensor windows come to 2 or 5, drawings
/// to 30; deflate itself reaches 1032, but only with a file made to fill memory.
const MAX_EXPANSION: u64 = 100;
/// What may come out of a gzip file however small it is.
const FREE_BYTES: u64 = 64 << 10;

/// A file's bytes, unpacked where it is compressed.
///
/// # Errors
/// Of the system, and of reading: a gzip file that is none, or that unpacks to over 100 times its size.
pub(super) fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    unpack(File::open(file)?)
}

/// The same of any stream.
pub(super) fn unpack<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut plain = BufReader::with_capacity(BUFFER_BYTES, stream);
    // A stream may begin with a short read.
    while plain.buffer().is_empty() {
        match plain.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => break,
        }
    }
    if !plain.buffer().starts_with(&GZIP) {
        return Ok(Box::new(plain));
    }
    let counted = Counted {
        stream: plain,
        bytes: 0,
    };
    let unpacked = Unpacked {
        stream: MultiGzDecoder::new(counted),
        bytes: 0,
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)))
}

/// Counts what is taken out.
struct Counted<R> {
    stream: BufReader<R>,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.bytes += n as u64;
        self.stream.consume(n);
    }
}

/// A gzip stream that is cut off where it claims to hold more than an honest one.
struct Unpacked<R> {
    stream: MultiGzDecoder<Counted<R>>,
    bytes: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.bytes += n as u64;
        let packed = self.stream.get_ref().bytes;
        if self.bytes > FREE_BYTES.max(packed.saturating_mul(MAX_EXPANSION)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{packed} compressed bytes unpack to {} and more, over {MAX_EXPANSION} times as many",
                    self.bytes
                ),
            ));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::best());
        gz.write_all(bytes).expect("memory");
        gz.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        unpack(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn plain_and_compressed_bytes_come_out_the_same() {
        let bytes: Vec<u8> = (0..300_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
        assert_eq!(read(&bytes).expect("plain"), bytes);
        assert_eq!(read(&gzip(&bytes)).expect("packed"), bytes);
        // Several members are one stream, as `cat a.gz b.gz` makes them.
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&two).expect("packed"), b"one two");
        assert_eq!(read(b"").expect("empty"), b"");
        assert_eq!(read(&[0x1f]).expect("one byte"), [0x1f]);
    }

    #[test]
    fn a_bomb_is_cut_off_and_an_empty_page_is_not() {
        let page = vec![0; FREE_BYTES as usize];
        assert_eq!(read(&gzip(&page)).expect("an empty page"), page);
        let bomb = gzip(&vec![0; 50 << 20]);
        let e = read(&bomb).expect_err("a bomb").to_string();
        assert!(e.contains("over 100 times"), "{e}");
    }
}
