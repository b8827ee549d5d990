//! Keys and certificates of the fleet.

use std::{fs, net::SocketAddr, path::Path, path::PathBuf};

use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::parse_x509_certificate;

use lamplight_proto::{
    doctor::{
        Finding, Machine,
        certificate::{Facts, life},
    },
    keys::{KeyError, SigningKey},
    tls::{self, TlsError},
};

use crate::dir::StateDir;

/// Good on this machine only.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const RESTORE: &str = "restore both files from a backup of the directory";

fn operators(dir: &StateDir) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.path().join("operators")) else {
        return Vec::new();
    };
    let mut homes: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    homes.sort();
    homes
}

/// Files that only the coordinator may read.
pub(super) fn secrets(dir: &StateDir) -> Vec<PathBuf> {
    let own = [dir.authority_key(), dir.server_key(), dir.release_key()];
    let theirs = operators(dir).into_iter().map(|home| home.join("tls.key"));
    own.into_iter().chain(theirs).collect()
}

/// Whether the release key is the one whose public half was told to everybody.
pub(super) fn release_key(dir: &StateDir) -> Finding {
    const CHECK: &str = "release key";
    let (secret, public) = (dir.release_key(), dir.files().release_pub());
    let fault = |says: String| Finding::fault(CHECK, says, RESTORE);
    // Never made anew: nobody would believe a fresh one.
    if !secret.is_file() {
        return fault(format!(
            "{} is missing: nothing can be signed",
            secret.display()
        ));
    }
    let key = match SigningKey::load_or_create(&secret) {
        Ok(key) => key,
        // Told by `permissions`.
        Err(KeyError::Exposed { .. }) => {
            return Finding::warning(
                CHECK,
                format!("{} was not read, it is open to others", secret.display()),
                format!("chmod 600 {}", secret.display()),
            );
        }
        Err(e) => return fault(e.to_string()),
    };
    match fs::read_to_string(&public) {
        Ok(text) if text.trim() == hex::encode(key.public()) => {
            Finding::ok(CHECK, format!("{} fits its public half", secret.display()))
        }
        Ok(_) => fault(format!(
            "{} and {} do not fit",
            secret.display(),
            public.display()
        )),
        Err(e) => fault(format!("{} cannot be read: {e}", public.display())),
    }
}

/// Whether a certificate was made for a key.
fn pair(certificate: &Path, key: &Path) -> Result<bool, TlsError> {
    let certificate = tls::read_certificate(certificate)?;
    let key = tls::read_private_key(key)?;
    let of_key = KeyPair::try_from(&key)
        .ok()
        .map(|k| k.subject_public_key_info());
    let of_certificate = parse_x509_certificate(&certificate)
        .ok()
        .map(|(_, c)| c.public_key().raw.to_vec());
    Ok(of_key.is_some() && of_key == of_certificate)
}

/// Whether certificates hold, fit their keys, and name hosts that nodes can call.
pub(super) fn certificates(
    machine: &dyn Machine,
    dir: &StateDir,
    listen: SocketAddr,
) -> Vec<Finding> {
    const CHECK: &str = "certificate";
    let restart = "restart the coordinator, which renews it";
    let server = dir.server_certificate();
    let authority = dir.authority_certificate();
    let mut findings = vec![
        life(
            machine,
            &authority,
            "the authority's",
            "make a new deployment and enrol the nodes anew",
        ),
        life(machine, &server, "the server's", restart),
    ];
    for (certificate, key) in [
        (&authority, dir.authority_key()),
        (&server, dir.server_key()),
    ] {
        let says = match pair(certificate, &key) {
            // Exposed keys are told by `permissions`.
            Ok(true) | Err(TlsError::Key(KeyError::Exposed { .. })) => continue,
            Ok(false) => format!("{} and {} do not fit", certificate.display(), key.display()),
            Err(e) => e.to_string(),
        };
        findings.push(Finding::fault(CHECK, says, RESTORE));
    }
    findings.extend(hosts(&server, listen));
    for home in operators(dir) {
        let name = home
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let renew = "operators' certificates are not renewed yet: make a new deployment in time";
        let whose = format!("operator {name}'s");
        findings.push(life(machine, &home.join("tls.crt"), &whose, renew));
    }
    findings
}

/// Whether nodes elsewhere can call the server by a name that its certificate holds.
fn hosts(certificate: &Path, listen: SocketAddr) -> Option<Finding> {
    const CHECK: &str = "host names";
    let der = tls::read_certificate(certificate).ok()?;
    let all = Facts::read(&der)?.hosts;
    let elsewhere: Vec<&String> = all
        .iter()
        .filter(|h| !LOCAL.contains(&h.as_str()))
        .collect();
    if elsewhere.is_empty() && !listen.ip().is_loopback() {
        return Some(Finding::warning(
            CHECK,
            format!(
                "it listens on {listen}, but its certificate names only this machine ({})",
                all.join(", ")
            ),
            "nodes elsewhere need a name: make the deployment with `lamplight init --host NAME`",
        ));
    }
    Some(Finding::ok(
        CHECK,
        format!("the certificate names {}", all.join(", ")),
    ))
}
