//! Why a release is not believed.

use std::{
    io,
    path::{Path, PathBuf},
};

use lamplight_proto::{envelope::VerifyError, ids::Digest};

use crate::{aggregate::InspectError, release::build::BuildError};

/// Why a release is not believed; every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFailure {
    /// The directory holds no release to verify.
    #[error("{directory} holds {fault}")]
    NoRelease {
        /// Where releases were looked for.
        directory: PathBuf,
        /// What is there instead, and what to do.
        fault: String,
    },
    /// A file is missing or cannot be read.
    #[error("{file} ({what}) cannot be read: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What it should be.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// A file has other bytes than were signed.
    #[error("{file} ({what}) has digest {found}, {want} was signed")]
    Digest {
        /// The file.
        file: PathBuf,
        /// What it should be.
        what: String,
        /// Digest signed.
        want: Digest,
        /// Digest of the file.
        found: Digest,
    },
    /// A key file is no key, or another node's.
    #[error("{file} ({what}): {fault}")]
    Key {
        /// The file.
        file: PathBuf,
        /// Whose key it should be.
        what: String,
        /// What it is instead.
        fault: String,
    },
    /// An envelope whose signature is not believed.
    #[error("{file} ({what}): {source}")]
    Signature {
        /// The file.
        file: PathBuf,
        /// What it should be.
        what: String,
        /// Why not.
        source: VerifyError,
    },
    /// Two signed statements contradict each other.
    #[error("{file} ({what}): {field} is {found}, {want} is right")]
    Contradiction {
        /// The file that holds the wrong value.
        file: PathBuf,
        /// What it is.
        what: String,
        /// The field.
        field: String,
        /// What follows from the other files.
        want: String,
        /// What it says.
        found: String,
    },
    /// A delta that may not be folded.
    #[error("{file} ({what}): {source}")]
    Delta {
        /// The file.
        file: PathBuf,
        /// Whose delta.
        what: String,
        /// What is wrong with it.
        source: Box<InspectError>,
    },
    /// The release cannot be built from what it names.
    #[error("{file} ({what}) cannot be built again: {source}")]
    Build {
        /// The release's manifest.
        file: PathBuf,
        /// The release.
        what: String,
        /// What goes wrong.
        source: Box<BuildError>,
    },
    /// Base and deltas give another file.
    #[error("{file} ({what}): base and deltas give {found}, {want} was signed")]
    OtherBytes {
        /// The release's file.
        file: PathBuf,
        /// What it is.
        what: String,
        /// Digest signed.
        want: String,
        /// Digest of what base and deltas give.
        found: String,
    },
}

impl VerifyFailure {
    /// The file at fault; a directory when there is no release in it.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::NoRelease { directory, .. } => directory,
            Self::Unreadable { file, .. }
            | Self::Digest { file, .. }
            | Self::Key { file, .. }
            | Self::Signature { file, .. }
            | Self::Contradiction { file, .. }
            | Self::Delta { file, .. }
            | Self::Build { file, .. }
            | Self::OtherBytes { file, .. } => file,
        }
    }
}
