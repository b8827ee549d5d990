//! Whether the clock can be right.

use std::time::Duration;

use super::{Finding, Machine, day};
use crate::ids::UnixMillis;

/// A clock that is off by more than this makes daily windows, logs and young certificates lie.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// When this was written: no clock is right that shows less.
const NOT_BEFORE: UnixMillis = UnixMillis(1_767_225_600_000); // 2026-01-01
const NOT_AFTER: UnixMillis = UnixMillis(4_102_444_800_000); // 2100-01-01

const REMEDY: &str = "set it, e.g. let chrony or systemd-timesyncd run, and see that the battery of \
                      the clock holds";

/// Judges the clock by its year, by the newest time that was ever written down here (`newest`, if there
/// is any), and by another machine's clock (`peer`, with its name).
#[must_use]
pub fn check(
    machine: &dyn Machine,
    newest: Option<UnixMillis>,
    peer: Option<(&str, UnixMillis)>,
) -> Finding {
    const CHECK: &str = "clock";
    let now = machine.now();
    let shows = format!("the clock shows {}", day(now));
    if now < NOT_BEFORE || now > NOT_AFTER {
        let says = format!("{shows}, which cannot be");
        return Finding::fault(CHECK, says, REMEDY);
    }
    if let Some(newest) = newest.filter(|newest| *newest > now.after(TOLERANCE)) {
        let says = format!("{shows}, but {} was written down here before", day(newest));
        return Finding::fault(CHECK, says, REMEDY);
    }
    let Some((whose, theirs)) = peer else {
        return Finding::ok(
            CHECK,
            format!("{shows}; there was no other to compare it with"),
        );
    };
    let off = now.0.abs_diff(theirs.0);
    if u128::from(off) > TOLERANCE.as_millis() {
        let (seconds, way) = (off / 1000, if now > theirs { "ahead of" } else { "behind" });
        let says = format!("{shows}, {seconds} s {way} {whose}'s");
        return Finding::fault(CHECK, says, REMEDY);
    }
    let says = format!("{shows}, {:.1} s off {whose}'s", off as f64 / 1e3);
    Finding::ok(CHECK, says)
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;
    use crate::doctor::State;

    #[derive(Debug)]
    struct At(i64);

    impl Machine for At {
        fn now(&self) -> UnixMillis {
            UnixMillis(self.0)
        }
        fn free_bytes(&self, _: &Path) -> io::Result<u64> {
            Ok(0)
        }
        fn available_memory(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn total_memory(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn processors(&self) -> usize {
            1
        }
        fn user(&self) -> Option<u32> {
            None
        }
    }

    #[test]
    fn a_clock_is_judged_by_its_year_its_own_past_and_another_clock() {
        let now = 1_790_000_000_000;
        let ago = |seconds: i64| UnixMillis(now - seconds * 1000);
        let state = |at: i64, newest, peer| check(&At(at), newest, peer).state;
        assert_eq!(state(now, None, None), State::Ok);
        assert_eq!(state(0, None, None), State::Fault);
        assert_eq!(state(5_000_000_000_000, None, None), State::Fault);
        assert_eq!(state(now, Some(ago(10)), None), State::Ok);
        // A little back is what time services do.
        assert_eq!(state(now, Some(ago(-10)), None), State::Ok);
        assert_eq!(state(now, Some(ago(-3600)), None), State::Fault);
        let peer = |seconds| Some(("the coordinator", ago(seconds)));
        assert_eq!(state(now, None, peer(2)), State::Ok);
        assert_eq!(state(now, None, peer(600)), State::Fault);
        let behind = check(&At(now), None, peer(-600));
        assert!(
            behind.says.contains("600 s behind the coordinator's"),
            "{behind:?}"
        );
    }
}
