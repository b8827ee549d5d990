//! IDX files in MNIST's layout: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two of
//! `t10k` (or `test`), compressed with gzip or not. Big-endian: two zero bytes, the type (8 = unsigned byte),
//! the number of dimensions, each dimension as u32, then the values (LeCun et al. 1998).

use std::path::{Path, PathBuf};

use lamplight_models::{graph::Shape, samples::Samples};

use super::records::Records;
use super::{Pool, Set, most_samples, unit};
use crate::source::SourceError;

const REMEDY: &str =
    "point the source at the directory with `train-images-idx3-ubyte` and its companions";
/// Most numbers that memory is taken for before any has arrived: a header may claim more than there is.
/// What lies beyond is grown as it arrives; growing all of it would cost half as much again.
const AT_ONCE: usize = 1 << 16;
/// Longest side of an image.
const MAX_SIDE: u32 = 4096;

#[derive(Debug)]
pub(super) struct Idx {
    images: PathBuf,
    channels: Vec<String>,
    shape: Shape,
    classes: Vec<String>,
    labels: Vec<u32>,
}

/// The first that is there of the usual names; the first of them all when none is.
fn find(dir: &Path, set: Set, what: &str) -> PathBuf {
    let stems: &[&str] = match set {
        Set::Train => &["train"],
        Set::Test => &["t10k", "test"],
    };
    let names = stems
        .iter()
        .flat_map(|stem| ["", ".gz"].map(|end| dir.join(format!("{stem}-{what}-ubyte{end}"))));
    let mut names: Vec<PathBuf> = names.collect();
    let there = names.iter().position(|name| name.exists()).unwrap_or(0);
    names.swap_remove(there)
}

fn broken(file: &Path, fault: String) -> SourceError {
    SourceError::Record {
        file: file.to_owned(),
        record: 0,
        fault,
        remedy: REMEDY,
    }
}

/// Takes the header off a file of unsigned bytes with `N` dimensions.
fn begin<'a, const N: usize>(
    file: &Path,
    open: impl FnOnce(&mut [u8]) -> Result<Records<'a>, SourceError>,
) -> Result<([u32; N], Records<'a>), SourceError> {
    let mut header = vec![0; 4 + 4 * N];
    let records = open(&mut header)?;
    let magic = [0, 0, 8, N as u8];
    if header[..4] != magic {
        let fault = format!("it begins with {:?}, expected {magic:?}", &header[..4]);
        return Err(broken(file, fault));
    }
    let mut dimensions = [0; N];
    for (d, bytes) in dimensions.iter_mut().zip(header[4..].as_chunks().0) {
        *d = u32::from_be_bytes(*bytes);
    }
    Ok((dimensions, records))
}

fn open<const N: usize>(file: &Path) -> Result<([u32; N], Records<'static>), SourceError> {
    begin(file, |header| Records::open(file, REMEDY, header))
}

/// Checks the images' header against the file's length: how many there are, and their shape.
fn shape(file: &Path, dimensions: [u32; 3], bytes: u64) -> Result<(u32, Shape), SourceError> {
    let [count, height, width] = dimensions;
    let most = most_samples(bytes);
    if count as usize > most {
        let fault = format!("it claims {count} images in {bytes} bytes, at most {most} fit");
        return Err(broken(file, fault));
    }
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        let fault = format!("images are {height} x {width}, sides must be 1 to {MAX_SIDE}");
        return Err(broken(file, fault));
    }
    Ok((count, vec![1, height as usize, width as usize]))
}

/// Reads as many labels as there are images.
fn labels(
    file: &Path,
    labelled: u32,
    records: Records<'_>,
    count: u32,
) -> Result<Vec<u32>, SourceError> {
    if labelled != count {
        let fault = format!("{labelled} labels for {count} images");
        return Err(broken(file, fault));
    }
    let mut records = records.of(1);
    let mut labels = Vec::with_capacity(AT_ONCE.min(count as usize));
    let mut record = Vec::new();
    while labels.len() < count as usize && records.next(&mut record)? {
        labels.push(u32::from(record[0]));
    }
    if labels.len() < count as usize {
        let fault = format!("it ends after {} of {count} labels", labels.len());
        return Err(broken(file, fault));
    }
    Ok(labels)
}

/// Reads the images at these places.
fn values(
    file: &Path,
    records: Records<'_>,
    size: usize,
    places: impl ExactSizeIterator<Item = usize>,
) -> Result<Vec<f32>, SourceError> {
    let want = places.len().saturating_mul(size);
    let mut x = Vec::with_capacity(AT_ONCE.min(want));
    let mut records = records.of(size);
    let mut wanted = places.peekable();
    let pixels = |record: &[u8], x: &mut Vec<f32>| x.extend(record.iter().map(|&b| unit(b)));
    records.pick(0, &mut wanted, &mut x, pixels, usize::MAX)?;
    if x.len() == want {
        return Ok(x);
    }
    let fault = format!("it ends after {} images", records.passed());
    Err(broken(file, fault))
}

fn names(labels: &[u32]) -> Vec<String> {
    let classes = labels.iter().max().map_or(0, |&most| most + 1);
    (0..classes).map(|c| c.to_string()).collect()
}

/// All images of one pair of files, plain or compressed with gzip.
///
/// # Shapes
/// samples `[1, height, width]`, values from 0 to 1
/// # Errors
/// [`SourceError`]: a header that is none, sizes that disagree, or a file that breaks off.
pub(in crate::source) fn parse(images: &[u8], of: &[u8]) -> Result<Samples, SourceError> {
    let (file, other) = (Path::new("images"), Path::new("labels"));
    let (header, records) = begin::<3>(file, |h| Records::over(images, file, REMEDY, h))?;
    let (count, shape) = shape(file, header, images.len() as u64)?;
    let ([labelled], numbers) = begin::<1>(other, |h| Records::over(of, other, REMEDY, h))?;
    let y = labels(other, labelled, numbers, count)?;
    Ok(Samples {
        x: values(file, records, shape.iter().product(), 0..y.len())?,
        shape,
        classes: names(&y),
        y,
    })
}

impl Idx {
    pub(super) fn open(dir: &Path, set: Set) -> Result<Self, SourceError> {
        let (images, of) = (find(dir, set, "images-idx3"), find(dir, set, "labels-idx1"));
        let (header, _) = open::<3>(&images)?;
        let bytes = std::fs::metadata(&images).map_or(0, |m| m.len());
        let (count, shape) = shape(&images, header, bytes)?;
        let ([labelled], records) = open::<1>(&of)?;
        let labels = labels(&of, labelled, records, count)?;
        Ok(Self {
            images,
            channels: vec!["intensity [0-1]".to_owned()],
            shape,
            classes: names(&labels),
            labels,
        })
    }
}

impl Pool for Idx {
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
        let (_, records) = open::<3>(&self.images)?;
        values(
            &self.images,
            records,
            self.shape.iter().product(),
            places.iter().copied(),
        )
    }
}
