//! What a node reads: the line that names its data, recordings, the checkpoint of a task.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lamplight_agent::learn::checkpoint::{self, Header};
use lamplight_agent::source::{DataSpec, HaptSpec, Keep, SourceError, SourceSpec, Split, hapt};
use lamplight_models::samples::Samples;
use lamplight_proto::ids::{Digest, Lease};

use crate::memory::within;
use crate::{Answer, parts};

/// Bytes of memory per byte of text.
const TEXT: u64 = 32;
/// Bytes of memory per byte of a table: a line of a few characters becomes a row with its places.
const TABLE: u64 = 128;

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// See [`crate::TARGETS`].
pub fn source_spec(input: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(input) else {
        return Answer::Refused;
    };
    let read = within(input.len(), TEXT, || text.parse::<SourceSpec>());
    let answer = Answer::of(&read);
    if let Ok(spec) = read {
        assert_eq!(spec.to_string().parse(), Ok(spec), "from {text:?}");
    }
    answer
}

/// See [`crate::TARGETS`].
///
/// The input's files are `experiments.csv`, `labels.csv`, `draws.csv` and the signals. Signals that
/// are not compressed yet are compressed here, so that inputs may change the rows themselves.
pub fn hapt(input: &[u8]) -> Answer {
    let [experiments, labels, draws, signals] = parts::split(input);
    let zipped = zipped(signals);
    let dir = parts::directory(&[
        ("experiments.csv", experiments),
        ("labels.csv", labels),
        ("draws.csv", draws),
        ("signals_i16le.bin.gz", &zipped),
    ]);
    let drawn = within(input.len(), TABLE, || hapt::draws(dir.path(), 1));
    let spec = SourceSpec {
        data: DataSpec::Hapt(HaptSpec {
            dir: dir.path().to_string_lossy().into_owned(),
            subjects: vec![1, 2],
        }),
        keep: Keep {
            classes: None,
            split: Split::InTime,
        },
    };
    let read = within(input.len(), TABLE, || {
        let source = spec.open()?;
        Ok::<_, SourceError>([source.train()?, source.held_out()?])
    });
    if let Ok(parts) = &read {
        parts.iter().for_each(valid);
    }
    if drawn.is_err() {
        return Answer::Refused;
    }
    Answer::of(&read)
}

/// Samples of any source keep the promises of their type.
pub(crate) fn valid(samples: &Samples) {
    if !samples.is_empty() {
        let bytes = samples.to_bytes().expect("a source's samples are valid");
        assert_eq!(Samples::from_bytes(&bytes).as_ref(), Ok(samples));
    }
}

/// Compresses what is not compressed.
pub(crate) fn zipped(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(&GZIP) {
        return bytes.to_vec();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// The task whose checkpoints are read.
pub(crate) fn task_header() -> Header {
    let digest = Digest::of(b"base");
    Header::new(Lease([3; 16]), digest, Digest::of(b"samples"), None)
}

/// See [`crate::TARGETS`].
pub fn task(input: &[u8]) -> Answer {
    let whole = [input, Digest::of(input).as_bytes()].concat();
    let dir = parts::directory(&[("checkpoint", &whole)]);
    let path = dir.path().join("checkpoint");
    let read = within(input.len(), TEXT, || {
        checkpoint::read(&path, &task_header())
    });
    let answer = Answer::of(&read);
    if let Ok(read) = read {
        let (header, trainer) = read.expect("it is there");
        checkpoint::write(&path, &header, &trainer).expect("it can be written");
        let again = checkpoint::read(&path, &task_header());
        let again = again.expect("what is written is read");
        assert_eq!(again, Some((header, trainer)));
    }
    answer
}
