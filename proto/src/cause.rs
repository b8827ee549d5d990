//! Why a node delivers nothing, or has not begun: what it may say of it, and nothing else.
//!
//! A node's own errors name files, directories, columns, labels and cells. They stay in its journal
//! and log. What leaves is a [`Told`]: a closed cause with closed words and numbers. `Told` is `Copy`
//! and made of enums and integers, so text from data or paths cannot get into it; the sentence that
//! travels is written here, from it alone.
//!
//! ```compile_fail
//! // There is no way in for text.
//! let told = lamplight_proto::cause::Told::from("cannot read /home/ana/kitchen.csv");
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{refusal::Reason, wire};

pub use wire::Cause;

impl Cause {
    /// The cause as listings show it, e.g. `no-samples`.
    #[must_use]
    pub fn name(self) -> String {
        self.as_str_name()
            .trim_start_matches("CAUSE_")
            .to_ascii_lowercase()
            .replace('_', "-")
    }
}

/// What a node says. Every field is a number or a word of a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The node's data cannot be had.
    Data(DataFault),
    /// Data and model do not fit.
    Misfit(Part),
    /// There is nothing to train on.
    NoSamples,
    /// Beyond the task's or the node's budget; with the numbers where there are some.
    Budget(Option<Exceeded>),
    /// The node's own configuration does not allow the task; absent in what older agents kept.
    Limits(Option<Limit>),
    /// Outside the hours in which the node may train.
    Window {
        /// Until they begin; absent when that is not known.
        opens_in_seconds: Option<u64>,
    },
    /// Training itself failed.
    Training(TrainingFault),
    /// The node's disk.
    Storage(Disk),
    /// Bytes were altered on the way, every time.
    Transfer,
    /// The offer goes against what the node knows.
    Offer(OfferFault),
    /// The coordinator refused a call of the task.
    Refused(Reason),
    /// Something else.
    Other,
}

/// Why data cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFault {
    /// A file is not there.
    Missing,
    /// A file may not be read.
    Denied,
    /// A file cannot be read.
    Unreadable,
    /// What is read makes no sense.
    Malformed,
    /// What the configuration asks for is not in the data.
    Absent,
}

/// What of the data does not fit the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Shape of a sample.
    Shape,
    /// Names or units of channels.
    Channels,
    /// Sampling rate.
    Rate,
    /// Classes of the labels.
    Classes,
}

/// Something measured that a budget or a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Memory, MiB.
    MemoryMib,
    /// Energy, joules.
    EnergyJoules,
    /// Bytes sent.
    UploadBytes,
    /// Bytes pulled and sent.
    TransferBytes,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryMib => "MiB of memory",
            Self::EnergyJoules => "joules",
            Self::UploadBytes => "bytes to send",
            Self::TransferBytes => "bytes to pull and send",
        })
    }
}

/// What in a node's configuration a task goes against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Its owner does not lend it to this model.
    Model,
    /// Its hours and the task's never meet.
    Hours,
    /// The task has an energy budget, and nothing there measures energy.
    NoMeter,
}

/// More than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceeded {
    /// Of what.
    pub measure: Measure,
    /// How much is needed.
    pub needed: u64,
    /// How much may be used.
    pub allowed: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            measure,
            needed,
            allowed,
        } = self;
        write!(f, "{needed} {measure} are needed, {allowed} are allowed")
    }
}

/// How training failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingFault {
    /// Loss or a gradient was not finite.
    NonFinite {
        /// From 0.
        epoch: u64,
        /// Within the epoch, from 0.
        step: u64,
    },
    /// The loss on held-out samples was not finite.
    Useless,
    /// The base model cannot be used for training.
    Model,
    /// The device is not there.
    Device,
    /// The program broke.
    Broken,
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// No room.
    Full,
    /// No permission.
    Denied,
    /// A file of the task is gone.
    Missing,
    /// A file of the task was altered.
    Damaged,
    /// Reading or writing failed.
    Failed,
}

impl From<&std::io::Error> for Disk {
    fn from(e: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match e.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied,
            Kind::NotFound => Self::Missing,
            Kind::InvalidData | Kind::UnexpectedEof => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

/// What an offer goes against. The versions are the coordinator's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferFault {
    /// An older release than one already believed.
    Rollback {
        /// Version offered.
        offered: u64,
        /// Highest version seen.
        highest: u64,
    },
    /// One version, two contents.
    TwoContents {
        /// The version.
        version: u64,
    },
    /// It needs something this agent does not know.
    UnknownNeed,
}

impl Told {
    /// The cause alone.
    #[must_use]
    pub fn cause(self) -> Cause {
        match self {
            Self::Data(_) => Cause::Data,
            Self::Misfit(_) => Cause::Misfit,
            Self::NoSamples => Cause::NoSamples,
            Self::Budget(_) => Cause::Budget,
            Self::Limits(_) => Cause::Limits,
            Self::Window { .. } => Cause::Window,
            Self::Training(_) => Cause::Training,
            Self::Storage(_) => Cause::Storage,
            Self::Transfer => Cause::Transfer,
            Self::Offer(_) => Cause::Offer,
            Self::Refused(_) => Cause::Refused,
            Self::Other => Cause::Other,
        }
    }

