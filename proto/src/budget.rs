//! What a task may use of a node, at most.
//!
//! A task states a [`Budget`]; a node's own configuration states one, too. [`Budget::narrowed`] is
//! the only way to bring them together, and it can only take away.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Malformed, ids::UnixMillis, wire};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Windows a budget may name.
pub const MAX_WINDOWS: usize = 16;

/// A part of every day, in UTC; may go over midnight. `until` is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DailyWindow {
    from: u16,
    until: u16,
}

impl DailyWindow {
    /// From one minute of the day up to another.
    ///
    /// # Errors
    /// [`Malformed`] when a minute is past the day's end, or the window is empty.
    pub fn new(from: u16, until: u16) -> Result<Self, Malformed> {
        let bad = |fault: String| Err(Malformed::new("time window", fault));
        if from >= DAY || until >= DAY {
            return bad(format!(
                "minutes {from} and {until}; a day's are 0 to {}",
                DAY - 1
            ));
        }
        if from == until {
            return bad(format!(
                "it begins and ends at minute {from}; leave it out to allow the whole day"
            ));
        }
        Ok(Self { from, until })
    }

    fn has(self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

/// `22:00-06:00`.
impl fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (self.from, self.until);
        write!(f, "{:02}:{:02}-{:02}:{:02}", a / 60, a % 60, b / 60, b % 60)
    }
}

impl FromStr for DailyWindow {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = || {
            let shown: String = text.chars().take(40).collect();
            Malformed::new(
                "time window",
                format!("{shown:?} is not HH:MM-HH:MM in UTC, e.g. 22:00-06:00"),
            )
        };
        let minute = |t: &str| -> Option<u16> {
            let (h, m) = t.trim().split_once(':')?;
            let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
            if !digits(h) || !digits(m) {
                return None;
            }
            let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
            (h < 24 && m < 60).then_some(h * 60 + m)
        };
        let (from, until) = text.split_once('-').ok_or_else(bad)?;
        Self::new(
            minute(from).ok_or_else(bad)?,
            minute(until).ok_or_else(bad)?,
        )
    }
}

impl Serialize for DailyWindow {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DailyWindow {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(|e: Malformed| serde::de::Error::custom(e.fault))
    }
}

/// When something may be done: the minutes that lie in a window of *every* list. Each list is one
/// party's wish; an empty one wishes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Hours(Vec<Vec<DailyWindow>>);

impl Hours {
    /// Whether this instant is allowed.
    #[must_use]
    pub fn contain(&self, at: UnixMillis) -> bool {
        let minute = u16::try_from(at.0.div_euclid(60_000).rem_euclid(i64::from(DAY))).unwrap_or(0);
        self.allow(minute)
    }

    fn allow(&self, minute: u16) -> bool {
        let any = |windows: &Vec<DailyWindow>| {
            windows.is_empty() || windows.iter().any(|w| w.has(minute))
        };
        self.0.iter().all(any)
    }

    /// How long until the next allowed minute begins: nothing when this one is; `None` when none is.
    #[must_use]
    pub fn opens_in(&self, at: UnixMillis) -> Option<Duration> {
        let into = at.0.rem_euclid(60_000);
        (0..=i64::from(DAY)).find_map(|ahead| {
            let then = UnixMillis(at.0 - into + ahead * 60_000);
            self.contain(then).then(|| {
                let wait = (ahead * 60_000 - into).max(0);
                Duration::from_millis(wait.unsigned_abs())
            })
        })
    }

    /// Whether some minute of the day is allowed.
    #[must_use]
    pub fn ever(&self) -> bool {
        (0..DAY).any(|minute| self.allow(minute))
    }

    /// The windows, as one party wishes them.
    #[must_use]
    pub fn of(windows: &[DailyWindow]) -> Self {
        Self(vec![windows.to_vec()])
    }

    /// The minutes in both.
    #[must_use]
    pub fn and(mut self, other: &[DailyWindow]) -> Self {
        self.0.push(other.to_vec());
        self
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parties = self.0.iter().filter(|w| !w.is_empty());
        for (i, windows) in parties.enumerate() {
            if i > 0 {
                f.write_str(" and within ")?;
            }
            let shown: Vec<String> = windows.iter().map(ToString::to_string).collect();
            f.write_str(&shown.join(", "))?;
        }
        f.write_str(" UTC")
    }
}

/// What one round of a task may use of one node; `None` and no window mean no bound.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Working memory of training: parameters, gradients, moments, activations, samples. Bytes.
    pub memory_bytes: Option<u64>,
    /// Energy that training draws. Joules.
    pub energy_joules: Option<f64>,
    /// Model and delta over the network. Bytes.
    pub transfer_bytes: Option<u64>,
    /// When training may run; none means at any time.
    pub windows: Vec<DailyWindow>,
}

impl Budget {
    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_unbounded(&self) -> bool {
        *self == Self::default()
    }

    /// The smaller of both in everything, and when both allow it.
    #[must_use]
    pub fn narrowed(&self, by: &Self) -> Bounds {
        let less = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Bounds {
            memory_bytes: less(self.memory_bytes, by.memory_bytes),
            energy_joules: (self.energy_joules.into_iter())
                .chain(by.energy_joules)
                .reduce(f64::min),
            transfer_bytes: less(self.transfer_bytes, by.transfer_bytes),
            hours: Hours::of(&self.windows).and(&by.windows),
        }
    }
}

/// Two budgets brought together; made by [`Budget::narrowed`] alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bounds {
    /// See [`Budget::memory_bytes`].
    pub memory_bytes: Option<u64>,
    /// See [`Budget::energy_joules`].
    pub energy_joules: Option<f64>,
    /// See [`Budget::transfer_bytes`].
    pub transfer_bytes: Option<u64>,
    /// When both allow training.
    pub hours: Hours,
}

