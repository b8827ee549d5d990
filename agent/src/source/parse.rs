//! The readers over bytes instead of paths, for those who have samples in memory, and for fuzzing: the
//! very functions that sources of files are made of.

use std::path::Path;

use lamplight_models::samples::Samples;

use super::hapt::published::Triples;
use super::pool::{cifar, csv, folder, idx};
use super::{CsvSpec, SourceError};

/// CIFAR-10's binary records, plain or compressed with gzip.
///
/// # Shapes
/// samples `[3, 32, 32]`, values from 0 to 1
/// # Errors
/// [`SourceError`] naming the record: it breaks off, or its label is above 9.
pub fn cifar10(bytes: &[u8]) -> Result<Samples, SourceError> {
    cifar::parse(bytes)
}

/// A pair of IDX files, images and labels, plain or compressed with gzip.
///
/// # Shapes
/// samples `[1, height, width]`, values from 0 to 1
/// # Errors
/// [`SourceError`]: a header that is none, sizes that disagree, or a file that breaks off.
pub fn idx_pair(images: &[u8], labels: &[u8]) -> Result<Samples, SourceError> {
    idx::parse(images, labels)
}

/// A JPEG or PNG file as `images:` gives it to a model without a rule of its own: the shorter side
/// scaled to `size` pixels, the middle kept.
///
/// # Shapes
/// `[3, size, size]`, values from 0 to 1
/// # Errors
/// An [`std::io::Error`] that says what is wrong with the bytes.
pub fn image(bytes: &[u8], size: u32) -> std::io::Result<Vec<f32>> {
    let to = folder::square(size)
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e.to_string()))?;
    folder::parse(bytes, &to)
}

/// A table of labelled readings, plain or compressed with gzip.
///
/// # Shapes
/// samples `[channels, length]`, values as they are
/// # Errors
/// [`SourceError`] naming the line.
pub fn csv_table(bytes: &[u8], spec: &CsvSpec) -> Result<Samples, SourceError> {
    csv::parse(bytes, spec)
}

/// The publisher's text of an accelerometer or gyroscope: rows of three numbers, as whole steps of a sensor
/// whose step is `step` in the unit of the text.
///
/// # Errors
/// [`SourceError`] naming the line.
pub fn hapt_text(bytes: &[u8], step: f64) -> Result<Vec<[i16; 3]>, SourceError> {
    let mut triples = Triples::over(bytes, Path::new("bytes"), step);
    let mut rows = Vec::new();
    while let Some(row) = triples.next()? {
        rows.push(row);
    }
    Ok(rows)
}
