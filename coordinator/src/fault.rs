//! Why a room did not do what it was asked: the protocol refuses, or the house is broken.
//!
//! The two are kept apart: a refusal is the caller's and is told to the caller; a broken store or
//! disk is the operator's, is logged, and the caller may simply try again.

use lamplight_proto::{Malformed, envelope::VerifyError, keys::KeyError, refusal::Refusal};

use crate::{authority::AuthorityError, blob::BlobError, store::StoreError};

/// Why a room did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The protocol's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something of ours failed.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// What of ours failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob directory.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Keys or randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file beside the database.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A thread of ours ended early.
    #[error("{0} ended early")]
    Task(&'static str),
}

macro_rules! through {
    ($outer:ident: $($inner:ty),*) => {
        $(impl From<$inner> for Fault {
            fn from(e: $inner) -> Self {
                Self::$outer(e.into())
            }
        })*
    };
}
through!(Broken: StoreError, BlobError, AuthorityError, KeyError);
through!(Refused: Malformed, VerifyError);
