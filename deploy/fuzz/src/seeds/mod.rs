//! What the corpus begins with: files of the real writers, and small hostile ones that claim much.
//!
//! Random bytes would rarely get behind a format's first lines; these do. Names say what is expected:
//! `good…` is accepted, `bad…` refused. Other files in a corpus, which a fuzzing run found, are
//! named by their content's hash and may be either.

mod agent;
mod coordinator;
pub(crate) mod models;
mod proto;
mod release;
mod settings;
mod sources;

/// An input that the corpus holds.
pub struct Seed {
    /// The target it is for.
    pub target: &'static str,
    /// Its name in the target's folder.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the bytes are the same each time they are made; keys and signatures are not.
    pub same_each_time: bool,
}

impl Seed {
    fn new(target: &'static str, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            target,
            name,
            bytes: bytes.into(),
            same_each_time: true,
        }
    }

    /// Made with fresh keys: kept as it was first made.
    fn once(target: &'static str, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            same_each_time: false,
            ..Self::new(target, name, bytes)
        }
    }
}

/// Makes all seeds.
///
/// # Panics
/// When a writer refuses what it should take.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    [
        models::seeds(),
        proto::seeds(),
        coordinator::seeds(),
        release::seeds(),
        agent::seeds(),
        settings::seeds(),
        sources::seeds(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
