//! What an agent must know to do a task as asked.
//!
//! An agent that is older than a field of an offer does not see the field, and would quietly do
//! another task than the one asked for. So an offer names the features it cannot do without, and
//! one table says since which version agents know them:
//!
//! - the coordinator does not offer such work to an agent that is too old ([`lacking`]), above all
//!   not to one of 0.1, which does not even know that offers have needs;
//! - an agent declines an offer with a need it does not know ([`unknown`]).
//!
//! A field that an agent may ignore without harm needs no line in the table.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Malformed,
    offer::{RoundOffer, Trainable, clip},
    version::ProgramVersion,
};

/// Needs one offer may name.
pub const MAX_NEEDS: usize = 32;

/// Longest name of a need, in bytes.
pub const MAX_NEED_BYTES: usize = 32;

/// The first version whose agents know that offers have needs.
const V0_2: ProgramVersion = ProgramVersion::new(0, 2, 0);

/// Every feature an offer may need. Lines are added, never changed or removed: offers of other
/// builds name them.
pub const KNOWN_NEEDS: &[Feature] = &[
    // An older agent would send a delta of every parameter.
    Feature {
        name: "trainable",
        since: V0_2,
        asked_by: |o| o.training.trainable != Trainable::All,
    },
    // An older agent would use what it likes.
    Feature {
        name: "budget",
        since: V0_2,
        asked_by: |o| !o.budget.is_unbounded(),
    },
];

/// A feature that offers may need.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// Its name in offers: lower-case letters, digits and `-`.
    pub name: &'static str,
    /// The first version whose agent knows it.
    pub since: ProgramVersion,
    /// Whether an offer cannot be done as asked without it.
    pub asked_by: fn(&RoundOffer) -> bool,
}

/// A need as an offer names it; perhaps one this build has never heard of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Need(String);

impl Need {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Need {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=MAX_NEED_BYTES).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed::new(
                "need",
                format!(
                    "{:?} is no name of a feature: 1 to {MAX_NEED_BYTES} lower-case letters, \
                     digits and `-`",
                    clip(text)
                ),
            ))
        }
    }
}

