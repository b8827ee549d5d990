//! Training under way, as a file: the trainer's own bytes with what the task knows beside them.
//!
//! ```text
//! "LAMPTASK" | u32 length of the header, little-endian | header (JSON) | trainer's bytes | SHA-256
//! ```
//!
//! The digest covers all before it: a file that a dying disk has altered is noticed, and the task
//! starts over instead of going on from nonsense.

use std::{fs, io, path::Path};

use lamplight_proto::{
    delta::Metrics,
    ids::{Digest, Lease},
    keys::write_aside,
};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"LAMPTASK";
const DIGEST_BYTES: usize = 32;

/// What a task knows beside the trainer's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The task.
    pub lease: String,
    /// The base it trains from.
    pub base_digest: Digest,
    /// The samples it trains on.
    pub samples_digest: Digest,
    /// Wall time spent so far.
    pub training_seconds: f64,
    /// Energy spent so far, joules; 0 while nothing bounds it.
    #[serde(default)]
    pub energy_joules: f64,
    /// On the held-out samples, before the first step; absent when there are none.
    pub before: Option<Metrics>,
}

impl Header {
    /// A header for this task.
    #[must_use]
    pub fn new(
        lease: Lease,
        base_digest: Digest,
        samples_digest: Digest,
        before: Option<Metrics>,
    ) -> Self {
        Self {
            lease: hex::encode(lease.0),
            base_digest,
            samples_digest,
            training_seconds: 0.0,
            energy_joules: 0.0,
            before,
        }
    }

    /// Whether a saved header is of this very task.
    fn same_task(&self, saved: &Self) -> Result<(), Unusable> {
        let fields = [
            ("lease", saved.lease.clone(), self.lease.clone()),
            (
                "base",
                saved.base_digest.to_string(),
                self.base_digest.to_string(),
            ),
            (
                "samples",
                saved.samples_digest.to_string(),
                self.samples_digest.to_string(),
            ),
        ];
        match fields.into_iter().find(|(_, got, want)| got != want) {
            None => Ok(()),
            Some((field, got, want)) => Err(Unusable::OtherTask { field, got, want }),
        }
    }
}

/// Why a checkpoint is of no use. The task then starts over.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no checkpoint, or only a part of one.
    #[error("it is no checkpoint: {0}")]
    Form(String),
    /// Its bytes are not those that were written.
    #[error("its bytes have changed since they were written")]
    Altered,
    /// It belongs to other work.
    #[error("its {field} is {got}, the task's is {want}")]
    OtherTask {
        /// Which field.
        field: &'static str,
        /// In the file.
        got: String,
        /// In the task.
        want: String,
    },
}

/// Writes a checkpoint aside and renames it into place.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, header: &Header, trainer: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(header)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + json.len() + trainer.len() + DIGEST_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(trainer);
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    write_aside(path, &bytes, 0o600)
}

/// Reads the checkpoint of a task: its header and the trainer's bytes. `None` when there is none.
///
/// # Errors
/// [`Unusable`], saying why the task has to start over.
pub fn read(path: &Path, task: &Header) -> Result<Option<(Header, Vec<u8>)>, Unusable> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let form = |fault: &str| Unusable::Form(fault.to_owned());
    let body = bytes
        .len()
        .checked_sub(DIGEST_BYTES)
        .ok_or_else(|| form("it is too short"))?;
    if Digest::of(&bytes[..body]).as_bytes() != &bytes[body..] {
        return Err(Unusable::Altered);
    }
    bytes.truncate(body);
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| form("it begins with other bytes"))?;
    let (length, rest) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| form("it has no header"))?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (json, trainer) = rest
        .split_at_checked(length)
        .ok_or_else(|| form("its header is cut off"))?;
    let header: Header = serde_json::from_slice(json).map_err(|e| Unusable::Form(e.to_string()))?;
    task.same_task(&header)?;
    Ok(Some((header, trainer.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(
            Lease([3; 16]),
            Digest::of(b"base"),
            Digest::of(b"samples"),
            Some(Metrics {
                samples: 9,
                loss: 0.5,
                accuracy: 0.75,
            }),
        )
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("c");
        assert!(
            read(&path, &header())
                .expect("absent is no fault")
                .is_none()
        );
        let mut h = header();
        h.training_seconds = 12.5;
        write(&path, &h, b"state").expect("written");
        let (back, trainer) = read(&path, &header()).expect("good").expect("there");
        assert_eq!((back, trainer.as_slice()), (h, b"state".as_slice()));
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("c");
        write(&path, &header(), b"state").expect("written");
        let whole = fs::read(&path).expect("there");
        for i in 0..whole.len() {
            let mut bad = whole.clone();
            bad[i] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert!(read(&path, &header()).is_err(), "byte {i}");
            fs::write(&path, &whole[..i]).expect("written");
            assert!(read(&path, &header()).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn a_checkpoint_of_other_work_is_not_used() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("c");
        write(&path, &header(), b"state").expect("written");
        let mut other = header();
        other.samples_digest = Digest::of(b"new samples");
        assert!(matches!(
            read(&path, &other),
            Err(Unusable::OtherTask {
                field: "samples",
                ..
            })
        ));
    }
}
