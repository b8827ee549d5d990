//! `hapt`: raw recordings of people with a smartphone at the waist, six activities.
//!
//! Acceleration and angular speed at 50 Hz, as continuous labelled streams (Reyes-Ortiz et al.,
//! "Transition-Aware Human Activity Recognition", Neurocomputing 2015). The directory holds
//! `experiments.csv` (recordings), `labels.csv` (segments), `draws.csv` (who is cloud, node,
//! unseen) and `signals_i16le.bin.gz` (rows of six `i16`).
//!
//! A window is 128 samples, step 64, wholly inside one labelled segment of the activities 1 to 6.
//! Per person and class the first 70 % in time are to train on and the rest is held out; a window
//! to train on that shares samples with a held-out one is dropped.
//!
//! Only the people asked for are kept in memory (about 0.3 MB each), whatever the file's size:
//! the compressed signals are read as a stream, and only as far as the last row needed.
//!
//! Reading order: `tables` (the csv files), `signals` (the stream), `windows` (where windows lie
//! and how they are parted).

mod signals;
mod tables;
mod windows;

use std::path::Path;

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

/// Who takes which part in a federated run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draw {
    /// People whose data the cloud pretrains on.
    pub cloud: Vec<u32>,
    /// One person per node.
    pub node: Vec<u32>,
    /// People nobody trains on.
    pub unseen: Vec<u32>,
}

/// Reads draw `d` of the directory's `draws.csv`.
///
/// # Errors
/// [`SourceError`] when the table is missing, has a senseless line (also: somebody in a draw
/// twice), or has no such draw.
pub fn draws(dir: &Path, d: u32) -> Result<Draw, SourceError> {
    tables::read_draw(dir, d)
}

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
        let dir = Path::new(&spec.dir);
        let recordings = tables::read_recordings(dir)?;
        let segments = tables::read_segments(dir, &recordings)?;
        let mut people = Vec::with_capacity(spec.subjects.len());
        for &subject in &spec.subjects {
            tables::require_subject(dir, &recordings, subject)?;
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
        load(dir, &recordings, &mut people)?;
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

    fn samples(&self, choose: impl Fn(Vec<Place>) -> Vec<Place>) -> Samples {
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

/// Reads the rows of everybody's segments in one pass over the file.
fn load(dir: &Path, recordings: &[Recording], people: &mut [Person]) -> Result<(), SourceError> {
    let mut wanted = Vec::new();
    for (who, person) in people.iter_mut().enumerate() {
        person.rows.resize(person.segments.len(), Vec::new());
        for (which, segment) in person.segments.iter().enumerate() {
            if let Some(recording) = recordings.get(segment.recording) {
                let first = recording.first_row + segment.start as u64;
                wanted.push((first, segment.end - segment.start, who, which));
            }
        }
    }
    wanted.sort_unstable();
    let spans: Vec<(u64, usize)> = wanted.iter().map(|&(first, n, ..)| (first, n)).collect();
    let rows = signals::read_spans(dir, &spans)?;
    for ((_, _, who, which), rows) in wanted.into_iter().zip(rows) {
        people[who].rows[which] = rows;
    }
    Ok(())
}

impl SampleSource for HaptSource {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            channels: CHANNELS.iter().map(ToString::to_string).collect(),
            sampling_rate_hz: Some(SAMPLING_RATE_HZ),
            window: vec![CHANNELS.len(), LENGTH],
            classes: CLASSES.iter().map(ToString::to_string).collect(),
            origin: self.origin.clone(),
            simulated: false,
        }
    }

    fn train(&self) -> Result<Samples, SourceError> {
        Ok(match self.split {
            Split::InTime => self.samples(|places| windows::part(&places).0),
            Split::All => self.samples(|_| Vec::new()),
        })
    }

    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(match self.split {
            Split::InTime => self.samples(|places| windows::part(&places).1),
            Split::All => self.samples(|places| places),
        })
    }
}

#[cfg(test)]
mod tests;
