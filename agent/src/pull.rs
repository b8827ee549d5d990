//! The base model comes here: in chunks, resumable, hashed before anybody parses it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lamplight_proto::{
    chunk::Receiving,
    ids::{Digest, Hasher},
    refusal::Refusal,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    dir::NodeDir,
    link::{Link, LinkError},
};

/// Why a model file is not here yet.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The link failed or refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A chunk that is out of order, too large, or of another file.
    #[error("the coordinator sent a chunk that does not belong: {0}")]
    Chunk(Refusal),
    /// The bytes are not those the offer names. They are gone; pulling again starts over.
    #[error("the bytes pulled have digest {got}, the signed offer names {want}")]
    Altered {
        /// Digest of the bytes.
        got: Digest,
        /// Digest in the offer.
        want: Digest,
    },
    /// The stream ended early; what came is kept.
    #[error("the stream ended after {got} of {want} bytes")]
    Short {
        /// Bytes here.
        got: u64,
        /// Bytes promised.
        want: u64,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Bytes read from disk at a time while hashing.
const READ_BYTES: usize = 1 << 18;

/// Digest of a file and its length; nothing for a file that is not there.
async fn digest_of(path: &Path) -> io::Result<Option<(Hasher, u64)>> {
    let mut file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut hasher = Hasher::new();
    let mut length = 0;
    let mut block = vec![0; READ_BYTES];
    loop {
        let n = file.read(&mut block).await?;
        if n == 0 {
            return Ok(Some((hasher, length)));
        }
        hasher.update(&block[..n]);
        length += n as u64;
    }
}

/// Brings a model file here unless it is here already; answers where it lies.
///
/// What comes is written to a part file and goes on from its end next time; only a file with the
/// right length and digest gets its final name.
///
/// # Errors
/// [`PullError`]; after [`PullError::Link`] and [`PullError::Short`] another call goes on.
pub async fn pull<L: Link>(
    link: &L,
    dir: &NodeDir,
    digest: Digest,
    size: u64,
) -> Result<PathBuf, PullError> {
    let (whole, part) = (dir.model(digest), dir.part(digest));
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| PullError::Io { path, source }
    };
    // 1. A file of an earlier round may serve; a disk may have altered it since.
    if let Some((hasher, length)) = digest_of(&whole).await.map_err(fail(&whole))? {
        if length == size && hasher.finish() == digest {
            touch(&whole).map_err(fail(&whole))?;
            return Ok(whole);
        }
        tracing::warn!(
            "{} has been damaged on disk; it is pulled again",
            whole.display()
        );
        tokio::fs::remove_file(&whole).await.map_err(fail(&whole))?;
    }
    // 2. Go on behind what an earlier pull left; more than the whole is nonsense.
    let (hasher, already) = match digest_of(&part).await.map_err(fail(&part))? {
        Some((hasher, length)) if length <= size => (hasher, length),
        Some(_) => {
            tokio::fs::remove_file(&part).await.map_err(fail(&part))?;
            (Hasher::new(), 0)
        }
        None => (Hasher::new(), 0),
    };
    let mut receiving = Receiving::resume(size, already, hasher);
    let mut file = tokio::fs::File::options()
        .create(true)
        .append(true)
        .open(&part)
        .await
        .map_err(fail(&part))?;
    if !receiving.is_complete() {
        let mut chunks = link.pull(digest, already).await?;
        while let Some(chunk) = chunks.recv().await {
            // What came before a fault stays in the part file.
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(e) => {
                    file.flush().await.map_err(fail(&part))?;
                    return Err(e.into());
                }
            };
            let data = receiving.take(chunk).map_err(PullError::Chunk)?;
            file.write_all(&data).await.map_err(fail(&part))?;
            if receiving.is_complete() {
                break;
            }
        }
    }
    file.flush().await.map_err(fail(&part))?;
    if !receiving.is_complete() {
        return Err(PullError::Short {
            got: receiving.received(),
            want: size,
        });
    }
    // 3. Only bytes with the signed digest get the name under which they are parsed.
    let got = receiving.finish();
    if got != digest {
        tokio::fs::remove_file(&part).await.map_err(fail(&part))?;
        return Err(PullError::Altered { got, want: digest });
    }
    file.sync_all().await.map_err(fail(&part))?;
    tokio::fs::rename(&part, &whole)
        .await
        .map_err(fail(&whole))?;
    if let Some(folder) = whole.parent() {
        let handle = tokio::fs::File::open(folder).await.map_err(fail(folder))?;
        handle.sync_all().await.map_err(fail(folder))?;
    }
    Ok(whole)
}

