//! Tables of labelled sensor readings, as people keep them: CSV files, compressed with gzip or not.
//!
//! ```text
//!   a row is a time step (window=128)            a row is a whole window (wide=6)
//!     user,acc_x,acc_y,acc_z,label                 label,x0,x1,…,x127,y0,y1,…,y127,…
//!     5,0.01,-0.02,0.98,walking                    walking,0.01,0.02,…
//! ```
//!
//! Rows that follow one another in one file with one label and one group are a run; a window lies wholly
//! inside a run, so it never crosses recordings or labels. Rows without a label end a run and are left
//! out. Files are read as streams, twice: once for labels, checking every number, and once for the
//! values of this part's windows.

mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lamplight_models::{graph::Shape, model::MAX_NAME_BYTES, samples::Samples};

use self::table::Table;
use super::{MAX_SAMPLES, Pool, most_samples};
use crate::source::SourceError;
use crate::source::spec::{CsvRows, CsvSpec};

/// Most different labels; more is a sign of another column.
const MAX_CLASSES: usize = 1000;
/// Most different groups.
const MAX_GROUPS: usize = 100_000;
/// Most values in a window.
const MAX_WINDOW_VALUES: usize = 1 << 24;
/// Most files of a directory.
const MAX_FILES: usize = 100_000;

/// Windows of one table or of a directory of tables.
#[derive(Debug)]
pub(super) struct Csv {
    files: Vec<PathBuf>,
    spec: CsvSpec,
    shape: Shape,
    channels: Vec<String>,
    classes: Vec<String>,
    labels: Vec<u32>,
    groups: Option<Vec<u32>>,
    /// First row of each window, over all files.
    starts: Vec<u64>,
}

/// One window, as it passes.
struct Window<'w> {
    label: u32,
    group: u32,
    /// First row, over all files.
    start: u64,
    /// Values, `[channels, length]`.
    values: Values<'w>,
}

/// Values of a window as they came.
enum Values<'w> {
    /// Step by step, each with all channels.
    Steps(&'w [f32], usize),
    /// Channel by channel.
    Channels(&'w [f32]),
}

impl Values<'_> {
    fn append(&self, x: &mut Vec<f32>) {
        match *self {
            Self::Channels(values) => x.extend_from_slice(values),
            Self::Steps(values, channels) => {
                for channel in 0..channels {
                    x.extend(values.iter().skip(channel).step_by(channels));
                }
            }
        }
    }
}

/// Names, numbered as they come.
#[derive(Debug, Default)]
struct Names {
    numbers: BTreeMap<String, u32>,
}

impl Names {
    /// The number of a name, unless it is the one too many.
    fn number(&mut self, name: &str, most: usize) -> Option<u32> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        let number = self.numbers.len();
        if number == most || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return None;
        }
        self.numbers.insert(name.to_owned(), number as u32);
        Some(number as u32)
    }

    /// Names in the order of whole numbers where all are such, else of the alphabet; and the place there
    /// of each number given out.
    fn sorted(self) -> (Vec<String>, Vec<u32>) {
        let mut names: Vec<(String, u32)> = self.numbers.into_iter().collect();
        let whole = |name: &str| name.parse::<i64>().ok();
        if names.iter().all(|(name, _)| whole(name).is_some()) {
            names.sort_by_key(|(name, _)| whole(name));
        }
        let mut places = vec![0; names.len()];
        for (place, &(_, number)) in names.iter().enumerate() {
            places[number as usize] = place as u32;
        }
        (names.into_iter().map(|(name, _)| name).collect(), places)
    }
}

/// What is known across the tables of one source.
#[derive(Default)]
struct Scan {
    labels: Names,
    groups: Names,
    /// Rows passed in all tables.
    rows: u64,
    /// Names of the first table's columns of values.
    columns: Option<Vec<String>>,
}

