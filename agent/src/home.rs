//! A node's directory, opened: locked, with its folders and its store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    dir::NodeDir,
    lock::{DirLock, LockError},
    store::{Store, StoreError},
};

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It cannot be made or read.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another agent is there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An opened directory. While it lives, or anything made from it, no other agent can use it.
#[derive(Debug)]
pub struct Home {
    /// What lies where.
    pub dir: NodeDir,
    /// What the node remembers.
    pub store: Store,
    /// Shared with every thread that may still be writing.
    pub lock: Arc<DirLock>,
}

impl Home {
    /// Makes the directory where needed, locks it, and opens its store.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn open(root: &Path) -> Result<Self, HomeError> {
        let dir = NodeDir::create(root).map_err(|source| HomeError::Io {
            path: root.to_owned(),
            source,
        })?;
        let lock = Arc::new(DirLock::take(&dir.lock())?);
        let store = Store::open(&dir.database())?;
        Ok(Self { dir, store, lock })
    }
}
