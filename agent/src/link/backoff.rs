//! How long to wait before a call is repeated.

use std::time::Duration;

use lamplight_proto::keys;

/// Exponential backoff with full jitter: the n-th wait is uniform between `first` and
/// `first * 2^n`, at most `longest`.
///
/// Jitter keeps a fleet that lost its coordinator together from coming back together.
/// # Source
/// M. Brooker, "Exponential Backoff And Jitter", 2015.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For calls to the coordinator: soon at first, for it may just be restarting; at most a minute.
    pub const LINK: Self = Self::new(Duration::from_millis(200), Duration::from_secs(60));

    /// Waits between these two.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A call went well, or made progress.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        // Without randomness the middle is as good a guess as any.
        let share = keys::random::<4>().map_or(0.5, |b| {
            f64::from(u32::from_le_bytes(b)) / f64::from(u32::MAX)
        });
        self.wait_at(share)
    }

    fn wait_at(&mut self, share: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(self.failures.min(30)).unwrap_or(u32::MAX));
        let longest = doubled.min(self.longest).max(self.first);
        self.first + (longest - self.first).mul_f64(share.clamp(0.0, 1.0))
    }
}

/// Up to a tenth more than a suggested wait, so that nodes that heard the same number drift apart.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    let share = keys::random::<2>().map_or(0.0, |b| f64::from(u16::from_le_bytes(b)) / 65_535.0);
    wait + wait.mul_f64(share / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_a_success_begins_anew() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let waits: Vec<u128> = (0..8).map(|_| b.wait_at(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
        b.reset();
        assert_eq!(b.wait_at(1.0).as_millis(), 200);
        for _ in 0..100 {
            assert!(b.wait_at(0.0) >= Duration::from_millis(100));
            let w = b.wait();
            assert!(w >= Duration::from_millis(100) && w <= Duration::from_secs(2));
        }
    }

    #[test]
    fn jitter_only_adds_and_at_most_a_tenth() {
        for _ in 0..100 {
            let w = jittered(Duration::from_secs(10));
            assert!(w >= Duration::from_secs(10) && w <= Duration::from_secs(11));
        }
    }
}
