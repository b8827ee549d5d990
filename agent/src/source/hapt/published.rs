//! The layout in which its publisher gives HAPT away: `RawData/acc_exp01_user01.txt` and
//! `gyro_exp01_user01.txt` with three numbers a row, `RawData/labels.txt` and, above them,
//! `activity_labels.txt`.
//!
//! Acceleration is in g and angular speed in rad/s. Both were measured in whole steps of the sensors, and
//! are brought back to them, so that windows are the same to the bit whichever layout they come from.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use super::tables::{ACTIVITIES, MAX_ROWS, Recording, Table, broken};
use super::{CLASSES, G_PER_STEP, RAD_PER_S_PER_STEP};
use crate::source::SourceError;

const SEGMENTS: &str = "labels.txt";
const DIRECTORY: &str = "point the source at the unpacked archive, with its folder `RawData`";
/// Longest line, bytes; the real ones have 60.
const MAX_LINE_BYTES: u64 = 1024;
/// Most recordings; the real set has 61.
const MAX_RECORDINGS: usize = 10_000;

/// The folder of the recordings, if `dir` is the archive's folder or that one itself.
pub(in crate::source) fn find(dir: &Path) -> Option<PathBuf> {
    [dir.join("RawData"), dir.to_owned()]
        .into_iter()
        .find(|raw| raw.join(SEGMENTS).is_file())
}

fn failed(file: &Path, cause: io::Error) -> SourceError {
    SourceError::Read {
        file: file.to_owned(),
        cause,
        remedy: DIRECTORY,
    }
}

fn name(sensor: &str, recording: &Recording) -> String {
    let (experiment, subject) = (recording.experiment, recording.subject);
    format!("{sensor}_exp{experiment:02}_user{subject:02}.txt")
}

/// Experiment and subject in the name of an accelerometer's file.
fn numbers(name: &str) -> Option<(u32, u32)> {
    let (experiment, subject) = name
        .strip_prefix("acc_exp")?
        .strip_suffix(".txt")?
        .split_once("_user")?;
    Some((experiment.parse().ok()?, subject.parse().ok()?))
}

/// The recordings, by experiment. Their files are not read: how many rows they have is found when
/// somebody's rows are wanted.
pub(super) fn read_recordings(raw: &Path) -> Result<Vec<Recording>, SourceError> {
    let mut recordings = Vec::new();
    for entry in std::fs::read_dir(raw).map_err(|e| failed(raw, e))? {
        let file = entry.map_err(|e| failed(raw, e))?.file_name();
        if let Some((experiment, subject)) = numbers(&file.to_string_lossy()) {
            recordings.push(Recording {
                experiment,
                subject,
                first_row: 0,
                rows: MAX_ROWS as usize,
            });
        }
    }
    recordings.sort_by_key(|r| (r.experiment, r.subject));
    let twice = recordings
        .windows(2)
        .find(|pair| pair[0].experiment == pair[1].experiment);
    let fault = match twice {
        Some(pair) => format!("it has experiment {} twice", pair[0].experiment),
        None if (1..=MAX_RECORDINGS).contains(&recordings.len()) => return Ok(recordings),
        None => format!(
            "it has {} files `acc_exp…_user….txt`, expected 1 to {MAX_RECORDINGS}",
            recordings.len()
        ),
    };
    Err(failed(raw, io::Error::other(fault)))
}

/// The table of segments, its fields parted by blanks.
pub(super) fn segments(raw: &Path) -> Result<Table, SourceError> {
    Table::read_blanks(
        raw,
        SEGMENTS,
        &["experiment", "subject", "activity", "start", "end"],
    )
}

