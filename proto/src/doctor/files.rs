//! Who may read and write what. Mode bits are judged, not tried out: for root everything works.

use std::{fs, path::Path, path::PathBuf};

use super::{Finding, Machine};

/// Whether `dir` is a directory of ours that its owner, and nobody else, may write to, and every file of
/// `secrets` that is there belongs to the same owner and is closed to all others.
#[must_use]
pub fn permissions(machine: &dyn Machine, dir: &Path, secrets: &[PathBuf]) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let directory = match fs::metadata(dir) {
        Ok(m) if m.is_dir() => m,
        Ok(_) => {
            return vec![Finding::fault(
                CHECK,
                format!("{} is no directory", dir.display()),
                "correct `dir`",
            )];
        }
        Err(e) => {
            return vec![Finding::fault(
                CHECK,
                format!("{} cannot be read: {e}", dir.display()),
                "correct `dir`, or mount the disk that holds it",
            )];
        }
    };
    let mut findings = Vec::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let here = dir.display();
        let mode = directory.mode() & 0o777;
        let owner = directory.uid();
        // Root looks after other users' programs.
        if machine.user().is_some_and(|me| me != 0 && me != owner) {
            findings.push(Finding::fault(
                CHECK,
                format!("{here} belongs to user {owner}, not to the one that runs this"),
                format!("run as its owner, or: chown -R $(id -u) {here}"),
            ));
        }
        if mode & 0o300 != 0o300 {
            findings.push(Finding::fault(
                CHECK,
                format!("{here} is closed to its own owner's writes (mode {mode:04o})"),
                format!("chmod 700 {here}"),
            ));
        }
        if mode & 0o022 != 0 {
            findings.push(Finding::fault(
                CHECK,
                format!("{here} may be written by others (mode {mode:04o})"),
                format!("chmod 700 {here}"),
            ));
        }
        for path in secrets {
            let Ok(file) = fs::metadata(path) else {
                continue;
            };
            let mode = file.mode() & 0o777;
            if mode & 0o077 != 0 {
                findings.push(Finding::fault(
                    CHECK,
                    format!("{} is open to others (mode {mode:04o})", path.display()),
                    format!(
                        "chmod 600 {0}; if others may have read it, treat the key as lost",
                        path.display()
                    ),
                ));
            }
            if file.uid() != owner {
                findings.push(Finding::fault(
                    CHECK,
                    format!(
                        "{} belongs to user {}, the directory to user {owner}",
                        path.display(),
                        file.uid()
                    ),
                    format!("chown {owner} {}", path.display()),
                ));
            }
        }
    }
    #[cfg(not(unix))]
    let _ = (machine, secrets, directory);
    if findings.is_empty() {
        let there = secrets.iter().filter(|path| path.exists()).count();
        findings.push(Finding::ok(
            CHECK,
            format!(
                "{} and {there} secret file(s) are closed to others",
                dir.display()
            ),
        ));
    }
    findings
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::doctor::{State, ThisMachine};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn open_secrets_and_a_closed_or_open_directory_are_faults_for_root_too() {
        let temp = tempfile::tempdir().expect("temp dir");
        let dir = temp.path().join("node");
        fs::create_dir(&dir).expect("made");
        let key = dir.join("tls.key");
        fs::write(&key, b"secret").expect("written");
        let secrets = [key.clone(), dir.join("absent.key")];
        let look = || permissions(&ThisMachine, &dir, &secrets);
        chmod(&dir, 0o700);
        chmod(&key, 0o600);
        assert_eq!(look().len(), 1);
        assert_eq!(look()[0].state, State::Ok, "{:?}", look());
        chmod(&key, 0o644);
        assert!(look()[0].says.contains("open to others (mode 0644)"));
        assert!(
            look()[0]
                .remedy
                .as_ref()
                .expect("one")
                .contains("chmod 600")
        );
        chmod(&key, 0o600);
        for (mode, says) in [(0o500, "own owner's writes"), (0o722, "written by others")] {
            chmod(&dir, mode);
            assert!(look()[0].says.contains(says), "{:?}", look());
        }
        chmod(&dir, 0o700);
        assert_eq!(permissions(&ThisMachine, &key, &[])[0].state, State::Fault);
        let gone = permissions(&ThisMachine, &dir.join("gone"), &[]);
        assert_eq!(gone[0].state, State::Fault);
    }
}
