//! One agent per directory.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error("another agent is using {0}; stop it first, or give this one another --dir")]
    Taken(PathBuf),
    /// The lock file cannot be made or locked.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Held while an agent uses its directory. The system lets go when the process ends, however it
/// ends, so no stale lock ever needs removing.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock at `path`.
    ///
    /// # Errors
    /// [`LockError::Taken`] when another agent has it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(LockError::Taken(path.parent().unwrap_or(path).to_owned()))
            }
            Err(TryLockError::Error(e)) => Err(io(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_never_share_a_directory() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("lock");
        let held = DirLock::take(&path).expect("free");
        let e = DirLock::take(&path).expect_err("taken");
        assert!(e.to_string().contains("another agent is using"), "{e}");
        drop(held);
        DirLock::take(&path).expect("free again");
    }
}
