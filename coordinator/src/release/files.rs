//! Where a coordinator's state directory keeps what releases are made of.
//!
//! ```text
//!   release.pub                      release key, public half, hexadecimal
//!   releases/MODEL/VERSION.manifest  signed envelope of a release
//!   deltas/ROUND/NODE.manifest       signed envelope of a delta, as received
//!   nodes/NODE.pub                   a node's public key, hexadecimal
//!   blobs/ab/abcd...                 any file, by its SHA-256
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use lamplight_proto::ids::{Digest, ModelName, ModelVersion, NodeId, RoundId};

/// Paths in a state directory. Names that come from the network are parsed types that cannot leave
/// the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFiles {
    root: PathBuf,
}

impl StateFiles {
    /// The paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The coordinator's directory in what a demo or `lamplight init` leaves: `dir/coordinator` if
    /// that is one, else `dir`.
    #[must_use]
    pub fn find(dir: &Path) -> Self {
        let inner = dir.join("coordinator");
        Self::new(if inner.is_dir() { inner } else { dir.into() })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The release key's public half.
    #[must_use]
    pub fn release_pub(&self) -> PathBuf {
        self.root.join("release.pub")
    }

    /// The directory of releases, one directory per model.
    #[must_use]
    pub fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The signed manifest of a release.
    #[must_use]
    pub fn release(&self, model: &ModelName, version: ModelVersion) -> PathBuf {
        self.releases()
            .join(model.as_str())
            .join(format!("{version}.manifest"))
    }

    /// The signed manifest of a delta.
    #[must_use]
    pub fn delta(&self, round: RoundId, node: &NodeId) -> PathBuf {
        self.root
            .join("deltas")
            .join(round.to_string())
            .join(format!("{node}.manifest"))
    }

    /// A node's public key.
    #[must_use]
    pub fn node_pub(&self, node: &NodeId) -> PathBuf {
        self.root.join("nodes").join(format!("{node}.pub"))
    }

    /// A file by its content.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("blobs").join(&name[..2]).join(&name)
    }

    /// The models that have releases, sorted by name.
    ///
    /// # Errors
    /// What the system says.
    pub fn models(&self) -> io::Result<Vec<ModelName>> {
        let mut found: Vec<ModelName> = names(&self.releases())?
            .filter_map(|name| name.parse().ok())
            .collect();
        found.sort();
        Ok(found)
    }

    /// The newest version of a model, if it has one.
    ///
    /// # Errors
    /// What the system says.
    pub fn newest(&self, model: &ModelName) -> io::Result<Option<ModelVersion>> {
        let version = |name: String| name.strip_suffix(".manifest")?.parse().ok();
        let directory = self.releases().join(model.as_str());
        Ok(names(&directory)?
            .filter_map(version)
            .max()
            .map(ModelVersion))
    }
}

/// Names in a directory that are text.
fn names(directory: &Path) -> io::Result<impl Iterator<Item = String> + use<>> {
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries
        .into_iter()
        .filter_map(|e| e.file_name().into_string().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_highest_number_not_the_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::new(dir.path());
        let model: ModelName = "tcn".parse().unwrap();
        assert!(files.newest(&model).is_err(), "no such directory");
        std::fs::create_dir_all(files.releases().join("tcn")).unwrap();
        assert_eq!(files.newest(&model).unwrap(), None);
        for v in [2, 9, 10] {
            std::fs::write(files.release(&model, ModelVersion(v)), b"").unwrap();
        }
        std::fs::write(files.releases().join("tcn/99.manifest.7.tmp"), b"").unwrap();
        assert_eq!(files.newest(&model).unwrap(), Some(ModelVersion(10)));
        assert_eq!(files.models().unwrap(), [model]);
    }

    #[test]
    fn a_demos_directory_is_found_through_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StateFiles::find(dir.path()).root(), dir.path());
        let inner = dir.path().join("coordinator");
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(StateFiles::find(dir.path()).root(), inner);
    }
}
