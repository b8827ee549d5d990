//! What the system tells of a process: how large it is, how large it was at most, how much processor
//! time it used. Linux tells it in `/proc`; elsewhere nothing is known.

use std::{fs, path::PathBuf};

/// A process as `/proc` has it.
#[derive(Debug, Clone)]
pub struct Process {
    dir: PathBuf,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn own() -> Self {
        Self {
            dir: PathBuf::from("/proc/self"),
        }
    }

    /// The one with this id.
    #[must_use]
    pub fn of(id: u32) -> Self {
        Self {
            dir: PathBuf::from(format!("/proc/{id}")),
        }
    }

    /// Bytes in memory now.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        self.size("VmRSS")
    }

    /// Most bytes that were in memory at once, since the process began or [`Process::reset_peak`].
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        self.size("VmHWM")
    }

    /// Begins a new peak. Where the system does not allow it, the old one goes on: figures over it are
    /// then too large, never too small.
    pub fn reset_peak(&self) {
        if let Err(e) = fs::write(self.dir.join("clear_refs"), "5") {
            tracing::debug!("the peak of memory cannot be begun anew: {e}");
        }
    }

    /// Seconds of processor time, of all threads, in the system and outside.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(&fs::read_to_string(self.dir.join("stat")).ok()?)
    }

    fn size(&self, field: &str) -> Option<u64> {
        size(&fs::read_to_string(self.dir.join("status")).ok()?, field)
    }
}

/// A line like `VmHWM:     6024 kB`.
fn size(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    let kib = line.strip_prefix(':')?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The name in parentheses may hold spaces and parentheses; user and system time are the 12th and 13th
/// field behind it, in hundredths of a second on every Linux.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}

/// The processor's name.
#[must_use]
pub fn processor() -> Option<String> {
    processor_in(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn processor_in(cpuinfo: &str) -> Option<String> {
    // Small boards name the board where others name the processor.
    ["model name", "Model"].into_iter().find_map(|key| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    })
}

/// Vector instructions that matter to products, of those this processor has.
#[must_use]
pub fn vector_instructions() -> Vec<&'static str> {
    let mut has = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        has.extend(all.into_iter().filter(|(_, is)| *is).map(|(name, _)| name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected;
        let all = [
            ("neon", is_aarch64_feature_detected!("neon")),
            ("dotprod", is_aarch64_feature_detected!("dotprod")),
            ("bf16", is_aarch64_feature_detected!("bf16")),
            ("i8mm", is_aarch64_feature_detected!("i8mm")),
        ];
        has.extend(all.into_iter().filter(|(_, is)| *is).map(|(name, _)| name));
    }
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_system_are_read_and_others_are_not() {
        let status = "Name:\tx\nVmHWM:\t    6024 kB\nVmRSS:\t     512 kB\nVmRSSx:\t 1 kB\n";
        assert_eq!(size(status, "VmHWM"), Some(6024 * 1024));
        assert_eq!(size(status, "VmRSS"), Some(512 * 1024));
        for odd in [
            "",
            "VmRSS: many kB",
            "VmRSS: 12",
            "VmRSS: 18446744073709551615 kB",
        ] {
            assert_eq!(size(odd, "VmRSS"), None, "{odd}");
        }
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
        let info = "processor : 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n";
        assert_eq!(processor_in(info).as_deref(), Some("AMD EPYC"));
        let board = "Hardware : BCM\nModel : Raspberry Pi 4\n";
        assert_eq!(processor_in(board).as_deref(), Some("Raspberry Pi 4"));
        assert_eq!(processor_in("flags: fpu"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_was_touched_shows_in_the_peak() {
        let own = Process::own();
        own.reset_peak();
        let before = own.resident().expect("Linux tells");
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(own.peak().expect("Linux tells") >= 64 << 20);
        assert!(own.resident().expect("Linux tells") > before / 2);
        drop(block);
        assert!(own.cpu_seconds().expect("Linux tells") >= 0.0);
        assert!(Process::of(std::process::id()).peak().is_some());
        assert!(Process::of(u32::MAX).peak().is_none());
    }
}
