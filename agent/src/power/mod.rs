//! What training costs in energy.
//!
//! ```text
//!   powercap (Linux, RAPL) ──┐
//!                            ├─> Meter::joules()
//!   watts assumed × time ────┘
//! ```
//!
//! The kernel's powercap counters give what whole processor packages have drawn, other programs
//! included: an upper bound of what training drew. Boards without such counters are told by
//! configuration what they draw.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// Where Linux shows its power counters.
pub const POWERCAP: &str = "/sys/class/powercap";

/// A counter of microjoules that begins again at its range.
#[derive(Debug)]
struct Package {
    counter: PathBuf,
    range: u64,
    last: u64,
}

#[derive(Debug)]
enum Source {
    Packages(Vec<Package>),
    Assumed { watts: f64, since: Instant },
}

/// Counts energy from the moment it is opened.
#[derive(Debug)]
pub struct Meter {
    source: Source,
    microjoules: u64,
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The packages whose counters can be read; dies and memory inside them would count twice.
fn packages(root: &Path) -> Vec<Package> {
    let Ok(zones) = fs::read_dir(root) else {
        return Vec::new();
    };
    let readable = |zone: PathBuf| {
        let name = fs::read_to_string(zone.join("name")).ok()?;
        if !name.trim().starts_with("package-") {
            return None;
        }
        let counter = zone.join("energy_uj");
        Some(Package {
            range: number(&zone.join("max_energy_range_uj")).filter(|&r| r > 0)?,
            last: number(&counter)?,
            counter,
        })
    };
    zones.flatten().filter_map(|z| readable(z.path())).collect()
}

impl Meter {
    /// The counters below `root`; where there are none, `watts` over time; `None` without either.
    #[must_use]
    pub fn open(root: &Path, watts: Option<f64>) -> Option<Self> {
        let packages = packages(root);
        let source = if packages.is_empty() {
            Source::Assumed {
                watts: watts?,
                since: Instant::now(),
            }
        } else {
            Source::Packages(packages)
        };
        Some(Self {
            source,
            microjoules: 0,
        })
    }

    /// Energy drawn since the meter was opened, in joules. To be asked more often than a counter goes
    /// round, which takes a minute at the least.
    pub fn joules(&mut self) -> f64 {
        match &mut self.source {
            Source::Assumed { watts, since } => *watts * since.elapsed().as_secs_f64(),
            Source::Packages(packages) => {
                for p in packages {
                    // A counter that cannot be read for once is read the next time.
                    let Some(now) = number(&p.counter) else {
                        continue;
                    };
                    let drawn = match now.checked_sub(p.last) {
                        Some(drawn) => drawn,
                        None => p.range.saturating_sub(p.last).saturating_add(now),
                    };
                    self.microjoules = self.microjoules.saturating_add(drawn);
                    p.last = now;
                }
                self.microjoules as f64 / 1e6
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, dir: &str, name: &str, energy: u64) -> PathBuf {
        let zone = root.join(dir);
        fs::create_dir_all(&zone).expect("made");
        fs::write(zone.join("name"), format!("{name}\n")).expect("written");
        fs::write(zone.join("max_energy_range_uj"), "10000000\n").expect("written");
        let counter = zone.join("energy_uj");
        fs::write(&counter, format!("{energy}\n")).expect("written");
        counter
    }

    #[test]
    fn packages_add_up_go_round_and_their_parts_do_not_count_twice() {
        let root = tempfile::tempdir().expect("a directory");
        let a = zone(root.path(), "intel-rapl:0", "package-0", 9_000_000);
        let b = zone(root.path(), "intel-rapl:1", "package-1", 1_000_000);
        let core = zone(root.path(), "intel-rapl:0:0", "core", 5);
        let mut meter = Meter::open(root.path(), Some(1e9)).expect("counters");
        assert_eq!(meter.joules(), 0.0);
        fs::write(&a, "500000").expect("went round");
        fs::write(&b, "3000000").expect("written");
        fs::write(&core, "9000000").expect("written");
        assert_eq!(meter.joules(), 1.5 + 2.0);
        fs::write(&b, "nonsense").expect("written");
        assert_eq!(meter.joules(), 3.5);
        fs::write(&b, "4000000").expect("written");
        assert_eq!(meter.joules(), 4.5);
    }

    #[test]
    fn without_counters_watts_are_assumed_or_there_is_no_meter() {
        let nowhere = Path::new("no/such/directory");
        assert!(Meter::open(nowhere, None).is_none());
        let mut meter = Meter::open(nowhere, Some(1e6)).expect("assumed");
        let first = meter.joules();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(meter.joules() > first);
    }
}
