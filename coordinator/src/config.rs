//! What an operator may choose.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use crate::clock::{Clock, System};

/// How a coordinator runs.
#[derive(Clone)]
pub struct Config {
    /// State directory, made by `lamplight init`.
    pub dir: PathBuf,
    /// Suggested wait between polls of a node that takes part in a running round.
    pub poll_active: Duration,
    /// Suggested wait between polls of all others.
    pub poll_idle: Duration,
    /// How long a shutdown waits for the step in hand.
    pub grace: Duration,
    /// Largest blob an operator may upload, in bytes.
    pub max_blob_bytes: u64,
    /// Threads of evaluation.
    pub threads: usize,
    /// Whether to print deployment and address to stdout, as one line of JSON, once it serves.
    pub announce: bool,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// The usual choices for the state directory `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            poll_active: Duration::from_millis(200),
            poll_idle: Duration::from_secs(5),
            grace: Duration::from_secs(10),
            max_blob_bytes: 4 << 30,
            threads: 1,
            announce: false,
            clock: Arc::new(System),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("dir", &self.dir)
            .field("poll_active", &self.poll_active)
            .field("poll_idle", &self.poll_idle)
            .field("grace", &self.grace)
            .field("max_blob_bytes", &self.max_blob_bytes)
            .field("threads", &self.threads)
            .field("announce", &self.announce)
            .finish_non_exhaustive()
    }
}