/// Marks a file as used now, so that tidying keeps it.
fn touch(path: &Path) -> io::Result<()> {
    fs::File::options()
        .append(true)
        .open(path)?
        .set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::twin::Twin;

    fn blob() -> Vec<u8> {
        (0..2_500_000_u32).map(|i| (i % 253) as u8).collect()
    }

    async fn setup() -> (tempfile::TempDir, NodeDir, Twin, Digest, u64) {
        let temp = tempfile::tempdir().expect("temp dir");
        let dir = NodeDir::create(temp.path()).expect("made");
        let twin = Twin::new("fleet");
        let digest = twin.keep(blob());
        (temp, dir, twin, digest, blob().len() as u64)
    }

    #[tokio::test]
    async fn a_file_arrives_whole_and_is_not_pulled_twice() {
        let (_temp, dir, twin, digest, size) = setup().await;
        let path = pull(&twin, &dir, digest, size).await.expect("pulled");
        assert_eq!(fs::read(&path).expect("there"), blob());
        assert!(!dir.part(digest).exists());
        let sent = twin.bytes_pulled();
        pull(&twin, &dir, digest, size).await.expect("here already");
        assert_eq!(twin.bytes_pulled(), sent);
    }

    #[tokio::test]
    async fn a_broken_pull_goes_on_where_it_stopped() {
        let (_temp, dir, twin, digest, size) = setup().await;
        twin.break_pull_after(1);
        let e = pull(&twin, &dir, digest, size).await.expect_err("broken");
        assert!(matches!(e, PullError::Link(LinkError::Fault { .. })), "{e}");
        assert_eq!(fs::metadata(dir.part(digest)).expect("kept").len(), 1 << 20);
        let path = pull(&twin, &dir, digest, size).await.expect("goes on");
        assert_eq!(fs::read(&path).expect("there"), blob());
        assert_eq!(twin.bytes_pulled(), size);
    }

    #[tokio::test]
    async fn altered_bytes_never_get_the_files_name() {
        let (_temp, dir, twin, digest, size) = setup().await;
        twin.corrupt_pulls(true);
        let e = pull(&twin, &dir, digest, size).await.expect_err("altered");
        assert!(matches!(e, PullError::Altered { want, .. } if want == digest));
        assert!(!dir.model(digest).exists() && !dir.part(digest).exists());
        twin.corrupt_pulls(false);
        pull(&twin, &dir, digest, size).await.expect("now good");
    }

    #[tokio::test]
    async fn a_part_file_altered_on_disk_is_noticed() {
        let (_temp, dir, twin, digest, size) = setup().await;
        fs::write(dir.part(digest), vec![9; 1000]).expect("written");
        let e = pull(&twin, &dir, digest, size).await.expect_err("altered");
        assert!(matches!(e, PullError::Altered { .. }));
        pull(&twin, &dir, digest, size).await.expect("starts over");
    }

    #[tokio::test]
    async fn a_file_damaged_on_disk_is_pulled_again() {
        let (_temp, dir, twin, digest, size) = setup().await;
        let path = pull(&twin, &dir, digest, size).await.expect("pulled");
        let mut bytes = blob();
        bytes[77] ^= 1;
        fs::write(&path, bytes).expect("damaged");
        pull(&twin, &dir, digest, size).await.expect("pulled again");
        assert_eq!(fs::read(&path).expect("there"), blob());
    }
}
