//! What a node reads beside its data: the line that names them, the checkpoint of a task.

use lamplight_agent::learn::checkpoint::{self, Header};
use lamplight_agent::source::SourceSpec;
use lamplight_proto::ids::{Digest, Lease};

use crate::memory::within;
use crate::{Answer, parts};

/// Bytes of memory per byte of text.
const TEXT: u64 = 32;

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
