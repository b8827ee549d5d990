//! The state directory: database, files of releases, room for more.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use lamplight_proto::{
    doctor::{Finding, Machine, bytes, disk},
    ids::{Digest, Hasher, UnixMillis},
};

use crate::{
    dir::StateDir,
    store::{
        Store, StoreError,
        checkup::{self, Scale},
    },
};

/// What a usual model and its first round take.
const USUAL_ROOM: u64 = 256 << 20;

/// Files of older releases that are read whole; of all others only their presence is looked at.
const SPOTS: usize = 8;

/// What the database says.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) newest: Option<UnixMillis>,
    pub(super) scale: Scale,
    /// Files that releases name, and whether it is a model's newest release.
    pub(super) files: Vec<(Digest, bool)>,
}

fn read(path: &Path) -> Result<Seen, StoreError> {
    let store = Store::open_to_read(path)?;
    store.checkup(path)?;
    store.deployment()?;
    store.read(|c| {
        Ok(Seen {
            newest: checkup::newest_time(c)?,
            scale: checkup::scale(c)?,
            files: checkup::release_files(c)?,
        })
    })
}

/// Whether the database opens, is whole, and not newer than this program.
pub(super) fn database(dir: &StateDir) -> (Finding, Option<Seen>) {
    const CHECK: &str = "store";
    let path = dir.database();
    if !path.is_file() {
        let says = format!("{} holds no deployment", dir.path().display());
        let remedy = "correct `dir`, or make a deployment: lamplight init";
        return (Finding::fault(CHECK, says, remedy), None);
    }
    match read(&path) {
        Ok(seen) => {
            let says = format!(
                "{} is whole; {} node(s) are enrolled",
                path.display(),
                seen.scale.nodes
            );
            (Finding::ok(CHECK, says), Some(seen))
        }
        Err(e @ StoreError::Newer { .. }) => (
            Finding::fault(CHECK, e.to_string(), "run the newer program"),
            None,
        ),
        Err(e) => {
            let says = format!("{}: {e}", path.display());
            let remedy = "stop the coordinator and restore the whole directory from a backup";
            (Finding::fault(CHECK, says, remedy), None)
        }
    }
}

/// Room for the database and its log, in bytes, however small the model.
const LEDGER: u64 = 16 << 20;

/// Whether the disk has room for a round of every node.
pub(super) fn room(machine: &dyn Machine, dir: &StateDir, seen: Option<&Seen>) -> Finding {
    let scale = seen
        .map(|seen| seen.scale)
        .filter(|scale| scale.parameters > 0);
    let Some(Scale { nodes, parameters }) = scale else {
        return disk::space_before_a_model(machine, dir.path(), USUAL_ROOM);
    };
    // A delta and a carry are 4 bytes a value, a release is less.
    let need = (nodes + 2)
        .saturating_mul(4 * parameters)
        .saturating_add(LEDGER);
    let what = format!("a round of the largest model with {nodes} node(s)");
    disk::space(machine, dir.path(), need, &what)
}

/// Whether a release can be made in memory.
pub(super) fn memory(machine: &dyn Machine, seen: Option<&Seen>) -> Finding {
    const CHECK: &str = "memory";
    let available = match machine.available_memory() {
        Ok(available) => available,
        Err(e) => {
            let says = format!("this machine does not tell how much is available: {e}");
            return Finding::warning(CHECK, says, "see with the system's own tools");
        }
    };
    let parameters = seen.map_or(0, |seen| seen.scale.parameters);
    if parameters == 0 {
        return Finding::ok(CHECK, format!("{} are available", bytes(available)));
    }
    // Sums are 16 bytes a value; base, carry and the new release 4 to 8 each.
    let need = parameters.saturating_mul(40);
    let says = format!(
        "{} are available; a release of the largest model needs about {}",
        bytes(available),
        bytes(need)
    );
    if available < need {
        Finding::fault(CHECK, says, "end other programs, or use a larger machine")
    } else {
        Finding::ok(CHECK, says)
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut block = vec![0; 1 << 18];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(block.get(..n).unwrap_or_default()),
        }
    }
}

/// Whether the files that releases name are here; the newest ones, and some others, are read whole.
pub(super) fn release_files(dir: &StateDir, named: &[(Digest, bool)]) -> Vec<Finding> {
    const CHECK: &str = "release files";
    let remedy = "restore the file from a backup of the directory; `lamplight release verify` then \
                  checks the rest";
    let mut findings = Vec::new();
    let mut read = 0;
    let mut spots = 0;
    for (digest, newest) in named {
        let path = dir.files().blob(*digest);
        // Newest ones come first.
        let whole = *newest || spots < SPOTS;
        spots += usize::from(!newest);
        let fault = if !path.is_file() {
            Some(format!("{} is missing; a release names it", path.display()))
        } else if whole {
            read += 1;
            match digest_of(&path) {
                Ok(found) if found == *digest => None,
                Ok(found) => Some(format!(
                    "{} is damaged: its SHA-256 is {found}",
                    path.display()
                )),
                Err(e) => Some(format!("{} cannot be read: {e}", path.display())),
            }
        } else {
            None
        };
        findings.extend(fault.map(|says| Finding::fault(CHECK, says, remedy)));
    }
    if findings.is_empty() {
        let says = match named.len() {
            0 => "there is no release yet".to_owned(),
            n => format!("all {n} are here; {read} were read and hold what their names say"),
        };
        findings.push(Finding::ok(CHECK, says));
    }
    findings
}