impl TryFrom<wire::Budget> for Budget {
    type Error = Malformed;
    fn try_from(b: wire::Budget) -> Result<Self, Malformed> {
        let bad = |fault: String| Malformed::new("budget", fault);
        if b.windows.len() > MAX_WINDOWS {
            return Err(bad(format!(
                "{} time windows, at most {MAX_WINDOWS} are taken",
                b.windows.len()
            )));
        }
        if !(b.energy_joules.is_finite() && b.energy_joules >= 0.0) {
            return Err(bad(format!(
                "energy_joules is {}, must be finite and not negative",
                b.energy_joules
            )));
        }
        let minute = |m: u32| u16::try_from(m).map_err(|_| bad(format!("minute {m} of a day")));
        let windows = (b.windows.iter())
            .map(|w| DailyWindow::new(minute(w.from_minute)?, minute(w.until_minute)?))
            .collect::<Result<_, _>>()?;
        let some = |n: u64| (n > 0).then_some(n);
        Ok(Self {
            memory_bytes: some(b.memory_bytes),
            energy_joules: (b.energy_joules > 0.0).then_some(b.energy_joules),
            transfer_bytes: some(b.transfer_bytes),
            windows,
        })
    }
}

impl From<&Budget> for wire::Budget {
    fn from(b: &Budget) -> Self {
        Self {
            memory_bytes: b.memory_bytes.unwrap_or(0),
            energy_joules: b.energy_joules.unwrap_or(0.0),
            transfer_bytes: b.transfer_bytes.unwrap_or(0),
            windows: (b.windows.iter())
                .map(|w| wire::DailyWindow {
                    from_minute: w.from.into(),
                    until_minute: w.until.into(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window() -> impl Strategy<Value = DailyWindow> {
        (0..DAY, 1..DAY).prop_map(|(from, length)| {
            DailyWindow::new(from, (from + length) % DAY).expect("not empty")
        })
    }

    fn budget() -> impl Strategy<Value = Budget> {
        (
            proptest::option::of(1_u64..1 << 40),
            proptest::option::of(0.1_f64..1e9),
            proptest::option::of(1_u64..1 << 40),
            proptest::collection::vec(window(), 0..4),
        )
            .prop_map(
                |(memory_bytes, energy_joules, transfer_bytes, windows)| Budget {
                    memory_bytes,
                    energy_joules,
                    transfer_bytes,
                    windows,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_brought_together_is_never_wider_than_either(
            a in budget(), b in budget(), minute in 0..DAY
        ) {
            let both = a.narrowed(&b);
            for one in [&a, &b] {
                for (both, one) in [
                    (both.memory_bytes, one.memory_bytes),
                    (both.transfer_bytes, one.transfer_bytes),
                ] {
                    prop_assert!(one.is_none_or(|one| both.is_some_and(|both| both <= one)));
                }
                let (both_j, one_j) = (both.energy_joules, one.energy_joules);
                prop_assert!(one_j.is_none_or(|one| both_j.is_some_and(|both| both <= one)));
                let at = UnixMillis(i64::from(minute) * 60_000);
                let alone = Hours::of(&one.windows).contain(at);
                prop_assert!(alone || !both.hours.contain(at));
            }
        }

        #[test]
        fn a_budget_comes_back_from_the_wire(b in budget()) {
            prop_assert_eq!(Budget::try_from(wire::Budget::from(&b)), Ok(b));
        }

        #[test]
        fn a_window_is_read_back_as_it_is_shown(w in window()) {
            prop_assert_eq!(w.to_string().parse::<DailyWindow>(), Ok(w));
        }
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let night: DailyWindow = "22:00-06:00".parse().unwrap();
        let hours = Hours::of(&[night]);
        let at = |h: i64, m: i64| UnixMillis(((20_000 * 24 + h) * 60 + m) * 60_000);
        assert!(hours.contain(at(22, 0)) && hours.contain(at(5, 59)));
        assert!(!hours.contain(at(6, 0)) && !hours.contain(at(21, 59)));
        assert_eq!(hours.opens_in(at(23, 5)), Some(Duration::ZERO));
        let before = UnixMillis(at(21, 58).0 + 1_500);
        assert_eq!(hours.opens_in(before), Some(Duration::from_millis(118_500)));
        assert_eq!(
            hours.opens_in(at(6, 0)),
            Some(Duration::from_secs(16 * 3600))
        );
        let never = hours.and(&["10:00-12:00".parse().unwrap()]);
        assert!(!never.ever() && never.opens_in(at(1, 0)).is_none());
        assert_eq!(never.to_string(), "22:00-06:00 and within 10:00-12:00 UTC");
        assert!(Hours::default().contain(at(3, 0)));
    }

    #[test]
    fn windows_that_are_none_are_refused() {
        for bad in [
            "",
            "22-06",
            "22:00-24:00",
            "22:60-23:00",
            "1:00-2:00",
            "08:00-08:00",
            "+1:00-02:00",
        ] {
            assert!(bad.parse::<DailyWindow>().is_err(), "{bad:?}");
        }
        let many = wire::Budget {
            windows: vec![
                wire::DailyWindow {
                    from_minute: 1,
                    until_minute: 2
                };
                MAX_WINDOWS + 1
            ],
            ..Default::default()
        };
        assert!(Budget::try_from(many).is_err());
        let nan = wire::Budget {
            energy_joules: f64::NAN,
            ..Default::default()
        };
        assert!(Budget::try_from(nan).is_err());
    }
}
