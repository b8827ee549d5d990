//! `doctor`: what is wrong with this coordinator, in plain words.
//!
//! ```text
//!   configuration ─> state (directory, database, files of releases) ─> disk, memory
//!                 ─> keys and certificates ─> address (who listens there) ─> clock
//! ```
//!
//! Every check answers a [`Finding`] and changes nothing, see [`lamplight_proto::doctor`]. What one
//! check cannot do because another failed is left out, never guessed.

mod address;
mod keys;
mod state;

use lamplight_proto::{
    doctor::{Finding, Machine, Report, clock, disk, files},
    settings::SettingsError,
};

use crate::{dir::StateDir, settings::Loaded};

/// Looks at everything.
pub async fn examine(loaded: Result<Loaded, SettingsError>, machine: &dyn Machine) -> Report {
    const CHECK: &str = "configuration";
    let loaded = loaded.and_then(|loaded| {
        loaded.dir()?;
        Ok(loaded)
    });
    let (loaded, dir) = match loaded.as_ref().map(|l| (l, l.dir())) {
        Ok((loaded, Ok(root))) => (loaded, StateDir::new(root)),
        Ok((_, Err(e))) => return Report::of(vec![unread(&e)]),
        Err(e) => return Report::of(vec![unread(e)]),
    };
    let mut findings = vec![Finding::ok(CHECK, "it can be read, and nothing is missing")];
    findings.extend(files::permissions(
        machine,
        dir.path(),
        &keys::secrets(&dir),
    ));
    if !dir.path().is_dir() {
        return Report::of(findings);
    }
    findings.push(disk::speed(dir.path()));
    let (found, seen) = state::database(&dir);
    findings.push(found);
    findings.push(state::room(machine, &dir, seen.as_ref()));
    findings.push(state::memory(machine, seen.as_ref()));
    if let Some(seen) = &seen {
        findings.extend(state::release_files(&dir, &seen.files));
        findings.push(keys::release_key(&dir));
        findings.extend(keys::certificates(machine, &dir, loaded.settings.listen));
    }
    findings.push(address::check(&dir, loaded.settings.listen).await);
    findings.push(clock::check(machine, seen.and_then(|s| s.newest), None));
    Report::of(findings)
}

fn unread(e: &SettingsError) -> Finding {
    Finding::fault(
        "configuration",
        e.to_string(),
        "correct it and ask again: all other checks read it",
    )
}