impl Scan {
    /// Passes every window of one table, whose number is `file`, to `visit`.
    fn table(
        &mut self,
        table: &mut Table<'_>,
        file: u32,
        spec: &CsvSpec,
        by_file: bool,
        visit: &mut dyn FnMut(Window<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, SourceError> {
        let columns = table.names.len();
        match &self.columns {
            None => self.columns = Some(table.names.clone()),
            Some(first) if *first != table.names => {
                let fault = format!("columns {:?}, the file before has {first:?}", table.names);
                return Err(table.wrong(1, fault));
            }
            Some(_) => {}
        }
        let (length, stride, per_row) = match spec.rows {
            CsvRows::Steps { window, stride } => (window, stride, columns),
            CsvRows::Windows { channels } => {
                if !columns.is_multiple_of(channels) {
                    let fault = format!("{columns} columns of values are no {channels} channels");
                    return Err(table.wrong(1, fault));
                }
                (1, 1, columns)
            }
        };
        if length.saturating_mul(columns) > MAX_WINDOW_VALUES {
            let fault = format!("a window of {length} rows of {columns} values is too large");
            return Err(table.wrong(1, fault));
        }
        let mut run: Option<(u32, u32)> = None;
        // Values of the last `length` rows of the run, and how many rows it has.
        let (mut last, mut rows) = (VecDeque::new(), 0);
        while let Some(row) = table.next(&mut last)? {
            self.rows += 1;
            if row.label.is_empty() {
                run = None;
                last.clear();
                continue;
            }
            let label = self.labels.number(row.label, MAX_CLASSES);
            let group = if by_file {
                Some(file)
            } else {
                self.groups.number(row.group, MAX_GROUPS)
            };
            let (Some(label), Some(group)) = (label, group) else {
                let fault = match label {
                    None => many("labels", MAX_CLASSES, row.label),
                    Some(_) => many("groups", MAX_GROUPS, row.group),
                };
                return Err(table.wrong(table.line(), fault));
            };
            let chosen = by_file || chosen(spec, row.group);
            if run != Some((label, group)) {
                run = Some((label, group));
                // All but this row belongs to the run before.
                last.drain(..last.len() - per_row);
                rows = 0;
            }
            rows += 1;
            if last.len() > length * per_row {
                last.drain(..per_row);
            }
            if !chosen || rows < length || !(rows - length).is_multiple_of(stride) {
                continue;
            }
            let values = last.make_contiguous();
            let window = Window {
                label,
                group,
                start: self.rows - length as u64,
                values: match spec.rows {
                    CsvRows::Steps { .. } => Values::Steps(values, columns),
                    CsvRows::Windows { .. } => Values::Channels(values),
                },
            };
            if visit(window).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn many(what: &str, most: usize, name: &str) -> String {
    let name: String = name.chars().take(40).collect();
    format!(
        "{name:?} is no name: there are {most} {what} already, or it has more than {MAX_NAME_BYTES} \
         bytes or a control character"
    )
}

/// There is more to read than is read of files of this size. Every row of a plain file is long enough
/// for a window of its own, so below the bound for all files it is one that is compressed very far.
fn too_many(file: &Path, line: u64, most: usize, rows: CsvRows) -> SourceError {
    let (why, remedy) = match (most == MAX_SAMPLES, rows) {
        (true, CsvRows::Steps { .. }) => (
            "the most of one source",
            "raise `stride=`, or point the source at fewer files",
        ),
        (true, CsvRows::Windows { .. }) => (
            "the most of one source",
            "point the source at a table with fewer rows, or at fewer files",
        ),
        (false, CsvRows::Steps { .. }) => (
            "as many as compressed files of this size may hold",
            "raise `stride=`, or unpack the files",
        ),
        (false, CsvRows::Windows { .. }) => (
            "as many as compressed files of this size may hold",
            "unpack the files",
        ),
    };
    SourceError::Line {
        file: file.to_owned(),
        line,
        fault: format!("there are more than {most} windows, {why}"),
        remedy,
    }
}

fn chosen(spec: &CsvSpec, group: &str) -> bool {
    let groups = spec.groups.as_ref();
    groups.is_none_or(|groups| groups.iter().any(|g| g == group))
}

/// Shape of a window, and its channels.
fn shape(spec: &CsvSpec, columns: &[String]) -> (Shape, Vec<String>) {
    match spec.rows {
        CsvRows::Steps { window, .. } => (vec![columns.len(), window], columns.to_vec()),
        CsvRows::Windows { channels } => {
            let names = (1..=channels).map(|c| format!("channel {c}")).collect();
            (vec![channels, columns.len() / channels], names)
        }
    }
}

/// The tables of a path: itself, or every `.csv` and `.csv.gz` of a directory, in the order of names.
fn tables(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |cause| SourceError::Read {
        file: path.to_owned(),
        cause,
        remedy: "point the source at a CSV file, or at a directory of such files",
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        let table = name.ends_with(".csv") || name.ends_with(".csv.gz");
        if table && !name.starts_with('.') {
            files.push(entry.path());
        }
    }
    files.sort();
    if files.is_empty() || files.len() > MAX_FILES {
        let fault = format!(
            "it has {} CSV files, expected 1 to {MAX_FILES}",
            files.len()
        );
        return Err(failed(std::io::Error::other(fault)));
    }
    Ok(files)
}

impl Csv {
    /// Reads all tables once: their windows' labels and groups. A directory's files are groups, unless a
    /// column is named.
    pub(super) fn open(path: &Path, spec: &CsvSpec, parted: bool) -> Result<Self, SourceError> {
        let files = tables(path)?;
        let by_file = files.len() > 1 && spec.group.is_none();
        let grouped = by_file || spec.group.is_some();
        if let CsvRows::Steps { window, stride } = spec.rows
            && parted
            && !grouped
            && stride < window
        {
            return Err(SourceError::Overlap { stride, window });
        }
        let mut csv = Self {
            files,
            spec: spec.clone(),
            shape: Shape::default(),
            channels: Vec::new(),
            classes: Vec::new(),
            labels: Vec::new(),
            groups: None,
            starts: Vec::new(),
        };
        let sizes = csv
            .files
            .iter()
            .map(|f| f.metadata().map_or(0, |m| m.len()));
        let most = most_samples(sizes.fold(0, u64::saturating_add));
        let mut groups = Vec::new();
        let (labels, starts) = (&mut csv.labels, &mut csv.starts);
        let mut scan = Scan::default();
        let mut visit = |window: Window<'_>| {
            labels.push(window.label);
            starts.push(window.start);
            if grouped {
                groups.push(window.group);
            }
            match labels.len() > most {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        for (number, file) in (0..).zip(&csv.files) {
            let mut table = Table::open(file, spec)?;
            let went = scan.table(&mut table, number, spec, by_file, &mut visit)?;
            if went.is_break() {
                return Err(too_many(file, table.line(), most, spec.rows));
            }
        }
        let unknown = spec.groups.iter().flatten();
        let unknown = unknown.filter(|g| !scan.groups.numbers.contains_key(*g));
        if let Some(group) = unknown.min() {
            let known: Vec<String> = scan.groups.numbers.into_keys().take(50).collect();
            return Err(SourceError::UnknownGroup {
                file: path.to_owned(),
                group: group.clone(),
                known: known.join(", "),
            });
        }
        if csv.labels.is_empty() {
            return Err(SourceError::NoWindow {
                file: path.to_owned(),
                rows: scan.rows,
            });
        }
        (csv.shape, csv.channels) = shape(spec, &scan.columns.unwrap_or_default());
        let (classes, places) = scan.labels.sorted();
        csv.labels.iter_mut().for_each(|l| *l = places[*l as usize]);
        csv.classes = classes;
        csv.groups = grouped.then_some(groups);
        Ok(csv)
    }
}

/// All windows of one table, plain or compressed with gzip.
///
/// # Shapes
/// samples `[channels, length]`, values as they are
/// # Errors
/// [`SourceError`] naming the line.
pub(in crate::source) fn parse(bytes: impl Read, spec: &CsvSpec) -> Result<Samples, SourceError> {
    let mut scan = Scan::default();
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let mut table = Table::over(bytes, Path::new("bytes"), spec)?;
    let _ = scan.table(&mut table, 0, spec, false, &mut |window| {
        window.values.append(&mut x);
        y.push(window.label);
        ControlFlow::Continue(())
    })?;
    let (shape, _) = shape(spec, &scan.columns.unwrap_or_default());
    let (classes, places) = scan.labels.sorted();
    y.iter_mut().for_each(|l| *l = places[*l as usize]);
    Ok(Samples {
        shape,
        x,
        y,
        classes,
    })
}

impl Pool for Csv {
    fn channels(&self) -> &[String] {
        &self.channels
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, places: &[usize]) -> Result<Vec<f32>, SourceError> {
        let by_file = self.files.len() > 1 && self.spec.group.is_none();
        let mut x = Vec::new();
        let mut wanted = places.iter().copied().peekable();
        let mut place = 0;
        let mut moved = false;
        let mut scan = Scan::default();
        let mut visit = |window: Window<'_>| {
            if wanted.next_if_eq(&place).is_some() {
                moved |= window.start != self.starts[place];
                window.values.append(&mut x);
            }
            place += 1;
            match wanted.peek() {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            }
        };
        for (number, file) in (0..).zip(&self.files) {
            if places.is_empty() {
                break;
            }
            let mut table = Table::open(file, &self.spec)?;
            let went = scan.table(&mut table, number, &self.spec, by_file, &mut visit)?;
            if went.is_break() {
                break;
            }
        }
        if !moved && x.len() == places.len() * self.shape.iter().product::<usize>() {
            return Ok(x);
        }
        Err(SourceError::Changed {
            file: self.files.first().cloned().unwrap_or_default(),
        })
    }

    fn sampling_rate_hz(&self) -> Option<f64> {
        self.spec.rate_hz
    }

    fn groups(&self) -> Option<&[u32]> {
        self.groups.as_deref()
    }

    fn overlap(&self, a: usize, b: usize) -> bool {
        match self.spec.rows {
            CsvRows::Steps { window, .. } => {
                self.starts[a].abs_diff(self.starts[b]) < window as u64
            }
            CsvRows::Windows { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