    /// Whether the node's own journal says more than this does.
    fn is_short(self) -> bool {
        matches!(
            self,
            Self::Data(_)
                | Self::Misfit(_)
                | Self::NoSamples
                | Self::Training(TrainingFault::Model | TrainingFault::Broken)
                | Self::Storage(_)
                | Self::Other
        )
    }
}

/// The sentence that travels.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(fault) => f.write_str(match fault {
                DataFault::Missing => "a file of the node's data is missing",
                DataFault::Denied => "the agent may not read a file of the node's data",
                DataFault::Unreadable => "a file of the node's data cannot be read",
                DataFault::Malformed => "the node's data is malformed",
                DataFault::Absent => "the node's data does not hold what its configuration names",
            }),
            Self::Misfit(part) => f.write_str(match part {
                Part::Shape => "the node's samples have another shape than the model's input",
                Part::Channels => "the node's channels or units are not the model's",
                Part::Rate => "the node's sampling rate is not the model's",
                Part::Classes => {
                    "the node's samples are of classes that the model does not have; they are kept aside"
                }
            }),
            Self::NoSamples => f.write_str("the node has no samples to train on"),
            Self::Budget(None) => f.write_str("the budget does not suffice"),
            Self::Budget(Some(e)) => write!(f, "the budget does not suffice: {e}"),
            Self::Limits(None) => f.write_str("the node's configuration does not allow the task"),
            Self::Limits(Some(limit)) => f.write_str(match limit {
                Limit::Model => "the node's limits.models does not name the model",
                Limit::Hours => {
                    "the hours of the task and those of the node's limits.window_utc never meet"
                }
                Limit::NoMeter => {
                    "the task has an energy budget, and nothing on the node measures energy; set \
                     limits.assumed_power_watts there, or leave budget.energy_joules out of the task"
                }
            }),
            Self::Window { opens_in_seconds } => {
                f.write_str("outside the hours in which the node may train")?;
                match opens_in_seconds {
                    Some(s) => write!(f, "; they begin in {s} s"),
                    None => Ok(()),
                }
            }
            Self::Training(fault) => match fault {
                TrainingFault::NonFinite { epoch, step } => write!(
                    f,
                    "the loss or a gradient was not finite in epoch {epoch}, step {step}; try a \
                     lower learning rate or clip_norm"
                ),
                TrainingFault::Useless => f.write_str(
                    "the loss on held-out samples was not finite; try a lower learning rate",
                ),
                TrainingFault::Model => f.write_str("the base model cannot be trained"),
                TrainingFault::Device => f.write_str("the node's device is not there"),
                TrainingFault::Broken => f.write_str("training broke"),
            },
            Self::Storage(disk) => f.write_str(match disk {
                Disk::Full => "the node's disk is full",
                Disk::Denied => "the agent may not read or write its own directory",
                Disk::Missing => "a file of the task is gone from the node's disk",
                Disk::Damaged => "a file of the task was altered on the node's disk",
                Disk::Failed => "the node's disk failed",
            }),
            Self::Transfer => f.write_str("bytes were altered on the way, every time"),
            Self::Offer(fault) => match fault {
                OfferFault::Rollback { offered, highest } => write!(
                    f,
                    "the offer's base is version {offered}, the node has already seen version \
                     {highest}"
                ),
                OfferFault::TwoContents { version } => write!(
                    f,
                    "the node knows version {version} of the base with another digest"
                ),
                OfferFault::UnknownNeed => {
                    f.write_str("the offer needs what this agent does not know; upgrade the agent")
                }
            },
            Self::Refused(reason) => {
                write!(f, "the coordinator refused: {}", reason.name())
            }
            Self::Other => f.write_str("something else went wrong"),
        }?;
        if self.is_short() {
            f.write_str(" (`lamplight agent status` on the node says more)")?;
        }
        Ok(())
    }
}

impl From<Told> for wire::Failure {
    fn from(told: Told) -> Self {
        Self {
            reason: told.to_string(),
            cause: told.cause().into(),
        }
    }
}

impl From<Told> for wire::Waiting {
    fn from(told: Told) -> Self {
        Self {
            cause: told.cause().into(),
            reason: told.to_string(),
        }
    }
}

/// What a coordinator heard: the sender may be older or newer than this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The cause, if this program knows it.
    pub cause: Option<Cause>,
    /// The sentence, as sent: not yet bounded, nor free of control characters.
    pub reason: String,
}

impl Heard {
    fn new(cause: i32, reason: String) -> Self {
        let known = Cause::try_from(cause).ok();
        Self {
            cause: known.filter(|c| *c != Cause::Unspecified),
            reason,
        }
    }
}

