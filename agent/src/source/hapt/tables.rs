//! The small tables beside the signals: recordings, labelled segments, draws of people.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CLASSES, Draw};
use crate::source::SourceError;

/// Largest table read, bytes; the real ones have 19 kB at most.
const MAX_TABLE_BYTES: u64 = 4 << 20;
/// Longest recording, rows: two days at 50 Hz. Bounds what a wrong table can make us read.
pub(super) const MAX_ROWS: u64 = 8_640_000;
/// Activities in the labels; those above 6 are changes of posture.
pub(super) const ACTIVITIES: u64 = 12;

/// The table of draws.
pub(super) const DRAWS: &str = "draws.csv";

const DIRECTORY: &str = "point the source at the har_hapt directory";
const AGAIN: &str = "fetch the file again and compare its sha256 with the README's";

/// One continuous recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recording {
    pub(super) experiment: u32,
    pub(super) subject: u32,
    /// Its first row in the signals.
    pub(super) first_row: u64,
    /// How many rows it has.
    pub(super) rows: usize,
}

/// A labelled stretch of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Place of the recording in its table.
    pub(super) recording: usize,
    pub(super) subject: u32,
    /// Label; `None` for changes of posture.
    pub(super) class: Option<usize>,
    /// First row within the recording, from 0.
    pub(super) start: usize,
    /// Row after the last.
    pub(super) end: usize,
}

/// One line as numbers, or as text where it is none.
pub(super) struct Row {
    line: u64,
    fields: csv::StringRecord,
}

/// A whole table in memory.
pub(super) struct Table {
    file: PathBuf,
    columns: &'static [&'static str],
    pub(super) rows: Vec<Row>,
}

impl Table {
    fn read(
        dir: &Path,
        name: &'static str,
        columns: &'static [&'static str],
    ) -> Result<Self, SourceError> {
        let file = dir.join(name);
        let text = bounded(&file)?;
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(text.as_slice());
        let mut rows = Vec::new();
        for record in reader.records() {
            let fields = record.map_err(|fault| {
                let line = fault.position().map_or(1, csv::Position::line);
                broken(&file, line, describe(&fault))
            })?;
            let line = fields.position().map_or(1, csv::Position::line);
            rows.push(Row { line, fields });
        }
        let mut rows = rows.into_iter();
        let header = rows.next();
        let titles: Vec<&str> = header.iter().flat_map(|row| row.fields.iter()).collect();
        if titles != columns {
            let fault = format!("columns {titles:?}, expected {columns:?}");
            return Err(broken(&file, 1, fault));
        }
        Ok(Self {
            file,
            columns,
            rows: rows.collect(),
        })
    }

    /// A table without titles whose fields are parted by blanks, as its publisher has it.
    pub(super) fn read_blanks(
        dir: &Path,
        name: &'static str,
        columns: &'static [&'static str],
    ) -> Result<Self, SourceError> {
        let file = dir.join(name);
        let text = bounded(&file)?;
        let text = String::from_utf8_lossy(&text);
        let mut rows = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let fields: csv::StringRecord = text.split_whitespace().collect();
            if fields.is_empty() {
                continue;
            }
            if fields.len() != columns.len() {
                let fault = format!("{} fields, expected {}", fields.len(), columns.len());
                return Err(broken(&file, line, fault));
            }
            rows.push(Row { line, fields });
        }
        Ok(Self {
            file,
            columns,
            rows,
        })
    }

    pub(super) fn text<'a>(&self, row: &'a Row, column: usize) -> &'a str {
        row.fields.get(column).unwrap_or_default().trim()
    }

    /// The number in a column, within these bounds.
    pub(super) fn number(
        &self,
        row: &Row,
        column: usize,
        low: u64,
        high: u64,
    ) -> Result<u64, SourceError> {
        let text = self.text(row, column);
        let number = text.parse().ok().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| {
            let name = self.columns.get(column).copied().unwrap_or_default();
            self.broken(
                row,
                format!("`{name}` is `{text}`, expected a number from {low} to {high}"),
            )
        })
    }

    fn id(&self, row: &Row, column: usize) -> Result<u32, SourceError> {
        // The bound makes the conversion exact.
        Ok(self.number(row, column, 0, u64::from(u32::MAX))? as u32)
    }

    pub(super) fn broken(&self, row: &Row, fault: String) -> SourceError {
        broken(&self.file, row.line, fault)
    }
}

pub(super) fn broken(file: &Path, line: u64, fault: String) -> SourceError {
    SourceError::Line {
        file: file.to_owned(),
        line,
        fault,
        remedy: AGAIN,
    }
}

fn describe(fault: &csv::Error) -> String {
    match fault.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields, expected {expected_len}"),
        csv::ErrorKind::Utf8 { .. } => "bytes that are no text".to_owned(),
        _ => fault.to_string(),
    }
}

