//! Inputs that stand for several files, and the directory they are written to.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Stands between the files of one input: a lamp (U+1F526), which no format here begins with.
pub const BETWEEN: &[u8] = "\u{1f526}".as_bytes();

/// The first `N` files of an input; those that are not there are empty, and what follows the last
/// belongs to it.
#[must_use]
pub fn split<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = Some(input);
    let mut parts = [&[][..]; N];
    for (i, part) in parts.iter_mut().enumerate() {
        let Some(bytes) = rest.take() else { break };
        let end = (i + 1 < N)
            .then(|| bytes.windows(BETWEEN.len()).position(|w| w == BETWEEN))
            .flatten();
        match end {
            Some(end) => {
                *part = &bytes[..end];
                rest = Some(&bytes[end + BETWEEN.len()..]);
            }
            None => *part = bytes,
        }
    }
    parts
}

/// One input of these files.
#[must_use]
pub fn join(files: &[&[u8]]) -> Vec<u8> {
    files.join(BETWEEN)
}

/// A fresh directory, in memory where the system has such a place, with these files in it.
///
/// # Panics
/// When the machine cannot write them: then nothing can be tested.
#[must_use]
pub fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    let dir = dir.expect("a temporary directory can be made");
    for (name, bytes) in files {
        write(&dir.path().join(name), bytes);
    }
    dir
}

/// Writes a file, and the folders above it.
///
/// # Panics
/// When the machine cannot.
pub fn write(path: &Path, bytes: &[u8]) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a directory can be made");
    }
    fs::write(path, bytes).expect("a file can be written");
}

/// Lets nobody but the owner read a file, as secret files must be.
///
/// # Panics
/// When the machine cannot do it.
pub fn private(file: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(file, mode).expect("an own file's mode can be set");
    }
    #[cfg(not(unix))]
    let _ = file;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_apart_as_they_were_joined() {
        let input = join(&[b"a", b"", b"c"]);
        assert_eq!(split::<3>(&input), [&b"a"[..], b"", b"c"]);
        assert_eq!(split::<4>(&input), [&b"a"[..], b"", b"c", b""]);
        let [first, rest] = split::<2>(&input);
        assert_eq!((first, rest), (&b"a"[..], &input[5..]));
        assert_eq!(split::<2>(b""), [b"", b""]);
    }
}