impl From<wire::Failure> for Heard {
    fn from(f: wire::Failure) -> Self {
        Self::new(f.cause, f.reason)
    }
}

impl From<wire::Waiting> for Heard {
    fn from(w: wire::Waiting) -> Self {
        Self::new(w.cause, w.reason)
    }
}

/// For tables and logs: the cause's name before the sentence.
impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.cause, self.reason.as_str()) {
            (None, "") => f.write_str("no reason was given"),
            (None, reason) => f.write_str(reason),
            (Some(cause), "") => f.write_str(&cause.name()),
            (Some(cause), reason) => write!(f, "{}: {reason}", cause.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shape a `Told` can have.
    fn all() -> Vec<Told> {
        let exceeded = |measure| Exceeded {
            measure,
            needed: 7,
            allowed: 5,
        };
        let measures = [
            Measure::MemoryMib,
            Measure::EnergyJoules,
            Measure::UploadBytes,
            Measure::TransferBytes,
        ];
        let data = [
            DataFault::Missing,
            DataFault::Denied,
            DataFault::Unreadable,
            DataFault::Malformed,
            DataFault::Absent,
        ];
        let parts = [Part::Shape, Part::Channels, Part::Rate, Part::Classes];
        let training = [
            TrainingFault::NonFinite { epoch: 1, step: 3 },
            TrainingFault::Useless,
            TrainingFault::Model,
            TrainingFault::Device,
            TrainingFault::Broken,
        ];
        let disk = [
            Disk::Full,
            Disk::Denied,
            Disk::Missing,
            Disk::Damaged,
            Disk::Failed,
        ];
        let mut all = vec![
            Told::NoSamples,
            Told::Budget(None),
            Told::Limits(None),
            Told::Window {
                opens_in_seconds: None,
            },
            Told::Window {
                opens_in_seconds: Some(60),
            },
            Told::Transfer,
            Told::Offer(OfferFault::Rollback {
                offered: 2,
                highest: 3,
            }),
            Told::Offer(OfferFault::TwoContents { version: 3 }),
            Told::Offer(OfferFault::UnknownNeed),
            Told::Refused(Reason::UnknownKey),
            Told::Other,
        ];
        all.extend(data.map(Told::Data));
        all.extend(parts.map(Told::Misfit));
        all.extend(measures.map(|m| Told::Budget(Some(exceeded(m)))));
        let limits = [Limit::Model, Limit::Hours, Limit::NoMeter];
        all.extend(limits.map(|limit| Told::Limits(Some(limit))));
        all.extend(training.map(Told::Training));
        all.extend(disk.map(Told::Storage));
        all
    }

    #[test]
    fn what_is_told_is_text_free_by_its_type() {
        fn copies<T: Copy + 'static>() {}
        copies::<Told>();
    }

    #[test]
    fn every_cause_can_be_told_each_in_a_sentence_of_its_own() {
        let sentences: std::collections::BTreeSet<String> =
            all().iter().map(ToString::to_string).collect();
        assert_eq!(sentences.len(), all().len());
        assert!(sentences.iter().all(|s| s.len() < 200), "one line");
        for number in 1..=12 {
            let cause = Cause::try_from(number).expect("a cause");
            assert!(all().iter().any(|t| t.cause() == cause), "{cause:?}");
        }
        assert!(
            Cause::try_from(13).is_err(),
            "a new cause: add it to the test"
        );
    }

    #[test]
    fn an_outbox_gives_back_what_it_was_given() {
        for told in all() {
            let kept = serde_json::to_string(&told).expect("kept");
            assert_eq!(
                serde_json::from_str::<Told>(&kept).expect("read"),
                told,
                "{kept}"
            );
        }
    }

    #[test]
    fn a_coordinator_hears_causes_it_knows_and_sentences_of_any_agent() {
        let told = Told::Offer(OfferFault::Rollback {
            offered: 2,
            highest: 3,
        });
        let heard = Heard::from(wire::Failure::from(told));
        assert_eq!(heard.cause, Some(Cause::Offer));
        assert_eq!(
            heard.to_string(),
            "offer: the offer's base is version 2, the node has already seen version 3"
        );
        assert_eq!(Heard::from(wire::Waiting::from(told)), heard);
        // An agent older than causes, and one that is newer.
        for cause in [0, 99] {
            let heard = Heard::from(wire::Failure {
                reason: "the battery is low".to_owned(),
                cause,
            });
            assert_eq!(heard.cause, None);
            assert_eq!(heard.to_string(), "the battery is low");
        }
        let bare = Heard::from(wire::Waiting {
            cause: Cause::NoSamples.into(),
            reason: String::new(),
        });
        assert_eq!(bare.to_string(), "no-samples");
        let nothing = Heard::from(wire::Failure::default());
        assert_eq!(nothing.to_string(), "no reason was given");
    }
}