impl TryFrom<String> for Need {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Need> for String {
    fn from(need: Need) -> Self {
        need.0
    }
}

/// Parses an offer's list.
pub(crate) fn parse(list: &[String]) -> Result<Vec<Need>, Malformed> {
    if list.len() > MAX_NEEDS {
        return Err(Malformed::new(
            "round offer",
            format!(
                "it names {} needs, at most {MAX_NEEDS} are taken",
                list.len()
            ),
        ));
    }
    list.iter().map(|text| text.parse()).collect()
}

/// The needs of an offer, by what it asks.
#[must_use]
pub fn of(offer: &RoundOffer) -> Vec<Need> {
    of_in(KNOWN_NEEDS, offer)
}

fn of_in(table: &[Feature], offer: &RoundOffer) -> Vec<Need> {
    let asked = table.iter().filter(|f| (f.asked_by)(offer));
    asked.map(|f| Need(f.name.to_owned())).collect()
}

/// The needs this build does not know, as a clause for people: "`x`, `y`". `None` when it knows all.
#[must_use]
pub fn unknown(needs: &[Need]) -> Option<String> {
    unknown_in(KNOWN_NEEDS, needs)
}

fn unknown_in(table: &[Feature], needs: &[Need]) -> Option<String> {
    let known = |need: &Need| table.iter().any(|f| f.name == need.as_str());
    let strange: Vec<String> = (needs.iter())
        .filter(|need| !known(need))
        .map(|need| format!("`{need}`"))
        .collect();
    (!strange.is_empty()).then(|| strange.join(", "))
}

/// Why an agent of this version cannot do an offer with these needs; `None` when it can.
///
/// `agent` is what the agent calls its version. One that cannot be read is taken for too old: an
/// agent that does not know needs would do another task than the one asked for.
#[must_use]
pub fn lacking(needs: &[Need], agent: &str) -> Option<String> {
    lacking_in(KNOWN_NEEDS, needs, agent)
}

fn lacking_in(table: &[Feature], needs: &[Need], agent: &str) -> Option<String> {
    let version: Option<ProgramVersion> = agent.parse().ok();
    let lacking: Vec<&Feature> = (table.iter())
        .filter(|f| needs.iter().any(|need| need.as_str() == f.name))
        .filter(|f| version.is_none_or(|v| v < f.since))
        .collect();
    let since = lacking.iter().map(|f| f.since).max()?;
    let names: Vec<String> = lacking.iter().map(|f| format!("`{}`", f.name)).collect();
    Some(format!(
        "the task needs {}, which agents know from {since} on; this node's agent is {:?}: update it",
        names.join(", "),
        clip(agent)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Feature] = &[
        Feature {
            name: "long",
            since: ProgramVersion::new(0, 2, 0),
            asked_by: |o| o.training.epochs > 10,
        },
        Feature {
            name: "wide",
            since: ProgramVersion::new(0, 3, 0),
            asked_by: |o| o.training.batch > 100,
        },
    ];

    fn needs(list: &[&str]) -> Vec<Need> {
        list.iter().map(|n| n.parse().expect("a name")).collect()
    }

    #[test]
    fn every_line_of_the_table_is_a_name_that_offers_can_carry_and_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for f in KNOWN_NEEDS {
            f.name.parse::<Need>().expect("a name");
            assert!(seen.insert(f.name), "{} stands twice", f.name);
            // 0.1 knows no needs at all.
            assert!(f.since >= ProgramVersion::new(0, 2, 0), "{}", f.name);
        }
        assert!(KNOWN_NEEDS.len() <= MAX_NEEDS);
    }

    #[test]
    fn what_this_build_does_not_know_is_named() {
        assert_eq!(unknown_in(TABLE, &needs(&["long", "wide"])), None);
        assert_eq!(unknown_in(TABLE, &[]), None);
        assert_eq!(
            unknown_in(TABLE, &needs(&["deep", "long", "warm"])).as_deref(),
            Some("`deep`, `warm`")
        );
    }

    #[test]
    fn an_agent_that_is_too_old_lacks_what_came_later() {
        let both = needs(&["long", "wide"]);
        let old = lacking_in(TABLE, &both, "0.1.9").expect("too old");
        assert_eq!(
            old,
            "the task needs `long`, `wide`, which agents know from 0.3.0 on; this node's agent is \
             \"0.1.9\": update it"
        );
        let middle = lacking_in(TABLE, &both, "0.2.7").expect("too old for one");
        assert!(middle.contains("`wide`") && !middle.contains("`long`"));
        assert_eq!(lacking_in(TABLE, &both, "0.3.0"), None);
        assert_eq!(lacking_in(TABLE, &both, "1.0.0"), None);
        assert_eq!(lacking_in(TABLE, &[], "0.1.0"), None, "nothing is needed");
    }

    #[test]
    fn a_version_that_cannot_be_read_counts_as_too_old_only_where_something_is_needed() {
        assert!(lacking_in(TABLE, &needs(&["long"]), "unknown").is_some());
        assert_eq!(lacking_in(TABLE, &[], "unknown"), None);
    }

    #[test]
    fn names_that_cannot_stand_in_a_message_are_refused() {
        for bad in ["", "Long", "a b", "a\n", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<Need>().is_err(), "{bad:?}");
        }
        let many = vec!["x".to_owned(); MAX_NEEDS + 1];
        let e = parse(&many).expect_err("too many");
        assert!(e.to_string().contains("33 needs"), "{e}");
    }

    #[test]
    fn an_offer_needs_what_its_settings_ask() {
        let mut offer = crate::offer::tests::offer();
        assert_eq!(of_in(TABLE, &offer), []);
        offer.training.epochs = 11;
        assert_eq!(of_in(TABLE, &offer), needs(&["long"]));
        offer.training.batch = 101;
        assert_eq!(of_in(TABLE, &offer), needs(&["long", "wide"]));
    }
}
