//! Content-addressed files: a blob's name is its SHA-256.
//!
//! ```text
//!   bytes ──> tmp/DIGEST.OWNER.part ──fsync, check, rename, fsync directory──> ab/abcd…
//! ```
//!
//! A blob is there whole or not at all. What arrived of one before a crash stays in its part file
//! and is hashed again before more is added. Part files carry their owner's name, so that nobody
//! can disturb another's upload of the same bytes.

mod part;

pub use part::Part;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use lamplight_proto::ids::{Digest, Hasher};

use crate::dir::make_dir;

/// Bytes hashed at a time.
const BLOCK_BYTES: usize = 1 << 18;

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No room.
    #[error("the disk that holds {path} is full; free some space, nothing that was kept is lost")]
    Full {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{path} is damaged: its SHA-256 is {found}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Digest of what it holds.
        found: Digest,
    },
}

impl BlobError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full {
                path: path.to_owned(),
            },
            _ => Self::Io {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Whether trying again later, as things are, must fail the same way.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Full { .. } => false,
            Self::Damaged { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The blob directory.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = root.into();
        let tmp = root.join("tmp");
        make_dir(&tmp).map_err(BlobError::at(&tmp))?;
        Ok(Self { root })
    }

    /// Where a blob lies.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(&name)
    }

    fn part_path(&self, owner: &str, digest: Digest) -> PathBuf {
        self.root.join("tmp").join(format!("{digest}.{owner}.part"))
    }

    /// Bytes of a blob; `None` when it is not here.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(m) => Ok(Some(m.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(BlobError::at(&path)(e)),
        }
    }

    /// Reads a whole blob and checks it. For model files and samples, never for deltas.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(BlobError::at(&path))?;
        match Digest::of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(BlobError::Damaged { path, found }),
        }
    }

    /// Keeps bytes made here.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if self.size(digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let part = self.part_path("coordinator", digest);
        let mut file = File::create(&part).map_err(BlobError::at(&part))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(BlobError::at(&part))?;
        drop(file);
        self.rename(&part, digest)?;
        Ok(digest)
    }

    /// Makes a synced part file a blob.
    fn rename(&self, part: &Path, digest: Digest) -> Result<(), BlobError> {
        let path = self.path(digest);
        let parent = path.parent().unwrap_or(&self.root);
        make_dir(parent).map_err(BlobError::at(parent))?;
        fs::rename(part, &path).map_err(BlobError::at(&path))?;
        File::open(parent)
            .and_then(|d| d.sync_all())
            .map_err(BlobError::at(parent))
    }

    /// What is here of a blob that `owner` uploads: the whole once it is complete, else the bytes in
    /// the part file.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn received(&self, owner: &str, digest: Digest) -> Result<u64, BlobError> {
        if let Some(size) = self.size(digest)? {
            return Ok(size);
        }
        let part = self.part_path(owner, digest);
        match fs::metadata(&part) {
            Ok(m) => Ok(m.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(BlobError::at(&part)(e)),
        }
    }

    /// The file of a blob that `owner` uploaded: its part file while it is one, else the blob.
    ///
    /// # Errors
    /// [`BlobError`]; not found when neither is here.
    pub fn uploaded(&self, owner: &str, digest: Digest) -> Result<File, BlobError> {
        let part = self.part_path(owner, digest);
        match File::open(&part) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let path = self.path(digest);
                File::open(&path).map_err(BlobError::at(&path))
            }
            other => other.map_err(BlobError::at(&part)),
        }
    }

    /// Makes `owner`'s part file a blob. Done already when the blob is here.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] when the part file holds something else.
    pub fn promote(&self, owner: &str, digest: Digest) -> Result<(), BlobError> {
        let part = self.part_path(owner, digest);
        let file = match File::open(&part) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.size(digest)?.is_some() => {
                return Ok(());
            }
            other => other.map_err(BlobError::at(&part))?,
        };
        let found = digest_of(&file).map_err(BlobError::at(&part))?;
        if found != digest {
            return Err(BlobError::Damaged { path: part, found });
        }
        file.sync_all().map_err(BlobError::at(&part))?;
        self.rename(&part, digest)
    }

    /// Forgets what is here of an upload that is not complete.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn discard(&self, owner: &str, digest: Digest) -> Result<(), BlobError> {
        let part = self.part_path(owner, digest);
        match fs::remove_file(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(BlobError::at(&part)(e)),
            _ => Ok(()),
        }
    }

    /// Deletes the part files of owners and blobs that `keep` does not know.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn sweep(&self, keep: impl Fn(&str, Digest) -> bool) -> Result<usize, BlobError> {
        let tmp = self.root.join("tmp");
        let mut swept = 0;
        for entry in fs::read_dir(&tmp).map_err(BlobError::at(&tmp))? {
            let path = entry.map_err(BlobError::at(&tmp))?.path();
            let known = (path.file_name().and_then(|n| n.to_str()))
                .and_then(|n| n.strip_suffix(".part"))
                .and_then(|n| n.split_once('.'))
                .and_then(|(digest, owner)| Some((owner, digest.parse().ok()?)))
                .is_some_and(|(owner, digest)| keep(owner, digest));
            if !known {
                fs::remove_file(&path).map_err(BlobError::at(&path))?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// SHA-256 of a file from where it stands.
fn digest_of(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&block[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    #[test]
    fn what_is_put_is_read_back_and_lies_under_its_digest() {
        let (_dir, blobs) = blobs();
        let d = blobs.put(b"hello").unwrap();
        assert_eq!(blobs.put(b"hello").unwrap(), d);
        assert_eq!(blobs.read(d).unwrap(), b"hello");
        assert_eq!(blobs.size(d).unwrap(), Some(5));
        let name = d.to_string();
        assert!(blobs.path(d).ends_with(format!("{}/{name}", &name[..2])));
    }

    #[test]
    fn a_damaged_blob_is_named_and_not_believed() {
        let (_dir, blobs) = blobs();
        let d = blobs.put(b"hello").unwrap();
        fs::write(blobs.path(d), b"hellO").unwrap();
        let e = blobs.read(d).unwrap_err();
        assert!(
            matches!(e, BlobError::Damaged { .. }) && e.is_final(),
            "{e}"
        );
        assert!(e.to_string().contains(&d.to_string()));
    }

    #[test]
    fn a_part_that_holds_something_else_never_becomes_a_blob() {
        let (_dir, blobs) = blobs();
        let d = Digest::of(b"hello");
        fs::write(blobs.part_path("node-1", d), b"hellO").unwrap();
        assert!(matches!(
            blobs.promote("node-1", d),
            Err(BlobError::Damaged { .. })
        ));
        assert_eq!(blobs.size(d).unwrap(), None);
    }

    #[test]
    fn sweeping_leaves_only_parts_somebody_waits_for() {
        let (_dir, blobs) = blobs();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        for (owner, d) in [("node-1", a), ("node-1", b), ("node-2", a)] {
            fs::write(blobs.part_path(owner, d), b"x").unwrap();
        }
        fs::write(blobs.root.join("tmp/stray"), b"x").unwrap();
        let swept = blobs.sweep(|owner, d| owner == "node-1" && d == a).unwrap();
        assert_eq!(swept, 3);
        assert_eq!(blobs.received("node-1", a).unwrap(), 1);
        assert_eq!(blobs.received("node-1", b).unwrap(), 0);
    }

    #[test]
    fn a_full_disk_says_so() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let e = BlobError::at(Path::new("blobs/tmp/x"))(full);
        assert!(matches!(e, BlobError::Full { .. }) && !e.is_final());
        assert!(e.to_string().contains("full"), "{e}");
    }
}
