//! The file that holds a join token.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use lamplight_proto::{Malformed, token::JoinToken};

/// Most that is read of a token's file, in bytes; a token has about a hundred.
pub const MAX_BYTES: u64 = 4096;

/// What to do about a file that gives no token.
pub(crate) const REMEDY: &str =
    "ask the operator for a new token (`lamplight node token`) and write it there";

/// A file that gives no token. The text that stands in it is never part of this.
#[derive(Debug, thiserror::Error)]
#[error("the token file {path} {fault}; {REMEDY}")]
pub struct TokenFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: TokenFault,
}

/// Why a file gives no token; goes on after its name.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// It cannot be read, or is not text.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is larger than any token.
    #[error("has more than {MAX_BYTES} bytes, a token has about a hundred")]
    TooLarge,
    /// What it holds is no token.
    #[error("holds no token: {0}")]
    NoToken(Malformed),
}

/// Reads the token in a file; space around it does not matter. A file without an end is read only to
/// [`MAX_BYTES`].
///
/// # Errors
/// [`TokenFileError`].
pub fn read(path: &Path) -> Result<JoinToken, TokenFileError> {
    let read = || {
        let file = File::open(path).map_err(TokenFault::Unreadable)?;
        let mut bytes = Vec::new();
        let taken = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        if taken.map_err(TokenFault::Unreadable)? as u64 > MAX_BYTES {
            return Err(TokenFault::TooLarge);
        }
        let text = String::from_utf8(bytes).map_err(|_| {
            TokenFault::Unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is not text"))
        })?;
        text.trim().parse().map_err(TokenFault::NoToken)
    };
    read().map_err(|fault| TokenFileError {
        path: path.to_owned(),
        fault,
    })
}

#[cfg(test)]
mod tests {
    use lamplight_proto::ids::Digest;

    use super::*;

    #[test]
    fn a_token_is_read_with_the_space_around_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("token");
        let token = JoinToken::generate(Digest::of(b"authority")).expect("a token");
        std::fs::write(&path, format!("\n {token}\n\n")).expect("written");
        let got = read(&path).expect("a token");
        assert_eq!(got.to_string(), token.to_string());
    }

    #[test]
    fn what_holds_no_token_is_named_without_what_stands_in_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("token");
        let says = |path: &Path| read(path).expect_err("no token").to_string();
        assert!(says(&path).contains("token cannot be read"));
        std::fs::write(&path, "lamp1_hush").expect("written");
        let e = says(&path);
        assert!(e.contains("lamplight node token"), "{e}");
        assert!(!e.contains("hush"), "{e}");
        std::fs::write(&path, [0xff, 0xfe]).expect("written");
        assert!(says(&path).contains("it is not text"));
        std::fs::write(&path, vec![b'a'; 4097]).expect("written");
        assert!(says(&path).contains("more than 4096 bytes"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_an_end_is_given_up() {
        let e = read(Path::new("/dev/zero")).expect_err("no token");
        assert!(matches!(e.fault, TokenFault::TooLarge), "{e}");
    }
}
