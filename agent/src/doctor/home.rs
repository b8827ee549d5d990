//! The node's directory: store, keys, enrolment, token.

use std::path::PathBuf;

use lamplight_proto::{
    doctor::{Finding, reach::Trust},
    ids::{Digest, NodeId, UnixMillis},
    keys::{KeyError, SigningKey},
    tls::{self, Identity, TlsError},
};

use crate::{
    dir::NodeDir,
    settings::Loaded,
    store::{NodeRecord, Store, StoreError},
    token_file,
};

pub(super) const ENROL_ANEW: &str = "make a token (`lamplight node token`), then `lamplight agent \
                                     enrol` with it into an empty directory";

/// Whether the directory belongs to a node.
#[derive(Debug)]
pub(super) enum Standing {
    /// There is no directory yet.
    Outside,
    /// There is one; nobody has enrolled in it.
    New,
    /// It is this node's.
    Enrolled(NodeRecord),
    /// The store does not say.
    Unknown,
}

/// Files that only the node may read.
pub(super) fn secrets(dir: &NodeDir) -> Vec<PathBuf> {
    vec![dir.signing_key(), dir.root().join("tls.key")]
}

/// Whether the database opens and is whole.
pub(super) fn store(dir: &NodeDir) -> (Finding, Option<Store>) {
    const CHECK: &str = "store";
    let path = dir.database();
    if !path.exists() {
        return (
            Finding::ok(CHECK, "there is none yet; enrolment makes it"),
            None,
        );
    }
    let opened = Store::open_to_read(&path).and_then(|store| {
        store.checkup()?;
        Ok(store)
    });
    match opened {
        Ok(store) => (
            Finding::ok(CHECK, format!("{} is whole", path.display())),
            Some(store),
        ),
        Err(e @ StoreError::Newer { .. }) => (
            Finding::fault(CHECK, e.to_string(), "upgrade this agent"),
            None,
        ),
        Err(e) => {
            let remedy = format!(
                "stop the agent, restore {0} from a backup; without one, {ENROL_ANEW}",
                path.display()
            );
            (Finding::fault(CHECK, e.to_string(), remedy), None)
        }
    }
}

/// Whose directory it is, and the newest time that was written down in it.
pub(super) fn standing(store: Option<Store>, dir: &NodeDir) -> (Option<UnixMillis>, Standing) {
    let Some(store) = store else {
        let standing = if dir.database().exists() {
            Standing::Unknown
        } else {
            Standing::New
        };
        return (None, standing);
    };
    let newest = store.newest_time().ok().flatten();
    let standing = match store.node() {
        // The certificate is written last.
        Ok(Some(node)) if dir.root().join("tls.crt").exists() => Standing::Enrolled(node),
        Ok(_) => Standing::New,
        Err(_) => Standing::Unknown,
    };
    (newest, standing)
}

/// Whether the node's keys are its own and fit its certificate.
pub(super) fn enrolment(standing: &Standing, dir: &NodeDir, loaded: &Loaded) -> Option<Finding> {
    const CHECK: &str = "enrolment";
    let node = match standing {
        Standing::Unknown => return None,
        Standing::Outside | Standing::New => {
            let here = dir.root().display();
            return Some(if loaded.settings.token_file.is_some() {
                Finding::ok(
                    CHECK,
                    format!("{here} is not enrolled yet; `run` does it with the token"),
                )
            } else {
                Finding::fault(
                    CHECK,
                    format!("{here} is not enrolled, and there is no token_file to do it with"),
                    "ask the operator for a token (`lamplight node token`), write it into a file of \
                     mode 0600, and set token_file",
                )
            });
        }
        Standing::Enrolled(node) => node,
    };
    let fault = |says: String, remedy: &str| Some(Finding::fault(CHECK, says, remedy));
    let path = dir.signing_key();
    if !path.exists() {
        let says = format!(
            "{} is gone: nobody will believe this node's deltas",
            path.display()
        );
        return fault(
            says,
            "restore the key from a backup; without one, enrol anew",
        );
    }
    match SigningKey::load_or_create(&path) {
        Ok(key) => {
            let own = NodeId::of_key(&key.public());
            if own != node.node_id {
                let says = format!(
                    "{} belongs to {own}, {} enrolled here",
                    path.display(),
                    node.node_id
                );
                return fault(
                    says,
                    "restore the key from a backup; without one, enrol anew",
                );
            }
        }
        // Told by `permissions`; what it holds cannot be judged before that is mended.
        Err(KeyError::Exposed { .. }) => return None,
        Err(e) => {
            return fault(
                e.to_string(),
                "restore the key from a backup; without one, enrol anew",
            );
        }
    }
    let pair = Identity::read(dir.root()).and_then(|identity| match loaded.coordinator() {
        // Sends nothing; key and certificate must belong together.
        Ok(address) => tls::connect(address, &identity).map(drop),
        Err(_) => Ok(()),
    });
    match pair {
        Ok(()) => Some(Finding::ok(
            CHECK,
            format!("{} of {}; its keys fit", node.node_id, node.deployment),
        )),
        Err(TlsError::Key(KeyError::Exposed { .. })) => None,
        Err(e) => fault(format!("the TLS identity is unusable: {e}"), ENROL_ANEW),
    }
}

/// Whether the token can be used, where it is needed.
pub(super) fn token(standing: &Standing, loaded: &Loaded) -> Option<Finding> {
    const CHECK: &str = "token";
    let path = loaded.settings.token_file.as_ref()?;
    if matches!(standing, Standing::Enrolled(_)) {
        let says = if path.exists() {
            format!("{} has been used and may be deleted", path.display())
        } else {
            "it has been used; its file is gone, as it may be".to_owned()
        };
        return Some(Finding::ok(CHECK, says));
    }
    if let Err(e) = token_file::read(path) {
        let says = format!("{} {}", e.path.display(), e.fault);
        return Some(Finding::fault(CHECK, says, token_file::REMEDY));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let says = format!("{} is open to others (mode {mode:04o})", path.display());
            let remedy = format!("chmod 600 {}", path.display());
            return Some(Finding::warning(CHECK, says, remedy));
        }
    }
    let says = format!(
        "{} holds a token; whether it is used up, only the coordinator knows",
        path.display()
    );
    Some(Finding::ok(CHECK, says))
}

/// How this node knows its coordinator.
#[derive(Debug)]
pub(super) enum Knows {
    Identity(Box<Identity>),
    Authority(Digest),
}

impl Knows {
    pub(super) fn as_trust(&self) -> Trust<'_> {
        match self {
            Self::Identity(identity) => Trust::Identity(identity),
            Self::Authority(digest) => Trust::Pin(*digest),
        }
    }
}

/// By its certificate; where that is unusable, by the authority's; before enrolment, by the token.
pub(super) fn trust(loaded: &Loaded) -> Option<Knows> {
    if let Ok(root) = loaded.dir() {
        if let Ok(identity) = Identity::read(root) {
            return Some(Knows::Identity(Box::new(identity)));
        }
        if let Ok(authority) = tls::read_certificate(&root.join("ca.crt")) {
            return Some(Knows::Authority(Digest::of(&authority)));
        }
    }
    let token = token_file::read(loaded.settings.token_file.as_ref()?).ok()?;
    Some(Knows::Authority(token.authority()))
}
