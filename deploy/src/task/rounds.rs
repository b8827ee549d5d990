//! How many rounds a task file asks for, when, and of how many deltas.

use lamplight_proto::{
    bounds::{MAX_COHORT, MAX_ROUNDS, MAX_SECONDS},
    ids::UnixMillis,
    settings::{Document, SettingsError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Series, duration::Span};

/// The longest time that a round may take, or that may lie between two.
const LONGEST: Span = Span(std::time::Duration::from_secs(MAX_SECONDS as u64));

/// How many rounds, and when.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Rounds {
    /// How many rounds. Without it: one, or with `every` no bound.
    count: Option<u32>,
    /// A round begins this often, e.g. "6h"; without it, as soon as the last one has ended.
    #[schemars(with = "Option<String>")]
    every: Option<Span>,
    /// No round begins from then on, e.g. "2027-03-01T00:00:00Z". Only with `every`.
    until: Option<String>,
    /// How long a round may collect deltas, e.g. "1h".
    #[schemars(with = "String")]
    deadline: Span,
    /// With fewer deltas at the deadline the round is abandoned.
    minimum_deltas: u32,
    /// As many deltas close a round before its deadline; without it, those of the whole cohort.
    target_deltas: Option<u32>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            count: None,
            every: None,
            until: None,
            deadline: Span(std::time::Duration::from_secs(3600)),
            minimum_deltas: 1,
            target_deltas: None,
        }
    }
}

impl Rounds {
    /// The series of a task that names so many nodes (0: all), at this time.
    ///
    /// # Errors
    /// The first fault, with its line.
    pub(super) fn series(
        &self,
        document: &Document,
        nodes: usize,
        now: UnixMillis,
    ) -> Result<Series, SettingsError> {
        let bad = |key: &str, fault: String| Err(document.fault(key, fault));
        match self.count {
            Some(0) => {
                let rule =
                    "is 0, must be 1 or more; leave it out together with `every` for no bound";
                return bad("rounds.count", rule.to_owned());
            }
            Some(count) if count > MAX_ROUNDS => {
                let rule = format!(
                    "is {count}, must be {MAX_ROUNDS} or less; with `every`, leave it out for no bound"
                );
                return bad("rounds.count", rule);
            }
            _ => {}
        }
        for (key, span) in [("deadline", Some(self.deadline)), ("every", self.every)] {
            if let Some(span) = span.filter(|span| span.0 > LONGEST.0) {
                let rule = format!("is {span}, must be {LONGEST} or less; name a shorter time");
                return bad(&format!("rounds.{key}"), rule);
            }
        }
        let until = self.until(document, now)?;
        if self.minimum_deltas == 0 {
            let rule = "is 0, must be 1 or more: a release is made of deltas";
            return bad("rounds.minimum_deltas", rule.to_owned());
        }
        if let Some(target) = self.target_deltas
            && target < self.minimum_deltas
        {
            return bad(
                "rounds.target_deltas",
                format!(
                    "is {target}, below minimum_deltas {}; raise it, or leave it out for the whole cohort",
                    self.minimum_deltas
                ),
            );
        }
        // One node delivers one delta a round.
        let most = if nodes == 0 { MAX_COHORT } else { nodes };
        for (key, deltas) in [
            ("minimum_deltas", Some(self.minimum_deltas)),
            ("target_deltas", self.target_deltas),
        ] {
            if let Some(deltas) = deltas.filter(|&n| n as usize > most) {
                let rule = match nodes {
                    0 => format!("is {deltas}, and a round takes at most {most} nodes; lower it"),
                    n => format!(
                        "is {deltas}, but `cohort.nodes` names {n}, and each delivers one; lower it, \
                         or name more nodes"
                    ),
                };
                return bad(&format!("rounds.{key}"), rule);
            }
        }
        Ok(Series {
            rounds: match (self.count, self.every) {
                (Some(count), _) => count,
                (None, Some(_)) => 0,
                (None, None) => 1,
            },
            every: self.every.map(|s| s.0),
            until,
            target: self.target_deltas.unwrap_or(0),
            minimum: self.minimum_deltas,
            deadline: self.deadline.0,
        })
    }

    fn until(
        &self,
        document: &Document,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, SettingsError> {
        let bad = |fault: String| Err(document.fault("rounds.until", fault));
        let Some(text) = &self.until else {
            return Ok(None);
        };
        if self.every.is_none() {
            let rule = "is for tasks that recur; add `every`, e.g. every = \"6h\"";
            return bad(rule.to_owned());
        }
        let Ok(until) = text.parse::<jiff::Timestamp>() else {
            return bad(format!(
                "is {text:?}, which is no time; write one with its offset, e.g. \
                 \"2027-03-01T00:00:00Z\""
            ));
        };
        let until = UnixMillis(until.as_millisecond());
        if until <= now {
            return bad(format!(
                "is {text:?}, which is past by this machine's clock; name a later time, or leave it \
                 out for no end"
            ));
        }
        Ok(Some(until))
    }
}
