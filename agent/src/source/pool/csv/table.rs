//! One table as a stream of rows: columns found by name, numbers checked, errors with their line.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::source::spec::CsvSpec;
use crate::source::{SourceError, stream};

pub(super) const REMEDY: &str = "correct the line, or name the right columns with `label=`, `group=` and \
    `columns=` (a table without titles: `header=no`; other separators: `separator=`)";
/// Longest row, bytes: a file without line ends must not fill memory.
const MAX_ROW_BYTES: u64 = 1 << 20;
/// Columns a row may have however small the file. Beyond that a column takes a byte of the file, compressed
/// or not: what packs further was made to take memory, of which each column costs some.
const FREE_COLUMNS: u64 = 4096;
/// Most columns of values.
const MAX_COLUMNS: usize = 65_536;

/// A table being read.
pub(super) struct Table<'a> {
    file: PathBuf,
    reader: csv::Reader<Guarded<'a>>,
    /// Place of the label's column, of the group's, and of the values'.
    label: usize,
    group: Option<usize>,
    values: Vec<usize>,
    /// Names of the columns of values.
    pub(super) names: Vec<String>,
    /// A row read to find the columns that is no row of titles.
    first: bool,
    record: csv::StringRecord,
}

/// Who and what a row is; both empty where the cell is.
pub(super) struct Row<'t> {
    pub(super) label: &'t str,
    pub(super) group: &'t str,
}

impl Table<'static> {
    pub(super) fn open(file: &Path, spec: &CsvSpec) -> Result<Self, SourceError> {
        let bytes = file.metadata().map_or(0, |m| m.len());
        Self::begin(stream::open(file), bytes, file, spec)
    }
}

impl<'a> Table<'a> {
    /// The same of bytes; errors call them `file`.
    pub(super) fn over(bytes: &'a [u8], file: &Path, spec: &CsvSpec) -> Result<Self, SourceError> {
        Self::begin(stream::unpack(bytes), bytes.len() as u64, file, spec)
    }

    /// `bytes` is the file's size.
    fn begin(
        opened: io::Result<Box<dyn Read + 'a>>,
        bytes: u64,
        file: &Path,
        spec: &CsvSpec,
    ) -> Result<Self, SourceError> {
        let stream = opened.map_err(|cause| unreadable(file, cause))?;
        let guarded = Guarded {
            stream,
            passed: 0,
            allowed: 0,
            separator: spec.separator,
            columns: 1,
            most_columns: FREE_COLUMNS.max(bytes),
        };
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(spec.separator)
            .from_reader(guarded);
        let mut table = Self {
            file: file.to_owned(),
            reader,
            label: 0,
            group: None,
            values: Vec::new(),
            names: Vec::new(),
            first: false,
            record: csv::StringRecord::new(),
        };
        if !table.advance()? {
            return Err(table.wrong(1, "the table is empty".to_owned()));
        }
        table.find(spec)?;
        table.first = !spec.header;
        Ok(table)
    }

    /// Finds the columns asked for in the first row.
    fn find(&mut self, spec: &CsvSpec) -> Result<(), SourceError> {
        let count = self.record.len();
        let titles: Vec<String> = (1..=count)
            .zip(&self.record)
            .map(|(number, title)| match spec.header {
                true => title.trim().to_owned(),
                false => number.to_string(),
            })
            .collect();
        let place = |name: &str| -> Result<usize, SourceError> {
            let by_name = titles.iter().position(|title| title == name);
            // Where no title is that number, a number counts columns from 1.
            let by_number = || name.parse::<usize>().ok()?.checked_sub(1);
            let place = by_name.or_else(by_number).filter(|&place| place < count);
            place.ok_or_else(|| {
                let fault = format!("there is no column `{name}`, but {}", listed(&titles));
                self.wrong(1, fault)
            })
        };
        let label = place(&spec.label)?;
        let group = spec.group.as_deref().map(place).transpose()?;
        let values: Vec<usize> = match &spec.columns {
            Some(names) => names
                .iter()
                .map(|n| place(n))
                .collect::<Result<_, SourceError>>()?,
            None => (0..count)
                .filter(|&p| p != label && Some(p) != group)
                .collect(),
        };
        if values.is_empty() || values.len() > MAX_COLUMNS {
            let fault = format!(
                "{} columns of values, expected 1 to {MAX_COLUMNS}",
                values.len()
            );
            return Err(self.wrong(1, fault));
        }
        let names = values.iter().map(|&p| titles[p].clone()).collect();
        (self.label, self.group, self.values, self.names) = (label, group, values, names);
        Ok(())
    }

