//! `hapt`: raw recordings of people with a smartphone at the waist, six activities.
//!
//! Acceleration and angular speed at 50 Hz, as continuous labelled streams (Reyes-Ortiz et al.,
//! "Transition-Aware Human Activity Recognition", Neurocomputing 2015). Two layouts are read, told apart
//! by what is in the directory, and give the same windows for the same recordings:
//!
//! - the project's own: `experiments.csv` (recordings), `labels.csv` (segments), `draws.csv` (who is
//!   cloud, node, unseen) and `signals_i16le.bin.gz` (rows of six `i16`);
//! - the publisher's archive, "Smartphone-Based Recognition of Human Activities and Postural
//!   Transitions", as it unpacks: a directory with `RawData` in it, or that folder itself.
//!
//! A window is 128 samples, step 64, wholly inside one labelled segment of the activities 1 to 6.
//! Per person and class the first 70 % in time are to train on and the rest is held out; a window
//! to train on that shares samples with a held-out one is dropped.
//!
//! Only the people asked for are kept in memory (about 0.3 MB each), whatever the files' size:
//! signals are read as streams, and only as far as the last row needed.
//!
//! Reading order: `tables` (the csv files), `signals` (the stream), `published` (the other layout),
//! `windows` (where windows lie and how they are parted), `draw` (who takes which part).

mod draw;
pub(super) mod published;
mod signals;
mod tables;
mod windows;

use std::path::{Path, PathBuf};

use lamplight_models::samples::Samples;

use self::tables::{Recording, Segment};
use self::windows::{LENGTH, Place};
use super::spec::{HaptSpec, Keep, Split};
use super::{SampleSource, SourceError, SourceInfo, skew};

/// Class names in label order: activities 1 to 6 of the recordings.
pub const CLASSES: [&str; 6] = [
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
];
/// Channel names with units, in the order of a window's rows.
pub const CHANNELS: [&str; 6] = [
    "acc_x [g]",
    "acc_y [g]",
    "acc_z [g]",
    "gyro_x [rad/s]",
    "gyro_y [rad/s]",
    "gyro_z [rad/s]",
];
/// Samples per second.
pub const SAMPLING_RATE_HZ: f64 = 50.0;
/// One step of the accelerometer, in g.
const G_PER_STEP: f32 = 1.0 / 720.0;
/// One step of the gyroscope, in rad/s.
const RAD_PER_S_PER_STEP: f32 = 0.000_305_432_5;

pub use draw::{Draw, draws};

/// Names of the `k` of [`CLASSES`] that node `node_index` sees under label skew, in label order.
///
/// See [`skew::deal`]: deterministic, and every class is seen by as many nodes as any other, give
/// or take one.
#[must_use]
pub fn skew(node_index: usize, k: usize) -> Vec<&'static str> {
    skew::deal(node_index, k, CLASSES.len())
        .into_iter()
        .filter_map(|class| CLASSES.get(class).copied())
        .collect()
}

/// The windows of one person or of several.
#[derive(Debug)]
pub struct HaptSource {
    origin: String,
    split: Split,
    people: Vec<Person>,
}

/// One person's labelled segments, in the order of time.
#[derive(Debug)]
struct Person {
    segments: Vec<Segment>,
    /// Rows of each segment.
    rows: Vec<Vec<[i16; 6]>>,
}

impl HaptSource {
    /// Reads the tables, and the rows of the people and classes asked for.
    ///
    /// # Errors
    /// [`SourceError`]: a file is missing, malformed, too large or cut short, or a person unknown.
    pub fn open(spec: &HaptSpec, keep: Keep) -> Result<Self, SourceError> {
        let layout = Layout::of(Path::new(&spec.dir));
        let recordings = layout.recordings()?;
        let segments = layout.segments(&recordings)?;
        let known = tables::everybody(&recordings);
        let mut people = Vec::with_capacity(spec.subjects.len());
        for &subject in &spec.subjects {
            if !known.contains(&subject) {
                return Err(SourceError::UnknownSubject {
                    dir: PathBuf::from(&spec.dir),
                    subject,
                    known,
                });
            }
            let segments = segments
                .iter()
                .filter(|s| s.subject == subject && s.class.is_some_and(|c| keep.class(c)))
                .cloned()
                .collect();
            people.push(Person {
                segments,
                rows: Vec::new(),
            });
        }
        load(&layout, &recordings, &mut people)?;
        let list: Vec<String> = spec.subjects.iter().map(ToString::to_string).collect();
        Ok(Self {
            origin: format!(
                "HAPT recordings in {}, subject {}",
                spec.dir,
                list.join(", ")
            ),
            split: keep.split,
            people,
        })
    }

    /// Which of a person's windows are to train on, and which are held out.
    fn parts(&self) -> (Choose, Choose) {
        match self.split {
            Split::InTime => (|all| windows::part(&all).0, |all| windows::part(&all).1),
            Split::All => (|_| Vec::new(), |all| all),
        }
    }