/// Reads a file that must be small.
fn bounded(file: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |cause| SourceError::Read {
        file: file.to_owned(),
        cause,
        remedy: DIRECTORY,
    };
    let mut text = Vec::new();
    let read = File::open(file).and_then(|f| f.take(MAX_TABLE_BYTES + 1).read_to_end(&mut text));
    let bytes = read.map_err(failed)? as u64;
    if bytes > MAX_TABLE_BYTES {
        return Err(SourceError::TooLarge {
            file: file.to_owned(),
            bytes: std::fs::metadata(file).map_or(bytes, |m| m.len()),
            limit: MAX_TABLE_BYTES,
        });
    }
    Ok(text)
}

/// Reads `experiments.csv`; recordings follow one another in the signals.
pub(super) fn read_recordings(dir: &Path) -> Result<Vec<Recording>, SourceError> {
    let columns = &["experiment", "subject", "first_sample", "n_samples"];
    let table = Table::read(dir, "experiments.csv", columns)?;
    let mut recordings: Vec<Recording> = Vec::with_capacity(table.rows.len());
    let mut experiments = BTreeSet::new();
    let mut free = 0;
    for row in &table.rows {
        let recording = Recording {
            experiment: table.id(row, 0)?,
            subject: table.id(row, 1)?,
            first_row: table.number(row, 2, 0, u64::from(u32::MAX))?,
            rows: table.number(row, 3, 1, MAX_ROWS)? as usize,
        };
        let (experiment, first) = (recording.experiment, recording.first_row);
        if !experiments.insert(experiment) {
            return Err(table.broken(row, format!("experiment {experiment} is listed twice")));
        }
        if first < free {
            let fault = format!("recording begins at row {first}, before row {free} is free");
            return Err(table.broken(row, fault));
        }
        free = first + recording.rows as u64;
        recordings.push(recording);
    }
    Ok(recordings)
}

/// Reads `labels.csv`.
pub(super) fn read_segments(
    dir: &Path,
    recordings: &[Recording],
) -> Result<Vec<Segment>, SourceError> {
    let columns = &[
        "experiment",
        "subject",
        "activity",
        "start_sample",
        "end_sample",
    ];
    segments(&Table::read(dir, "labels.csv", columns)?, recordings)
}

/// The segments of a table, in the order of time within each recording; they must not overlap, or windows
/// of two classes could share samples.
pub(super) fn segments(
    table: &Table,
    recordings: &[Recording],
) -> Result<Vec<Segment>, SourceError> {
    // Looked up for every row: a table of 4 MB has hundreds of thousands.
    let places: BTreeMap<(u32, u32), usize> = (recordings.iter().enumerate())
        .map(|(place, r)| ((r.experiment, r.subject), place))
        .collect();
    let mut segments: Vec<(Segment, u64)> = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let (experiment, subject) = (table.id(row, 0)?, table.id(row, 1)?);
        let Some(&recording) = places.get(&(experiment, subject)) else {
            let fault =
                format!("there is no recording of experiment {experiment} of subject {subject}");
            return Err(table.broken(row, fault));
        };
        let activity = table.number(row, 2, 1, ACTIVITIES)? as usize;
        // Published as 1-based and inclusive.
        let end = table.number(row, 4, 1, recordings[recording].rows as u64)?;
        let start = table.number(row, 3, 1, end)? - 1;
        let segment = Segment {
            recording,
            subject,
            class: (activity <= CLASSES.len()).then_some(activity - 1),
            start: start as usize,
            end: end as usize,
        };
        segments.push((segment, row.line));
    }
    segments.sort_by_key(|(s, _)| (s.recording, s.start));
    for pair in segments.windows(2) {
        let ((before, line), (after, other)) = (&pair[0], &pair[1]);
        if before.recording == after.recording && after.start < before.end {
            let fault = format!("segment overlaps the one in line {line}");
            return Err(broken(&table.file, *other, fault));
        }
    }
    Ok(segments.into_iter().map(|(segment, _)| segment).collect())
}

/// Everybody who was recorded, ascending.
pub(super) fn everybody(recordings: &[Recording]) -> Vec<u32> {
    let mut known: Vec<u32> = recordings.iter().map(|r| r.subject).collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// Reads one draw of `draws.csv`.
pub(super) fn read_draw(dir: &Path, draw: u32) -> Result<Draw, SourceError> {
    let table = Table::read(dir, DRAWS, &["draw", "role", "subject"])?;
    let mut found = Draw::default();
    let (mut known, mut drawn) = (Vec::new(), BTreeSet::new());
    for row in &table.rows {
        let (number, subject) = (table.id(row, 0)?, table.id(row, 2)?);
        known.push(number);
        let role = table.text(row, 1);
        if !["cloud", "node", "unseen"].contains(&role) {
            let fault = format!("`role` is `{role}`, expected cloud, node or unseen");
            return Err(table.broken(row, fault));
        }
        if number != draw {
            continue;
        }
        if !drawn.insert(subject) {
            let fault = format!("subject {subject} is in draw {draw} twice");
            return Err(table.broken(row, fault));
        }
        match role {
            "cloud" => found.cloud.push(subject),
            "node" => found.node.push(subject),
            _ => found.unseen.push(subject),
        }
    }
    known.sort_unstable();
    known.dedup();
    if !known.contains(&draw) {
        return Err(SourceError::UnknownDraw {
            file: table.file,
            draw,
            known,
        });
    }
    Ok(found)
}
