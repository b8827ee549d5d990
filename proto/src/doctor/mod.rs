//! What `doctor` of both programs is made of: one question, one [`Finding`].
//!
//! A check looks and changes nothing: it takes no lock, opens databases to read, and removes the one
//! probe file it writes; so a doctor may call while the program is at work. What a check needs from the
//! machine comes through [`Machine`], so that a test can plant a full disk or a wrong clock.
//!
//! It is here, and not in one of the programs, because both have a directory with keys and
//! certificates of this crate's making, and a clock and a disk to mistrust.
//!
//! Reading order: [`Report`], [`Machine`], then the checks: [`disk`], [`files`], [`certificate`],
//! [`clock`], [`reach`].

pub mod certificate;
pub mod clock;
pub mod disk;
pub mod files;
mod machine;
pub mod reach;

use schemars::JsonSchema;
use serde::Serialize;

pub use machine::{Machine, ThisMachine};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but will not for long, or not well.
    Warning,
    /// It does not work.
    Fault,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// Which check, one word or two.
    pub check: &'static str,
    /// How bad it is.
    pub state: State,
    /// What was seen, in one plain sentence.
    pub says: String,
    /// What to do about it; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            says: says.into(),
            remedy: None,
        }
    }

    /// It works, but.
    pub fn warning(
        check: &'static str,
        says: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check,
            state: State::Warning,
            says: says.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// It does not work.
    pub fn fault(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Fault,
            ..Self::warning(check, says, remedy)
        }
    }
}

/// All findings, as `--json` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// Whether there is no fault; warnings are allowed.
    pub healthy: bool,
    /// The program's version.
    pub version: &'static str,
    /// In the order in which they were found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sums up.
    #[must_use]
    pub fn of(findings: Vec<Finding>) -> Self {
        Self {
            healthy: findings.iter().all(|f| f.state != State::Fault),
            version: crate::version::VERSION,
            findings,
        }
    }

    /// 0 when no fault was found, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.healthy)
    }

    /// The findings for people.
    #[must_use]
    pub fn text(&self) -> String {
        let widest = self.findings.iter().map(|f| f.check.len()).max();
        let width = widest.unwrap_or(0);
        let mut out = String::new();
        for f in &self.findings {
            let state = match f.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Fault => "FAULT",
            };
            out.push_str(&format!("{state:<7}  {:<width$}  {}\n", f.check, f.says));
            if let Some(remedy) = &f.remedy {
                out.push_str(&format!("{:7}  {:width$}  do: {remedy}\n", "", ""));
            }
        }
        let count = |state| self.findings.iter().filter(|f| f.state == state).count();
        out.push_str(&format!(
            "\n{} ok, {} warning(s), {} fault(s)\n",
            count(State::Ok),
            count(State::Warning),
            count(State::Fault)
        ));
        out
    }
}

/// Bytes for people.
#[must_use]
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A day for people, UTC.
#[must_use]
pub fn day(at: crate::ids::UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(
        |_| format!("{} ms after 1970", at.0),
        |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_healthy_and_a_fault_is_not() {
        let ok = Finding::ok("clock", "12 ms off");
        let warning = Finding::warning("certificate", "ends soon", "enrol again");
        let fault = Finding::fault("disk", "is full", "free some space");
        let report = Report::of(vec![ok.clone(), warning.clone()]);
        assert_eq!((report.healthy, report.exit_code()), (true, 0));
        let report = Report::of(vec![ok, warning, fault]);
        assert_eq!((report.healthy, report.exit_code()), (false, 1));
        let text = report.text();
        assert!(text.contains("FAULT    disk         is full\n"), "{text}");
        assert!(text.contains("do: free some space\n"), "{text}");
        assert!(text.ends_with("1 ok, 1 warning(s), 1 fault(s)\n"), "{text}");
    }

    #[test]
    fn bytes_and_days_are_for_people() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(300 << 20), "300 MiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!(day(crate::ids::UnixMillis(0)), "1970-01-01 00:00 UTC");
    }
}
