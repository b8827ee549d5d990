//! Ed25519 signing keys, and secret files that only their owner may read.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};

use crate::envelope::KeyId;

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("the system's random source failed")]
    Random,
    /// The file is no PKCS#8 Ed25519 key.
    #[error("{path} is not a PKCS#8 Ed25519 private key: {fault}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        fault: String,
    },
    /// Others may read the file.
    #[error("{path} has mode {mode:o}; others may read it; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A private Ed25519 key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

impl SigningKey {
    fn from_pkcs8(bytes: &[u8]) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|e| e.to_string())?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { pair, public })
    }

    /// A fresh key that lives in memory only.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
        Self::from_pkcs8(document.as_ref()).map_err(|_| KeyError::Random)
    }

    /// Reads the key at `path`, or makes one there, readable by its owner alone.
    ///
    /// # Errors
    /// [`KeyError`] naming the file.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match read_secret(path) {
            Ok(bytes) => Self::from_pkcs8(&bytes).map_err(|fault| KeyError::NotAKey {
                path: path.to_owned(),
                fault,
            }),
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|_| KeyError::Random)?;
                write_secret(path, document.as_ref())?;
                Self::from_pkcs8(document.as_ref()).map_err(|_| KeyError::Random)
            }
            Err(e) => Err(e),
        }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The id of the public half.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    /// Signs raw bytes. Callers put a domain tag in front.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(bytes).as_ref());
        out
    }
}

/// Random bytes from the system.
///
/// # Errors
/// [`KeyError::Random`].
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut out = [0; N];
    SystemRandom::new()
        .fill(&mut out)
        .map_err(|_| KeyError::Random)?;
    Ok(out)
}

/// Reads a secret file, refusing one that others may read.
///
/// # Errors
/// [`KeyError::Exposed`] or [`KeyError::Io`].
pub fn read_secret(path: &Path) -> Result<Vec<u8>, KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
    }
    fs::read(path).map_err(io)
}

/// Writes a secret file with mode 0600, whole or not at all.
///
/// # Errors
/// [`KeyError::Io`].
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    write_aside(path, bytes, 0o600).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file aside, syncs it, renames it into place and syncs the directory: a power cut leaves
/// the old file or the new one.
///
/// # Errors
/// What the system says.
pub fn write_aside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let mut aside = path.file_name().unwrap_or_default().to_owned();
    aside.push(format!(".{}.tmp", std::process::id()));
    let aside = directory.join(aside);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(mode);
    }
    #[cfg(not(unix))]
    let _ = mode;
    let result = (|| {
        let mut file = options.open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        fs::File::open(directory)?.sync_all()
    })();
    if result.is_err() {
        // The name is this process' own; what is left of a failed write helps nobody.
        let _ = fs::remove_file(&aside);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.key");
        let a = SigningKey::load_or_create(&path).expect("made");
        let b = SigningKey::load_or_create(&path).expect("read");
        assert_eq!(a.public(), b.public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
            assert!(matches!(
                SigningKey::load_or_create(&path),
                Err(KeyError::Exposed { mode: 0o644, .. })
            ));
        }
    }

    #[test]
    fn a_damaged_key_file_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.key");
        write_secret(&path, b"not a key").expect("written");
        let e = SigningKey::load_or_create(&path).expect_err("damaged");
        assert!(e.to_string().contains("node.key"), "{e}");
        assert_eq!(fs::read(&path).expect("kept"), b"not a key");
    }
}
