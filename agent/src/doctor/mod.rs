//! `doctor`: what is wrong with this node, in plain words.
//!
//! ```text
//!   configuration ─> home (directory, keys, store, enrolment, token)
//!                 ─> coordinator (name, connection, TLS, health; its clock)
//!                 ─> training (model files, disk, memory, device) ─> data
//! ```
//!
//! Every check answers a [`Finding`] and changes nothing, see [`lamplight_proto::doctor`]. What one
//! check cannot do because another failed is left out, never guessed.

mod data;
mod home;
mod training;

use lamplight_proto::{
    doctor::{Finding, Machine, Report, certificate, clock, disk, files, reach},
    settings::SettingsError,
};

use crate::{dir::NodeDir, settings::Loaded};
use home::Standing;

/// Looks at everything.
pub async fn examine(loaded: Result<Loaded, SettingsError>, machine: &dyn Machine) -> Report {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(e) => {
            return Report::of(vec![Finding::fault(
                "configuration",
                e.to_string(),
                "correct it and ask again: all other checks read it",
            )]);
        }
    };
    let mut findings = configuration(&loaded);
    let mut newest = None;
    let mut standing = Standing::Unknown;
    if let Ok(root) = loaded.dir() {
        let dir = NodeDir::at(root);
        if root.exists() {
            findings.extend(files::permissions(machine, root, &home::secrets(&dir)));
            findings.push(disk::speed(root));
            let (found, seen) = home::store(&dir);
            findings.push(found);
            (newest, standing) = home::standing(seen, &dir);
        } else {
            standing = Standing::Outside;
        }
        findings.extend(home::enrolment(&standing, &dir, &loaded));
        if let Standing::Enrolled(_) = standing {
            for (file, whose, renew) in [
                ("tls.crt", "the node's certificate", home::ENROL_ANEW),
                ("ca.crt", "the authority's certificate", home::ENROL_ANEW),
            ] {
                findings.push(certificate::life(machine, &root.join(file), whose, renew));
            }
        }
    }
    findings.extend(home::token(&standing, &loaded));

    let mut peer = None;
    if let (Ok(address), Some(trust)) = (loaded.coordinator(), home::trust(&loaded)) {
        let (finding, reached) = reach::coordinator(address, trust.as_trust()).await;
        findings.push(finding);
        peer = reached.and_then(|r| r.clock);
    }
    findings.push(clock::check(
        machine,
        newest,
        peer.map(|at| ("the coordinator", at)),
    ));

    let (found, data) = match loaded.source() {
        Ok(spec) => {
            let (found, data) = data::source(spec);
            (Some(found), data)
        }
        Err(_) => (None, None),
    };
    let mut newest_model = None;
    if let Ok(root) = loaded.dir()
        && root.exists()
    {
        let (found, newest) = training::models(&NodeDir::at(root));
        findings.extend(found);
        findings.push(training::room(machine, root, newest.as_ref()));
        newest_model = newest;
    }
    let (limits, data) = (loaded.limits(), data.as_ref());
    let keys = &loaded.settings.training;
    let lane = training::lane(keys);
    // Where the device does not open, that is the fault; what `auto` would be there is not known.
    let opened = lane.as_deref().ok();
    findings.push(training::memory(
        machine,
        &limits,
        opened.map_or(keys.precision, |lane| keys.precision.settled(lane)),
        newest_model.as_ref(),
        data,
    ));
    findings.push(training::energy(&limits));
    findings.push(training::device(machine, keys, &lane));
    findings.extend(opened.map(|lane| training::precision(keys.precision, lane)));
    findings.extend(found);
    Report::of(findings)
}

/// What `run` cannot do without.
fn configuration(loaded: &Loaded) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let needed = [
        loaded.dir().err(),
        loaded.coordinator().err(),
        loaded.source().err(),
    ];
    let mut findings: Vec<Finding> = (needed.into_iter().flatten())
        .map(|e| {
            Finding::fault(
                CHECK,
                e.to_string(),
                "`lamplight agent config example` shows it",
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "it can be read, and nothing is missing"));
    }
    findings
}
