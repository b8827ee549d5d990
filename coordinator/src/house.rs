//! The rooms together: everything a running coordinator holds, opened from its state directory.

use std::{
    collections::HashMap,
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use lamplight_models::{
    delta::{TensorTable, max_encoded_bytes},
    quant::gguf,
};
use lamplight_proto::{
    delta::DeltaManifest,
    envelope::Signed,
    ids::{Deployment, Digest, NodeId, UnixMillis},
    keys::{self, KeyError, SigningKey},
    offer::Trainable,
    refusal::{Reason, Refusal},
    tls::{self, TlsError},
};

use crate::{
    authority::Authority,
    blob::Blobs,
    config::Config,
    dir::StateDir,
    fault::{Broken, Fault},
    release::deltas_hold,
    roster,
    round::Engine,
    store::{Store, StoreError, nodes, uploads},
    watch::Watch,
};

/// Bases whose tensor tables are kept at hand.
const BASES: usize = 16;

/// Why a state directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("{0} is no coordinator's state directory; make one with: lamplight init")]
    NotInitialised(std::path::PathBuf),
    /// Another coordinator runs on it.
    #[error("another coordinator runs on {0}; stop it first")]
    Busy(std::path::PathBuf),
    /// A file in it is unusable.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A certificate or TLS key is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is known of a release that deltas are made against.
#[derive(Debug)]
pub struct Base {
    /// What a delta must be, for each set of parameters that may move.
    expected: Vec<(Trainable, Expected)>,
    /// Shape of one input sample.
    pub input: Vec<usize>,
    /// Class names in logit order.
    pub classes: Vec<String>,
}

/// What a delta against a base must be.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The tensors it must hold.
    pub table: TensorTable,
    /// Longest file it can have.
    pub max_delta_bytes: u64,
}

impl Base {
    /// What a delta must be when these parameters were to move; holds no tensor when the base has
    /// none of them.
    #[must_use]
    pub fn expected(&self, trainable: Trainable) -> &Expected {
        const NOTHING: &Expected = &Expected {
            table: TensorTable::new(),
            max_delta_bytes: 0,
        };
        let mut sets = self.expected.iter();
        sets.find(|(set, _)| *set == trainable)
            .map_or(NOTHING, |(_, expected)| expected)
    }
}

/// Everything a running coordinator holds. Its methods block.
pub struct House {
    /// What the operator chose.
    pub config: Config,
    /// Where everything lies.
    pub dir: StateDir,
    /// Name of the fleet.
    pub deployment: Deployment,
    /// What must survive.
    pub store: Store,
    /// Files.
    pub blobs: Blobs,
    /// Issues certificates.
    pub authority: Authority,
    /// Signs offers, receipts and releases.
    pub release_key: SigningKey,
    /// Phases at hand, and who waits for them.
    pub engine: Engine,
    /// How tasks go, as nodes last told.
    pub watch: Watch,
    bases: Mutex<HashMap<Digest, Arc<Base>>>,
    /// Held as long as this value lives: one coordinator per directory.
    _lock: fs::File,
}

fn lock(dir: &StateDir) -> Result<fs::File, OpenError> {
    let path = dir.path().join("lock");
    let broken = |source: io::Error| Broken::File {
        path: path.clone(),
        source,
    };
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(broken)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Busy(dir.path().to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(broken(source).into()),
    }
}

/// The address of a coordinator that was killed is nobody's: removed before anything else, so that
/// whoever waits for the file waits for this process.
fn forget_address(dir: &StateDir) -> Result<(), Broken> {
    let path = dir.address();
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Broken::File { path, source })
        }
        _ => Ok(()),
    }
}