    fn samples(&self, choose: Choose) -> Samples {
        let mut samples = Samples {
            shape: vec![CHANNELS.len(), LENGTH],
            classes: CLASSES.iter().map(ToString::to_string).collect(),
            ..Samples::default()
        };
        for person in &self.people {
            for place in choose(windows::cut(&person.segments)) {
                let rows = person
                    .rows
                    .get(place.segment)
                    .and_then(|rows| rows.get(place.offset..place.offset + LENGTH));
                // `cut` places windows inside their segments, and `load` read those whole.
                let Some(rows) = rows else { continue };
                samples.y.push(place.class as u32);
                for channel in 0..CHANNELS.len() {
                    let unit = if channel < 3 {
                        G_PER_STEP
                    } else {
                        RAD_PER_S_PER_STEP
                    };
                    let values = rows.iter().map(|row| f32::from(row[channel]) * unit);
                    samples.x.extend(values);
                }
            }
        }
        samples
    }
}

/// Picks some of a person's windows.
type Choose = fn(Vec<Place>) -> Vec<Place>;

/// How a directory is laid out.
#[derive(Debug)]
enum Layout {
    /// The project's own.
    Stored(PathBuf),
    /// The publisher's; the folder of its recordings.
    Published(PathBuf),
}

impl Layout {
    /// The layout of a directory; the project's own where neither is there, so that errors name its files.
    fn of(dir: &Path) -> Self {
        let stored = dir.join(signals::FILE).is_file();
        match published::find(dir) {
            Some(raw) if !stored => Self::Published(raw),
            _ => Self::Stored(dir.to_owned()),
        }
    }

    fn recordings(&self) -> Result<Vec<Recording>, SourceError> {
        match self {
            Self::Stored(dir) => tables::read_recordings(dir),
            Self::Published(raw) => published::read_recordings(raw),
        }
    }

    fn segments(&self, recordings: &[Recording]) -> Result<Vec<Segment>, SourceError> {
        match self {
            Self::Stored(dir) => tables::read_segments(dir, recordings),
            Self::Published(raw) => {
                published::check_activities(raw)?;
                tables::segments(&published::segments(raw)?, recordings)
            }
        }
    }

    /// The rows of each span `(recording, first row in it, rows)`; spans ascend.
    fn rows(
        &self,
        recordings: &[Recording],
        spans: &[(usize, u64, usize)],
    ) -> Result<Vec<Vec<[i16; 6]>>, SourceError> {
        match self {
            Self::Stored(dir) => {
                let in_file = |&(which, first, rows): &(usize, u64, usize)| {
                    (recordings[which].first_row + first, rows)
                };
                signals::read_spans(dir, &spans.iter().map(in_file).collect::<Vec<_>>())
            }
            Self::Published(raw) => {
                let mut found = Vec::with_capacity(spans.len());
                for own in spans.chunk_by(|a, b| a.0 == b.0) {
                    let inside: Vec<(u64, usize)> = own.iter().map(|s| (s.1, s.2)).collect();
                    found.extend(published::read_spans(raw, &recordings[own[0].0], &inside)?);
                }
                Ok(found)
            }
        }
    }
}

/// Reads the rows of everybody's segments in one pass over the files.
fn load(
    layout: &Layout,
    recordings: &[Recording],
    people: &mut [Person],
) -> Result<(), SourceError> {
    let mut wanted = Vec::new();
    for (who, person) in people.iter_mut().enumerate() {
        person.rows.resize(person.segments.len(), Vec::new());
        for (which, segment) in person.segments.iter().enumerate() {
            let rows = segment.end - segment.start;
            wanted.push((segment.recording, segment.start as u64, rows, who, which));
        }
    }
    // Recordings follow one another in the stored file, too.
    wanted.sort_unstable();
    let spans: Vec<_> = wanted
        .iter()
        .map(|&(r, first, n, ..)| (r, first, n))
        .collect();
    let rows = layout.rows(recordings, &spans)?;
    for ((.., who, which), rows) in wanted.into_iter().zip(rows) {
        people[who].rows[which] = rows;
    }
    Ok(())
}

impl SampleSource for HaptSource {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            channels: CHANNELS.iter().map(ToString::to_string).collect(),
            sampling_rate_hz: Some(SAMPLING_RATE_HZ),
            image: None,
            window: vec![CHANNELS.len(), LENGTH],
            classes: CLASSES.iter().map(ToString::to_string).collect(),
            origin: self.origin.clone(),
            simulated: false,
        }
    }

    fn counts(&self) -> (usize, usize) {
        let count = |choose: Choose| {
            let people = self.people.iter();
            (people.map(|person| choose(windows::cut(&person.segments)).len())).sum()
        };
        let (train, held_out) = self.parts();
        (count(train), count(held_out))
    }

    fn train(&self) -> Result<Samples, SourceError> {
        Ok(self.samples(self.parts().0))
    }

    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(self.samples(self.parts().1))
    }
}

#[cfg(test)]
mod tests;
