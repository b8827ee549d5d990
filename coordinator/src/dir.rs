//! Where everything lies: the coordinator's state directory.
//!
//! Files that prove a release are named by [`StateFiles`]; the rest here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lamplight_proto::ids::Label;

use crate::release::StateFiles;

/// The state directory. Names of files are told here and nowhere else.
#[derive(Debug, Clone)]
pub struct StateDir(StateFiles);

impl StateDir {
    /// The directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(StateFiles::new(path))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.root()
    }

    /// SQLite database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path().join("coordinator.db")
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority_certificate(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    /// The authority's private key, mode 0600.
    #[must_use]
    pub fn authority_key(&self) -> PathBuf {
        self.path().join("ca.key")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.path().join("tls.crt")
    }

    /// The server's private key, mode 0600.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.path().join("tls.key")
    }

    /// Ed25519 key that signs offers, receipts and releases, PKCS#8, mode 0600.
    #[must_use]
    pub fn release_key(&self) -> PathBuf {
        self.path().join("release.key")
    }

    /// Content-addressed files.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.path().join("blobs")
    }

    /// Manifests, node keys and blobs, as whoever verifies a release finds them.
    #[must_use]
    pub fn files(&self) -> &StateFiles {
        &self.0
    }

    /// An operator's identity.
    #[must_use]
    pub fn operator(&self, name: &Label) -> PathBuf {
        self.path().join("operators").join(name.as_str())
    }

    /// `host:port` that is listened on, written when the server is ready.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        self.path().join("address")
    }
}

/// Writes a file whole or not at all, making its directory first; durable before it returns.
///
/// # Errors
/// What the system says.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), crate::fault::Broken> {
    let io = |source: io::Error| crate::fault::Broken::File {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        make_dir(parent).map_err(io)?;
    }
    lamplight_proto::keys::write_aside(path, bytes, 0o644).map_err(io)
}

/// Makes a directory and its parents so that they survive a power cut.
///
/// # Errors
/// What the system says.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_dir(parent)?;
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        fs::File::open(parent)?.sync_all()?;
        return Ok(());
    }
    fs::create_dir_all(path)
}
