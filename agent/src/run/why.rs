//! What the coordinator is told of an error. The error itself, which may name files, columns and
//! labels, goes to the journal.

use std::io;

use lamplight_models::train::TrainError;
use lamplight_proto::cause::{
    DataFault, Disk, Exceeded, Limit, Measure, Part, Told, TrainingFault,
};

use crate::{
    learn::{LearnError, Misfit},
    node::Why,
    source::SourceError,
};

impl From<LearnError> for Why {
    fn from(e: LearnError) -> Self {
        Self::new(told(&e), e)
    }
}

fn told(e: &LearnError) -> Told {
    match e {
        LearnError::Source(SourceError::Images { .. }) => Told::Misfit(Part::Shape),
        LearnError::Source(e) => Told::Data(data(e)),
        LearnError::Samples(_) => Told::Data(DataFault::Malformed),
        LearnError::AllAside { .. } => Told::Misfit(Part::Classes),
        LearnError::Misfit(e) => Told::Misfit(part(e)),
        LearnError::NoSamples => Told::NoSamples,
        LearnError::TooLarge { got, max } => Told::Budget(Some(Exceeded {
            measure: Measure::UploadBytes,
            needed: *got,
            allowed: *max,
        })),
        LearnError::Beyond {
            measure,
            needed,
            allowed,
        } => Told::Budget(Some(Exceeded {
            measure: *measure,
            needed: *needed,
            allowed: *allowed,
        })),
        LearnError::NoMeter(_) => Told::Limits(Some(Limit::NoMeter)),
        LearnError::Io { source, .. } => Told::Storage(source.into()),
        LearnError::Lane(_) => Told::Training(TrainingFault::Device),
        LearnError::Base(_) | LearnError::Table { .. } => Told::Training(TrainingFault::Model),
        LearnError::Train(e) => training(e),
        LearnError::NonFinite { .. } | LearnError::Delta(_) => {
            Told::Training(TrainingFault::Useless)
        }
        LearnError::Stopped => Told::Other,
    }
}

fn data(e: &SourceError) -> DataFault {
    match e {
        SourceError::Read { cause, .. } => match cause.kind() {
            io::ErrorKind::NotFound => DataFault::Missing,
            io::ErrorKind::PermissionDenied => DataFault::Denied,
            _ => DataFault::Unreadable,
        },
        SourceError::UnknownSubject { .. }
        | SourceError::UnknownDraw { .. }
        | SourceError::UnknownClass { .. }
        | SourceError::UnknownGroup { .. } => DataFault::Absent,
        _ => DataFault::Malformed,
    }
}

fn part(e: &Misfit) -> Part {
    match e {
        Misfit::Window { .. } | Misfit::Image { .. } => Part::Shape,
        Misfit::Channel { .. } => Part::Channels,
        Misfit::Rate { .. } => Part::Rate,
    }
}

fn training(e: &TrainError) -> Told {
    let count = |n: &usize| u64::try_from(*n).unwrap_or(u64::MAX);
    match e {
        TrainError::NonFinite { epoch, step, .. } => Told::Training(TrainingFault::NonFinite {
            epoch: count(epoch),
            step: count(step),
        }),
        TrainError::SampleShape { .. } | TrainError::SampleValues { .. } => {
            Told::Misfit(Part::Shape)
        }
        TrainError::Classes { .. } | TrainError::Label { .. } => Told::Misfit(Part::Classes),
        TrainError::TooFewSamples { .. } => Told::NoSamples,
        TrainError::Graph(_)
        | TrainError::Param(_)
        | TrainError::Output { .. }
        | TrainError::Normalisation { .. } => Told::Training(TrainingFault::Model),
        _ => Told::Training(TrainingFault::Broken),
    }
}

/// A file of the task that cannot be read or written.
pub(super) fn disk(e: &io::Error, text: String) -> Why {
    Why::new(Told::Storage(Disk::from(e)), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn the_journal_keeps_the_words_and_the_coordinator_hears_the_kind() {
        let read = |kind: io::ErrorKind| {
            Why::from(LearnError::Source(SourceError::Read {
                file: PathBuf::from("/home/ana/kitchen.csv"),
                cause: kind.into(),
                remedy: "give another directory",
            }))
        };
        let why = read(io::ErrorKind::NotFound);
        assert!(why.full.contains("kitchen.csv"), "{}", why.full);
        assert_eq!(why.told, Told::Data(DataFault::Missing));
        assert_eq!(
            read(io::ErrorKind::PermissionDenied).told,
            Told::Data(DataFault::Denied)
        );
        assert_eq!(
            read(io::ErrorKind::UnexpectedEof).told,
            Told::Data(DataFault::Unreadable)
        );

        let why = Why::from(LearnError::AllAside {
            samples: 3,
            aside: [("ana-asleep".to_owned(), 4)].into(),
        });
        assert!(why.full.contains("ana-asleep"), "{}", why.full);
        assert_eq!(why.told, Told::Misfit(Part::Classes));

        let why = Why::from(LearnError::TooLarge { got: 9, max: 8 });
        assert!(
            why.told
                .to_string()
                .contains("9 bytes to send are needed, 8 are allowed")
        );
        let why = disk(&io::ErrorKind::StorageFull.into(), "/data: full".to_owned());
        assert_eq!(why.told, Told::Storage(Disk::Full));
    }
}