    /// Reads the next row and appends its values; `None` at the end.
    pub(super) fn next(
        &mut self,
        values: &mut impl Extend<f32>,
    ) -> Result<Option<Row<'_>>, SourceError> {
        // Without titles the row that told the number of columns is the first one.
        if !std::mem::take(&mut self.first) && !self.advance()? {
            return Ok(None);
        }
        let label = self.cell(self.label);
        // A row without a label belongs to no window, so nobody needs its numbers.
        if !label.is_empty() {
            for (i, &place) in self.values.iter().enumerate() {
                let text = self.cell(place);
                let number = text.parse().ok().filter(|v: &f32| v.is_finite());
                let number = number.ok_or_else(|| {
                    let fault =
                        format!("`{}` is `{text}`, expected a finite number", self.names[i]);
                    self.wrong(self.line(), fault)
                })?;
                values.extend([number]);
            }
        }
        let group = self.group.map_or("", |place| self.cell(place));
        Ok(Some(Row { label, group }))
    }

    fn cell(&self, place: usize) -> &str {
        self.record.get(place).unwrap_or_default().trim()
    }

    fn advance(&mut self) -> Result<bool, SourceError> {
        let from = self.reader.position().byte();
        self.reader.get_mut().allowed = from.saturating_add(MAX_ROW_BYTES);
        let read = self.reader.read_record(&mut self.record);
        read.map_err(|fault| {
            let line = fault
                .position()
                .unwrap_or_else(|| self.reader.position())
                .line();
            match fault.into_kind() {
                csv::ErrorKind::Io(cause) if cause.get_ref().is_some_and(|c| c.is::<TooLong>()) => {
                    self.wrong(
                        line,
                        format!("the row is longer than {MAX_ROW_BYTES} bytes"),
                    )
                }
                csv::ErrorKind::Io(cause) if cause.get_ref().is_some_and(|c| c.is::<TooWide>()) => {
                    let most = self.reader.get_ref().most_columns;
                    let fault = format!(
                        "a row has over {most} columns, more than a compressed file of this size may hold"
                    );
                    self.wrong(line, fault)
                }
                csv::ErrorKind::Io(cause) => unreadable(&self.file, cause),
                csv::ErrorKind::UnequalLengths {
                    expected_len, len, ..
                } => self.wrong(line, format!("{len} fields, expected {expected_len}")),
                csv::ErrorKind::Utf8 { .. } => {
                    self.wrong(line, "bytes that are no text".to_owned())
                }
                other => self.wrong(line, format!("{other:?}")),
            }
        })
    }

    /// The line of the row read last, from 1.
    pub(super) fn line(&self) -> u64 {
        self.record.position().map_or(1, csv::Position::line)
    }

    pub(super) fn wrong(&self, line: u64, fault: String) -> SourceError {
        SourceError::Line {
            file: self.file.clone(),
            line,
            fault,
            remedy: REMEDY,
        }
    }
}

fn unreadable(file: &Path, cause: io::Error) -> SourceError {
    SourceError::Read {
        file: file.to_owned(),
        cause,
        remedy: "point the source at a CSV file, or at a directory of such files",
    }
}

/// Titles for an error: the first of them when there are many.
fn listed(titles: &[String]) -> String {
    let shown: Vec<String> = titles.iter().take(20).map(|t| format!("`{t}`")).collect();
    let rest = match titles.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{rest}", shown.join(", "))
}

#[derive(Debug, thiserror::Error)]
#[error("a row is too long")]
struct TooLong;

#[derive(Debug, thiserror::Error)]
#[error("a row is too wide")]
struct TooWide;

/// A stream that ends in an error where one row takes too much of it, or has too many columns.
struct Guarded<'a> {
    stream: Box<dyn Read + 'a>,
    passed: u64,
    /// As far as the row in hand may reach.
    allowed: u64,
    separator: u8,
    /// Columns of the row in hand; a quoted separator counts, too.
    columns: u64,
    most_columns: u64,
}

impl Read for Guarded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.passed > self.allowed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TooLong));
        }
        let n = self.stream.read(buffer)?;
        self.passed += n as u64;
        for &byte in &buffer[..n] {
            if byte == b'\n' || byte == b'\r' {
                self.columns = 1;
            } else if byte == self.separator {
                self.columns += 1;
                if self.columns > self.most_columns {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, TooWide));
                }
            }
        }
        Ok(n)
    }
}