impl House {
    /// Opens the state directory. What a crash left half done is either whole in the store or
    /// swept away here.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let dir = StateDir::new(&config.dir);
        if !dir.database().is_file() {
            return Err(OpenError::NotInitialised(config.dir));
        }
        let lock = lock(&dir)?;
        forget_address(&dir)?;
        let store = Store::open(&dir.database()).map_err(Broken::from)?;
        let deployment = store.deployment().map_err(Broken::from)?;
        let key = tls::read_private_key(&dir.authority_key())?;
        let authority = Authority::open(
            tls::read_certificate(&dir.authority_certificate())?,
            key.secret_der(),
            deployment.clone(),
        )
        .map_err(Broken::from)?;
        // Only reads: a missing release key must not be replaced by a fresh one nobody trusts.
        if !dir.release_key().is_file() {
            return Err(OpenError::NotInitialised(config.dir));
        }
        let release_key = SigningKey::load_or_create(&dir.release_key()).map_err(Broken::from)?;
        let blobs = Blobs::open(dir.blobs()).map_err(Broken::from)?;
        let house = Self {
            dir,
            deployment,
            store,
            blobs,
            authority,
            release_key,
            engine: Engine::default(),
            watch: Watch::default(),
            bases: Mutex::default(),
            _lock: lock,
            config,
        };
        house.sweep()?;
        house.settle_retired()?;
        house.renew()?;
        Ok(house)
    }

    /// Renews the server's certificate in time. The key stays, so that a crash in between leaves
    /// either certificate usable.
    fn renew(&self) -> Result<(), OpenError> {
        let path = self.dir.server_certificate();
        let old = tls::read_certificate(&path)?;
        let key = tls::read_private_key(&self.dir.server_key())?;
        let renewed = self.authority.renew_server(&old, key.secret_der());
        if let Some(new) = renewed.map_err(Broken::from)? {
            tls::write_certificate(&path, &new)?;
            tracing::info!("the server's certificate was about to end and is renewed");
        }
        Ok(())
    }

    /// Deletes part files of uploads that no longer exist. An operator's stay: they may be resumed.
    fn sweep(&self) -> Result<(), Broken> {
        let mut waited = HashMap::new();
        for upload in self.store.read(uploads::list)? {
            let manifest = Signed::<DeltaManifest>::from_bytes(&upload.envelope).and_then(|s| {
                <DeltaManifest as lamplight_proto::envelope::Payload>::parse(&s.to_wire().payload)
            });
            if let Ok(manifest) = manifest {
                waited.insert(upload.node.to_string(), manifest.digest);
            }
        }
        let swept = self.blobs.sweep(|owner, digest| {
            owner.starts_with("operator-") || waited.get(owner) == Some(&digest)
        })?;
        if swept > 0 {
            tracing::info!(files = swept, "swept unfinished uploads nobody waits for");
        }
        Ok(())
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.config.clock.now()
    }

    /// A node that may call: every call of a node asks here first.
    ///
    /// # Errors
    /// Refuses one that is not enrolled, or retired.
    pub fn node(&self, id: &NodeId) -> Result<nodes::Node, Fault> {
        let node = self.store.read(|c| nodes::find(c, id))?;
        let node = node.ok_or_else(|| {
            Refusal::new(
                Reason::Unauthenticated,
                format!("{id} is not enrolled here; enrol it with a join token"),
            )
        })?;
        roster::refuse_retired(&node)?;
        Ok(node)
    }

    /// What is known of the model file with this digest.
    ///
    /// # Errors
    /// [`Broken`] when it cannot be read.
    pub fn base(&self, digest: Digest) -> Result<Arc<Base>, Broken> {
        let bases = || self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = bases().get(&digest) {
            return Ok(base.clone());
        }
        let model = gguf::read(&self.blobs.read(digest)?).map_err(|e| StoreError::Damaged {
            column: "releases.digest",
            fault: format!("{digest}, which is no model file: {e}"),
        })?;
        let expected = |set| {
            let table = deltas_hold(&model, set);
            let max_delta_bytes = max_encoded_bytes(&table);
            let expected = Expected {
                table,
                max_delta_bytes,
            };
            (set, expected)
        };
        let base = Arc::new(Base {
            expected: Trainable::EVERY.map(expected).into(),
            input: model.graph.input.clone(),
            classes: model.info.classes.clone(),
        });
        let mut bases = bases();
        if bases.len() >= BASES {
            bases.clear();
        }
        bases.insert(digest, base.clone());
        Ok(base)
    }
}

/// Fresh random bytes.
///
/// # Errors
/// [`Broken::Key`].
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Broken> {
    keys::random().map_err(|e: KeyError| Broken::Key(e))
}

/// Text from the network, fit for one line of a log or table.
pub(crate) fn one_line(text: &str, chars: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(chars)
        .collect()
}