/// Checks that activities are numbered as this program has them, where the archive's list is there.
pub(super) fn check_activities(raw: &Path) -> Result<(), SourceError> {
    let file = "activity_labels.txt";
    let dirs = [raw.parent().unwrap_or(raw), raw];
    let Some(dir) = dirs.into_iter().find(|dir| dir.join(file).is_file()) else {
        return Ok(());
    };
    let table = Table::read_blanks(dir, file, &["activity", "name"])?;
    for row in &table.rows {
        let number = table.number(row, 0, 1, ACTIVITIES)? as usize;
        let got = table.text(row, 1);
        match CLASSES.get(number - 1) {
            Some(want) if got != *want => {
                let fault = format!("activity {number} is `{got}`, expected `{want}`");
                return Err(table.broken(row, fault));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The rows of each span `(first row, rows)` of one recording; spans ascend and do not overlap.
pub(super) fn read_spans(
    raw: &Path,
    recording: &Recording,
    spans: &[(u64, usize)],
) -> Result<Vec<Vec<[i16; 6]>>, SourceError> {
    let mut sensors = Vec::with_capacity(2);
    for (sensor, step) in [("acc", G_PER_STEP), ("gyro", RAD_PER_S_PER_STEP)] {
        let file = raw.join(name(sensor, recording));
        let stream = File::open(&file).map_err(|e| failed(&file, e))?;
        sensors.push(Triples::over(stream, &file, f64::from(step)));
    }
    let mut found = Vec::with_capacity(spans.len());
    let mut at = 0;
    for &(first, rows) in spans {
        // Grown as rows arrive: a table may claim more than there are.
        let mut span = Vec::new();
        while span.len() < rows {
            let mut row = [0; 6];
            for (sensor, part) in sensors.iter_mut().zip(row.as_chunks_mut::<3>().0) {
                match sensor.next()? {
                    Some(values) => *part = values,
                    None => {
                        let fault = format!(
                            "{at} rows, but `{SEGMENTS}` has a segment up to row {}",
                            first + rows as u64
                        );
                        return Err(sensor.wrong(fault));
                    }
                }
            }
            if at >= first {
                span.push(row);
            }
            at += 1;
        }
        found.push(span);
    }
    Ok(found)
}

/// A file of three numbers a row, as whole steps of the sensor.
pub(in crate::source) struct Triples<R> {
    stream: BufReader<R>,
    file: PathBuf,
    /// Unit of one step.
    step: f64,
    line: u64,
    text: Vec<u8>,
}

impl<R: Read> Triples<R> {
    /// Errors call the stream `file`.
    pub(in crate::source) fn over(stream: R, file: &Path, step: f64) -> Self {
        Self {
            stream: BufReader::new(stream),
            file: file.to_owned(),
            step,
            line: 0,
            text: Vec::new(),
        }
    }

    /// The next row that is not blank; `None` at the end.
    pub(in crate::source) fn next(&mut self) -> Result<Option<[i16; 3]>, SourceError> {
        loop {
            self.text.clear();
            self.line += 1;
            let mut line = (&mut self.stream).take(MAX_LINE_BYTES);
            let read = line.read_until(b'\n', &mut self.text);
            let n = read.map_err(|e| failed(&self.file, e))?;
            if n == 0 {
                return Ok(None);
            }
            if n as u64 == MAX_LINE_BYTES {
                return Err(self.wrong(format!("the line is longer than {MAX_LINE_BYTES} bytes")));
            }
            let text = String::from_utf8_lossy(&self.text);
            let mut row = [0; 3];
            let mut fields = 0;
            for (i, field) in text.split_whitespace().enumerate() {
                let steps = field.parse::<f64>().map(|v| (v / self.step).round());
                match (row.get_mut(i), steps) {
                    (Some(value), Ok(steps)) if fits(steps) => *value = steps as i16,
                    _ => {
                        let fault = format!(
                            "field {} is `{field}`, expected three numbers up to {:.1}",
                            i + 1,
                            self.step * f64::from(i16::MAX)
                        );
                        return Err(self.wrong(fault));
                    }
                }
                fields += 1;
            }
            match fields {
                0 => {}
                3 => return Ok(Some(row)),
                n => return Err(self.wrong(format!("{n} numbers, expected 3"))),
            }
        }
    }

    fn wrong(&self, fault: String) -> SourceError {
        broken(&self.file, self.line, fault)
    }
}

/// No NaN, and no more than a sensor of 16 bits can give.
fn fits(steps: f64) -> bool {
    (f64::from(i16::MIN)..=f64::from(i16::MAX)).contains(&steps)
}
