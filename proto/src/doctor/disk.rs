//! Room on the disk, and how quickly something is safely on it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Finding, Machine, bytes};

/// Bytes the probe writes: enough to see past a drive's own buffer on flash, little enough not to wear
/// it.
const PROBE_BYTES: usize = 2 << 20;
const BLOCK_BYTES: usize = 64 << 10;

/// Below this not even a small model fits beside database and log.
const LEAST_BYTES: u64 = 16 << 20;

/// Below this, every checkpoint and every commit is a long wait.
const SLOW_MB_PER_SECOND: f64 = 1.0;

const SPACE: &str = "disk space";

fn free(machine: &dyn Machine, dir: &Path) -> Result<u64, Finding> {
    machine.free_bytes(dir).map_err(|e| {
        Finding::fault(
            SPACE,
            format!("free space of {} cannot be asked: {e}", dir.display()),
            "check that the disk is mounted and the directory may be entered",
        )
    })
}

fn too_little(says: String) -> Finding {
    Finding::fault(
        SPACE,
        says,
        "free some space, or put `dir` on a larger disk",
    )
}

/// Whether `need` bytes, wanted for `what`, fit on the disk that holds `dir`.
#[must_use]
pub fn space(machine: &dyn Machine, dir: &Path, need: u64, what: &str) -> Finding {
    let free = match free(machine, dir) {
        Ok(free) => free,
        Err(finding) => return finding,
    };
    let says = format!(
        "{} free for {}; {what} may need {}",
        bytes(free),
        dir.display(),
        bytes(need)
    );
    if free < need {
        too_little(says)
    } else if free / 2 < need {
        Finding::warning(SPACE, says, "free some space before it is needed")
    } else {
        Finding::ok(SPACE, says)
    }
}

/// The same where no model is known yet. `typical` bytes are what a usual one takes, so less is no more
/// than a warning: the model that comes may be small.
#[must_use]
pub fn space_before_a_model(machine: &dyn Machine, dir: &Path, typical: u64) -> Finding {
    let free = match free(machine, dir) {
        Ok(free) => free,
        Err(finding) => return finding,
    };
    let at = format!("{} free for {}", bytes(free), dir.display());
    if free < LEAST_BYTES {
        let least = bytes(LEAST_BYTES);
        too_little(format!("{at}; the database and the log alone need {least}"))
    } else if free < typical {
        let says = format!(
            "{at}; no model is here yet, and a usual one takes {}",
            bytes(typical)
        );
        Finding::warning(SPACE, says, "free some space before a large model comes")
    } else {
        Finding::ok(SPACE, format!("{at}; no model is here yet"))
    }
}

/// Removes the probe's file, whatever happened.
struct Probe(PathBuf);

impl Drop for Probe {
    fn drop(&mut self) {
        // A file that was never made cannot be removed.
        let _ = fs::remove_file(&self.0);
    }
}

fn write(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!(".doctor.{}.tmp", std::process::id()));
    let probe = Probe(path);
    // Never over a file that is there.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .open(&probe.0)?;
    // Not zeros: some file systems do not write those.
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|i| (i * 31 % 251) as u8).collect();
    let start = Instant::now();
    for _ in 0..PROBE_BYTES / BLOCK_BYTES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(start.elapsed())
}

/// Writes a small file, waits until it is on the disk, removes it.
#[must_use]
pub fn speed(dir: &Path) -> Finding {
    const CHECK: &str = "disk speed";
    let took = match write(dir) {
        Ok(took) => took,
        Err(e) => {
            return Finding::fault(
                CHECK,
                format!("nothing can be written to {}: {e}", dir.display()),
                "check that the disk is mounted for writing and not full, and who owns the directory",
            );
        }
    };
    let rate = PROBE_BYTES as f64 / 1e6 / took.as_secs_f64().max(1e-6);
    let says = format!(
        "{rate:.1} MB/s safely written ({} in {:.0} ms)",
        bytes(PROBE_BYTES as u64),
        took.as_secs_f64() * 1e3
    );
    if rate < SLOW_MB_PER_SECOND {
        Finding::warning(
            CHECK,
            says,
            "use a faster card or disk, or see what else is writing to it",
        )
    } else {
        Finding::ok(CHECK, says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::{State, ThisMachine},
        ids::UnixMillis,
    };

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let finding = speed(dir.path());
        assert_ne!(finding.state, State::Fault, "{finding:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
        assert_eq!(speed(&dir.path().join("gone")).state, State::Fault);
    }

    #[test]
    fn space_is_judged_by_what_is_needed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = |need| space(&ThisMachine, dir.path(), need, "a model").state;
        let free = ThisMachine.free_bytes(dir.path()).expect("a disk");
        assert_eq!(state(0), State::Ok);
        assert_eq!(state(free.saturating_mul(2)), State::Fault);
        assert_eq!(state(free / 4 * 3), State::Warning);
        let gone = space(&ThisMachine, &dir.path().join("gone"), 0, "a model");
        assert_eq!(gone.state, State::Fault);
    }

    /// A disk with so much free.
    #[derive(Debug)]
    struct Free(u64);

    impl Machine for Free {
        fn now(&self) -> UnixMillis {
            ThisMachine.now()
        }
        fn free_bytes(&self, _: &Path) -> io::Result<u64> {
            Ok(self.0)
        }
        fn available_memory(&self) -> io::Result<u64> {
            ThisMachine.available_memory()
        }
        fn total_memory(&self) -> io::Result<u64> {
            ThisMachine.total_memory()
        }
        fn processors(&self) -> usize {
            ThisMachine.processors()
        }
        fn user(&self) -> Option<u32> {
            ThisMachine.user()
        }
    }

    #[test]
    fn a_small_disk_is_no_fault_before_a_model_is_known() {
        let state = |free| space_before_a_model(&Free(free), Path::new("/"), 64 << 20).state;
        assert_eq!(state(64 << 20), State::Ok);
        assert_eq!(state(63 << 20), State::Warning);
        assert_eq!(state(15 << 20), State::Fault);
    }
}
