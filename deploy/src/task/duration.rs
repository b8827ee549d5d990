//! Spans of time as people write them: `90s`, `45min`, `6h`, `1d 12h`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A span of whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(40).collect();
        let bad = || {
            format!(
                "{shown:?} is no span of time with units; write e.g. \"90s\", \"45min\", \"6h\" or \
                 \"1d 12h\""
            )
        };
        // Days are 24 hours here: a task knows no time zone.
        let mut total = jiff::SignedDuration::ZERO;
        for part in text.split_whitespace() {
            let span = match part.strip_suffix('d').map(str::parse::<i64>) {
                Some(Ok(days)) => jiff::SignedDuration::try_from_hours(days.saturating_mul(24)),
                _ => part.parse().ok(),
            };
            total = span.and_then(|s| total.checked_add(s)).ok_or_else(bad)?;
        }
        let duration = Duration::try_from(total).map_err(|_| bad())?;
        if duration.as_secs() == 0 || duration.subsec_nanos() != 0 {
            return Err(format!(
                "{shown:?} is no span of whole seconds, one at least"
            ));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        let mut first = true;
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
            let n = left / size;
            left %= size;
            if n > 0 {
                let space = if first { "" } else { " " };
                write!(f, "{space}{n}{unit}")?;
                first = false;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them_and_shown_so_again() {
        for (text, seconds) in [
            ("90s", 90),
            ("45min", 2_700),
            ("45m", 2_700),
            ("6h", 21_600),
            ("1h 30m", 5_400),
            ("1d 12h", 129_600),
        ] {
            let span = Span::parse(text).expect(text);
            assert_eq!(span.0.as_secs(), seconds, "{text}");
            assert_eq!(Span::parse(&span.to_string()), Ok(span), "{text}");
        }
    }

    #[test]
    fn what_has_no_unit_or_no_length_is_refused() {
        for bad in [
            "",
            "6",
            "six hours",
            "0s",
            "-1h",
            "1.5s",
            "99999999999999999d",
            "500ms",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad:?}");
        }
    }
}
