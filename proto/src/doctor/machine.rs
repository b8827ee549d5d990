//! What a check asks the machine.

use std::{fmt::Debug, io, path::Path};

use crate::ids::UnixMillis;

/// The machine a program runs on.
pub trait Machine: Debug + Send + Sync {
    /// The clock.
    fn now(&self) -> UnixMillis;

    /// Bytes a program may still write to the file system that holds `path`.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Bytes of memory a program may still take: of the machine, or of its control group if that is
    /// less.
    ///
    /// # Errors
    /// Where the system does not tell.
    fn available_memory(&self) -> io::Result<u64>;

    /// Bytes of memory there are, in use or not: of the machine, or of its control group if that is less.
    ///
    /// # Errors
    /// Where the system does not tell.
    fn total_memory(&self) -> io::Result<u64>;

    /// Processors there are.
    fn processors(&self) -> usize;

    /// The user this program runs as; `None` where there are no such numbers.
    fn user(&self) -> Option<u32>;
}

/// The true one.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn now(&self) -> UnixMillis {
        UnixMillis::now()
    }

    #[cfg(unix)]
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(path)?;
        // What is kept for root is not counted; widths differ between systems.
        #[allow(
            clippy::useless_conversion,
            reason = "u32 on some systems, u64 on others"
        )]
        let (blocks, size) = (
            u64::from(disk.blocks_available()),
            u64::from(disk.fragment_size()),
        );
        Ok(blocks.saturating_mul(size))
    }

    #[cfg(not(unix))]
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn available_memory(&self) -> io::Result<u64> {
        let mut system = sysinfo::System::new().map_err(io::Error::other)?;
        system.refresh_memory();
        let of_group = system.cgroup_limits().map(|group| group.free_memory);
        match system.available_memory() {
            0 => Err(io::ErrorKind::Unsupported.into()),
            of_machine => Ok(of_group.map_or(of_machine, |group| group.min(of_machine))),
        }
    }

    fn total_memory(&self) -> io::Result<u64> {
        let mut system = sysinfo::System::new().map_err(io::Error::other)?;
        system.refresh_memory();
        let of_group = system.cgroup_limits().map(|group| group.total_memory);
        match system.total_memory() {
            0 => Err(io::ErrorKind::Unsupported.into()),
            of_machine => Ok(of_group.map_or(of_machine, |group| group.min(of_machine))),
        }
    }

    fn processors(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    #[cfg(unix)]
    fn user(&self) -> Option<u32> {
        Some(nix::unistd::geteuid().as_raw())
    }

    #[cfg(not(unix))]
    fn user(&self) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_disk_memory_and_a_processor() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(ThisMachine.free_bytes(dir.path()).expect("a disk") > 0);
        assert!(ThisMachine.available_memory().expect("memory") > 1 << 20);
        let total = ThisMachine.total_memory().expect("memory");
        assert!(ThisMachine.available_memory().expect("memory") <= total);
        assert!(ThisMachine.processors() >= 1);
        assert!(ThisMachine.free_bytes(&dir.path().join("gone")).is_err());
    }
}
