//! The node's directory: what lies where, and what may be thrown away.
//!
//! ```text
//! DIR/lock                      held by the one agent that uses the directory
//! DIR/agent.db                  SQLite: who the node is, phase, journal, receipts
//! DIR/node.key                  Ed25519, signs deltas (0600)
//! DIR/tls.key tls.crt ca.crt    the node's TLS identity (key 0600)
//! DIR/models/DIGEST.gguf        model files, whole and checked; DIGEST.part while they come
//! DIR/work/LEASE.checkpoint     training under way
//! DIR/deltas/LEASE.safetensors  the delta being sent
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lamplight_proto::ids::{Digest, Lease};

/// Model files kept: the one in use and the one before it.
const MODELS_KEPT: usize = 2;

/// A node's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir {
    root: PathBuf,
}

impl NodeDir {
    /// The directory and its folders, made where missing; readable by their owner alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(root: &Path) -> io::Result<Self> {
        let this = Self::at(root);
        let folders = [
            this.root.clone(),
            this.root.join("models"),
            this.root.join("work"),
            this.root.join("deltas"),
        ];
        for folder in folders {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(folder)?;
        }
        Ok(this)
    }

    /// The directory as it is.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock file.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("agent.db")
    }

    /// The key that signs deltas.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// A model file, whole and checked.
    #[must_use]
    pub fn model(&self, digest: Digest) -> PathBuf {
        self.root.join("models").join(format!("{digest}.gguf"))
    }

    /// A model file on its way here.
    #[must_use]
    pub fn part(&self, digest: Digest) -> PathBuf {
        self.root.join("models").join(format!("{digest}.part"))
    }

    /// Training under way.
    #[must_use]
    pub fn checkpoint(&self, lease: Lease) -> PathBuf {
        let name = format!("{}.checkpoint", hex::encode(lease.0));
        self.root.join("work").join(name)
    }

    /// A delta on its way out.
    #[must_use]
    pub fn delta(&self, lease: Lease) -> PathBuf {
        let name = format!("{}.safetensors", hex::encode(lease.0));
        self.root.join("deltas").join(name)
    }

    /// Removes what no running task needs: checkpoints and deltas of other leases, half-pulled
    /// files, and model files beyond the two newest. `keep` is the running task's lease and base.
    ///
    /// Safe to repeat and to interrupt: phases name what they need, files name nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn tidy(&self, keep: Option<(Lease, Digest)>) -> io::Result<()> {
        let kept: Vec<PathBuf> = keep
            .map(|(lease, base)| {
                vec![
                    self.checkpoint(lease),
                    self.delta(lease),
                    self.part(base),
                    self.model(base),
                ]
            })
            .unwrap_or_default();
        for folder in ["work", "deltas"] {
            for path in files(&self.root.join(folder))? {
                if !kept.contains(&path) {
                    fs::remove_file(path)?;
                }
            }
        }
        let mut models: Vec<(SystemTime, PathBuf)> = Vec::new();
        for path in files(&self.root.join("models"))? {
            if path.extension().is_some_and(|e| e == "gguf") {
                models.push((fs::metadata(&path)?.modified()?, path));
            } else if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        models.sort();
        models.reverse();
        for (_, path) in models.into_iter().skip(MODELS_KEPT) {
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            out.push(entry.path());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn names(dir: &NodeDir, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = files(&dir.root.join(folder))
            .expect("readable")
            .iter()
            .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn tidying_keeps_the_running_task_and_the_two_newest_models() {
        let temp = tempfile::tempdir().expect("temp dir");
        let dir = NodeDir::create(&temp.path().join("node")).expect("made");
        let digests: Vec<Digest> = (0..4_u8).map(|i| Digest::of(&[i])).collect();
        for (age, d) in digests.iter().enumerate() {
            fs::write(dir.model(*d), b"m").expect("written");
            let file = fs::File::options().write(true).open(dir.model(*d));
            let then = SystemTime::now() - Duration::from_secs(age as u64 * 60);
            file.expect("there").set_modified(then).expect("aged");
        }
        let (mine, other) = (Lease([1; 16]), Lease([2; 16]));
        for lease in [mine, other] {
            fs::write(dir.checkpoint(lease), b"c").expect("written");
            fs::write(dir.delta(lease), b"d").expect("written");
        }
        fs::write(dir.part(digests[0]), b"p").expect("written");
        fs::write(dir.part(digests[1]), b"p").expect("written");

        dir.tidy(Some((mine, digests[3]))).expect("tidied");
        assert!(dir.checkpoint(mine).exists() && dir.delta(mine).exists());
        assert!(!dir.checkpoint(other).exists() && !dir.delta(other).exists());
        let models = names(&dir, "models");
        // The two newest and the one in use, however old.
        let mut want: Vec<String> = [0, 1, 3].map(|i| format!("{}.gguf", digests[i])).into();
        want.sort();
        assert_eq!(models, want);

        dir.tidy(None).expect("tidied");
        assert_eq!(names(&dir, "work").len() + names(&dir, "deltas").len(), 0);
        assert_eq!(names(&dir, "models").len(), 2);
    }
}
