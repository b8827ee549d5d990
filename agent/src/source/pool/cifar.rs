//! CIFAR-10 in its publisher's binary layout: records of a label byte and 3 x 1024 bytes of red,
//! green and blue, each plane row by row from the top left (Krizhevsky 2009). Files may be
//! compressed with gzip.

use std::path::{Path, PathBuf};

use lamplight_models::{graph::Shape, samples::Samples};

use super::records::Records;
use super::{MAX_SAMPLES, Pool, Set, rgb, unit};
use crate::source::SourceError;

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const RECORD: usize = 1 + PIXELS;
const REMEDY: &str = "point the source at the directory with CIFAR-10's binary batches";
/// Names of the labels, where no `batches.meta.txt` gives them.
const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

#[derive(Debug)]
pub(super) struct Cifar {
    /// Batches, in the order of their names, with the number of records in each.
    files: Vec<(PathBuf, usize)>,
    channels: Vec<String>,
    shape: Shape,
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Cifar {
    /// A file, or a directory whose batches named `…test…` or `…eval…` are the test set and whose
    /// others the training set.
    pub(super) fn open(path: &Path, set: Set) -> Result<Self, SourceError> {
        let failed = |cause| SourceError::Read {
            file: path.to_owned(),
            cause,
            remedy: REMEDY,
        };
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let file = entry.map_err(failed)?.path();
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let batch = name.ends_with(".bin") || name.ends_with(".bin.gz");
                let test = name.contains("test") || name.contains("eval");
                if batch && test == (set == Set::Test) {
                    files.push(file);
                }
            }
            files.sort();
            if files.is_empty() {
                return Err(failed(std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    "it has no such `*.bin` or `*.bin.gz`",
                )));
            }
        } else {
            files.push(path.to_owned());
        }
        let dir = if path.is_dir() {
            Some(path)
        } else {
            path.parent()
        };
        let mut pool = Self {
            files: Vec::new(),
            channels: rgb(),
            shape: vec![3, SIDE, SIDE],
            classes: names(dir),
            labels: Vec::new(),
        };
        for file in files {
            let before = pool.labels.len();
            let records = Records::open(&file, REMEDY, &mut [])?;
            labels(records, &file, pool.classes.len(), &mut pool.labels)?;
            pool.files.push((file, pool.labels.len() - before));
        }
        Ok(pool)
    }
}

/// Appends the label of every record.
fn labels(
    records: Records<'_>,
    file: &Path,
    classes: usize,
    labels: &mut Vec<u32>,
) -> Result<(), SourceError> {
    let mut records = records.of(RECORD);
    let mut record = Vec::with_capacity(RECORD);
    while records.next(&mut record)? {
        let label = u32::from(record[0]);
        let fault = if label as usize >= classes {
            format!("its label is {label}, expected below {classes}")
        } else if labels.len() == MAX_SAMPLES {
            format!("there are more than {MAX_SAMPLES} records")
        } else {
            labels.push(label);
            continue;
        };
        return Err(SourceError::Record {
            file: file.to_owned(),
            record: records.passed() - 1,
            fault,
            remedy: REMEDY,
        });
    }
    Ok(())
}

/// All records of one batch, plain or compressed with gzip.
///
/// # Shapes
/// samples `[3, 32, 32]`, values from 0 to 1
/// # Errors
/// [`SourceError`] naming the record: it breaks off, or its label is above 9.
pub(in crate::source) fn parse(bytes: &[u8]) -> Result<Samples, SourceError> {
    let file = Path::new("bytes");
    let records = || Records::over(bytes, file, REMEDY, &mut []);
    let mut y = Vec::new();
    labels(records()?, file, CLASSES.len(), &mut y)?;
    let mut x = Vec::with_capacity(y.len() * PIXELS);
    let mut all = (0..y.len()).peekable();
    records()?
        .of(RECORD)
        .pick(0, &mut all, &mut x, pixels, y.len())?;
    Ok(Samples {
        shape: vec![3, SIDE, SIDE],
        x,
        y,
        classes: CLASSES.map(str::to_owned).to_vec(),
    })
}

fn pixels(record: &[u8], x: &mut Vec<f32>) {
    x.extend(record[1..].iter().map(|&b| unit(b)));
}

/// Class names from the directory's table, if it has a usable one.
fn names(dir: Option<&Path>) -> Vec<String> {
    let read = dir.and_then(|dir| {
        let file = dir.join("batches.meta.txt");
        let size = std::fs::metadata(&file).ok()?.len();
        (size < 4096).then(|| std::fs::read_to_string(file).ok())?
    });
    let lines: Vec<String> = read
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.len() == CLASSES.len() {
        lines
    } else {
        CLASSES.map(str::to_owned).to_vec()
    }
}

impl Pool for Cifar {
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
        let mut x = Vec::with_capacity(places.len() * PIXELS);
        let mut wanted = places.iter().copied().peekable();
        let mut place = 0;
        for (file, count) in &self.files {
            let end = place + count;
            if wanted.peek().is_some_and(|&next| next < end) {
                let mut records = Records::open(file, REMEDY, &mut [])?.of(RECORD);
                records.pick(place, &mut wanted, &mut x, pixels, end)?;
            }
            place = end;
        }
        if x.len() == places.len() * PIXELS {
            return Ok(x);
        }
        // Shorter now than when the labels were read.
        let file = self.files.first().map(|(file, _)| file.clone());
        Err(SourceError::Changed {
            file: file.unwrap_or_default(),
        })
    }
}
